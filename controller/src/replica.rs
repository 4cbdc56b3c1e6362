//! One replica: what runs in it side by side, and in which order it ends.

use crate::{
    admission::{
        Served, authority,
        certificate::{Keeper, Source},
        server::{self, Webhook},
    },
    client::{self, Limits},
    health::{self, Health},
    http, leader,
    metrics::{
        Metrics,
        server::{self as metrics_server, Gate},
    },
    reconcile::Context,
    records::Retention,
    run,
};
use anyhow::Context as _;
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use kube::{Client, Config};
use netloss_cluster::clock::Clock;
use netloss_core::machine::Settings;
use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

/// How long the passes that are under way may take to end. The Deployment's terminationGracePeriodSeconds is longer.
const LAST_PASSES: Duration = Duration::from_secs(15);

/// How long the servers go on after that: endpoints take a moment to leave kube-proxy's rules. With [`LAST_PASSES`] that is 18 s, less than the
/// Deployment's terminationGracePeriodSeconds.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Standing for the lease.
pub(crate) struct Election {
    /// Unlike that of any other replica.
    pub(crate) identity: String,
    /// How long the lease holds without being renewed.
    pub(crate) duration: Duration,
}

/// The webhook.
pub(crate) struct WebhookServer {
    pub(crate) address: SocketAddr,
    /// The folder with its certificate, unless the controller makes that itself.
    pub(crate) certificate: Option<PathBuf>,
}

/// Metrics.
pub(crate) struct MetricsServer {
    pub(crate) address: SocketAddr,
    /// Over TLS, and not to everybody.
    pub(crate) authenticated: bool,
}

/// All that a replica is started with.
pub(crate) struct ReplicaConfig {
    pub(crate) settings: Settings,
    /// Its name in events.
    pub(crate) instance: Option<String>,
    /// Whose experiments it runs; all if empty.
    pub(crate) namespaces: Vec<String>,
    pub(crate) election: Option<Election>,
    pub(crate) limits: Limits,
    pub(crate) retention: Retention,
    pub(crate) webhook: Option<WebhookServer>,
    pub(crate) metrics: Option<MetricsServer>,
    pub(crate) health: Option<SocketAddr>,
}

/// What servers share with the one that runs experiments.
struct Shared<'a> {
    client: &'a Client,
    clock: &'a Clock,
    served: Option<Arc<Served>>,
    metrics: &'a Arc<Metrics>,
    health: &'a Arc<Health>,
}

/// A server, and what it is called in an error.
type Server = (&'static str, JoinHandle<()>);

impl ReplicaConfig {
    /// Runs until a signal.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // Before the first request, so that a signal that comes early ends the process in order too.
        let stop = stopped(listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?).boxed().shared();
        let config = config().await?;
        let metrics = Arc::new(Metrics::default());
        let client = client::client(config.clone(), self.limits, Arc::clone(&metrics))?;
        let clock: Clock = Arc::new(Timestamp::now);
        let served = self.webhook.as_ref().map(|_| Arc::new(Served::default()));
        let health = Arc::new(Health::new(served.clone()));
        let (end, ended) = oneshot::channel::<()>();
        let shared = Shared { client: &client, clock: &clock, served: served.clone(), metrics: &metrics, health: &health };
        let servers = self.serve(&config, shared, ended.map(drop).shared()).await?;

        let context = Context::new(client.clone(), self.settings.clone(), clock, self.instance.clone());
        let context = context.observed_by(Arc::clone(&metrics), Arc::clone(&health)).keeping(self.retention).reviewed_by(served);
        let context = Arc::new(context.ending_with(client::client(config.clone(), self.limits.to_end(), Arc::clone(&metrics))?));
        let work = || {
            let (client, context, stop) = (client.clone(), Arc::clone(&context), stop.clone());
            async {
                let begun = stop.clone();
                let run = run::run(client, context, &self.namespaces, stop);
                tokio::select! {
                    () = run => {}
                    () = async { begun.await; sleep(LAST_PASSES).await } => warn!("passes that did not end were cut off"),
                }
            }
        };
        let experiments = async {
            if let Some(Election { identity, duration }) = &self.election {
                let (namespace, identity) = (self.settings.own_namespace.clone(), identity.clone());
                let (health, metrics) = (Arc::clone(&health), Arc::clone(&metrics));
                let election = leader::Election::new(&config, client.clone(), namespace, identity, *duration, health, metrics)?;
                election.campaign(work, stop.clone()).await;
            } else {
                health.set_standing();
                health.set_leads(true);
                metrics.set_leader(true);
                work().await;
            }
            anyhow::Ok(())
        };
        let noted = async {
            stop.clone().await;
            info!("ending");
            health.set_stopping();
            std::future::pending::<()>().await;
        };
        let (names, tasks): (Vec<_>, Vec<_>) = servers.into_iter().unzip();
        let mut tasks = futures::future::select_all(tasks.into_iter().chain([tokio::spawn(std::future::pending())]));
        tokio::select! {
            ended = experiments => ended?,
            () = noted => {}
            // Without one of its servers the replica is not what it was started as.
            (ended, which, _) = &mut tasks => {
                let name = names.get(which).copied().unwrap_or_default();
                ended.context(name)?;
                anyhow::bail!("{name} ended");
            }
        }
        sleep(LAST_ANSWERS).await;
        drop(end);
        for task in tasks.into_inner().into_iter().take(names.len()) {
            let _ = timeout(http::LIMIT + LAST_ANSWERS, task).await;
        }
        Ok(())
    }

    /// Starts what is served, on ports that are taken before anything else happens.
    async fn serve(
        &self,
        config: &Config,
        Shared { client, clock, served, metrics, health }: Shared<'_>,
        end: impl Future<Output = ()> + Clone + Send + 'static,
    ) -> anyhow::Result<Vec<Server>> {
        let mut servers: Vec<Server> = Vec::new();
        if let Some(address) = self.health {
            let listener = bind("--health-listen", address).await?;
            let serving = health::serve(listener, Arc::clone(health), end.clone());
            servers.push(("--health-listen", tokio::spawn(serving)));
        }
        if let Some(MetricsServer { address, authenticated }) = self.metrics {
            let listener = bind("--metrics-listen", address).await?;
            let tls = served.clone().filter(|_| authenticated).map(|served| http::acceptor(served)).transpose()?;
            let asking = client::client(config.clone(), Limits::TOKENS, Arc::clone(metrics))?;
            let gate = authenticated.then(|| Arc::new(Gate::new(asking)));
            let serving = metrics_server::serve(listener, tls, gate, Arc::clone(metrics), end.clone());
            servers.push(("--metrics-listen", tokio::spawn(serving)));
        }
        if let (Some(webhook), Some(served)) = (&self.webhook, served) {
            let listener = bind("--webhook-listen", webhook.address).await?;
            let own = &self.settings.own_namespace;
            let source = webhook.certificate.clone().map_or_else(|| Source::Kept(keeper(client, own)), Source::Files);
            tokio::spawn(source.keep(Arc::clone(&served)));
            let client = client::client(config.clone(), Limits::REVIEWS, Arc::clone(metrics))?;
            let (settings, clock) = (self.settings.clone(), Arc::clone(clock));
            let webhook = Webhook { client, settings, clock, metrics: Arc::clone(metrics) };
            servers.push(("--webhook-listen", tokio::spawn(server::serve(listener, served, webhook, end.clone())?)));
        }
        Ok(servers)
    }
}

/// How to reach the API server.
pub(crate) async fn config() -> anyhow::Result<Config> {
    Config::infer()
        .await
        .context("finding the API server: run this in a pod with a service account, or name a cluster with KUBECONFIG or ~/.kube/config")
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

/// Of the names in config/webhook.
fn keeper(client: &Client, namespace: &str) -> Keeper {
    const SERVICE: &str = "netloss-webhook";
    Keeper {
        client: client.clone(),
        namespace: namespace.to_owned(),
        secret: "netloss-webhook".to_owned(),
        authority: authority::SECRET.to_owned(),
        names: vec![format!("{SERVICE}.{namespace}.svc"), format!("{SERVICE}.{namespace}.svc.cluster.local")],
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("installing signal handlers")
}

/// Until one of the signals comes.
fn stopped(mut terminate: Signal, mut interrupt: Signal) -> BoxFuture<'static, ()> {
    async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    .boxed()
}
