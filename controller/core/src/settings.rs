//! What decisions are made with beside what was seen.

use std::time::Duration;

/// Where k8s-chaos's kustomization installs its controller.
pub const CONFLICTING_NAMESPACE: &str = "k8s-chaos-system";

/// What the controller was started with. Of these, only `agent_image` reaches a pod, and only through the status that froze it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Image of the agent.
    pub agent_image: String,
    /// The controller's own namespace, in which it runs no experiments.
    pub own_namespace: String,
    /// Where k8s-chaos's controller runs, if it does.
    pub conflicting_namespaces: Vec<String>,
    /// How long an agent may take to start: image pull included.
    pub start_timeout: Duration,
    /// Whether whoever writes an experiment was asked by the admission webhook whether they may act on its namespace.
    pub trusts_admission: bool,
    /// How long after its deadline an agent's end may take to be seen. Covers clocks that differ and a kubelet that reports late.
    pub grace: Duration,
}

impl Settings {
    /// The times of docs/ARCHITECTURE.md with this image and namespace.
    #[must_use]
    pub fn new(agent_image: impl Into<String>, own_namespace: impl Into<String>) -> Self {
        Self {
            agent_image: agent_image.into(),
            own_namespace: own_namespace.into(),
            conflicting_namespaces: vec![CONFLICTING_NAMESPACE.to_owned()],
            start_timeout: Duration::from_mins(2),
            trusts_admission: false,
            grace: Duration::from_mins(1),
        }
    }
}
