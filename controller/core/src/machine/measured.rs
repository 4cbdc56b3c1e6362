//! Whether what the agents counted contradicts what the kernel was told to lose.

use crate::sanitize::some_of;
use netloss_api::{ChaosExperimentStatus, ObservedTraffic, PodStatus};
use netloss_contract::{Expectation, LossVerdict};

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

/// Judges the pods of a run in which the loss was in place, each by what status says that its agent was told.
pub(super) fn measured(status: &ChaosExperimentStatus) -> Measured {
    let pods: Vec<&PodStatus> = status.pods.iter().filter(|pod| pod.was_applied()).collect();
    let changed = some_of(pods.iter().filter(|pod| pod.changed_by_others == Some(true)).map(|pod| pod.name.clone()));
    if !changed.is_empty() {
        return Measured::Otherwise("RemovedByOthers", format!("another process changed or removed the loss in {changed}"));
    }
    let counted: Vec<(&str, &str, Expectation, ObservedTraffic)> = pods.iter().flat_map(|pod| directions(pod)).collect();
    if counted.is_empty() {
        return Measured::Nothing;
    }
    if counted.iter().all(|(.., traffic)| traffic.packets == 0) {
        let words = "no packet matched: check the spec's targets and interface, and that the pods send and receive packets";
        return Measured::Otherwise("NoPacketMatched", words.to_owned());
    }
    for (verdict, reason) in [(LossVerdict::Above, "LossAboveRequested"), (LossVerdict::Below, "LossBelowRequested")] {
        let others = counted.iter().filter(|(_, _, expected, traffic)| expected.judge(traffic.packets, traffic.dropped) == verdict);
        let words = some_of(others.map(|(pod, direction, expected, traffic)| {
            let (lost, expected) = (100.0 * traffic.dropped as f64 / traffic.packets as f64, expected.percentage());
            format!("{pod}: lost {lost:.1} % of {} packets ({direction}), expected {expected:.1} %", traffic.packets)
        }));
        if !words.is_empty() {
            return Measured::Otherwise(reason, words);
        }
    }
    Measured::AsRequested
}

/// Each direction of a pod, with what it is held against.
fn directions(pod: &PodStatus) -> impl Iterator<Item = (&str, &'static str, Expectation, ObservedTraffic)> {
    let expected = pod.asked.expectation();
    let observed = pod.observed.unwrap_or_default();
    let each = [("egress", observed.egress), ("ingress", observed.ingress)];
    each.into_iter().filter_map(move |(direction, traffic)| Some((pod.name.as_str(), direction, expected, traffic?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{at, entry};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::ObservedLoss;

    fn pod(packets: u64, dropped: u64, expected: f64) -> PodStatus {
        let mut pod = entry();
        pod.applied_at = Some(Time(at(0)));
        pod.asked.loss_percentage = expected;
        let egress = ObservedTraffic { packets, dropped, ..ObservedTraffic::default() };
        pod.observed = Some(ObservedLoss { egress: Some(egress), ingress: None });
        pod
    }

    fn of(pods: Vec<PodStatus>) -> Measured {
        measured(&ChaosExperimentStatus { pods, ..ChaosExperimentStatus::default() })
    }

    #[test]
    fn counts_that_contradict_the_prediction_are_found() {
        let otherwise = |reason, words: &str| Measured::Otherwise(reason, words.to_owned());
        let much = of(vec![pod(3781, 3089, 1.096)]);
        assert_eq!(much, otherwise("LossAboveRequested", "p: lost 81.7 % of 3781 packets (egress), expected 1.1 %"));
        let little = of(vec![pod(3781, 3, 10.0)]);
        assert_eq!(little, otherwise("LossBelowRequested", "p: lost 0.1 % of 3781 packets (egress), expected 10.0 %"));
        assert!(matches!(of(vec![pod(1000, 900, 100.0)]), Measured::Otherwise("LossBelowRequested", _)));
        assert_eq!(of(vec![pod(1000, 1000, 100.0)]), Measured::AsRequested);
        // What is predicted counts, not what is requested.
        let mut correlated = pod(100_000, 1750, 10.0);
        correlated.asked.predicted_percentage = Some(1.75);
        assert_eq!(of(vec![correlated]), Measured::AsRequested);
    }

    #[test]
    fn few_packets_and_bursts_contradict_nothing() {
        assert_eq!(of(vec![pod(20, 8, 10.0)]), Measured::AsRequested);
        assert_eq!(of(vec![pod(3, 3, 10.0)]), Measured::AsRequested);
        let mut bursts = pod(10_000, 1600, 10.0);
        bursts.asked.variance_inflation = Some(179.0);
        assert_eq!(of(vec![bursts]), Measured::AsRequested, "some sixteen bursts of a hundred packets instead of ten");
        assert!(matches!(of(vec![pod(10_000, 1600, 10.0)]), Measured::Otherwise("LossAboveRequested", _)));
    }

    #[test]
    fn no_packet_and_changes_by_others_are_named() {
        assert!(matches!(of(vec![pod(0, 0, 10.0), pod(0, 0, 10.0)]), Measured::Otherwise("NoPacketMatched", _)));
        assert_eq!(of(vec![pod(0, 0, 10.0), pod(1000, 98, 10.0)]), Measured::AsRequested);
        let changed = PodStatus { changed_by_others: Some(true), ..pod(1000, 98, 10.0) };
        assert!(matches!(of(vec![changed]), Measured::Otherwise("RemovedByOthers", _)));
        assert_eq!(of(vec![PodStatus { observed: None, ..pod(1, 0, 10.0) }]), Measured::Nothing);
    }
}
