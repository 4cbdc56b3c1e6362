//! netloss on a real node: `kubectl apply` makes packets of real pods disappear, and they come back by themselves.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test]. A test's future lives once.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod controller;
mod experiment;
mod node;
mod peers;
mod privilege;
mod scenarios;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use netloss_api::{ChaosExperimentStatus, Outcome, Phase, PodState};
use netloss_lab::cluster::Image;
use netloss_lab::cluster::traffic::{TrafficPod, create_namespace, wait_ready};
use serde_json::json;
use tokio::time::sleep;

use self::experiment::{apply, wait_for};
use self::peers::Peer;

const NAMESPACE: &str = "cluster-loss";
const ELSEWHERE: &str = "cluster-elsewhere";
const LABELS: &[(&str, &str)] = &[("app", "target")];
const TARGETS: [&str; 3] = ["target-0", "target-1", "target-2"];

fn traffic_pod<'a>(namespace: &'a str, name: &'a str, labels: &'a [(&'a str, &'a str)], image: &'a str) -> TrafficPod<'a> {
    TrafficPod { namespace, name, labels, image }
}

/// A pod with the targets' labels on the node's own network: loss there would hit the node.
async fn start_host_network_pod(client: &Client, image: &str) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "on-the-host", "labels": { "app": "target" } },
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 2,
            "containers": [{ "name": "traffic", "image": image, "args": ["echo", "--port=9100"] }],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    pods.create(&PostParams::default(), &pod).await?;
    wait_ready(&pods, "on-the-host").await.map(drop)
}

/// The pods of both namespaces that have an ephemeral container, which only netloss makes here.
async fn pods_with_an_agent(client: &Client) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for namespace in [NAMESPACE, ELSEWHERE] {
        let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
        let has_agent = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.ephemeral_containers.is_some());
        found.extend(pods.iter().filter(has_agent).map(|pod| format!("{namespace}/{}", pod.name_any())));
    }
    Ok(found)
}

/// An edit ends what the spec before it began, long before its time, and what it asks for itself begins.
async fn an_edit_stops_the_run_first(client: &Client) -> Result<()> {
    let spec = |duration: &str| json!({ "selector": { "app": "target" }, "count": 2, "lossPercentage": 30, "duration": duration });
    apply(client, NAMESPACE, &spec("2h")).await?;
    let all_applied = |status: &ChaosExperimentStatus| status.run == Some(2) && experiment::pods_in(status, PodState::Applied) == 2;
    let begun = wait_for(client, NAMESPACE, "a second run", all_applied).await?;
    apply(client, NAMESPACE, &spec("5s")).await?;
    let is_over = |status: &ChaosExperimentStatus| status.run == Some(3) && status.phase.is_some_and(Phase::is_final);
    let over = wait_for(client, NAMESPACE, "the run of the edit to be over", is_over).await?;
    ensure!(over.phase == Some(Phase::Completed), "{over:?}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    for entry in &begun.pods {
        let pod = pods.get(&entry.name).await?;
        let statuses = pod.status.and_then(|status| status.ephemeral_container_statuses).unwrap_or_default();
        for (name, words) in
            [(entry.container.clone(), "\"cause\":\"stopped\""), (format!("{}-stop", entry.container), "\"event\":\"stopped\"")]
        {
            let status = statuses.iter().find(|status| status.name == name).with_context(|| format!("no container {name}"))?;
            let ended =
                status.state.as_ref().and_then(|state| state.terminated.as_ref()).with_context(|| format!("{name} has not ended"))?;
            let message = ended.message.as_deref().unwrap_or_default();
            ensure!(ended.exit_code == 0 && message.contains(words), "{name}: {ended:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn loss_comes_to_the_chosen_pods_only_and_ends_without_the_controller() {
    let cluster = controller::cluster().await;
    // From the begin: a kubelet that somebody else takes away ends the logs that this test reads.
    let _alone = controller::CALM.write().await;
    let test = async {
        let client = cluster.client().await?;
        let image = Image::Traffic.reference();
        create_namespace(&client, NAMESPACE).await?;
        create_namespace(&client, ELSEWHERE).await?;
        let mut peers = Vec::new();
        for target in TARGETS {
            let address = traffic_pod(NAMESPACE, target, LABELS, &image).echo(&client).await?;
            peers.push(Peer::start(&client, NAMESPACE, target, address, &image).await?);
        }
        traffic_pod(ELSEWHERE, "bystander", LABELS, &image).echo(&client).await?;
        start_host_network_pod(&client, &image).await?;
        for peer in &mut peers {
            peer.expect_no_loss(Timestamp::UNIX_EPOCH, "before").await?;
        }

        apply(&client, NAMESPACE, &json!({ "selector": { "app": "target" }, "count": 2, "lossPercentage": 30, "duration": "60s" })).await?;
        let all_applied = |status: &_| experiment::pods_in(status, PodState::Applied) == 2;
        let status = wait_for(&client, NAMESPACE, "two pods to have the loss", all_applied).await?;
        ensure!(status.phase == Some(Phase::Running), "{status:?}");
        let message = status.message.clone().unwrap_or_default();
        ensure!(message.contains("Successfully injected 30% packet loss into 2 pod(s)"), "{message}");
        let chosen: BTreeSet<String> = status.pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        ensure!(chosen.len() == 2 && chosen == pods_with_an_agent(&client).await?, "{chosen:?}");

        let applied = status.pods.iter().filter_map(|pod| pod.applied_at.as_ref()).map(|time| time.0).max().context("nothing applied")?;

        controller::kill_and_keep_away(cluster, &client).await?;
        for peer in &mut peers {
            if chosen.contains(&format!("{NAMESPACE}/{}", peer.target())) {
                peer.expect_loss(applied, 0.3).await?;
            } else {
                peer.expect_no_loss(applied, "in a pod that was not chosen").await?;
            }
        }
        for peer in &mut peers {
            peer.wait_until_quiet().await?;
        }
        for name in TARGETS {
            let qdiscs = cluster.node().run_in_pod_network(NAMESPACE, name, "/usr/sbin/tc qdisc show").await?;
            ensure!(!qdiscs.contains("netem") && !qdiscs.contains("ingress"), "{name}: {qdiscs}");
        }

        controller::scale(&client, 1).await?;
        let is_over = |status: &ChaosExperimentStatus| status.phase.is_some_and(Phase::is_final);
        let status = wait_for(&client, NAMESPACE, "the experiment to be over", is_over).await?;
        ensure!(status.phase == Some(Phase::Completed), "{status:?}");
        for pod in &status.pods {
            ensure!(pod.outcome == Some(Outcome::Clean), "{pod:?}");
            let observed = pod.observed.context("no final counters in status")?;
            for direction in [observed.egress, observed.ingress] {
                let counted = direction.context("a direction without counters")?;
                ensure!(counted.dropped > 0 && counted.packets > counted.dropped, "{pod:?}");
            }
        }
        ensure!(chosen == pods_with_an_agent(&client).await?, "somebody else got an agent");
        // Time for a controller that would run it once more to begin with that.
        sleep(Duration::from_secs(3)).await;
        let again = wait_for(&client, NAMESPACE, "the experiment to be over", is_over).await?;
        ensure!(again.run == Some(1), "{again:?}");

        an_edit_stops_the_run_first(&client).await?;
        for peer in &mut peers {
            peer.wait_until_quiet().await?;
        }
        Ok(())
    };
    let outcome = cluster.check("chosen-pods-only", test).await;
    // Others need it, also after a failure.
    controller::scale(&cluster.client().await.unwrap(), 1).await.unwrap();
    outcome.unwrap();
}
