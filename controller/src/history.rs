//! The record of a run: what goes into it, and how long it is kept.

use crate::{
    api::{
        AS_REQUESTED, AffectedResource, Audit, ChaosExperiment, ChaosExperimentHistory, ChaosExperimentHistorySpec, ChaosExperimentStatus,
        ErrorDetails, Execution, ExperimentRef, FailureReason, Outcome, PREFLIGHT, Phase, PodStatus, RunResult,
    },
    order::rank,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
    core::ObjectMeta,
};
use std::collections::{BTreeMap, HashMap};
use tracing::{info, warn};

/// Names the experiment's uid on its records.
pub const EXPERIMENT_LABEL: &str = "chaos.gushchin.dev/experiment-uid";

/// Records of one page of a list.
const PAGE: u32 = 500;

/// How long records are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// So many of each experiment, the latest ones.
    pub count: usize,
    /// No longer than this.
    pub age: SignedDuration,
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
    let message = status.message.as_deref().unwrap_or_default();
    let any = |outcome| status.pods.iter().any(|pod| pod.outcome == Some(outcome));
    if status.condition(PREFLIGHT).is_some_and(|is| is.status == "False") {
        FailureReason::PermissionDenied
    } else if any(Outcome::Failed) {
        FailureReason::ExecutionError
    } else if any(Outcome::NeverStarted) {
        FailureReason::Timeout
    } else if message.starts_with("No eligible pods") {
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

/// The record of a run that is over. Its name is a function of the experiment and the run, so that it is written once.
#[must_use]
pub fn record(object: &ChaosExperiment, status: &ChaosExperimentStatus, now: Timestamp) -> ChaosExperimentHistory {
    let (name, namespace, uid) = (object.name_any(), object.namespace().unwrap_or_default(), object.uid().unwrap_or_default());
    let run = status.run.unwrap_or_default();
    let (begin, end) = (status.start_time.clone().unwrap_or(Time(now)), status.completed_at.clone());
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
    let labels = [(EXPERIMENT_LABEL, uid.clone()), ("app.kubernetes.io/managed-by", "netloss".to_owned())];
    record.metadata = ObjectMeta {
        name: Some(record_name(&name, &uid, run)),
        namespace: Some(namespace),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>()),
        ..ObjectMeta::default()
    };
    record
}

/// Sorts by experiment and run for a person, and is another for a later experiment of the same name.
fn record_name(name: &str, uid: &str, run: u32) -> String {
    /// What a name may have, less what follows it.
    const LONGEST: usize = 253 - 32;
    let name = &name[..name.floor_char_boundary(LONGEST)];
    let short = rank(&[uid]) & 0xff_ffff;
    format!("{}-{short:06x}-r{run}", name.trim_end_matches(['.', '-']))
}

/// Of one whose end is unknown nobody can say that it was not.
fn may_have_lost(pod: &PodStatus) -> bool {
    pod.was_applied() || pod.outcome == Some(Outcome::Unknown)
}

fn affected(pod: &PodStatus) -> AffectedResource {
    let outcome = pod.outcome.and_then(|outcome| serde_json::to_value(outcome).ok()).and_then(|name| name.as_str().map(str::to_owned));
    let (loss, direction, duration) = (pod.asked.loss_percentage, pod.asked.direction.as_str(), &pod.asked.duration);
    AffectedResource {
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        namespace: Some(pod.namespace.clone()),
        action: "network-loss".to_owned(),
        details: Some(format!("asked for {loss}% {direction} for {duration}: {}", outcome.unwrap_or_default())),
    }
}

/// The field manager that wrote the spec last.
pub(crate) fn writer(object: &ChaosExperiment) -> Option<String> {
    let writes_spec = |fields: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1>| {
        fields.is_some_and(|fields| fields.0.get("f:spec").is_some())
    };
    let entries =
        object.metadata.managed_fields.iter().flatten().filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    entries.filter(|entry| writes_spec(entry.fields_v1.as_ref())).max_by_key(|entry| entry.time.clone())?.manager.clone()
}

/// Which of these records are not kept, each with its experiment and when it was made.
fn expired(records: &[(String, String, Timestamp)], retention: Retention, now: Timestamp) -> Vec<&str> {
    let mut newest_first: Vec<_> = records.iter().collect();
    newest_first.sort_by_key(|(_, _, made)| std::cmp::Reverse(*made));
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut gone = Vec::new();
    for (name, experiment, made) in newest_first {
        let count = seen.entry(experiment).or_default();
        *count += 1;
        if *count > retention.count || now.duration_since(*made) > retention.age {
            gone.push(name.as_str());
        }
    }
    gone
}

/// Deletes the records of a namespace, or of all, that are not kept; `experiment` are those of one experiment alone.
///
/// # Errors
/// When the API server does not list them.
pub async fn prune(
    client: &Client,
    namespace: Option<&str>,
    experiment: Option<&str>,
    retention: Retention,
    now: Timestamp,
) -> kube::Result<()> {
    let in_namespace = |namespace: Option<&str>| match namespace {
        Some(namespace) => Api::<ChaosExperimentHistory>::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let labels = experiment.map_or_else(|| EXPERIMENT_LABEL.to_owned(), |uid| format!("{EXPERIMENT_LABEL}={uid}"));
    let mut page = ListParams::default().labels(&labels).limit(PAGE);
    let mut found: BTreeMap<String, Vec<(String, String, Timestamp)>> = BTreeMap::new();
    loop {
        let list = in_namespace(namespace).list_metadata(&page).await?;
        for object in &list.items {
            let experiment = object.labels().get(EXPERIMENT_LABEL).cloned().unwrap_or_default();
            let made = object.creation_timestamp().map_or(now, |time| time.0);
            found.entry(object.namespace().unwrap_or_default()).or_default().push((object.name_any(), experiment, made));
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    for (namespace, records) in &found {
        let api = in_namespace(Some(namespace));
        for name in expired(records, retention, now) {
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => info!(namespace, name, "deleted a history record that is not kept any longer"),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => warn!(namespace, name, %error, "a history record could not be deleted"),
            }
        }
    }
    Ok(())
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
    }

    #[test]
    fn whoever_may_have_lost_packets_is_in_the_record() {
        let pod = |applied_at, outcome| may_have_lost(&PodStatus { applied_at, outcome: Some(outcome), ..entry() });
        assert!(pod(Some(Time(at(0))), Outcome::Clean));
        assert!(pod(None, Outcome::Unknown));
        assert!(!pod(None, Outcome::NeverStarted) && !pod(None, Outcome::Failed));
    }

    #[test]
    fn records_go_by_count_and_by_age() {
        let made = |name: &str, experiment: &str, seconds| (name.to_owned(), experiment.to_owned(), at(seconds));
        let records = [made("a1", "a", 0), made("a2", "a", 10), made("a3", "a", 20), made("b1", "b", 5)];
        let keep = |count, seconds| Retention { count, age: SignedDuration::from_secs(seconds) };
        assert_eq!(expired(&records, keep(2, 1000), at(30)), ["a1"]);
        assert_eq!(expired(&records, keep(9, 12), at(30)), ["a2", "b1", "a1"]);
        assert!(expired(&records, keep(9, 1000), at(30)).is_empty());
    }

    #[test]
    fn a_records_name_is_a_name() {
        let name = record_name(&"x".repeat(253), "uid", u32::MAX);
        assert!(name.len() <= 253, "{name}");
        assert_ne!(record_name("x", "uid", 1), record_name("x", "other", 1));
        assert_eq!(record_name("x.-", "uid", 1), record_name("x", "uid", 1));
    }
}
