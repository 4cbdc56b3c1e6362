//! What is seen of pods, made into what [`crate::machine::decide`] needs.
//!
//! Everything that comes out of a pod is read within limits and believed only where it carries the run's name: the log and the
//! termination message are written by a process in somebody else's pod.

mod pod;
mod report;

use crate::{
    api::{ChaosExperimentStatus, PodState, PodStatus},
    machine::{AgentLog, AgentState, Experiment, Needs, Observed, PodView},
    targets::{self, Candidate},
};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
};
use std::{collections::BTreeMap, time::Duration};

/// Requests about pods that are under way at a time for one experiment.
pub(crate) const CONCURRENCY: usize = 8;

/// What is read of a log, from its begin, in bytes: the record that the loss is in place is its first line.
const LOG_BYTES: i64 = 16 * 1024;

/// How long a log may take: the API server asks the node's kubelet for it. A hundred unreachable ones still fit into one pass.
const LOG_TIMEOUT: Duration = Duration::from_secs(3);

/// Pods of one page of a list.
const PAGE: u32 = 500;

/// Looks at what is needed.
///
/// # Errors
/// When the API server cannot answer. That it does not allow to read one pod is an observation, not an error.
pub async fn observe(client: &Client, experiment: &Experiment<'_>, needs: &Needs) -> kube::Result<Observed> {
    match (needs, experiment.status) {
        (Needs::Candidates { namespace, selector }, _) => candidates(client, namespace, selector).await,
        (Needs::Pods, Some(status)) => pods(client, experiment.uid, status).await,
        (Needs::Pods, None) | (Needs::Nothing, _) => Ok(Observed::Nothing),
    }
}

async fn candidates(client: &Client, namespace: &str, selector: &BTreeMap<String, String>) -> kube::Result<Observed> {
    let labels = Api::<Namespace>::all(client.clone()).get(namespace).await?.metadata.labels;
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let selector = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let mut page = ListParams::default().labels(&selector).limit(PAGE);
    let mut pods = Vec::new();
    loop {
        let list = api.list(&page).await?;
        pods.extend(list.items.iter().map(Candidate::of));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(Observed::Candidates { namespace_excluded: targets::is_excluded(labels.as_ref()), pods }),
        }
    }
}

async fn pods(client: &Client, experiment_uid: &str, status: &ChaosExperimentStatus) -> kube::Result<Observed> {
    let run = format!("{experiment_uid}/{}", status.run.unwrap_or_default());
    let mut open = status.pods.clone();
    open.retain(|entry| entry.state != PodState::Ended);
    let views = stream::iter(open).map(|entry| {
        let run = &run;
        async move { view(client, &entry, run).await.map(|view| (entry.uid, view)) }
    });
    Ok(Observed::Pods(views.buffer_unordered(CONCURRENCY).try_collect().await?))
}

/// One pod of status, with its agent's log where that can tell something new.
pub(crate) async fn view(client: &Client, entry: &PodStatus, run: &str) -> kube::Result<PodView> {
    let api = Api::<Pod>::namespaced(client.clone(), &entry.namespace);
    let pod = match api.get_opt(&entry.name).await {
        Ok(pod) => pod,
        // Refused for good, for one pod. Anything else may be different the next time, for all of them.
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(PodView::Unreadable(status.message)),
        Err(error) => return Err(error),
    };
    let mut view = pod::view(pod.as_ref(), entry, run);
    if let PodView::Present { agent: Some(agent), .. } = &mut view {
        let untold = match &agent.state {
            AgentState::Waiting { .. } => false,
            AgentState::Running => true,
            AgentState::Terminated { last, .. } => !last.as_ref().is_some_and(|record| record.event.is_final()),
        };
        if untold && !entry.was_applied() {
            agent.log = log(&api, entry, run).await;
        }
    }
    Ok(view)
}

async fn log(api: &Api<Pod>, entry: &PodStatus, run: &str) -> AgentLog {
    let params = LogParams { container: Some(entry.container.clone()), limit_bytes: Some(LOG_BYTES), ..LogParams::default() };
    match tokio::time::timeout(LOG_TIMEOUT, api.logs(&entry.name, &params)).await {
        Ok(Ok(text)) => report::of_log(&text, run),
        Ok(Err(error)) => AgentLog::Unreadable(error.to_string()),
        Err(_) => AgentLog::Unreadable(format!("no answer within {LOG_TIMEOUT:?}")),
    }
}
