//! An experiment as it is shown: made of the object, of what its agents said last, and of the time.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, ObservedLoss, Outcome, Phase, PodState, PodStatus};
use netloss_contract::{Direction, Expectation, Traffic, Ttl, sanitize};
use netloss_core::{
    machine::{Live, requested_percentage},
    sanitize::brief,
};
use serde::Serialize;
use std::collections::HashMap;

/// What agents said last, by the uid of their pod.
pub(super) type LiveFigures = HashMap<String, Live>;

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExperimentView {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The API's phases, or New where the controller has not written one yet, or Deleting.
    pub(super) phase: String,
    /// Number of the run.
    pub(super) run: Option<u32>,
    pub(super) asked: Asked,
    /// How many pods were chosen.
    pub(super) planned: usize,
    /// In how many the loss is or was in place.
    pub(super) applied: usize,
    /// In how many something is under way.
    pub(super) open: usize,
    /// In how many loss may be left.
    pub(super) loss_may_remain: usize,
    /// Of all pods together.
    pub(super) egress: Option<Seen>,
    /// Of all pods together.
    pub(super) ingress: Option<Seen>,
    /// From 0 to 1; none where nothing is planned.
    pub(super) progress: Option<f64>,
    /// When the last pod's loss ends, in seconds from now at the latest; none where nothing is under way.
    pub(super) seconds_left: Option<i64>,
    /// When it was planned.
    pub(super) started: Option<Timestamp>,
    /// When it had ended in every pod.
    pub(super) ended: Option<Timestamp>,
    /// When the schedule has its next run, or a run is tried again.
    pub(super) next: Option<Timestamp>,
    pub(super) created: Option<Timestamp>,
    pub(super) message: Option<String>,
    pub(super) pods: Vec<PodLine>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    pub(super) loss_percentage: f64,
    pub(super) direction: Direction,
    pub(super) duration: Option<String>,
    /// What that loses in the long run, by the kernel's formula, where it is not what is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) predicted_percentage: Option<f64>,
    /// By which factor its share of lost packets has a larger variance than that of independent losses, where it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) variance_inflation: Option<f64>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodLine {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) node: Option<String>,
    /// planned, injected, applied, silent, stopping, repairing, or how it ended.
    pub(super) phase: String,
    pub(super) is_open: bool,
    pub(super) loss_may_remain: bool,
    pub(super) asked: Asked,
    pub(super) egress: Option<Seen>,
    pub(super) ingress: Option<Seen>,
    /// Until the loss ends by itself; at the latest where it is not in place yet.
    pub(super) seconds_left: Option<i64>,
    pub(super) applied: Option<Timestamp>,
    /// When it was seen to have ended.
    pub(super) ended: Option<Timestamp>,
    /// How long the loss was in place, as the agent said at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loss_seconds: Option<f64>,
    pub(super) backend: Option<String>,
    /// True where a killed agent would leave the loss in place.
    pub(super) unguarded: Option<bool>,
    pub(super) container: String,
    pub(super) message: Option<String>,
}

/// What was counted in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    pub(super) packets: u64,
    pub(super) dropped: u64,
    /// None where no packet came.
    pub(super) loss_percentage: Option<f64>,
    /// Bounds of the 95 % Wilson interval, for as many independent packets as these say as much as.
    pub(super) low: Option<f64>,
    pub(super) high: Option<f64>,
    /// The interval is wider than what is expected: what is predicted, or asked for where nothing else is.
    pub(super) too_few_packets: bool,
}

impl Seen {
    /// Of counters, held against what is expected.
    pub(super) fn new(packets: u64, dropped: u64, expected: impl Into<Expectation>) -> Self {
        let traffic = Traffic::new(packets, dropped, expected);
        Self {
            packets: traffic.packets,
            dropped: traffic.dropped,
            loss_percentage: traffic.observed_percentage,
            low: traffic.interval.map(|interval| interval.low),
            high: traffic.interval.map(|interval| interval.high),
            too_few_packets: traffic.too_few_packets,
        }
    }

    /// Of several together; nothing of none.
    pub(super) fn sum(seen: impl Iterator<Item = Self>, expected: Expectation) -> Option<Self> {
        let add = |(packets, dropped): (u64, u64), seen: Self| (packets.saturating_add(seen.packets), dropped.saturating_add(seen.dropped));
        let sum = seen.fold(None, |sum, seen| Some(add(sum.unwrap_or_default(), seen)));
        sum.map(|(packets, dropped)| Self::new(packets, dropped, expected))
    }

    /// As in `9.8% (8.1-11.8)`.
    pub(super) fn words(&self) -> String {
        match (self.loss_percentage, self.low, self.high) {
            (Some(percent), Some(low), Some(high)) => format!("{percent:.1}% ({low:.1}-{high:.1})"),
            _ => "no packets".to_owned(),
        }
    }

    /// As in `98/1000`.
    pub(super) fn counts(&self) -> String {
        format!("{}/{}", self.dropped, self.packets)
    }
}

impl Asked {
    /// What a pod's agent is asked for; `loss_percentage`, as the spec has it, where none is planned yet.
    pub(super) fn of(pod: Option<&PodStatus>, loss_percentage: f64, direction: Direction, duration: Option<String>) -> Self {
        Self {
            loss_percentage: pod.map_or(loss_percentage, |pod| pod.asked.loss_percentage),
            direction,
            duration,
            predicted_percentage: pod.and_then(|pod| pod.asked.predicted_percentage),
            variance_inflation: pod.and_then(|pod| pod.asked.variance_inflation),
        }
    }

    /// What counters are held against.
    pub(super) fn expectation(&self) -> Expectation {
        Expectation::new(self.predicted_percentage.unwrap_or(self.loss_percentage), self.variance_inflation.unwrap_or(1.0))
    }

    /// As in `10% both`.
    pub(super) fn words(&self) -> String {
        format!("{}% {}", self.loss_percentage, self.direction)
    }
}

impl ExperimentView {
    /// What is shown of an experiment at a time.
    pub(super) fn new(object: &ChaosExperiment, live: &LiveFigures, now: Timestamp) -> Self {
        let none = ChaosExperimentStatus::default();
        let status = object.status.as_ref().unwrap_or(&none);
        let pods: Vec<PodLine> = status.pods.iter().map(|pod| PodLine::new(pod, live, now)).collect();
        let asked = Asked::of(status.pods.first(), requested_percentage(&object.spec), object.spec.direction, object.spec.duration.clone());
        let sum = |of: fn(&PodLine) -> Option<Seen>| Seen::sum(pods.iter().filter_map(of), asked.expectation());
        let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.as_ref().map(|time| time.0);
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            phase: phase(object),
            run: status.run,
            planned: status.pods.len(),
            applied: status.pods.iter().filter(|pod| pod.was_applied()).count(),
            open: status.open_pods().count(),
            loss_may_remain: status.impaired_pods().count(),
            egress: sum(|pod| pod.egress),
            ingress: sum(|pod| pod.ingress),
            asked,
            progress: progress(&status.pods, now),
            seconds_left: pods.iter().filter_map(|pod| pod.seconds_left).max(),
            started: time(&status.start_time),
            ended: time(&status.completed_at),
            next: time(&status.next_retry_time).or_else(|| time(&status.next_scheduled_time)),
            created: object.creation_timestamp().map(|time| time.0),
            message: status.message.as_deref().map(sanitize),
            pods,
        }
    }
}

fn phase(object: &ChaosExperiment) -> String {
    let phase = object.status.as_ref().and_then(|status| status.phase);
    let is_over = phase.is_some_and(Phase::is_final);
    match phase {
        _ if object.metadata.deletion_timestamp.is_some() && !is_over => "Deleting".to_owned(),
        Some(phase) => format!("{phase:?}"),
        None => "New".to_owned(),
    }
}

impl PodLine {
    pub(super) fn new(pod: &PodStatus, live: &LiveFigures, now: Timestamp) -> Self {
        let expected = pod.asked.expectation();
        let heard = live.get(&pod.uid).filter(|_| pod.is_open()).map(|live| ObservedLoss::new(live.traffic, expected));
        let observed = heard.or(pod.observed).unwrap_or_default();
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            node: pod.node.clone(),
            phase: pod_phase(pod),
            is_open: pod.is_open(),
            loss_may_remain: pod.may_be_impaired(),
            asked: Asked::of(Some(pod), pod.asked.loss_percentage, pod.asked.direction, Some(pod.asked.duration.clone())),
            egress: observed.egress.map(|traffic| Seen::new(traffic.packets, traffic.dropped, expected)),
            ingress: observed.ingress.map(|traffic| Seen::new(traffic.packets, traffic.dropped, expected)),
            seconds_left: pod.is_open().then(|| seconds_until(ends_at(pod), now)),
            applied: pod.applied_at.as_ref().map(|time| time.0),
            ended: pod.ended_at.as_ref().map(|time| time.0),
            loss_seconds: pod.loss_seconds,
            backend: pod.backend.clone(),
            unguarded: pod.unguarded,
            container: pod.container.clone(),
            message: pod.message.as_deref().map(brief),
        }
    }
}

/// In one word.
fn pod_phase(pod: &PodStatus) -> String {
    let word = match (pod.state, pod.outcome) {
        (_, Some(outcome)) => return outcome_word(outcome),
        _ if pod.repair.is_some() => "repairing",
        _ if pod.stop.is_some() => "stopping",
        (PodState::Applied, _) if pod.silent == Some(true) => "silent",
        (PodState::Planned, _) => "planned",
        (PodState::Injected, _) => "injected",
        (PodState::Applied, _) => "applied",
        (PodState::Ended, None) => "ended",
    };
    word.to_owned()
}

/// As the API spells it.
pub(super) fn outcome_word(outcome: Outcome) -> String {
    outcome.to_string()
}

/// When the loss ends by itself, or at the latest where it is not in place yet.
fn ends_at(pod: &PodStatus) -> Timestamp {
    let ttl = ttl_of(pod);
    let after_ttl = pod.applied_at.as_ref().and_then(|since| since.0.checked_add(ttl?).ok());
    after_ttl.map_or(pod.deadline.0, |end| end.min(pod.deadline.0))
}

fn ttl_of(pod: &PodStatus) -> Option<SignedDuration> {
    pod.asked.duration.parse::<Ttl>().ok().and_then(|ttl| SignedDuration::try_from(ttl.duration()).ok())
}

fn seconds_until(at: Timestamp, now: Timestamp) -> i64 {
    at.duration_since(now).as_secs().max(0)
}

/// How much of what was asked for is over, on average over the pods.
fn progress(pods: &[PodStatus], now: Timestamp) -> Option<f64> {
    let share = |pod: &PodStatus| match (&pod.applied_at, ttl_of(pod)) {
        _ if !pod.is_open() => 1.0,
        (Some(since), Some(ttl)) if !ttl.is_zero() => (now.duration_since(since.0).as_secs_f64() / ttl.as_secs_f64()).clamp(0.0, 1.0),
        _ => 0.0,
    };
    (!pods.is_empty()).then(|| pods.iter().map(share).sum::<f64>() / pods.len() as f64)
}

/// As kubectl shows ages: `45s`, `2m5s`, `3h20m`, `4d6h`.
pub(super) fn span(seconds: i64) -> String {
    let (big, unit, small, small_unit) = match seconds.max(0) {
        seconds @ 0..60 => return format!("{seconds}s"),
        seconds @ 60..3600 => (seconds / 60, 'm', seconds % 60, 's'),
        seconds @ 3600..86_400 => (seconds / 3600, 'h', seconds % 3600 / 60, 'm'),
        seconds => (seconds / 86_400, 'd', seconds % 86_400 / 3600, 'h'),
    };
    if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_contract::PerDirection;
    use netloss_core::machine::fixtures::{at, entry, spec};

    fn object(pods: Vec<PodStatus>) -> ChaosExperiment {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        let status = ChaosExperimentStatus { phase: Some(Phase::Running), run: Some(1), pods, ..ChaosExperimentStatus::default() };
        object.status = Some(status);
        object
    }

    fn applied() -> PodStatus {
        PodStatus { state: PodState::Applied, applied_at: Some(Time(at(10))), deadline: Time(at(150)), ..entry() }
    }

    #[test]
    fn time_left_is_until_the_end_or_at_most_until_the_deadline() {
        let lines =
            ExperimentView::new(&object(vec![applied(), PodStatus { deadline: Time(at(150)), ..entry() }]), &LiveFigures::new(), at(20));
        assert_eq!(lines.pods[0].seconds_left, Some(20));
        assert_eq!(lines.pods[1].seconds_left, Some(130));
        assert_eq!((lines.planned, lines.applied, lines.open), (2, 1, 2));
        let third = lines.progress.unwrap();
        assert!((third - 1.0 / 6.0).abs() < 1e-9, "a third of one, nothing of the other: {third}");
    }

    #[test]
    fn what_an_agent_says_now_comes_before_what_is_written_down() {
        let traffic = PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: None };
        let live = LiveFigures::from([("pod-uid".to_owned(), Live { at: at(15), traffic })]);
        let view = ExperimentView::new(&object(vec![applied()]), &live, at(20));
        let seen = view.pods[0].egress.unwrap();
        assert_eq!((seen.words().as_str(), seen.counts().as_str()), ("9.8% (8.1-11.8)", "98/1000"));
        assert_eq!((view.pods[0].ingress, view.egress), (None, Some(seen)));
        let observed = ObservedLoss::new(PerDirection { egress: Some(Traffic::new(10, 1, 10.0)), ingress: None }, 10.0.into());
        let ended = PodStatus { state: PodState::Ended, outcome: Some(Outcome::Clean), observed: Some(observed), ..applied() };
        let view = ExperimentView::new(&object(vec![ended]), &live, at(50));
        assert_eq!(view.pods[0].egress.map(|seen| (seen.packets, seen.too_few_packets)), Some((10, true)));
        assert_eq!((view.pods[0].phase.as_str(), view.pods[0].seconds_left, view.progress), ("clean", None, Some(1.0)));
    }

    /// A8: the agent goes by the prediction, and so does what is shown.
    #[test]
    fn few_packets_are_few_for_what_is_predicted() {
        let mut pod = applied();
        pod.asked.predicted_percentage = Some(1.75);
        pod.asked.variance_inflation = Some(1.5);
        let expected = pod.asked.expectation();
        let traffic = PerDirection { egress: Some(Traffic::new(400, 7, expected)), ingress: None };
        let live = LiveFigures::from([("pod-uid".to_owned(), Live { at: at(15), traffic })]);
        let view = ExperimentView::new(&object(vec![pod]), &live, at(20));
        let agent = traffic.egress.unwrap();
        assert!(agent.too_few_packets && !Traffic::new(400, 7, 10.0).too_few_packets);
        for seen in [view.egress.unwrap(), view.pods[0].egress.unwrap()] {
            assert_eq!(
                (seen.too_few_packets, seen.low, seen.high),
                (true, agent.interval.map(|of| of.low), agent.interval.map(|of| of.high))
            );
        }
    }

    #[test]
    fn a_phase_is_one_word() {
        let word = |pod: PodStatus| pod_phase(&pod);
        assert_eq!(word(entry()), "planned");
        assert_eq!(word(PodStatus { silent: Some(true), ..applied() }), "silent");
        assert_eq!(word(PodStatus { outcome: Some(Outcome::NeverStarted), state: PodState::Ended, ..entry() }), "never-started");
        let mut deleted = object(vec![applied()]);
        deleted.metadata.deletion_timestamp = Some(Time(at(0)));
        assert_eq!(phase(&deleted), "Deleting");
        deleted.status = None;
        deleted.metadata.deletion_timestamp = None;
        assert_eq!(phase(&deleted), "New");
    }

    #[test]
    fn spans_are_short() {
        for (seconds, words) in [(-5, "0s"), (45, "45s"), (120, "2m"), (125, "2m5s"), (3_600, "1h"), (12_000, "3h20m"), (367_200, "4d6h")] {
            assert_eq!(span(seconds), words);
        }
    }
}
