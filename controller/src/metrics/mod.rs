//! What a monitoring team sees.
//!
//! Counters and histograms are fed by transitions that were written down ([`Metrics::record`]), so each is counted once by the replica that
//! wrote it. What is the case at present ([`gauges`]) is made at each scrape from the experiments themselves, so nothing stale stays.
//! The names that begin with `chaosexperiment_` are k8s-chaos's, with its labels.

mod gauges;
pub mod server;

use jiff::{SignedDuration, Timestamp};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, Phase, PodStatus};
use netloss_contract::Ttl;
use netloss_core::{
    history::{self, Remnant},
    machine::{EventReason, EventRecord, Live},
    refusal::RefusalReason,
};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The label `action` of everything that netloss does.
const ACTION: &str = "pod-network-loss";

/// Lists what is there at present.
type Experiments = Box<dyn Fn() -> Vec<Arc<ChaosExperiment>> + Send + Sync>;

/// All metrics of one controller.
pub struct Metrics {
    registry: Registry,
    executions: IntCounterVec,
    durations: HistogramVec,
    errors: IntCounterVec,
    history_records: IntCounterVec,
    history_deleted: IntCounterVec,
    history_counts: IntGaugeVec,
    dry_runs: IntCounterVec,
    production_blocks: IntCounterVec,
    percentage_violations: IntCounterVec,
    excluded: IntCounterVec,
    injected: IntCounterVec,
    injection: Histogram,
    cleanup: Histogram,
    outcomes: IntCounterVec,
    reconcile_errors: IntCounterVec,
    requests: IntCounterVec,
    throttled: IntCounter,
    leader: IntGauge,
    watches: IntGauge,
    live: Mutex<HashMap<String, Live>>,
    experiments: Mutex<Option<Experiments>>,
    remnants: Mutex<Vec<Remnant>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| add(&registry, IntCounterVec::new(Opts::new(name, help), labels));
        let seconds = |name: &str, help: &str, buckets: &[f64]| HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let long = [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 4.0 * 3600.0, 24.0 * 3600.0];
        let short = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0];
        let durations = seconds("chaosexperiment_duration_seconds", "From the plan of a run to its end in every pod.", &long);
        let injection = seconds("netloss_injection_seconds", "From the plan to the loss being in place, by the node's clock.", &short);
        let cleanup = seconds(
            "netloss_cleanup_seconds",
            "From when the loss was to end by itself to the controller knowing how it ended; of runs that were not stopped.",
            &short,
        );
        Self {
            executions: counters("chaosexperiment_executions_total", "Runs that are over.", &["action", "namespace", "status"]),
            durations: add(&registry, HistogramVec::new(durations, &["action", "namespace"])),
            errors: counters("chaosexperiment_errors_total", "Runs that failed.", &["action", "namespace", "error_type"]),
            history_records: counters("chaosexperiment_history_records_total", "History records that were written.", &["action", "status"]),
            history_deleted: counters(
                "chaosexperiment_history_cleanup_total",
                "History records that were deleted, as they are not kept any longer.",
                &["reason"],
            ),
            history_counts: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new("chaosexperiment_history_records_count", "History records of each experiment, when they were counted last."),
                    &["experiment", "namespace"],
                ),
            ),
            dry_runs: counters("chaosexperiment_safety_dryrun_total", "Dry runs.", &["action", "namespace"]),
            production_blocks: counters(
                "chaosexperiment_safety_production_blocks_total",
                "Refused: a production namespace without consent.",
                &["action", "namespace"],
            ),
            percentage_violations: counters(
                "chaosexperiment_safety_percentage_violations_total",
                "Refused: more pods than spec.maxPercentage.",
                &["action", "namespace"],
            ),
            excluded: counters(
                "chaosexperiment_safety_excluded_resources_total",
                "Pods that had the labels and were skipped.",
                &["action", "namespace", "resource_type"],
            ),
            injected: counters("netloss_pods_injected_total", "Agents that were put into pods.", &["namespace"]),
            injection: add(&registry, Histogram::with_opts(injection)),
            cleanup: add(&registry, Histogram::with_opts(cleanup)),
            outcomes: counters("netloss_pod_outcomes_total", "Pods in which a run has ended, by how.", &["namespace", "outcome"]),
            reconcile_errors: counters("netloss_reconcile_errors_total", "Passes over an experiment that failed.", &["kind"]),
            requests: counters(
                "netloss_api_requests_total",
                "Requests to the API server, by method and status code (error: no answer).",
                &["method", "code"],
            ),
            throttled: add(
                &registry,
                IntCounter::new("netloss_api_requests_throttled_total", "Requests that waited for the client's own rate limit."),
            ),
            leader: add(&registry, IntGauge::new("netloss_leader", "1 on the replica that runs experiments.")),
            watches: add(&registry, IntGauge::new("netloss_pod_watches", "Namespaces whose pods are watched at present.")),
            live: Mutex::default(),
            experiments: Mutex::default(),
            remnants: Mutex::default(),
            registry,
        }
    }
}

/// Registers a metric. Its name and labels are constants, so that a mistake in them shows in every test.
#[allow(clippy::expect_used)]
fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("a metric is well formed");
    registry.register(Box::new(metric.clone())).expect("each metric has a name of its own");
    metric
}

impl Metrics {
    /// Makes known where the experiments of this replica can be listed; `None` when it does not run any.
    pub fn set_experiments(&self, list: Option<Experiments>) {
        *self.experiments.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// Makes known what runs may have left by their records.
    pub fn set_remnants(&self, found: Vec<Remnant>) {
        *self.remnants.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// Counts what has become of an experiment by a status that was just written, and by what was told with it.
    pub fn record(&self, at: &Recorded<'_>, before: Option<&ChaosExperimentStatus>, after: &ChaosExperimentStatus, now: Timestamp) {
        let (namespace, none) = (at.namespace, ChaosExperimentStatus::default());
        let before = before.unwrap_or(&none);
        for pod in &after.pods {
            let was = before.pods.iter().find(|was| was.uid == pod.uid && was.container == pod.container);
            let container = format!("{}:{}", pod.display_name(), pod.container);
            let is_adopted = after.affected_pods.contains(&container) && !before.affected_pods.contains(&container);
            self.record_pod(namespace, was, pod, is_adopted, before, now);
        }
        if let (true, Some(phase)) = (history::is_over(Some(before), after), after.phase) {
            let status = history::result(after);
            self.executions.with_label_values(&[ACTION, namespace, status.as_str()]).inc();
            if let (Some(begin), Some(end)) = (&after.start_time, &after.completed_at) {
                self.durations.with_label_values(&[ACTION, namespace]).observe(end.0.duration_since(begin.0).as_secs_f64());
            }
            if phase == Phase::Failed {
                self.errors.with_label_values(&[ACTION, namespace, history::failure_reason(after).as_str()]).inc();
            }
        }
        for event in at.events {
            match event.reason {
                EventReason::DryRun => self.dry_runs.with_label_values(&[ACTION, namespace]).inc(),
                EventReason::Skipped => self.excluded.with_label_values(&[ACTION, namespace, "pod"]).inc(),
                _ => {}
            }
        }
        self.refused(at.refusal, namespace);
    }

    /// Counts a refusal.
    pub fn refused(&self, refusal: Option<RefusalReason>, namespace: &str) {
        match refusal {
            Some(RefusalReason::Production) => self.production_blocks.with_label_values(&[ACTION, namespace]).inc(),
            Some(RefusalReason::TooLargeAShare) => self.percentage_violations.with_label_values(&[ACTION, namespace]).inc(),
            _ => {}
        }
    }

    /// `is_adopted`: its agent's container was found in it just now. A pod that refused it, or went before, had none.
    /// The label is the namespace that the experiment acts on: an entry's own may be any text that somebody else wrote.
    fn record_pod(
        &self,
        namespace: &str,
        was: Option<&PodStatus>,
        is: &PodStatus,
        is_adopted: bool,
        before: &ChaosExperimentStatus,
        now: Timestamp,
    ) {
        if is_adopted {
            self.injected.with_label_values(&[namespace]).inc();
        }
        if let (Some(applied), false, Some(planned)) = (&is.applied_at, was.is_some_and(PodStatus::was_applied), &before.last_run_time) {
            self.injection.observe(applied.0.duration_since(planned.0).as_secs_f64().max(0.0));
        }
        let Some(outcome) = is.outcome.filter(|_| was.is_none_or(PodStatus::is_open)) else { return };
        // Nobody may ever scrape, and pods come and go.
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&is.uid);
        self.outcomes.with_label_values(&[namespace, outcome.to_string().as_str()]).inc();
        if before.stopping.is_none()
            && let Some(due) = due(is)
        {
            self.cleanup.observe(now.duration_since(due).as_secs_f64().max(0.0));
        }
    }

    /// An agent was heard.
    pub fn heard(&self, pod: &str, live: Live) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.to_owned(), live);
    }

    /// A pass over an experiment failed.
    pub fn pass_failed(&self, kind: &str) {
        self.reconcile_errors.with_label_values(&[kind]).inc();
    }

    /// A history record was written.
    pub fn history_written(&self, status: &str) {
        self.history_records.with_label_values(&[ACTION, status]).inc();
    }

    /// A history record was deleted, as it is not kept any longer.
    pub(crate) fn history_deleted(&self, reason: &str) {
        self.history_deleted.with_label_values(&[reason]).inc();
    }

    /// So many records there are of an experiment. Who may write records may make up experiments: no more have a series than have others.
    pub(crate) fn history_counted(&self, namespace: &str, experiment: &str, count: usize) {
        let shown: usize = self.history_counts.collect().iter().map(|family| family.get_metric().len()).sum();
        if count == 0 {
            let _ = self.history_counts.remove_label_values(&[experiment, namespace]);
        } else if !experiment.is_empty()
            && (shown < gauges::SHOWN || self.history_counts.remove_label_values(&[experiment, namespace]).is_ok())
        {
            self.history_counts.with_label_values(&[experiment, namespace]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// This replica no longer looks at the cluster: what it saw last would be shown for ever, as if it were so.
    pub(crate) fn forget_cluster(&self) {
        self.set_experiments(None);
        self.set_remnants(Vec::new());
        self.set_watches(0);
        self.forget_history_counts();
    }

    /// They are counted again.
    pub(crate) fn forget_history_counts(&self) {
        self.history_counts.reset();
    }

    /// The API server answered a request, or did not.
    pub(crate) fn requested(&self, method: &str, code: Option<u16>) {
        let code = code.map_or_else(|| "error".to_owned(), |code| code.to_string());
        self.requests.with_label_values(&[method, &code]).inc();
    }

    /// A request waited.
    pub(crate) fn waited(&self) {
        self.throttled.inc();
    }

    /// Whether this replica runs experiments.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// How many namespaces' pods are watched.
    pub(crate) fn set_watches(&self, count: usize) {
        self.watches.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Everything, in Prometheus's text format.
    ///
    /// # Errors
    /// When a metric has no such form.
    pub fn text(&self, now: Timestamp) -> prometheus::Result<String> {
        let list = self.experiments.lock().unwrap_or_else(PoisonError::into_inner);
        let experiments = list.as_ref().map(|list| list()).unwrap_or_default();
        drop(list);
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody asks for a pod again in which a run has ended.
        let open =
            |uid: &String| experiments.iter().flat_map(|object| &object.status).any(|status| status.open_pods().any(|pod| pod.uid == *uid));
        live.retain(|uid, _| open(uid));
        let mut families = self.registry.gather();
        let remnants = self.remnants.lock().unwrap_or_else(PoisonError::into_inner).clone();
        families.extend(gauges::gather(&experiments, &remnants, &live, now)?);
        TextEncoder::new().encode_to_string(&families)
    }
}

/// What goes with a status that was written.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// The namespace of the experiment's pods, as k8s-chaos has it.
    pub namespace: &'a str,
    /// What was told.
    pub events: &'a [EventRecord],
    /// What was refused.
    pub refusal: Option<RefusalReason>,
}

/// When the loss was to end by itself, if it was in place.
fn due(pod: &PodStatus) -> Option<Timestamp> {
    let duration = SignedDuration::try_from(pod.asked.duration.parse::<Ttl>().ok()?.duration()).ok()?;
    Some(pod.applied_at.as_ref()?.0.saturating_add(duration).ok()?.min(pod.deadline.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_api::Outcome;
    use netloss_core::machine::fixtures::{at, entry, spec};
    use std::collections::BTreeMap;

    /// What k8s-chaos exports (internal/metrics/metrics.go), with its labels in the order of their names: dashboards and alerts go by these.
    const INHERITED: [(&str, &[&str]); 12] = [
        ("chaosexperiment_executions_total", &["action", "namespace", "status"]),
        ("chaosexperiment_duration_seconds", &["action", "namespace"]),
        ("chaosexperiment_resources_affected", &["action", "experiment", "namespace"]),
        ("chaosexperiment_errors_total", &["action", "error_type", "namespace"]),
        ("chaosexperiment_active", &["action"]),
        ("chaosexperiment_history_records_total", &["action", "status"]),
        ("chaosexperiment_history_cleanup_total", &["reason"]),
        ("chaosexperiment_history_records_count", &["experiment", "namespace"]),
        ("chaosexperiment_safety_dryrun_total", &["action", "namespace"]),
        ("chaosexperiment_safety_production_blocks_total", &["action", "namespace"]),
        ("chaosexperiment_safety_percentage_violations_total", &["action", "namespace"]),
        ("chaosexperiment_safety_excluded_resources_total", &["action", "namespace", "resource_type"]),
    ];

    #[test]
    fn inherited_metrics_have_their_names_and_labels() {
        let metrics = Metrics::default();
        let mut object = ChaosExperiment::new("x", netloss_core::machine::fixtures::spec());
        let start = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
        let over = ChaosExperimentStatus {
            phase: Some(Phase::Failed),
            start_time: start.clone(),
            completed_at: start,
            ..ChaosExperimentStatus::default()
        };
        let event = |reason| EventRecord {
            about: netloss_core::machine::About::Experiment,
            severity: netloss_core::machine::Severity::Normal,
            reason,
            note: String::new(),
        };
        let events = [event(EventReason::DryRun), event(EventReason::Skipped)];
        metrics.record(&Recorded { namespace: "n", events: &events, refusal: Some(RefusalReason::Production) }, None, &over, at(0));
        metrics.refused(Some(RefusalReason::TooLargeAShare), "n");
        metrics.history_written("failure");
        metrics.history_deleted("retention_limit");
        metrics.history_counted("n", "x", 1);
        object.status = Some(over);
        let list = vec![Arc::new(object)];
        metrics.set_experiments(Some(Box::new(move || list.clone())));
        let text = metrics.text(at(0)).unwrap();
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("chaosexperiment_")) {
            let (name, labels) = line.split_once('{').unwrap();
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| name.ends_with("_seconds")))
                .unwrap_or(name);
            let labels =
                labels.split_once('}').unwrap().0.split(',').map(|label| label.split_once('=').unwrap().0).filter(|label| *label != "le");
            found.insert(name, labels.collect());
        }
        let expected: BTreeMap<&str, Vec<&str>> = INHERITED.iter().map(|(name, labels)| (*name, labels.to_vec())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn loss_that_may_remain_is_counted_after_its_experiment_was_deleted() {
        let metrics = Metrics::default();
        let gauge = |metrics: &Metrics| {
            let text = metrics.text(at(0)).unwrap();
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("netloss_loss_may_remain_pods"));
            lines.next().map(str::to_owned)
        };
        let experiment = netloss_api::ExperimentRef { name: "x".to_owned(), namespace: "n".to_owned(), uid: Some("uid".to_owned()) };
        metrics.set_remnants(vec![Remnant { experiment, pods: 2 }]);
        let series = r#"{experiment="x",namespace="n"}"#;
        assert_eq!(gauge(&metrics), Some(format!("{series} 2")));
        // While it is there, its status tells.
        let mut object = ChaosExperiment::new("x", netloss_core::machine::fixtures::spec());
        (object.metadata.namespace, object.metadata.uid) = (Some("n".to_owned()), Some("uid".to_owned()));
        object.status = Some(ChaosExperimentStatus::default());
        let list = vec![Arc::new(object)];
        metrics.set_experiments(Some(Box::new(move || list.clone())));
        assert_eq!(gauge(&metrics), Some(format!("{series} 0")));
        metrics.set_experiments(None);
        metrics.set_remnants(Vec::new());
        assert_eq!(gauge(&metrics), None);
    }

    #[test]
    fn made_up_experiments_have_a_bounded_number_of_series() {
        let metrics = Metrics::default();
        for number in 0..5 * gauges::SHOWN {
            metrics.history_counted("n", &format!("x{number}"), 1);
        }
        metrics.history_counted("n", "x0", 7);
        let text = metrics.text(at(0)).unwrap();
        let series: Vec<&str> = text.lines().filter(|line| line.starts_with("chaosexperiment_history_records_count{")).collect();
        assert_eq!(series.len(), gauges::SHOWN);
        assert!(series.iter().any(|line| line.contains("\"x0\"") && line.ends_with(" 7")), "{series:?}");
        metrics.history_counted("n", "x0", 0);
        assert!(!metrics.text(at(0)).unwrap().contains("experiment=\"x0\""));
    }

    use netloss_api::{PodState, PodStatus};

    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn only_pods_that_have_an_agent_count_as_injected() {
        let metrics = Metrics::default();
        let pod = |name: &str, state, outcome| PodStatus { name: name.to_owned(), uid: name.to_owned(), state, outcome, ..entry() };
        let planned = ChaosExperimentStatus {
            pods: ["a", "b", "c"].map(|name| pod(name, PodState::Planned, None)).to_vec(),
            ..ChaosExperimentStatus::default()
        };
        let after = ChaosExperimentStatus {
            pods: vec![
                pod("a", PodState::Injected, None),
                pod("b", PodState::Ended, Some(Outcome::Failed)),
                // An entry that somebody else has written.
                PodStatus { namespace: "made up".to_owned(), ..pod("c", PodState::Ended, Some(Outcome::PodEnded)) },
            ],
            affected_pods: vec![format!("n/a:{}", entry().container)],
            ..planned.clone()
        };
        let at_n = Recorded { namespace: "n", events: &[], refusal: None };
        metrics.record(&at_n, Some(&planned), &after, at(1));
        metrics.record(&at_n, Some(&after), &after, at(2));
        let text = metrics.text(at(2)).unwrap();
        assert_eq!(value(&text, "netloss_pods_injected_total{namespace=\"n\"}"), Some(1.0), "b refused it, and c was gone");
        assert!(!text.contains("made up"), "{text}");
    }

    #[test]
    fn an_ended_entry_keeps_its_own_counters() {
        let metrics = Metrics::default();
        let traffic = |packets, dropped| netloss_contract::PerDirection {
            egress: Some(netloss_contract::Traffic::new(packets, dropped, 10.0)),
            ingress: None,
        };
        metrics.heard(&entry().uid, Live { at: at(0), traffic: traffic(1000, 500) });
        let (mut ended, mut open) = (ChaosExperiment::new("ended", spec()), ChaosExperiment::new("open", spec()));
        let observed = Some(netloss_api::ObservedLoss::new(traffic(1000, 100), 10.0.into()));
        let over = PodStatus { state: PodState::Ended, outcome: Some(Outcome::Clean), observed, ..entry() };
        ended.status = Some(ChaosExperimentStatus { pods: vec![over], ..ChaosExperimentStatus::default() });
        open.status = Some(ChaosExperimentStatus {
            pods: vec![PodStatus { state: PodState::Applied, ..entry() }],
            ..ChaosExperimentStatus::default()
        });
        let list = vec![Arc::new(ended), Arc::new(open)];
        metrics.set_experiments(Some(Box::new(move || list.clone())));
        let text = metrics.text(at(1)).unwrap();
        let of = |name: &str| format!("netloss_observed_loss_ratio{{direction=\"egress\",experiment=\"{name}\",namespace=\"\"}}");
        assert_eq!((value(&text, &of("ended")), value(&text, &of("open"))), (Some(0.1), Some(0.5)));
    }
}
