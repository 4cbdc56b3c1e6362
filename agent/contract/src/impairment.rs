//! A loss as plans and reports describe it: what was asked for, which packets it is kept to, and what ends it.

use crate::{Direction, LossModel};
use serde::{Deserialize, Serialize};

/// How the loss was put into the kernel, and so what ends it when the agent cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// netem behind rules that the kernel takes away: with the agent where it can, and when the lease runs out everywhere.
    Guarded,
    /// Plain netem qdiscs. Only the agent itself ends the loss: after a SIGKILL it stays.
    Tc,
}

impl Backend {
    /// Whether the loss outlives an agent that was killed.
    #[must_use]
    pub fn unguarded(self) -> bool {
        match self {
            Self::Guarded => false,
            Self::Tc => true,
        }
    }
}

/// What makes the kernel end a guarded loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// The loss ends at once when the agent dies, however it dies. Otherwise it then ends when the lease runs out.
    pub ends_with_agent: bool,
    /// How long the loss goes on when the agent hangs, in seconds.
    pub lease_seconds: u32,
    /// Packets that are neither IPv4 nor IPv6, such as ARP, are sent without loss.
    pub only_ip_egress: bool,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// How many packets, and how they are chosen; for each direction.
    #[serde(flatten)]
    pub model: LossModel,
    /// Which way.
    pub direction: Direction,
    /// Seed of the random numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// That TCP segments are lost one by one, whatever the segmentation offload.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub per_segment: bool,
}

/// Which packets the loss is kept to, in words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Filtered {
    /// Remote ends whose packets alone are lost; empty where all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Remote ends whose packets are never lost, with the reason where they were not named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spared: Vec<String>,
}

impl Filtered {
    /// Whether every packet may be lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
