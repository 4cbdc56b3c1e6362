//! `rerun`: one more run of an unchanged experiment.

use super::{
    connect::Cluster,
    connect::FIELD_MANAGER,
    error::Error,
    output::{OutputArgs, note, print},
    run::{AROUND, AttentionArgs},
    verdict,
};
use clap::Args;
use jiff::Timestamp;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, Phase, RUN_REQUESTED_ANNOTATION};
use netloss_contract::Ttl;
use netloss_core::machine::run_request;
use serde_json::json;
use std::time::Duration;

/// Run an experiment once more, as it is
#[derive(Debug, Args)]
pub(super) struct RerunArgs {
    /// Name of the experiment
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    attention: AttentionArgs,

    /// Wait no longer than this; left out it is what is left of the run under way, the duration and five minutes
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Ttl>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: RerunArgs, cluster: &Cluster) -> Result<(), Error> {
    let before = cluster.experiment(&args.name).await?;
    if !before.spec.action.is_served() {
        return Err(Error::Failed(format!(
            "{}: spec.action is not pod-network-loss, which netloss serves: no run was requested",
            args.name
        )));
    }
    let now = Timestamp::now();
    let object = request(cluster, &before, now).await?;
    let (name, format) = (&args.name, args.output.output);
    if format.is_table() {
        print(&format!("chaosexperiment.chaos.gushchin.dev/{name} run requested\n"))?;
    }
    if let Some(why) = held_back(&before) {
        note(&why);
    }
    let limit = args.timeout.map_or_else(|| longest(&before, now), Ttl::duration);
    args.attention.follow(cluster, &object, limit, |object| is_over(object, now), format).await
}

/// Writes the annotation, with the rights that an edit of the experiment takes.
async fn request(cluster: &Cluster, object: &ChaosExperiment, now: Timestamp) -> Result<ChaosExperiment, Error> {
    let name = object.name_any();
    // The uid, so that a later object of the same name is left alone.
    let change = json!({ "metadata": { "uid": object.uid(), "annotations": { RUN_REQUESTED_ANNOTATION: now.to_string() } } });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = cluster.here::<ChaosExperiment>().patch(&name, &params, &Patch::Merge(&change)).await;
    patched.map_err(Error::api(format!("requesting a run of ChaosExperiment \"{name}\" in namespace \"{}\"", cluster.namespace)))
}

/// Why the run does not begin at once, as far as the experiment itself says.
fn held_back(object: &ChaosExperiment) -> Option<String> {
    let status = object.status.as_ref();
    if object.spec.paused == Some(true) {
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        return Some(format!(
            "spec.paused is true: the run begins when it no longer is (kubectl patch chaos {name} -n {namespace} --type merge -p \
             '{{\"spec\":{{\"paused\":false}}}}')"
        ));
    }
    let goes_on = status.is_some_and(|status| status.is_active() || status.next_retry_time.is_some());
    goes_on.then(|| "the run under way goes on: another one begins when it has ended".to_owned())
}

/// Whether the run that was requested then, or one that was requested later, is over. Times of a schedule may follow.
fn is_over(object: &ChaosExperiment, requested: Timestamp) -> bool {
    let Some(status) = &object.status else { return false };
    let handled = status.run_requested_at.as_deref().and_then(|value| run_request(value).ok());
    handled.is_some_and(|handled| handled >= requested) && verdict::is_at_rest(object) && status.phase.is_some_and(Phase::is_final)
}

/// How long what is under way, and the requested run after it, may take.
fn longest(object: &ChaosExperiment, now: Timestamp) -> Duration {
    let duration = object.spec.duration.as_deref().and_then(|text| text.parse::<Ttl>().ok()).map_or(Ttl::MAX, Ttl::duration);
    let ends = object.status.iter().flat_map(ChaosExperimentStatus::open_pods).map(|pod| pod.deadline.0).max();
    let left = ends.and_then(|end| Duration::try_from(end.duration_since(now)).ok()).unwrap_or_default();
    left + duration + AROUND
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::{at, entry, spec};

    fn object(status: ChaosExperimentStatus) -> ChaosExperiment {
        let mut object = ChaosExperiment::new("x", spec());
        object.status = Some(status);
        object
    }

    #[test]
    fn the_requested_run_is_over_and_not_the_one_before() {
        let status = |phase, requested: Option<i64>| ChaosExperimentStatus {
            phase: Some(phase),
            run_requested_at: requested.map(|second| at(second).to_string()),
            next_scheduled_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100))),
            ..ChaosExperimentStatus::default()
        };
        let is_over = |status| is_over(&object(status), at(10));
        assert!(!is_over(status(Phase::Completed, None)) && !is_over(status(Phase::Completed, Some(9))));
        assert!(is_over(status(Phase::Completed, Some(10))) && is_over(status(Phase::Failed, Some(10))));
        assert!(is_over(status(Phase::Completed, Some(11))), "a later request stands for this one");
        let open = ChaosExperimentStatus { pods: vec![entry()], ..status(Phase::Running, Some(10)) };
        assert!(!is_over(open) && !is_over(status(Phase::Pending, Some(10))));
    }

    #[test]
    fn what_holds_the_run_back_is_said() {
        assert_eq!(held_back(&object(ChaosExperimentStatus::default())), None);
        let open = object(ChaosExperimentStatus { pods: vec![entry()], ..ChaosExperimentStatus::default() });
        assert_eq!(held_back(&open).as_deref(), Some("the run under way goes on: another one begins when it has ended"));
        assert_eq!(longest(&open, at(-20)), Duration::from_secs(20 + 30 + 300));
        let mut paused = open;
        paused.spec.paused = Some(true);
        assert!(held_back(&paused).unwrap().starts_with("spec.paused is true: the run begins when it no longer is"));
    }
}
