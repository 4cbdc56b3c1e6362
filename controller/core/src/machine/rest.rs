//! What follows when nothing of a run is under way any more.

use super::{
    AgentState, Begin, Decision, EventRecord, Experiment, PodView, Pods,
    begin::schedule_next,
    events,
    measured::{Measured, measured},
    requested, summary,
};
use crate::{
    refusal::{Refusal, RefusalReason},
    sanitize::some_of,
    targets::Skip,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_api::{AS_REQUESTED, ChaosExperimentStatus, LOSS_MAY_REMAIN, Outcome, Phase, PodStatus, RECOVERED, RetryBackoff, Stopping};
use netloss_contract::Ttl;
use std::time::Duration;

/// The longest wait before a retry: a judgement, ten times the longest wait of a Kubernetes Job (six minutes), as a retry touches pods
/// again.
const LONGEST_DELAY: Duration = Duration::from_hours(1);

/// What a status keeps from one run to the next, and within a run from one attempt to the next.
pub(super) fn carried(experiment: &Experiment<'_>, why: Begin) -> ChaosExperimentStatus {
    let before = experiment.status.cloned().unwrap_or_default();
    let unresolved_pods = unresolved(&before, why);
    let conditions = before.conditions.into_iter().filter(|is| is.type_ == RECOVERED && is.reason == LOSS_MAY_REMAIN).collect();
    let count = usize::try_from(experiment.spec.count).unwrap_or(usize::MAX);
    let of_same_run = matches!(why, Begin::Retry | Begin::Resume);
    // A new spec is run whether or not it was requested as well.
    let request = requested::valid(experiment).filter(|_| why == Begin::New).map(str::to_owned);
    ChaosExperimentStatus {
        run: before.run,
        attempt: before.attempt.filter(|_| of_same_run),
        start_time: before.start_time.filter(|_| of_same_run),
        retry_count: before.retry_count.filter(|_| of_same_run),
        // No more than a run has, whoever wrote them.
        affected_pods: before.affected_pods.into_iter().filter(|_| why == Begin::Resume).take(count).collect(),
        last_error: before.last_error.filter(|_| why == Begin::Retry),
        run_requested_at: request.or(before.run_requested_at),
        last_run_time: before.last_run_time,
        last_scheduled_time: before.last_scheduled_time,
        next_scheduled_time: before.next_scheduled_time.filter(|_| why != Begin::New),
        observed_generation: Some(experiment.generation),
        observed_spec: Some(experiment.spec.fingerprint()),
        conditions,
        unresolved_pods,
        ..ChaosExperimentStatus::default()
    }
}

/// The pods in which loss may remain, without what is needed for a run only: all of them, as nobody else remembers them. No run begins where
/// they leave too little room for it in status (`plan`). A resumption keeps the pods of its own run where they are.
fn unresolved(before: &ChaosExperimentStatus, why: Begin) -> Vec<PodStatus> {
    let of_last_run = before.pods.iter().filter(|pod| why != Begin::Resume && pod.may_be_impaired());
    let mut kept: Vec<PodStatus> = Vec::new();
    for pod in of_last_run.chain(&before.unresolved_pods) {
        if !kept.iter().any(|known| known.uid == pod.uid) {
            kept.push(PodStatus { argv: Vec::new(), plan: None, stop: None, repair: None, template: None, remaining: None, ..pod.clone() });
        }
    }
    kept
}

/// Between looks at pods in which loss may remain, of an experiment with nothing under way. A judgement: the watch of pods tells of most ends at once, and
/// each look reads up to 25 pods (netloss-cluster's `MOST_IMPAIRED`), less than one request every two seconds.
const POLL_IMPAIRED: Duration = Duration::from_mins(1);

/// Looks again at the pods in which loss may remain. One that is gone has no loss, and one that was cleaned up since neither.
pub(super) fn resolve(experiment: &Experiment<'_>, seen: &Pods, now: Timestamp) -> Decision {
    let Some(before) = experiment.status else { return Decision::default() };
    let mut after = before.clone();
    for pod in after.pods.iter_mut().filter(|pod| pod.may_be_impaired()) {
        if let Some((outcome, words)) = resolution(seen.views.get(&pod.uid)) {
            let message = pod.message.take().map(|message| format!("{message}; ")).unwrap_or_default();
            (pod.outcome, pod.message) = (Some(outcome), Some(format!("{message}{words}")));
        }
    }
    after.unresolved_pods.retain(|pod| resolution(seen.views.get(&pod.uid)).is_none());
    let requeue = after.impaired_pods().next().is_some().then_some(POLL_IMPAIRED);
    if after == *before {
        return Decision { requeue, ..Decision::default() };
    }
    if after.pods != before.pods && after.phase.is_some_and(Phase::is_final) {
        after.message = Some(summary::message(&after, experiment, &[]));
    }
    set_recovered(&mut after, now);
    Decision { status: Some(after), requeue, ..Decision::default() }
}

/// How the loss that may have remained in a pod is known to be gone, if it is.
fn resolution(view: Option<&PodView>) -> Option<(Outcome, &'static str)> {
    match view? {
        PodView::Gone | PodView::Replaced => Some((Outcome::PodEnded, "the pod is gone")),
        PodView::Present { skip: Some(Skip::Finished), .. } => Some((Outcome::PodEnded, "the pod has finished")),
        PodView::Present { new_sandbox: true, .. } => Some((Outcome::SandboxRecreated, "the pod got a new sandbox")),
        PodView::Present { agent: Some(agent), .. } if matches!(agent.repair, Some(AgentState::Terminated { exit_code: 0, .. })) => {
            Some((Outcome::Repaired, "it was cleaned up since"))
        }
        _ => None,
    }
}

/// Sets the condition `Recovered` by what status says of its pods.
pub(super) fn set_recovered(status: &mut ChaosExperimentStatus, now: Timestamp) {
    let impaired = some_of(status.impaired_pods().map(PodStatus::display_name));
    let namespace = status.impaired_pods().next().map(|pod| pod.namespace.clone());
    if let Some(namespace) = namespace {
        let words = format!(
            "loss may remain in {impaired}: kubectl netloss doctor --fix -n {namespace} removes it, and deleting the pod ends it (restarting a container does not)"
        );
        status.set_condition(RECOVERED, "False", LOSS_MAY_REMAIN, &words, now);
        return;
    }
    let is_active = status.is_active();
    let (value, reason, words) = match status.phase {
        _ if is_active && status.pods.iter().any(PodStatus::was_applied) => {
            ("False", "Running", "loss is or was in place in at least one pod")
        }
        _ if is_active => ("Unknown", "Injecting", "agents are being injected"),
        None | Some(Phase::Pending | Phase::Running) if status.next_retry_time.is_some() => {
            ("Unknown", "Retrying", "the last attempt injected no loss, and is retried")
        }
        None | Some(Phase::Pending | Phase::Running) => ("Unknown", "Waiting", "the run has not begun, or waits to go on"),
        Some(Phase::Paused) if status.pods.is_empty() || status.next_retry_time.is_some() => {
            ("Unknown", "Paused", "the run is paused before it began, or before a retry")
        }
        Some(Phase::Completed | Phase::Failed) if injected_nothing(status) => {
            ("True", "NothingInjected", "this run injected no loss into any pod")
        }
        Some(Phase::Paused | Phase::Completed | Phase::Failed) => ("True", NO_LOSS_LEFT, "no loss of this experiment is in any pod"),
    };
    status.set_condition(RECOVERED, value, reason, words, now);
}

/// The reason of `Recovered` where loss was in place, or may have been.
const NO_LOSS_LEFT: &str = "NoLossLeft";

/// Whether no agent was put into any pod, and no loss of an earlier run was left either.
fn injected_nothing(status: &ChaosExperimentStatus) -> bool {
    let was_left = status.condition(RECOVERED).is_some_and(|is| [LOSS_MAY_REMAIN, NO_LOSS_LEFT].contains(&is.reason.as_str()));
    status.affected_pods.is_empty() && !status.pods.iter().any(PodStatus::was_applied) && !was_left
}

/// Sets the condition `AsRequested` by what the agents counted.
pub(super) fn set_as_requested(status: &mut ChaosExperimentStatus, now: Timestamp) {
    match measured(status) {
        Measured::AsRequested => {
            status.set_condition(AS_REQUESTED, "True", "WithinChance", "the measured loss does not contradict the requested one", now);
        }
        Measured::Nothing => status.set_condition(AS_REQUESTED, "Unknown", "NotMeasured", "no agent reported its counters", now),
        Measured::Otherwise(reason, words) => status.set_condition(AS_REQUESTED, "False", reason, &words, now),
    }
}

/// Settles the status of an attempt whose pods have all ended.
pub(super) fn settle(experiment: &Experiment<'_>, after: &mut ChaosExperimentStatus, now: Timestamp) -> Vec<EventRecord> {
    let applied = after.pods.iter().any(PodStatus::was_applied);
    let unknown = after.pods.iter().any(|pod| pod.outcome == Some(Outcome::Unknown));
    after.phase = Some(if applied { Phase::Completed } else { Phase::Failed });
    let remains = after.pods.iter().any(|pod| pod.remaining.is_some());
    if after.stopping == Some(Stopping::Paused) && remains && !experiment.deleting {
        after.phase = Some(Phase::Paused);
    }
    let mut told = Vec::new();
    if applied {
        set_as_requested(after, now);
    }
    after.message = Some(summary::message(after, experiment, &[]));
    if after.phase == Some(Phase::Failed) && after.stopping.is_none() && !unknown {
        told.extend(retry(experiment, after, now));
    }
    if after.phase.is_some_and(Phase::is_final) {
        after.completed_at = Some(Time(now));
        told.extend(scheduled(experiment, after, now));
    }
    set_recovered(after, now);
    told
}

/// Tries again later, if that is still to be done.
pub(super) fn retry(experiment: &Experiment<'_>, after: &mut ChaosExperimentStatus, now: Timestamp) -> Option<EventRecord> {
    let spec = experiment.spec;
    let (count, max) = (after.retry_count.unwrap_or(0), spec.max_retries.min(10));
    let first = spec.retry_delay.parse::<Ttl>().map_or(Duration::from_secs(30), Ttl::duration);
    let delay = match spec.retry_backoff {
        RetryBackoff::Fixed => first,
        RetryBackoff::Exponential => first.saturating_mul(2_u32.saturating_pow(count)).min(LONGEST_DELAY.max(first)),
    };
    let at = now.saturating_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX)).ok()?;
    let too_late = end_of_run(experiment, after).is_some_and(|end| at >= end);
    if count >= max || too_late || experiment.deleting {
        return None;
    }
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
    after.last_error = Some(after.message.take().unwrap_or_default());
    (after.phase, after.retry_count, after.next_retry_time) = (Some(Phase::Pending), Some(count + 1), Some(Time(at)));
    after.message = Some(retry_words(experiment, after, at));
    Some(events::retry(after.message.as_deref().unwrap_or_default()))
}

/// What a status says that waits for its retry.
pub(super) fn retry_words(experiment: &Experiment<'_>, status: &ChaosExperimentStatus, at: Timestamp) -> String {
    let (error, count) = (status.last_error.as_deref().unwrap_or_default(), status.retry_count.unwrap_or(1));
    format!("{error}; retry {count} of {} at {at}", experiment.spec.max_retries.min(10))
}

/// Why nothing is begun after [`end_of_run`].
pub(super) fn time_is_over() -> Refusal {
    Refusal::new(RefusalReason::TimeOver, "spec.experimentDuration is over")
}

/// When a run is over at the latest: `spec.experimentDuration` after its begin.
pub(super) fn end_of_run(experiment: &Experiment<'_>, status: &ChaosExperimentStatus) -> Option<Timestamp> {
    let length = experiment.spec.experiment_duration.as_deref()?.parse::<Ttl>().ok()?;
    let begin = status.start_time.as_ref()?.0;
    begin.saturating_add(SignedDuration::try_from(length.duration()).ok()?).ok()
}

/// Says which runs of the schedule were missed meanwhile, and when the next one is.
pub(super) fn scheduled(experiment: &Experiment<'_>, after: &mut ChaosExperimentStatus, now: Timestamp) -> Option<EventRecord> {
    let due = after.next_scheduled_time.as_ref()?.0;
    if due > now {
        return None;
    }
    after.next_scheduled_time = schedule_next(experiment, now).map(Time);
    Some(events::missed(due, "the run before was still under way"))
}

/// When to look again at what is at rest.
pub(super) fn requeue(after: &ChaosExperimentStatus, now: Timestamp) -> Option<Duration> {
    let times = [&after.next_retry_time, &after.next_scheduled_time].into_iter().flatten().map(|time| until(time.0, now));
    times.chain(after.impaired_pods().next().map(|_| POLL_IMPAIRED)).min()
}

/// How long to wait for a moment: a little too long rather than too short, which would only be looked at again.
pub(super) fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(100)
}
