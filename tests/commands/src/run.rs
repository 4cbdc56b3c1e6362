//! `cargo lab run`: the live demonstration.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use kube::Client;
use kube::config::KubeConfigOptions;
use netloss_lab::cluster::{Build, Cluster, Image, install_netloss, set_images, set_one_replica};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::runtime;
use netloss_lab::host::state::StateDir;
use netloss_lab_demo::{self as demo, Stage};

use super::up;

/// Show one experiment live, from apply to recovery, on a real cluster
///
/// Builds and starts a one-node Kubernetes (control plane on this machine, the node in a QEMU guest), installs netloss, starts two
/// pods that exchange packets, applies config/samples/chaos_v1alpha1_chaosexperiment_network_loss.yaml, and shows the loss that one
/// pod's peer sees until it is gone again. Fails if no loss is seen or it does not end.
#[derive(Debug, Default, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Run {
    /// Leave the cluster running, and say how to use it; `cargo lab down` ends it
    #[arg(long, conflicts_with = "context")]
    keep: bool,
    /// Use a cluster of yours, by the name of its context in your kubeconfig. Installs netloss there and leaves it there
    #[arg(long, value_name = "NAME", requires_all = ["agent_image", "controller_image", "traffic_image"])]
    context: Option<String>,
    /// The agent's image, from where the nodes of your cluster can pull it
    #[arg(long, value_name = "IMAGE", requires = "context")]
    agent_image: Option<String>,
    /// The controller's image, from where the nodes of your cluster can pull it
    #[arg(long, value_name = "IMAGE", requires = "context")]
    controller_image: Option<String>,
    /// The image of the two pods (images/build --only traffic), from where the nodes of your cluster can pull it
    #[arg(long, value_name = "IMAGE", requires = "context")]
    traffic_image: Option<String>,
}

/// What somebody may want to do who has seen it.
const NEXT: &str = "Next:
  tests/lab run --keep                 the same, and the cluster stays: kubectl works on it, `tests/lab down` ends it
  docs/SCENARIOS.md                    experiments to try: bursts, one network alone, DNS, schedules
  docs/INSTALL.md                      netloss in a cluster of yours";

impl Run {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// If something does not come up, no loss is seen, or it does not end.
    pub(crate) fn run(self) -> Result<ExitCode> {
        runtime::run(async {
            match (&self.context, self.images()) {
                (Some(context), Some(images)) => on_context(context, &images).await,
                _ if self.keep => up::kept(prepare, async |stage| demo::run(&stage).await).await,
                _ => on_own_cluster().await,
            }
        })?;
        if !self.keep && self.context.is_none() {
            println!("\n{NEXT}");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn images(&self) -> Option<Images> {
        Some(Images { agent: self.agent_image.clone()?, controller: self.controller_image.clone()?, traffic: self.traffic_image.clone()? })
    }
}

/// The names of images that a cluster can pull.
struct Images {
    agent: String,
    controller: String,
    traffic: String,
}

/// Puts everything into the lab's cluster, which may have no node yet.
async fn prepare(client: Client) -> Result<Stage> {
    demo::prepare(&client, &Image::Traffic.reference(), install_netloss(&client, set_one_replica)).await
}

async fn on_own_cluster() -> Result<()> {
    let (cluster, stage) = Cluster::start_and(&Image::ALL, Build::Dev, Lifetime::WithLab, StateDir::temporary()?, prepare).await?;
    cluster.check("run", async { demo::run(&stage?).await }).await
}

async fn on_context(context: &str, images: &Images) -> Result<()> {
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    let config = kube::Config::from_kubeconfig(&options).await.with_context(|| format!("your kubeconfig has no context {context}"))?;
    let client = Client::try_from(config)?;
    let version = client.apiserver_version().await.with_context(|| format!("the cluster of the context {context} does not answer"))?;
    let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap_or(0);
    ensure!(minor >= 30, "{context} runs Kubernetes {}: netloss needs 1.30 at least", version.git_version);
    let installed = install_netloss(&client, |object| set_images(object, &images.controller, &images.agent));
    let stage = demo::prepare(&client, &images.traffic, installed).await?;
    demo::run(&stage).await
}
