//! What users ask for.

// KubeSchema makes a public struct of the same form inside a function; printer columns are attributes of one name.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use super::{Action, ChaosExperimentStatus};
use kube::{CustomResource, KubeSchema};
use netloss_contract::Direction;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The loss that is allowed without an override, in percent.
pub const MAX_LOSS_PERCENTAGE: f64 = 40.0;

/// What to do, to which pods, and for how long.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chaos.gushchin.dev",
    version = "v1alpha1",
    kind = "ChaosExperiment",
    plural = "chaosexperiments",
    shortname = "chaos",
    shortname = "chaosexp",
    category = "chaos",
    namespaced,
    status = "ChaosExperimentStatus",
    derive = "PartialEq",
    doc = "An experiment on running workloads. netloss serves the action pod-network-loss and leaves objects of every other action alone.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action", priority = 1),
    printcolumn(name = "Loss", type_ = "number", json_path = ".spec.lossPercentage", description = "asked for, in percent"),
    printcolumn(name = "Direction", type_ = "string", json_path = ".spec.direction"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".spec.duration"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Run", type_ = "integer", json_path = ".status.run"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Affected", type_ = "string", json_path = ".status.affectedPods", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[x_kube(
    validation = Rule::new("self.action != 'pod-network-loss' || has(self.duration)")
        .message("spec.duration is required for the action pod-network-loss: give whole numbers with h, m or s, such as 90s, 2m or 1h30m")
        .reason(Reason::FieldValueRequired)
        .field_path(".duration"),
    validation = Rule::new(
        "self.action != 'pod-network-loss' || !has(self.duration) || \
         (duration(self.duration) >= duration('1s') && duration(self.duration) <= duration('168h'))")
        .message("spec.duration must be from 1s to 168h for the action pod-network-loss")
        .field_path(".duration"),
    validation = Rule::new("!has(self.correlation) || !has(self.lossCorrelation) || self.correlation == self.lossCorrelation")
        .message("spec.correlation and its older name spec.lossCorrelation differ: set only spec.correlation")
        .field_path(".correlation"),
)]
#[serde(rename_all = "camelCase")]
pub struct ChaosExperimentSpec {
    /// What to do. netloss serves pod-network-loss; objects of the other actions belong to k8s-chaos and are not touched.
    pub action: Action,

    /// The namespace of the pods. Left out it is the experiment's own, and only that one is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Labels that a pod must have, all of them.
    #[schemars(extend("minProperties" = 1))]
    pub selector: BTreeMap<String, String>,

    /// How many of the matching pods to affect: 1 to 100.
    #[serde(default = "default_count")]
    #[schemars(with = "i32", range(min = 1, max = 100))]
    pub count: u32,

    /// How long the loss lasts in each pod once it is in place: whole numbers with h, m or s, such as 90s, 2m or 1h30m; 1s to 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(s|m|h))+$"))]
    pub duration: Option<String>,

    /// Share of the packets to lose in each direction, in percent: above 0, up to 40.
    #[serde(default = "default_loss_percentage")]
    #[schemars(extend("minimum" = 0, "exclusiveMinimum" = true, "maximum" = MAX_LOSS_PERCENTAGE))]
    pub loss_percentage: f64,

    /// How much a packet's fate depends on the last one's, in percent: 0 to 100; left out it is 0. This is netem's correlation:
    /// it lowers the effective loss, 10 % asked with 25 % correlation loses about 2 %.
    // Not a schema default: the API server would fill it in before the rules see the object, and spec.lossCorrelation alone would
    // then look like both names with different values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub correlation: Option<f64>,

    /// Older name of correlation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub loss_correlation: Option<f64>,

    /// Which way packets are lost, seen from the pod. With both, a round trip is lost more often than lossPercentage says.
    #[serde(default)]
    #[schemars(schema_with = "direction_schema")]
    pub direction: Direction,

    /// Interface in the pod, instead of the one that its default route leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,14}$"))]
    pub interface: Option<String>,
}

impl ChaosExperimentSpec {
    /// In percent, by whichever of its two names it was given.
    #[must_use]
    pub fn correlation_percentage(&self) -> f64 {
        self.correlation.or(self.loss_correlation).unwrap_or(0.0)
    }
}

fn default_count() -> u32 {
    1
}

fn default_loss_percentage() -> f64 {
    5.0
}

/// The contract's type has no schema of its own: the agent would have to carry it.
pub(super) fn direction_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": [Direction::Egress.as_str(), Direction::Ingress.as_str(), Direction::Both.as_str()] })
}
