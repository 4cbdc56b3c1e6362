//! What is measured on a node: a pod whose packets are watched from outside it, and what containerd's log says of it.

mod containerd;
mod pull;
mod reaction;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use netloss_lab::cluster::traffic::{TrafficPod, create_namespace};
use netloss_lab::cluster::{Build, Cluster, Image};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;
use netloss_lab_traffic::Change;
use tokio::time::{Instant, sleep, timeout};

pub(super) use self::pull::measure as pull;
pub(super) use self::reaction::measure as reaction;

/// For whatever the emulated node is waited for.
const LIMIT: Duration = Duration::from_mins(3);

const NAMESPACE: &str = "bench";
const LABEL: &str = "bench";

/// Pods that are made together: to make one takes longer than to measure with it, and an agent's image is kept as long as its pod.
const BATCH: usize = 8;

struct Field {
    cluster: Cluster,
    client: Client,
}

/// A pod that answers packets.
struct Target {
    name: String,
    address: SocketAddr,
}

impl Field {
    async fn start(images: &[Image]) -> Result<Self> {
        let cluster = Cluster::start(images, Build::Release, Lifetime::WithLab, StateDir::temporary()?).await?;
        let client = cluster.client().await?;
        create_namespace(&client, NAMESPACE).await?;
        Ok(Self { cluster, client })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Starts targets whose names begin so. The node gets the program that watches them from the first of them.
    async fn targets(&self, begin: &str, count: usize) -> Result<Vec<Target>> {
        let image = Image::Traffic.reference();
        let start = |name: String| {
            let image = &image;
            async move {
                let pod = TrafficPod { namespace: NAMESPACE, name: &name, labels: &[(LABEL, &name)], image };
                let address = pod.echo(&self.client).await?;
                anyhow::Ok(Target { name, address })
            }
        };
        let targets = try_join_all((0..count).map(|number| start(format!("{begin}-{number}")))).await?;
        self.on_node(
            "[ -e /run/traffic ] || for folder in /proc/[0-9]*; do
                case $(readlink $folder/exe) in */traffic) cp $folder/exe /run/traffic; break ;; esac
            done; [ -e /run/traffic ]",
        )
        .await?;
        Ok(targets)
    }

    async fn remove_targets(&self) -> Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        self.pods().delete_collection(&at_once, &ListParams::default()).await?;
        let limit = Instant::now() + LIMIT;
        while !self.pods().list_metadata(&ListParams::default()).await?.items.is_empty() {
            ensure!(Instant::now() < limit, "pods do not go");
            sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    async fn on_node(&self, script: &str) -> Result<String> {
        let answer = self.cluster.node().run_within(script, LIMIT).await?;
        ensure!(answer.success(), "the node failed ({}): {}", answer.status, answer.output);
        Ok(answer.output)
    }

    /// Begins to watch a target's packets; they arrive when this returns.
    async fn watch(&self, target: &Target) -> Result<()> {
        let command = format!("setsid /run/traffic watch --to={} --interval=5ms", target.address);
        self.on_node(&format!(
            "rm -f /run/watch.log; {command} >/run/watch.log 2>/run/watch.errors </dev/null & echo $! >/run/watch.pid
             until [ -s /run/watch.log ]; do sleep 0.1; done"
        ))
        .await?;
        Ok(())
    }

    async fn end_watch(&self) -> Result<()> {
        self.on_node("kill $(cat /run/watch.pid)").await.map(drop)
    }

    /// Waits until packets are answered, or not any more, and returns since when, by the node's clock. What was before `since` does not
    /// count: while a root qdisc comes or goes the kernel drops what is sent, so one change may be three.
    async fn change(&self, since: f64, answered: bool) -> Result<f64> {
        let limit = Instant::now() + LIMIT;
        loop {
            let lines = self.on_node("cat /run/watch.log").await?;
            let changes: Vec<Change> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(lines)?;
            if let Some(change) = changes.iter().find(|change| change.time >= since && change.answered == answered) {
                return Ok(change.time);
            }
            ensure!(Instant::now() < limit, "nothing happens to the packets: {changes:?}");
            // Each look costs the node some of its time.
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What containerd's log says last.
    async fn containerd(&self) -> Result<containerd::Log> {
        // It says other things too, some of them often.
        let said = self.on_node("grep -e CreateContainer -e StartContainer -e PullImage /run/containerd.log | tail -n 100").await?;
        Ok(containerd::Log::parse(&said))
    }

    /// By how many seconds the node's clock is ahead of this machine's. Half of how long the answer takes is the error.
    async fn clock_ahead(&self) -> Result<f64> {
        let mut best = (f64::MAX, 0.0);
        for _ in 0..5 {
            let before = unix_time()?;
            let node = self.cluster.node().clock().await?;
            let took = unix_time()? - before;
            if took < best.0 {
                best = (took, node - before - took / 2.0);
            }
        }
        Ok(best.1)
    }

    /// The ephemeral containers of a pod as they come, each with when it was seen by this machine's clock.
    async fn containers(&self, pod: &str) -> Result<impl Stream<Item = Result<(f64, EphemeralContainer)>> + use<>> {
        let parameters = WatchParams::default().fields(&format!("metadata.name={pod}"));
        let version = self.pods().list_metadata(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
        let mut known = 0;
        let events = self.pods().watch(&parameters, &version).await?.map_err(anyhow::Error::from);
        let come = events.map_ok(move |event| {
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { return Vec::new() };
            let containers = pod.spec.and_then(|spec| spec.ephemeral_containers).unwrap_or_default();
            // A strategic merge patch puts new ones in front of the others.
            let new = containers.len().saturating_sub(std::mem::replace(&mut known, containers.len()));
            containers.into_iter().take(new).collect()
        });
        let flat = come.map_ok(|new| futures::stream::iter(new.into_iter().map(|container| Ok((unix_time()?, container))))).try_flatten();
        Ok(Box::pin(flat))
    }
}

/// The next of them.
async fn next<T>(stream: &mut (impl Stream<Item = Result<T>> + Unpin)) -> Result<T> {
    timeout(LIMIT, stream.next()).await.context("no container is put into the pod")?.context("the watch has ended")?
}

/// In seconds since the Unix epoch.
fn unix_time() -> Result<f64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}
