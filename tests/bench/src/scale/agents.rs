//! Plays the agents: what their kubelets write about them, and what they say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, Object};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use netloss_contract::{Event, Ttl};
use netloss_lab::controlplane::kubelet::Kubelet;
use netloss_lab::controlplane::reports;
use netloss_lab::host::progress;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Of a pod what is looked at: five thousand are watched.
#[derive(Debug, Clone, Deserialize, Serialize)]
struct Spec {
    #[serde(rename = "ephemeralContainers", default)]
    agents: Vec<Agent>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Agent {
    name: String,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
struct Nothing {}

type Target = Object<Spec, Nothing>;

/// What the kubelet has written about a pod's agents so far.
type States = Arc<Mutex<BTreeMap<String, Value>>>;

pub(super) struct Agents {
    seen: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    watching: JoinHandle<()>,
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Agents {
    pub(super) fn start(client: Client, kubelet: Kubelet) -> Self {
        let (seen, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, ends) = (Arc::clone(&seen), Arc::clone(&ended));
        let watching = tokio::spawn(async move {
            let resource = ApiResource::erase::<Pod>(&());
            let targets = Api::<Target>::all_with(client.clone(), &resource);
            let (kubelet, known) = (Arc::new(kubelet), Mutex::new(BTreeMap::<String, States>::new()));
            let events = watcher(targets, watcher::Config::default().labels("kind=target")).default_backoff().applied_objects();
            let watched = events.try_for_each(|pod| {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let states = known.entry(pod.uid().unwrap_or_default()).or_default();
                let mut written = states.lock().unwrap_or_else(PoisonError::into_inner);
                for agent in &pod.spec.agents {
                    if !written.contains_key(&agent.name) {
                        written.insert(agent.name.clone(), json!({ "waiting": {} }));
                        count.fetch_add(1, Ordering::SeqCst);
                        let life = play(client.clone(), Arc::clone(&kubelet), pod.clone(), agent.clone(), Arc::clone(states));
                        let ends = Arc::clone(&ends);
                        tokio::spawn(async move {
                            life.await;
                            ends.fetch_add(1, Ordering::SeqCst);
                        });
                    }
                }
                futures::future::ready(Ok(()))
            });
            if let Err(error) = watched.await {
                progress::note(format!("the watch of pods has ended: {error:#}"));
            }
        });
        Self { seen, ended, watching }
    }

    /// How many have been put into pods so far.
    pub(super) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// How many of these have not ended.
    pub(super) fn running(&self) -> usize {
        self.seen() - self.ended.load(Ordering::SeqCst)
    }
}

/// One agent, from its start to its end.
async fn play(client: Client, kubelet: Arc<Kubelet>, pod: Target, agent: Agent, states: States) {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let pods = Api::<Pod>::namespaced(client, &namespace);
    // A status has all of them; the API server takes none back that has ended.
    let set_state = async |state: Value| -> Result<()> {
        let statuses: Vec<Value> = {
            let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
            states.insert(agent.name.clone(), state);
            let of_agent = |(name, state): (&String, &Value)| json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state });
            states.iter().map(of_agent).collect()
        };
        let patch = Patch::Merge(json!({ "status": { "ephemeralContainerStatuses": statuses } }));
        // A connection that lay idle may be closed just when it is used again. A kubelet tries again too.
        let mut tries = 0;
        while let Err(error) = pods.patch_status(&name, &PatchParams::default(), &patch).await {
            tries += 1;
            ensure!(tries < 5, "{error}");
        }
        Ok(())
    };
    let live = async {
        let run = agent.args.iter().find_map(|word| word.strip_prefix("--run=")).context("an agent without a run")?;
        let ttl = agent.args.iter().find_map(|word| word.strip_prefix("--ttl=")).context("an agent without a time to live")?;
        let ttl = ttl.parse::<Ttl>()?.duration();
        let begin = Timestamp::now();
        let end = begin + SignedDuration::try_from(ttl)?;
        kubelet.set_log(&namespace, &name, &agent.name, reports::applied(run, begin, end).to_line());
        set_state(json!({ "running": {} })).await?;
        sleep(ttl).await;
        let mut report = reports::removed(run, Timestamp::now(), begin);
        if let Event::Removed(removed) = &mut report.event {
            removed.elapsed_seconds = ttl.as_secs_f64();
        }
        set_state(json!({ "terminated": { "exitCode": 0, "message": report.to_line() } })).await
    };
    if let Err(error) = live.await {
        progress::note(format!("the agent of {name}: {error:#}"));
    }
}
