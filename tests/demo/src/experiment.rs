//! What the demonstration reads of a ChaosExperiment. The lab knows the API as any client does, not the controller's types.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::api::DynamicObject;
use netloss_contract::Ttl;
use serde::Deserialize;

/// An experiment as the API server has it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Experiment {
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: Status,
}

/// What was asked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) loss_percentage: f64,
    pub(super) direction: Direction,
    duration: String,
    selector: BTreeMap<String, String>,
}

/// Seen from the pod that loses packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    Egress,
    Ingress,
    Both,
}

/// What was seen of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) phase: Option<String>,
    pub(super) message: Option<String>,
    #[serde(default)]
    pub(super) pods: Vec<PodStatus>,
}

/// One pod that it acts on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) name: String,
    pub(super) state: Option<String>,
    pub(super) outcome: Option<String>,
    pub(super) message: Option<String>,
    pub(super) applied_at: Option<Timestamp>,
    pub(super) backend: Option<String>,
}

impl Experiment {
    pub(super) fn of(object: &DynamicObject) -> Result<Self> {
        serde_json::from_value(object.data.clone()).context("not a ChaosExperiment that the lab understands")
    }

    /// How long the loss lasts from when it is in place.
    pub(super) fn duration(&self) -> Result<Duration> {
        let duration: Ttl = self.spec.duration.parse().ok().with_context(|| format!("not a duration: {}", self.spec.duration))?;
        Ok(duration.duration())
    }

    /// The labels of the pods that it may choose.
    pub(super) fn selector(&self) -> &BTreeMap<String, String> {
        &self.spec.selector
    }

    /// When the loss was in place in the first pod, in seconds since the Unix epoch.
    pub(super) fn applied_at(&self) -> Option<f64> {
        let times = self.status.pods.iter().filter_map(|pod| pod.applied_at);
        times.min().map(|time| time.as_millisecond() as f64 / 1000.0)
    }
}
