//! The state machine: what to do next, as a pure function of what is written down and what was seen.
//!
//! ```text
//!            begin: held back by pause, schedule, windows, retry delay, dependencies; also begun by a request
//!                 │ plan                   follow (each pod)
//!  (at rest) ─────┴────► Pending ──┬───► planned ─► injected ─► applied ─► ended(outcome)
//!     ▲                            │        └──────────┴───────────┴──────────▲  └ stop, repair: containers sent after the agent
//!     │                            └─ first pod applied: Running
//!     └─ rest: all pods ended: Completed, or Failed where none was ever applied, or Pending until the next retry, or Paused
//! ```
//!
//! Architecture invariants, each with a property in `properties.rs`:
//!
//! * A pod is patched only from the frozen values of a status that was *read*, never of one that is only about to be written: the
//!   decision that plans has no injections, and the one after it has no other source.
//! * A pod is patched only while it is `planned` and its container is not there. Once seen there, it is adopted.
//! * No agent is injected into what the API server shows as protected by then: an excluded or a production namespace, or too large a share.
//! * No pod is patched before the experiment has its finalizer, and before the API server was asked whether it admits the agent.
//! * `ended` has an outcome, and nothing comes after it but another attempt.
//! * Everything that is waited for has a time at which the waiting ends.

mod begin;
mod conclude;
mod conditions;
mod derive;
mod events;
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
mod follow;
mod measured;
mod plan;
mod pod;
#[cfg(test)]
mod properties;
mod request;
mod requested;
mod rest;
mod summary;
#[cfg(test)]
mod tests;

pub use events::{About, EventReason, EventRecord, Severity};
pub use events::{plan_name_taken, record_name_taken, unreadable, unreadable_and_held};
pub use plan::too_large_a_share;
pub use request::{Request, check, requested_percentage};
pub use requested::is_waiting as is_run_requested;
pub use requested::run_request;

pub use crate::settings::{CONFLICTING_NAMESPACE, Settings};

use crate::{
    refusal::RefusalReason,
    sanitize::{acts, line, shortened},
    targets::{Candidate, NamespaceFacts, Skip},
};
use jiff::Timestamp;
use netloss_api::{ChaosExperimentSpec, ChaosExperimentStatus, Phase, PodState, PodStatus};
use netloss_contract::{Applied, PerDirection, Record, Traffic, Ttl};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The latest counters that an agent reported while its loss is in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// When it reported them, by its node's clock.
    pub at: Timestamp,
    /// The counters, since the loss is in place.
    pub traffic: PerDirection<Traffic>,
}

/// An experiment as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Experiment<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// Its metadata.generation: counts the versions of the spec.
    pub generation: i64,
    /// Whether it is being deleted: nothing is begun then.
    pub deleting: bool,
    /// Whether it carries our finalizer.
    pub finalized: bool,
    /// The value of its annotation [`netloss_api::RUN_REQUESTED_ANNOTATION`], whatever it is.
    pub requested: Option<&'a str>,
    /// What is asked for.
    pub spec: &'a ChaosExperimentSpec,
    /// What was written down.
    pub status: Option<&'a ChaosExperimentStatus>,
}

/// What has to be looked at before deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Where a run is to begin.
    Preconditions {
        /// The namespace of the pods.
        namespace: String,
        /// The labels of the pods.
        selector: BTreeMap<String, String>,
        /// Names of other experiments.
        dependencies: Vec<String>,
    },
    /// The pods of status that have not ended; where all have, those in which loss may remain.
    Pods {
        /// Where to count the pods that are ready, and by which labels, if that matters.
        ready: Option<(String, BTreeMap<String, String>)>,
        /// The namespace in which agents are to be injected, if any are; the labels where the eligible pods count too.
        target: Option<(String, Option<BTreeMap<String, String>>)>,
    },
}

/// What was seen.
#[derive(Debug, Clone)]
pub enum Observed {
    /// For [`Needs::Nothing`].
    Nothing,
    /// For [`Needs::Preconditions`].
    Preconditions(Preconditions),
    /// For [`Needs::Pods`].
    Pods(Pods),
}

/// Where a run is to begin.
#[derive(Debug, Clone, Default)]
pub struct Preconditions {
    /// Why all experiments are frozen, if they are.
    pub freeze: Option<String>,
    /// The pod of another controller that acts on the same experiments, if there is one.
    pub conflicting_controller: Option<String>,
    /// What is known of the namespace.
    pub namespace: NamespaceFacts,
    /// The pods that have the labels.
    pub pods: Vec<Candidate>,
    /// The phases of other experiments, by name; none for one that is not there or has not begun.
    pub dependencies: BTreeMap<String, Option<Phase>>,
}

/// How a run goes.
#[derive(Debug, Clone, Default)]
pub struct Pods {
    /// Each pod, by the uid that status has.
    pub views: BTreeMap<String, PodView>,
    /// How many pods with the labels are ready, if that was to be counted.
    pub ready: Option<u32>,
    /// Why all experiments are frozen, if they are.
    pub freeze: Option<String>,
    /// What protects the pods, if agents are to be injected.
    pub protection: Option<Protection>,
    /// What the API server says to putting in the agent, if it was asked.
    pub preflight: Option<Preflight>,
}

/// What protects the pods of a run, as the API server has it when agents are about to be injected. What was planned, by whomever, does not
/// count against it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protection {
    /// What is known of the namespace.
    pub namespace: NamespaceFacts,
    /// The uids of the pods that `spec.maxPercentage` is a share of.
    pub eligible: BTreeSet<String>,
}

impl Protection {
    /// Of a namespace and of its pods that have the labels.
    #[must_use]
    pub fn of(namespace: NamespaceFacts, pods: &[Candidate]) -> Self {
        let eligible = pods.iter().filter(|pod| pod.is_eligible()).map(|pod| pod.target.uid.clone()).collect();
        Self { namespace, eligible }
    }
}

/// What the API server says to a patch that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preflight {
    /// The agent would be admitted.
    Admitted,
    /// It would not, in the API server's words.
    Refused(String),
    /// It did not say; in its words.
    Unknown(String),
}

/// One pod as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub enum PodView {
    /// There is no pod of that name.
    Gone,
    /// Another pod has taken its name.
    Replaced,
    /// It could not be read; why.
    Unreadable(String),
    /// The API server refused the patch, with these words, and the container is not there.
    Refused(String),
    /// The API server refused what was sent after the agent, with these words.
    SentRefused(String),
    /// It is there.
    Present {
        /// Why it may not be acted on, if so.
        skip: Option<Skip>,
        /// Whether its sandbox, and so its network, is another one than when the agent was planned.
        new_sandbox: bool,
        /// The agent's container, if it is there.
        agent: Option<Box<AgentView>>,
    },
}

/// An agent's container as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentView {
    /// Its arguments.
    pub args: Vec<String>,
    /// What became of it.
    pub state: AgentState,
    /// What its log says.
    pub log: AgentLog,
    /// What became of the container that was sent to stop it, if that is there.
    pub stop: Option<AgentState>,
    /// What became of the container that was sent to take away what it may have left, if that is there. Of an entry that has ended: of one
    /// that has cleaned up since.
    pub repair: Option<AgentState>,
}

/// What became of an agent's container.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentState {
    /// Not started; why, where the kubelet says it.
    Waiting {
        /// Whether the container is made. If the runtime is killed while it starts one that is, that may have run, and the kubelet shows it
        /// as not started for good: containerd kills what it finds like that.
        made: bool,
        /// One word, such as `ImagePullBackOff`.
        reason: Option<String>,
        /// In words.
        message: Option<String>,
    },
    /// Running.
    Running,
    /// Ended.
    Terminated {
        /// The process's exit code.
        exit_code: i32,
        /// One word, such as `OOMKilled`.
        reason: Option<String>,
        /// What the termination message says where it is not the agent's: the runtime's words about a failed start.
        message: Option<String>,
        /// The last record of this run in the termination message.
        last: Option<Box<Record>>,
    },
}

/// What an agent's log says about the begin of the loss.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentLog {
    /// There was no reason to read it.
    NotRead,
    /// It could not be read; why.
    Unreadable(String),
    /// It says nothing of this run being in place.
    NotApplied,
    /// The loss is in place since then.
    Applied(Timestamp, Box<Applied>),
    /// It reports; what it last said, if that is understood.
    Heartbeat(Option<Box<Live>>),
    /// It has reported nothing for more than three heartbeats, by the node's clock.
    Stale,
}

/// What to do. In this order: write the status; if that succeeded, tell; then the finalizer, the question, and the patches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The new status, if it differs.
    pub status: Option<ChaosExperimentStatus>,
    /// What to tell.
    pub events: Vec<EventRecord>,
    /// Whether the experiment is to have our finalizer, if that is to change.
    pub finalizer: Option<bool>,
    /// Pods to ask for whether an agent would be admitted. Each is an entry of the status that was *read*.
    pub preflight: Vec<PodStatus>,
    /// Pods to put an agent into. Each is an entry of the status that was read.
    pub injections: Vec<PodStatus>,
    /// Pods to put a container into that stops the agent. Each is an entry of the status that was read.
    pub stops: Vec<PodStatus>,
    /// Pods to put a container into that takes away what an agent left. Each is an entry of the status that was read.
    pub repairs: Vec<PodStatus>,
    /// Why a run, or an agent, was refused, if one was.
    pub refusal: Option<RefusalReason>,
    /// When to look again, if nothing happens before.
    pub requeue: Option<Duration>,
}

/// When no agent of an experiment that was deleted then, and of which nothing else is known, can be at work any more: none is planned since.
#[must_use]
pub fn held_until(deleted: Timestamp, settings: &Settings) -> Timestamp {
    plan::deadline(deleted, settings.start_timeout + Ttl::MAX + settings.grace)
}

/// What has to be looked at before [`decide`] with the same `now`.
#[must_use]
pub fn needs(experiment: &Experiment<'_>, now: Timestamp, settings: &Settings) -> Needs {
    let namespace = || experiment.spec.target_namespace(experiment.namespace).to_owned();
    let selector = || experiment.spec.selector.clone();
    match stage(experiment) {
        Stage::Following(status) => Needs::Pods {
            ready: experiment.spec.abort.map(|_| (namespace(), selector())),
            target: status
                .pods
                .iter()
                .any(|pod| pod.state == PodState::Planned)
                .then(|| (namespace(), experiment.spec.max_percentage.map(|_| selector()))),
        },
        Stage::Begin(why) if begin::hold(experiment, why, now, settings).is_none() => Needs::Preconditions {
            namespace: namespace(),
            selector: selector(),
            dependencies: experiment.spec.depends_on.clone().unwrap_or_default(),
        },
        Stage::Over | Stage::Begin(_) if has_impaired(experiment) => Needs::Pods { ready: None, target: None },
        Stage::NotOurs | Stage::Over | Stage::Begin(_) => Needs::Nothing,
    }
}

/// What to do next.
///
/// `observed` is what [`needs`] asked for; with anything else nothing is decided.
#[must_use]
pub fn decide(experiment: &Experiment<'_>, observed: &Observed, now: Timestamp, settings: &Settings) -> Decision {
    let decision = match (stage(experiment), observed) {
        (Stage::Following(status), Observed::Pods(seen)) => {
            let decision = follow::follow(experiment, status, seen, now, settings);
            return in_plain_words(conditions::completed(experiment, decision, now));
        }
        (Stage::NotOurs | Stage::Following(_), _) => return Decision::default(),
        (Stage::Begin(why), _) if let Some(held) = begin::hold(experiment, why, now, settings) => match observed {
            Observed::Pods(seen) if held.status.is_none() && has_impaired(experiment) => {
                let Decision { status, requeue, .. } = rest::resolve(experiment, seen, now);
                Decision { status, requeue: [held.requeue, requeue].into_iter().flatten().min(), ..held }
            }
            _ => held,
        },
        (Stage::Over, Observed::Pods(seen)) if has_impaired(experiment) => rest::resolve(experiment, seen, now),
        (Stage::Begin(why), Observed::Preconditions(seen)) => plan::plan(experiment, why, seen, now, settings),
        _ => Decision::default(),
    };
    let decision = Decision { status: decision.status.or_else(|| seen_again(experiment)), ..decision };
    let decision = conditions::completed(experiment, decision, now);
    let at_rest = !decision.status.as_ref().is_some_and(ChaosExperimentStatus::is_active);
    in_plain_words(Decision { finalizer: (experiment.finalized && at_rest).then_some(false), ..decision })
}

/// Whether loss may remain in a pod, which is looked at again from time to time. An experiment that goes is not kept for it.
fn has_impaired(experiment: &Experiment<'_>) -> bool {
    !experiment.deleting && experiment.status.is_some_and(|status| status.impaired_pods().next().is_some())
}

/// The status of a spec that asks for nothing else and has another generation: one that was paused since and goes on, say. Who waits for an
/// experiment, and another that depends on it, compare the two.
fn seen_again(experiment: &Experiment<'_>) -> Option<ChaosExperimentStatus> {
    let is_new =
        |status: &&ChaosExperimentStatus| status.observed_generation != Some(experiment.generation) && !is_edited(experiment, status);
    let status = experiment.status.filter(|_| !experiment.deleting).filter(is_new)?;
    Some(ChaosExperimentStatus { observed_generation: Some(experiment.generation), ..status.clone() })
}

/// The longest text of a status, in bytes. A spec may be as large as an object may be, and what is said of it repeats parts of it.
const LONGEST_MESSAGE: usize = 4096;

/// Whatever the words were made of, they go to people's terminals on one line, and fit into an object. An entry's arguments and names are left as they are.
fn in_plain_words(mut decision: Decision) -> Decision {
    if let Some(status) = &mut decision.status {
        status.message.iter_mut().chain(&mut status.last_error).for_each(plain);
        status.conditions.iter_mut().map(|condition| &mut condition.message).for_each(plain);
        status.pods.iter_mut().filter_map(|pod| pod.message.as_mut()).for_each(plain);
    }
    decision.events.iter_mut().map(|event| &mut event.note).for_each(plain);
    decision
}

fn plain(text: &mut String) {
    if text.len() > LONGEST_MESSAGE || text.contains(acts) {
        *text = shortened(line(text), LONGEST_MESSAGE);
    }
}

/// What there is to do with an experiment.
enum Stage<'a> {
    /// Another action, or an object that another controller has finished.
    NotOurs,
    /// An attempt is to be planned.
    Begin(Begin),
    /// An attempt is under way.
    Following(&'a ChaosExperimentStatus),
    /// Its run is over.
    Over,
}

/// What brings an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// A spec that has not run yet.
    New,
    /// A time of the schedule.
    Tick,
    /// A run in which no pod got any loss.
    Retry,
    /// The end of a pause.
    Resume,
    /// The annotation [`netloss_api::RUN_REQUESTED_ANNOTATION`] has another value than status. One more run begins as soon as nothing else is to be done:
    /// what is under way, paused or about to be retried goes on first.
    Requested,
}

fn stage<'a>(experiment: &Experiment<'a>) -> Stage<'a> {
    if !experiment.spec.action.is_served() {
        return Stage::NotOurs;
    }
    let status = experiment.status;
    if let Some(status) = status.filter(|status| status.run.is_some() && status.is_active()) {
        return Stage::Following(status);
    }
    if experiment.deleting {
        return Stage::Over;
    }
    let Some((status, phase)) = status.and_then(|status| Some((status, status.phase?))) else { return Stage::Begin(Begin::New) };
    // Finished by k8s-chaos, which numbers no runs: to run it again would be a surprise.
    if phase.is_final() && status.run.is_none() && status.observed_generation.is_none() {
        return Stage::NotOurs;
    }
    if is_edited(experiment, status) {
        return Stage::Begin(Begin::New);
    }
    match phase {
        // Pending: what follows a pause, or a failed attempt, waits for something else too.
        Phase::Paused | Phase::Pending if status.pods.iter().any(|pod| pod.remaining.is_some()) => Stage::Begin(Begin::Resume),
        Phase::Paused | Phase::Pending if status.next_retry_time.is_some() => Stage::Begin(Begin::Retry),
        _ if requested::is_new(experiment, status) => Stage::Begin(Begin::Requested),
        _ if status.next_scheduled_time.is_some() => Stage::Begin(Begin::Tick),
        Phase::Completed | Phase::Failed => Stage::Over,
        Phase::Pending | Phase::Running | Phase::Paused => Stage::Begin(Begin::New),
    }
}

/// Whether the spec asks for another run than the one that status is about.
fn is_edited(experiment: &Experiment<'_>, status: &ChaosExperimentStatus) -> bool {
    let other = status.observed_spec.as_ref().is_none_or(|seen| *seen != experiment.spec.fingerprint());
    status.observed_generation != Some(experiment.generation) && other
}
