//! Everything together: a control plane, a node, and netloss's images in the node's store.

mod dump;
mod images;
mod manifests;
pub mod traffic;

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use tokio::task::spawn_blocking;

pub use self::images::{Architecture, Build, Image, build as build_images};
pub use self::manifests::{apply, default_objects, install_netloss, parse, set_images, set_one_replica};
use crate::controlplane::{self, ControlPlane, Extent, Tool};
use crate::host::process::{Lifetime, Record};
use crate::host::progress;
use crate::host::state::StateDir;
use crate::node::{Node, Parts};

/// How long the VM and the control plane's programs may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A running cluster, ended when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // The node ends before the API server that it talks to.
    node: Node,
    control_plane: ControlPlane,
}

impl Cluster {
    /// Builds what is missing, starts a control plane and a node that has `images`, and waits until the node is Ready.
    ///
    /// # Errors
    ///
    /// If something cannot be built or does not come up.
    pub async fn start(images: &[Image], how: Build, lifetime: Lifetime, state: StateDir) -> Result<Self> {
        let (cluster, ()) = Self::start_and(images, how, lifetime, state, async |_| ()).await?;
        Ok(cluster)
    }

    /// The same, and `meanwhile` works on the API server while the node boots: what it creates is there when the node comes. Its result is
    /// the caller's to judge, who has the cluster to look into then.
    ///
    /// # Errors
    ///
    /// If something cannot be built or does not come up.
    pub async fn start_and<T>(
        images: &[Image],
        how: Build,
        lifetime: Lifetime,
        state: StateDir,
        meanwhile: impl AsyncFnOnce(kube::Client) -> T,
    ) -> Result<(Self, T)> {
        if spawn_blocking(|| Tool::are_built(&Tool::OF_A_CLUSTER)).await?? {
            progress::note("Starting a one-node Kubernetes: about a minute.");
        } else {
            progress::note(
                "First run: builds Kubernetes from source once, about 10 minutes on two cores; later runs take about two minutes.",
            );
        }
        let wanted = images.to_vec();
        // Downloads, Go and Rust at the same time: each of them leaves a core idle now and then.
        let parts = spawn_blocking(Parts::prepare);
        let archives = spawn_blocking(move || images::build_for_cluster(&wanted, how));
        let control_plane = ControlPlane::start(Extent::Full, lifetime, state);
        let (control_plane, parts, archives) = tokio::try_join!(control_plane, async { parts.await? }, async { archives.await? })?;
        let client = control_plane.client().await?;
        let node = Node::start(&parts, &control_plane, &archives, lifetime);
        let (node, done) = tokio::try_join!(node, async { Ok(meanwhile(client).await) })?;
        Ok((Self { node, control_plane }, done))
    }

    /// A client with an administrator's rights. It belongs to the calling runtime: every test makes its own.
    ///
    /// # Errors
    ///
    /// If the client cannot be built.
    pub async fn client(&self) -> Result<kube::Client> {
        self.control_plane.client().await
    }

    /// A kubeconfig file for an administrator.
    #[must_use]
    pub fn kubeconfig_path(&self) -> &Path {
        self.control_plane.kubeconfig_path()
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The control plane.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// Runs a test; if it panics or fails, what the cluster looks like at that moment is written to a folder first.
    ///
    /// # Errors
    ///
    /// If the test fails.
    pub async fn check<T>(&self, name: &str, test: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = AssertUnwindSafe(test).catch_unwind().await;
        if !matches!(outcome, Ok(Ok(_))) {
            match self.dump(name).await {
                Ok(folder) => progress::note(format!("the cluster's state is in {}", folder.display())),
                Err(error) => progress::note(format!("the cluster's state could not be written: {error:#}")),
            }
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic)).with_context(|| format!("{name} failed"))
    }

    /// Writes down what the cluster looks like: pods, events, logs, queueing disciplines. Returns the folder.
    ///
    /// # Errors
    ///
    /// If nothing can be written; what cannot be asked for is noted in its file.
    pub async fn dump(&self, name: &str) -> Result<PathBuf> {
        dump::write(self, name).await
    }

    /// Leaves the cluster running when this value goes, recorded in its folder for [`stop_kept`].
    ///
    /// # Errors
    ///
    /// If one of its processes is gone.
    pub fn keep(mut self) -> Result<()> {
        let mut records = vec![self.node.process().record()?];
        let (state, rest) = self.control_plane.release()?;
        records.extend(rest);
        state.save_records(&records)?;
        self.node.release();
        Ok(())
    }
}

/// Ends a kept cluster and removes its folder. Returns the processes that were ended.
///
/// # Errors
///
/// If a process cannot be ended, after trying all of them.
pub fn stop_kept(name: &str) -> Result<Vec<Record>> {
    let Some(state) = StateDir::find(name) else { return Ok(Vec::new()) };
    let running: Vec<Record> = state.records()?.into_iter().filter(Record::is_running).collect();
    let ends: Vec<Result<()>> = running.iter().map(|record| record.stop(STOP_GRACE)).collect();
    ends.into_iter().collect::<Result<()>>()?;
    state.remove()?;
    Ok(running)
}

/// Whether a kept cluster of that name is running, and where its kubeconfig is.
#[must_use]
pub fn find_kept(name: &str) -> Option<PathBuf> {
    let state = StateDir::find(name)?;
    let runs = state.records().is_ok_and(|records| records.iter().any(Record::is_running));
    runs.then(|| state.path().join(controlplane::KUBECONFIG))
}
