//! What `netloss-agent plan` and `check` answer: what would be done, and whether it would work. Neither changes anything.

use crate::{Asked, Backend, Filtered, Guard, Predicted};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// The interface that the loss would be on.
    pub interface: String,
    /// Why this one: by which rule it was found.
    pub interface_reason: String,
    /// How it would be done.
    pub backend: Backend,
    /// Why this way.
    pub backend_reason: String,
    /// True where a killed agent would leave the loss in place.
    pub unguarded: bool,
    /// What would make the kernel end it, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// What was asked for.
    pub asked: Asked,
    /// What that will really lose, where it is another thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,
    /// Which packets the loss would be kept to.
    #[serde(default, skip_serializing_if = "Filtered::is_empty")]
    pub filtered: Filtered,
    /// When the loss would end at the latest, if it began now.
    pub ends_at: Timestamp,
    /// The changes to the kernel in their order, in words.
    pub steps: Vec<String>,
    /// What a person should know before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, with less than could be had.
    Warning,
    /// Loss in both directions does not work.
    Bad,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at, in words that stay the same: `capability`, `netem`, `interface` …
    pub what: String,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it, where something is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What there is and what is missing for a loss here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// The worst of the findings.
    pub verdict: Verdict,
    /// One by one.
    pub findings: Vec<Finding>,
}
