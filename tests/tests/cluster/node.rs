//! The lab's own promises about its cluster: pods run and reach the API server, loss between them is seen for what it is, and the
//! node can be looked into and hurt.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use netloss_lab::cluster::Image;
use netloss_lab::cluster::traffic::{TrafficPod, create_namespace, lines, wait_ready};
use netloss_lab::node::Node;
use netloss_lab_traffic::Line;

use crate::controller::{self, CALM};

const INTERVAL: Duration = Duration::from_millis(5);

fn pod<'a>(namespace: &'a str, name: &'a str, image: &'a str) -> TrafficPod<'a> {
    TrafficPod { namespace, name, labels: &[("app", "lab-test")], image }
}

/// Loss in both directions over some seconds that begin now: to the peer, from the peer.
async fn seconds(node: &Node, lines: &mut (impl Stream<Item = Result<Line>> + Unpin), count: u32) -> Result<[f64; 2]> {
    // The log comes late, and a line covers the second before it.
    let begin = node.clock().await? + 1.0;
    let mut sums = [(0, 0); 2];
    let mut seen = 0;
    while seen < count {
        let line = lines.try_next().await?.context("the log ended")?;
        if line.time < begin {
            continue;
        }
        seen += 1;
        for (sum, direction) in sums.iter_mut().zip([line.to_peer, line.from_peer]) {
            *sum = (sum.0 + direction.sent, sum.1 + direction.arrived);
        }
    }
    Ok(sums.map(|(sent, arrived)| 100.0 - 100.0 * arrived as f64 / sent as f64))
}

#[tokio::test]
async fn loss_in_a_pod_is_seen_by_its_peer_and_ends() {
    let cluster = controller::cluster().await;
    let _calm = CALM.read().await;
    let test = async {
        let client = cluster.client().await?;
        let (namespace, image) = ("lab-loss", Image::Traffic.reference());
        create_namespace(&client, namespace).await?;
        let target = pod(namespace, "target", &image).echo(&client).await?;
        pod(namespace, "peer", &image).probe(&client, target, INTERVAL).await?;
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let mut seen = lines(&pods, "peer").await?;

        let quiet = seconds(cluster.node(), &mut seen, 3).await?;
        ensure!(quiet == [0.0, 0.0], "loss without a cause: {quiet:?}");

        cluster.node().run_in_pod_network(namespace, "target", "/usr/sbin/tc qdisc add dev eth0 root netem loss 30%").await?;
        let [to_target, from_target] = seconds(cluster.node(), &mut seen, 5).await?;
        ensure!(to_target.abs() < f64::EPSILON, "the other direction is untouched, not {to_target} %");
        // 700 packets at least (the echo answers only what arrives): five standard deviations are nine points.
        ensure!((from_target - 30.0).abs() < 9.0, "{from_target} % seen of 30 % asked");

        let qdiscs = cluster.node().run_in_pod_network(namespace, "target", "/usr/sbin/tc qdisc show dev eth0").await?;
        ensure!(qdiscs.contains("netem") && qdiscs.contains("loss 30%"), "{qdiscs}");
        cluster.node().run_in_pod_network(namespace, "target", "/usr/sbin/tc qdisc del dev eth0 root").await?;
        let quiet = seconds(cluster.node(), &mut seen, 3).await?;
        ensure!(quiet == [0.0, 0.0], "loss after its end: {quiet:?}");
        Ok(())
    };
    cluster.check("loss", test).await.unwrap();
}

#[tokio::test]
async fn pods_reach_the_api_server_under_its_service_address() {
    let cluster = controller::cluster().await;
    let _calm = CALM.read().await;
    let test = async {
        let client = cluster.client().await?;
        let (namespace, image) = ("lab-service", Image::Traffic.reference());
        create_namespace(&client, namespace).await?;
        pod(namespace, "pod", &image).echo(&client).await?;
        let connect = "busybox nc -w 5 10.96.0.1 443 -e true";
        cluster.node().run_in_pod_network(namespace, "pod", connect).await?;
        Ok(())
    };
    cluster.check("service", test).await.unwrap();
}

#[tokio::test]
async fn a_killed_kubelet_comes_back_and_a_slow_script_is_killed() {
    let cluster = controller::cluster().await;
    let _alone = CALM.write().await;
    let test = async {
        let node = cluster.node();
        let killed = node.run_within("sleep 60", Duration::from_secs(1)).await?;
        ensure!(killed.status == 137, "{killed:?}");
        ensure!(node.run("echo still here; exit 3").await?.output == "still here\n");

        let client = cluster.client().await?;
        let (namespace, image) = ("lab-kubelet", Image::Traffic.reference());
        create_namespace(&client, namespace).await?;
        node.run("busybox killall -KILL kubelet").await?;
        pod(namespace, "after", &image).echo(&client).await?;

        let pods: Api<Pod> = Api::namespaced(client, namespace);
        wait_ready(&pods, "after").await?;
        pods.delete("after", &DeleteParams::default()).await?;
        Ok(())
    };
    cluster.check("kubelet", test).await.unwrap();
}
