//! How a status is kept: whole, or, where it would grow too large, with the arguments of its agents in records beside it.
//!
//! The records are written first and never change, and their names are functions of what is in them: whichever controller writes the same
//! plan writes the same records, and a status never names one that is not there yet (invariant 4).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use netloss_api::{
    ChaosExperiment, ChaosExperimentPlan, ChaosExperimentPlanSpec, ChaosExperimentStatus, PlannedArguments, PodStatus, stable_hash,
};
use std::collections::{BTreeMap, BTreeSet};

/// A status of more bytes has its arguments elsewhere: what is seen later has to fit into 256 KiB with it. That leaves 1 KiB for what is observed of each of
/// a hundred pods.
pub(crate) const LARGEST_WHOLE: usize = 150 * 1024;

/// Arguments of one record, in bytes: with its metadata less than the 256 KiB that a status may have, and far below the 1.5 MiB of etcd. Larger records
/// would be fewer writes, but each is read whole.
const LARGEST_RECORD: usize = 200 * 1024;

/// In bytes, as the API server gets it.
#[must_use]
pub fn size(status: &ChaosExperimentStatus) -> usize {
    serde_json::to_vec(status).map_or(usize::MAX, |bytes| bytes.len())
}

/// The status with the arguments of its agents left out.
pub(crate) fn without_arguments(mut status: ChaosExperimentStatus) -> ChaosExperimentStatus {
    status.pods.iter_mut().for_each(|pod| pod.argv.clear());
    status
}

/// The form in which a status is kept, and the records that have to be there before it is written.
#[must_use]
pub fn split(experiment: &ChaosExperiment, mut status: ChaosExperimentStatus) -> (ChaosExperimentStatus, Vec<ChaosExperimentPlan>) {
    // Those that were read from a record are in it.
    status.pods.iter_mut().filter(|pod| pod.plan.is_some()).for_each(|pod| pod.argv.clear());
    if size(&status) <= LARGEST_WHOLE {
        return (status, Vec::new());
    }
    let mut plans = Vec::new();
    let mut pods: Vec<&mut PodStatus> = status.pods.iter_mut().filter(|pod| !pod.argv.is_empty()).collect();
    let mut rest = pods.as_mut_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|pod| {
            bytes += pod.argv.iter().map(|word| word.len() + 3).sum::<usize>();
            bytes <= LARGEST_RECORD
        });
        let count = fits.count().max(1);
        let (these, others) = rest.split_at_mut(count);
        let arguments = these.iter_mut().map(|pod| PlannedArguments {
            container: pod.container.clone(),
            uid: pod.uid.clone(),
            argv: std::mem::take(&mut pod.argv),
        });
        let plan = record(experiment, status.run.unwrap_or_default(), arguments.collect());
        for pod in these {
            pod.plan.clone_from(&plan.metadata.name);
        }
        plans.push(plan);
        rest = others;
    }
    (status, plans)
}

/// Records of one run: a run has at most a hundred pods (`spec.count`), and a record has one of them or more.
const MOST: usize = 100;

/// The records that have arguments of these pods of the status which are not in it. Names that are not of a record of the experiment with this uid, and more
/// of them than a run has, were written by somebody else: they are not asked for.
#[must_use]
pub fn missing(uid: &str, status: &ChaosExperimentStatus, wanted: impl Fn(&PodStatus) -> bool) -> BTreeSet<String> {
    let own = prefix(uid);
    let pods = status.pods.iter().filter(|pod| pod.argv.is_empty() && wanted(pod));
    let names: BTreeSet<String> = pods.filter_map(|pod| pod.plan.clone()).filter(|name| name.starts_with(&own)).collect();
    names.into_iter().take(MOST).collect()
}

/// What the names of an experiment's records begin with.
fn prefix(uid: &str) -> String {
    format!("{uid}-r")
}

/// Puts in the arguments that a record has.
pub fn hydrate(status: &mut ChaosExperimentStatus, plan: &ChaosExperimentPlan) {
    let name = plan.metadata.name.as_deref();
    for pod in status.pods.iter_mut().filter(|pod| pod.plan.is_some() && pod.plan.as_deref() == name) {
        let of_pod = plan.spec.pods.iter().find(|planned| planned.uid == pod.uid && planned.container == pod.container);
        if let Some(planned) = of_pod {
            pod.argv.clone_from(&planned.argv);
        }
    }
}

/// Has the status name the record `from` by its other name `to`.
pub fn rename(status: &mut ChaosExperimentStatus, from: &str, to: &str) {
    for pod in status.pods.iter_mut().filter(|pod| pod.plan.as_deref() == Some(from)) {
        pod.plan = Some(to.to_owned());
    }
}

/// Whether a record that is there is `plan`: of the same owner, with the same content, and not about to go.
#[must_use]
pub fn is_same(there: &ChaosExperimentPlan, plan: &ChaosExperimentPlan) -> bool {
    there.spec == plan.spec
        && there.metadata.owner_references == plan.metadata.owner_references
        && there.metadata.deletion_timestamp.is_none()
}

/// The records of the experiment with this uid that `before` names and `after` does not. A name of another experiment's record in a status
/// was written by somebody else, and is left alone.
#[must_use]
pub fn unused(uid: &str, before: Option<&ChaosExperimentStatus>, after: &ChaosExperimentStatus) -> BTreeSet<String> {
    let names = |status: &ChaosExperimentStatus| -> BTreeSet<String> { status.pods.iter().filter_map(|pod| pod.plan.clone()).collect() };
    let (used, own) = (names(after), prefix(uid));
    before.map(names).unwrap_or_default().into_iter().filter(|name| name.starts_with(&own) && !used.contains(name)).collect()
}

fn record(experiment: &ChaosExperiment, run: u32, pods: Vec<PlannedArguments>) -> ChaosExperimentPlan {
    let (name, uid) = (experiment.name_any(), experiment.uid().unwrap_or_default());
    let words: Vec<&str> =
        pods.iter().flat_map(|pod| [pod.container.as_str(), &pod.uid].into_iter().chain(pod.argv.iter().map(String::as_str))).collect();
    let hash = stable_hash(&words);
    let mut plan =
        ChaosExperimentPlan::new(&format!("{uid}-r{run}-{hash:016x}"), ChaosExperimentPlanSpec { experiment: name.clone(), run, pods });
    plan.metadata.namespace = experiment.namespace();
    plan.metadata.labels = Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "netloss".to_owned())]));
    // Gone with the experiment, whatever becomes of the controller.
    plan.metadata.owner_references = Some(vec![OwnerReference {
        api_version: ChaosExperiment::api_version(&()).into_owned(),
        kind: ChaosExperiment::kind(&()).into_owned(),
        name,
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{entry, spec};

    fn experiment() -> ChaosExperiment {
        let mut experiment = ChaosExperiment::new("x", spec());
        (experiment.metadata.namespace, experiment.metadata.uid) = (Some("n".to_owned()), Some("uid".to_owned()));
        experiment
    }

    /// A status of so many pods whose agents get so many bytes of arguments each.
    fn status(pods: usize, bytes: usize) -> ChaosExperimentStatus {
        let pod =
            |n: usize| PodStatus { uid: format!("pod-{n}"), argv: vec!["run".to_owned(), format!("{n}{}", "x".repeat(bytes))], ..entry() };
        ChaosExperimentStatus { run: Some(3), pods: (0..pods).map(pod).collect(), ..ChaosExperimentStatus::default() }
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let small = status(10, 100);
        assert_eq!(split(&experiment(), small.clone()), (small, Vec::new()));
    }

    #[test]
    fn what_does_not_fit_is_found_in_the_records_that_it_names() {
        let whole = status(100, 8000);
        let (stored, plans) = split(&experiment(), whole.clone());
        assert!(size(&stored) < 64 * 1024 && plans.len() == 4, "{} {}", size(&stored), plans.len());
        assert!(plans.iter().all(|plan| serde_json::to_vec(plan).unwrap().len() < 256 * 1024));
        let named = missing(&experiment().uid().unwrap(), &stored, |_| true);
        assert_eq!(named, plans.iter().filter_map(|plan| plan.metadata.name.clone()).collect());
        let mut read = stored.clone();
        for plan in &plans {
            hydrate(&mut read, plan);
        }
        assert_eq!(without_arguments(read.clone()), stored);
        let argv = |status: &ChaosExperimentStatus| status.pods.iter().map(|pod| pod.argv.clone()).collect::<Vec<_>>();
        assert_eq!(argv(&read), argv(&whole));
        assert_eq!(split(&experiment(), read), (stored.clone(), Vec::new()), "what was read is written again as it was");
        assert_eq!(split(&experiment(), whole), (stored, plans), "the same plan has the same records");
    }

    #[test]
    fn names_that_others_wrote_are_not_asked_for() {
        let uid = experiment().uid().unwrap();
        let named = |plan: String| PodStatus { argv: Vec::new(), plan: Some(plan), ..entry() };
        let foreign = ["", "a b", "../x", "other-r1-0"].map(|name| named(name.to_owned()));
        let status = |pods| ChaosExperimentStatus { pods, ..ChaosExperimentStatus::default() };
        assert!(missing(&uid, &status(foreign.to_vec()), |_| true).is_empty());
        let many = (0..1000).map(|n| named(format!("{uid}-r1-{n}"))).collect();
        assert_eq!(missing(&uid, &status(many), |_| true).len(), MOST);
    }

    #[test]
    fn one_pod_that_is_too_large_has_a_record_of_its_own() {
        assert_eq!(split(&experiment(), status(2, LARGEST_RECORD)).1.len(), 2);
    }

    #[test]
    fn another_run_leaves_the_records_of_the_one_before() {
        let (before, plans) = split(&experiment(), status(100, 8000));
        assert_eq!(unused("uid", Some(&before), &before).len(), 0);
        assert_eq!(unused("uid", Some(&before), &status(1, 10)).len(), plans.len());
        assert!(unused("uid", None, &before).is_empty());
        assert!(unused("another", Some(&before), &status(1, 10)).is_empty(), "a forged name deletes no record of another experiment");
    }
}
