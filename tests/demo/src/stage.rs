//! What the demonstration needs in the cluster: a namespace, two pods, and the sample.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DeleteParams, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use netloss_lab::cluster::traffic::{TrafficPod, create_namespace};
use netloss_lab::cluster::{apply, parse};
use netloss_lab::host::{paths, progress};
use tokio::time::{Instant, sleep};

use super::{Experiment, SAMPLE};

/// The pod whose packets are lost.
const TARGET: &str = "target";
/// The pod that notices.
pub(super) const PEER: &str = "peer";

const INTERVAL: Duration = Duration::from_millis(5);
/// What an earlier demonstration left ends within a pod's grace period.
const GONE_LIMIT: Duration = Duration::from_mins(1);

/// The two pods, exchanging packets, and the sample that is about to be applied.
pub struct Stage {
    client: Client,
    sample: DynamicObject,
    experiment: Experiment,
    namespace: String,
}

impl Stage {
    /// Removes what an earlier demonstration left and starts the pods.
    pub(super) async fn set(client: &Client, image: &str) -> Result<Self> {
        let text = fs::read_to_string(paths::workspace_root().join(SAMPLE)).with_context(|| format!("cannot read {SAMPLE}"))?;
        let sample = parse(&text)?.pop().with_context(|| format!("{SAMPLE} is empty"))?;
        let namespace = sample.namespace().with_context(|| format!("{SAMPLE} names no namespace"))?;
        let stage = Self { client: client.clone(), experiment: Experiment::of(&sample)?, sample, namespace };
        let step = progress::step("Starting two pods that exchange packets");
        create_namespace(client, &stage.namespace).await?;
        stage.clear().await?;
        let selector = stage.experiment.selector();
        let labels: Vec<(&str, &str)> = selector.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let target = TrafficPod { namespace: &stage.namespace, name: TARGET, labels: &labels, image };
        let address = target.echo(client).await?;
        let peer = TrafficPod { name: PEER, labels: &[("role", PEER)], ..target };
        peer.probe(client, address, INTERVAL).await?;
        step.done(format!("{TARGET} ({address}) and {PEER}, a packet each way every {} ms", INTERVAL.as_millis()));
        Ok(stage)
    }

    /// The experiment as the sample has it.
    pub(super) fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    /// The pods of its namespace.
    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies the sample.
    pub(super) async fn apply(&self) -> Result<()> {
        apply(&self.client, &self.sample).await
    }

    /// The experiment as the API server has it.
    pub(super) async fn read(&self) -> Result<Experiment> {
        Experiment::of(&self.experiments()?.get(&self.sample.name_any()).await?)
    }

    /// Nothing of an earlier run may be left: its pods carry its agents, and its experiment would not run again.
    async fn clear(&self) -> Result<()> {
        let (experiments, pods) = (self.experiments()?, self.pods());
        let now = DeleteParams::default();
        let name = self.sample.name_any();
        let deadline = Instant::now() + GONE_LIMIT;
        if exists(&experiments, &name).await? {
            experiments.delete(&name, &now).await?;
        }
        for pod in [TARGET, PEER] {
            if pods.get_opt(pod).await?.is_some() {
                pods.delete(pod, &now).await?;
            }
        }
        while exists(&experiments, &name).await? || pods.get_opt(TARGET).await?.is_some() || pods.get_opt(PEER).await?.is_some() {
            ensure!(Instant::now() < deadline, "what an earlier demonstration left in {} does not go away", self.namespace);
            sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }

    fn experiments(&self) -> Result<Api<DynamicObject>> {
        let types = self.sample.types.clone().context("the sample has no kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        Ok(Api::namespaced_with(self.client.clone(), &self.namespace, &resource))
    }
}

/// Whether there is an experiment of that name. Before netloss is installed the API server does not even know the kind.
async fn exists(experiments: &Api<DynamicObject>, name: &str) -> Result<bool> {
    match experiments.get(name).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
