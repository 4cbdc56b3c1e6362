//! What the controller writes down: for users to read, and for itself to go on from after a crash.
//!
//! `pods[]` is the write-ahead log of injections (docs/ARCHITECTURE.md, invariant 4). What an agent is to be told is frozen there
//! before its pod is patched, and only these frozen values are ever used.

use super::PodStatus;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was seen of the experiment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChaosExperimentStatus {
    /// Pending: agents are being put into pods, or something is waited for. Running: in at least one pod the loss is or was in
    /// place. Paused: held by spec.paused. Completed: every agent has ended. Failed: it is over, and no pod is known to have had any
    /// loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// The state in words, with what stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// When this run was planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,

    /// When this run had ended in every pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,

    /// The last handled value of the annotation chaos.gushchin.dev/run-requested-at: another valid value requests one more run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_requested_at: Option<String>,

    /// When the last attempt of a run was planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_time: Option<Time>,

    /// Number of this run, from 1: one for each applied version of the spec, each time of its schedule, and each requested run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0, max = 4_294_967_295_i64))]
    pub run: Option<u32>,

    /// Number of the attempt within the run, from 1: a retry or a resumption is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0, max = 4_294_967_295_i64))]
    pub attempt: Option<u32>,

    /// The metadata.generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// A fingerprint of the spec that this run was planned from, without paused, by which an edit is told from a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_spec: Option<String>,

    /// Why the run is ended before its time, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<Stopping>,

    /// Each is set from the first visit. Accepted: whether the run was begun; where it was refused, its reason says why, such as NoEligiblePods, Production
    /// or Frozen. Preflight: whether the API server admits the agent. Recovered: whether no loss of this experiment is in
    /// any pod. AsRequested: whether the measured loss is the requested one, within chance. RunRequested: whether another run was requested by
    /// the annotation chaos.gushchin.dev/run-requested-at and has not begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The pods in which an agent was put, as namespace/pod:container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affected_pods: Vec<String>,

    /// Each pod of this run. Written whole, and only when something in it changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub pods: Vec<PodStatus>,

    /// Pods of earlier runs in which loss may remain. An entry goes when its pod is gone, or when the loss was removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub unresolved_pods: Vec<PodStatus>,
    /// How often this run was tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 0, max = 2_147_483_647))]
    pub retry_count: Option<u32>,

    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,

    /// When the run is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry_time: Option<Time>,

    /// The time of the schedule that this run is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scheduled_time: Option<Time>,

    /// When the schedule has the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_scheduled_time: Option<Time>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned_nodes: Option<Vec<String>>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tainted_nodes: Option<Vec<String>>,
}

/// Where an experiment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs)] // explained at `ChaosExperimentStatus::phase`, where users see it
pub enum Phase {
    Pending,
    Running,
    Completed,
    Failed,
    Paused,
}

impl Phase {
    /// Whether the run is over.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// Why a run is ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Stopping {
    /// The experiment was deleted.
    Deleted,
    /// The spec was edited; a new run begins afterwards.
    Edited,
    /// spec.paused is true; what is left of the run begins when it no longer is.
    Paused,
    /// Fewer targets are ready than spec.abort allows.
    Aborted,
    /// All experiments are frozen.
    Frozen,
}

impl Stopping {
    /// In words, as in "the experiment was deleted before the agent could be put in".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Deleted => "the experiment was deleted",
            Self::Edited => "the spec was edited",
            Self::Paused => "the experiment was paused",
            Self::Aborted => "too few of the targets are ready",
            Self::Frozen => "all experiments were frozen",
        }
    }
}

/// The condition that says whether the run was begun, or why not.
pub const ACCEPTED: &str = "Accepted";
/// The condition that says whether the API server admits the agent.
pub const PREFLIGHT: &str = "Preflight";
/// The condition that says whether no loss of this experiment is in any pod.
pub const RECOVERED: &str = "Recovered";
/// The condition that says whether the measured loss is the requested one, within chance.
pub const AS_REQUESTED: &str = "AsRequested";
/// The condition that says whether another run was requested and has not begun.
pub const RUN_REQUESTED: &str = "RunRequested";
/// The reason of `Preflight` before the API server was asked.
pub const NOT_ASKED: &str = "NotAsked";
/// The reason of `Recovered` where loss may remain.
pub const LOSS_MAY_REMAIN: &str = "LossMayRemain";

impl ChaosExperimentStatus {
    /// The pods in which something may be under way.
    pub fn open_pods(&self) -> impl Iterator<Item = &PodStatus> {
        self.pods.iter().filter(|pod| pod.is_open())
    }

    /// Whether something may be under way in a pod.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.open_pods().next().is_some()
    }

    /// The pods in which loss may remain: of this run, and of earlier ones.
    pub fn impaired_pods(&self) -> impl Iterator<Item = &PodStatus> {
        self.pods.iter().filter(|pod| pod.may_be_impaired()).chain(&self.unresolved_pods)
    }

    /// What the API server answered when it was asked whether it admits the agent; none before it was asked.
    #[must_use]
    pub fn preflight(&self) -> Option<&Condition> {
        self.condition(PREFLIGHT).filter(|condition| condition.reason != NOT_ASKED)
    }

    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Sets a condition. Its time is that of its last change between true, false and unknown.
    pub fn set_condition(&mut self, type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
        let kept = self.condition(type_).filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
        let condition = Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: kept.unwrap_or(Time(now)),
            observed_generation: self.observed_generation,
        };
        self.conditions.retain(|before| before.type_ != type_);
        self.conditions.push(condition);
        self.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
}
