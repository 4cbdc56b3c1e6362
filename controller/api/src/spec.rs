//! What users ask for.

// KubeSchema makes a public struct of the same form inside a function; printer columns are attributes of one name.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use super::{Action, ChaosExperimentStatus};
use crate::stable_hash;
use kube::{CustomResource, KubeSchema};
use netloss_contract::{BackendChoice, Direction};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The loss that is allowed without an override, in percent: k8s-chaos's limit, whose manifests apply unchanged.
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
    category = "netloss",
    namespaced,
    status = "ChaosExperimentStatus",
    derive = "PartialEq",
    doc = "An experiment on running workloads. netloss serves the action pod-network-loss and leaves objects of every other action alone.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action", priority = 1),
    // Not spec.lossPercentage: a loss model with probabilities has its default there, which nobody requested.
    printcolumn(
        name = "Loss",
        type_ = "number",
        json_path = ".status.pods[0].asked.lossPercentage",
        description = "requested in each direction, in percent; empty until pods are chosen"
    ),
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
    validation = Rule::new("self.lossPercentage <= 40.0 || (has(self.allowHighLoss) && self.allowHighLoss)")
        .message("spec.lossPercentage above 40 needs your consent: lower it, or set spec.allowHighLoss: true")
        .field_path(".lossPercentage"),
    validation = Rule::new("oldSelf.action != 'pod-network-loss' || self.action == 'pod-network-loss'")
        .message("spec.action cannot be changed from pod-network-loss: its run could not be stopped; create another experiment")
        .field_path(".action"),
)]
#[serde(rename_all = "camelCase")]
pub struct ChaosExperimentSpec {
    /// What to do. netloss serves pod-network-loss; objects of the other actions belong to k8s-chaos and are not touched.
    pub action: Action,

    /// The namespace of the pods; left out it is the experiment's own. Another one is for those who may patch pods/ephemeralcontainers there,
    /// or has to be opened by its annotation chaos.gushchin.dev/allow-experiments-from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Labels that a pod must have, all of them.
    #[schemars(extend(
        "minProperties" = 1,
        "maxProperties" = 64,
        // As the API server takes labels: a longer key or value is on no pod.
        "additionalProperties" = { "type": "string", "maxLength": 63 },
        "x-kubernetes-validations" = [{
            "rule": "self.all(key, key.size() <= 317)",
            "message": "spec.selector has a key of more than 317 characters, which no pod can carry: give a label as pods have it, such as app: web",
        }]
    ))]
    pub selector: BTreeMap<String, String>,

    /// How many of the matching pods to affect: 1 to 100.
    #[serde(default = "default_count")]
    #[schemars(with = "i32", range(min = 1, max = 100))]
    pub count: u32,

    /// How long the loss lasts in each pod once it is in place: whole numbers with h, m or s, such as 90s, 2m or 1h30m; 1s to 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(s|m|h))+$"))]
    pub duration: Option<String>,

    /// Share of the packets to lose in each direction, in percent: above 0, up to 40, or to 100 with allowHighLoss. The loss
    /// models gemodel and state have their own.
    #[serde(default = "default_loss_percentage")]
    #[schemars(extend("minimum" = 0, "exclusiveMinimum" = true, "maximum" = 100))]
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
    #[schemars(schema_with = "crate::schema::direction")]
    pub direction: Direction,

    /// Interface in the pod, instead of the one that its default route leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,14}$"))]
    pub interface: Option<String>,

    /// Only say which pods would be chosen, and touch none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,

    /// At most this share of the eligible pods, in percent: 1 to 100. A run that would affect more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 100))]
    pub max_percentage: Option<u32>,

    /// How the loss is put into the kernel: auto (the best that works), guarded (a killed agent leaves no loss) or tc (plain netem).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "backend_schema")]
    pub backend: Option<BackendChoice>,

    /// Refuse to run where a killed agent would leave the loss in place, as with the backend guarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_guarded: Option<bool>,

    /// Consent to a production namespace: annotated chaos.gushchin.dev/production: "true", labelled environment: production or env: prod,
    /// or named prod, production, prod-…, …-prod, production-… or …-production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_production: Option<bool>,

    /// Consent to a loss of more than 40 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_high_loss: Option<bool>,

    /// Hold the experiment: a run is stopped, and what is left of its duration begins when this is false again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,

    /// End the run when fewer than so many of the pods with these labels are ready; begin none with fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 2_147_483_647))]
    pub abort: Option<u32>,

    /// How often a run in which no pod got any loss is tried again: 0 to 10.
    #[serde(default = "default_max_retries")]
    #[schemars(with = "i32", range(min = 0, max = 10))]
    pub max_retries: u32,

    /// How the wait between retries grows: exponential (doubled each time, to at most an hour) or fixed.
    #[serde(default)]
    pub retry_backoff: RetryBackoff,

    /// The wait before the first retry: whole numbers with h, m or s.
    #[serde(default = "default_retry_delay")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(s|m|h))+$"))]
    pub retry_delay: String,

    /// When to run, as cron has it: minute, hour, day of month, month, day of week, and a time zone if it is not UTC; or @hourly, @daily,
    /// @weekly, @monthly, @yearly. Left out, there is one run, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub schedule: Option<String>,

    /// How long a whole run may take, with everything in it: attempts, retries, pauses. It repeats nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(s|m|h))+$"))]
    pub experiment_duration: Option<String>,

    /// When loss is allowed: a run waits for one of these to open, and its loss ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub time_windows: Option<Vec<TimeWindow>>,

    /// When loss is not allowed, whatever timeWindows says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub maintenance_windows: Option<Vec<TimeWindow>>,

    /// Names of experiments in the same namespace that have to be Completed before this one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)))]
    pub depends_on: Option<Vec<String>>,

    /// Lose only packets to and from these addresses. With targetCIDRs, targetPorts and targetProtocols: of each address, each port, each
    /// protocol. Needs the backend guarded.
    #[serde(default, rename = "targetIPs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(max = 64)))]
    pub target_ips: Option<Vec<String>>,

    /// Lose only packets to and from these networks, such as 10.0.0.0/8.
    #[serde(default, rename = "targetCIDRs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(max = 64)))]
    pub target_cidrs: Option<Vec<String>>,

    /// Lose only packets of these protocols: tcp, udp, icmp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(max = 16)))]
    pub target_protocols: Option<Vec<String>>,

    /// Never lose packets to and from these, whatever the targets say: CIDR[:PORT[-PORT]][/PROTO], such as any:53/udp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(max = 128)))]
    pub spare: Option<Vec<String>>,

    /// Lose only packets to and from these ports of the other side, of tcp and udp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<i32>", length(max = 100), inner(range(min = 1, max = 65535)))]
    pub target_ports: Option<Vec<u16>>,

    /// Never lose packets to and from the node, so that the kubelet's probes pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_node: Option<bool>,

    /// How packets are chosen, instead of each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_model: Option<LossModelSpec>,

    /// Seed of the random numbers, for losing the same packets again. Needs Linux 6.7 on the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 0))]
    pub seed: Option<u64>,

    /// Lose single segments of what TCP sends in one piece. Needs the backend guarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_segment: Option<bool>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_load: Option<i32>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_workers: Option<i32>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_size: Option<String>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_workers: Option<i32>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corruption_percentage: Option<f64>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corruption_correlation: Option<f64>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_percentage: Option<i32>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_path: Option<String>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_interval: Option<String>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint_key: Option<String>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint_value: Option<String>,

    /// Of another action, which k8s-chaos serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint_effect: Option<String>,
}

/// How packets are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct LossModelSpec {
    /// Which model.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["random", "gilbert", "gemodel", "state"]))]
    pub kind: String,
    /// Packets lost in a row on average, of the model gilbert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub mean_burst: Option<f64>,
    /// The probabilities of the models gemodel and state, in percent, in the order of tc-netem(8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 5), inner(range(min = 0, max = 100)))]
    pub probabilities: Option<Vec<f64>>,
}

/// A span of time, once or each week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeWindow {
    /// Recurring: each day, or each week on daysOfWeek. Absolute: once.
    #[serde(rename = "type")]
    pub kind: WindowKind,
    /// Its begin: HH:MM if recurring, RFC 3339 (such as 2026-11-24T09:00:00Z) if absolute.
    #[schemars(length(max = 64))]
    pub start: String,
    /// Its end, not included. Recurring, an end that is not after the start is on the next day.
    #[schemars(length(max = 64))]
    pub end: String,
    /// The time zone of a recurring window by its IANA name, such as Europe/Berlin; left out it is UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub timezone: Option<String>,
    /// The days on which a recurring window begins: Mon, Tue, Wed, Thu, Fri, Sat, Sun; left out it is each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 7), inner(length(max = 16)))]
    pub days_of_week: Option<Vec<String>>,
}

/// Whether a window comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs)] // explained at `TimeWindow::kind`, where users see it
pub enum WindowKind {
    Recurring,
    Absolute,
}

/// How the wait between retries grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs)] // explained at `ChaosExperimentSpec::retry_backoff`
pub enum RetryBackoff {
    #[default]
    Exponential,
    Fixed,
}

impl ChaosExperimentSpec {
    /// Where its pods are: an experiment's own namespace unless the spec names another.
    #[must_use]
    pub fn target_namespace<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }

    /// Tells versions of a spec apart, but for `paused`, which asks for no other run.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let spec = Self { paused: None, ..self.clone() };
        format!("{:016x}", stable_hash(&[&serde_json::to_string(&spec).unwrap_or_default()]))
    }

    /// In percent, by whichever of its two names it was given.
    #[must_use]
    pub fn correlation_percentage(&self) -> f64 {
        self.correlation.or(self.loss_correlation).unwrap_or(0.0)
    }
}

fn backend_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": [BackendChoice::Auto, BackendChoice::Guarded, BackendChoice::Tc] })
}

fn default_count() -> u32 {
    1
}

fn default_max_retries() -> u32 {
    3
}

fn default_retry_delay() -> String {
    "30s".to_owned()
}

fn default_loss_percentage() -> f64 {
    5.0
}
