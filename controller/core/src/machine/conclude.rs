//! What an agent that has ended leaves to be concluded.
//!
//! Only its own report says that the loss is gone. Without one the most that can be said is what the exit code stands for, and an
//! exit code of 0 alone stands for nothing: any program can end so.

use crate::sanitize::brief;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_api::{ObservedLoss, Outcome, PodState, PodStatus};
use netloss_contract::{Applied, Event, ExitCode, Failed, Record, Removed, Ttl};
use std::time::Duration;

/// The share of the duration under which a loss counts as shortened.
const SHORTENED_BELOW: f64 = 0.9;

/// A time of a report, as far as the definition takes it (the pattern of times in `api/crd.rs` ends with the year 8999).
fn reported(at: Timestamp) -> Time {
    /// 8999-12-31T23:59:59Z.
    const LAST: i64 = 221_845_391_999;
    Time(Timestamp::from_second(at.as_second().clamp(0, LAST)).unwrap_or_default())
}

/// The loss was in place.
pub(super) fn mark_applied(pod: &mut PodStatus, at: Timestamp, applied: &Applied) {
    if !pod.was_applied() {
        pod.state = pod.state.max(PodState::Applied);
        pod.applied_at = Some(reported(at));
        pod.interface = Some(brief(&applied.interface));
        pod.backend = Some(applied.backend.to_string());
        pod.unguarded = Some(applied.unguarded);
    }
}

/// The agent's container has ended.
pub(super) fn conclude(pod: &mut PodStatus, exit_code: i32, reason: Option<&str>, words: Option<&str>, last: Option<&Record>) {
    let exit = ExitCode::from_code(exit_code);
    let (outcome, message) = match last.map(|record| (record.time, &record.event)) {
        // An agent ends as it has reported. Of one that was killed somebody else may have written the report.
        Some((_, Event::Removed(removed))) if exit == Some(ExitCode::Done) => of_removed(pod, removed),
        Some((_, Event::Failed(failed))) if exit == Some(failed.exit) && failed.exit != ExitCode::Done => of_failed(failed),
        Some((_, Event::Removed(_) | Event::Failed(_))) => (Outcome::Unknown, Some(otherwise(exit_code, reason))),
        Some((at, Event::Heartbeat(heartbeat))) => {
            let since = SignedDuration::try_from_secs_f64(-heartbeat.elapsed_seconds).ok().and_then(|elapsed| at.checked_add(elapsed).ok());
            pod.applied_at = pod.applied_at.take().or_else(|| since.map(reported));
            pod.observed = Some(ObservedLoss::new(heartbeat.traffic, pod.asked.expectation()));
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
    pod.applied_at = Some(reported(removed.applied_at));
    pod.interface = Some(brief(&removed.interface));
    pod.backend = Some(removed.backend.to_string());
    pod.unguarded = Some(removed.backend.unguarded());
    pod.observed = Some(ObservedLoss::new(removed.traffic, pod.asked.expectation()));
    // No agent brings a loss for longer.
    let elapsed = removed.elapsed_seconds.clamp(0.0, Ttl::MAX.as_secs_f64());
    pod.loss_seconds = Some((elapsed * 10.0).round() / 10.0);
    // Since when is not known: what was brought again once is in `repaired`, and this is what stayed.
    let drift = (!removed.drift.is_empty())
        .then(|| format!("another process changed the loss before its end: {}", brief(&removed.drift.join("; "))));
    pod.changed_by_others = drift.is_some().then_some(true);
    let with_drift = |words: String| drift.as_ref().map_or(words.clone(), |drift| format!("{words}; {drift}"));
    let asked = pod.asked.duration.parse::<Ttl>().map_or(0.0, |ttl| ttl.duration().as_secs_f64());
    let cause = removed.cause;
    if elapsed < SHORTENED_BELOW * asked {
        let message = format!("the loss lasted {elapsed:.1} s of {}: ended by {cause}", pod.asked.duration);
        return (Outcome::Shortened, Some(with_drift(message)));
    }
    if let Some(kept) = removed.kept.as_ref().filter(|kept| kept.degraded) {
        let (armed, lapses) = (kept.armed_seconds.clamp(0.0, elapsed), kept.lapses);
        let message = format!(
            "packets were lost for {armed:.1} s of {elapsed:.1} s: the agent got too little processor time (its lease lapsed {lapses} time(s))"
        );
        return (Outcome::Degraded, Some(with_drift(message)));
    }
    drift.map_or((Outcome::Clean, None), |message| (Outcome::Degraded, Some(message)))
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
    format!("the agent ended without its report ({})", ending(exit_code, reason))
}

fn otherwise(exit_code: i32, reason: Option<&str>) -> String {
    format!("the agent ended otherwise than its report says ({}), so that is not believed", ending(exit_code, reason))
}

/// As the kubelet tells it.
fn ending(exit_code: i32, reason: Option<&str>) -> String {
    let reason = reason.map(|reason| format!(", {}", brief(reason))).unwrap_or_default();
    format!("exit code {exit_code}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{entry, record, removed};

    fn outcome(exit_code: i32, event: Event) -> (Option<Outcome>, PodStatus) {
        let mut pod = entry();
        conclude(&mut pod, exit_code, None, None, Some(&record(event)));
        (pod.outcome, pod)
    }

    #[test]
    fn a_report_is_believed_of_an_agent_that_ended_so() {
        assert_eq!(outcome(0, removed()).0, Some(Outcome::Clean));
        assert_eq!(outcome(137, removed()).0, Some(Outcome::Unknown));
        let failed = |exit| {
            Event::Failed(Failed { stage: netloss_contract::Stage::Hold, message: "no".to_owned(), exit, left: Vec::new(), holder: None })
        };
        assert_eq!(outcome(1, failed(ExitCode::Failed)).0, Some(Outcome::Failed));
        for (code, exit) in [(137, ExitCode::Failed), (0, ExitCode::Failed), (0, ExitCode::Done)] {
            let (outcome, pod) = outcome(code, failed(exit));
            assert_eq!(outcome, Some(Outcome::Unknown), "{code} {exit:?}");
            assert!(pod.message.unwrap().starts_with("the agent ended otherwise than its report says (exit code "));
        }
    }

    #[test]
    fn a_loss_that_others_removed_is_not_clean() {
        let Event::Removed(mut report) = removed() else { panic!("it is one") };
        report.drift = vec!["qdisc 7a11: is gone".to_owned()];
        let (outcome, pod) = outcome(0, Event::Removed(report));
        assert_eq!((outcome, pod.changed_by_others), (Some(Outcome::Degraded), Some(true)));
        assert_eq!(pod.message.as_deref(), Some("another process changed the loss before its end: qdisc 7a11: is gone"));
    }

    #[test]
    fn changes_by_others_are_told_of_a_shortened_loss_too() {
        let Event::Removed(mut report) = removed() else { panic!("it is one") };
        (report.drift, report.elapsed_seconds) = (vec!["qdisc 7a11: is gone".to_owned()], 3.0);
        let (outcome, pod) = outcome(0, Event::Removed(report));
        assert_eq!((outcome, pod.changed_by_others), (Some(Outcome::Shortened), Some(true)));
        assert!(pod.message.unwrap().ends_with("; another process changed the loss before its end: qdisc 7a11: is gone"));
    }

    /// An API server refuses a status with what JSON has no number for, and with a time before the year 0.
    #[test]
    fn what_a_report_counts_and_dates_fits_into_a_status() {
        for (elapsed, applied_at, seconds) in
            [(1e308, "-009999-01-02T01:59:59Z", 604_800.0), (-1e308, "9999-12-30T00:00:00Z", 0.0), (30.04, "2027-01-15T08:00:10Z", 30.0)]
        {
            let Event::Removed(mut report) = removed() else { panic!("it is one") };
            (report.elapsed_seconds, report.applied_at) = (elapsed, applied_at.parse().unwrap());
            let (_, pod) = outcome(0, Event::Removed(report));
            assert_eq!(pod.loss_seconds, Some(seconds));
            assert!(pod.applied_at.unwrap().0 >= Timestamp::UNIX_EPOCH);
        }
    }
}
