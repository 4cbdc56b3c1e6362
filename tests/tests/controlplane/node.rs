//! A node whose kubelet answers nothing but requests for logs.

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use netloss_api::PodStatus;
use netloss_lab::controlplane::Pki;
use netloss_lab::controlplane::kubelet::Kubelet;
use serde_json::json;

/// The node `localhost`.
pub(crate) struct Node {
    kubelet: Kubelet,
}

impl Node {
    /// Makes the node's object and serves its logs until the tests end.
    pub(crate) async fn start(client: Client, pki: &Pki) -> Self {
        let kubelet = Kubelet::start(pki).unwrap();
        let api = Api::<NodeObject>::all(client);
        let node = serde_json::from_value(json!({ "metadata": { "name": "localhost" } })).unwrap();
        api.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({ "status": kubelet.address() });
        api.patch_status("localhost", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        Self { kubelet }
    }

    /// What the agent's log in this pod says from now on.
    pub(crate) fn set_log(&self, entry: &PodStatus, text: impl Into<Vec<u8>>) {
        self.kubelet.set_log(&entry.namespace, &entry.name, &entry.container, text.into());
    }
}
