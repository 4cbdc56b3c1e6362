//! An experiment as a user has it: applied, and watched through its status.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, PodState};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const NAME: &str = "loss";

/// An image that is there, a container that starts and a loss that runs its time, on an emulated node.
const LIMIT: Duration = Duration::from_mins(8);

/// Applies an experiment with this spec.
pub(crate) async fn apply(client: &Client, namespace: &str, spec: &Value) -> Result<()> {
    let mut object = json!({
        "apiVersion": "chaos.gushchin.dev/v1alpha1",
        "kind": "ChaosExperiment",
        "metadata": { "name": NAME },
        "spec": spec,
    });
    object["spec"]["action"] = "pod-network-loss".into();
    let experiments: Api<ChaosExperiment> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams::apply("a-user");
    experiments.patch(NAME, &parameters, &Patch::Apply(&object)).await.map(drop).context("the experiment was refused")
}

/// Waits until the status is as it should be.
pub(crate) async fn wait_for(
    client: &Client,
    namespace: &str,
    what: &str,
    is_so: impl Fn(&ChaosExperimentStatus) -> bool,
) -> Result<ChaosExperimentStatus> {
    let experiments: Api<ChaosExperiment> = Api::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = experiments.get(NAME).await?.status.unwrap_or_default();
        if is_so(&status) {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}: {status:#?}", LIMIT.as_secs());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// How many pods are in a state.
pub(crate) fn pods_in(status: &ChaosExperimentStatus, state: PodState) -> usize {
    status.pods.iter().filter(|pod| pod.state == state).count()
}
