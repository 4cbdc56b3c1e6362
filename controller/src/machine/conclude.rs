//! What an agent that has ended leaves to be concluded.
//!
//! Only its own report says that the loss is gone. Without one the most that can be said is what the exit code stands for, and an
//! exit code of 0 alone stands for nothing: any program can end so.

use crate::{
    api::{Outcome, PodState, PodStatus},
    words::brief,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_contract::{Applied, Backend, Event, ExitCode, Failed, Record, Removed, Ttl};
use std::time::Duration;

/// The share of the duration under which a loss counts as shortened.
const SHORTENED_BELOW: f64 = 0.9;

/// The loss was in place.
pub(super) fn mark_applied(pod: &mut PodStatus, at: Timestamp, applied: &Applied) {
    if !pod.was_applied() {
        pod.state = pod.state.max(PodState::Applied);
        pod.applied_at = Some(Time(at));
        pod.interface = Some(brief(&applied.interface));
        pod.backend = Some(backend(applied.backend));
        pod.unguarded = Some(applied.unguarded);
    }
}

/// The agent's container has ended.
pub(super) fn conclude(pod: &mut PodStatus, exit_code: i32, reason: Option<&str>, words: Option<&str>, last: Option<&Record>) {
    let (outcome, message) = match last.map(|record| (record.time, &record.event)) {
        Some((_, Event::Removed(removed))) => of_removed(pod, removed),
        Some((_, Event::Failed(failed))) => of_failed(failed),
        Some((at, Event::Heartbeat(heartbeat))) => {
            let since = SignedDuration::try_from_secs_f64(-heartbeat.elapsed_seconds).ok().and_then(|elapsed| at.checked_add(elapsed).ok());
            pod.applied_at = pod.applied_at.take().or_else(|| since.map(Time));
            pod.observed = Some(heartbeat.traffic.into());
            (Outcome::Unknown, Some(killed(exit_code, reason)))
        }
        Some((at, Event::Applied(applied))) => {
            mark_applied(pod, at, applied);
            (Outcome::Unknown, Some(killed(exit_code, reason)))
        }
        // The others are not of a run, whoever wrote them there.
        Some((_, Event::Status(_) | Event::Stopped(_) | Event::Cleaned(_) | Event::Planned(_) | Event::Checked(_))) | None => {
            of_exit_code(exit_code, reason, words)
        }
    };
    pod.state = PodState::Ended;
    pod.outcome = Some(outcome);
    pod.message = message;
}

fn of_removed(pod: &mut PodStatus, removed: &Removed) -> (Outcome, Option<String>) {
    pod.applied_at = Some(Time(removed.applied_at));
    pod.interface = Some(brief(&removed.interface));
    pod.backend = Some(backend(removed.backend));
    pod.unguarded = Some(removed.backend.unguarded());
    pod.observed = Some(removed.traffic.into());
    pod.loss_seconds = Some((removed.elapsed_seconds * 10.0).round() / 10.0);
    let asked = pod.asked.duration.parse::<Ttl>().map_or(0.0, |ttl| ttl.duration().as_secs_f64());
    let cause = serde_json::to_value(removed.cause).ok().and_then(|cause| cause.as_str().map(str::to_owned)).unwrap_or_default();
    if removed.elapsed_seconds < SHORTENED_BELOW * asked {
        let message = format!("the loss lasted {:.1} s of {}: ended by {cause}", removed.elapsed_seconds, pod.asked.duration);
        return (Outcome::Shortened, Some(message));
    }
    if let Some(kept) = removed.kept.as_ref().filter(|kept| kept.degraded) {
        let (armed, elapsed, lapses) = (kept.armed_seconds, removed.elapsed_seconds, kept.lapses);
        let message = format!(
            "packets were lost for {armed:.1} s of {elapsed:.1} s: the agent got too little processor time (its lease lapsed {lapses} time(s))"
        );
        return (Outcome::Degraded, Some(message));
    }
    let drift = (!removed.drift.is_empty()).then(|| format!("somebody else changed it meanwhile: {}", brief(&removed.drift.join("; "))));
    (Outcome::Clean, drift)
}

/// What a pause has left of the duration, if anything.
pub(super) fn remaining(pod: &PodStatus) -> Option<String> {
    match pod.outcome? {
        Outcome::NeverStarted => Some(pod.asked.duration.clone()),
        Outcome::Shortened => {
            let asked = pod.asked.duration.parse::<Ttl>().ok()?.duration();
            let lasted = Duration::try_from_secs_f64(pod.loss_seconds?).ok()?;
            let left = asked.checked_sub(lasted)?.as_secs_f64().round();
            Ttl::try_from(Duration::try_from_secs_f64(left).ok()?).ok().map(|left| left.to_string())
        }
        _ => None,
    }
}

fn of_failed(failed: &Failed) -> (Outcome, Option<String>) {
    let message = brief(&failed.message);
    if failed.exit == ExitCode::Incomplete || !failed.left.is_empty() {
        let left = brief(&failed.left.join("; "));
        return (Outcome::Unknown, Some(format!("{message}: {left}")));
    }
    let outcome = if failed.exit == ExitCode::DeadlinePassed { Outcome::NeverStarted } else { Outcome::Failed };
    (outcome, Some(message))
}

fn of_exit_code(exit_code: i32, reason: Option<&str>, words: Option<&str>) -> (Outcome, Option<String>) {
    let words = words.map(brief).filter(|words| !words.is_empty());
    // The runtime's names for a process that could not be started at all.
    if matches!(reason, Some("StartError" | "ContainerCannotRun")) {
        let why = words.unwrap_or_else(|| format!("exit code {exit_code}"));
        return (Outcome::NeverStarted, Some(format!("the agent could not be started: {why}")));
    }
    let meaning = match ExitCode::from_code(exit_code) {
        Some(ExitCode::DeadlinePassed) => return (Outcome::NeverStarted, Some("the agent started after its deadline".to_owned())),
        Some(ExitCode::Usage) => "the agent did not understand its arguments",
        Some(ExitCode::AlreadyRunning) => "another agent works in the pod",
        Some(ExitCode::Refused) => "the agent refused to act on this pod",
        Some(ExitCode::Unsupported) => "the node's kernel or the container lacks what is needed",
        Some(ExitCode::Failed) => "the agent failed and undid what it had done",
        // The last two are not of a run either.
        Some(ExitCode::Done | ExitCode::Incomplete | ExitCode::OtherRun | ExitCode::Unresponsive) | None => {
            return (Outcome::Unknown, Some(killed(exit_code, reason)));
        }
    };
    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
    (Outcome::Failed, Some(format!("{meaning} (exit code {exit_code}, no report){words}")))
}

fn killed(exit_code: i32, reason: Option<&str>) -> String {
    let reason = reason.map(|reason| format!(", {}", brief(reason))).unwrap_or_default();
    format!("the agent ended without its report (exit code {exit_code}{reason})")
}

/// As the reports spell it.
fn backend(backend: Backend) -> String {
    serde_json::to_value(backend).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}
