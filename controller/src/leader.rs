//! Which replica runs experiments: the one that holds the lease.
//!
//! The lease keeps replicas out of each other's way. Safety does not rest on it: two that both believe to lead write no status that the other has not
//! seen, and adopt what is in a pod already.

use crate::{health::Health, metrics::Metrics};
use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Config,
    runtime::{WatchStreamExt, watcher},
};
use kube_lease_manager::{LeaseCreateMode, LeaseManager, LeaseManagerBuilder};
use netloss_api::LEASE;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

/// The longest that one request about the lease may take. Less than the last third of the shortest lease ([`Election::SHORTEST`]: 3 s), in which
/// another one has to begin.
const REQUEST: Duration = Duration::from_secs(2);
/// Between tries.
const AGAIN: Duration = Duration::from_secs(1);

/// Stands for the lease.
pub struct Election {
    /// For requests, which end early.
    client: Client,
    /// For a watch, which does not.
    watching: Client,
    namespace: String,
    /// Who this is.
    identity: String,
    /// How long the lease holds without being renewed.
    duration: Duration,
    /// How long before its end it is renewed.
    grace: Duration,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Election {
    /// The shortest lease: its last third has to hold a request that is not answered, and another.
    pub const SHORTEST: Duration = Duration::from_secs(9);

    /// `identity` is unlike that of any other replica.
    ///
    /// # Errors
    /// When no client can be made of the configuration.
    pub fn new(
        config: &Config,
        watching: Client,
        namespace: String,
        identity: String,
        duration: Duration,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        // A client of its own: renewing must not wait behind anything, and a request without an answer has to fail while there is time.
        let mut config = config.clone();
        (config.connect_timeout, config.read_timeout, config.write_timeout) = (Some(REQUEST), Some(REQUEST), Some(REQUEST));
        let client = Client::try_from(config).context("making a client for the lease")?;
        Ok(Self { client, watching, namespace, identity, duration, grace: duration / 3, health, metrics })
    }

    /// Does `work` while this replica holds the lease. Ends when `work` does, which is told by `stop` that it is to end; the lease is then
    /// handed over. Where the lease is lost, `work` is dropped where it stands, which is like a crash, and this replica stands again.
    pub async fn campaign<W: Future<Output = ()>>(&self, mut work: impl FnMut() -> W, stop: impl Future<Output = ()> + Clone) {
        loop {
            let manager = tokio::select! {
                manager = self.acquire() => manager,
                () = stop.clone() => return,
            };
            info!(identity = self.identity, "leading: this replica runs experiments");
            self.set_leads(true);
            tokio::select! {
                () = work() => {
                    self.set_leads(false);
                    let released = async {
                        // An API server that does not answer at once may answer the next time; else the next leader waits until the lease has run out.
                        while let Err(error) = manager.release().await {
                            debug!(%error, "the lease was not released: trying again");
                            sleep(AGAIN).await;
                        }
                    };
                    if timeout(self.grace, released).await.is_ok() {
                        info!("the lease is handed over");
                    } else {
                        warn!("the lease could not be handed over: it runs out by itself");
                    }
                    return;
                }
                why = self.hold(&manager) => warn!(why, "no longer leading: what was under way is left to whoever leads now"),
            }
            self.set_leads(false);
        }
    }

    fn set_leads(&self, leads: bool) {
        self.health.set_leads(leads);
        self.metrics.set_leader(leads);
    }

    /// Waits until the lease is this replica's.
    async fn acquire(&self) -> LeaseManager {
        loop {
            let manager = match self.manager().await {
                Ok(manager) => manager,
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the lease could not be read: trying again");
                    sleep(AGAIN).await;
                    continue;
                }
            };
            self.health.set_standing();
            tokio::select! {
                leads = manager.changed() => match leads {
                    Ok(true) => return manager,
                    Ok(false) => {}
                    Err(error) => {
                        warn!(%error, "the lease could not be taken: trying again");
                        sleep(AGAIN).await;
                    }
                },
                // The manager sleeps until the lease would have run out: a new one looks at once.
                () = self.handed_over() => {}
            }
        }
    }

    async fn manager(&self) -> anyhow::Result<LeaseManager> {
        LeaseManagerBuilder::new(self.client.clone(), LEASE)
            .with_namespace(&self.namespace)
            .with_create_mode(LeaseCreateMode::UseExistent)
            .with_identity(&self.identity)
            .with_field_manager(&self.identity)
            .with_duration(self.duration.as_secs())
            .with_grace(self.grace.as_secs())
            .build()
            .await
            .with_context(|| format!("Lease {}/{LEASE}", self.namespace))
    }

    /// Until whoever held the lease lets it go.
    async fn handed_over(&self) {
        let this_one = watcher::Config::default().fields(&format!("metadata.name={LEASE}"));
        let mut changes = watcher(self.api(&self.watching), this_one).default_backoff().applied_objects().boxed();
        let mut held = false;
        loop {
            match changes.try_next().await {
                Ok(Some(lease)) => match lease.spec.and_then(|spec| spec.holder_identity) {
                    Some(_) => held = true,
                    None if held => return,
                    None => {}
                },
                Ok(None) => sleep(AGAIN).await,
                // It is followed when it runs out all the same.
                Err(error) => warn!(%error, "the watch of the lease failed and is begun again"),
            }
        }
    }

    /// Keeps the lease, until it is lost; why.
    async fn hold(&self, manager: &LeaseManager) -> String {
        loop {
            let error = match manager.changed().await {
                Ok(true) => continue,
                Ok(false) => return "another replica has taken the lease".to_owned(),
                Err(error) => error.to_string(),
            };
            // It holds for what is left of the grace, whoever else may believe so. The first failure has taken its time already.
            let (since, end) = (Timestamp::now(), Instant::now() + self.grace.saturating_sub(REQUEST));
            warn!(error, "the lease could not be renewed: trying again");
            loop {
                tokio::select! {
                    lost = manager.changed() => match lost {
                        Ok(false) => return "another replica has taken the lease".to_owned(),
                        Ok(true) | Err(_) => sleep(Duration::from_millis(100)).await,
                    },
                    renewed = self.is_renewed(since) => if renewed { break },
                    () = sleep_until(end) => return format!("the lease could not be renewed in time: {error}"),
                }
                if Instant::now() >= end {
                    return format!("the lease could not be renewed in time: {error}");
                }
            }
        }
    }

    /// Whether this replica has renewed the lease since then, a moment from now.
    async fn is_renewed(&self, since: Timestamp) -> bool {
        sleep(AGAIN / 2).await;
        let spec = self.api(&self.client).get(LEASE).await.ok().and_then(|lease| lease.spec).unwrap_or_default();
        spec.holder_identity.as_ref() == Some(&self.identity) && spec.renew_time.is_some_and(|time| time.0 >= since)
    }

    fn api(&self, client: &Client) -> Api<Lease> {
        Api::namespaced(client.clone(), &self.namespace)
    }
}
