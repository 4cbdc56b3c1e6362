//! One round: experiments on so many pods, from their begin to their end.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use netloss_controller::api::{ChaosExperiment, Outcome, Phase, PodState};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::LIMIT;
use crate::agents::TTL;
use crate::field::{Field, GROUP, place};

/// What a round has come to.
#[derive(Debug, Clone)]
#[allow(dead_code)]
pub(crate) struct Round {
    /// From the first request to the last pod's agent.
    pub(crate) injected: Duration,
    /// The same, to the last status that says so.
    pub(crate) applied: Duration,
    /// From the first request to the last end, without the time of the loss.
    pub(crate) ended: Duration,
    /// Requests by verb and resource.
    pub(crate) requests: String,
    pub(crate) requests_per_pod: f64,
    pub(crate) processor: Duration,
    /// The most memory, in KiB.
    pub(crate) memory: u64,
    /// What was received, in bytes.
    pub(crate) received: u64,
    /// The largest status, in bytes.
    pub(crate) status: usize,
}

fn experiment(name: &str, action: &str, kind: &str, count: usize) -> Value {
    json!({
        "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": name },
        "spec": {
            "action": action, "selector": { "group": kind }, "count": count, "duration": format!("{}s", TTL.as_secs()),
            "lossPercentage": 10, "maxRetries": 0,
        },
    })
}

/// By the controller.
pub(crate) async fn native(field: &mut Field, targets: usize) -> Result<Round> {
    field.start_controller().await?;
    let controller = field.controller()?;
    let (before, seen) = (field.requests().await?, field.agents.seen());
    let (processor, received) = (controller.processor_time()?, controller.received()?);
    let begin = Instant::now();
    let groups = targets.div_ceil(GROUP);
    for group in 0..groups {
        let (namespace, name) = place(group);
        let manifest = experiment(&name, "pod-network-loss", &format!("target-{name}"), GROUP.min(targets));
        let api = Api::<ChaosExperiment>::namespaced(field.client.clone(), &namespace);
        api.patch(&name, &PatchParams::apply("bench"), &Patch::Apply(manifest)).await?;
    }
    let mut own = u64::try_from(groups)?;
    until("agents are put in", || field.agents.seen() - seen >= targets).await?;
    let injected = begin.elapsed();
    let (mut applied, mut status) = (None, 0);
    let experiments = Api::<ChaosExperiment>::all(field.client.clone());
    let ended = loop {
        let objects = experiments.list(&ListParams::default()).await?.items;
        own += 1;
        let entries: Vec<_> = objects.iter().filter_map(|object| object.status.as_ref()).flat_map(|status| &status.pods).collect();
        if applied.is_none() && entries.len() == targets && entries.iter().all(|entry| entry.state >= PodState::Applied) {
            applied = Some(begin.elapsed());
        }
        status = objects.iter().filter_map(|object| Some(serde_json::to_vec(object.status.as_ref()?).ok()?.len())).fold(status, usize::max);
        let over = objects.iter().filter(|object| object.status.as_ref().is_some_and(|status| status.phase.is_some_and(Phase::is_final)));
        if over.count() == groups {
            ensure!(entries.iter().all(|entry| entry.outcome == Some(Outcome::Clean)), "not all are clean: {entries:?}");
            break begin.elapsed();
        }
        ensure!(begin.elapsed() < LIMIT, "not over: {}", field.controller()?.log_tail(20));
        sleep(Duration::from_millis(250)).await;
    };
    let requests = field.requests().await?.since(&before);
    let total: u64 = requests.iter().map(|(_, count)| count).sum::<u64>() - own;
    let round = Round {
        injected,
        applied: applied.unwrap_or(ended),
        ended: ended.saturating_sub(TTL),
        requests_per_pod: total as f64 / targets as f64,
        requests: requests.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", "),
        processor: controller.processor_time()?.saturating_sub(processor),
        memory: controller.most_resident()?,
        received: controller.received()? - received,
        status,
    };
    for group in 0..groups {
        let (namespace, name) = place(group);
        Api::<ChaosExperiment>::namespaced(field.client.clone(), &namespace).delete(&name, &DeleteParams::default()).await?;
    }
    let limit = Instant::now() + LIMIT;
    while !experiments.list(&ListParams::default()).await?.items.is_empty() {
        ensure!(Instant::now() < limit, "experiments do not go");
        sleep(Duration::from_millis(250)).await;
    }
    Ok(round)
}

/// By the flow of one list, and then one patch and one status write for each pod, one after the other. The experiments are of an action
/// that nobody acts on.
pub(crate) async fn sequential(field: &mut Field, targets: usize) -> Result<(Duration, f64)> {
    field.stop_controller();
    let (before, seen) = (field.requests().await?, field.agents.seen());
    let begin = Instant::now();
    for group in 0..targets.div_ceil(GROUP) {
        let (namespace, name) = place(group);
        let api = Api::<ChaosExperiment>::namespaced(field.client.clone(), &namespace);
        let manifest = experiment(&name, "pod-kill", &format!("target-{name}"), GROUP.min(targets));
        let object = api.patch(&name, &PatchParams::apply("bench"), &Patch::Apply(manifest)).await?;
        let pods = Api::<Pod>::namespaced(field.client.clone(), &namespace);
        let mut affected = Vec::new();
        for pod in pods.list(&ListParams::default().labels(&format!("group=target-{name}"))).await?.items.into_iter().take(targets) {
            let name = format!("netloss-{}", object.uid().unwrap_or_default());
            let run = format!("--run={}/1", object.uid().unwrap_or_default());
            let container = json!({ "name": name, "image": "localhost/netloss-agent:dev", "args": ["run", run] });
            let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
            pods.patch_ephemeral_containers(&pod.name_any(), &PatchParams::default(), &patch).await?;
            affected.push(format!("{namespace}/{}:{name}", pod.name_any()));
            let status = Patch::Merge(json!({ "status": { "affectedPods": affected } }));
            api.patch_status(&object.name_any(), &PatchParams::default(), &status).await?;
        }
    }
    until("agents are put in", || field.agents.seen() - seen >= targets).await?;
    let injected = begin.elapsed();
    let requests: u64 = field.requests().await?.since(&before).iter().map(|(_, count)| count).sum();
    for group in 0..targets.div_ceil(GROUP) {
        let (namespace, name) = place(group);
        Api::<ChaosExperiment>::namespaced(field.client.clone(), &namespace).delete(&name, &DeleteParams::default()).await?;
    }
    // The agents end as the others do.
    sleep(TTL + Duration::from_secs(2)).await;
    Ok((injected, requests as f64 / targets as f64))
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        ensure!(Instant::now() < limit, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
