//! Before netloss goes: every run is stopped, whether or not a controller runs, and nothing of netloss is left in any pod.
//!
//! The freeze keeps controllers from beginning anything. What is under way is ended here with the same passes that a controller makes, which
//! may run beside one: each status write carries the version that it was decided from, and what is in a pod is adopted.

use crate::reconcile::{Context, reconcile};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::NamespaceResourceScope,
};
use netloss_api::{
    ChaosExperiment, ChaosExperimentHistory, ChaosExperimentStatus, FINALIZER, FREEZE, FREEZE_ANNOTATION, PodStatus, REMAINS_LABEL,
};
use netloss_cluster::{
    agents::{self, Agent},
    guarded::{Guarded, Unreadable},
    listing,
    observe::keeps_loss,
};
use netloss_core::sanitize::some_of;
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// Between passes over what is still under way.
const AGAIN: Duration = Duration::from_secs(2);

/// Why experiments are frozen, for those who stay with netloss after all.
const REASON: &str = "netloss is being uninstalled; kubectl netloss unfreeze where it is not";

/// Experiments that are worked on at a time.
const CONCURRENT: usize = 8;

/// Why draining did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what it was asked.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// Something is still under way.
    #[error(
        "after {} s something is still under way in pods of {experiments}: run it again, or delete these pods; the loss ends at its deadline at the \
         latest",
        limit.as_secs()
    )]
    TimedOut {
        /// How long was waited.
        limit: Duration,
        /// Each with what it waits for.
        experiments: String,
    },
    /// Some experiments cannot be read.
    #[error(
        "experiments with netloss's finalizer do not decode, so nothing is known of their pods: {experiments}: bring them into the form of config/crd, or \
         delete them and take the finalizer {FINALIZER} out; the loss ends at its deadline at the latest"
    )]
    Unreadable {
        /// Each with what is wrong with it.
        experiments: String,
    },
    /// Some pods may still lose packets.
    #[error("loss may remain in the pods {pods}: delete them (restarting a container does not end it), then run this again")]
    LossMayRemain {
        /// As `namespace/name`.
        pods: String,
    },
}

impl Error {
    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }
}

/// Freezes all experiments and ends those of these namespaces, or of all if none is named. Agents that belong to no experiment (of direct runs, or of
/// experiments that were deleted by force) are waited for. Returns how many experiments had something under way.
///
/// # Errors
/// When the API server refuses something, not everything ends within `limit`, or loss may remain in a pod.
pub async fn drain(client: &Client, context: &Arc<Context>, namespaces: &[String], limit: Duration) -> Result<usize, Error> {
    let deadline = Instant::now() + limit;
    let mut draining = Draining { client, context, namespaces, is_frozen: false, stopped: BTreeSet::new() };
    loop {
        let is_late = Instant::now() >= deadline;
        match draining.round(is_late).await {
            Ok(Left::Nothing) => return Ok(draining.stopped.len()),
            Ok(Left::Waits(waits)) if is_late => return Err(Error::TimedOut { limit, experiments: some_of(waits) }),
            Ok(Left::Waits(_)) => {}
            // One request that comes to nothing is no reason to leave everything as it is.
            Err(Error::Api { what, source }) if listing::may_pass(&source) && !is_late => {
                warn!(what, error = %source, "the API server did not answer and is asked again");
            }
            Err(error) => return Err(error),
        }
        sleep(AGAIN.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// What a round found.
enum Left {
    /// Nothing of netloss is under way.
    Nothing,
    /// Something is; each with what is known of it.
    Waits(Vec<String>),
}

/// A drain that is under way.
struct Draining<'a> {
    client: &'a Client,
    context: &'a Arc<Context>,
    namespaces: &'a [String],
    is_frozen: bool,
    /// Uids of the experiments that were stopped.
    stopped: BTreeSet<String>,
}

impl Draining<'_> {
    /// Looks once, and makes a pass over what is under way unless it is too late for more.
    async fn round(&mut self, is_late: bool) -> Result<Left, Error> {
        let Self { client, context, namespaces, .. } = *self;
        if !self.is_frozen {
            freeze(client, &context.settings().own_namespace).await?;
            self.is_frozen = true;
        }
        // Before the experiments: an agent that is injected in between is in a status by then.
        let mut agents = active_agents(client, namespaces).await?;
        let (open, _) = experiments(client, namespaces, has_something).await?;
        if open.is_empty() {
            let (suspects, unreadable) = suspects(client, namespaces).await?;
            // Nobody stops these any more: they are named below as pods in which loss may remain.
            agents.retain(|agent| !suspects.iter().any(|entry| entry.uid == agent.pod_uid && entry.container == agent.container));
            if agents.is_empty() {
                return ended(client, &suspects, unreadable).await;
            }
            let waits = agents.iter().map(|agent| format!("{} (of no experiment: `kubectl netloss stop -A` stops it)", agent.words()));
            return Ok(Left::Waits(waits.collect()));
        }
        let waits = open.iter().map(|object| {
            let message = object.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or("nothing is known of it");
            format!("{} ({message})", display_name(object))
        });
        let waits = waits.collect();
        for object in &open {
            if self.stopped.insert(object.uid().unwrap_or_default()) {
                info!(namespace = object.namespace(), name = object.name_any(), uid = object.uid(), "stopping");
            }
        }
        if !is_late {
            let passes = stream::iter(open).map(|object| async move {
                let name = display_name(&object);
                if let Err(error) = reconcile(&object, context).await {
                    warn!(name, %error, "the pass failed and is tried again");
                }
            });
            passes.buffer_unordered(CONCURRENT).collect::<()>().await;
        }
        Ok(Left::Waits(waits))
    }
}

/// Nothing is under way any more: whether loss may remain, or something could not be read.
async fn ended(client: &Client, suspects: &[PodStatus], unreadable: Vec<String>) -> Result<Left, Error> {
    let left = left_with_loss(client, suspects).await?;
    if !left.is_empty() {
        return Err(Error::LossMayRemain { pods: left.join(", ") });
    }
    if unreadable.is_empty() { Ok(Left::Nothing) } else { Err(Error::Unreadable { experiments: some_of(unreadable) }) }
}

/// Annotates the ConfigMap, as an administrator does.
async fn freeze(client: &Client, own_namespace: &str) -> Result<(), Error> {
    let change = json!({ "metadata": { "annotations": { FREEZE_ANNOTATION: "true" } }, "data": { "reason": REASON } });
    let maps = Api::<ConfigMap>::namespaced(client.clone(), own_namespace);
    let what = format!("freezing all experiments by the annotation {FREEZE_ANNOTATION} of ConfigMap {own_namespace}/{FREEZE}");
    maps.patch(FREEZE, &PatchParams::default(), &Patch::Merge(&change)).await.map(drop).map_err(Error::api(what))
}

/// The experiments of our action that are `wanted`, and those that do not decode and have our finalizer, by name and what is wrong with them.
async fn experiments(
    client: &Client,
    namespaces: &[String],
    wanted: impl Fn(&ChaosExperiment) -> bool,
) -> Result<(Vec<ChaosExperiment>, Vec<String>), Error> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for api in scopes::<ChaosExperiment>(client, namespaces) {
        let keep = |object: Result<ChaosExperiment, Unreadable>| match object {
            Ok(object) => (object.spec.action.is_served() && wanted(&object)).then_some(object),
            Err(Unreadable { metadata, error }) => {
                let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
                let ours = metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
                unreadable.extend(ours.then(|| format!("{namespace}/{name} ({error})")));
                None
            }
        };
        let list = listing::list(&api, &ListParams::default(), listing::PAGE, keep).await;
        found.extend(list.map_err(Error::api("listing experiments"))?);
    }
    Ok((found, unreadable))
}

fn scopes<K>(client: &Client, namespaces: &[String]) -> Vec<Api<Guarded<K>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    if namespaces.is_empty() {
        vec![listing::scoped(client, None)]
    } else {
        namespaces.iter().map(|namespace| listing::scoped(client, Some(namespace))).collect()
    }
}

/// The agents that are active in pods.
async fn active_agents(client: &Client, namespaces: &[String]) -> Result<Vec<Agent>, Error> {
    /// Pods of one page: some ten KiB each.
    const PAGE: u32 = 100;
    let now = Timestamp::now();
    let mut found = Vec::new();
    for api in scopes::<Pod>(client, namespaces) {
        let keep = |pod: Result<Pod, Unreadable>| {
            found.extend(pod.iter().flat_map(|pod| agents::active_in(pod, now)));
            None::<()>
        };
        listing::list(&api, &ListParams::default(), PAGE, keep).await.map_err(Error::api("listing pods"))?;
    }
    Ok(found)
}

/// The entries of pods in which runs may have left loss, and the experiments that do not decode.
async fn suspects(client: &Client, namespaces: &[String]) -> Result<(Vec<PodStatus>, Vec<String>), Error> {
    let (suspects, unreadable) = experiments(client, namespaces, may_be_impaired).await?;
    let mut entries: Vec<PodStatus> =
        suspects.iter().flat_map(|object| object.status.iter().flat_map(ChaosExperimentStatus::impaired_pods)).cloned().collect();
    entries.extend(recorded(client, namespaces).await?);
    Ok((entries, unreadable))
}

/// The pods in which runs may have left loss by their records, which outlive their experiments.
async fn recorded(client: &Client, namespaces: &[String]) -> Result<Vec<PodStatus>, Error> {
    let mut found = Vec::new();
    for api in scopes::<ChaosExperimentHistory>(client, namespaces) {
        let keep = |record: Result<ChaosExperimentHistory, Unreadable>| {
            found.extend(record.into_iter().flat_map(|record| record.spec.pods).filter(PodStatus::may_be_impaired));
            None::<()>
        };
        let marked = ListParams::default().labels(&format!("{REMAINS_LABEL}=true"));
        listing::list(&api, &marked, listing::PAGE, keep).await.map_err(Error::api("listing records"))?;
    }
    Ok(found)
}

/// Whether something of it is under way in a pod, or it waits for us to let it go.
fn has_something(object: &ChaosExperiment) -> bool {
    object.finalizers().iter().any(|name| name == FINALIZER) || object.status.as_ref().is_some_and(ChaosExperimentStatus::is_active)
}

/// Whether loss may be left in a pod of it.
fn may_be_impaired(object: &ChaosExperiment) -> bool {
    object.status.iter().any(|status| status.impaired_pods().next().is_some())
}

/// The pods in which loss may be left, of those that are still there and were not cleaned up since.
async fn left_with_loss(client: &Client, suspects: &[PodStatus]) -> Result<Vec<String>, Error> {
    let mut left = Vec::new();
    for suspect in suspects {
        let name = suspect.display_name();
        let keeps = keeps_loss(client, suspect).await.map_err(Error::api(format!("looking at pod {name}")))?;
        if keeps && !left.contains(&name) {
            left.push(name);
        }
    }
    Ok(left)
}

fn display_name(object: &ChaosExperiment) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
