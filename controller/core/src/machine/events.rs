//! What is told on experiments and pods, made of transitions: each is told once, after it was written down.

use crate::targets::{Candidate, Target};
use jiff::{SignedDuration, Timestamp};
use netloss_api::{AS_REQUESTED, ChaosExperimentStatus, LOSS_MAY_REMAIN, Outcome, PREFLIGHT, Phase, PodStatus, RECOVERED};
use std::fmt;

/// An event to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// What it is about.
    pub about: About,
    /// Normal, or worth a look.
    pub severity: Severity,
    /// One word, by which events are told apart.
    pub reason: EventReason,
    /// In words.
    pub note: String,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The experiment.
    Experiment,
    /// The experiment, on account of this pod.
    ExperimentFor(Target),
    /// This pod.
    Pod(Target),
}

/// How serious an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Worth a look.
    Warning,
}

/// By which events are told apart. The names are the API's; the first seven are k8s-chaos's (its controller for experiments), by which dashboards and alerts
/// go: where one of its events has an equal here, that has its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventReason {
    /// The first pod has its loss.
    ExperimentStarted,
    /// The run is over, and its loss was in place.
    ExperimentSucceeded,
    /// The run is over, and no pod is known to have had any loss.
    ExperimentFailed,
    /// A failed attempt is followed by another.
    ExperimentRetrying,
    /// The API server does not admit the agent.
    PermissionDenied,
    /// On a pod: it has its loss.
    ChaosNetworkLossInjected,
    /// No loss could be put into a pod. Not `Failed`, which is the kubelet's on pods.
    PodNetworkLossFailed,
    /// The agent is gone, and the kernel ends the loss.
    AgentLost,
    /// A node's clock is wrong.
    ClockSkew,
    /// A run only said what it would do.
    DryRun,
    /// Less will be lost than was requested.
    EffectiveLoss,
    /// An agent has reported nothing for a while.
    HeartbeatMissed,
    /// More was lost than was requested.
    LossAboveRequested,
    /// Less was lost than was requested.
    LossBelowRequested,
    /// Loss may remain in a pod.
    LossMayRemain,
    /// A run of the schedule does not take place.
    MissedRun,
    /// An agent never came into the pod.
    NeverStarted,
    /// No packet met the loss.
    NoPacketMatched,
    /// The run is paused.
    Paused,
    /// Another object has the name of a plan.
    PlanNameTaken,
    /// An entry of status does not follow from the spec.
    PlanRejected,
    /// The loss ended with the pod.
    PodEnded,
    /// Another object has the name of a record.
    RecordNameTaken,
    /// The loss is gone.
    Recovered,
    /// Somebody else removed the loss.
    RemovedByOthers,
    /// What an agent left is gone.
    Repaired,
    /// What an agent may have left is looked for.
    Repairing,
    /// A pod is left alone.
    Skipped,
    /// The run is ended before its time.
    Stopping,
    /// The experiment does not decode.
    Unreadable,
}

impl fmt::Display for EventReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants are spelled as the API spells them.
        fmt::Debug::fmt(self, f)
    }
}

/// How far a node's clock may be from the controller's without a word about it. A judgement: a clock that NTP keeps is off by milliseconds, and times of
/// objects have whole seconds.
const MAX_SKEW: SignedDuration = SignedDuration::from_secs(5);

/// A candidate that was not chosen because it may not be acted on.
pub(super) fn skipped(candidate: &Candidate) -> Option<EventRecord> {
    candidate.skip.as_ref().map(|skip| EventRecord {
        about: About::ExperimentFor(candidate.target.clone()),
        severity: Severity::Normal,
        reason: EventReason::Skipped,
        note: format!("Left alone pod {}: {skip}", candidate.target.name),
    })
}

/// That there are more of them than are told of.
pub(super) fn skipped_more(count: usize) -> EventRecord {
    let note = format!("Left alone {count} more pods");
    EventRecord { about: About::Experiment, severity: Severity::Normal, reason: EventReason::Skipped, note }
}

/// An entry of status that this controller did not write.
pub(super) fn rejected(pod: &PodStatus, words: &str) -> EventRecord {
    let note = format!("Pod {}: {words}", pod.name);
    EventRecord { about: About::ExperimentFor(target(pod)), severity: Severity::Warning, reason: EventReason::PlanRejected, note }
}

/// A run that ended before it began.
pub(super) fn failed_run(message: &str) -> EventRecord {
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::ExperimentFailed, note: message.to_owned() }
}

/// An experiment that does not decode, as another definition than netloss's may let one be written.
#[must_use]
pub fn unreadable(error: &str) -> EventRecord {
    let note = format!("Not run: the experiment does not decode ({error}): correct that field; config/crd would have refused it");
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::Unreadable, note }
}

/// The same of one that is being deleted and has netloss's finalizer, until when that stays.
#[must_use]
pub fn unreadable_and_held(error: &str, until: Timestamp) -> EventRecord {
    let note = format!(
        "Its finalizer stays until {until}, when no agent of it can be at work any more: the experiment does not decode ({error}): correct that field to \
         have it deleted before"
    );
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::Unreadable, note }
}

/// Another object has the name of a run's history record.
#[must_use]
pub fn record_name_taken(name: &str, own: &str) -> EventRecord {
    let note = format!("Another object has the name of the run's history record, {name}, and other content: the record is {own}");
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::RecordNameTaken, note }
}

/// Another object has the name of a plan.
#[must_use]
pub fn plan_name_taken(name: &str, own: &str) -> EventRecord {
    let note = format!("Another object has the name of the ChaosExperimentPlan {name}, and other content: the plan is {own}");
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::PlanNameTaken, note }
}

/// A run that only said what it would do.
pub(super) fn dry_run(message: &str) -> EventRecord {
    EventRecord { about: About::Experiment, severity: Severity::Normal, reason: EventReason::DryRun, note: message.to_owned() }
}

/// That less will be lost than was asked for.
pub(super) fn effective_loss(warning: &str) -> EventRecord {
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::EffectiveLoss, note: warning.to_owned() }
}

/// What happened to a pod between two states of it. That its container was put in is told by the kubelet, which starts it.
pub(super) fn of_transition(before: &PodStatus, after: &PodStatus) -> Vec<EventRecord> {
    let target = Target { namespace: after.namespace.clone(), name: after.name.clone(), uid: after.uid.clone(), node: after.node.clone() };
    let on_pod = |severity, reason, note| EventRecord { about: About::Pod(target.clone()), severity, reason, note };
    let mut events = Vec::new();
    let asked = &after.asked;
    if !before.was_applied() && after.was_applied() {
        let interface = after.interface.as_deref().unwrap_or("its network");
        let (loss, direction, duration) = (asked.loss_percentage, asked.direction, &asked.duration);
        let note =
            format!("Packet loss of {loss}% ({direction}) is in place on {interface} for {duration}, by container {}", after.container);
        events.push(on_pod(Severity::Normal, EventReason::ChaosNetworkLossInjected, note));
    }
    if before.repair.is_none() && after.repair.is_some() {
        let message = after.message.as_deref().unwrap_or_default();
        events.push(on_pod(Severity::Warning, EventReason::Repairing, format!("What the agent may have left is looked for: {message}")));
    }
    if before.silent != Some(true) && after.silent == Some(true) {
        let note = format!("Pod {}: the agent has reported nothing for more than three heartbeats", after.name);
        events.push(EventRecord {
            about: About::ExperimentFor(target.clone()),
            severity: Severity::Warning,
            reason: EventReason::HeartbeatMissed,
            note,
        });
    }
    if let Some(outcome) = after.outcome.filter(|_| before.is_open()) {
        let message = after.message.as_deref().unwrap_or("as asked for");
        let (severity, reason, note) = match outcome {
            Outcome::Clean | Outcome::Shortened | Outcome::Degraded => {
                (Severity::Normal, EventReason::Recovered, format!("Packet loss is gone: {message}"))
            }
            Outcome::Repaired => (Severity::Warning, EventReason::Repaired, format!("Packet loss is gone: {message}")),
            Outcome::SandboxRecreated => (Severity::Normal, EventReason::Recovered, format!("Packet loss is gone: {message}")),
            Outcome::PodEnded => (Severity::Normal, EventReason::PodEnded, format!("Packet loss ended with the pod: {message}")),
            Outcome::NeverStarted => (Severity::Warning, EventReason::NeverStarted, format!("No packet loss: {message}")),
            Outcome::Failed => (Severity::Warning, EventReason::PodNetworkLossFailed, format!("No packet loss: {message}")),
            Outcome::Unknown if after.ends_by_itself() => (Severity::Warning, EventReason::AgentLost, message.to_owned()),
            Outcome::Unknown => (Severity::Warning, EventReason::LossMayRemain, message.to_owned()),
        };
        if severity == Severity::Warning {
            let about = About::ExperimentFor(target.clone());
            events.push(EventRecord { about, severity, reason, note: format!("Pod {}: {note}", after.name) });
        }
        // A pod that is gone has nobody to tell it to.
        if outcome != Outcome::PodEnded {
            events.push(on_pod(severity, reason, note));
        }
    }
    events
}

/// A node whose clock must be wrong, or else this controller's: the loss cannot have been in place before the run was planned, nor
/// after it was seen to be. Deadlines, which are times of day, are then early or late by as much; the duration is not.
pub(super) fn clock_skew(pod: &PodStatus, planned: Timestamp, applied: Timestamp, seen: Timestamp) -> Option<EventRecord> {
    let (ahead, behind) = (applied.duration_since(seen), planned.duration_since(applied));
    let (by, word) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
    let node = pod.node.as_deref().unwrap_or("unknown");
    (by > MAX_SKEW).then(|| EventRecord {
        about: About::ExperimentFor(target(pod)),
        severity: Severity::Warning,
        reason: EventReason::ClockSkew,
        note: format!("The clock of node {node} is at least {} s {word} the controller's: check that both are synchronised", by.as_secs()),
    })
}

/// A run of the schedule that does not take place.
pub(super) fn missed(due: Timestamp, because: &str) -> EventRecord {
    let note = format!("The run of {due} was skipped: {because}");
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::MissedRun, note }
}

/// That a run is tried again.
pub(super) fn retry(message: &str) -> EventRecord {
    EventRecord { about: About::Experiment, severity: Severity::Warning, reason: EventReason::ExperimentRetrying, note: message.to_owned() }
}

/// What happened to the run as a whole.
pub(super) fn of_run(before: &ChaosExperimentStatus, after: &ChaosExperimentStatus) -> Vec<EventRecord> {
    let record = |severity, reason, note| EventRecord { about: About::Experiment, severity, reason, note };
    let mut events = Vec::new();
    if let (None, Some(why)) = (before.stopping, after.stopping) {
        events.push(record(Severity::Normal, EventReason::Stopping, format!("The run is stopped: {}", why.words())));
    }
    let refused =
        |status: &ChaosExperimentStatus| status.condition(PREFLIGHT).filter(|is| is.status == "False").map(|is| is.message.clone());
    if let (None, Some(words)) = (refused(before), refused(after)) {
        events.push(record(Severity::Warning, EventReason::PermissionDenied, words));
    }
    let is_false = |status: &ChaosExperimentStatus, type_: &str| status.condition(type_).filter(|is| is.status == "False").cloned();
    let may_remain = |status: &ChaosExperimentStatus| is_false(status, RECOVERED).filter(|is| is.reason == LOSS_MAY_REMAIN);
    if let (None, Some(remains)) = (may_remain(before), may_remain(after)) {
        events.push(record(Severity::Warning, EventReason::LossMayRemain, remains.message));
    }
    let otherwise = is_false(after, AS_REQUESTED).filter(|is| is_false(before, AS_REQUESTED).is_none_or(|was| was.reason != is.reason));
    if let Some(otherwise) = otherwise {
        let measured =
            [EventReason::RemovedByOthers, EventReason::NoPacketMatched, EventReason::LossAboveRequested, EventReason::LossBelowRequested];
        let reason = measured.into_iter().find(|reason| reason.to_string() == otherwise.reason);
        events.extend(reason.map(|reason| record(Severity::Warning, reason, otherwise.message)));
    }
    let of_phase = match after.phase.filter(|_| before.phase != after.phase) {
        None | Some(Phase::Pending) => None,
        Some(Phase::Running) => Some((Severity::Normal, EventReason::ExperimentStarted)),
        // Told above.
        Some(Phase::Completed) if may_remain(after).is_some() => None,
        Some(Phase::Completed) => Some((Severity::Normal, EventReason::ExperimentSucceeded)),
        Some(Phase::Paused) => Some((Severity::Normal, EventReason::Paused)),
        Some(Phase::Failed) => Some((Severity::Warning, EventReason::ExperimentFailed)),
    };
    events.extend(of_phase.map(|(severity, reason)| record(severity, reason, after.message.clone().unwrap_or_default())));
    events
}

fn target(pod: &PodStatus) -> Target {
    Target { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone(), node: pod.node.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{at, entry};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::PodState;

    /// What k8s-chaos emits for its action pod-network-loss (internal/controller/chaosexperiment_controller.go), in its spelling.
    const INHERITED: [&str; 7] = [
        "ChaosNetworkLossInjected",
        "ExperimentFailed",
        "ExperimentRetrying",
        "ExperimentStarted",
        "ExperimentSucceeded",
        "PermissionDenied",
        "PodNetworkLossFailed",
    ];

    fn of_phase(phase: Phase) -> ChaosExperimentStatus {
        ChaosExperimentStatus { phase: Some(phase), ..ChaosExperimentStatus::default() }
    }

    #[test]
    fn inherited_reasons_are_spelled_as_k8s_chaos_spells_them() {
        let pending = of_phase(Phase::Pending);
        let mut denied = pending.clone();
        denied.set_condition(PREFLIGHT, "False", "Refused", "no", at(0));
        let (before, mut applied, mut failed) = (entry(), entry(), entry());
        applied.applied_at = Some(Time(at(1)));
        (failed.state, failed.outcome) = (PodState::Ended, Some(Outcome::Failed));
        let events = [
            of_run(&pending, &of_phase(Phase::Running)),
            of_run(&pending, &of_phase(Phase::Completed)),
            of_run(&pending, &of_phase(Phase::Failed)),
            of_run(&pending, &denied),
            vec![retry("again"), failed_run("no")],
            of_transition(&before, &applied),
            of_transition(&before, &failed),
        ];
        let mut reasons: Vec<String> = events.iter().flatten().map(|event| event.reason.to_string()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons, INHERITED);
    }
}
