//! The command line, and all wiring from it.

use crate::{
    admission::authority,
    client::{self, Limits},
    definitions, drain,
    leader::Election,
    metrics::Metrics,
    reconcile::Context,
    records::Retention,
    replica::{self, Election as Elected, MetricsServer, ReplicaConfig, WebhookServer},
    verify,
};
use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use netloss_api::{self, DEFINITIONS};
use netloss_contract::parse_duration;
use netloss_core::{
    machine::{CONFLICTING_NAMESPACE, Settings},
    sanitize::line,
};
use std::{fmt, io::Write as _, net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};
use tracing::{Event, Subscriber, info};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    registry::LookupSpan,
};

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
    Run(Box<RunArgs>),
    /// Freeze all experiments and stop those that are under way, before netloss is uninstalled; needs no running controller
    Drain(DrainArgs),
    /// Ask whether what is installed works: the definitions, a replica that leads, and the webhook
    Verify(VerifyArgs),
    /// Install the definitions, or bring them up to date
    Definitions(DefinitionsArgs),
    /// Make the authority of the webhook's certificates if there is none, and have the API server trust it; for the Job of config/webhook
    WebhookCa(WebhookCaArgs),
    /// Print a definition for the API server, in YAML
    Crd {
        /// Which one, by its plural
        #[arg(default_value = DEFINITIONS[0].plural, value_parser = PossibleValuesParser::new(DEFINITIONS.map(|definition| definition.plural)))]
        plural: String,
    },
    /// Print docs/API.md
    #[command(hide = true)]
    Reference,
}

/// What it acts on and how it speaks of it, whatever it does.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Image of the agent that is put into pods; a run that is planned keeps the one that it was planned with
    #[arg(long, env = "NETLOSS_AGENT_IMAGE", value_name = "IMAGE")]
    agent_image: String,

    /// The controller's own namespace, in which it runs no experiments
    #[arg(long, env = "NETLOSS_NAMESPACE", value_name = "NAME", default_value = "netloss-system")]
    namespace: String,

    /// Act on experiments of this namespace alone, which needs no right beyond it; may be given more than once. Left out it is all namespaces
    #[arg(long = "watch-namespace", env = "NETLOSS_WATCH_NAMESPACES", value_name = "NAME", value_delimiter = ',')]
    watch_namespaces: Vec<String>,

    /// Namespace of k8s-chaos's controller: nothing is begun while a pod of it runs there; may be given more than once. Empty, it is not looked for
    #[arg(long = "k8s-chaos-namespace", env = "NETLOSS_K8S_CHAOS_NAMESPACES", value_name = "NAME", value_delimiter = ',', default_value = CONFLICTING_NAMESPACE)]
    k8s_chaos_namespaces: Vec<String>,

    /// Requests to the API server a second, on average; a quarter of it more is for experiments that are to end
    #[arg(long, env = "NETLOSS_API_QPS", value_name = "NUMBER", default_value = "200")]
    api_qps: NonZeroU32,

    /// Requests to the API server at once after a quiet time
    #[arg(long, env = "NETLOSS_API_BURST", value_name = "NUMBER", default_value = "400")]
    api_burst: NonZeroU32,

    /// Requests to the API server that may be without an answer at a time
    #[arg(long, env = "NETLOSS_API_CONCURRENT", value_name = "NUMBER", default_value = "32")]
    api_concurrent: NonZeroU32,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, clap::Args)]
struct LogArgs {
    /// What to log: a level such as info or debug, or directives such as netloss_controller=debug,kube=info
    #[arg(long, env = "NETLOSS_LOG", value_name = "FILTER", default_value = "info")]
    log: String,

    /// How to log
    #[arg(long, env = "NETLOSS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Debug, clap::Args)]
struct DefinitionsArgs {
    #[command(flatten)]
    log: LogArgs,

    /// Take over definitions that are there and not netloss's, such as k8s-chaos's; their objects stay
    #[arg(long, env = "NETLOSS_ADOPT")]
    adopt: bool,
}

#[derive(Debug, clap::Args)]
struct WebhookCaArgs {
    #[command(flatten)]
    log: LogArgs,

    /// The namespace of the Secret netloss-webhook-ca
    #[arg(long, env = "NETLOSS_NAMESPACE", value_name = "NAME", default_value = "netloss-system")]
    namespace: String,
}

#[derive(Debug, clap::Args)]
struct DrainArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// How long it may take: whole numbers with h, m or s, such as 10m
    #[arg(long, env = "NETLOSS_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10m", value_parser = long_span)]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Ask the webhook too
    #[arg(long, env = "NETLOSS_VERIFY_WEBHOOK")]
    webhook: bool,

    /// How long to try: whole numbers with h, m or s, such as 1m
    #[arg(long, env = "NETLOSS_VERIFY_TIMEOUT", value_name = "DURATION", default_value = "1m", value_parser = long_span)]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// The name of the controller's pod, for events
    #[arg(long, env = "NETLOSS_POD", value_name = "NAME")]
    pod_name: Option<String>,

    /// Serve the validating admission webhook here, such as 0.0.0.0:9443; left out there is none, and what is refused shows in status only
    #[arg(long, env = "NETLOSS_WEBHOOK_LISTEN", value_name = "ADDRESS")]
    webhook_listen: Option<SocketAddr>,

    /// Folder with tls.crt and tls.key for the webhook, as cert-manager gives them; left out the controller makes and renews its own
    #[arg(long, env = "NETLOSS_WEBHOOK_CERTIFICATE", value_name = "FOLDER", requires = "webhook_listen")]
    webhook_certificate: Option<PathBuf>,

    /// Run experiments only while this replica holds the lease "netloss-controller" in its own namespace
    #[arg(long, env = "NETLOSS_LEADER_ELECT")]
    leader_elect: bool,

    /// How long the lease holds without being renewed, in seconds: another replica takes over after that at the latest
    #[arg(long, env = "NETLOSS_LEASE_DURATION", value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(Election::SHORTEST.as_secs()..=600))]
    lease_duration: u64,

    /// Serve metrics here, at /metrics, such as 0.0.0.0:8080; left out there are none
    #[arg(long, env = "NETLOSS_METRICS_LISTEN", value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,

    /// Serve metrics over TLS, with the webhook's certificate, to those alone who may get the non-resource URL /metrics
    #[arg(long, env = "NETLOSS_METRICS_AUTHENTICATED", requires = "metrics_listen", requires = "webhook_listen")]
    metrics_authenticated: bool,

    /// Answer probes here, at /livez and /readyz, such as 0.0.0.0:8081; left out there are none
    #[arg(long, env = "NETLOSS_HEALTH_LISTEN", value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,

    /// Keep the records of so many runs of each experiment
    #[arg(long, env = "NETLOSS_HISTORY_COUNT", value_name = "NUMBER", default_value_t = 100)]
    history_count: usize,

    /// Keep records for so long: whole numbers with h, m or s, such as 720h
    #[arg(long, env = "NETLOSS_HISTORY_AGE", value_name = "DURATION", default_value = "720h", value_parser = long_span)]
    history_age: Duration,
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
            Command::Drain(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Definitions(args) => args.run(),
            Command::WebhookCa(args) => args.run(),
            Command::Reference => {
                std::io::stdout().write_all(netloss_api::reference().as_bytes()).context("writing the reference to standard output")
            }
            Command::Crd { plural } => {
                let definition = DEFINITIONS.iter().find(|definition| definition.plural == plural).context("no such definition")?;
                std::io::stdout().write_all(definition.yaml()?.as_bytes()).context("writing the definition to standard output")
            }
        }
    }
}

impl CommonArgs {
    fn limits(&self) -> Limits {
        Limits { qps: self.api_qps, burst: self.api_burst, concurrent: self.api_concurrent.get() }
    }

    fn settings(self) -> (Settings, Vec<String>) {
        // A controller of some namespaces alone may not look into others.
        let looks = self.watch_namespaces.is_empty();
        let conflicting_namespaces = self.k8s_chaos_namespaces.into_iter().filter(|name| looks && !name.is_empty()).collect();
        let settings = Settings { conflicting_namespaces, ..Settings::new(self.agent_image, self.namespace) };
        (settings, self.watch_namespaces)
    }
}

/// Keeps each entry of the log on a line of its own: what others wrote is in some of them.
struct OneLine<F>(F);

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut entry = String::new();
        self.0.format_event(context, Writer::new(&mut entry), event)?;
        writeln!(writer, "{}", line(&entry))
    }
}

impl LogArgs {
    fn init(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log).with_context(|| format!("--log {}: give a level such as info or debug", self.log))?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Json => {
                log.json().flatten_event(true).with_current_span(false).with_span_list(false).map_event_format(OneLine).init();
            }
            LogFormat::Text => log.map_event_format(OneLine).init(),
        }
        Ok(())
    }
}

impl RunArgs {
    #[tokio::main]
    async fn run(self) -> anyhow::Result<()> {
        self.common.log.init()?;
        self.operation().run().await
    }

    fn operation(self) -> ReplicaConfig {
        let identity = self.pod_name.clone().unwrap_or_else(own_name);
        let limits = self.common.limits();
        let (settings, namespaces) = self.common.settings();
        ReplicaConfig {
            settings: Settings { trusts_admission: self.webhook_listen.is_some(), ..settings },
            instance: self.pod_name,
            namespaces,
            election: self.leader_elect.then(|| Elected { identity, duration: Duration::from_secs(self.lease_duration) }),
            limits,
            retention: Retention {
                count: self.history_count,
                age: SignedDuration::try_from(self.history_age).unwrap_or(SignedDuration::MAX),
            },
            webhook: self.webhook_listen.map(|address| WebhookServer { address, certificate: self.webhook_certificate }),
            metrics: self.metrics_listen.map(|address| MetricsServer { address, authenticated: self.metrics_authenticated }),
            health: self.health_listen,
        }
    }
}

impl DefinitionsArgs {
    #[tokio::main]
    async fn run(self) -> anyhow::Result<()> {
        self.log.init()?;
        Ok(definitions::install(&Client::try_from(replica::config().await?)?, self.adopt).await?)
    }
}

impl WebhookCaArgs {
    #[tokio::main]
    async fn run(self) -> anyhow::Result<()> {
        self.log.init()?;
        let client = Client::try_from(replica::config().await?)?;
        let (secret, configuration) = (authority::SECRET, authority::CONFIGURATION);
        let authority = authority::install(&client, &self.namespace, secret, configuration, Timestamp::now()).await?;
        info!(expires = %authority.expires(), "the API server trusts the webhook's authority");
        Ok(())
    }
}

impl DrainArgs {
    #[tokio::main]
    async fn run(self) -> anyhow::Result<()> {
        self.common.log.init()?;
        let metrics = Arc::<Metrics>::default();
        let client = client::client(replica::config().await?, self.common.limits(), Arc::clone(&metrics))?;
        let (settings, namespaces) = self.common.settings();
        let context = Context::new(client.clone(), settings, Arc::new(Timestamp::now), None).observed_by(metrics, Arc::default());
        // How many records are kept is for the controller to say.
        let context = context.keeping(Retention { count: usize::MAX, age: SignedDuration::MAX });
        let stopped = drain::drain(&client, &Arc::new(context), &namespaces, self.timeout).await?;
        info!(stopped, "no loss of netloss is in any pod, and none is begun: netloss can be uninstalled");
        Ok(())
    }
}

impl VerifyArgs {
    #[tokio::main]
    async fn run(self) -> anyhow::Result<()> {
        self.common.log.init()?;
        let client = client::client(replica::config().await?, self.common.limits(), Arc::default())?;
        let (settings, namespaces) = self.common.settings();
        let verify = verify::Verify { client, own_namespace: settings.own_namespace, namespaces, webhook: self.webhook };
        verify.run(self.timeout).await
    }
}

/// The longest that records are kept: ten years.
const LONGEST: Duration = Duration::from_hours(24 * 3660);

/// A duration as experiments have it, and longer than one of those may be.
fn long_span(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration > LONGEST { Err(format!("\"{text}\" is out of range: give 1s to 87840h")) } else { Ok(duration) }
}

/// Unlike that of any other replica: the machine's name and the process.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a refusal of these arguments.
    fn refused(args: &[&str]) -> String {
        let all = ["netloss-controller", "run", "--agent-image=a"].iter().chain(args);
        Args::try_parse_from(all).expect_err("this is refused").to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, words) in [
            (&["--lease-duration=3"] as &[&str], "'3' for '--lease-duration <SECONDS>'"),
            (&["--api-qps=0"], "'0' for '--api-qps <NUMBER>'"),
            (&["--metrics-listen=8080"], "'8080' for '--metrics-listen <ADDRESS>'"),
            (&["--history-age=soon"], "'soon' for '--history-age <DURATION>'"),
            (&["--metrics-authenticated", "--metrics-listen=0.0.0.0:1"], "--webhook-listen <ADDRESS>"),
            (&["--webhook-certificate=/x"], "--webhook-listen <ADDRESS>"),
            (&["--log-format=xml"], "'xml' for '--log-format <LOG_FORMAT>'"),
        ] {
            let said = refused(args);
            assert!(said.contains(words), "{args:?}: {said}");
        }
    }

    #[test]
    fn each_flag_is_documented_with_its_variable() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md")).unwrap();
        let command = <Args as clap::CommandFactory>::command();
        let flags = ["run", "drain", "verify", "definitions", "webhook-ca"]
            .into_iter()
            .flat_map(|name| command.find_subcommand(name).unwrap().get_arguments());
        for flag in flags.filter(|flag| !matches!(flag.get_id().as_str(), "help" | "version")) {
            let (name, variable) = (flag.get_long().unwrap(), flag.get_env().unwrap().to_str().unwrap());
            assert!(text.contains(&format!("| `--{name}` | `{variable}` |")), "--{name} ({variable}) has no row");
        }
    }

    #[test]
    fn records_are_kept_for_a_span() {
        assert_eq!(long_span("720h"), Ok(Duration::from_hours(720)));
        assert_eq!(long_span("1h30m5s"), Ok(Duration::from_secs(5405)));
        for text in ["", "0s", "1", "h", "1d", "-1h", "99999999999999999999h", "87841h", "1hä"] {
            assert!(long_span(text).is_err(), "{text}");
        }
    }
}
