//! The record of a run: what goes into it, and its name.

use crate::{refusal::RefusalReason, sanitize::brief};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{ResourceExt, core::ObjectMeta};
use netloss_api::{
    ACCEPTED, AS_REQUESTED, AffectedResource, Audit, ChaosExperiment, ChaosExperimentHistory, ChaosExperimentHistorySpec,
    ChaosExperimentStatus, EXPERIMENT_LABEL, ErrorDetails, Execution, ExperimentRef, FailureReason, NAME_LABEL, Outcome, PREFLIGHT, Phase,
    PodStatus, REMAINS_LABEL, RunResult, SHORTENED_ANNOTATION, stable_hash,
};
use std::collections::BTreeMap;

/// Loss that a run may have left, by its record, which outlives its experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Remnant {
    /// Which experiment.
    pub experiment: ExperimentRef,
    /// In how many pods.
    pub pods: usize,
}

/// How a run that is over went.
#[must_use]
pub fn result(status: &ChaosExperimentStatus) -> RunResult {
    let as_asked = |pod: &PodStatus| matches!(pod.outcome, Some(Outcome::Clean));
    if status.stopping.is_some() {
        RunResult::Cancelled
    } else if status.phase == Some(Phase::Failed) {
        RunResult::Failure
    } else if status.condition(AS_REQUESTED).is_some_and(|is| is.status == "False") {
        RunResult::Partial
    } else if status.pods.iter().all(as_asked) {
        RunResult::Success
    } else {
        RunResult::Partial
    }
}

/// Of what kind that is which a failed run failed of.
#[must_use]
pub fn failure_reason(status: &ChaosExperimentStatus) -> FailureReason {
    let refused_for =
        |reason: RefusalReason| status.condition(ACCEPTED).is_some_and(|is| is.status == "False" && is.reason == reason.to_string());
    let any = |outcome| status.pods.iter().any(|pod| pod.outcome == Some(outcome));
    if status.condition(PREFLIGHT).is_some_and(|is| is.status == "False") {
        FailureReason::PermissionDenied
    } else if any(Outcome::Failed) {
        FailureReason::ExecutionError
    } else if any(Outcome::NeverStarted) {
        FailureReason::Timeout
    } else if refused_for(RefusalReason::NoEligiblePods) {
        FailureReason::ResourceNotFound
    } else if status.pods.is_empty() {
        FailureReason::ValidationError
    } else {
        FailureReason::Unknown
    }
}

/// Whether `after` says that a run is over, and `before` did not.
#[must_use]
pub fn is_over(before: Option<&ChaosExperimentStatus>, after: &ChaosExperimentStatus) -> bool {
    let run = |status: &ChaosExperimentStatus| (status.run, status.attempt, status.completed_at.clone());
    after.completed_at.is_some() && before.is_none_or(|before| run(before) != run(after))
}

/// Whether `after` says that a run is over or paused, and `before` did not. A paused one is recorded too, as its experiment may be deleted at
/// once: it has no finalizer while nothing is under way in a pod.
#[must_use]
pub fn is_to_be_recorded(before: Option<&ChaosExperimentStatus>, after: &ChaosExperimentStatus) -> bool {
    is_over(before, after) || (is_paused(after) && !before.is_some_and(is_paused))
}

/// Whether the run is paused, and not only its begin.
fn is_paused(status: &ChaosExperimentStatus) -> bool {
    status.phase == Some(Phase::Paused) && status.pods.iter().any(|pod| pod.remaining.is_some())
}

/// The record of a run that is over or paused. Its name is a function of the experiment and the run, so that it is written once.
#[must_use]
pub fn record(object: &ChaosExperiment, status: &ChaosExperimentStatus, now: Timestamp) -> ChaosExperimentHistory {
    let (name, namespace, uid) = (object.name_any(), object.namespace().unwrap_or_default(), object.uid().unwrap_or_default());
    let run = status.run.unwrap_or_default();
    let begin = status.start_time.clone().unwrap_or(Time(now));
    let end = status.completed_at.clone().or_else(|| is_paused(status).then_some(Time(now)));
    let mut record = ChaosExperimentHistory::new(
        "",
        ChaosExperimentHistorySpec {
            experiment_ref: ExperimentRef { name: name.clone(), namespace: namespace.clone(), uid: Some(uid.clone()) },
            experiment_spec: object.spec.clone(),
            execution: Execution {
                duration: end.as_ref().map(|end| format!("{}s", end.0.duration_since(begin.0).as_secs())),
                start_time: begin,
                end_time: end,
                status: result(status),
                message: status.message.clone(),
                phase: status.phase,
                run: status.run,
            },
            affected_resources: status.pods.iter().filter(|pod| may_have_lost(pod)).map(affected).collect(),
            audit: Audit {
                initiated_by: writer(object),
                scheduled_execution: Some(status.last_scheduled_time.is_some() && object.spec.schedule.is_some()),
                dry_run: Some(object.spec.dry_run == Some(true)),
                retry_count: Some(status.retry_count.unwrap_or(0)),
                creation_timestamp: Some(Time(now)),
            },
            error: (status.phase == Some(Phase::Failed)).then(|| ErrorDetails {
                message: status.message.clone(),
                code: None,
                last_error: status.last_error.clone(),
                failure_reason: Some(failure_reason(status)),
            }),
            pods: status.pods.clone(),
        },
    );
    // The last four are k8s-chaos's, by which its users find records.
    let labels = [
        (EXPERIMENT_LABEL, uid.clone()),
        ("app.kubernetes.io/managed-by", "netloss".to_owned()),
        (NAME_LABEL, label_value(&name)),
        ("chaos.gushchin.dev/action", "pod-network-loss".to_owned()),
        ("chaos.gushchin.dev/target-namespace", object.spec.target_namespace(&namespace).to_owned()),
        ("chaos.gushchin.dev/status", record.spec.execution.status.as_str().to_owned()),
    ];
    record.metadata = ObjectMeta {
        name: Some(record_name(&name, &uid, run, status.attempt.filter(|_| is_paused(status)))),
        namespace: Some(namespace),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>()),
        ..ObjectMeta::default()
    };
    if status.pods.iter().any(PodStatus::may_be_impaired) {
        record.metadata.labels.get_or_insert_default().insert(REMAINS_LABEL.to_owned(), "true".to_owned());
    }
    fit(&mut record);
    record
}

/// Sorts by experiment and run for a person, and is another for a later experiment of the same name. `paused` is the attempt that a pause has ended, of a
/// record that stands until the run's own.
#[must_use]
pub fn record_name(name: &str, uid: &str, run: u32, paused: Option<u32>) -> String {
    /// What a name may have, less what follows it: hash, run, attempt, and what the API server makes up.
    const LONGEST: usize = 253 - "-0123456789abcdef-r4294967295-p4294967295-12345".len();
    let name = &name[..name.floor_char_boundary(LONGEST)];
    let paused = paused.map(|attempt| format!("-p{attempt}")).unwrap_or_default();
    format!("{}{}{paused}", name.trim_end_matches(['.', '-']), suffix(uid, run))
}

fn suffix(uid: &str, run: u32) -> String {
    format!("-{:016x}-r{run}", stable_hash(&[uid]))
}

/// What the names of records of the run's pauses contain, if there can be any.
#[must_use]
pub fn paused_prefix(uid: &str, status: &ChaosExperimentStatus) -> Option<String> {
    let is_later = status.attempt.is_some_and(|attempt| attempt > 1);
    is_later.then(|| format!("{}-p", suffix(uid, status.run.unwrap_or_default())))
}

/// Whether a record that has the name of `record` is that record, written before a crash. Whoever may create records knows the run, its begin and its
/// agents before it ends, so that everything is compared that does not go by the time at which the record was made. No owner tells them apart: a record
/// outlives its experiment.
#[must_use]
pub fn is_same(there: &ChaosExperimentHistory, record: &ChaosExperimentHistory) -> bool {
    let timeless = |record: &ChaosExperimentHistory| {
        let mut spec = record.spec.clone();
        (spec.execution.end_time, spec.execution.duration, spec.audit.creation_timestamp) = (None, None, None);
        spec.pods.iter_mut().for_each(|pod| pod.ended_at = None);
        spec
    };
    let (is, was) = (&record.metadata, &there.metadata);
    let stays = was.deletion_timestamp.is_none() && was.owner_references.as_ref().is_none_or(Vec::is_empty);
    stays && (&was.labels, &was.annotations) == (&is.labels, &is.annotations) && timeless(there) == timeless(record)
}

/// A record of more bytes is shortened: etcd stores 1.5 MiB by default, and the record is within an object.
const LARGEST: usize = 1024 * 1024;

/// Leaves out of a record what is largest and matters least, until it is stored.
fn fit(record: &mut ChaosExperimentHistory) {
    type Shorten = fn(&mut ChaosExperimentHistorySpec);
    let steps: [(&str, Shorten); 4] = [
        ("what agents were told", |record| {
            for pod in &mut record.pods {
                (pod.argv, pod.stop, pod.repair, pod.plan) = (Vec::new(), None, None, None);
            }
        }),
        ("what pods said", |record| {
            let texts = record.pods.iter_mut().flat_map(|pod| [&mut pod.message, &mut pod.interface, &mut pod.backend]);
            let own = [&mut record.execution.message]
                .into_iter()
                .chain(record.error.iter_mut().flat_map(|error| [&mut error.message, &mut error.last_error]));
            texts.chain(own).flatten().for_each(|text| *text = brief(text));
        }),
        ("fields of the spec for other actions", |record| {
            let spec = &mut record.experiment_spec;
            (spec.memory_size, spec.target_path, spec.volume_name, spec.restart_interval) = (None, None, None, None);
            (spec.taint_key, spec.taint_value, spec.taint_effect) = (None, None, None);
        }),
        ("pods", |record| {
            record.pods.clear();
            record.affected_resources.clear();
        }),
    ];
    let mut left_out = Vec::new();
    for (what, shorten) in steps {
        if serde_json::to_vec(&record).is_ok_and(|bytes| bytes.len() <= LARGEST) {
            break;
        }
        shorten(&mut record.spec);
        left_out.push(what);
    }
    if !left_out.is_empty() {
        let value = format!("left out: {}", left_out.join(", "));
        record.metadata.annotations.get_or_insert_default().insert(SHORTENED_ANNOTATION.to_owned(), value);
    }
}

/// A label's value of at most 63 characters that begins and ends as one has to.
fn label_value(text: &str) -> String {
    text[..text.floor_char_boundary(63)].trim_end_matches(['.', '-']).to_owned()
}

/// Of one whose end is unknown nobody can say that it was not.
fn may_have_lost(pod: &PodStatus) -> bool {
    pod.was_applied() || pod.outcome == Some(Outcome::Unknown)
}

fn affected(pod: &PodStatus) -> AffectedResource {
    let outcome = pod.outcome.map(|outcome| outcome.to_string());
    let (loss, direction, duration) = (pod.asked.loss_percentage, pod.asked.direction, &pod.asked.duration);
    AffectedResource {
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        namespace: Some(pod.namespace.clone()),
        action: "network-loss".to_owned(),
        details: Some(format!("asked for {loss}% {direction} for {duration}: {}", outcome.unwrap_or_default())),
    }
}

/// The field manager that wrote the spec last.
#[must_use]
pub fn writer(object: &ChaosExperiment) -> Option<String> {
    let writes_spec = |fields: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1>| {
        fields.is_some_and(|fields| fields.0.get("f:spec").is_some())
    };
    let entries =
        object.metadata.managed_fields.iter().flatten().filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    entries.filter(|entry| writes_spec(entry.fields_v1.as_ref())).max_by_key(|entry| entry.time.clone())?.manager.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{at, entry};

    #[test]
    fn a_run_is_partial_when_not_all_went_as_asked() {
        let pod = |outcome| PodStatus { outcome: Some(outcome), ..entry() };
        let over = |phase, pods| ChaosExperimentStatus { phase: Some(phase), pods, ..ChaosExperimentStatus::default() };
        assert_eq!(result(&over(Phase::Completed, vec![pod(Outcome::Clean)])), RunResult::Success);
        assert_eq!(result(&over(Phase::Completed, vec![pod(Outcome::Clean), pod(Outcome::NeverStarted)])), RunResult::Partial);
        assert_eq!(result(&over(Phase::Failed, vec![])), RunResult::Failure);
        assert_eq!(failure_reason(&over(Phase::Failed, vec![pod(Outcome::NeverStarted)])), FailureReason::Timeout);
        assert_eq!(failure_reason(&over(Phase::Failed, vec![])), FailureReason::ValidationError);
        let mut refused = over(Phase::Failed, vec![]);
        refused.set_condition(ACCEPTED, "False", "NoEligiblePods", "in any words", at(0));
        assert_eq!(failure_reason(&refused), FailureReason::ResourceNotFound);
    }

    #[test]
    fn whoever_may_have_lost_packets_is_in_the_record() {
        let pod = |applied_at, outcome| may_have_lost(&PodStatus { applied_at, outcome: Some(outcome), ..entry() });
        assert!(pod(Some(Time(at(0))), Outcome::Clean));
        assert!(pod(None, Outcome::Unknown));
        assert!(!pod(None, Outcome::NeverStarted) && !pod(None, Outcome::Failed));
    }

    #[test]
    fn the_record_of_loss_that_may_remain_is_marked() {
        let marked = |outcome| {
            let object = ChaosExperiment::new("x", crate::machine::fixtures::spec());
            let pods = vec![PodStatus { state: netloss_api::PodState::Ended, outcome: Some(outcome), ..entry() }];
            let status = ChaosExperimentStatus { pods, ..ChaosExperimentStatus::default() };
            record(&object, &status, at(0)).metadata.labels.unwrap().contains_key(REMAINS_LABEL)
        };
        assert!(marked(Outcome::Unknown) && !marked(Outcome::Clean));
    }

    #[test]
    fn a_records_name_is_a_name() {
        let name = record_name(&"x".repeat(253), "uid", u32::MAX, Some(u32::MAX));
        assert!(name.len() + "-12345".len() <= 253, "{name}");
        assert_ne!(record_name("x", "uid", 1, None), record_name("x", "other", 1, None));
        assert_eq!(record_name("x.-", "uid", 1, None), record_name("x", "uid", 1, None));
        let later = ChaosExperimentStatus { run: Some(1), attempt: Some(3), ..ChaosExperimentStatus::default() };
        let prefix = paused_prefix("uid", &later).unwrap();
        assert!(record_name("x", "uid", 1, Some(2)).contains(&prefix));
        assert!(![record_name("x", "uid", 1, None), record_name("x", "uid", 12, Some(2))].iter().any(|name| name.contains(&prefix)));
    }

    /// 24 bits, as it was, have more than a hundred pairs among these; the first two numbers were found by search.
    #[test]
    fn names_of_many_experiments_do_not_collide() {
        let names: std::collections::BTreeSet<String> = (0..100_000).map(|n| record_name("x", &format!("uid-{n}"), 1, None)).collect();
        assert_eq!(names.len(), 100_000);
    }

    #[test]
    fn a_record_is_told_from_one_that_says_something_else() {
        let mut object = ChaosExperiment::new("x", crate::machine::fixtures::spec());
        (object.metadata.namespace, object.metadata.uid) = (Some("n".to_owned()), Some("uid".to_owned()));
        let pod = PodStatus { outcome: Some(Outcome::Clean), ended_at: Some(Time(at(5))), applied_at: Some(Time(at(0))), ..entry() };
        let start_time = Some(Time(at(0)));
        let over = ChaosExperimentStatus { phase: Some(Phase::Completed), start_time, pods: vec![pod], ..ChaosExperimentStatus::default() };
        let (before, mut again) = (record(&object, &over, at(6)), over.clone());
        again.pods[0].ended_at = Some(Time(at(9)));
        let again = record(&object, &again, at(10));
        assert!(is_same(&before, &again), "written again after a crash");
        for forge in [
            (|record: &mut ChaosExperimentHistory| record.spec.execution.status = RunResult::Failure) as fn(&mut ChaosExperimentHistory),
            |record| record.spec.execution.message = Some("forged".to_owned()),
            |record| record.spec.experiment_ref.uid = None,
            |record| record.spec.pods[0].observed = Some(netloss_api::ObservedLoss::default()),
            |record| record.spec.affected_resources.clear(),
            |record| record.metadata.labels = None,
            |record| record.metadata.deletion_timestamp = Some(Time(at(0))),
            |record| {
                record.metadata.owner_references = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference::default()]);
            },
        ] {
            let mut forged = before.clone();
            forge(&mut forged);
            assert!(!is_same(&forged, &again), "{forged:?}");
        }
    }

    #[test]
    fn a_run_is_recorded_when_it_is_paused_and_when_it_is_over() {
        let pod = |remaining: Option<&str>| PodStatus { remaining: remaining.map(str::to_owned), ..entry() };
        let with = |phase, pod| ChaosExperimentStatus { phase: Some(phase), pods: vec![pod], ..ChaosExperimentStatus::default() };
        let (running, paused) = (with(Phase::Running, pod(None)), with(Phase::Paused, pod(Some("5s"))));
        assert!(is_to_be_recorded(Some(&running), &paused));
        assert!(!is_to_be_recorded(Some(&paused), &paused), "once");
        assert!(!is_to_be_recorded(None, &with(Phase::Paused, pod(None))), "nothing was done before it began");
        let over = ChaosExperimentStatus { completed_at: Some(Time(at(1))), ..with(Phase::Completed, pod(None)) };
        assert!(is_to_be_recorded(Some(&paused), &over));
    }

    #[test]
    fn a_record_of_any_size_is_stored() {
        let object = |path: usize| {
            let mut object = ChaosExperiment::new(&"x".repeat(253), crate::machine::fixtures::spec());
            (object.metadata.namespace, object.metadata.uid) = (Some("n".to_owned()), Some("uid".to_owned()));
            object.spec.target_path = Some("p".repeat(path));
            object
        };
        let status = |pods: usize, bytes: usize| {
            let pod = PodStatus {
                argv: vec!["x".repeat(bytes)],
                message: Some("ü".repeat(bytes)),
                outcome: Some(Outcome::Clean),
                applied_at: Some(Time(at(0))),
                ..entry()
            };
            ChaosExperimentStatus { phase: Some(Phase::Completed), pods: vec![pod; pods], ..ChaosExperimentStatus::default() }
        };
        let size = |record: &ChaosExperimentHistory| serde_json::to_vec(record).unwrap().len();
        let small = record(&object(10), &status(2, 100), at(0));
        assert_eq!((small.metadata.annotations, small.spec.pods.len()), (None, 2));
        for (path, pods, bytes, left) in [(10, 100, 10_000, 100), (2_000_000, 100, 20_000, 100), (10, 5_000, 10, 0)] {
            let record = record(&object(path), &status(pods, bytes), at(0));
            assert!(size(&record) <= LARGEST, "{} bytes", size(&record));
            assert!(record.metadata.annotations.as_ref().unwrap()[SHORTENED_ANNOTATION].starts_with("left out: what agents were told"));
            assert_eq!(record.spec.pods.len(), left);
            assert!(record.metadata.labels.unwrap().values().all(|value| value.len() <= 63));
        }
    }
}
