//! One round: experiments on so many pods, from their begin to their end.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use netloss_api::{ChaosExperiment, Outcome, Phase, PodState};
use netloss_lab::cluster::Image;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::LIMIT;
use super::field::{Field, GROUP, place};

/// What a round has come to.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// Seconds from the first request to the last pod's agent.
    pub(super) injected: f64,
    /// The same to the status that says so of the last one.
    pub(super) applied: f64,
    /// Requests of the controller, without those for logs and the watches.
    pub(super) requests: f64,
    /// Requests for logs.
    pub(super) logs: f64,
    /// The controller's processor time in seconds.
    pub(super) processor: f64,
    /// The most memory that it had, in MiB.
    pub(super) memory: f64,
    /// The largest status, in KiB.
    pub(super) status: f64,
}

/// How long the loss lasts with so many targets: longer than it takes to put the agents in and to write that down, so that it is this
/// which is measured and not also their ends.
fn ttl(targets: usize) -> Duration {
    Duration::from_secs(10) + Duration::from_millis(20) * u32::try_from(targets).unwrap_or(u32::MAX)
}

fn experiment(group: usize, action: &str, targets: usize) -> Value {
    let (_, name) = place(group);
    json!({
        "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": name },
        "spec": {
            "action": action, "selector": { "group": format!("target-{name}") }, "count": GROUP.min(targets),
            "duration": format!("{}s", ttl(targets).as_secs()), "lossPercentage": 10, "maxRetries": 0,
        },
    })
}

/// By the controller, with the groups from this one on.
pub(super) async fn native(field: &mut Field, first: usize, targets: usize) -> Result<Round> {
    field.start_controller().await?;
    let controller = field.controller()?;
    let (before, seen, processor) = (field.requests().await?, field.agents.seen(), controller.processor_time()?);
    let groups = first..first + targets.div_ceil(GROUP);
    let begin = Instant::now();
    for group in groups.clone() {
        field.apply(group, &experiment(group, "pod-network-loss", targets)).await?;
    }
    until("agents are put in", || field.agents.seen() - seen >= targets).await?;
    let injected = begin.elapsed().as_secs_f64();
    let (mut applied, mut status, mut looks) = (None, 0, 0);
    loop {
        let objects = field.experiments().list(&ListParams::default()).await?.items;
        looks += 1;
        let of_objects = || objects.iter().filter_map(|object| object.status.as_ref());
        let entries: Vec<_> = of_objects().flat_map(|status| &status.pods).collect();
        if applied.is_none() && entries.len() == targets && entries.iter().all(|entry| entry.state >= PodState::Applied) {
            applied = Some(begin.elapsed().as_secs_f64());
        }
        status = of_objects().filter_map(|status| Some(serde_json::to_vec(status).ok()?.len())).fold(status, usize::max);
        if of_objects().filter(|status| status.phase.is_some_and(Phase::is_final)).count() == groups.len() {
            let other = entries.iter().find(|entry| entry.outcome != Some(Outcome::Clean));
            ensure!(other.is_none(), "not all are clean: {other:?}");
            break;
        }
        ensure!(begin.elapsed() < LIMIT, "not over: {}", field.controller()?.log_tail(20));
        sleep(Duration::from_millis(500)).await;
    }
    // What is told of the end comes after it was written down.
    sleep(Duration::from_secs(2)).await;
    let own = u64::try_from(groups.len())? + looks;
    let requests = field.requests().await?.since(&before);
    let round = Round {
        injected,
        applied: applied.unwrap_or(injected),
        requests: (requests.of_controller() - own) as f64,
        logs: requests.logs() as f64,
        processor: controller.processor_time()?.saturating_sub(processor).as_secs_f64(),
        memory: controller.most_resident()? as f64 / 1024.0,
        status: status as f64 / 1024.0,
    };
    field.delete(groups).await?;
    Ok(round)
}

/// By the flow of one list, and then one patch and one status write for each pod, one after the other; returns the seconds. The
/// experiments are of an action that nobody acts on.
pub(super) async fn sequential(field: &mut Field, targets: usize) -> Result<Duration> {
    field.stop_controller();
    let seen = field.agents.seen();
    let groups = 0..targets.div_ceil(GROUP);
    let begin = Instant::now();
    for group in groups.clone() {
        let (namespace, name) = place(group);
        let object = field.apply(group, &experiment(group, "pod-kill", targets)).await?;
        let uid = object.uid().unwrap_or_default();
        let container = json!({ "name": format!("netloss-{uid}"), "image": Image::Agent.reference(), "args": ["run", format!("--run={uid}/1"), format!("--ttl={}s", ttl(targets).as_secs())] });
        let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
        let pods = Api::<Pod>::namespaced(field.client.clone(), &namespace);
        let mut affected = Vec::new();
        for pod in pods.list(&ListParams::default().labels(&format!("group=target-{name}"))).await?.items.into_iter().take(targets) {
            pods.patch_ephemeral_containers(&pod.name_any(), &PatchParams::default(), &patch).await?;
            affected.push(format!("{namespace}/{}:netloss-{uid}", pod.name_any()));
            let status = Patch::Merge(json!({ "status": { "affectedPods": affected } }));
            let experiments = Api::<ChaosExperiment>::namespaced(field.client.clone(), &namespace);
            experiments.patch_status(&name, &PatchParams::default(), &status).await?;
        }
    }
    until("agents are put in", || field.agents.seen() - seen >= targets).await?;
    let taken = begin.elapsed();
    // Agents that still run would keep others away.
    until("agents end", || field.agents.running() == 0).await?;
    field.delete(groups).await?;
    Ok(taken)
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        ensure!(Instant::now() < limit, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
