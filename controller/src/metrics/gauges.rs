//! What is the case at present, for each experiment.

use super::ACTION;
use jiff::Timestamp;
use kube::ResourceExt;
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, ObservedLoss};
use netloss_core::history::Remnant;
use netloss_core::machine::Live;
use prometheus::{Gauge, GaugeVec, Opts, core::Collector, proto::MetricFamily};
use std::{collections::HashMap, sync::Arc};

/// Experiments that have series of their own: a judgement that bounds the size of a scrape. Those that may have left loss in a pod come first, then those with something under way.
pub(super) const SHOWN: usize = 200;

/// The families of these experiments.
pub(super) fn gather(
    experiments: &[Arc<ChaosExperiment>],
    remnants: &[Remnant],
    live: &HashMap<String, Live>,
    now: Timestamp,
) -> prometheus::Result<Vec<MetricFamily>> {
    let own = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
    let each = ["namespace", "experiment"];
    let active = own("chaosexperiment_active", "Experiments with something under way in a pod.", &["action"])?;
    let affected = own(
        "chaosexperiment_resources_affected",
        "Pods of the latest run that an agent was put into.",
        &["action", "namespace", "experiment"],
    )?;
    let asked = own("netloss_asked_loss_ratio", "The loss that is asked for in each direction, 0 to 1.", &each)?;
    let observed = own(
        "netloss_observed_loss_ratio",
        "The share of packets that was dropped, 0 to 1, as the agents of the latest run counted it so far.",
        &["namespace", "experiment", "direction"],
    )?;
    let age = own("netloss_heartbeat_age_seconds", "How long ago the agent that has been silent longest was heard.", &each)?;
    let remains = own("netloss_loss_may_remain_pods", "Pods in which loss may remain: deleting them ends it.", &each)?;
    let hidden =
        Gauge::with_opts(Opts::new("netloss_experiments_not_shown", "Experiments without series of their own, as there are too many."))?;

    let mut all: Vec<(&ChaosExperiment, &ChaosExperimentStatus)> = experiments
        .iter()
        .filter(|object| object.spec.action.is_served())
        .filter_map(|object| Some((&**object, object.status.as_ref()?)))
        .collect();
    let open = all.iter().filter(|(_, status)| status.is_active()).count();
    active.with_label_values(&[ACTION]).set(open as f64);
    all.sort_by_key(|(object, status)| {
        (status.impaired_pods().next().is_none(), !status.is_active(), std::cmp::Reverse(status.last_run_time.clone()), object.uid())
    });
    hidden.set(all.len().saturating_sub(SHOWN) as f64);
    for (object, status) in all.into_iter().take(SHOWN) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        affected.with_label_values(&[ACTION, object.spec.target_namespace(&namespace), &name]).set(status.affected_pods.len() as f64);
        remains.with_label_values(&[&namespace, &name]).set(left(status));
        if let Some(pod) = status.pods.first() {
            asked.with_label_values(&[&namespace, &name]).set(pod.asked.loss_percentage / 100.0);
        }
        let counted: Vec<ObservedLoss> = status
            .pods
            .iter()
            .filter_map(|pod| {
                // The pod of an entry that has ended may have another agent by now, of another run.
                let live = live.get(&pod.uid).filter(|_| pod.is_open());
                live.map(|live| ObservedLoss::new(live.traffic, pod.asked.expectation())).or(pod.observed)
            })
            .collect();
        for (direction, of) in [("egress", (|seen| seen.egress) as fn(&ObservedLoss) -> _), ("ingress", |seen| seen.ingress)] {
            let (packets, dropped) = counted
                .iter()
                .filter_map(of)
                .fold((0_u64, 0_u64), |sum, one| (sum.0.saturating_add(one.packets), sum.1.saturating_add(one.dropped)));
            if packets > 0 {
                observed.with_label_values(&[&namespace, &name, direction]).set(dropped as f64 / packets as f64);
            }
        }
        let heard = status.open_pods().filter(|pod| pod.was_applied());
        let oldest = heard.filter_map(|pod| live.get(&pod.uid).map(|live| now.duration_since(live.at).as_secs_f64())).reduce(f64::max);
        if let Some(oldest) = oldest {
            age.with_label_values(&[&namespace, &name]).set(oldest.max(0.0));
        }
    }
    for Remnant { experiment, pods } in remnants {
        if !experiments.iter().any(|object| object.metadata.uid == experiment.uid) {
            remains.with_label_values(&[&experiment.namespace, &experiment.name]).add(*pods as f64);
        }
    }
    let families = [active, affected, asked, observed, age, remains].into_iter().flat_map(|gauge| gauge.collect());
    // A family without a series has no form.
    Ok(families.chain(hidden.collect()).filter(|family| !family.get_metric().is_empty()).collect())
}

/// In how many pods loss may remain, of the latest run and of earlier ones.
fn left(status: &ChaosExperimentStatus) -> f64 {
    status.impaired_pods().count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_api::{Outcome, Phase, PodState, PodStatus};
    use netloss_core::machine::fixtures::{at, entry, spec};

    /// The alert on it is for somebody who has to act, and others' experiments must not end it.
    #[test]
    fn loss_that_may_remain_is_shown_before_anything_that_is_under_way() {
        let object = |name: &str, entry: PodStatus| {
            let mut object = ChaosExperiment::new(name, spec());
            object.metadata.namespace = Some("n".to_owned());
            object.status =
                Some(ChaosExperimentStatus { phase: Some(Phase::Running), pods: vec![entry], ..ChaosExperimentStatus::default() });
            Arc::new(object)
        };
        let left = PodStatus { state: PodState::Ended, outcome: Some(Outcome::Unknown), unguarded: Some(true), ..entry() };
        let mut all: Vec<_> = (0..SHOWN).map(|number| object(&format!("x{number}"), entry())).collect();
        all.push(object("left", left));
        let families = gather(&all, &[], &HashMap::new(), at(0)).unwrap();
        let remains = families.iter().find(|family| family.name() == "netloss_loss_may_remain_pods").unwrap();
        let of_left = remains.get_metric().iter().find(|metric| metric.get_label().iter().any(|label| label.value() == "left"));
        assert!(of_left.is_some_and(|metric| (metric.get_gauge().get_value() - 1.0).abs() < f64::EPSILON));
    }
}
