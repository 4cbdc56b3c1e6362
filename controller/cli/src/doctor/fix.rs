//! What can be put right from here, with the user's rights.

use super::facts::{Facts, Remains, Stuck, is_stuck};
use crate::{
    connect::FIELD_MANAGER,
    connect::{Cluster, Scope},
    error::{Error, is_missing},
    freeze::STOP_LIMIT,
    local_run::{self, LocalRun, send},
    output::{note, print},
    stop::stop_orphan,
    verdict,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use netloss_api::{ChaosExperiment, FINALIZER, SentContainer};
use netloss_cluster::agents::{self, Agent};
use netloss_cluster::observe::is_cleaned_since;
use netloss_contract::{CONTAINER_PREFIX, CleanupArgs, Event, Record, RunSelector};
use netloss_core::{
    container::{image_to_send, repair_container},
    ephemeral,
    sanitize::line,
};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a container may take to start and to end. A judgement: an image pull, a removal of a few seconds, and a node that is busy.
const LIMIT: Duration = Duration::from_mins(3);

/// Puts right what can be, and goes on past what cannot. Whether all of it could be.
pub(super) async fn fix(cluster: &Cluster, facts: &Facts) -> Result<bool, Error> {
    let mut all = true;
    let mut told = |result: Result<(), Error>| match result {
        Ok(()) => Ok(()),
        Err(end @ (Error::Interrupted(_) | Error::Closed)) => Err(end),
        Err(error) => {
            all = false;
            note(&format!("error: {error}"));
            Ok(())
        }
    };
    for agent in &facts.orphans {
        told(stop_orphan(cluster, agent, facts.agent_image.clone(), STOP_LIMIT, true).await)?;
    }
    for agent in &facts.dead {
        told(clean_after(cluster, agent, facts.agent_image.clone()).await)?;
    }
    for remains in &facts.remains {
        told(clean(cluster, remains, facts.agent_image.as_deref()).await)?;
    }
    for stuck in &facts.stuck {
        told(release(cluster, stuck, facts.agent_image.clone()).await)?;
    }
    Ok(all)
}

/// Takes away what an agent of no experiment may have left, as the controller would after one of its own.
async fn clean_after(cluster: &Cluster, agent: &Agent, image: Option<String>) -> Result<(), Error> {
    let Some(object) = agent.experiment(Timestamp::now()) else { return Ok(()) };
    let mut local_run = LocalRun::stop(cluster, image, object);
    let status = local_run::to_the_end(&mut local_run, STOP_LIMIT).await?;
    verdict::clean(local_run.object(), &status)?;
    print(&format!("{}, of no experiment: cleaned up after\n", agent.words()))
}

/// Takes away what an agent may have left in a pod.
async fn clean(cluster: &Cluster, remains: &Remains, ours: Option<&str>) -> Result<(), Error> {
    let entry = &remains.entry;
    let name = entry.display_name();
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &entry.namespace);
    let pod = pods.get_opt(&entry.name).await.map_err(Error::api(format!("reading pod {name}")))?;
    let since = entry.ended_at.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let is_meant = |pod: &Pod| agents::is_same(pod, entry) && !is_cleaned_since(pod, since);
    let Some(pod) = pod.filter(is_meant) else { return Ok(()) };
    let image = ours
        .map(|ours| image_to_send(&entry.image, ours).to_owned())
        .or_else(|| ephemeral::container(&pod, &entry.container)?.image.clone());
    let image = image.ok_or_else(|| Error::Failed(format!("pod {name}: the agent's image is not known: delete the pod instead")))?;
    // The agent's node goes by a clock that is nearer to the API server's than this machine's may be.
    let now = cluster.now().await;
    let until = now.saturating_add(SignedDuration::from_mins(2)).unwrap_or(now);
    // Whichever agent it was: what is removed carries netloss's marks, and one that works is left alone.
    let argv = CleanupArgs { meant: RunSelector { run: None, deadline: Some(until) }, force: false }.to_argv();
    let container = format!("{CONTAINER_PREFIX}-doctor-{}-cleanup", now.as_second());
    let sent = SentContainer { container: container.clone(), argv, deadline: Time(until), number: 1 };
    let entry = netloss_api::PodStatus { image, ..entry.clone() };
    if let Some(words) = send(cluster, &entry, &repair_container(&entry, &sent)).await? {
        return Err(Error::Failed(format!("pod {name}: what was to clean up was refused: {words}: delete the pod instead")));
    }
    let found = wait(&pods, &entry.namespace, &entry.name, &container).await?;
    print(&format!("{name}: cleaned up: {}\n", line(&found)))
}

/// Waits for a cleanup to end, and says what it found.
async fn wait(pods: &Api<Pod>, namespace: &str, pod: &str, container: &str) -> Result<String, Error> {
    let name = format!("{namespace}/{pod}");
    let end = Instant::now() + LIMIT;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let Some(found) = pods.get_opt(pod).await.map_err(Error::api(format!("reading pod {name}")))? else {
            return Ok("the pod is gone, and its network with it".to_owned());
        };
        if let Some(ended) = ephemeral::state(&found, container).and_then(|state| state.terminated.clone()) {
            let message = ended.message.unwrap_or_default();
            return match (ended.exit_code, message.lines().rev().find_map(Record::from_line).map(|record| record.event)) {
                (0, Some(Event::Cleaned(cleaned))) if cleaned.removed.is_empty() => Ok("nothing was left".to_owned()),
                (0, Some(Event::Cleaned(cleaned))) => Ok(cleaned.removed.join("; ")),
                (0, _) => Ok("done".to_owned()),
                (code, event) => {
                    let words = if let Some(Event::Failed(failed)) = event { format!(": {}", failed.message) } else { String::new() };
                    Err(Error::LossMayRemain(format!("pod {name}: the cleanup ended with exit code {code}{words}: delete the pod instead")))
                }
            };
        }
        if Instant::now() >= end {
            return Err(Error::TimedOut(format!(
                "pod {name}: container {container} has not ended after {} s: kubectl describe pod {pod} -n {namespace}",
                LIMIT.as_secs()
            )));
        }
        tokio::select! {
            () = sleep(Duration::from_secs(1)) => {}
            _ = &mut interrupt => return Err(Error::Interrupted("not waited for".to_owned())),
        }
    }
}

/// Stops what is left of an experiment that is to go, and takes the finalizer away when its pods are clean.
async fn release(cluster: &Cluster, Stuck(object): &Stuck, image: Option<String>) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api = cluster.api::<ChaosExperiment>(&Scope::One(namespace.clone()));
    let current = api.get_opt(&name).await.map_err(Error::api(format!("reading experiment {namespace}/{name}")))?;
    let Some(object) = current.filter(|current| current.uid() == object.uid() && is_stuck(current)) else { return Ok(()) };
    if !verdict::is_at_rest(&object) {
        let status = local_run::to_the_end(&mut LocalRun::stop(cluster, image, object.clone()), STOP_LIMIT).await?;
        verdict::clean(&object, &status)?;
    }
    let finalizers: Vec<&String> = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    // Of this version: whatever happens to it meanwhile makes this fail.
    let metadata = json!({ "uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": finalizers });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let what = format!("taking the finalizer from {namespace}/{name}");
    match api.patch(&name, &params, &Patch::Merge(json!({ "metadata": metadata }))).await {
        // Somebody else has, and it is gone.
        Err(error) if is_missing(&error) => {}
        answer => drop(answer.map_err(Error::api(what))?),
    }
    print(&format!("{namespace}/{name}: released: it is deleted now\n"))
}
