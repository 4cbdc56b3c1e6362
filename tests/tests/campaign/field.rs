//! Where the campaign takes place: a control plane, a node, two controllers behind a proxy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use netloss_controller::definitions;
use netloss_lab::cluster::traffic::create_namespace;
use netloss_lab::cluster::{Architecture, Image, apply, build_images, default_objects};
use netloss_lab::controlplane::proxy::Proxy;
use netloss_lab::controlplane::{ControlPlane, Extent};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;
use netloss_lab::node::{Node, Parts};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::controllers::Controllers;

/// For whatever the emulated node is waited for while a storm passes over it.
pub(crate) const LIMIT: Duration = Duration::from_mins(8);

pub(crate) struct Field {
    pub(crate) node: Node,
    pub(crate) client: Client,
    pub(crate) proxy: Proxy,
    pub(crate) controllers: Mutex<Controllers>,
    pub(crate) control_plane: Mutex<ControlPlane>,
    /// The controllers' memory and watches before the first schedule.
    before: (u64, usize),
    /// Processes of agents that faults have struck.
    struck: AtomicUsize,
}

impl Field {
    pub(crate) async fn prepare() -> Result<Self> {
        let images = || build_images(&[Image::Traffic, Image::Agent], &[Architecture::Amd64]);
        let (archives, parts) = tokio::try_join!(async { spawn_blocking(images).await? }, async { spawn_blocking(Parts::prepare).await? })?;
        let control_plane = ControlPlane::start(Extent::Full, Lifetime::WithLab, StateDir::temporary()?).await?;
        let node = Node::start(&parts, &control_plane, &archives, Lifetime::WithLab).await?;
        let client = control_plane.client().await?;
        create_namespace(&client, "netloss-system").await?;
        Self::install(&client).await?;
        let proxy = Proxy::start(control_plane.client().await?).await?;
        let kubeconfig = control_plane.dir().join("proxy");
        std::fs::write(&kubeconfig, proxy.kubeconfig())?;
        let controllers = Controllers::start(control_plane.dir(), kubeconfig).await?;
        let this = Self {
            node,
            client,
            proxy,
            controllers: Mutex::new(controllers),
            control_plane: Mutex::new(control_plane),
            before: (0, 0),
            struck: AtomicUsize::new(0),
        };
        this.wait_for_leader().await?;
        Ok(this)
    }

    /// Counts agents that a fault has struck.
    pub(crate) fn struck(&self, agents: usize) {
        self.struck.fetch_add(agents, Ordering::Relaxed);
    }

    /// How many that were.
    pub(crate) fn strikes(&self) -> usize {
        self.struck.load(Ordering::Relaxed)
    }

    /// What the controllers have when nothing is under way.
    pub(crate) async fn take_measure(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let (mut watches, mut since) = (self.proxy.watches(), Instant::now());
        while since.elapsed() < Duration::from_secs(10) {
            ensure!(Instant::now() < deadline, "watches come and go");
            sleep(Duration::from_millis(200)).await;
            if self.proxy.watches() != watches {
                (watches, since) = (self.proxy.watches(), Instant::now());
            }
        }
        self.before = (self.controllers.lock().await.resident(), watches);
        Ok(())
    }

    /// The definitions and the lease; the controllers run here, as administrators.
    async fn install(client: &Client) -> Result<()> {
        definitions::install(client, true).await?;
        let wanted = ["Lease", "ConfigMap"];
        for object in default_objects()?.iter().filter(|object| object.types.as_ref().is_some_and(|of| wanted.contains(&of.kind.as_str())))
        {
            apply(client, object).await?;
        }
        Ok(())
    }

    async fn wait_for_leader(&self) -> Result<()> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), "netloss-system");
        let deadline = Instant::now() + LIMIT;
        loop {
            let lease = leases.get_opt("netloss-controller").await?;
            if lease.and_then(|lease| lease.spec?.holder_identity).is_some_and(|holder| !holder.is_empty()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Asks the node again and again: its kubelet and containerd may be away for a while.
    pub(crate) async fn in_pod(&self, namespace: &str, pod: &str, command: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.node.run_in_pod_network(namespace, pod, command).await {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_secs(1)).await,
                answered => return answered,
            }
        }
    }

    /// What is wrong when everything is over and the sky is clear.
    pub(crate) async fn left_behind(&self) -> Result<Vec<String>> {
        let mut wrong = self.controllers.lock().await.panics();
        // Only of experiments and of the freeze.
        let deadline = Instant::now() + LIMIT;
        while self.proxy.watches() > self.before.1 && Instant::now() < deadline {
            sleep(Duration::from_secs(1)).await;
        }
        let (memory, watches) = (self.controllers.lock().await.resident(), self.proxy.watches());
        println!("the controllers: {} KiB and {} watches before, {memory} KiB and {watches} watches after", self.before.0, self.before.1);
        if watches > self.before.1 {
            wrong.push(format!("{watches} watches are open, {} were", self.before.1));
        }
        if memory > self.before.0 * 2 {
            wrong.push(format!("a controller has {memory} KiB, {} KiB before", self.before.0));
        }
        Ok(wrong)
    }

    /// Leaves what the controllers said to whoever looks into a failure.
    pub(crate) fn keep_logs(&self) {
        let Ok(control_plane) = self.control_plane.try_lock() else { return };
        let place = netloss_lab::host::paths::lab_dir().join("dumps/campaign");
        drop(std::fs::remove_dir_all(&place));
        let copied = std::fs::create_dir_all(&place).and_then(|()| {
            for entry in std::fs::read_dir(control_plane.dir())? {
                let path = entry?.path();
                if let (true, Some(name)) = (path.extension().is_some_and(|extension| extension == "log"), path.file_name()) {
                    std::fs::copy(&path, place.join(name))?;
                }
            }
            Ok(())
        });
        println!("logs are in {} ({copied:?})", place.display());
    }

    /// Opens a namespace for one lane.
    pub(crate) async fn lane(&self, lane: usize) -> Result<String> {
        let namespace = format!("lane-{lane}");
        let patch = Patch::Apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }));
        let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(self.client.clone());
        let made = namespaces.patch(&namespace, &PatchParams::apply("campaign"), &patch).await;
        made.map(drop).context("no namespace for a lane")?;
        Ok(namespace)
    }
}
