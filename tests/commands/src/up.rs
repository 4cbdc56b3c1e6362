//! `cargo lab up` and `cargo lab down`: a cluster to work with.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use kube::Client;
use netloss_lab::cluster::{self, Build, Cluster, Image, install_netloss, set_one_replica};
use netloss_lab::controlplane::Tool;
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::runtime;
use netloss_lab::host::state::StateDir;
use tokio::task::spawn_blocking;

/// The name of the one cluster that stays.
const KEPT: &str = "kept";

/// Start a cluster with netloss in it
///
/// It lasts until Ctrl-C, or with --keep until `cargo lab down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Leave it running when this command ends
    #[arg(long)]
    keep: bool,
}

/// End the cluster that `up --keep` or `run --keep` left running
#[derive(Debug, clap::Args)]
pub(crate) struct Down {}

impl Up {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// If the cluster does not come up.
    pub(crate) fn run(self) -> Result<ExitCode> {
        runtime::run(async {
            if self.keep {
                return kept(install, async |()| Ok(())).await;
            }
            let interrupted = runtime::interrupted()?;
            let (cluster, installed) =
                Cluster::start_and(&Image::ALL, Build::Dev, Lifetime::WithLab, StateDir::temporary()?, install).await?;
            installed?;
            explain(&cluster).await?;
            println!("\nCtrl-C ends it.");
            interrupted.await;
            Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Down {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// If a process cannot be ended.
    pub(crate) fn run() -> Result<ExitCode> {
        let ended = cluster::stop_kept(KEPT)?;
        if ended.is_empty() {
            println!("no cluster was running");
        }
        for record in ended {
            println!("ended {} (pid {})", record.name, record.pid);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts a cluster, prepares it while its node boots, does something with what was prepared, leaves it running and says how to use it.
pub(crate) async fn kept<T>(prepare: impl AsyncFnOnce(Client) -> Result<T>, work: impl AsyncFnOnce(T) -> Result<()>) -> Result<()> {
    if let Some(kubeconfig) = cluster::find_kept(KEPT) {
        anyhow::bail!("a cluster is running already: use it with KUBECONFIG={}, or end it with `cargo lab down`", kubeconfig.display());
    }
    let (cluster, prepared) = Cluster::start_and(&Image::ALL, Build::Dev, Lifetime::Detached, StateDir::named(KEPT)?, prepare).await?;
    let outcome = async { work(prepared?).await }.await;
    // A demonstration that went wrong is looked into in the cluster that it went wrong in.
    explain(&cluster).await?;
    cluster.keep()?;
    println!("\n`cargo lab down` ends it.");
    outcome
}

async fn install(client: Client) -> Result<()> {
    install_netloss(&client, set_one_replica).await
}

async fn explain(cluster: &Cluster) -> Result<()> {
    let kubectl = spawn_blocking(|| Tool::Kubectl.binary()).await??;
    let kubeconfig = cluster.kubeconfig_path();
    ensure!(kubeconfig.is_file(), "{} is gone", kubeconfig.display());
    println!("\nThe cluster is yours:\n");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  {} get pods --all-namespaces", kubectl.display());
    Ok(())
}
