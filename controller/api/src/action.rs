//! The actions that an experiment can name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// k8s-chaos's actions. The schema lists all of them, so that installing netloss's CRD refuses and prunes none of its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
#[allow(missing_docs)] // the variants are the names that k8s-chaos documents
pub enum Action {
    PodNetworkLoss,
    PodKill,
    PodDelay,
    NodeDrain,
    NodeTaint,
    NodeCpuStress,
    NodeDiskFill,
    PodCpuStress,
    PodMemoryStress,
    PodFailure,
    PodNetworkCorruption,
    PodDiskFill,
    PodRestart,
    NetworkPartition,
}

impl Action {
    /// Whether netloss acts on experiments of this action; it leaves all others alone.
    #[must_use]
    pub fn is_served(self) -> bool {
        self == Self::PodNetworkLoss
    }
}
