//! What agents are told, where a status would grow too large with it: `ChaosExperimentPlan`.

// KubeSchema makes a public struct of the same form inside a function.
#![allow(unreachable_pub)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Arguments of agents, written before the status that names this record, and never changed.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chaos.gushchin.dev",
    version = "v1alpha1",
    kind = "ChaosExperimentPlan",
    plural = "chaosexperimentplans",
    category = "netloss",
    namespaced,
    derive = "PartialEq",
    doc = "What the agents of one run are told, where the experiment's status would be too large with it. Made, used and deleted by netloss.",
    printcolumn(name = "Experiment", type_ = "string", json_path = ".spec.experiment"),
    printcolumn(name = "Run", type_ = "integer", json_path = ".spec.run"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a plan cannot be changed"))]
#[serde(rename_all = "camelCase")]
pub struct ChaosExperimentPlanSpec {
    /// Name of the experiment.
    pub experiment: String,
    /// Number of its run.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_i64))]
    pub run: u32,
    /// Each pod, as status.pods has it.
    pub pods: Vec<PlannedArguments>,
}

/// What the agent of one pod is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedArguments {
    /// Name of the agent's container.
    pub container: String,
    /// The pod's uid.
    pub uid: String,
    /// The agent's arguments.
    pub argv: Vec<String>,
}
