//! `run`: an experiment from a workload.

use super::{
    connect::{Cluster, FIELD_MANAGER},
    direct,
    error::Error,
    follow::{End, Follow},
    loss::LossArgs,
    output::{Format, OutputArgs, document, note, print, table},
    prepare::{Prepared, prepare, prepare_alone},
    preview,
    show::Show,
    verdict,
    view::{ExperimentView, LiveFigures},
    workload::Workload,
};
use clap::Args;
use jiff::Timestamp;
use kube::{ResourceExt, api::PostParams};
use netloss_api::{ChaosExperiment, ChaosExperimentSpec};
use netloss_contract::Ttl;
use netloss_core::targets::Candidate;
use serde::Serialize;
use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

/// For the agents to start and for their end to be seen, beside the duration: `startTimeout` (2 min), the deadline's grace, and a round of the controller.
pub(super) const AROUND: Duration = Duration::from_mins(5);

/// Whether a command that requests a run stays until its end.
#[derive(Debug, Args)]
pub(super) struct AttentionArgs {
    /// Show how it goes until it is over; the exit code says how it went
    #[arg(long)]
    watch: bool,

    /// Wait until it is over and say nothing meanwhile; the exit code says how it went
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
}

impl AttentionArgs {
    /// Follows the requested run until `is_over`, or says how to.
    pub(super) async fn follow(
        &self,
        cluster: &Cluster,
        object: &ChaosExperiment,
        limit: Duration,
        is_over: impl Fn(&ChaosExperiment) -> bool,
        format: Format,
    ) -> Result<(), Error> {
        if self.watch || self.wait {
            let show = if self.watch { Show::new(format) } else { Show::Silent };
            return to_its_end(cluster, object, Some(limit), is_over, show, format).await;
        }
        if format.is_table() {
            let (name, namespace) = (object.name_any(), &cluster.namespace);
            let words = |verb: &str| cluster.command(&format!("{verb} {name} -n {namespace}"));
            note(&format!("see it: {}; end it: {}", words("watch"), words("stop")));
            return Ok(());
        }
        print(&document(format, "Experiment", &ExperimentView::new(object, &LiveFigures::new(), Timestamp::now()))?)
    }
}

/// Lose packets of a workload's pods, for a while
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line are what they are
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) loss: LossArgs,

    /// Show which pods may be chosen and what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    attention: AttentionArgs,

    /// Wait no longer than this; left out it is the duration and five minutes
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Ttl>,

    /// Do not ask before a production namespace is affected; the consent itself is --allow-production
    #[arg(long, short)]
    yes: bool,

    /// Put the loss into this one pod from here, with your own rights and without netloss's controller; Ctrl-C and a freeze stop it
    #[arg(long, conflicts_with_all = ["dry_run", "selector", "abort", "timeout"])]
    direct: bool,

    /// The agent's image for --direct; left out it is the one that the cluster's ConfigMap netloss-agent names
    #[arg(long, value_name = "IMAGE", requires = "direct")]
    agent_image: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: RunArgs, cluster: &Cluster) -> Result<(), Error> {
    let alone = if args.direct { Some(direct::check(args.loss.target.as_ref())?) } else { None };
    let prepared = match alone {
        Some(pod) => prepare_alone(cluster, &args.loss, pod).await?,
        None => prepare(cluster, &args.loss).await?,
    };
    if let Some(why) = prepared.namespace.production.clone() {
        if !args.loss.allow_production {
            let namespace = &cluster.namespace;
            return Err(Error::Failed(format!(
                "\"{namespace}\" is a production namespace by {why}: nothing was done; give --allow-production if it is meant"
            )));
        }
        if !args.yes && !args.dry_run {
            consent(cluster, &args.loss, &prepared, &why)?;
        }
    }
    let freeze = preview::freeze(cluster).await?;
    let verdict = preview::validate(cluster, &prepared.spec, &prepared.pods, &prepared.namespace, freeze.as_deref(), Timestamp::now());
    if let Some(refusal) = verdict.refusal {
        return Err(Error::Failed(format!("{}: {refusal}", args.loss.target_words())));
    }
    if let Some(pod) = alone {
        verdict.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
        return run_direct(&args, cluster, pod, prepared).await;
    }
    let object = args.loss.experiment(prepared.spec.clone(), &cluster.namespace);
    if args.dry_run {
        return dry_run(&args, cluster, &prepared, &object, verdict.warnings).await;
    }
    verdict.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
    let created = create(cluster, &object, false).await?;
    let name = created.name_any();
    if args.output.output.is_table() {
        print(&format!("chaosexperiment.chaos.gushchin.dev/{name} created\n"))?;
    }
    let limit = args.timeout.map_or(args.loss.duration.duration() + AROUND, Ttl::duration);
    args.attention.follow(cluster, &created, limit, verdict::is_over, args.output.output).await
}

/// The loss in one pod, driven from here.
async fn run_direct(args: &RunArgs, cluster: &Cluster, pod: &Workload, prepared: Prepared) -> Result<(), Error> {
    let format = args.output.output;
    let mut show = if args.attention.wait { Show::Silent } else { Show::new(format) };
    let object = direct::run(&args.loss, cluster, pod, prepared, args.agent_image.as_deref(), &mut show).await?;
    if let Show::Silent = show {
        print(&last_picture(&object, format)?)?;
    }
    verdict::of_run(&object)
}

/// An experiment as it was left.
fn last_picture(object: &ChaosExperiment, format: Format) -> Result<String, Error> {
    let view = ExperimentView::new(object, &LiveFigures::new(), Timestamp::now());
    match format {
        Format::Json | Format::Yaml => document(format, "Experiment", &view),
        Format::Table | Format::Wide => Ok(super::show::whole(&view, format == Format::Wide, super::output::Paint::stdout())),
    }
}

/// Follows a run until `is_over`, and says how it went.
pub(super) async fn to_its_end(
    cluster: &Cluster,
    object: &ChaosExperiment,
    limit: Option<Duration>,
    is_over: impl Fn(&ChaosExperiment) -> bool,
    mut show: Show,
    format: Format,
) -> Result<(), Error> {
    let (name, namespace, uid) = (object.name_any(), object.namespace().unwrap_or_default(), object.uid());
    let follow = Follow { cluster, namespace: &namespace, name: &name, uid: uid.as_deref(), limit };
    let object = match follow.until(is_over, &mut show).await? {
        End::Reached(object) => object,
        End::Gone(Some(object)) if verdict::is_at_rest(&object) && object.status.is_some() => object,
        End::Gone(_) => {
            return Err(Error::NotAsAsked(format!(
                "{name} was deleted before its end: {} has its record",
                cluster.command(&format!("history {name} -n {namespace}"))
            )));
        }
    };
    if let Show::Silent = show {
        print(&last_picture(&object, format)?)?;
    }
    verdict::of_run(&object)
}

/// Creates the experiment, or asks whether it could be created.
async fn create(cluster: &Cluster, object: &ChaosExperiment, dry_run: bool) -> Result<ChaosExperiment, Error> {
    let params = PostParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()) };
    let created = cluster.here::<ChaosExperiment>().create(&params, object).await;
    created.map_err(Error::api(format!("creating the experiment in namespace \"{}\"", cluster.namespace)))
}

/// What is about to happen, in a sentence.
fn words(loss: &LossArgs, spec: &ChaosExperimentSpec, pods: &[Candidate]) -> String {
    let eligible = pods.iter().filter(|pod| pod.skip.is_none()).count();
    let count = eligible.min(spec.count as usize);
    let which = if count == eligible { format!("{count}") } else { format!("{count} of the {eligible} eligible") };
    let way = match spec.direction {
        netloss_contract::Direction::Egress => "of the packets that are sent",
        netloss_contract::Direction::Ingress => "of the packets that are received",
        netloss_contract::Direction::Both => "of the packets in each direction",
    };
    format!("lose {} % {way} for {} in {which} pod(s) of {}", spec.loss_percentage, loss.duration, loss.target_words())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DryRun<'a> {
    words: String,
    warnings: Vec<String>,
    pods: Vec<DryRunPod>,
    experiment: &'a ChaosExperiment,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DryRunPod {
    pod: String,
    node: Option<String>,
    ready: bool,
    eligible: bool,
    reason: Option<String>,
}

/// Says what would happen, after asking the API server whether it would.
async fn dry_run(
    args: &RunArgs,
    cluster: &Cluster,
    prepared: &Prepared,
    object: &ChaosExperiment,
    mut warnings: Vec<String>,
) -> Result<(), Error> {
    create(cluster, object, true).await?;
    if let Some(why) = &prepared.namespace.production {
        warnings.push(format!("\"{}\" is a production namespace by {why}: without --yes you are asked first", cluster.namespace));
    }
    let pods = prepared.pods.iter().map(|pod| DryRunPod {
        pod: pod.target.name.clone(),
        node: pod.target.node.clone(),
        ready: pod.ready,
        eligible: pod.skip.is_none(),
        reason: pod.skip.as_ref().map(ToString::to_string),
    });
    let body = DryRun {
        words: format!("DRY RUN: would {}", words(&args.loss, &prepared.spec, &prepared.pods)),
        warnings,
        pods: pods.collect(),
        experiment: object,
    };
    let format = args.output.output;
    if !format.is_table() {
        return print(&document(format, "DryRun", &body)?);
    }
    let rows: Vec<Vec<String>> = body
        .pods
        .iter()
        .map(|pod| {
            let (ready, eligible) = (yes(pod.ready), pod.reason.clone().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}")));
            vec![pod.pod.clone(), pod.node.clone().unwrap_or_default(), ready, eligible]
        })
        .collect();
    body.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
    print(&format!("{}{}\n", table(&["POD", "NODE", "READY", "ELIGIBLE"], &rows), body.words))
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

/// Asks before production is touched.
fn consent(cluster: &Cluster, loss: &LossArgs, prepared: &Prepared, why: &str) -> Result<(), Error> {
    let namespace = &cluster.namespace;
    if !std::io::stdin().is_terminal() {
        return Err(Error::Failed(format!(
            "\"{namespace}\" is a production namespace by {why}, and there is no terminal to ask on: nothing was done; give --yes if it is meant"
        )));
    }
    let mut ask = std::io::stderr().lock();
    let question = format!(
        "\"{namespace}\" is a production namespace by {why}.\nThis would {}.\nType the namespace's name to go on: ",
        words(loss, &prepared.spec, &prepared.pods)
    );
    drop(ask.write_all(question.as_bytes()).and_then(|()| ask.flush()));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Error::Failed(format!("reading the answer: {error}")))?;
    if is_consent(&answer, namespace) { Ok(()) } else { Err(Error::Failed("not confirmed: nothing was done".to_owned())) }
}

fn is_consent(answer: &str, namespace: &str) -> bool {
    answer.trim() == namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use netloss_core::machine::fixtures::{candidates, spec};

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn what_is_about_to_happen_is_a_sentence() {
        let args = Command::try_parse_from(["run", "deploy/web", "--loss=10", "--duration=2m"]).unwrap().run;
        let of_three = words(&args.loss, &spec(), &candidates(3));
        assert_eq!(of_three, "lose 10 % of the packets in each direction for 2m in 2 of the 3 eligible pod(s) of deployment/web");
        assert!(words(&args.loss, &spec(), &candidates(1)).contains("in 1 pod(s) of"));
    }

    #[test]
    fn consent_is_the_namespaces_name() {
        assert!(is_consent("shop-prod\n", "shop-prod"));
        for answer in ["", "y\n", "yes\n", "shop\n"] {
            assert!(!is_consent(answer, "shop-prod"), "{answer:?}");
        }
    }

    #[test]
    fn one_watches_or_waits() {
        let both = Command::try_parse_from(["run", "deploy/web", "--loss=10", "--duration=2m", "--watch", "--wait"]);
        assert_eq!(both.unwrap_err().kind(), clap::error::ErrorKind::ArgumentConflict);
    }
}
