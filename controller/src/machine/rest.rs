//! What follows when nothing of a run is under way any more.

use super::{Begin, EventRecord, Experiment, begin::schedule_next, events, summary};
use crate::api::{ChaosExperimentStatus, Outcome, Phase, PodStatus, RECOVERED, RetryBackoff, Stopping};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_contract::Ttl;
use std::time::Duration;

/// The longest wait before a retry.
const LONGEST_DELAY: Duration = Duration::from_hours(1);

/// What a status keeps from one run to the next, and within a run from one attempt to the next.
pub(super) fn carried(experiment: &Experiment<'_>, why: Begin) -> ChaosExperimentStatus {
    let before = experiment.status.cloned().unwrap_or_default();
    let of_run = |kept| if matches!(why, Begin::Retry | Begin::Resume) { kept } else { None };
    ChaosExperimentStatus {
        run: before.run,
        attempt: of_run(before.attempt),
        start_time: if matches!(why, Begin::Retry | Begin::Resume) { before.start_time } else { None },
        retry_count: of_run(before.retry_count),
        last_error: if why == Begin::Retry { before.last_error } else { None },
        last_run_time: before.last_run_time,
        last_scheduled_time: before.last_scheduled_time,
        next_scheduled_time: if why == Begin::New { None } else { before.next_scheduled_time },
        observed_generation: Some(experiment.generation),
        observed_spec: Some(experiment.spec.fingerprint()),
        ..ChaosExperimentStatus::default()
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
    after.message = Some(summary::message(after, experiment, &[]));
    if after.phase == Some(Phase::Failed) && after.stopping.is_none() && !unknown {
        told.extend(retry(experiment, after, now));
    }
    if after.phase.is_some_and(Phase::is_final) {
        after.completed_at = Some(Time(now));
        told.extend(scheduled(experiment, after, now));
    }
    let remaining = after.pods.iter().filter(|pod| pod.may_keep_loss()).count();
    if remaining == 0 {
        after.set_condition(RECOVERED, "True", "NoLossLeft", "no loss of this experiment is in any pod", now);
    } else {
        let words = format!("in {remaining} pod(s) loss may remain: status.pods has them, and restarting them ends it");
        after.set_condition(RECOVERED, "False", "LossMayRemain", &words, now);
    }
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
    let error = after.message.take().unwrap_or_default();
    after.message = Some(format!("{error}; retry {} of {max} at {at}", count + 1));
    (after.phase, after.retry_count, after.next_retry_time) = (Some(Phase::Pending), Some(count + 1), Some(Time(at)));
    after.last_error = Some(error);
    Some(events::retry(after.message.as_deref().unwrap_or_default()))
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
    [&after.next_retry_time, &after.next_scheduled_time].into_iter().flatten().map(|time| until(time.0, now)).min()
}

/// How long to wait for a moment: a little too long rather than too short, which would only be looked at again.
pub(super) fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(100)
}
