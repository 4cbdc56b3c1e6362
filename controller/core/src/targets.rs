//! Which pods an experiment may act on, and which of them it takes.

use crate::{
    ephemeral,
    refusal::{Refusal, RefusalReason},
    sanitize::some_of,
    settings::Settings,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, EphemeralContainer, Pod};
use kube::core::ObjectMeta;
use netloss_api::{ALLOW_FROM_ANNOTATION, EXCLUDE_LABEL, PRODUCTION_ANNOTATION, stable_hash};
use netloss_contract::CONTAINER_PREFIX;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

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
    /// Its own first address.
    pub ip: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Pods with the same one are made alike.
    pub template: String,
    /// How many containers of netloss it carries.
    pub containers: usize,
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
    /// It was planned for and does not carry the labels of `spec.selector`.
    NotSelected,
    /// `spec.spareNode` is true, and the plan excludes other addresses than those of its node.
    OtherNodeAddresses,
    /// The API server has it in a form that this version does not read; why.
    Unreadable(String),
    /// An agent, with this container name, works in it or is about to.
    AgentActive(String),
    /// It carries as many containers of netloss as a pod may: none of them can ever be taken out.
    Full(usize),
}

/// Containers of netloss that a pod may carry. Each makes the pod's object larger for good: by 9 KB at most (arguments of 7 KB with 100 filters, and its
/// spec and state), so that 50 take less than a third of the 1.5 MiB that etcd stores by default.
pub const CONTAINER_LIMIT: usize = 50;
/// Of these, what is kept for stopping an agent and for taking away what it left: one container each.
pub const RESERVED: usize = 2;

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
            Self::NotSelected => f.write_str("it does not carry the labels of spec.selector"),
            Self::OtherNodeAddresses => f.write_str("spec.spareNode is true and the plan has other addresses than those of its node"),
            Self::Unreadable(why) => write!(f, "it does not decode: {why}"),
            Self::Full(count) => write!(f, "it carries {count} containers of netloss, which only a new pod is rid of: delete the pod"),
            Self::AgentActive(container) => write!(f, "another run is active in it (container {container})"),
        }
    }
}

impl Candidate {
    /// What matters of a pod.
    #[must_use]
    pub fn of(pod: &Pod, now: Timestamp) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let target = Target {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        };
        let ready = is_ready(pod) && skip(pod, now).is_none_or(|skip| matches!(skip, Skip::AgentActive(_) | Skip::Full(_)));
        Self {
            host_ips: host_ips(pod),
            ip: ip(pod),
            ready,
            template: template(pod),
            containers: containers(pod),
            skip: skip(pod, now),
            target,
        }
    }
}

impl Candidate {
    /// A pod of which its metadata alone is known.
    #[must_use]
    pub fn unreadable(metadata: &ObjectMeta, error: &str) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let target = Target { namespace: text(&metadata.namespace), name: text(&metadata.name), uid: text(&metadata.uid), node: None };
        Self {
            template: target.uid.clone(),
            target,
            host_ips: Vec::new(),
            ip: None,
            ready: false,
            containers: 0,
            skip: Some(Skip::Unreadable(error.to_owned())),
        }
    }

    /// Whether it counts for `spec.maxPercentage` while a run is under way: an agent in a pod does not take it out of the count.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        matches!(self.skip, None | Some(Skip::AgentActive(_)))
    }
}

/// Whether the kubelet says so.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A pod's first address.
#[must_use]
pub fn ip(pod: &Pod) -> Option<String> {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone())
}

/// What made the pod, and from what: its controller and that one's template, as far as it shows.
fn template(pod: &Pod) -> String {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let labels = pod.metadata.labels.iter().flatten();
    let hash = labels.filter(|(key, _)| matches!(key.as_str(), "pod-template-hash" | "controller-revision-hash")).map(|(_, value)| value);
    let hash: Vec<&str> = hash.map(String::as_str).collect();
    match owner {
        Some(owner) => format!("{}/{}", owner.uid, hash.join("/")),
        None => pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// The addresses by which a pod's node is known.
#[must_use]
pub fn host_ips(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.host_ips.iter().flatten().map(|address| address.ip.as_str());
    // Older kubelets say the first alone.
    let addresses: BTreeSet<IpAddr> = all.chain(status.host_ip.as_deref()).filter_map(|text| text.parse().ok()).collect();
    addresses.into_iter().collect()
}

/// Why a pod may not be acted on, if so. What lasts is named before what passes.
#[must_use]
pub fn skip(pod: &Pod, now: Timestamp) -> Option<Skip> {
    let Some(spec) = &pod.spec else { return Some(Skip::NotRunning) };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let mirror = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION));
    [
        (spec.host_network == Some(true), Skip::HostNetwork),
        (mirror, Skip::Mirror),
        (spec.os.as_ref().is_some_and(|os| os.name == "windows"), Skip::Windows),
        // First of all: a pod that has ended has, whatever label it was given since.
        (matches!(phase, Some("Succeeded" | "Failed")), Skip::Finished),
        (pod.metadata.deletion_timestamp.is_some(), Skip::Terminating),
        (is_excluded(pod.metadata.labels.as_ref()), Skip::Excluded),
        (phase != Some("Running"), Skip::NotRunning),
    ]
    .into_iter()
    .find_map(|(applies, skip)| applies.then_some(skip))
    .or_else(|| active_agent(pod, now).map(Skip::AgentActive))
    .or_else(|| {
        let count = containers(pod);
        (count + RESERVED >= CONTAINER_LIMIT).then_some(Skip::Full(count))
    })
}

/// How many containers of netloss a pod carries.
#[must_use]
pub fn containers(pod: &Pod) -> usize {
    let all = ephemeral::containers(pod);
    all.filter(|container| container.name.starts_with(CONTAINER_PREFIX)).count()
}

/// Whether labels of a pod or a namespace exclude it.
#[must_use]
pub fn is_excluded(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.and_then(|labels| labels.get(EXCLUDE_LABEL)).is_some_and(|value| value == "true")
}

/// What matters of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Whether it carries [`EXCLUDE_LABEL`].
    pub excluded: bool,
    /// By what it is a production namespace, if it is.
    pub production: Option<String>,
    /// The value of [`ALLOW_FROM_ANNOTATION`].
    pub allows_from: Option<String>,
    /// Why the controller may not look at it, if so: a controller of single namespaces, for one, sees no others.
    pub hidden: Option<String>,
}

impl NamespaceFacts {
    /// What matters of a namespace.
    #[must_use]
    pub fn of(name: &str, labels: Option<&BTreeMap<String, String>>, annotations: Option<&BTreeMap<String, String>>) -> Self {
        let has = |map: Option<&BTreeMap<String, String>>, key: &str, value: &str| {
            map.and_then(|map| map.get(key)).is_some_and(|is| is == value).then(|| format!("{key}: {value}"))
        };
        let mark = has(annotations, PRODUCTION_ANNOTATION, "true").map(|mark| format!("its annotation {mark}"));
        let label = [("environment", "production"), ("env", "prod")].into_iter().find_map(|(key, value)| has(labels, key, value));
        let is_named_so = ["prod", "production"].into_iter().any(|word| {
            name == word
                || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('-'))
                || name.strip_suffix(word).is_some_and(|rest| rest.ends_with('-'))
        });
        let production =
            mark.or_else(|| label.map(|label| format!("its label {label}"))).or_else(|| is_named_so.then(|| "its name".to_owned()));
        Self {
            excluded: is_excluded(labels),
            production,
            allows_from: annotations.and_then(|annotations| annotations.get(ALLOW_FROM_ANNOTATION)).cloned(),
            hidden: None,
        }
    }

    /// Whether it opens itself to experiments of that namespace.
    #[must_use]
    pub fn allows(&self, from: &str) -> bool {
        self.allows_from.iter().flat_map(|names| names.split(',')).map(str::trim).any(|name| name == "*" || name == from)
    }
}

/// Why no pod of the namespace may be acted on, if so, for an experiment of the namespace `own`.
#[must_use]
pub fn refusal(facts: &NamespaceFacts, namespace: &str, own: &str, allow_production: bool, settings: &Settings) -> Option<Refusal> {
    if let Some(why) = &facts.hidden {
        let words = format!(
            "spec.namespace is \"{namespace}\", which netloss's controller may not look at ({why}): name a namespace that it watches"
        );
        return Some(Refusal::new(RefusalReason::NamespaceNotAllowed, words));
    }
    if namespace != own && !settings.trusts_admission && !facts.allows(own) {
        let words = format!(
            "spec.namespace is \"{namespace}\", which is not open to experiments of the namespace \"{own}\": create the experiment in \"{namespace}\", \
             or annotate that namespace with {ALLOW_FROM_ANNOTATION}: {own} (its author's right, where the webhook has asked for it, counts for runs that \
             begin within an hour of its creation)"
        );
        return Some(Refusal::new(RefusalReason::NamespaceNotAllowed, words));
    }
    if facts.excluded {
        let words = format!("No eligible pods: the namespace \"{namespace}\" carries the label {EXCLUDE_LABEL}");
        return Some(Refusal::new(RefusalReason::NoEligiblePods, words));
    }
    let why = facts.production.as_ref().filter(|_| !allow_production)?;
    let words = format!("\"{namespace}\" is a production namespace by {why}: set spec.allowProduction: true if it is meant");
    Some(Refusal::new(RefusalReason::Production, words))
}

/// Why nothing is begun while k8s-chaos's controller runs in this pod.
#[must_use]
pub fn conflicting_controller(pod: &str) -> String {
    format!("k8s-chaos's controller is active (pod {pod}) and acts on the same experiments: uninstall it or scale it to 0")
}

/// Why there is nobody to act on.
#[must_use]
pub fn no_eligible_pods(selector: &BTreeMap<String, String>, namespace: &str, pods: &[Candidate]) -> Refusal {
    let refusal = |words: String| Refusal::new(RefusalReason::NoEligiblePods, words);
    let labels = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    if pods.is_empty() {
        return refusal(format!("No eligible pods: none in the namespace \"{namespace}\" has the labels {labels}"));
    }
    let first = pods.iter().filter_map(|pod| pod.skip.as_ref().map(|skip| format!("{}: {skip}", pod.target.name)));
    let reasons = some_of(first);
    refusal(format!(
        "No eligible pods: none of the {} in the namespace \"{namespace}\" with the labels {labels} may be acted on ({reasons})",
        pods.len()
    ))
}

/// How long after the deadline in its arguments a container that never started may still be taken to start. A judgement: twelve times the difference of
/// clocks that is reported (`events::MAX_SKEW`); a later start changes nothing, as the agent ends with 5 by its own clock.
const LATE_START: SignedDuration = SignedDuration::from_mins(1);

/// Containers of netloss's (or of k8s-chaos's, which names them alike) that have not ended. One without a state yet is about to start, unless its deadline has
/// passed: then it changes nothing if it does (an image that cannot be pulled, a kubelet that created it and never started it).
pub fn active_containers(pod: &Pod, now: Timestamp) -> impl Iterator<Item = &EphemeralContainer> {
    let deadline = |container: &EphemeralContainer| {
        let deadline = container.args.iter().flatten().find_map(|argument| argument.strip_prefix("--deadline="));
        deadline.and_then(|text| text.parse::<Timestamp>().ok())
    };
    let is_active = move |container: &&EphemeralContainer| match ephemeral::state(pod, &container.name) {
        Some(ContainerState { terminated: Some(_), .. }) => false,
        Some(ContainerState { running: Some(_), .. }) => true,
        _ => deadline(container).is_none_or(|deadline| now.duration_since(deadline) <= LATE_START),
    };
    ephemeral::containers(pod).filter(|container| container.name.starts_with(CONTAINER_PREFIX)).filter(is_active)
}

/// The name of an agent's container that has not ended.
#[must_use]
pub fn active_agent(pod: &Pod, now: Timestamp) -> Option<String> {
    active_containers(pod, now).next().map(|container| container.name.clone())
}

/// Takes up to `count` of the candidates that may be acted on: at random for an observer, always the same for one run.
#[must_use]
pub fn choose<'a>(candidates: &'a [Candidate], count: u32, experiment_uid: &str, run: u32) -> Vec<&'a Candidate> {
    let mut eligible: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.skip.is_none()).collect();
    let uid = |pod: &Candidate| pod.target.uid.clone();
    eligible.sort_by_cached_key(|pod| (stable_hash(&[experiment_uid, &run.to_string(), &uid(pod)]), uid(pod)));
    eligible.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    eligible
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::at;
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
        assert_eq!(skip(&pod(json!({})), at(0)), None);
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
            (
                json!({ "metadata": { "labels": { "chaos.gushchin.dev/exclude": "true" } }, "status": { "phase": "Succeeded" } }),
                Some(Skip::Finished),
            ),
            (json!({ "spec": { "ephemeralContainers": [{ "name": "network-loss-abc-r1-a1" }] } }), Some(active.clone())),
            (json!({ "spec": { "ephemeralContainers": [{ "name": "debugger" }] } }), None),
            (agent(json!({ "running": {} })), Some(active)),
            (agent(json!({ "terminated": { "exitCode": 0 } })), None),
        ] {
            assert_eq!(skip(&pod(overlay.clone()), at(0)), expected, "{overlay}");
        }
    }

    /// A kubelet that was killed between creating and starting a container, or an image that cannot be pulled.
    #[test]
    fn a_container_that_never_started_blocks_its_pod_until_its_deadline() {
        let name = "network-loss-abc-r1-a1-stop";
        let skip_at = |state: Value, args: Value, seconds: i64| {
            let pod = pod(json!({
                "spec": { "ephemeralContainers": [{ "name": name, "args": args }] },
                "status": { "ephemeralContainerStatuses": [
                    { "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "containerID": "containerd://1", "state": state },
                ] },
            }));
            skip(&pod, at(seconds))
        };
        let active = Some(Skip::AgentActive(name.to_owned()));
        let args = json!(["stop", format!("--deadline={}", at(100))]);
        for state in [json!({}), json!({ "waiting": { "reason": "ImagePullBackOff" } })] {
            assert_eq!(skip_at(state.clone(), args.clone(), 100), active);
            assert_eq!(skip_at(state.clone(), args.clone(), 160), active, "clocks differ");
            assert_eq!(skip_at(state.clone(), args.clone(), 161), None);
            assert_eq!(skip_at(state, json!(["stop"]), 161), active, "no deadline");
        }
        assert_eq!(skip_at(json!({ "running": {} }), args, 1000), active);
    }

    fn candidates(count: usize) -> Vec<Candidate> {
        let target = |n: usize| Target { namespace: "n".to_owned(), name: format!("p{n}"), uid: format!("uid-{n}"), node: None };
        let candidate = |n| Candidate {
            target: target(n),
            host_ips: vec![],
            ip: None,
            ready: true,
            template: String::new(),
            containers: 0,
            skip: (n % 5 == 4).then_some(Skip::Excluded),
        };
        (0..count).map(candidate).collect()
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
