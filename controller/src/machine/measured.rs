//! Whether what the agents counted contradicts what the kernel was told to lose.

use crate::{
    api::{ChaosExperimentStatus, ObservedTraffic, PodStatus},
    words::some_of,
};
use netloss_contract::LossModel;
use std::cmp::Ordering;

/// Natural logarithm of how improbable a count has to be, if netem does as it was told, to be taken for a contradiction: 1 in 200 000.
const IMPROBABLE: f64 = 12.2;

/// What the packets of a run say about the loss that was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Measured {
    /// They do not contradict it.
    AsRequested,
    /// Nothing was counted.
    Nothing,
    /// They contradict it: the condition's reason, and its message.
    Otherwise(&'static str, String),
}

/// Judges the pods of a run in which the loss was in place. `model` is what was requested; without it the counts are not judged.
pub(super) fn measured(status: &ChaosExperimentStatus, model: Option<&LossModel>) -> Measured {
    let pods: Vec<&PodStatus> = status.pods.iter().filter(|pod| pod.was_applied()).collect();
    let changed = some_of(pods.iter().filter(|pod| pod.changed_by_others == Some(true)).map(|pod| pod.name.clone()));
    if !changed.is_empty() {
        return Measured::Otherwise("RemovedByOthers", format!("another process changed or removed the loss in {changed}"));
    }
    let counted: Vec<(&str, &str, f64, ObservedTraffic)> = pods.iter().flat_map(|pod| directions(pod)).collect();
    if counted.is_empty() {
        return Measured::Nothing;
    }
    if counted.iter().all(|(.., traffic)| traffic.packets == 0) {
        let words = "no packet matched: check the spec's targets and interface, and that the pods send and receive packets";
        return Measured::Otherwise("NoPacketMatched", words.to_owned());
    }
    let Some(model) = model else { return Measured::AsRequested };
    for (way, reason) in [(Ordering::Greater, "LossAboveRequested"), (Ordering::Less, "LossBelowRequested")] {
        let others = counted.iter().filter(|(_, _, expected, traffic)| contradiction(traffic, *expected, model) == Some(way));
        let words = some_of(others.map(|(pod, direction, expected, traffic)| {
            let lost = 100.0 * traffic.dropped as f64 / traffic.packets as f64;
            format!("{pod}: lost {lost:.1} % of {} packets ({direction}), expected {expected:.1} %", traffic.packets)
        }));
        if !words.is_empty() {
            return Measured::Otherwise(reason, words);
        }
    }
    Measured::AsRequested
}

/// Each direction of a pod, with the expected loss in percent.
fn directions(pod: &PodStatus) -> impl Iterator<Item = (&str, &'static str, f64, ObservedTraffic)> {
    let expected = pod.asked.predicted_percentage.unwrap_or(pod.asked.loss_percentage);
    let observed = pod.observed.unwrap_or_default();
    let each = [("egress", observed.egress), ("ingress", observed.ingress)];
    each.into_iter().filter_map(move |(direction, traffic)| Some((pod.name.as_str(), direction, expected, traffic?)))
}

/// Whether a count lies above or below the expected loss, in percent, by more than chance explains.
///
/// Chernoff's bound: of n independent packets a share p or more is lost with a probability of at most exp(-n·KL(p‖expected)). Losses that come
/// in bursts count as fewer packets.
fn contradiction(traffic: &ObservedTraffic, expected: f64, model: &LossModel) -> Option<Ordering> {
    if traffic.packets == 0 {
        return None;
    }
    let (observed, expected) = (traffic.dropped as f64 / traffic.packets as f64, (expected / 100.0).clamp(0.0, 1.0));
    // 0·ln(0/x) is 0.
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    let divergence = term(observed, expected) + term(1.0 - observed, 1.0 - expected);
    let packets = traffic.packets as f64 / burstiness(model, expected);
    let is_improbable = packets > 0.0 && packets * divergence > IMPROBABLE;
    observed.partial_cmp(&expected).filter(|way| is_improbable && way.is_ne())
}

/// By how much the losses' dependence on each other widens the spread of their share: (1+ρ)/(1-ρ), with ρ the correlation of neighbours.
fn burstiness(model: &LossModel, expected: f64) -> f64 {
    let of = |correlation: f64| (1.0 + correlation) / (1.0 - correlation);
    // P(lost | lost) is 1 - 1/B for a mean burst of B, which makes ρ = 1 - 1/(B·(1-L)).
    let of_burst = |burst: f64| of((1.0 - 1.0 / (burst * (1.0 - expected))).clamp(0.0, 1.0));
    match model {
        LossModel::Random { correlation, .. } => of(correlation.percent() / 100.0),
        LossModel::Gilbert { mean_burst, .. } => of_burst(mean_burst.packets()),
        // Their hidden states last longer than a burst does.
        LossModel::Gemodel { .. } | LossModel::State { .. } => {
            4.0 * of_burst(model.predicted().and_then(|predicted| predicted.mean_burst).unwrap_or(1.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{at, entry};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_contract::{PerDirection, Traffic};

    fn random(percent: f64, correlation: f64) -> LossModel {
        LossModel::Random { loss_percentage: percent.try_into().unwrap(), correlation: correlation.try_into().unwrap() }
    }

    fn pod(packets: u64, dropped: u64, expected: f64) -> PodStatus {
        let mut pod = entry();
        pod.applied_at = Some(Time(at(0)));
        pod.asked.loss_percentage = expected;
        pod.observed = Some(PerDirection { egress: Some(Traffic::new(packets, dropped, expected)), ingress: None }.into());
        pod
    }

    fn of(pods: Vec<PodStatus>, model: LossModel) -> Measured {
        measured(&ChaosExperimentStatus { pods, ..ChaosExperimentStatus::default() }, Some(&model))
    }

    #[test]
    fn counts_that_contradict_the_prediction_are_found() {
        let otherwise = |reason, words: &str| Measured::Otherwise(reason, words.to_owned());
        let much = of(vec![pod(3781, 3089, 1.096)], random(1.096, 0.0));
        assert_eq!(much, otherwise("LossAboveRequested", "p: lost 81.7 % of 3781 packets (egress), expected 1.1 %"));
        let little = of(vec![pod(3781, 3, 10.0)], random(10.0, 0.0));
        assert_eq!(little, otherwise("LossBelowRequested", "p: lost 0.1 % of 3781 packets (egress), expected 10.0 %"));
        assert!(matches!(of(vec![pod(1000, 999, 100.0)], random(100.0, 0.0)), Measured::Otherwise("LossBelowRequested", _)));
        assert_eq!(of(vec![pod(1000, 1000, 100.0)], random(100.0, 0.0)), Measured::AsRequested);
        // What is predicted counts, not what is requested.
        let mut correlated = pod(100_000, 1750, 10.0);
        correlated.asked.predicted_percentage = Some(1.75);
        assert_eq!(of(vec![correlated], random(10.0, 25.0)), Measured::AsRequested);
    }

    #[test]
    fn few_packets_and_bursts_contradict_nothing() {
        assert_eq!(of(vec![pod(20, 8, 10.0)], random(10.0, 0.0)), Measured::AsRequested);
        assert_eq!(of(vec![pod(3, 3, 10.0)], random(10.0, 0.0)), Measured::AsRequested);
        let gilbert = LossModel::Gilbert { loss_percentage: 10.0.try_into().unwrap(), mean_burst: 100.0.try_into().unwrap() };
        assert_eq!(of(vec![pod(10_000, 1600, 10.0)], gilbert), Measured::AsRequested, "some sixteen bursts instead of ten");
        assert!(matches!(of(vec![pod(10_000, 1600, 10.0)], random(10.0, 0.0)), Measured::Otherwise("LossAboveRequested", _)));
    }

    #[test]
    fn no_packet_and_changes_by_others_are_named() {
        assert!(matches!(of(vec![pod(0, 0, 10.0), pod(0, 0, 10.0)], random(10.0, 0.0)), Measured::Otherwise("NoPacketMatched", _)));
        assert_eq!(of(vec![pod(0, 0, 10.0), pod(1000, 98, 10.0)], random(10.0, 0.0)), Measured::AsRequested);
        let changed = PodStatus { changed_by_others: Some(true), ..pod(1000, 98, 10.0) };
        assert!(matches!(of(vec![changed], random(10.0, 0.0)), Measured::Otherwise("RemovedByOthers", _)));
        assert_eq!(of(vec![PodStatus { observed: None, ..pod(1, 0, 10.0) }], random(10.0, 0.0)), Measured::Nothing);
    }
}
