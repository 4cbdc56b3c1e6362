//! Installed, upgraded and uninstalled on a real node with the commands of docs/INSTALL.md, by kubectl and by Helm, while packets are lost:
//! what is uninstalled leaves no loss, and no experiment that waits for a controller that is gone.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test].
#![allow(clippy::unwrap_used, clippy::large_futures)]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use netloss_controller::api::{ChaosExperiment, ChaosExperimentHistory, ChaosExperimentStatus, Phase, PodState, RunResult};
use netloss_lab::cluster::traffic::{TrafficPod, create_namespace};
use netloss_lab::cluster::{Cluster, Image};
use netloss_lab::controlplane::Tool;
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;
use serde_json::json;
use tokio::time::{Instant, sleep};

const SHOP: &str = "shop";
const OWN: &str = "netloss-system";

/// For whatever the emulated node is waited for.
const LIMIT: Duration = Duration::from_mins(8);

/// A user at the keyboard.
struct User<'a> {
    cluster: &'a Cluster,
    client: Client,
}

impl User<'_> {
    /// Types a command of docs/INSTALL.md.
    async fn types(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let tool = match words.next() {
            Some("kubectl") => Tool::Kubectl,
            Some("helm") => Tool::Helm,
            other => bail!("no such program: {other:?}"),
        };
        // They run in the root of the repository.
        let arguments: Vec<String> = words.map(str::to_owned).collect();
        self.cluster.control_plane().run(tool, arguments).await.with_context(|| line.to_owned())
    }

    /// The API server runs outside the node, and reaches no Service in it: the control-plane tests have the webhook.
    async fn ask_no_webhook(&self) -> Result<()> {
        let nobody = json!({ "matchLabels": { "nobody": "is-asked" } });
        let webhook = json!({ "name": "chaosexperiments.chaos.gushchin.dev", "namespaceSelector": nobody });
        let configurations = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let patch = Patch::Strategic(json!({ "webhooks": [webhook] }));
        configurations.patch("netloss", &PatchParams::default(), &patch).await.map(drop).context("cannot patch the webhook's configuration")
    }

    fn experiments(&self) -> Api<ChaosExperiment> {
        Api::namespaced(self.client.clone(), SHOP)
    }

    async fn wait_for(&self, name: &str, what: &str, is_so: impl Fn(&ChaosExperimentStatus) -> bool) -> Result<ChaosExperimentStatus> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.experiments().get(name).await?.status.unwrap_or_default();
            if is_so(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "waited {} s for {what}: {status:#?}", LIMIT.as_secs());
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Loses packets of the pod for much longer than this test lasts.
    async fn lose(&self, name: &str) -> Result<()> {
        let experiment = json!({
            "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": name },
            "spec": { "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "2h", "lossPercentage": 30 },
        });
        self.experiments().patch(name, &PatchParams::apply("a-user"), &Patch::Apply(&experiment)).await?;
        self.wait_for(name, "the loss", |status| status.pods.iter().any(|pod| pod.state == PodState::Applied)).await?;
        ensure!(self.qdiscs().await?.contains("netem"), "no loss in the pod");
        Ok(())
    }

    async fn qdiscs(&self) -> Result<String> {
        self.cluster.node().run_in_pod_network(SHOP, "web", "/usr/sbin/tc qdisc show").await
    }

    /// After netloss is gone.
    async fn expect_nothing_left(&self, name: &str) -> Result<()> {
        let qdiscs = self.qdiscs().await?;
        ensure!(!qdiscs.contains("netem") && !qdiscs.contains("ingress"), "loss is left: {qdiscs}");
        let experiment = self.experiments().get(name).await?;
        ensure!(experiment.finalizers().is_empty(), "a finalizer is left: {:?}", experiment.finalizers());
        let status = experiment.status.unwrap_or_default();
        ensure!(status.phase.is_some_and(Phase::is_final), "{status:?}");
        let records = Api::<ChaosExperimentHistory>::namespaced(self.client.clone(), SHOP).list(&ListParams::default()).await?;
        let of_it = |record: &&ChaosExperimentHistory| record.spec.experiment_ref.name == name;
        let record = records.iter().find(of_it).context("no record of the run")?;
        ensure!(record.spec.execution.status == RunResult::Cancelled, "{:?}", record.spec.execution);
        Ok(())
    }

    async fn wait_until_gone(&self) -> Result<()> {
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let deadline = Instant::now() + LIMIT;
        while namespaces.get_metadata_opt(OWN).await?.is_some() {
            ensure!(Instant::now() < deadline, "the namespace {OWN} is still there");
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

async fn with_kubectl(user: &User<'_>) -> Result<()> {
    user.types("kubectl apply -k config/default").await?;
    user.ask_no_webhook().await?;
    user.types("kubectl -n netloss-system rollout status deployment netloss-controller --timeout=8m").await?;
    user.lose("by-kubectl").await?;
    // Another version: other arguments, and so other pods.
    user.types("kubectl -n netloss-system set env deployment/netloss-controller NETLOSS_LOG=debug").await?;
    user.types("kubectl -n netloss-system rollout status deployment netloss-controller --timeout=8m").await?;
    ensure!(user.qdiscs().await?.contains("netem"), "the upgrade has ended the loss");
    user.types("kubectl apply -k config/drain").await?;
    user.types("kubectl -n netloss-system wait --for=condition=complete --timeout=10m job/netloss-drain").await?;
    user.expect_nothing_left("by-kubectl").await?;
    user.types("kubectl delete --ignore-not-found -k config/default").await?;
    user.wait_until_gone().await?;
    user.expect_nothing_left("by-kubectl").await?;
    user.types("kubectl delete --ignore-not-found -k config/crd").await?;
    Ok(())
}

async fn with_helm(user: &User<'_>) -> Result<()> {
    let install = "--namespace netloss-system --create-namespace --set webhook.enabled=false --wait --timeout 8m";
    user.types(&format!("helm install netloss config/chart {install}")).await?;
    user.types("helm -n netloss-system test netloss --timeout 8m").await?;
    user.lose("by-helm").await?;
    user.types(&format!("helm upgrade netloss config/chart {install} --set log.level=debug")).await?;
    ensure!(user.qdiscs().await?.contains("netem"), "the upgrade has ended the loss");
    // Nobody is there to help with the draining.
    user.types("kubectl -n netloss-system scale deployment netloss-controller --replicas=0").await?;
    user.types("helm uninstall netloss --namespace netloss-system --wait --timeout 8m").await?;
    user.expect_nothing_left("by-helm").await
}

#[tokio::test]
async fn installed_upgraded_and_uninstalled_both_ways() {
    let images = [Image::Traffic, Image::Agent, Image::Controller];
    let cluster = Cluster::start(&images, Lifetime::WithLab, StateDir::temporary().unwrap()).await.unwrap();
    let test = async {
        let client = cluster.client().await?;
        create_namespace(&client, SHOP).await?;
        let image = Image::Traffic.reference();
        TrafficPod { namespace: SHOP, name: "web", labels: &[("app", "web")], image: &image }.echo(&client).await?;
        let user = User { cluster: &cluster, client };
        with_kubectl(&user).await?;
        with_helm(&user).await
    };
    cluster.check("install", test).await.unwrap();
}
