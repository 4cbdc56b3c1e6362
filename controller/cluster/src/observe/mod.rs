//! What is seen of pods, made into what [`netloss_core::machine::decide`] needs.
//!
//! Everything that comes out of a pod is read within limits and believed only where it carries the run's name: the log and the
//! termination message are written by a process in somebody else's pod.

mod heard;
mod pod;
mod report;

pub use heard::Heard;
pub use pod::is_cleaned_since;
pub use pod::{Log, Lookup, log_to_read, view as view_of};

use crate::{
    guarded::{Guarded, Unreadable},
    listing,
};
use futures::{AsyncReadExt, StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, LogParams},
    core::{ApiResource, DynamicObject, PartialObjectMeta},
};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, FREEZE, FREEZE_ANNOTATION, Phase, PodStatus};
use netloss_core::{
    machine::{AgentLog, Experiment, Needs, Observed, PodView, Pods, Preconditions, Protection, Settings},
    sanitize::brief,
    targets::{Candidate, NamespaceFacts},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Requests about pods that are under way at a time for one experiment. A judgement: a hundred pods take thirteen round trips, and sixteen experiments at a
/// time stay below the 400 reads that an API server works on at once by default (`--max-requests-inflight`).
pub const CONCURRENCY: usize = 8;

/// What is read of a log, from its begin, in bytes: the record that the loss is in place is its first line.
const LOG_BYTES: i64 = 16 * 1024;

/// How long a log may take: the API server asks the node's kubelet for it. A hundred unreachable ones, eight at a time, take 39 s and still fit into one
/// pass of two minutes.
const LOG_TIMEOUT: Duration = Duration::from_secs(3);

/// An agent that has said nothing for so long has missed three heartbeats of five seconds, and time for a fourth.
const SILENCE: Duration = Duration::from_secs(20);

/// Pods of one page of a list. Several experiments hold one at a time, and a pod may well be ten kilobytes, and more in memory.
pub const PAGE: u32 = 100;

/// This many pods under way are read one by one; more of them by a list of those that the selector has. Half of [`CONCURRENCY`]: they are read in one round
/// trip, which is what a list takes too, and a list transfers all other pods of the selector as well.
const ONE_BY_ONE: usize = 4;

/// Pods under way that one look is at: more than any run has (`spec.count` is at most 100), and fewer than somebody may write into a status.
const MOST_OPEN: usize = 128;

/// Pods in which loss may remain that one look is at. A status keeps any number of them, and is looked at each minute: this is less than one request every
/// two seconds.
const MOST_IMPAIRED: usize = 25;

/// A list that has gone through this many pods for each one that is under way is given up: the others are read one by one. A judgement: a request
/// is taken to cost the API server as much as ten more pods of a page.
const LISTED_FOR_EACH: usize = 10;

/// The label that k8s-chaos's kustomization and its chart give to the pods of its controller.
const CONFLICTING: &str = "app.kubernetes.io/name=k8s-chaos";

/// Looks at what is needed.
///
/// # Errors
/// When the API server cannot answer. That it does not allow to read one pod is an observation, not an error.
pub async fn observe(
    client: &Client,
    experiment: &Experiment<'_>,
    needs: &Needs,
    settings: &Settings,
    heard: &Heard,
    now: Timestamp,
) -> kube::Result<Observed> {
    let own_namespace = &settings.own_namespace;
    match (needs, experiment.status) {
        (Needs::Preconditions { namespace, selector, dependencies }, _) => {
            let ((namespace, pods), freeze, conflicting_controller, dependencies) = futures::try_join!(
                target(client, experiment.namespace, namespace, Some(selector), now),
                freeze(client, own_namespace),
                conflicting_controller(client, settings),
                phases(client, experiment.namespace, dependencies),
            )?;
            Ok(Observed::Preconditions(Preconditions { freeze, conflicting_controller, namespace, pods, dependencies }))
        }
        (Needs::Pods { ready, target }, Some(status)) => {
            let (views, freeze, protection) = futures::try_join!(
                views(client, experiment, status, heard, now),
                freeze(client, own_namespace),
                protection(client, experiment.namespace, target.as_ref(), now),
            )?;
            let ready = match ready {
                Some((namespace, selector)) => {
                    let pods = candidates(client, namespace, selector, now).await?;
                    Some(u32::try_from(pods.iter().filter(|pod| pod.ready).count()).unwrap_or(u32::MAX))
                }
                None => None,
            };
            Ok(Observed::Pods(Pods { views, ready, freeze, protection, preflight: None }))
        }
        (Needs::Pods { .. }, None) | (Needs::Nothing, _) => Ok(Observed::Nothing),
    }
}

/// Why all experiments are frozen, if they are. Not being able to tell is an error: nothing is begun then.
///
/// # Errors
/// When the API server cannot answer.
pub async fn freeze(client: &Client, own_namespace: &str) -> kube::Result<Option<String>> {
    let Some(Guarded(map)) = Api::<Guarded<ConfigMap>>::namespaced(client.clone(), own_namespace).get_opt(FREEZE).await? else {
        return Ok(None);
    };
    let map = match map {
        Ok(map) => map,
        Err(Unreadable { error, .. }) => return Ok(Some(format!("ConfigMap {own_namespace}/{FREEZE} does not decode: {error}"))),
    };
    let value = map.metadata.annotations.as_ref().and_then(|annotations| annotations.get(FREEZE_ANNOTATION));
    let reason = map.data.as_ref().and_then(|data| data.get("reason")).filter(|reason| !reason.trim().is_empty());
    let reason = reason.map_or_else(|| format!("ConfigMap {own_namespace}/{FREEZE}"), |reason| brief(reason));
    Ok(value.filter(|value| *value != "false").map(|_| reason))
}

/// The pod in which k8s-chaos's controller runs, which would act on the same experiments, if it does. It is looked for in the namespaces alone that the
/// administrator has named: anybody may give its label to a pod of theirs.
///
/// # Errors
/// When the API server cannot answer.
pub async fn conflicting_controller(client: &Client, settings: &Settings) -> kube::Result<Option<String>> {
    let running = ListParams::default().labels(CONFLICTING).fields("status.phase=Running").limit(1);
    for namespace in &settings.conflicting_namespaces {
        let pods = listing::metadata(Api::<Pod>::namespaced(client.clone(), namespace), &running).await?;
        if let Some(pod) = pods.items.first() {
            return Ok(Some(format!("{namespace}/{}", pod.name_any())));
        }
    }
    Ok(None)
}

/// What is known of a namespace; none where there is none of that name.
///
/// # Errors
/// When the API server cannot answer.
pub async fn namespace(client: &Client, name: &str) -> kube::Result<Option<NamespaceFacts>> {
    let Some(object) = Api::<Guarded<PartialObjectMeta<Namespace>>>::all(client.clone()).get_opt(name).await? else { return Ok(None) };
    let metadata = object.decoded()?.metadata;
    Ok(Some(NamespaceFacts::of(name, metadata.labels.as_ref(), metadata.annotations.as_ref())))
}

/// What is known of a namespace, of one that is not there too.
///
/// # Errors
/// When the API server cannot answer.
pub async fn facts(client: &Client, name: &str) -> kube::Result<NamespaceFacts> {
    Ok(namespace(client, name).await?.unwrap_or_else(|| NamespaceFacts::of(name, None, None)))
}

/// What is known of the namespace that an experiment of the namespace `own` acts on, and its pods that have the labels. That it may not be looked at is known of
/// another namespace; of the experiment's own it is an error.
async fn target(
    client: &Client,
    own: &str,
    namespace: &str,
    selector: Option<&BTreeMap<String, String>>,
    now: Timestamp,
) -> kube::Result<(NamespaceFacts, Vec<Candidate>)> {
    let hidden = |why: String| (NamespaceFacts { hidden: Some(why), ..NamespaceFacts::of(namespace, None, None) }, Vec::new());
    if !listing::is_name(namespace) {
        return Ok(hidden("no namespace can have that name".to_owned()));
    }
    let pods = async {
        let Some(selector) = selector else { return Ok(Vec::new()) };
        candidates(client, namespace, selector, now).await
    };
    match futures::try_join!(facts(client, namespace), pods) {
        Err(kube::Error::Api(status)) if status.code == 403 && namespace != own => Ok(hidden(brief(&status.message))),
        seen => seen,
    }
}

/// What protects the pods in which agents are about to be injected, if that was to be looked at.
async fn protection(
    client: &Client,
    own: &str,
    acts_on: Option<&(String, Option<BTreeMap<String, String>>)>,
    now: Timestamp,
) -> kube::Result<Option<Protection>> {
    let Some((namespace, selector)) = acts_on else { return Ok(None) };
    let (namespace, candidates) = target(client, own, namespace, selector.as_ref(), now).await?;
    Ok(Some(Protection::of(namespace, &candidates)))
}

async fn phases(client: &Client, namespace: &str, names: &[String]) -> kube::Result<BTreeMap<String, Option<Phase>>> {
    // Two fields are read and nothing else is decoded: it may be of any action, and written by anybody.
    let api = Api::<Guarded<DynamicObject>>::namespaced_with(client.clone(), namespace, &ApiResource::erase::<ChaosExperiment>(&()));
    let mut phases = BTreeMap::new();
    // In the order in which they are decided about, as far as the first one that is waited for.
    let names: BTreeSet<&String> = names.iter().collect();
    for name in names {
        let phase = api.get_opt(name).await?.and_then(|object| {
            let object = object.0.ok()?;
            let status = object.data.get("status")?;
            // What it says of an older version of its spec says nothing of this one.
            let is_current = status.get("observedGeneration").and_then(Value::as_i64) == object.metadata.generation;
            let phase = status.get("phase").filter(|_| is_current)?;
            serde_json::from_value::<Phase>(phase.clone()).ok()
        });
        phases.insert(name.clone(), phase);
        if phase != Some(Phase::Completed) {
            break;
        }
    }
    Ok(phases)
}

/// The pods that have the labels.
///
/// # Errors
/// When the API server cannot answer.
pub async fn candidates(
    client: &Client,
    namespace: &str,
    selector: &BTreeMap<String, String>,
    now: Timestamp,
) -> kube::Result<Vec<Candidate>> {
    let mut pods = Vec::new();
    each_page(client, namespace, selector, |page| {
        pods.extend(page.iter().map(|Guarded(pod)| match pod {
            Ok(pod) => Candidate::of(pod, now),
            Err(Unreadable { metadata, error }) => Candidate::unreadable(metadata, error),
        }));
        true
    })
    .await?;
    Ok(pods)
}

/// Lists the pods that have the labels, page by page, as long as `next` wants more.
async fn each_page(
    client: &Client,
    namespace: &str,
    selector: &BTreeMap<String, String>,
    mut next: impl FnMut(&[Guarded<Pod>]) -> bool,
) -> kube::Result<()> {
    let api = Api::<Guarded<Pod>>::namespaced(client.clone(), namespace);
    let selector = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let mut page = ListParams::default().labels(&selector).limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if next(&list.items) => page = page.continue_token(&token),
            Some(_) => return Ok(()),
            None => {
                next(&list.items);
                return Ok(());
            }
        }
    }
}

/// At most so many of these entries, and others in each minute, so that each has its turn.
fn some_of<'a>(entries: impl Iterator<Item = &'a PodStatus>, most: usize, now: Timestamp) -> Vec<PodStatus> {
    let mut entries: Vec<PodStatus> = entries.cloned().collect();
    if entries.len() > most {
        let minute = usize::try_from(now.as_second().div_euclid(60)).unwrap_or_default();
        let first = (minute % entries.len()) * most % entries.len();
        entries.rotate_left(first);
        entries.truncate(most);
    }
    entries
}

async fn views(
    client: &Client,
    experiment: &Experiment<'_>,
    status: &ChaosExperimentStatus,
    heard: &Heard,
    now: Timestamp,
) -> kube::Result<BTreeMap<String, PodView>> {
    let run = format!("{}/{}", experiment.uid, status.run.unwrap_or_default());
    let is_active = status.is_active();
    let open = if is_active { some_of(status.open_pods(), MOST_OPEN, now) } else { some_of(status.impaired_pods(), MOST_IMPAIRED, now) };
    let lookup = Lookup { run: &run, spec: experiment.spec, now };
    let mut listed = if open.len() > ONE_BY_ONE { listed(client, experiment, &open, lookup).await? } else { BTreeMap::new() };
    let views = stream::iter(open).map(|entry| {
        let listed = listed.remove(&entry.uid);
        async move {
            let view = match listed {
                Some(view) => with_log(client, &entry, lookup, view, Some(heard)).await,
                // What has other labels by now, or is gone.
                None => read(client, &entry, lookup, Some(heard)).await?,
            };
            Ok((entry.uid, view))
        }
    });
    views.buffer_unordered(CONCURRENCY).try_collect().await
}

/// Those of the pods that a list has, without their logs: one request for all of them.
async fn listed(
    client: &Client,
    experiment: &Experiment<'_>,
    open: &[PodStatus],
    lookup: Lookup<'_>,
) -> kube::Result<BTreeMap<String, PodView>> {
    let namespace = experiment.spec.target_namespace(experiment.namespace);
    let wanted: BTreeMap<&str, &PodStatus> =
        open.iter().filter(|entry| entry.namespace == namespace).map(|entry| (entry.uid.as_str(), entry)).collect();
    let (mut views, mut seen) = (BTreeMap::new(), 0);
    each_page(client, namespace, &experiment.spec.selector, |page| {
        seen += page.len();
        for pod in page {
            if let Some(entry) = pod.meta().uid.as_deref().and_then(|uid| wanted.get(uid)) {
                views.insert(entry.uid.clone(), seen_as(Some(pod), entry, lookup));
            }
        }
        views.len() < wanted.len() && seen < wanted.len() * LISTED_FOR_EACH
    })
    .await?;
    Ok(views)
}

/// One pod of status, with its agent's log where that can tell something new.
///
/// # Errors
/// When the API server cannot answer.
pub async fn view(client: &Client, entry: &PodStatus, lookup: Lookup<'_>) -> kube::Result<PodView> {
    read(client, entry, lookup, None).await
}

/// Whether the pod in which loss may have been left is still there, and nobody has cleaned up in it since.
///
/// # Errors
/// When the API server does not answer.
pub async fn keeps_loss(client: &Client, entry: &PodStatus) -> kube::Result<bool> {
    let since = entry.ended_at.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let pod = match listing::named::<Pod>(client, &entry.namespace, &entry.name).await {
        // Where netloss may not even look, it put nothing in: whoever may write records names any pod.
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(false),
        pod => pod?,
    };
    let is_it = |pod: &Guarded<Pod>| pod.uid().as_ref() == Some(&entry.uid);
    Ok(pod.filter(is_it).is_some_and(|pod| !pod.0.is_ok_and(|pod| is_cleaned_since(&pod, since))))
}

/// As [`pod::view`], of a pod that may not decode: whatever runs in that one, it is said to be unreadable until it is replaced or overdue.
fn seen_as(pod: Option<&Guarded<Pod>>, entry: &PodStatus, lookup: Lookup<'_>) -> PodView {
    match pod.map(|Guarded(pod)| pod.as_ref()).transpose() {
        Ok(pod) => pod::view(pod, entry, lookup),
        Err(unreadable) if unreadable.metadata.uid.as_ref() != Some(&entry.uid) => PodView::Replaced,
        Err(unreadable) => PodView::Unreadable(format!("the pod does not decode: {}", unreadable.error)),
    }
}

async fn read(client: &Client, entry: &PodStatus, lookup: Lookup<'_>, heard: Option<&Heard>) -> kube::Result<PodView> {
    let pod = match listing::named::<Pod>(client, &entry.namespace, &entry.name).await {
        Ok(pod) => pod,
        // Refused for good, for one pod. Anything else may be different the next time, for all of them.
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(PodView::Unreadable(status.message)),
        Err(error) => return Err(error),
    };
    Ok(with_log(client, entry, lookup, seen_as(pod.as_ref(), entry, lookup), heard).await)
}

/// The view with the agent's log where that can tell something new. What agents said lately is not read again at each look.
async fn with_log(client: &Client, entry: &PodStatus, lookup: Lookup<'_>, mut view: PodView, heard: Option<&Heard>) -> PodView {
    let Lookup { run, now, .. } = lookup;
    let api = Api::<Pod>::namespaced(client.clone(), &entry.namespace);
    if let PodView::Present { agent: Some(agent), .. } = &mut view {
        match log_to_read(entry, &agent.state) {
            Some(Log::Begin) => agent.log = log(&api, entry, run).await,
            Some(Log::Lately) if heard.is_none_or(|heard| heard.is_due(&entry.uid, &entry.container, now)) => {
                agent.log = lately(&api, entry, run).await;
            }
            Some(Log::Lately) | None => {}
        }
    }
    view
}

async fn log(api: &Api<Pod>, entry: &PodStatus, run: &str) -> AgentLog {
    match read_log(api, entry, LogParams { limit_bytes: Some(LOG_BYTES), ..LogParams::default() }).await {
        Ok(text) => told(Log::Begin, &text, run),
        Err(why) => AgentLog::Unreadable(why),
    }
}

/// Whether the agent has said anything lately, by its node's clock and in any words, and what it counts.
async fn lately(api: &Api<Pod>, entry: &PodStatus, run: &str) -> AgentLog {
    let since = i64::try_from(SILENCE.as_secs()).unwrap_or(i64::MAX);
    let params = LogParams { since_seconds: Some(since), limit_bytes: Some(LOG_BYTES), ..LogParams::default() };
    match read_log(api, entry, params).await {
        Ok(text) => told(Log::Lately, &text, run),
        Err(why) => AgentLog::Unreadable(why),
    }
}

/// What a part of a log says of this run.
#[must_use]
pub fn told(part: Log, text: &str, run: &str) -> AgentLog {
    match part {
        Log::Begin => report::of_log(text, run),
        Log::Lately if text.is_empty() => AgentLog::Stale,
        Log::Lately => AgentLog::Heartbeat(report::live(text, run)),
    }
}

async fn read_log(api: &Api<Pod>, entry: &PodStatus, params: LogParams) -> Result<String, String> {
    let params = LogParams { container: Some(entry.container.clone()), ..params };
    match tokio::time::timeout(LOG_TIMEOUT, bounded_log(api, &entry.name, &params)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {LOG_TIMEOUT:?}")),
    }
}

/// A log as text, whatever it is made of: the limit may cut a character in two. No more of it is read than was asked for, whatever the
/// kubelet sends.
async fn bounded_log(api: &Api<Pod>, pod: &str, params: &LogParams) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    api.log_stream(pod, params).await?.take(LOG_BYTES.unsigned_abs()).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use futures::FutureExt;
    use http::Response;
    use kube::client::Body;
    use netloss_core::machine::fixtures::{at, entry, spec};
    use serde_json::json;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[test]
    fn a_look_is_at_a_bounded_number_of_pods_and_all_have_their_turn() {
        for count in [0, 1, 25, 26, 99, 100, 1000] {
            let entries: Vec<PodStatus> = (0..count).map(|n| PodStatus { uid: n.to_string(), ..entry() }).collect();
            let look = |minute: i64| some_of(entries.iter(), MOST_IMPAIRED, at(60 * minute));
            assert_eq!(look(0).len(), count.min(MOST_IMPAIRED));
            let minutes = i64::try_from(count).unwrap();
            let seen: BTreeSet<String> = (0..=minutes).flat_map(look).map(|entry| entry.uid).collect();
            assert_eq!(seen.len(), count, "of {count}");
        }
    }

    #[tokio::test]
    async fn no_more_dependencies_are_read_than_are_decided_about() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let client = testing::answering(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            let phase = if request.uri().path().ends_with("/first") { "Completed" } else { "Running" };
            let object = serde_json::json!({
                "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": "x", "generation": 1 },
                "status": { "phase": phase, "observedGeneration": 1 },
            });
            let response = Response::new(Body::from(object.to_string().into_bytes()));
            async move { response }.boxed()
        });
        let mut names: Vec<String> = (0..99).map(|n| format!("later-{n}")).collect();
        names.push("first".to_owned());
        let phases = phases(&client, "n", &names).await.unwrap();
        assert_eq!((asked.load(Ordering::SeqCst), phases.len()), (2, 2));
        assert_eq!((phases["first"], phases["later-0"]), (Some(Phase::Completed), Some(Phase::Running)));
    }

    #[test]
    fn a_pod_that_does_not_decode_is_unreadable_and_not_gone() {
        let (entry, spec) = (entry(), spec());
        let lookup = Lookup { run: "uid/1", spec: &spec, now: at(0) };
        let pod = |uid: &str| -> Guarded<Pod> {
            let metadata = json!({ "name": entry.name, "uid": uid, "managedFields": [{ "time": "9999-12-31T12:00:00Z" }] });
            serde_json::from_value(json!({ "metadata": metadata, "status": { "startTime": "9999-12-31T12:00:00Z" } })).unwrap()
        };
        assert!(matches!(seen_as(Some(&pod(&entry.uid)), &entry, lookup), PodView::Unreadable(why) if why.contains("does not decode")));
        assert_eq!(seen_as(Some(&pod("another")), &entry, lookup), PodView::Replaced);
        assert_eq!(seen_as(None, &entry, lookup), PodView::Gone);
    }
}
