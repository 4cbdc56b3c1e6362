//! `history`: the records of runs that are over.

use super::{
    connect::Cluster,
    error::Error,
    output::{Format, OutputArgs, Paint, document, note, print, table},
    show::tone,
    view::{Asked, Seen, span},
};
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt;
use netloss_api::{ChaosExperimentHistory, RunResult};
use netloss_core::machine::requested_percentage;
use serde::Serialize;

/// Show the runs that are over, the latest first
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Name of an experiment, which may be gone; left out it is all of the namespace
    name: Option<String>,

    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,

    /// So many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    output: OutputArgs,
}

/// A run that is over.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Past {
    namespace: String,
    experiment: String,
    run: Option<u32>,
    result: RunResult,
    started: Timestamp,
    ended: Option<Timestamp>,
    /// How many pods had the loss.
    pods: usize,
    egress: Option<Seen>,
    ingress: Option<Seen>,
    loss_may_remain: usize,
    message: Option<String>,
    record: String,
    initiated_by: Option<String>,
}

#[derive(Serialize)]
struct List {
    runs: Vec<Past>,
}

impl Past {
    fn new(record: &ChaosExperimentHistory) -> Self {
        let spec = &record.spec;
        let asked = Asked::of(spec.pods.first(), requested_percentage(&spec.experiment_spec), spec.experiment_spec.direction, None);
        let sum = |counts: Vec<(u64, u64)>| {
            let (packets, dropped) =
                counts.iter().fold((0_u64, 0_u64), |sum, next| (sum.0.saturating_add(next.0), sum.1.saturating_add(next.1)));
            (!counts.is_empty()).then(|| Seen::new(packets, dropped, asked.expectation()))
        };
        let observed = || spec.pods.iter().filter_map(|pod| pod.observed);
        Self {
            namespace: record.namespace().unwrap_or_default(),
            experiment: spec.experiment_ref.name.clone(),
            run: spec.execution.run,
            result: spec.execution.status,
            started: spec.execution.start_time.0,
            ended: spec.execution.end_time.as_ref().map(|time| time.0),
            pods: spec.affected_resources.len(),
            egress: sum(observed().filter_map(|seen| seen.egress).map(|traffic| (traffic.packets, traffic.dropped)).collect()),
            ingress: sum(observed().filter_map(|seen| seen.ingress).map(|traffic| (traffic.packets, traffic.dropped)).collect()),
            loss_may_remain: spec.pods.iter().filter(|pod| pod.may_be_impaired()).count(),
            message: spec.execution.message.clone(),
            record: record.name_any(),
            initiated_by: spec.audit.initiated_by.clone(),
        }
    }

    fn row(&self, namespaces: bool, wide: bool, paint: Paint, now: Timestamp) -> Vec<String> {
        let seen = |seen: Option<Seen>| seen.map(|seen| seen.words()).unwrap_or_default();
        let result = self.result.as_str();
        let mut row = vec![
            self.experiment.clone(),
            self.run.map(|run| run.to_string()).unwrap_or_default(),
            paint.tone(tone(result), result),
            format!("{} ago", span(now.duration_since(self.started).as_secs())),
            self.ended.map(|end| span(end.duration_since(self.started).as_secs())).unwrap_or_default(),
            self.pods.to_string(),
            seen(self.egress),
            seen(self.ingress),
        ];
        if namespaces {
            row.insert(0, self.namespace.clone());
        }
        if wide {
            row.extend([self.initiated_by.clone().unwrap_or_default(), self.record.clone(), self.message.clone().unwrap_or_default()]);
        }
        row
    }
}

pub(super) async fn run(args: HistoryArgs, cluster: &Cluster) -> Result<(), Error> {
    let format = args.output.output;
    let records = cluster.records(&cluster.scope(args.all_namespaces), args.name.as_deref()).await?;
    let list = List { runs: records.iter().take(args.limit).map(Past::new).collect() };
    if !format.is_table() {
        return print(&document(format, "RunList", &list)?);
    }
    if list.runs.is_empty() {
        let of = args.name.map(|name| format!(" of \"{name}\"")).unwrap_or_default();
        note(&format!(
            "no run{of} is on record{}",
            if args.all_namespaces { String::new() } else { format!(" in namespace \"{}\"", cluster.namespace) }
        ));
        return Ok(());
    }
    print(&text(&list.runs, args.all_namespaces, format == Format::Wide, Paint::stdout(), Timestamp::now()))
}

/// A record as a table.
pub(super) fn shown(record: &ChaosExperimentHistory, paint: Paint, now: Timestamp) -> String {
    text(&[Past::new(record)], true, true, paint, now)
}

fn text(runs: &[Past], namespaces: bool, wide: bool, paint: Paint, now: Timestamp) -> String {
    let mut heading = vec!["EXPERIMENT", "RUN", "RESULT", "STARTED", "TOOK", "PODS", "EGRESS", "INGRESS"];
    if namespaces {
        heading.insert(0, "NAMESPACE");
    }
    if wide {
        heading.extend(["BY", "RECORD", "MESSAGE"]);
    }
    table(&heading, &runs.iter().map(|run| run.row(namespaces, wide, paint, now)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::{ChaosExperiment, ChaosExperimentStatus, ObservedLoss, Outcome, Phase, PodState, PodStatus};
    use netloss_contract::{PerDirection, Traffic};
    use netloss_core::{
        history,
        machine::fixtures::{at, entry, spec},
    };

    #[test]
    fn a_run_is_a_line() {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        let observed = PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: None };
        let pod = PodStatus {
            state: PodState::Ended,
            outcome: Some(Outcome::Clean),
            applied_at: Some(Time(at(5))),
            observed: Some(ObservedLoss::new(observed, 10.0.into())),
            ..entry()
        };
        let status = ChaosExperimentStatus {
            phase: Some(Phase::Completed),
            run: Some(1),
            start_time: Some(Time(at(0))),
            completed_at: Some(Time(at(40))),
            pods: vec![pod],
            ..ChaosExperimentStatus::default()
        };
        let run = Past::new(&history::record(&object, &status, at(40)));
        let text = text(&[run], true, false, Paint::none(), at(100));
        assert_eq!(
            text,
            "NAMESPACE   EXPERIMENT   RUN   RESULT    STARTED     TOOK   PODS   EGRESS            INGRESS\n\
             n           x            1     success   1m40s ago   40s    1      9.8% (8.1-11.8)   -\n"
        );
    }
}
