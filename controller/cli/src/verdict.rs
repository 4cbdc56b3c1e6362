//! Whether a run is over, and what its end means for the exit code.

use super::error::Error;
use kube::ResourceExt;
use netloss_api::{AS_REQUESTED, ChaosExperiment, ChaosExperimentStatus, Outcome, Phase, PodStatus, RUN_REQUESTED_ANNOTATION, RunResult};
use netloss_core::{history, machine::is_run_requested, sanitize::some_of};

/// Whether the run that the spec asks for is over, and none is to follow by itself.
pub(super) fn is_over(object: &ChaosExperiment) -> bool {
    let Some(status) = &object.status else { return false };
    let is_current =
        status.observed_generation == object.metadata.generation || status.observed_spec.as_ref() == Some(&object.spec.fingerprint());
    let requested = object.annotations().get(RUN_REQUESTED_ANNOTATION).map(String::as_str);
    is_current
        && !is_run_requested(requested, status)
        && is_at_rest(object)
        && status.phase.is_some_and(Phase::is_final)
        && status.next_scheduled_time.is_none()
}

/// Whether nothing of it is under way in any pod.
pub(super) fn is_at_rest(object: &ChaosExperiment) -> bool {
    !object.status.as_ref().is_some_and(ChaosExperimentStatus::is_active)
}

/// Of a run that is over: nothing where it went as asked.
pub(super) fn of_run(object: &ChaosExperiment) -> Result<(), Error> {
    let name = object.name_any();
    let none = ChaosExperimentStatus::default();
    let status = object.status.as_ref().unwrap_or(&none);
    clean(object, status)?;
    let namespace = object.namespace().unwrap_or_default();
    let words = status.message.clone().unwrap_or_default();
    let otherwise = status.condition(AS_REQUESTED).filter(|is| is.status == "False" && status.stopping.is_none());
    if let (Some(otherwise), Some(Phase::Completed)) = (otherwise, status.phase) {
        return Err(Error::LossDiffers(format!("{name}: the measured loss is not the requested one: {}", otherwise.message)));
    }
    match history::result(status) {
        RunResult::Success => Ok(()),
        RunResult::Cancelled => Err(Error::NotAsAsked(format!("{name} was stopped before its time: {words}"))),
        RunResult::Failure => {
            Err(Error::NotAsAsked(format!("{name} failed: {words}: `kubectl netloss explain {name} -n {namespace}` says what to do")))
        }
        RunResult::Partial => Err(Error::NotAsAsked(format!("{name} did not go as asked in every pod: {}", partial(&status.pods)))),
    }
}

/// Of a run that was stopped: nothing where every pod is known to be free of it.
pub(super) fn clean(object: &ChaosExperiment, status: &ChaosExperimentStatus) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let left = some_of(status.impaired_pods().map(PodStatus::display_name));
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::LossMayRemain(format!(
        "{name}: loss may remain in {left}: `kubectl netloss doctor --fix -n {namespace}` removes it, and so does deleting the pod"
    )))
}

fn partial(pods: &[PodStatus]) -> String {
    let other = pods.iter().filter(|pod| pod.outcome != Some(Outcome::Clean));
    some_of(other.map(|pod| {
        let word = pod.outcome.map(super::view::outcome_word).unwrap_or_default();
        let message = pod.message.as_deref().map(|message| format!(" ({message})")).unwrap_or_default();
        format!("{}: {word}{message}", pod.name)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::{PodState, Stopping};
    use netloss_core::machine::fixtures::{at, entry, spec};

    fn object(phase: Phase, outcomes: &[Outcome]) -> ChaosExperiment {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.generation = Some(1);
        let ended = |outcome: &Outcome| PodStatus {
            state: PodState::Ended,
            outcome: Some(*outcome),
            applied_at: Some(Time(at(1))),
            unguarded: Some(true),
            ..entry()
        };
        object.status = Some(ChaosExperimentStatus {
            phase: Some(phase),
            observed_generation: Some(1),
            completed_at: Some(Time(at(9))),
            pods: outcomes.iter().map(ended).collect(),
            ..ChaosExperimentStatus::default()
        });
        object
    }

    fn exit(object: &ChaosExperiment) -> Exit {
        of_run(object).map_or_else(|error| error.exit(), |()| Exit::Done)
    }

    #[test]
    fn each_end_has_its_code() {
        assert_eq!(exit(&object(Phase::Completed, &[Outcome::Clean, Outcome::Clean])), Exit::Done);
        assert_eq!(exit(&object(Phase::Completed, &[Outcome::Clean, Outcome::Shortened])), Exit::NotAsAsked);
        assert_eq!(exit(&object(Phase::Failed, &[])), Exit::NotAsAsked);
        let mut differs = object(Phase::Completed, &[Outcome::Clean]);
        let status = differs.status.as_mut().unwrap();
        status.set_condition(AS_REQUESTED, "False", "NoPacketMatched", "no packet matched", at(9));
        assert_eq!((exit(&differs), history::result(differs.status.as_ref().unwrap())), (Exit::LossDiffers, RunResult::Partial));
        assert_eq!(exit(&object(Phase::Completed, &[Outcome::Clean, Outcome::Unknown])), Exit::LossMayRemain);
        let mut stopped = object(Phase::Completed, &[Outcome::Shortened]);
        stopped.status.as_mut().unwrap().stopping = Some(Stopping::Deleted);
        assert_eq!(exit(&stopped), Exit::NotAsAsked);
        assert!(clean(&stopped, stopped.status.as_ref().unwrap()).is_ok(), "who stops it asks for nothing more");
    }

    #[test]
    fn a_run_is_over_when_nothing_follows() {
        let over = object(Phase::Completed, &[Outcome::Clean]);
        assert!(is_over(&over));
        let mut edited = over.clone();
        edited.metadata.generation = Some(2);
        assert!(!is_over(&edited), "the controller has not seen the new spec");
        edited.status.as_mut().unwrap().observed_spec = Some(edited.spec.fingerprint());
        assert!(is_over(&edited), "only paused has changed");
        let mut requested = over.clone();
        requested.annotations_mut().insert(RUN_REQUESTED_ANNOTATION.to_owned(), at(9).to_string());
        assert!(!is_over(&requested), "the requested run has not begun");
        requested.status.as_mut().unwrap().run_requested_at = Some(at(9).to_string());
        assert!(is_over(&requested));
        let mut again = over.clone();
        again.status.as_mut().unwrap().next_scheduled_time = Some(Time(at(100)));
        assert!(!is_over(&again));
        let mut open = over;
        open.status.as_mut().unwrap().pods.push(entry());
        assert!(!is_over(&open) && !is_at_rest(&open));
        assert!(!is_over(&ChaosExperiment::new("x", spec())));
    }
}
