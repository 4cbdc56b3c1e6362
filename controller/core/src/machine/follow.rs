//! A run that is under way: why it is ended early, what each of its pods needs, and what that makes of the whole.

use super::{
    About, Decision, EventRecord, Experiment, Pods, Preflight, Protection, Settings, conclude,
    derive::Derived,
    events, is_edited,
    plan::too_large_a_share,
    pod::{Follower, PutIn, Step, is_of_run},
    rest, summary,
};
use crate::{refusal::Refusal, sanitize::brief, targets};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_api::{ChaosExperimentStatus, Outcome, PREFLIGHT, Phase, PodStatus, Stopping};
use std::{collections::BTreeSet, time::Duration};

/// The name of a run in its agents' arguments and records.
pub(super) fn run_id(uid: &str, run: u32) -> String {
    format!("{uid}/{run}")
}

/// Of an entry that was not written by this controller.
const FORGED: &str = "this entry does not belong to this run, somebody else has written it: nothing was done about it";
/// Between looks where a watch will tell anyway: for what a watch may miss while it is begun again.
const POLL_QUIET: Duration = Duration::from_mins(1);
/// Between looks at how many targets are ready, whose pods no watch tells of: as often as agents report. Each is one list; the loss goes on for that long
/// after spec.abort is met.
const POLL_READY: Duration = Duration::from_secs(5);

pub(super) fn follow(
    experiment: &Experiment<'_>,
    before: &ChaosExperimentStatus,
    seen: &Pods,
    now: Timestamp,
    settings: &Settings,
) -> Decision {
    let mut after = before.clone();
    let mut decision = Decision::default();
    let mut obstacles = Vec::new();
    let target = experiment.spec.target_namespace(experiment.namespace);
    let run = before.run.unwrap_or_default();
    after.stopping = before.stopping.or_else(|| stopping(experiment, before, seen));
    if !is_edited(experiment, before) {
        after.observed_generation = Some(experiment.generation);
    }
    let refusal = preflight(&mut after, seen, now);
    let (grace, start, stopping, uid) = (settings.grace, settings.start_timeout, after.stopping, experiment.uid);
    // Nobody sends an agent under another status than one like this.
    let on_its_way = experiment.finalized && before.preflight().is_some();
    let derived = Derived::new(experiment, before, now, settings);
    let protection = seen.protection.as_ref().map(|protection| check_protection(experiment, before, protection, settings));
    let follower = Follower { now, grace, start, stopping, refusal, protection, on_its_way, derived, uid, run };
    for (entry, pod) in before.pods.iter().zip(&mut after.pods).filter(|(entry, _)| entry.is_open()) {
        // What is not looked at now is looked at the next time.
        let step = match seen.views.get(&entry.uid) {
            Some(_) if !is_of_run(entry, uid, run) => follower.end(pod, Outcome::Unknown, FORGED),
            Some(view) => follower.step(pod, view),
            None => Step::default(),
        };
        if !pod.is_open() && after.stopping == Some(Stopping::Paused) {
            pod.remaining = conclude::remaining(pod);
        }
        match step.put_in {
            Some(PutIn::Agent) => decision.injections.push(entry.clone()),
            Some(PutIn::Stop) => decision.stops.push(entry.clone()),
            Some(PutIn::Repair) => decision.repairs.push(entry.clone()),
            None => {}
        }
        decision.refusal = decision.refusal.or(step.refused);
        if step.adopted {
            // The container of a resumption follows the one before it, so that there are no more of them than pods.
            let pod = format!("{}:", entry.display_name());
            after.affected_pods.retain(|affected| !affected.starts_with(&pod));
            after.affected_pods.push(format!("{pod}{}", entry.container));
        }
        decision.events.extend(step.rejected.map(|words| events::rejected(entry, &words)));
        obstacles.extend(step.obstacle.map(|obstacle| format!("{}: {obstacle}", entry.name)));
        if pod.is_open() {
            decision.requeue = [decision.requeue, step.look_again, Some(POLL_QUIET)].into_iter().flatten().min();
        }
        // Into no other namespace: whoever may write this status may not write events there.
        let is_ours = |event: &EventRecord| !matches!(&event.about, About::Pod(pod) if pod.namespace != target);
        decision.events.extend(events::of_transition(entry, pod).into_iter().filter(is_ours));
        if let (false, Some(Time(applied)), Some(Time(began))) = (entry.was_applied(), &pod.applied_at, &before.last_run_time) {
            decision.events.extend(events::clock_skew(pod, *began, *applied, now));
        }
    }
    if experiment.spec.abort.is_some() {
        decision.requeue = decision.requeue.map(|wait| wait.min(POLL_READY));
    }
    // Each agent had already completed its whole duration: nothing was stopped.
    if before.stopping.is_none() && !after.pods.is_empty() && after.pods.iter().all(|pod| pod.outcome == Some(Outcome::Clean)) {
        after.stopping = None;
    }
    // An agent removes what others have left in its pod before it applies its loss.
    let brought = |uid: &str| after.pods.iter().any(|pod| pod.uid == uid && pod.was_applied());
    after.unresolved_pods = std::mem::take(&mut after.unresolved_pods).into_iter().filter(|left| !brought(&left.uid)).collect();
    before_injecting(experiment, &after, seen, &mut decision);
    if after.is_active() {
        let applied = after.pods.iter().any(PodStatus::was_applied);
        after.phase = Some(if applied { Phase::Running } else { Phase::Pending });
        after.message = Some(summary::message(&after, experiment, &obstacles));
        rest::set_recovered(&mut after, now);
    } else {
        decision.events.extend(rest::settle(experiment, &mut after, now));
        // It is there exactly while something is under way in a pod.
        decision.finalizer = experiment.finalized.then_some(false);
        decision.requeue = rest::requeue(&after, now);
    }
    decision.events.extend(events::of_run(before, &after));
    decision.status = (after != *before).then_some(after);
    decision
}

/// Whether an agent may be injected, as the API server shows the target by now.
fn check_protection(
    experiment: &Experiment<'_>,
    before: &ChaosExperimentStatus,
    protection: &Protection,
    settings: &Settings,
) -> Result<(), Refusal> {
    let spec = experiment.spec;
    let namespace = spec.target_namespace(experiment.namespace);
    let production = spec.allow_production == Some(true);
    if let Some(refusal) = targets::refusal(&protection.namespace, namespace, experiment.namespace, production, settings) {
        return Err(refusal);
    }
    let eligible = protection.eligible.len();
    let taken = before.open_pods().filter(|pod| protection.eligible.contains(&pod.uid)).count();
    match spec.max_percentage {
        Some(max) if taken * 100 > eligible * max as usize => Err(too_large_a_share(taken, eligible, max)),
        _ => Ok(()),
    }
}

/// Why the run is to end before its time, if so.
fn stopping(experiment: &Experiment<'_>, before: &ChaosExperimentStatus, seen: &Pods) -> Option<Stopping> {
    let too_few = experiment.spec.abort.zip(seen.ready).is_some_and(|(least, ready)| ready < least);
    [
        (experiment.deleting, Stopping::Deleted),
        (seen.freeze.is_some(), Stopping::Frozen),
        (is_edited(experiment, before), Stopping::Edited),
        (experiment.spec.paused == Some(true), Stopping::Paused),
        (too_few, Stopping::Aborted),
    ]
    .into_iter()
    .find_map(|(applies, why)| applies.then_some(why))
}

/// Writes down what the API server said, and returns why no agent is put in, if so.
fn preflight(after: &mut ChaosExperimentStatus, seen: &Pods, now: Timestamp) -> Option<String> {
    if let (Some(answer), None) = (&seen.preflight, after.preflight()) {
        match answer {
            Preflight::Admitted => after.set_condition(PREFLIGHT, "True", "Admitted", "the API server admits the agent", now),
            Preflight::Refused(words) => after.set_condition(PREFLIGHT, "False", "Refused", &brief(words), now),
            Preflight::Unknown(words) => after.set_condition(PREFLIGHT, "Unknown", "NoAnswer", &brief(words), now),
        }
    }
    after.condition(PREFLIGHT).filter(|condition| condition.status == "False").map(|condition| condition.message.clone())
}

/// No pod is touched before the experiment has its finalizer, and the API server has said what it thinks of the agent.
fn before_injecting(experiment: &Experiment<'_>, after: &ChaosExperimentStatus, seen: &Pods, decision: &mut Decision) {
    if decision.injections.is_empty() {
        return;
    }
    if after.preflight().is_none() {
        let mut asked = BTreeSet::new();
        let first = |entry: &PodStatus| asked.insert(entry.template.clone().unwrap_or_else(|| entry.uid.clone()));
        decision.preflight = std::mem::take(&mut decision.injections);
        decision.preflight.retain(first);
    } else if seen.preflight.is_some() {
        // It is about to be written down; what follows from it is done from what was read.
        decision.injections.clear();
    } else if !experiment.finalized {
        decision.injections.clear();
        decision.finalizer = Some(true);
    }
}
