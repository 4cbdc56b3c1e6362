//! The order in which a decision is done.
//!
//! The order is what makes a crash between any two steps harmless (docs/ARCHITECTURE.md, invariant 4), so it stands here alone: the
//! executor (`reconcile` of the controller) goes through these steps, and so does the model check (`tests/model`).

use crate::{history, machine::Decision};
use jiff::{SignedDuration, Timestamp};
use netloss_api::ChaosExperimentStatus;

/// How long after its begin a round still does what it decided. One that was asleep for longer (a process that was stopped, a slow API
/// server) drops it and reads again.
///
/// The machine says of a pod that no agent comes into it any more `Settings::start_timeout` (two minutes) after somebody read that status. The one
/// who writes that down may act so late after reading, and the one who read the status just before that, to put in an agent, may do so as well:
/// twice this time has to be less than that one, and what is left of it is for requests that are under way and for clocks that differ.
pub const ACT_WITHIN: SignedDuration = SignedDuration::from_secs(45);

/// Whether what a round that began then has decided is too old to be done now.
#[must_use]
pub fn is_too_late(begun: Timestamp, now: Timestamp) -> bool {
    now.duration_since(begun) > ACT_WITHIN
}

/// One step. After the last one the experiment is read again and decided about again, unless that one ends the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Write the record of a run that is over or paused.
    Record,
    /// Write the status, with the version of the object that it was decided from. If that has changed, nothing else is done.
    WriteStatus,
    /// Tell what was written down.
    Publish,
    /// End the pass with what went wrong in the round before.
    GiveUp,
    /// Give the experiment our finalizer, or take it away, with the version of the object that this was decided from.
    SetFinalizer(bool),
    /// End the pass: there is nothing more to do now.
    AwaitChange,
    /// Ask the API server whether it would admit the agent.
    DryRunPatch,
    /// Put in what stops an agent or takes away what it left.
    ApplyFollowUps,
    /// Put in agents.
    Inject,
}

impl Step {
    /// Whether it changes something, so that it must not be done too late.
    #[must_use]
    pub fn acts(self) -> bool {
        !matches!(self, Self::Publish | Self::GiveUp | Self::AwaitChange)
    }
}

/// What to do about a decision that was made from the status `before`; `failed` if a patch of the round before has to be tried again.
#[must_use]
pub fn steps(decision: &Decision, before: Option<&ChaosExperimentStatus>, failed: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(status) = &decision.status {
        steps.extend(history::is_to_be_recorded(before, status).then_some(Step::Record));
        steps.push(Step::WriteStatus);
    }
    steps.push(Step::Publish);
    if failed {
        steps.push(Step::GiveUp);
        return steps;
    }
    if let Some(wanted) = decision.finalizer {
        // The version that the status write made is not known here: the next round has it.
        steps.extend(decision.status.is_none().then_some(Step::SetFinalizer(wanted)));
        return steps;
    }
    let Decision { preflight, injections, stops, repairs, .. } = decision;
    let (asks, sends, injects) = (!preflight.is_empty(), !(stops.is_empty() && repairs.is_empty()), !injections.is_empty());
    // Something is to be done about what was just written: the next round does it.
    let more = decision.status.as_ref().is_some_and(|status| promises_more(status, before));
    if !(asks || sends || injects || more) {
        steps.push(Step::AwaitChange);
    }
    let acts = [(asks, Step::DryRunPatch), (sends, Step::ApplyFollowUps), (injects, Step::Inject)];
    steps.extend(acts.into_iter().filter_map(|(acts, step)| acts.then_some(step)));
    steps
}

/// Whether what was just written has to be followed by something at once: an attempt was planned or answered for, or a container is to
/// be sent after an agent.
fn promises_more(status: &ChaosExperimentStatus, before: Option<&ChaosExperimentStatus>) -> bool {
    let planned = |status: &ChaosExperimentStatus| (status.run, status.attempt);
    let sent = |status: &ChaosExperimentStatus| {
        status.pods.iter().map(|pod| pod.stop.as_ref().map_or(0, |stop| stop.number) + u32::from(pod.repair.is_some())).sum::<u32>()
    };
    let none = ChaosExperimentStatus::default();
    let before = before.unwrap_or(&none);
    status.is_active()
        && (planned(status) != planned(before)
            || sent(status) > sent(before)
            || status.preflight().is_some() != before.preflight().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{at, planned, spec};

    #[test]
    fn what_is_written_comes_first_and_patches_come_last() {
        let before = planned(&spec(), 1);
        let pods = before.pods.clone();
        let after = ChaosExperimentStatus { message: Some("another".to_owned()), ..before.clone() };
        let all = Decision {
            status: Some(after),
            preflight: pods.clone(),
            injections: pods.clone(),
            stops: pods.clone(),
            repairs: pods,
            ..Decision::default()
        };
        let order = [Step::WriteStatus, Step::Publish, Step::DryRunPatch, Step::ApplyFollowUps, Step::Inject];
        assert_eq!(steps(&all, Some(&before), false), order);
        // What went wrong is told after what was decided meanwhile is written down; no patch follows.
        assert_eq!(steps(&all, Some(&before), true), [Step::WriteStatus, Step::Publish, Step::GiveUp]);
    }

    #[test]
    fn what_was_decided_long_ago_is_not_done() {
        assert!(!is_too_late(at(0), at(0)) && !is_too_late(at(0), at(45)));
        assert!(is_too_late(at(0), at(46)));
        // A clock that was set back makes nothing older.
        assert!(!is_too_late(at(0), at(-100)));
        let start_timeout = SignedDuration::try_from(crate::machine::fixtures::settings().start_timeout).unwrap();
        assert!(ACT_WITHIN * 2 + SignedDuration::from_secs(20) < start_timeout, "there is time for a request, and for clocks that differ");
        // What happened is told and waited for, however late.
        let late = [Step::Publish, Step::GiveUp, Step::AwaitChange];
        assert!(late.into_iter().all(|step| !step.acts()));
        let acts = [Step::Record, Step::WriteStatus, Step::SetFinalizer(false), Step::DryRunPatch, Step::ApplyFollowUps, Step::Inject];
        assert!(acts.into_iter().all(Step::acts));
    }

    #[test]
    fn the_finalizer_is_never_set_in_the_round_that_writes_the_status() {
        let before = planned(&spec(), 1);
        let alone = Decision { finalizer: Some(true), injections: before.pods.clone(), ..Decision::default() };
        assert_eq!(steps(&alone, Some(&before), false), [Step::Publish, Step::SetFinalizer(true)]);
        let with_status = Decision { status: Some(before.clone()), ..alone };
        assert_eq!(steps(&with_status, Some(&before), false), [Step::WriteStatus, Step::Publish]);
    }

    #[test]
    fn a_plan_is_followed_up_at_once_and_an_end_is_recorded_before_it_is_written() {
        let plan = Decision { status: Some(planned(&spec(), 1)), ..Decision::default() };
        assert_eq!(steps(&plan, None, false), [Step::WriteStatus, Step::Publish]);
        let mut over = planned(&spec(), 0);
        over.completed_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
        let over = Decision { status: Some(over), ..Decision::default() };
        assert_eq!(steps(&over, None, false), [Step::Record, Step::WriteStatus, Step::Publish, Step::AwaitChange]);
        assert_eq!(steps(&Decision::default(), None, false), [Step::Publish, Step::AwaitChange]);
    }
}
