//! Where it takes place: a control plane, nodes that kwok plays, pods, and one controller.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use netloss_api::ChaosExperiment;
use netloss_controller::definitions;
use netloss_lab::controlplane::kubelet::Kubelet;
use netloss_lab::controlplane::{ControlPlane, Tool};
use netloss_lab::host::process::{Daemon, Lifetime};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::LIMIT;
use super::agents::Agents;
use crate::controller;

/// Pods of one experiment: as many as the API allows.
pub(super) const GROUP: usize = 100;

/// Groups of one namespace.
const GROUPS: usize = 10;

/// Requests of the bench itself that are under way at a time.
const CONCURRENCY: usize = 32;

const STAGES: &str = include_str!("nodes.yaml");

pub(super) struct Field {
    pub(super) client: Client,
    pub(super) agents: Agents,
    /// Without one, nobody acts on experiments.
    controller: Option<Daemon>,
    program: PathBuf,
    _kwok: Daemon,
    control_plane: ControlPlane,
}

/// A namespace of groups of targets, and the group's number.
pub(super) fn place(group: usize) -> (String, String) {
    (format!("scale-{}", group / GROUPS), format!("group-{group}"))
}

impl Field {
    pub(super) async fn prepare() -> Result<Self> {
        let program = controller::build().await?;
        let control_plane = ControlPlane::start_for_tests().await?;
        let client = control_plane.client().await?;
        definitions::install(&client, true).await?;
        let kubelet = Kubelet::start(control_plane.pki())?;
        let object = serde_json::from_value(json!({ "metadata": { "name": "node" } }))?;
        Api::<Node>::all(client.clone()).create(&PostParams::default(), &object).await?;
        let status = Patch::Merge(json!({ "status": kubelet.address() }));
        Api::<Node>::all(client.clone()).patch_status("node", &PatchParams::default(), &status).await?;
        let stages = control_plane.dir().join("stages.yaml");
        std::fs::write(&stages, STAGES)?;
        let mut kwok = Command::new(spawn_blocking(|| Tool::Kwok.binary()).await??);
        kwok.arg("--kubeconfig").arg(control_plane.kubeconfig_path()).arg("--config").arg(&stages);
        kwok.args(["--manage-all-nodes", "--node-lease-duration-seconds=0"]);
        let kwok = Daemon::start("kwok", &kwok, &control_plane.log(Tool::Kwok), Lifetime::WithLab)?;
        let agents = Agents::start(client.clone(), kubelet);
        Ok(Self { client, agents, controller: None, program, _kwok: kwok, control_plane })
    }

    /// Starts a controller, so that what it has from before counts for nothing.
    pub(super) async fn start_controller(&mut self) -> Result<()> {
        self.stop_controller();
        self.controller = Some(controller::start(&self.program, &self.control_plane, &[]).await?);
        Ok(())
    }

    pub(super) fn stop_controller(&mut self) {
        self.controller = None;
    }

    /// The controller, which has to be there.
    pub(super) fn controller(&self) -> Result<&Daemon> {
        self.controller.as_ref().context("no controller is running")
    }

    /// Makes so many pods with this label, at the places that follow from their numbers, and waits until they run.
    pub(super) async fn create_pods(&self, kind: &str, numbers: Range<usize>) -> Result<()> {
        let count = numbers.len();
        let namespaces: BTreeSet<String> = numbers.clone().map(|number| place(number / GROUP).0).collect();
        for namespace in namespaces {
            let patch = Patch::Apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }));
            let api = Api::<Namespace>::all(self.client.clone());
            api.patch(&namespace, &PatchParams::apply("bench"), &patch).await?;
        }
        stream::iter(numbers)
            .map(|number| async move {
                let (namespace, group) = place(number / GROUP);
                let pod = serde_json::from_value(json!({
                    "metadata": {
                        "name": format!("{kind}-{number}"),
                        "labels": { "kind": kind, "group": format!("{kind}-{group}"), "pod-template-hash": "1" },
                        // As pods of a Deployment have it: they are admitted alike, and asked for once.
                        "ownerReferences": [
                            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": group, "uid": group, "controller": true },
                        ],
                    },
                    "spec": { "nodeName": "node", "containers": [{ "name": "app", "image": "app" }] },
                }))?;
                Api::<Pod>::namespaced(self.client.clone(), &namespace).create(&PostParams::default(), &pod).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<()>>()
            .await?;
        let pods = Api::<Pod>::all(self.client.clone());
        let running = ListParams::default().labels(&format!("kind={kind}")).fields("status.phase=Running");
        let limit = Instant::now() + LIMIT;
        loop {
            let found = pods.list_metadata(&running).await?.items.len();
            if found >= count {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "{found} of {count} pods run");
            sleep(Duration::from_secs(2)).await;
        }
    }

    /// All experiments.
    pub(super) fn experiments(&self) -> Api<ChaosExperiment> {
        Api::all(self.client.clone())
    }

    /// Applies the experiment of a group.
    pub(super) async fn apply(&self, group: usize, manifest: &Value) -> Result<ChaosExperiment> {
        let (namespace, name) = place(group);
        let api = Api::<ChaosExperiment>::namespaced(self.client.clone(), &namespace);
        Ok(api.patch(&name, &PatchParams::apply("bench"), &Patch::Apply(manifest)).await?)
    }

    /// Deletes the experiments of these groups, and waits until they are gone.
    pub(super) async fn delete(&self, groups: Range<usize>) -> Result<()> {
        for group in groups {
            let (namespace, name) = place(group);
            let api = Api::<ChaosExperiment>::namespaced(self.client.clone(), &namespace);
            api.delete(&name, &DeleteParams::default()).await?;
        }
        let limit = Instant::now() + LIMIT;
        while !self.experiments().list(&ListParams::default()).await?.items.is_empty() {
            ensure!(Instant::now() < limit, "experiments do not go");
            sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    /// How often the API server was asked for what a controller asks it for, by verb and resource.
    pub(super) async fn requests(&self) -> Result<Requests> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        Ok(Requests::of(&self.client.request_text(request).await?))
    }
}

/// Requests that the API server has counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(BTreeMap<String, u64>);

impl Requests {
    fn of(metrics: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in metrics.lines() {
            let Some((labels, value)) = line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.split_once("} ")) else {
                continue;
            };
            let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            let (verb, resource, subresource) = (label("verb"), label("resource"), label("subresource"));
            let slash = if subresource.is_empty() { "" } else { "/" };
            let count: f64 = value.trim().parse().unwrap_or_default();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a counter
            let count = count as u64;
            *counts.entry(format!("{verb} {resource}{slash}{subresource}")).or_default() += count;
        }
        Self(counts)
    }

    /// Those since then.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self(self.0.iter().map(|(what, count)| (what.clone(), count - before.0.get(what).copied().unwrap_or_default())).collect())
    }

    /// Those that are a controller's. Watches, leases, and what the bench and kwok ask for themselves are left out: the life of agents is
    /// written to pods/status.
    pub(super) fn of_controller(&self) -> u64 {
        let counts = |what: &str| {
            let (verb, resource) = what.split_once(' ').unwrap_or_default();
            let resources = ["pods", "chaosexperiment", "events", "configmaps", "namespaces"];
            verb != "WATCH" && !matches!(resource, "pods/status" | "pods/log") && resources.iter().any(|of| resource.starts_with(of))
        };
        self.0.iter().filter(|(what, _)| counts(what)).map(|(_, count)| count).sum()
    }

    /// Those for what agents say.
    pub(super) fn logs(&self) -> u64 {
        self.0.iter().filter(|(what, _)| what.ends_with(" pods/log")).map(|(_, count)| count).sum()
    }
}
