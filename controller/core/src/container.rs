//! The agent's container, made of nothing but what status has frozen.

use k8s_openapi::api::core::v1::{Capabilities, EphemeralContainer, SeccompProfile, SecurityContext};
use netloss_api::{PodStatus, SentContainer};
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

/// The container that stops the agent. It speaks to the agent over a socket of the pod's network namespace, and needs no right at all.
#[must_use]
pub fn stop_container(pod: &PodStatus, stop: &SentContainer) -> EphemeralContainer {
    /// `nobody`, on every system.
    const NOBODY: i64 = 65534;
    let mut container = agent_container(pod);
    container.name.clone_from(&stop.container);
    container.args = Some(stop.argv.clone());
    if let Some(context) = &mut container.security_context {
        context.run_as_user = Some(NOBODY);
        context.run_as_group = Some(NOBODY);
        context.run_as_non_root = Some(true);
        context.capabilities = Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None });
    }
    container
}

/// The container that takes away what an agent may have left. It needs what the agent needs.
#[must_use]
pub fn repair_container(pod: &PodStatus, repair: &SentContainer) -> EphemeralContainer {
    let mut container = agent_container(pod);
    container.name.clone_from(&repair.container);
    container.args = Some(repair.argv.clone());
    container
}

/// The image for what is sent after an agent: the agent's, which the node has, unless that is none of ours. A status can be written by others.
#[must_use]
pub fn image_to_send<'a>(planned: &'a str, ours: &'a str) -> &'a str {
    if repository(planned) == repository(ours) { planned } else { ours }
}

/// An image's name without its tag and digest.
#[must_use]
pub fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rfind('/').map_or(0, |at| at + 1);
    name[last..].find(':').map_or(name, |at| &name[..last + at])
}

/// The strategic merge patch that adds the container and leaves the others as they are. It names the pod's uid, so that it misses a
/// pod that has taken the place of the one that was planned for.
#[must_use]
pub fn patch(pod: &PodStatus, container: &EphemeralContainer) -> Value {
    json!({
        "metadata": { "uid": pod.uid },
        "spec": { "ephemeralContainers": [container] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_ours_by_its_name() {
        for (image, name) in [
            ("agent", "agent"),
            ("agent:1", "agent"),
            ("registry:5000/netloss/agent:1@sha256:00", "registry:5000/netloss/agent"),
            ("registry:5000/agent", "registry:5000/agent"),
        ] {
            assert_eq!(repository(image), name);
        }
        assert_eq!(image_to_send("r/agent:1", "r/agent:2"), "r/agent:1");
        assert_eq!(image_to_send("evil/agent:1", "r/agent:2"), "r/agent:2");
    }
}
