//! The command line, and all wiring from it.

use crate::{api, machine::Settings, reconcile::Context, run};
use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use kube::Client;
use std::{io::Write as _, sync::Arc};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Runs `ChaosExperiments` of the action pod-network-loss.
#[derive(Debug, Parser)]
#[command(name = "netloss-controller", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run experiments, in the cluster that this runs in or that the kubeconfig names
    Run(RunArgs),
    /// Print the definition of `ChaosExperiment` for the API server, in YAML
    Crd,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Image of the agent that is put into pods; a run that is planned keeps the one that it was planned with
    #[arg(long, env = "NETLOSS_AGENT_IMAGE", value_name = "IMAGE")]
    agent_image: String,

    /// The controller's own namespace, in which it runs no experiments
    #[arg(long, env = "NETLOSS_NAMESPACE", value_name = "NAME", default_value = "netloss-system")]
    namespace: String,

    /// The name of the controller's pod, for events
    #[arg(long, env = "NETLOSS_POD", value_name = "NAME")]
    pod_name: Option<String>,

    /// What to log: a level such as info or debug, or directives such as netloss_controller=debug,kube=info
    #[arg(long, env = "NETLOSS_LOG", value_name = "FILTER", default_value = "info")]
    log: String,

    /// How to log
    #[arg(long, env = "NETLOSS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

impl Args {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Says what was tried and what to do.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(args) => args.run(),
            Command::Crd => std::io::stdout().write_all(api::crd_yaml()?.as_bytes()).context("writing the definition to standard output"),
        }
    }
}

impl RunArgs {
    #[tokio::main]
    async fn run(self) -> anyhow::Result<()> {
        // Before the first request, so that a signal that comes early ends the process in order too.
        let stop = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        self.init_log()?;
        let client = Client::try_default().await.context(
            "finding the API server: run this in a pod with a service account, or name a cluster with KUBECONFIG or ~/.kube/config",
        )?;
        let settings = Settings::new(self.agent_image, self.namespace);
        let context = Arc::new(Context::new(client.clone(), settings, Arc::new(Timestamp::now), self.pod_name));
        run::run(client, context, stopped(stop)).await;
        Ok(())
    }

    fn init_log(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log).with_context(|| format!("--log {}: give a level such as info or debug", self.log))?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
            LogFormat::Text => log.init(),
        }
        Ok(())
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("installing signal handlers")
}

/// Until one of the signals comes.
async fn stopped((mut terminate, mut interrupt): (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
