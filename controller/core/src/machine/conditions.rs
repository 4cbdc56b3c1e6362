//! The conditions of a status. Each of them is there from the first visit on: whoever waits for one must not wait for a condition that a
//! refused run or a dry run never sets.

use super::{Decision, Experiment, plain, requested, rest};
use jiff::Timestamp;
use netloss_api::{ACCEPTED, AS_REQUESTED, ChaosExperimentStatus, NOT_ASKED, PREFLIGHT, RUN_REQUESTED};

/// The decision with all conditions in its status. They are written alone where nothing else changes.
pub(super) fn completed(experiment: &Experiment<'_>, decision: Decision, now: Timestamp) -> Decision {
    let stored = experiment.status.filter(|_| !experiment.deleting);
    let Some(mut status) = decision.status.clone().or_else(|| stored.cloned()) else { return decision };
    complete(experiment, &mut status, now);
    Decision { status: (experiment.status != Some(&status)).then_some(status), ..decision }
}

fn complete(experiment: &Experiment<'_>, status: &mut ChaosExperimentStatus, now: Timestamp) {
    rest::set_recovered(status, now);
    set_accepted(status, now);
    if status.condition(PREFLIGHT).is_none() {
        status.set_condition(PREFLIGHT, "Unknown", NOT_ASKED, "the API server was not asked whether it admits the agent", now);
    }
    if status.condition(AS_REQUESTED).is_none() {
        status.set_condition(AS_REQUESTED, "Unknown", "NotMeasured", "no agent has reported its counters", now);
    }
    set_run_requested(experiment, status, now);
    // The spec is the one that they were set for, but for spec.paused: kubectl wait ignores a condition of an older generation.
    let generation = status.observed_generation;
    for condition in &mut status.conditions {
        condition.observed_generation = generation;
        // As it is stored, so that nothing differs at the next visit.
        plain(&mut condition.message);
    }
}

/// A refusal stays until another attempt begins.
fn set_accepted(status: &mut ChaosExperimentStatus, now: Timestamp) {
    if status.condition(ACCEPTED).is_some_and(|is| is.status == "False") {
        return;
    }
    let has_begun = !status.pods.is_empty() || status.completed_at.is_some();
    let (value, reason, words) = if has_begun {
        ("True", "Begun", "nothing stood against this run when it began")
    } else {
        ("Unknown", "NotBegun", "the run has not begun")
    };
    status.set_condition(ACCEPTED, value, reason, words, now);
}

fn set_run_requested(experiment: &Experiment<'_>, status: &mut ChaosExperimentStatus, now: Timestamp) {
    let Some(value) = experiment.requested else {
        return status.set_condition(RUN_REQUESTED, "False", "NotRequested", "no other run is requested", now);
    };
    if let Err(why) = requested::run_request(value) {
        return status.set_condition(RUN_REQUESTED, "False", "InvalidValue", &why, now);
    }
    if !requested::is_new(experiment, status) {
        return status.set_condition(RUN_REQUESTED, "False", "Handled", &format!("the request of {value} is handled"), now);
    }
    let words = if experiment.spec.paused == Some(true) {
        "one more run begins when spec.paused is false, after what is left of this one"
    } else {
        "one more run begins when this one has ended and nothing else holds it back"
    };
    status.set_condition(RUN_REQUESTED, "True", "Waiting", words, now);
}
