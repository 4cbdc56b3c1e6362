//! The command line, and all wiring from it.

use crate::{
    admission::{
        certificate::{Keeper, Source},
        server::{self, Served, Webhook},
    },
    api,
    machine::Settings,
    reconcile::{Clock, Context},
    run,
};
use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use kube::Client;
use std::{io::Write as _, net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::net::TcpListener;
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

    /// Serve the validating admission webhook here, such as 0.0.0.0:9443; left out there is none, and what is refused shows in status only
    #[arg(long, env = "NETLOSS_WEBHOOK_LISTEN", value_name = "ADDRESS")]
    webhook_listen: Option<SocketAddr>,

    /// Folder with tls.crt and tls.key for the webhook, as cert-manager gives them; left out the controller makes and renews its own
    #[arg(long, env = "NETLOSS_WEBHOOK_CERTIFICATE", value_name = "FOLDER", requires = "webhook_listen")]
    webhook_certificate: Option<PathBuf>,

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
        let settings =
            Settings { trusts_admission: self.webhook_listen.is_some(), ..Settings::new(self.agent_image, self.namespace.clone()) };
        let clock: Clock = Arc::new(Timestamp::now);
        let webhook = match self.webhook_listen {
            Some(address) => {
                let listener = TcpListener::bind(address).await.with_context(|| format!("--webhook-listen {address}"))?;
                let source = self.webhook_certificate.map_or_else(|| Source::Kept(keeper(&client, &self.namespace)), Source::Files);
                let served = Arc::new(Served::default());
                tokio::spawn(source.keep(Arc::clone(&served)));
                let webhook = Webhook { client: client.clone(), settings: settings.clone(), clock: Arc::clone(&clock) };
                Some(tokio::spawn(server::serve(listener, served, webhook, std::future::pending())))
            }
            None => None,
        };
        let context = Arc::new(Context::new(client.clone(), settings, clock, self.pod_name));
        let controller = run::run(client, context, stopped(stop));
        let Some(webhook) = webhook else {
            controller.await;
            return Ok(());
        };
        // Without its webhook the controller is not what it was started as.
        tokio::select! {
            () = controller => Ok(()),
            ended = webhook => ended.context("the webhook")?,
        }
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

/// Of the names in config/webhook.
fn keeper(client: &Client, namespace: &str) -> Keeper {
    const SERVICE: &str = "netloss-webhook";
    Keeper {
        client: client.clone(),
        namespace: namespace.to_owned(),
        secret: "netloss-webhook".to_owned(),
        configuration: "netloss".to_owned(),
        names: vec![format!("{SERVICE}.{namespace}.svc"), format!("{SERVICE}.{namespace}.svc.cluster.local")],
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
