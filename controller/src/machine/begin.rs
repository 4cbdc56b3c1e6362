//! What holds a run back, as far as the spec, the status and the clock tell.

use super::{
    Begin, Decision, Experiment, Settings, events,
    plan::{fail, whole},
    request::check,
    rest,
};
use crate::{
    api::{ChaosExperimentStatus, Phase},
    schedule::Schedule,
    windows::{Access, Windows},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// How late a scheduled run may begin. One that is later was missed, and is skipped: it would come as a surprise.
const LATE: SignedDuration = SignedDuration::from_mins(2);

/// What to do in place of beginning, if the run is held back.
pub(super) fn hold(experiment: &Experiment<'_>, why: Begin, now: Timestamp, settings: &Settings) -> Option<Decision> {
    let spec = experiment.spec;
    if spec.paused == Some(true) {
        return Some(paused(experiment, why, now));
    }
    if let Err(refusal) = check(experiment, settings) {
        return Some(fail(experiment, why, now, refusal, Vec::new(), false));
    }
    let status = experiment.status;
    if let (Begin::Retry, Some(Time(at))) = (why, status.and_then(|status| status.next_retry_time.as_ref()))
        && now < *at
    {
        return Some(look_again(now, *at));
    }
    // Both were read by `check` already.
    let schedule = spec.schedule.as_deref().and_then(|text| Schedule::parse(text).ok());
    let windows = Windows::of(spec).unwrap_or_default();
    match (why, schedule) {
        (Begin::New, Some(schedule)) => return Some(arm(experiment, &schedule, now)),
        (Begin::Tick, Some(schedule)) => {
            let due = status.and_then(|status| status.next_scheduled_time.as_ref())?.0;
            // Whoever writes status does not choose when it runs.
            if !schedule.has(due) {
                return Some(arm(experiment, &schedule, now));
            }
            if now < due {
                return Some(look_again(now, due));
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
                let message = "none of spec.timeWindows opens within a week: give one that is still to come".to_owned();
                return Some(fail(experiment, why, now, message, Vec::new(), false));
            }
        },
    }
    None
}

/// Waits with a word about it; `until` is when to look again at the latest.
pub(super) fn wait(experiment: &Experiment<'_>, why: Begin, message: String, until: Option<Timestamp>, now: Timestamp) -> Decision {
    const POLL: Duration = Duration::from_secs(10);
    let mut status = rest::carried(experiment, why);
    (status.phase, status.message) = (Some(Phase::Pending), Some(message));
    let requeue = Some(until.map_or(POLL, |at| rest::until(at, now)));
    Decision { status: changed(experiment, status), requeue, ..Decision::default() }
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
    let next = schedule.next(now);
    status.next_scheduled_time = next.map(Time);
    status.phase = Some(Phase::Pending);
    status.message = next.map(|at| format!("Scheduled: the next run is at {}", whole(at)));
    Decision { status: changed(experiment, status), requeue: next.map(|at| rest::until(at, now)), ..Decision::default() }
}

fn paused(experiment: &Experiment<'_>, why: Begin, now: Timestamp) -> Decision {
    // What a pause interrupted, or what stands until the schedule's next run, is kept to be read.
    let mut status = match (why, experiment.status) {
        (Begin::Resume | Begin::Tick | Begin::Retry, Some(status)) => status.clone(),
        _ => rest::carried(experiment, why),
    };
    status.observed_generation = Some(experiment.generation);
    if status.phase != Some(Phase::Paused) {
        (status.phase, status.next_retry_time, status.stopping) = (Some(Phase::Paused), None, None);
        let message = match why {
            Begin::Tick => "Paused: the schedule goes on when spec.paused is false",
            _ => "Paused before it began: set spec.paused to false to begin",
        };
        status.message = Some(message.to_owned());
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
