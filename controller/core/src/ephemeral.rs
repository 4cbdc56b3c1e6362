//! A pod's ephemeral containers, and what the kubelet says of them.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, EphemeralContainer, Pod};

/// Those that the pod's spec has.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

/// The one of this name.
#[must_use]
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a EphemeralContainer> {
    containers(pod).find(|container| container.name == name)
}

/// What the kubelet says of the one of this name; none where it has not seen it yet.
#[must_use]
pub fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let mut statuses = pod.status.iter().flat_map(|status| status.ephemeral_container_statuses.iter().flatten());
    statuses.find(|status| status.name == name)
}

/// The state that it is in.
#[must_use]
pub fn state<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerState> {
    status(pod, name)?.state.as_ref()
}
