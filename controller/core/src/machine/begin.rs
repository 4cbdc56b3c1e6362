//! What holds a run back, as far as the spec, the status and the clock tell.

use super::{
    Begin, Decision, Experiment, Settings, events,
    plan::{fail, whole},
    request::check,
    rest, summary,
};
use crate::{
    refusal::{Refusal, RefusalReason},
    schedule::Schedule,
    windows::{Access, Windows},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_api::{ChaosExperimentStatus, Phase};
use std::time::Duration;

/// How late a scheduled run may begin. One that is later was missed, and is skipped: it would come as a surprise. A judgement: longer than a change of
/// leaders and the first round after it take, shorter than what people take a schedule for.
const LATE: SignedDuration = SignedDuration::from_mins(2);

/// What to do in place of beginning, if the run is held back.
pub(super) fn hold(experiment: &Experiment<'_>, why: Begin, now: Timestamp, settings: &Settings) -> Option<Decision> {
    let spec = experiment.spec;
    if spec.paused == Some(true) {
        return Some(paused(experiment, why, now));
    }
    let status = experiment.status;
    let schedule = spec.schedule.as_deref().and_then(|text| Schedule::parse(text).ok());
    // Before the spec is checked: what is refused is refused again when it is due, and not sooner.
    if let (Begin::Tick, Some(schedule), Some(Time(due))) = (why, &schedule, status.and_then(|status| status.next_scheduled_time.as_ref()))
        && now < *due
        && schedule.has(*due)
    {
        return Some(match status.filter(|status| status.phase == Some(Phase::Paused)) {
            // It is not paused any more, and would say so until its next run.
            Some(status) => scheduled(experiment, status.clone(), now),
            None => look_again(now, *due),
        });
    }
    if let Err(words) = check(experiment, settings) {
        return Some(fail(experiment, why, now, Refusal::invalid(words), Vec::new(), false));
    }
    if matches!(why, Begin::Retry | Begin::Resume)
        && let Some(end) = status.and_then(|status| rest::end_of_run(experiment, status))
        && now >= end
    {
        return Some(fail(experiment, why, now, rest::time_is_over(), Vec::new(), false));
    }
    if let (Begin::Retry, Some(status)) = (why, status)
        && let Some(Time(at)) = &status.next_retry_time
        && now < *at
    {
        return Some(await_retry(experiment, status, *at, now));
    }
    // They were read by `check` already.
    let windows = Windows::of(spec).unwrap_or_default();
    match (why, schedule) {
        (Begin::New, Some(schedule)) => return Some(arm(experiment, &schedule, now)),
        (Begin::Tick, Some(schedule)) => {
            let due = status.and_then(|status| status.next_scheduled_time.as_ref())?.0;
            // Whoever writes status does not choose when it runs.
            if !schedule.has(due) {
                return Some(arm(experiment, &schedule, now));
            }
            if now.duration_since(due) > LATE {
                return Some(miss(experiment, now, "the controller did not get to it in time"));
            }
            if let Access::Closed(_) = windows.at(now) {
                return Some(miss(experiment, now, "its time windows do not allow it then"));
            }
        }
        _ => match windows.at(now) {
            Access::Open(_) => {}
            Access::Closed(Some(opens)) => {
                let message = format!("Waiting for a time window: the next one opens at {}", whole(opens));
                return Some(wait(experiment, why, message, Some(opens), now));
            }
            Access::Closed(None) => {
                let words = "none of spec.timeWindows opens within a week: give one that is still to come";
                return Some(fail(experiment, why, now, Refusal::new(RefusalReason::NoTimeWindow, words), Vec::new(), false));
            }
        },
    }
    None
}

/// Waits with a word about it; `until` is when to look again at the latest.
pub(super) fn wait(experiment: &Experiment<'_>, why: Begin, message: String, until: Option<Timestamp>, now: Timestamp) -> Decision {
    let mut status = match (why, experiment.status) {
        // The run is the same one: what it has used up is used up, and what a pause has left is still to be done.
        (Begin::Resume | Begin::Retry, Some(status)) => status.clone(),
        _ => rest::carried(experiment, why),
    };
    status.observed_generation = Some(experiment.generation);
    (status.phase, status.message, status.stopping) = (Some(Phase::Pending), Some(message), None);
    if let (Begin::Retry, Some(opens)) = (why, until) {
        status.next_retry_time = Some(Time(whole(opens)));
    }
    let requeue = Some(until.map_or_else(|| poll(experiment), |at| rest::until(at, now)));
    Decision { status: changed(experiment, status), requeue, ..Decision::default() }
}

/// Between looks at the experiments that this one depends on. Each look reads up to as many objects as `spec.dependsOn` names: the more it
/// names, the rarer it looks, so that no experiment takes more than one request a second for that.
fn poll(experiment: &Experiment<'_>) -> Duration {
    const POLL: Duration = Duration::from_secs(10);
    let names = experiment.spec.depends_on.as_ref().map_or(0, Vec::len);
    POLL.max(Duration::from_secs(u64::try_from(names).unwrap_or(u64::MAX)))
}

/// Waits for the time of a retry; also where a pause ended before it.
fn await_retry(experiment: &Experiment<'_>, before: &ChaosExperimentStatus, at: Timestamp, now: Timestamp) -> Decision {
    let mut status = ChaosExperimentStatus { observed_generation: Some(experiment.generation), ..before.clone() };
    if status.phase == Some(Phase::Paused) {
        (status.phase, status.message) = (Some(Phase::Pending), Some(rest::retry_words(experiment, &status, at)));
    }
    Decision { status: changed(experiment, status), ..look_again(now, at) }
}

/// Skips a run of the schedule.
pub(super) fn miss(experiment: &Experiment<'_>, now: Timestamp, because: &str) -> Decision {
    let Some(mut status) = experiment.status.cloned() else { return Decision::default() };
    let Some(Time(due)) = status.next_scheduled_time.take() else { return Decision::default() };
    let events = vec![events::missed(due, because)];
    let next = schedule_next(experiment, now);
    status.next_scheduled_time = next.map(Time);
    Decision { status: Some(status), events, requeue: next.map(|at| rest::until(at, now)), ..Decision::default() }
}

/// When the schedule has its next run, if there is a schedule.
pub(super) fn schedule_next(experiment: &Experiment<'_>, now: Timestamp) -> Option<Timestamp> {
    experiment.spec.schedule.as_deref().and_then(|text| Schedule::parse(text).ok()).and_then(|schedule| schedule.next(now))
}

/// Writes down when a new schedule has its first run.
fn arm(experiment: &Experiment<'_>, schedule: &Schedule, now: Timestamp) -> Decision {
    let mut status = rest::carried(experiment, Begin::New);
    status.next_scheduled_time = schedule.next(now).map(Time);
    scheduled(experiment, status, now)
}

/// Says when the schedule has its next run, and waits for it.
fn scheduled(experiment: &Experiment<'_>, mut status: ChaosExperimentStatus, now: Timestamp) -> Decision {
    let next = status.next_scheduled_time.as_ref().map(|time| time.0);
    status.phase = Some(Phase::Pending);
    status.message = next.map(|at| format!("Scheduled: the next run is at {}", whole(at)));
    status.observed_generation = Some(experiment.generation);
    Decision { status: changed(experiment, status), requeue: next.map(|at| rest::until(at, now)), ..Decision::default() }
}

fn paused(experiment: &Experiment<'_>, why: Begin, now: Timestamp) -> Decision {
    let mut status = match (why, experiment.status) {
        // What has ended stays as it ended; the condition RunRequested says what waits.
        (Begin::Requested, Some(status)) if status.phase.is_some_and(Phase::is_final) => return Decision::default(),
        // What a pause interrupted, what it keeps from its retry, or what stands until the schedule's next run.
        (Begin::Resume | Begin::Tick | Begin::Retry | Begin::Requested, Some(status)) => status.clone(),
        _ => rest::carried(experiment, why),
    };
    status.observed_generation = Some(experiment.generation);
    if status.phase != Some(Phase::Paused) {
        (status.phase, status.stopping) = (Some(Phase::Paused), None);
        status.message = Some(match why {
            Begin::Tick => "Paused: the schedule goes on when spec.paused is false".to_owned(),
            Begin::Resume => summary::message(&status, experiment, &[]),
            Begin::Retry => {
                let (error, count) = (status.last_error.as_deref().unwrap_or_default(), status.retry_count.unwrap_or(1));
                format!("Paused: {error}; retry {count} follows when spec.paused is false")
            }
            Begin::New | Begin::Requested => "Paused before it began: set spec.paused to false to begin".to_owned(),
        });
    }
    if let (Begin::Tick, Some(Time(due))) = (why, &status.next_scheduled_time)
        && now >= *due
    {
        let decision = miss(experiment, now, "the experiment is paused");
        let next = decision.status.as_ref().and_then(|status| status.next_scheduled_time.clone());
        return Decision { status: Some(ChaosExperimentStatus { next_scheduled_time: next, ..status }), ..decision };
    }
    let until = status.next_scheduled_time.clone().filter(|_| why == Begin::Tick);
    Decision { status: changed(experiment, status), requeue: until.map(|Time(at)| rest::until(at, now)), ..Decision::default() }
}

fn changed(experiment: &Experiment<'_>, status: ChaosExperimentStatus) -> Option<ChaosExperimentStatus> {
    (experiment.status != Some(&status)).then_some(status)
}

fn look_again(now: Timestamp, at: Timestamp) -> Decision {
    Decision { requeue: Some(rest::until(at, now)), ..Decision::default() }
}
