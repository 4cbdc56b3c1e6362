//! The record of a run: `ChaosExperimentHistory`, with k8s-chaos's fields and what became of each pod.

// KubeSchema makes a public struct of the same form inside a function; printer columns are attributes of one name.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use super::{ChaosExperimentSpec, Phase, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a run was asked for, what it did, and how it ended. Written once, at its end.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chaos.gushchin.dev",
    version = "v1alpha1",
    kind = "ChaosExperimentHistory",
    plural = "chaosexperimenthistories",
    shortname = "cehist",
    shortname = "chaoshist",
    category = "netloss",
    namespaced,
    status = "ChaosExperimentHistoryStatus",
    derive = "PartialEq",
    doc = "The record of one run of a ChaosExperiment. It cannot be changed, and outlives its experiment.",
    printcolumn(name = "Experiment", type_ = "string", json_path = ".spec.experimentRef.name"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.experimentSpec.action", priority = 1),
    printcolumn(name = "Run", type_ = "integer", json_path = ".spec.execution.run"),
    printcolumn(name = "Status", type_ = "string", json_path = ".spec.execution.status"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".spec.execution.duration"),
    printcolumn(name = "Message", type_ = "string", json_path = ".spec.execution.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a record cannot be changed: delete it if it is to go"))]
#[serde(rename_all = "camelCase")]
pub struct ChaosExperimentHistorySpec {
    /// Which experiment.
    pub experiment_ref: ExperimentRef,
    /// What it asked for when the run ended.
    pub experiment_spec: ChaosExperimentSpec,
    /// When, and with what result.
    pub execution: Execution,
    /// The pods that had the loss, or may have had it as their outcome is Unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affected_resources: Vec<AffectedResource>,
    /// On what account.
    pub audit: Audit,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetails>,
    /// Each pod of the run: what its agent was told (argv has every parameter of the loss), what was seen, and how it ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodStatus>,
}

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Its namespace.
    #[schemars(length(min = 1))]
    pub namespace: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// When it was planned.
    pub start_time: Time,
    /// When it had ended in every pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// From the one to the other, in whole seconds with an s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// How it went.
    pub status: RunResult,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The experiment's phase at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Number of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0, max = 4_294_967_295_i64))]
    pub run: Option<u32>,
}

/// How a run went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RunResult {
    /// In every pod the loss was in place as asked, and is gone.
    Success,
    /// In no pod.
    Failure,
    /// In some pods, or not as asked, or it is not known to be gone.
    Partial,
    /// It was stopped before its time.
    Cancelled,
}

impl RunResult {
    /// As it is spelt in the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Partial => "partial",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A pod that had the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AffectedResource {
    /// Pod.
    #[schemars(length(min = 1))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What was done to it.
    #[schemars(length(min = 1))]
    pub action: String,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// On what account a run took place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// What wrote the spec last, as the API server noted it (a field manager such as kubectl-client-side-apply). The client chooses that name:
    /// it is no proof of who asked; the API server's audit log has the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiated_by: Option<String>,
    /// Whether it was a run of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_execution: Option<bool>,
    /// Whether it only said what it would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    /// How often it was tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0, max = 4_294_967_295_i64))]
    pub retry_count: Option<u32>,
    /// When this record was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
}

/// What went wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDetails {
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Not used by netloss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why the attempt before the last failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Of what kind it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<FailureReason>,
}

/// Kinds of what goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum FailureReason {
    /// The experiment was refused.
    ValidationError,
    /// There was no pod to act on.
    ResourceNotFound,
    /// The API server refused the agent.
    PermissionDenied,
    /// An agent could not do what it was asked.
    ExecutionError,
    /// No agent started in time.
    Timeout,
    /// None of these.
    Unknown,
}

impl FailureReason {
    /// As it is spelt in the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "ValidationError",
            Self::ResourceNotFound => "ResourceNotFound",
            Self::PermissionDenied => "PermissionDenied",
            Self::ExecutionError => "ExecutionError",
            Self::Timeout => "Timeout",
            Self::Unknown => "Unknown",
        }
    }
}

/// Of k8s-chaos's archive; netloss writes none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChaosExperimentHistoryStatus {
    /// Whether the record is kept elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_location: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels of metrics and records have the name that the API serves.
    #[test]
    fn names_are_those_that_are_serialized() {
        for result in [RunResult::Success, RunResult::Failure, RunResult::Partial, RunResult::Cancelled] {
            assert_eq!(serde_json::to_value(result).unwrap(), result.as_str());
        }
        for reason in [
            FailureReason::ValidationError,
            FailureReason::ResourceNotFound,
            FailureReason::PermissionDenied,
            FailureReason::ExecutionError,
            FailureReason::Timeout,
            FailureReason::Unknown,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
