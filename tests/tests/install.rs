//! Installed, used, upgraded and uninstalled on a real node with the commands of the documents as they stand there, by kubectl and by Helm,
//! while packets are lost: what is uninstalled leaves no loss, and no experiment that waits for a controller that is gone.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test].
#![allow(clippy::unwrap_used, clippy::large_futures)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory, ChaosExperimentStatus, Phase, PodState, RunResult};
use netloss_lab::cluster::traffic::{TrafficPod, create_namespace};
use netloss_lab::cluster::{Build, Cluster, Image};
use netloss_lab::controlplane::shell;
use netloss_lab::host::cargo::without_cargo_variables;
use netloss_lab::host::command;
use netloss_lab::host::paths::{target_dir, workspace_root};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;
use netloss_lab_documents::{Document, commands};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

const SHOP: &str = "shop";
const OWN: &str = "netloss-system";

/// For whatever the emulated node is waited for.
const LIMIT: Duration = Duration::from_mins(8);

/// What a document has a reader wait for is cut short, and what this machine is slow at is given time.
const OUR_TIME: &[(&str, &str)] = &[
    ("--duration 2m", "--duration 10s"),
    ("--duration 90s", "--duration 10s"),
    ("--duration 1m", "--duration 8s"),
    ("--run 3", "--run 1"),
    ("rollout status deployment netloss-controller", "rollout status deployment netloss-controller --timeout=8m"),
    ("--create-namespace --wait", "--create-namespace --wait --timeout 8m --set webhook.enabled=false"),
    ("test netloss", "test netloss --timeout 8m"),
];

/// A user at the keyboard.
struct User<'a> {
    cluster: &'a Cluster,
    client: Client,
    /// kubectl-netloss, as the documents have it built.
    plugin: PathBuf,
    /// Where they are, for what has nothing to do with the repository.
    folder: PathBuf,
}

impl User<'_> {
    /// Types these commands in the root of the repository, and returns what they print.
    async fn types(&self, commands: &str) -> Result<String> {
        self.types_in(&workspace_root(), commands).await
    }

    async fn types_in(&self, folder: &Path, commands: &str) -> Result<String> {
        let mut shell = shell(self.cluster.kubeconfig_path(), &[&self.plugin])?;
        shell.arg(commands).current_dir(folder).stdin(Stdio::null());
        let output = spawn_blocking(move || shell.output()).await??;
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        println!("{commands}\n{stdout}{stderr}");
        ensure!(output.status.success(), "{}:\n{commands}\n{stdout}\n{stderr}", output.status);
        Ok(stdout)
    }

    /// Types the commands that the documents have under this name.
    async fn follows(&self, name: &str) -> Result<String> {
        self.types(&in_our_time(name)?).await
    }

    /// The same in a folder of their own.
    async fn follows_elsewhere(&self, name: &str) -> Result<String> {
        self.types_in(&self.folder, &in_our_time(name)?).await
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
            "spec": { "action": "pod-network-loss", "selector": { "app": "web" }, "count": 2, "duration": "2h", "lossPercentage": 30 },
        });
        self.experiments().patch(name, &PatchParams::apply("a-user"), &Patch::Apply(&experiment)).await?;
        self.wait_for(name, "the loss", |status| status.pods.iter().filter(|pod| pod.state == PodState::Applied).count() == 2).await?;
        ensure!(self.qdiscs().await?.contains("netem"), "no loss in the pod");
        Ok(())
    }

    async fn qdiscs(&self) -> Result<String> {
        self.cluster.node().run_in_pod_network(SHOP, "web-0", "/usr/sbin/tc qdisc show").await
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

fn in_our_time(name: &str) -> Result<String> {
    Ok(OUR_TIME.iter().fold(commands(name)?, |text, (theirs, ours)| text.replace(theirs, ours)))
}

/// The binary that the documents have a user build.
async fn build_plugin() -> Result<PathBuf> {
    let build = || -> Result<PathBuf> {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &commands("build kubectl netloss")?]).current_dir(workspace_root());
        without_cargo_variables(&mut shell);
        command::run(&mut shell)?;
        Ok(target_dir().join("x86_64-unknown-linux-musl/release/kubectl-netloss"))
    };
    spawn_blocking(build).await?
}

/// A Deployment, its Service and a pod beside it, as the documents' examples have them.
async fn shop(client: &Client) -> Result<()> {
    create_namespace(client, SHOP).await?;
    let image = Image::Traffic.reference();
    let pod = |name, labels| TrafficPod { namespace: SHOP, name, labels, image: &image };
    let address = pod("web-0", &[("app", "web")]).echo(client).await?;
    pod("client", &[("app", "client")]).probe(client, address, Duration::from_millis(20)).await?;
    let labels = json!({ "app": "web" });
    // web-0 is not its own, and `kubectl netloss run deploy/web` selects by its labels.
    let own = json!({ "app": "web", "tier": "front" });
    let deployment = json!({
        "metadata": { "name": "web" },
        "spec": {
            "selector": { "matchLabels": own },
            "template": {
                "metadata": { "labels": own },
                "spec": { "terminationGracePeriodSeconds": 2, "containers": [{ "name": "web", "image": image, "args": ["echo", "--port=9000"] }] },
            },
        },
    });
    let service = json!({ "metadata": { "name": "web" }, "spec": { "selector": labels, "ports": [{ "port": 80, "targetPort": 9000 }] } });
    let deployments = Api::<Deployment>::namespaced(client.clone(), SHOP);
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    Api::<Service>::namespaced(client.clone(), SHOP).create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    kube::runtime::wait::await_condition(deployments, "web", kube::runtime::conditions::is_deployment_completed()).await?;
    // Its pod has clients too: a run that meets no packet is not what was asked for, and says so.
    let of_web = Api::<Pod>::namespaced(client.clone(), SHOP).list(&ListParams::default().labels("app=web")).await?;
    let other = of_web.iter().find(|pod| pod.name_any() != "web-0").context("the Deployment has no pod")?;
    let address = other.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("it has no address")?.parse()?;
    pod("client-of-web", &[("app", "client")]).probe(client, SocketAddr::new(address, 9000), Duration::from_millis(20)).await?;
    Ok(())
}

/// The command line, from the README's first command to the last example of docs/CLI.md.
async fn by_the_command_line(user: &User<'_>) -> Result<()> {
    user.types("kubectl config set-context --current --namespace=shop").await?;
    let said = user.follows_elsewhere("command line").await?;
    ensure!(said.contains("Completed"), "no run that completes:\n{said}");
    for examples in [
        "kubectl netloss run",
        "kubectl netloss rerun",
        "kubectl netloss watch",
        "kubectl netloss stop",
        "kubectl netloss manifest",
        "kubectl netloss doctor",
        "kubectl netloss report",
        "kubectl netloss completion",
    ] {
        user.follows_elsewhere(examples).await?;
    }
    let [page, manifest] = ["web-loss.html", "web-loss.yaml"].map(|name| std::fs::read_to_string(user.folder.join(name)));
    // One watches while the other stops; that makes an exit code of the watch.
    user.lose("two-bad-replicas").await?;
    let both = commands("scenario")?;
    let (watch, stop) = both.split_once('\n').context("two commands")?;
    let watch = watch.split('#').next().unwrap_or_default();
    let said = user.types(&format!("{watch} & {stop}\nwait $! || [ $? = 3 ]")).await?;
    ensure!(said.contains("is verified to be gone"), "{said}");
    ensure!(page?.contains("</html>") && manifest?.contains("kind: ChaosExperiment"), "no report, or no manifest");
    Ok(())
}

/// Looking at an experiment with kubectl, as the README and docs/TROUBLESHOOTING.md have it.
async fn looking(user: &User<'_>) -> Result<()> {
    let manifest =
        Document::named("README.md")?.blocks().into_iter().find(|block| block.language == "yaml").context("the README has no manifest")?;
    std::fs::write(user.folder.join("checkout.yaml"), manifest.text)?;
    user.types_in(&user.folder, "kubectl apply -f checkout.yaml").await?;
    let seen = user.follows("look").await?;
    ensure!(seen.contains("checkout-on-a-bad-network"), "{seen}");
    let first_look = commands("first look")?.replace("NAMESPACE", SHOP).replace("NAME", "checkout-on-a-bad-network");
    let seen = user.types(&first_look).await?;
    ensure!(seen.contains("No eligible pods"), "{seen}");
    user.types("kubectl delete chaos -n shop checkout-on-a-bad-network").await.map(drop)
}

/// The agent as a tool for a person, put into the pod by kubectl.
async fn by_kubectl_debug(user: &User<'_>) -> Result<()> {
    let debug = commands("debug")?.replace("POD", "web-0 -n shop").replace("YOUR/netloss-agent", &Image::Agent.reference());
    // A terminal is what `-it` wants; its input is one that goes on.
    let debug = format!("script --quiet --return --command '{}' /dev/null < <(sleep 40)", debug.trim().replace("--ttl 1m", "--ttl 15s"));
    let is_lost = async {
        let deadline = Instant::now() + LIMIT;
        while !user.qdiscs().await?.contains("netem") {
            ensure!(Instant::now() < deadline, "kubectl debug brings no loss");
            sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    };
    let (said, ()) = tokio::try_join!(user.types(&debug), is_lost)?;
    ensure!(said.contains("nothing of it is left"), "no report: {said}");
    let qdiscs = user.qdiscs().await?;
    ensure!(!qdiscs.contains("netem"), "loss is left: {qdiscs}");
    Ok(())
}

async fn with_kubectl(user: &User<'_>) -> Result<()> {
    ensure!(commands("quick install")? == commands("install with kubectl")?, "the README installs otherwise than docs/INSTALL.md");
    user.follows("install with kubectl").await?;
    user.ask_no_webhook().await?;
    by_the_command_line(user).await?;
    looking(user).await?;
    by_kubectl_debug(user).await?;
    user.lose("by-kubectl").await?;
    // Another version: other arguments, and so other pods.
    user.types("kubectl -n netloss-system set env deployment/netloss-controller NETLOSS_LOG=debug").await?;
    user.types("kubectl -n netloss-system rollout status deployment netloss-controller --timeout=8m").await?;
    ensure!(user.qdiscs().await?.contains("netem"), "the upgrade has ended the loss");
    user.follows("uninstall with kubectl").await?;
    user.expect_nothing_left("by-kubectl").await?;
    user.wait_until_gone().await?;
    user.expect_nothing_left("by-kubectl").await?;
    // Definitions and records stay.
    user.types("kubectl delete chaos --namespace shop --all").await?;
    Ok(())
}

async fn with_helm(user: &User<'_>) -> Result<()> {
    ensure!(commands("install with Helm")?.starts_with(&commands("quick install with Helm")?), "the README installs otherwise");
    // Helm imports the definitions that kubectl has left only on request.
    let adopt = "--set crds.adopt=true --take-ownership --force-conflicts";
    let refused = user.follows("install with Helm").await.err().context("Helm imported definitions that are not its own")?;
    ensure!(format!("{refused:#}").contains(adopt), "{refused:#}");
    user.types(&in_our_time("install with Helm")?.replace("--create-namespace", &format!("--create-namespace {adopt}"))).await?;
    user.lose("by-helm").await?;
    user.types("helm upgrade netloss config/chart --namespace netloss-system --reuse-values --set log.level=debug --wait --timeout 8m")
        .await?;
    ensure!(user.qdiscs().await?.contains("netem"), "the upgrade has ended the loss");
    // Nobody is there to help with the draining.
    user.types("kubectl -n netloss-system scale deployment netloss-controller --replicas=0").await?;
    user.types("helm uninstall netloss --namespace netloss-system --wait --timeout 8m").await?;
    user.expect_nothing_left("by-helm").await
}

#[tokio::test]
async fn installed_used_upgraded_and_uninstalled_both_ways() {
    let plugin = build_plugin().await.unwrap();
    let images = [Image::Traffic, Image::Agent, Image::Controller];
    let cluster = Cluster::start(&images, Build::Release, Lifetime::WithLab, StateDir::temporary().unwrap()).await.unwrap();
    let folder = cluster.control_plane().dir().join("desk");
    let test = async {
        std::fs::create_dir(&folder)?;
        let client = cluster.client().await?;
        shop(&client).await?;
        let user = User { cluster: &cluster, client, plugin, folder };
        with_kubectl(&user).await?;
        with_helm(&user).await
    };
    cluster.check("install", test).await.unwrap();
}
