//! The agent's container, made of nothing but what status has frozen.

use crate::api::PodStatus;
use k8s_openapi::api::core::v1::{Capabilities, EphemeralContainer, SeccompProfile, SecurityContext};
use serde_json::{Value, json};

/// The container that `pod` says is to be put into it.
///
/// uid 0 because capabilities that are added to another user are void; every capability but one is dropped, and what a pod's own
/// security context might say against a root container is overridden here.
#[must_use]
pub fn agent_container(pod: &PodStatus) -> EphemeralContainer {
    EphemeralContainer {
        name: pod.container.clone(),
        image: Some(pod.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(pod.argv.clone()),
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: Some(vec!["NET_ADMIN".to_owned()]) }),
            read_only_root_filesystem: Some(true),
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..SecurityContext::default()
        }),
        // The last heartbeats of an agent that was killed are then in the pod's status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..EphemeralContainer::default()
    }
}

/// The strategic merge patch that adds the container and leaves the others as they are. It names the pod's uid, so that it misses a
/// pod that has taken the place of the one that was planned for.
#[must_use]
pub fn injection_patch(pod: &PodStatus) -> Value {
    json!({
        "metadata": { "uid": pod.uid },
        "spec": { "ephemeralContainers": [agent_container(pod)] },
    })
}
