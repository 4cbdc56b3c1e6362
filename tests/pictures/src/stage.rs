//! A workload of three pods, each of which exchanges packets with a pod of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use netloss_lab::cluster::traffic::{PORT, TrafficPod, create_namespace, wait_ready};
use netloss_lab::host::progress;
use serde_json::json;
use tokio::time::{Instant, sleep};

pub(super) const NAMESPACE: &str = "shop";
pub(super) const WORKLOAD: &str = "web";
const REPLICAS: usize = 3;
/// Between two packets.
const INTERVAL: Duration = Duration::from_millis(10);
/// For a Deployment to have its pods.
const LIMIT: Duration = Duration::from_mins(1);

pub(super) async fn set(client: &Client, image: &str) -> Result<()> {
    let step = progress::step("Starting a workload that exchanges packets");
    create_namespace(client, NAMESPACE).await?;
    let labels = json!({ "app": WORKLOAD });
    let container = json!({
        "name": "traffic", "image": image, "args": ["echo", format!("--port={PORT}")],
        "securityContext": {
            "runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": WORKLOAD },
        "spec": {
            "replicas": REPLICAS, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "terminationGracePeriodSeconds": 2, "containers": [container] } },
        },
    }))?;
    Api::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &deployment).await.context("cannot create the workload")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let deadline = Instant::now() + LIMIT;
    let names = loop {
        let list = pods.list(&ListParams::default().labels(&format!("app={WORKLOAD}"))).await?;
        if list.items.len() == REPLICAS {
            break list.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
        }
        ensure!(Instant::now() < deadline, "the workload has no {REPLICAS} pods after {} s", LIMIT.as_secs());
        sleep(Duration::from_millis(250)).await;
    };
    for (number, name) in names.iter().enumerate() {
        let address = wait_ready(&pods, name).await?.status.and_then(|status| status.pod_ip).context("a Ready pod without an address")?;
        let client_name = format!("client-{number}");
        let peer = TrafficPod { namespace: NAMESPACE, name: &client_name, labels: &[("role", "client")], image };
        peer.probe(client, SocketAddr::new(address.parse()?, PORT), INTERVAL).await?;
    }
    step.done(format!("{REPLICAS} pods and {REPLICAS} clients, a packet each way every {} ms", INTERVAL.as_millis()));
    Ok(())
}
