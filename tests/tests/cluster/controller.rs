//! The controller and the kubelet: who needs them to stay, and who takes them away.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use netloss_lab::cluster::{Build, Cluster, Image, install_netloss, set_one_replica};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;
use serde_json::json;
use tokio::sync::{OnceCell, RwLock};
use tokio::time::{Instant, sleep};

/// Read by the tests that need the controller and the kubelet, written by those that take one of them away.
pub(crate) static CALM: RwLock<()> = RwLock::const_new(());

const NAMESPACE: &str = "netloss-system";

/// The cluster of all tests, with netloss in it.
pub(crate) async fn cluster() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let start = async || {
        let install = async |client| install_netloss(&client, set_one_replica).await;
        let (cluster, installed) = Cluster::start_and(&Image::ALL, Build::Dev, Lifetime::WithLab, StateDir::temporary()?, install).await?;
        cluster.check("install", async { installed }).await?;
        anyhow::Ok(cluster)
    };
    SHARED.get_or_try_init(start).await.unwrap()
}

/// Kills the controller, and keeps it away by having none wanted. In this order: one that is no longer wanted ends by itself.
pub(crate) async fn kill_and_keep_away(cluster: &Cluster, client: &Client) -> Result<()> {
    kill(cluster).await?;
    scale(client, 0).await
}

/// Wants so many of it.
pub(crate) async fn scale(client: &Client, replicas: u32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "netloss-system");
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    deployments.patch("netloss-controller", &PatchParams::default(), &patch).await.map(drop).context("cannot scale the controller")
}

/// Kills the process, as a node that runs out of memory does.
async fn kill(cluster: &Cluster) -> Result<()> {
    // By its executable: the kernel cuts a process's name at 15 characters.
    let script = r#"for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe") in */netloss-controller) pid=${exe#/proc/}; kill -KILL "${pid%/exe}" && echo killed ;; esac
    done"#;
    let killed = cluster.node().run(script).await?;
    ensure!(killed.output.contains("killed"), "no controller to kill: {}", killed.output);
    Ok(())
}

/// Kills it and waits until another works. The pod goes too, as the kubelet would make the next start of its container wait ever longer.
pub(crate) async fn kill_and_replace(cluster: &Cluster, client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let before: Vec<String> = pods.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
    kill(cluster).await?;
    for name in &before {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    }
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        let runs = |pod: &Pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            !before.contains(&pod.name_any()) && statuses.into_iter().any(|status| status.started == Some(true))
        };
        if pods.list(&ListParams::default()).await?.iter().any(runs) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("no other controller came up");
        }
        sleep(Duration::from_millis(200)).await;
    }
}
