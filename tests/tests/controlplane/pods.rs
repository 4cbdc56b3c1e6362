//! Pods, and what a kubelet writes about them.

use crate::world::World;
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use netloss_api::{Phase, PodStatus};
use netloss_contract::{Event, Record, SCHEMA};
use netloss_lab::controlplane::reports;
use serde_json::{Value, json};

impl World {
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A running pod with the label app=web.
    pub(crate) async fn pod(&self, name: &str) -> Pod {
        self.pod_with(name, json!({}), json!({})).await
    }

    /// A running pod with the label app=web, and with more of metadata and spec.
    pub(crate) async fn pod_with(&self, name: &str, metadata: Value, spec: Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": name, "labels": { "app": "web" } },
            "spec": { "nodeName": "localhost", "containers": [{ "name": "app", "image": "app", "ports": [] }] },
        });
        merge(&mut pod["metadata"], metadata);
        merge(&mut pod["spec"], spec);
        let pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
        self.set_status(name, json!({ "phase": "Running" })).await
    }

    /// Writes a pod's status, as its kubelet does.
    pub(crate) async fn set_status(&self, name: &str, status: Value) -> Pod {
        let patch = Patch::Merge(json!({ "status": status }));
        self.pods().patch_status(name, &PatchParams::default(), &patch).await.unwrap()
    }

    /// Writes a pod's status that k8s-openapi need not decode.
    pub(crate) async fn set_status_raw(&self, name: &str, status: Value) {
        let path = format!("/api/v1/namespaces/{}/pods/{name}/status", self.namespace);
        let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
        let request = request.body(serde_json::to_vec(&json!({ "status": status })).unwrap()).unwrap();
        self.client.request_text(request).await.unwrap();
    }

    /// Writes the state of an agent's container, as its kubelet does.
    pub(crate) async fn set_state(&self, entry: &PodStatus, state: Value) {
        let status = json!({
            "name": entry.container, "image": entry.image, "imageID": "", "ready": false, "restartCount": 0, "state": state,
        });
        self.set_status(&entry.name, json!({ "ephemeralContainerStatuses": [status] })).await;
    }

    /// Writes that an agent's container runs and that its loss is in place.
    pub(crate) async fn set_applied(&self, entry: &PodStatus) {
        World::node().set_log(entry, self.applied(&run_of(entry)).to_line());
        self.set_state(entry, json!({ "running": {} })).await;
    }

    /// Writes the states of several of netloss's containers in a pod.
    pub(crate) async fn set_states(&self, pod: &str, states: &[(&str, Value)]) {
        let of_container = |(name, state): &(&str, Value)| json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state });
        let statuses: Vec<Value> = states.iter().map(of_container).collect();
        self.set_status(pod, json!({ "ephemeralContainerStatuses": statuses })).await;
    }

    /// The ephemeral containers of a pod.
    pub(crate) async fn agents(&self, pod: &str) -> Vec<EphemeralContainer> {
        self.pods().get(pod).await.unwrap().spec.unwrap().ephemeral_containers.unwrap_or_default()
    }

    /// The ephemeral container of this name.
    pub(crate) async fn agent(&self, pod: &str, name: &str) -> EphemeralContainer {
        let agents = self.agents(pod).await;
        agents.iter().find(|agent| agent.name == name).unwrap_or_else(|| panic!("no {name} in {agents:?}")).clone()
    }

    /// An experiment whose only pod has had its loss in place since second 5.
    pub(crate) async fn running(&self, name: &str, pod: &str) -> PodStatus {
        self.pass(name, 0).await;
        let entry = self.status(name).await.pods[0].clone();
        World::node().set_log(&entry, self.applied(&run_of(&entry)).to_line());
        self.set_states(pod, &[(entry.container.as_str(), json!({ "running": {} }))]).await;
        self.pass(name, 5).await;
        assert_eq!(self.status(name).await.phase, Some(Phase::Running));
        entry
    }

    pub(crate) async fn delete_at_once(&self, pod: &str) {
        self.pods().delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// The agent's first line, once its loss is in place.
    pub(crate) fn applied(&self, run: &str) -> Record {
        reports::applied(run, self.at(5), self.at(35))
    }

    /// The agent's last line, when its time is over.
    pub(crate) fn removed(&self, run: &str) -> Record {
        reports::removed(run, self.at(5), self.at(5))
    }

    /// A line of the agent's.
    pub(crate) fn record(&self, run: &str, event: Event) -> Record {
        Record { schema: SCHEMA, time: self.at(5), run: Some(run.parse().unwrap()), event }
    }
}

/// The name of the run, as the agent was given it.
pub(crate) fn run_of(entry: &PodStatus) -> String {
    entry.argv.iter().find_map(|word| word.strip_prefix("--run=")).unwrap().to_owned()
}

fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            more.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
        }
        (base, more) => *base = more,
    }
}
