//! One pod of a run: what is to be done there, and what came of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_contract::{Correlation, Direction, Expectation, LossModel, LossPercentage, PerDirection, Traffic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One pod of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid: a later pod of the same name is another pod.
    pub uid: String,
    /// The node that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// Name of the agent's container. Frozen.
    pub container: String,
    /// The agent's image. Frozen.
    pub image: String,
    /// The agent's arguments. Frozen. Absent where `plan` names the record that has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Name of the ChaosExperimentPlan that has the agent's arguments, where status would be too large with those of all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// When the loss ends at the latest, whenever it began. Frozen.
    pub deadline: Time,
    /// Number of the attempt on this pod within the run, from 1. Frozen.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_i64))]
    pub attempt: u32,
    /// What the agent is asked for. Frozen.
    pub asked: AskedLoss,
    /// Which pods are made alike: one of them answers for all when it is asked whether an agent would be admitted. Frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The pod's first address when this was planned: a sandbox that was made anew has another. Frozen.
    #[serde(default, rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// The container that is sent after the agent to stop it, if it is to be stopped. Frozen, but for one that was never started: another
    /// follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<SentContainer>,
    /// The container that takes away what the agent may have left, if it ended or fell silent without saying how. Frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<SentContainer>,

    /// How far it has come.
    pub state: PodState,
    /// The interface that the agent put the loss on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How the agent put the loss into the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// True where a killed agent would leave the loss in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unguarded: Option<bool>,
    /// When the loss was in place, by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Time>,
    /// True while the agent reports nothing, although it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
    /// How long the loss was in place, in seconds, as the agent reported it at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_seconds: Option<f64>,
    /// What is left of the duration for when the experiment is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<String>,
    /// What the agent's counters last said, for each direction asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedLoss>,

    /// True where another process had changed or removed the loss when the agent ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by_others: Option<bool>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When it was seen to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// What there is to say about it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl PodStatus {
    /// Whether something may be under way in the pod.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != PodState::Ended
    }

    /// Whether the loss is known to have been in place at some time.
    #[must_use]
    pub fn was_applied(&self) -> bool {
        self.applied_at.is_some()
    }

    /// Whether the kernel ends the loss where the agent cannot: by its report, or without one, as it was told to bring no other.
    #[must_use]
    pub fn ends_by_itself(&self) -> bool {
        let asked = || self.argv.iter().any(|argument| argument == "--backend=guarded");
        self.unguarded.map_or_else(asked, |unguarded| !unguarded)
    }

    /// Whether loss may be left in it, as nobody said that it is gone and the kernel does not end it.
    #[must_use]
    pub fn may_be_impaired(&self) -> bool {
        self.outcome == Some(Outcome::Unknown) && !self.ends_by_itself()
    }

    /// `namespace/name`, as messages name a pod.
    #[must_use]
    pub fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A container that is sent after an agent: to stop it before its time is over, or to take away what it may have left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SentContainer {
    /// Its name.
    pub container: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// After this it does nothing.
    pub deadline: Time,
    /// Which of its kind it is, from 1.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_i64))]
    pub number: u32,
}

/// How far the agent in a pod has come. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum PodState {
    /// Written down; the pod may or may not have been patched.
    Planned,
    /// The agent's container is in the pod's spec.
    Injected,
    /// The agent has reported that the loss is in place.
    Applied,
    /// Over; `outcome` says how.
    Ended,
}

netloss_contract::display_as_serialized!(Outcome);

/// How it ended in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Outcome {
    /// The loss lasted as asked, and the agent has verified that it is gone.
    Clean,
    /// The agent has verified that the loss is gone, but it lasted less than 90 % of the duration.
    Shortened,
    /// The agent has verified that the loss is gone, but it was in force for less than 95 % of the time: the agent was starved, or another process
    /// had changed it.
    Degraded,
    /// There was an error; the pod is as it was before.
    Failed,
    /// The agent did nothing: it was not put into the pod, or it did not start before the deadline.
    NeverStarted,
    /// The pod ended or was replaced, and its network, with whatever was in it, is gone.
    PodEnded,
    /// The agent did not say how it ended; what it may have left was then looked for, and is gone.
    Repaired,
    /// The pod got a new sandbox, and its network, with whatever was in it, is gone.
    SandboxRecreated,
    /// The agent did not say how it ended: loss may remain in the pod where it was unguarded.
    Unknown,
}

impl Outcome {
    /// Whether the loss was in place and is known to be gone, or the pod is.
    #[must_use]
    pub fn is_recovery(self) -> bool {
        matches!(self, Self::Clean | Self::Shortened | Self::Degraded | Self::PodEnded | Self::Repaired | Self::SandboxRecreated)
    }
}

/// What the agent is asked for: not a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AskedLoss {
    /// In percent, for each direction.
    pub loss_percentage: f64,
    /// In percent.
    pub correlation: f64,
    /// Which way.
    #[schemars(schema_with = "crate::schema::direction")]
    pub direction: Direction,
    /// How long, from when the loss is in place.
    pub duration: String,
    /// What that loses in the long run, in percent, by the kernel's formula: predicted, and only where it is not what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_percentage: Option<f64>,
    /// Factor by which the variance of the observed share exceeds that of independent losses, by the kernel's formula; absent where it is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance_inflation: Option<f64>,
}

impl AskedLoss {
    /// What counters are held against.
    #[must_use]
    pub fn expectation(&self) -> Expectation {
        // A correlated loss has a start of its own, which the two figures do not show.
        let correlation = (self.correlation > 0.0).then(|| Correlation::try_from(self.correlation).ok()).flatten();
        if let (Some(correlation), Ok(loss_percentage)) = (correlation, LossPercentage::try_from(self.loss_percentage)) {
            return LossModel::Random { loss_percentage, correlation }.expectation();
        }
        Expectation::new(self.predicted_percentage.unwrap_or(self.loss_percentage), self.variance_inflation.unwrap_or(1.0))
    }
}

/// What the agent counted, for each direction asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedLoss {
    /// Packets that the pod sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<ObservedTraffic>,
    /// Packets that the pod received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<ObservedTraffic>,
}

/// Counters of one direction, from the moment that the loss was in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ObservedTraffic {
    /// Packets that met the loss, dropped ones included.
    #[schemars(with = "i64", range(min = 0))]
    pub packets: u64,
    /// Packets that it dropped.
    #[schemars(with = "i64", range(min = 0))]
    pub dropped: u64,
    /// The share that was lost, in percent, to two decimals; absent where no packet came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_percentage: Option<f64>,
    /// 95 % confidence interval of the rate (Wilson), for the effective number of packets; absent where no packet came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<ObservedInterval>,
}

/// A range that a rate lies in, in percent, to two decimals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ObservedInterval {
    /// From, in percent.
    pub low: f64,
    /// To, in percent.
    pub high: f64,
}

impl ObservedTraffic {
    /// Of an agent's report, held against what is expected.
    #[must_use]
    pub fn new(traffic: Traffic, expected: Expectation) -> Self {
        let hundredths = |percent: f64| (percent * 100.0).round() / 100.0;
        // Anybody in the pod may have written the report. Of its numbers the two counters alone are taken, and as an API server takes them:
        // a number that it refuses would keep the status from being written.
        let counted = Traffic::new(traffic.packets.min(i64::MAX.cast_unsigned()), traffic.dropped, expected);
        Self {
            packets: counted.packets,
            dropped: counted.dropped,
            loss_percentage: counted.observed_percentage.map(hundredths),
            interval: counted.interval.map(|of| ObservedInterval { low: hundredths(of.low), high: hundredths(of.high) }),
        }
    }
}

impl ObservedLoss {
    /// Of an agent's report, held against what is expected.
    #[must_use]
    pub fn new(traffic: PerDirection<Traffic>, expected: Expectation) -> Self {
        let of = |traffic| ObservedTraffic::new(traffic, expected);
        Self { egress: traffic.egress.map(of), ingress: traffic.ingress.map(of) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_an_api_server_takes() {
        let forged = Traffic { packets: u64::MAX, dropped: u64::MAX, observed_percentage: Some(1e308), ..Traffic::default() };
        let observed = ObservedTraffic::new(forged, 10.0.into());
        assert_eq!((observed.packets, observed.dropped), (i64::MAX.cast_unsigned(), i64::MAX.cast_unsigned()));
        assert_eq!(observed.loss_percentage, Some(100.0));
        let more_than_all = ObservedTraffic::new(Traffic { packets: 10, dropped: 20, ..Traffic::default() }, 10.0.into());
        assert_eq!((more_than_all.dropped, more_than_all.loss_percentage), (10, Some(100.0)));
        assert_eq!(ObservedTraffic::new(Traffic::default(), 10.0.into()).loss_percentage, None);
    }
}
