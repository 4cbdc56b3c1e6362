//! The state machine: what to do next, as a pure function of what is written down and what was seen.
//!
//! ```text
//!             plan                    follow (each pod)
//!  (no run) ────────► Pending ──┬───► planned ─► injected ─► applied ─► ended(outcome)
//!     │                         │        └──────────┴───────────┴──────────▲
//!     │                         └─ first pod applied: Running; all pods ended: Completed, or Failed where none was ever applied
//!     └─ refused, or no eligible pod: Failed
//! ```
//!
//! Architecture invariants, each with a property in `properties.rs`:
//!
//! * A pod is patched only from the frozen values of a status that was *read*, never of one that is only about to be written: the
//!   decision that plans has no injections, and the one after it has no other source.
//! * A pod is patched only while it is `planned` and its container is not there. Once seen there, it is adopted.
//! * `ended` has an outcome, and nothing comes after it.
//! * Everything that is waited for has a time at which the waiting ends.

mod conclude;
mod events;
#[cfg(test)]
pub(crate) mod fixtures;
mod follow;
mod plan;
#[cfg(test)]
mod properties;
mod request;
mod summary;
#[cfg(test)]
mod tests;

pub use events::{About, EventRecord, Severity};

use crate::{
    api::{ChaosExperimentSpec, ChaosExperimentStatus, PodStatus},
    targets::{Candidate, Skip},
};
use jiff::Timestamp;
use netloss_contract::{Applied, Record};
use std::{collections::BTreeMap, time::Duration};

/// What the controller was started with. Of these, only `agent_image` reaches a pod, and only through the status that froze it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Image of the agent.
    pub agent_image: String,
    /// The controller's own namespace, in which it runs no experiments.
    pub own_namespace: String,
    /// How long an agent may take to start: image pull included.
    pub start_timeout: Duration,
    /// How long after its deadline an agent's end may take to be seen. Covers clocks that differ and a kubelet that reports late.
    pub grace: Duration,
}

impl Settings {
    /// The times of docs/ARCHITECTURE.md with this image and namespace.
    #[must_use]
    pub fn new(agent_image: impl Into<String>, own_namespace: impl Into<String>) -> Self {
        Self {
            agent_image: agent_image.into(),
            own_namespace: own_namespace.into(),
            start_timeout: Duration::from_mins(2),
            grace: Duration::from_mins(1),
        }
    }
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
    /// The pods of a namespace that have these labels.
    Candidates {
        /// The namespace.
        namespace: String,
        /// The labels.
        selector: BTreeMap<String, String>,
    },
    /// The pods of status that have not ended.
    Pods,
}

/// What was seen.
#[derive(Debug, Clone)]
pub enum Observed {
    /// For [`Needs::Nothing`].
    Nothing,
    /// For [`Needs::Candidates`].
    Candidates {
        /// Whether the namespace carries the label that excludes it.
        namespace_excluded: bool,
        /// Its pods that have the labels.
        pods: Vec<Candidate>,
    },
    /// For [`Needs::Pods`]: by the uid that status has.
    Pods(BTreeMap<String, PodView>),
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
    /// It is there.
    Present {
        /// Why it may not be acted on, if so.
        skip: Option<Skip>,
        /// The agent's container, if it is there.
        agent: Option<AgentView>,
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
}

/// What became of an agent's container.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentState {
    /// Not started; why, where the kubelet says it.
    Waiting {
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
    Silent,
    /// The loss is in place since then.
    Applied(Timestamp, Box<Applied>),
}

/// What to do. In this order: write the status; if that succeeded, patch and publish.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The new status, if it differs.
    pub status: Option<ChaosExperimentStatus>,
    /// Pods to put an agent into. Each is an entry of the status that was *read*.
    pub injections: Vec<PodStatus>,
    /// Pods to put a container into that stops the agent. Each is an entry of the status that was read.
    pub stops: Vec<PodStatus>,
    /// What to tell.
    pub events: Vec<EventRecord>,
    /// When to look again, if nothing happens before.
    pub requeue: Option<Duration>,
}

/// What has to be looked at before [`decide`].
#[must_use]
pub fn needs(experiment: &Experiment<'_>, settings: &Settings) -> Needs {
    match stage(experiment) {
        Stage::NotOurs | Stage::Over => Needs::Nothing,
        Stage::Following(_) => Needs::Pods,
        Stage::NewRun => match request::check(experiment, settings) {
            Ok(_) => Needs::Candidates { namespace: experiment.namespace.to_owned(), selector: experiment.spec.selector.clone() },
            Err(_) => Needs::Nothing,
        },
    }
}

/// What to do next.
///
/// `observed` is what [`needs`] asked for; with anything else nothing is decided.
#[must_use]
pub fn decide(experiment: &Experiment<'_>, observed: &Observed, now: Timestamp, settings: &Settings) -> Decision {
    match (stage(experiment), observed) {
        (Stage::NewRun, _) => plan::plan(experiment, observed, now, settings),
        (Stage::Following(status), Observed::Pods(views)) => follow::follow(experiment, status, views, now, settings),
        _ => Decision::default(),
    }
}

/// What there is to do with an experiment.
enum Stage<'a> {
    /// Another action, or an object that another controller has finished.
    NotOurs,
    /// A run is to be planned.
    NewRun,
    /// A run is under way.
    Following(&'a ChaosExperimentStatus),
    /// Its run is over.
    Over,
}

fn stage<'a>(experiment: &Experiment<'a>) -> Stage<'a> {
    if !experiment.spec.action.is_served() {
        return Stage::NotOurs;
    }
    let new_run = if experiment.deleting { Stage::Over } else { Stage::NewRun };
    let Some(status) = experiment.status else { return new_run };
    let is_final = status.phase.is_some_and(crate::api::Phase::is_final);
    match (status.run, is_final) {
        (Some(_), false) => Stage::Following(status),
        (Some(_), true) if status.observed_generation == Some(experiment.generation) => Stage::Over,
        // Finished by k8s-chaos, which numbers no runs: to run it again would be a surprise.
        (None, true) => Stage::NotOurs,
        (None, false) | (Some(_), true) => new_run,
    }
}
