//! A run in one sentence.
//!
//! k8s-chaos's tooling looks for `Successfully injected 10% packet loss into 2 pod(s)` and `No eligible pods`.

use super::{Experiment, is_edited};
use crate::sanitize::some_of;
use netloss_api::{AS_REQUESTED, ChaosExperimentStatus, Phase, PodStatus, Stopping};

/// The message of a run that has pods; `obstacles` are what stands in the way at present.
pub(super) fn message(status: &ChaosExperimentStatus, experiment: &Experiment<'_>, obstacles: &[String]) -> String {
    let pods = &status.pods;
    let total = pods.len();
    let applied = pods.iter().filter(|pod| pod.was_applied()).count();
    let loss = pods.first().map(|pod| pod.asked.loss_percentage).unwrap_or_default();
    let mut sentences = vec![match status.phase {
        Some(Phase::Failed) => format!("Failed to inject {loss}% packet loss into any of {total} pod(s)"),
        Some(Phase::Running | Phase::Completed) => {
            let all = if applied == total { String::new() } else { format!(", {applied} of {total}") };
            format!("Successfully injected {loss}% packet loss into {applied} pod(s){all}")
        }
        Some(Phase::Paused) => {
            let left = pods.iter().filter_map(|pod| pod.remaining.clone().map(|left| format!("{}: {left}", pod.name)));
            let left = some_of(left);
            format!("Paused: {loss}% packet loss is stopped; with spec.paused: false it goes on for what is left ({left})")
        }
        Some(Phase::Pending) | None => format!("Injecting {loss}% packet loss into {total} pod(s)"),
    }];
    if status.phase == Some(Phase::Completed) {
        sentences.push(recovery(pods));
    }
    let otherwise = status.condition(AS_REQUESTED).filter(|is| is.status == "False");
    sentences.extend(otherwise.map(|is| is.message.clone()));
    let is_current = !is_edited(experiment, status);
    let asked = usize::try_from(experiment.spec.count).unwrap_or(usize::MAX);
    if is_current && total < asked {
        sentences.push(format!("only {total} of the {asked} pods asked for were eligible"));
    }
    let not_recovered = pods.iter().filter(|pod| pod.outcome.is_some_and(|outcome| !outcome.is_recovery()));
    let troubles = not_recovered.map(|pod| format!("{}: {}", pod.name, pod.message.as_deref().unwrap_or_default()));
    let open = status.open_pods().filter(|pod| pod.message.is_some());
    let at_work = open.map(|pod| format!("{}: {}", pod.name, pod.message.as_deref().unwrap_or_default()));
    let troubles =
        if status.phase == Some(Phase::Paused) { String::new() } else { some_of(obstacles.iter().cloned().chain(at_work).chain(troubles)) };
    if !troubles.is_empty() {
        sentences.push(troubles);
    }
    match status.stopping {
        Some(Stopping::Edited) => sentences.push("the spec was edited: this run is stopped, and a new one begins after it".to_owned()),
        Some(why) if status.phase != Some(Phase::Paused) => sentences.push(format!("{}: this run is stopped", why.words())),
        _ => {}
    }
    sentences.join("; ")
}

fn recovery(pods: &[PodStatus]) -> String {
    let unknown = pods.iter().filter(|pod| pod.was_applied() && pod.may_be_impaired()).count();
    if unknown == 0 { "it has ended".to_owned() } else { format!("in {unknown} of them loss may remain") }
}
