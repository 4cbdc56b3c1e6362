//! `kubectl netloss`: the program for people and for their pipelines.
//!
//! It asks the API server with its user's own rights and nothing else. What decides and formats is pure; each command has a file of its own.

mod connect;
mod direct;
mod doctor;
#[cfg(test)]
mod documented;
mod error;
mod exit;
mod explain;
mod follow;
mod freeze;
mod history;
#[cfg(test)]
mod krew;
mod live;
mod local_run;
mod loss;
mod manifest;
mod orphans;
mod output;
mod prepare;
mod presence;
mod preview;
mod reference;
mod report;
mod rerun;
mod run;
mod show;
mod status;
mod stop;
mod verdict;
mod view;
mod watch;
mod workload;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use connect::ConnectionArgs;
use error::Error;
pub use exit::Exit;
use jiff::Timestamp;
use netloss_api::ChaosExperiment;
use netloss_core::sanitize::plain;

/// The program, as it is installed.
const PROGRAM: &str = "kubectl-netloss";

/// Packet loss for pods that ends by itself: run it, see it, stop it.
#[derive(Debug, Parser)]
#[command(name = "kubectl-netloss", bin_name = "kubectl netloss", version, after_help = exit::HELP)]
pub struct Cli {
    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lose packets of a workload's pods, for a while
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<run::RunArgs>),
    /// Run an experiment once more, as it is: one that was refused, stopped or is over, or one with a schedule now
    #[command(after_help = RERUN_EXAMPLES)]
    Rerun(rerun::RerunArgs),
    /// Show a run until it is over: what was asked for and what was seen in each pod, and the time left
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(watch::WatchArgs),
    /// Show experiments, or one of them with its pods
    Status(status::StatusArgs),
    /// End runs, and wait until the loss is gone from every pod: pauses experiments with a schedule, deletes all others
    #[command(after_help = STOP_EXAMPLES)]
    Stop(stop::StopArgs),
    /// Show the runs that are over, the latest first
    History(history::HistoryArgs),
    /// Print the experiment as YAML, to keep and to apply
    #[command(after_help = MANIFEST_EXAMPLES)]
    Manifest(Box<loss::LossArgs>),
    /// Say why an experiment is pending, failed or whatever it is, and what to do next
    Explain(explain::ExplainArgs),
    /// Check the installation, rights, the namespace's Pod Security, and whether anything is left in pods
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(doctor::DoctorArgs),
    /// Write a run up: what was asked for, what was seen with its 95 % interval, and how each pod was left
    #[command(after_help = REPORT_EXAMPLES)]
    Report(report::ReportArgs),
    /// Stop every run in the cluster and begin none, until unfreeze
    Freeze(freeze::FreezeArgs),
    /// Let experiments begin again after freeze
    Unfreeze,
    /// Print docs/CLI.md
    #[command(hide = true)]
    Reference,
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// Which shell
        shell: Shell,
    },
}

const RUN_EXAMPLES: &str = "\
Examples:
  Lose 10 % of the packets of one pod of a Deployment for two minutes, and see how it goes:
      kubectl netloss run deploy/web --loss 10 --duration 2m --name web-loss --watch
  See which pods that may be, and touch none:
      kubectl netloss run deploy/web --loss 10 --duration 2m --dry-run
  In a pipeline, all pods behind a service, never on the way to DNS; the exit code says how it went:
      kubectl netloss run service/web --count all --loss 5 --duration 90s --spare any:53 --wait --yes
  In one pod and without netloss's controller, with your own rights:
      kubectl netloss run pod/web-0 --loss 10 --duration 1m --direct";

const RERUN_EXAMPLES: &str = "\
Examples:
  After a freeze, or once what refused it is put right:
      kubectl netloss rerun web-loss --watch
  In a pipeline; the exit code says how it went:
      kubectl netloss rerun web-loss --wait";

const WATCH_EXAMPLES: &str = "\
Examples:
  Until it is over:
      kubectl netloss watch web-loss
  Each change as a JSON object on a line of its own:
      kubectl netloss watch web-loss -o json";

const STOP_EXAMPLES: &str = "\
Examples:
  One experiment:
      kubectl netloss stop web-loss
  Everything in a namespace, then everything in all of them:
      kubectl netloss stop --all -n shop
      kubectl netloss stop -A";

const MANIFEST_EXAMPLES: &str = "\
Examples:
  To keep it beside the workload:
      kubectl netloss manifest deploy/web --loss 10 --duration 2m > web-loss.yaml";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  Whether experiments can run in a namespace:
      kubectl netloss doctor -n shop
  Stop agents that no experiment knows of, and take away what may be left, in all namespaces:
      kubectl netloss doctor --fix -A";

const REPORT_EXAMPLES: &str = "\
Examples:
  A page to hand on:
      kubectl netloss report web-loss -o html > web-loss.html
  An earlier run:
      kubectl netloss report web-loss --run 3";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  For bash, in this shell (completes kubectl-netloss):
      source <(kubectl netloss completion bash)";

impl Cli {
    /// Does what was asked for, and says on standard error what went wrong.
    #[must_use]
    pub fn run(self) -> Exit {
        match self.execute() {
            Ok(()) => Exit::Done,
            Err(error) => {
                if !matches!(error, Error::Closed) {
                    output::note(&format!("error: {error}"));
                }
                error.exit()
            }
        }
    }

    #[tokio::main(flavor = "current_thread")]
    async fn execute(self) -> Result<(), Error> {
        match self.command {
            Command::Completion { shell } => return completion(shell),
            Command::Reference => return output::print(&reference::page()),
            _ => {}
        }
        let cluster = self.connection.connect().await?;
        match self.command {
            Command::Run(args) => Box::pin(run::run(*args, &cluster)).await,
            Command::Rerun(args) => rerun::run(args, &cluster).await,
            Command::Watch(args) => watch::run(args, &cluster).await,
            Command::Status(args) => status::run(args, &cluster).await,
            Command::Stop(args) => stop::run(args, &cluster).await,
            Command::Explain(args) => explain::run(args, &cluster).await,
            Command::Doctor(args) => doctor::run(args, &cluster).await,
            Command::Report(args) => report::run(args, &cluster).await,
            Command::History(args) => history::run(args, &cluster).await,
            Command::Manifest(args) => manifest::run(&args, &cluster).await,
            Command::Freeze(args) => freeze::freeze(args, &cluster).await,
            Command::Unfreeze => freeze::unfreeze(&cluster).await,
            Command::Completion { shell } => completion(shell),
            Command::Reference => output::print(&reference::page()),
        }
    }
}

/// All that is shown of an experiment, in each of its forms, as text: what its fields are made of may be anybody's, and none of it may do
/// anything to a terminal.
///
/// # Errors
/// Where it has no such form.
pub fn everything_shown(object: ChaosExperiment, now: Timestamp) -> Result<String, String> {
    let object = plain(object);
    let (figures, paint) = (view::LiveFigures::new(), output::Paint::none());
    let view = view::ExperimentView::new(&object, &figures, now);
    let record = object.status.as_ref().map(|status| history::shown(&netloss_core::history::record(&object, status, now), paint, now));
    let document = |format| output::document(format, "Experiment", &view).map_err(|error| error.to_string());
    let parts = [
        show::whole(&view, true, paint),
        show::Lines::default().of(&view, now),
        status::text(std::slice::from_ref(&view), true, true, paint, now),
        explain::shown(&object, now),
        report::shown(&object, now),
        record.unwrap_or_default(),
        document(output::Format::Json)?,
        document(output::Format::Yaml)?,
    ];
    Ok(parts.concat())
}

fn completion(shell: Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    // Under the name of the file: as a word after kubectl no shell would know it.
    clap_complete::generate(shell, &mut Cli::command().bin_name(PROGRAM), PROGRAM, &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn accepts_options_together_and_refuses_contradictions() {
        for line in [
            "run deploy/web --loss 10 --duration 2m",
            "run deploy/web --loss 10% --duration 2m --watch -n shop --context kind",
            "run -l app=web --loss 10 --duration 2m --wait --timeout 5m -o json",
            "rerun web-loss",
            "rerun web-loss --wait --timeout 5m -o json -n shop",
            "rerun web-loss --watch",
            "watch web-loss",
            "status -A -o wide",
            "stop web-loss other --wait=false",
            "stop --all",
            "history -o yaml",
            "manifest sts/db --loss 1 --duration 1h",
            "freeze --reason sale",
            "unfreeze",
            "completion zsh",
            "explain web-loss -o json",
            "doctor --fix -n shop",
            "doctor --fix -A",
            "run deploy/web --loss 10 --duration 2m --allow-production --yes",
            "stop -A",
            "stop --all -A --direct",
            "report web-loss -o html --run 2",
            "run pod/web-0 --loss 10 --duration 1m --direct --agent-image agent:1",
            "stop --all --direct",
        ] {
            let words = std::iter::once(PROGRAM).chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "run deploy/web --duration 2m",
            "run deploy/web --loss 101 --duration 2m",
            "stop",
            "stop x --all",
            "stop x -A",
            "watch",
            "rerun",
            "rerun x --wait --watch",
        ] {
            let words = std::iter::once(PROGRAM).chain(line.split(' '));
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), i32::from(Exit::Usage.code()), "{line}");
        }
    }
}
