//! Which pods an experiment may act on, and which of them it takes.

use crate::order::rank;
use k8s_openapi::api::core::v1::Pod;
use netloss_contract::CONTAINER_PREFIX;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// A pod or a namespace that carries this label with the value "true" is never acted on.
pub const EXCLUDE_LABEL: &str = "chaos.gushchin.dev/exclude";

/// Marks the API server's copy of a pod that the kubelet runs from a file.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// A pod that could be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Where it runs.
    pub node: Option<String>,
}

/// A pod that has the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The pod.
    pub target: Target,
    /// Addresses of its node, of both families.
    pub host_ips: Vec<IpAddr>,
    /// Why it may not be acted on, if so.
    pub skip: Option<Skip>,
}

/// Why a pod is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Skip {
    /// Its containers have all ended.
    Finished,
    /// It is not running yet.
    NotRunning,
    /// It is being deleted.
    Terminating,
    /// It shares the network of its node.
    HostNetwork,
    /// The kubelet runs it from a file; the API server has only a copy.
    Mirror,
    /// netem is Linux.
    Windows,
    /// It carries [`EXCLUDE_LABEL`].
    Excluded,
    /// An agent, with this container name, works in it or is about to.
    AgentActive(String),
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("it has finished"),
            Self::NotRunning => f.write_str("it is not running yet"),
            Self::Terminating => f.write_str("it is terminating"),
            Self::HostNetwork => f.write_str("it uses its node's network"),
            Self::Mirror => f.write_str("it is a static pod"),
            Self::Windows => f.write_str("it runs Windows"),
            Self::Excluded => write!(f, "it carries the label {EXCLUDE_LABEL}"),
            Self::AgentActive(container) => write!(f, "another run is active in it (container {container})"),
        }
    }
}

impl Candidate {
    /// What matters of a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let target = Target {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        };
        Self { target, host_ips: host_ips(pod), skip: skip(pod) }
    }
}

/// The addresses by which a pod's node is known.
fn host_ips(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.host_ips.iter().flatten().map(|address| address.ip.as_str());
    // Older kubelets say the first alone.
    let addresses: BTreeSet<IpAddr> = all.chain(status.host_ip.as_deref()).filter_map(|text| text.parse().ok()).collect();
    addresses.into_iter().collect()
}

/// Why a pod may not be acted on, if so. What lasts is named before what passes.
#[must_use]
pub fn skip(pod: &Pod) -> Option<Skip> {
    let Some(spec) = &pod.spec else { return Some(Skip::NotRunning) };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let mirror = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION));
    [
        (spec.host_network == Some(true), Skip::HostNetwork),
        (mirror, Skip::Mirror),
        (spec.os.as_ref().is_some_and(|os| os.name == "windows"), Skip::Windows),
        (is_excluded(pod.metadata.labels.as_ref()), Skip::Excluded),
        (matches!(phase, Some("Succeeded" | "Failed")), Skip::Finished),
        (pod.metadata.deletion_timestamp.is_some(), Skip::Terminating),
        (phase != Some("Running"), Skip::NotRunning),
    ]
    .into_iter()
    .find_map(|(applies, skip)| applies.then_some(skip))
    .or_else(|| active_agent(pod).map(Skip::AgentActive))
}

/// Whether labels of a pod or a namespace exclude it.
#[must_use]
pub fn is_excluded(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.and_then(|labels| labels.get(EXCLUDE_LABEL)).is_some_and(|value| value == "true")
}

/// The name of an agent's container that has not ended. One without a state yet is about to start.
fn active_agent(pod: &Pod) -> Option<String> {
    let statuses = pod.status.iter().flat_map(|status| status.ephemeral_container_statuses.iter().flatten());
    let ended: Vec<&str> = statuses
        .filter(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()))
        .map(|status| status.name.as_str())
        .collect();
    let containers = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    containers
        .map(|container| container.name.as_str())
        .find(|name| name.starts_with(CONTAINER_PREFIX) && !ended.contains(name))
        .map(str::to_owned)
}

/// Takes up to `count` of the candidates that may be acted on: at random for an observer, always the same for one run.
#[must_use]
pub fn choose<'a>(candidates: &'a [Candidate], count: u32, experiment_uid: &str, run: u32) -> Vec<&'a Candidate> {
    let mut eligible: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.skip.is_none()).collect();
    let uid = |pod: &Candidate| pod.target.uid.clone();
    eligible.sort_by_cached_key(|pod| (rank(&[experiment_uid, &run.to_string(), &uid(pod)]), uid(pod)));
    eligible.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    eligible
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A running pod with an overlay.
    fn pod(overlay: Value) -> Pod {
        fn merge(base: &mut Value, overlay: Value) {
            match (base, overlay) {
                (Value::Object(base), Value::Object(overlay)) => {
                    overlay.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
                }
                (base, overlay) => *base = overlay,
            }
        }
        let mut base = json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [{ "name": "app" }], "nodeName": "node" },
            "status": { "phase": "Running" },
        });
        merge(&mut base, overlay);
        serde_json::from_value(base).unwrap()
    }

    #[test]
    fn a_running_pod_may_be_acted_on() {
        assert_eq!(skip(&pod(json!({}))), None);
    }

    #[test]
    fn unsafe_pods_are_skipped_with_their_reason() {
        let agent = |state: Value| {
            json!({
                "spec": { "ephemeralContainers": [{ "name": "network-loss-abc-r1-a1" }] },
                "status": { "ephemeralContainerStatuses": [
                    { "name": "network-loss-abc-r1-a1", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state },
                ] },
            })
        };
        let active = Skip::AgentActive("network-loss-abc-r1-a1".to_owned());
        for (overlay, expected) in [
            (json!({ "spec": { "hostNetwork": true } }), Some(Skip::HostNetwork)),
            (json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "hash" } } }), Some(Skip::Mirror)),
            (json!({ "spec": { "os": { "name": "windows" } } }), Some(Skip::Windows)),
            (json!({ "metadata": { "labels": { "chaos.gushchin.dev/exclude": "true" } } }), Some(Skip::Excluded)),
            (json!({ "metadata": { "labels": { "chaos.gushchin.dev/exclude": "false" } } }), None),
            (json!({ "metadata": { "deletionTimestamp": "2026-11-23T12:00:00Z" } }), Some(Skip::Terminating)),
            (json!({ "status": { "phase": "Pending" } }), Some(Skip::NotRunning)),
            (json!({ "status": { "phase": "Succeeded" } }), Some(Skip::Finished)),
            (json!({ "spec": { "ephemeralContainers": [{ "name": "network-loss-abc-r1-a1" }] } }), Some(active.clone())),
            (json!({ "spec": { "ephemeralContainers": [{ "name": "debugger" }] } }), None),
            (agent(json!({ "running": {} })), Some(active)),
            (agent(json!({ "terminated": { "exitCode": 0 } })), None),
        ] {
            assert_eq!(skip(&pod(overlay.clone())), expected, "{overlay}");
        }
    }

    fn candidates(count: usize) -> Vec<Candidate> {
        let target = |n: usize| Target { namespace: "n".to_owned(), name: format!("p{n}"), uid: format!("uid-{n}"), node: None };
        (0..count).map(|n| Candidate { target: target(n), host_ips: vec![], skip: (n % 5 == 4).then_some(Skip::Excluded) }).collect()
    }

    #[test]
    fn the_choice_is_stable_for_a_run_and_differs_between_runs() {
        let forward = candidates(50);
        let backward: Vec<_> = forward.iter().rev().cloned().collect();
        let names = |chosen: Vec<&Candidate>| chosen.into_iter().map(|pod| pod.target.name.clone()).collect::<Vec<_>>();
        let first = names(choose(&forward, 10, "experiment", 1));
        assert_eq!(first, names(choose(&backward, 10, "experiment", 1)));
        assert_ne!(first, names(choose(&forward, 10, "experiment", 2)));
        assert_ne!(first, names(choose(&forward, 10, "other", 1)));
    }

    #[test]
    fn every_eligible_pod_is_chosen_about_as_often_as_any_other() {
        let pods = candidates(20); // 16 of them eligible
        let mut chosen: BTreeMap<&str, u32> = BTreeMap::new();
        for run in 0..4000 {
            for pod in choose(&pods, 4, "experiment", run) {
                *chosen.entry(&pod.target.name).or_default() += 1;
            }
        }
        assert_eq!(chosen.len(), 16);
        // Expected 1000 each, with a standard deviation of 27.
        assert!(chosen.values().all(|times| (830..=1170).contains(times)), "{chosen:?}");
    }

    #[test]
    fn no_more_are_chosen_than_there_are() {
        assert_eq!(choose(&candidates(5), 100, "experiment", 1).len(), 4);
    }
}
