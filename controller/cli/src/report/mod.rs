//! `report`: a run that is over, or how far it is, to hand on.

mod html;
mod markdown;
mod packets;
mod plot;

use super::{
    connect::Cluster,
    error::Error,
    live,
    output::{Format, document, print},
    verdict,
    view::{Asked, ExperimentView, LiveFigures, PodLine, Seen},
};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory, ChaosExperimentStatus, RunResult};
use netloss_core::{history, machine::requested_percentage, sanitize::plain};
use serde::Serialize;

/// Write a run up: what was asked for, what was seen with its 95 % interval, and how each pod was left
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Name of the experiment, which may be gone
    name: String,

    /// Number of the run; left out it is the latest
    #[arg(long, value_name = "NUMBER")]
    run: Option<u32>,

    /// How to write
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: ReportFormat,
}

/// How to write a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ReportFormat {
    /// Markdown
    #[default]
    Md,
    /// One page that needs nothing else
    Html,
    /// For programs; with a schema version
    Json,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    namespace: String,
    experiment: String,
    run: Option<u32>,
    /// None while it is under way.
    result: Option<RunResult>,
    phase: String,
    asked: Asked,
    /// Which packets, where it is not all of them, each by itself.
    packets: Vec<String>,
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
    /// When this was written.
    written: Timestamp,
    message: Option<String>,
    initiated_by: Option<String>,
    pods: Vec<PodLine>,
}

pub(super) async fn run(args: ReportArgs, cluster: &Cluster) -> Result<(), Error> {
    let report = find(&args, cluster).await?;
    print(&match args.output {
        ReportFormat::Json => document(Format::Json, "Report", &report)?,
        ReportFormat::Md => markdown::page(&report),
        ReportFormat::Html => html::page(&report),
    })
}

/// The run that is asked for: on record, or what the experiment's status has.
async fn find(args: &ReportArgs, cluster: &Cluster) -> Result<Report, Error> {
    let (name, now) = (&args.name, Timestamp::now());
    let api: Api<ChaosExperiment> = cluster.here();
    let object = api.get_opt(name).await.map_err(Error::api(format!("reading ChaosExperiment \"{name}\"")))?;
    let of_status = object.map(plain).filter(|object| {
        let run = object.status.as_ref().and_then(|status| status.run);
        run.is_some() && args.run.is_none_or(|wanted| run == Some(wanted))
    });
    if let Some(object) = of_status {
        let live = live::figures(cluster.client.clone(), vec![object.clone()]).await;
        return Ok(of_object(&object, &live, now));
    }
    let records = cluster.records(&cluster.scope(false), Some(name)).await?;
    let record = records.into_iter().find(|record| args.run.is_none_or(|wanted| record.spec.execution.run == Some(wanted)));
    let record = record.ok_or_else(|| {
        let run = args.run.map(|run| format!("run {run} of ")).unwrap_or_default();
        let namespace = &cluster.namespace;
        Error::Failed(format!("nothing is known of {run}\"{name}\" in namespace \"{namespace}\": `kubectl netloss history -n {namespace}` lists what is on record"))
    })?;
    Ok(of_record(&record, now))
}

/// A run as Markdown and as a page.
pub(super) fn shown(object: &ChaosExperiment, now: Timestamp) -> String {
    let report = of_object(object, &LiveFigures::new(), now);
    markdown::page(&report) + &html::page(&report)
}

fn of_object(object: &ChaosExperiment, live: &LiveFigures, now: Timestamp) -> Report {
    let view = ExperimentView::new(object, live, now);
    let none = ChaosExperimentStatus::default();
    let status = object.status.as_ref().unwrap_or(&none);
    Report {
        namespace: view.namespace,
        experiment: view.name,
        run: view.run,
        result: (verdict::is_at_rest(object) && status.completed_at.is_some()).then(|| history::result(status)),
        phase: view.phase,
        asked: view.asked,
        packets: packets::words(&object.spec),
        started: view.started,
        ended: view.ended,
        written: now,
        message: view.message,
        initiated_by: history::writer(object),
        pods: view.pods,
    }
}

fn of_record(record: &ChaosExperimentHistory, now: Timestamp) -> Report {
    let spec = &record.spec;
    let pods = spec.pods.iter().map(|pod| PodLine::new(pod, &LiveFigures::new(), now)).collect();
    Report {
        namespace: record.namespace().unwrap_or_default(),
        experiment: spec.experiment_ref.name.clone(),
        run: spec.execution.run,
        result: Some(spec.execution.status),
        phase: spec.execution.phase.map(|phase| format!("{phase:?}")).unwrap_or_default(),
        asked: Asked::of(
            spec.pods.first(),
            requested_percentage(&spec.experiment_spec),
            spec.experiment_spec.direction,
            spec.experiment_spec.duration.clone(),
        ),
        packets: packets::words(&spec.experiment_spec),
        started: Some(spec.execution.start_time.0),
        ended: spec.execution.end_time.as_ref().map(|time| time.0),
        written: now,
        message: spec.execution.message.clone(),
        initiated_by: spec.audit.initiated_by.clone(),
        pods,
    }
}

impl Report {
    /// In one word.
    fn result_word(&self) -> &str {
        self.result.map_or("under way", RunResult::as_str)
    }

    /// Of all pods together.
    fn total(&self, of: impl Fn(&PodLine) -> Option<Seen>) -> Option<Seen> {
        Seen::sum(self.pods.iter().filter_map(of), self.asked.expectation())
    }

    /// In how many pods loss may be left.
    fn loss_may_remain(&self) -> usize {
        self.pods.iter().filter(|pod| pod.loss_may_remain).count()
    }

    /// `namespace/name, run 1`.
    fn title(&self) -> String {
        let run = self.run.map(|run| format!(", run {run}")).unwrap_or_default();
        format!("{}/{}{run}", self.namespace, self.experiment)
    }
}

#[cfg(test)]
mod fixtures {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::{ObservedLoss, Outcome, Phase, PodState, PodStatus};
    use netloss_contract::{PerDirection, Traffic};
    use netloss_core::machine::fixtures::{at, entry, spec};

    /// A run with a pod that went as asked, and one that says something that no page may believe.
    pub(super) fn object() -> ChaosExperiment {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        let observed = PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: Some(Traffic::new(0, 0, 10.0)) };
        let clean = PodStatus {
            state: PodState::Ended,
            outcome: Some(Outcome::Clean),
            applied_at: Some(Time(at(5))),
            ended_at: Some(Time(at(35))),
            observed: Some(ObservedLoss::new(observed, 10.0.into())),
            ..entry()
        };
        let words = "<script>alert(1)</script> | a \"b\" & 'c'".to_owned();
        let other = PodStatus {
            name: "q".to_owned(),
            state: PodState::Ended,
            outcome: Some(Outcome::NeverStarted),
            message: Some(words),
            ..entry()
        };
        object.status = Some(ChaosExperimentStatus {
            phase: Some(Phase::Completed),
            run: Some(1),
            start_time: Some(Time(at(0))),
            completed_at: Some(Time(at(40))),
            message: Some("it has ended".to_owned()),
            pods: vec![clean, other],
            ..ChaosExperimentStatus::default()
        });
        object
    }

    pub(super) fn report() -> Report {
        of_object(&object(), &LiveFigures::new(), at(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::at;

    #[test]
    fn a_record_says_what_the_status_said() {
        let object = fixtures::object();
        let record = history::record(&object, object.status.as_ref().unwrap(), at(40));
        let of_record = of_record(&record, at(100));
        assert_eq!(of_record, fixtures::report());
        assert_eq!((of_record.result_word(), of_record.title().as_str()), ("partial", "n/x, run 1"));
    }

    #[test]
    fn json_carries_the_interval() {
        let json: serde_json::Value = serde_json::from_str(&document(Format::Json, "Report", &fixtures::report()).unwrap()).unwrap();
        assert_eq!((&json["schema"], &json["result"]), (&serde_json::json!(1), &serde_json::json!("partial")));
        assert_eq!(json["pods"][0]["egress"]["low"], serde_json::json!(8.108));
    }
}
