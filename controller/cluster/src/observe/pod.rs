//! A pod object, made into a view.

use super::report;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerState, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use netloss_api::{ChaosExperimentSpec, PodState, PodStatus};
use netloss_contract::CONTAINER_PREFIX;
use netloss_core::{
    ephemeral,
    machine::{AgentLog, AgentState, AgentView, PodView},
    targets::{self, Skip},
};
use std::net::IpAddr;

/// A part of an agent's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Its begin, which says that the loss is in place.
    Begin,
    /// What was said lately.
    Lately,
}

/// What of the agent's log can tell something new.
#[must_use]
pub fn log_to_read(entry: &PodStatus, state: &AgentState) -> Option<Log> {
    if !entry.is_open() {
        return None;
    }
    let untold = match state {
        AgentState::Waiting { .. } => false,
        AgentState::Running => true,
        AgentState::Terminated { last, .. } => !last.as_ref().is_some_and(|record| record.event.is_final()),
    };
    if entry.was_applied() { (*state == AgentState::Running).then_some(Log::Lately) } else { untold.then_some(Log::Begin) }
}

/// What the pods of a run are looked at with.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// The name that the records of the run's agents carry.
    pub run: &'a str,
    /// What the experiment asks for.
    pub spec: &'a ChaosExperimentSpec,
    /// The time.
    pub now: Timestamp,
}

/// The pod that `entry` is about, without its agent's log.
#[must_use]
pub fn view(pod: Option<&Pod>, entry: &PodStatus, lookup: Lookup<'_>) -> PodView {
    let Lookup { run, spec, now } = lookup;
    let Some(pod) = pod else { return PodView::Gone };
    if pod.metadata.uid.as_deref() != Some(&entry.uid) {
        return PodView::Replaced;
    }
    let agent = ephemeral::container(pod, &entry.container).map(|container| {
        Box::new(AgentView {
            args: container.args.clone().unwrap_or_default(),
            state: state(pod, &entry.container, run),
            log: AgentLog::NotRead,
            repair: repair(pod, entry, run),
            stop: entry.stop.as_ref().filter(|stop| has(pod, &stop.container)).map(|stop| state(pod, &stop.container, run)),
        })
    });
    let is_planned = agent.is_none() && entry.state == PodState::Planned;
    let skip = targets::skip(pod, now).or_else(|| if is_planned { not_as_planned(pod, entry, spec) } else { None });
    PodView::Present { skip, new_sandbox: new_sandbox(pod, entry), agent }
}

/// What became of what was to clean up after the agent; after the entry's end, of what has cleaned up since.
fn repair(pod: &Pod, entry: &PodStatus, run: &str) -> Option<AgentState> {
    if entry.state != PodState::Ended {
        return entry.repair.as_ref().filter(|sent| has(pod, &sent.container)).map(|sent| state(pod, &sent.container, run));
    }
    let is_cleaned = entry.ended_at.as_ref().is_some_and(|ended| is_cleaned_since(pod, ended.0));
    is_cleaned.then_some(AgentState::Terminated { exit_code: 0, reason: None, message: None, last: None })
}

/// Whether a container of netloss has looked for what an agent left in this pod and taken it away, after that time.
#[must_use]
pub fn is_cleaned_since(pod: &Pod, since: Timestamp) -> bool {
    let cleaners = ephemeral::containers(pod).filter(|container| {
        container.name.starts_with(CONTAINER_PREFIX) && container.args.iter().flatten().next().is_some_and(|word| word == "cleanup")
    });
    let mut ends = cleaners.filter_map(|container| ephemeral::state(pod, &container.name)?.terminated.as_ref());
    ends.any(|end| end.exit_code == 0 && end.finished_at.as_ref().is_some_and(|at| at.0 >= since))
}

/// Why a pod is not one that the plan can have chosen. An entry of status is no consent: whoever writes it must not direct the loss to a
/// pod that the spec does not select, or to the addresses of its node that the spec excludes.
fn not_as_planned(pod: &Pod, entry: &PodStatus, spec: &ChaosExperimentSpec) -> Option<Skip> {
    let is_selected =
        spec.selector.iter().all(|(key, value)| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value));
    if !is_selected {
        return Some(Skip::NotSelected);
    }
    // Where the arguments are in a record that is gone there is nothing to compare, and nothing is injected.
    let planned =
        entry.argv.iter().filter_map(|argument| argument.strip_prefix("--spare-node=")).filter_map(|text| text.parse::<IpAddr>().ok());
    let is_other = spec.spare_node == Some(true) && !entry.argv.is_empty() && !planned.eq(targets::host_ips(pod));
    is_other.then_some(Skip::OtherNodeAddresses)
}

/// Whether the pod's sandbox was made anew since the loss was brought: it has another address, or the kubelet says when it did.
fn new_sandbox(pod: &Pod, entry: &PodStatus) -> bool {
    let other_address = entry.pod_ip.is_some() && targets::ip(pod).is_some_and(|ip| entry.pod_ip != Some(ip));
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let network_since = conditions
        .filter(|condition| condition.type_ == "PodReadyToStartContainers")
        .find_map(|condition| condition.last_transition_time.as_ref());
    // All by the node's clock. When the loss was brought says the agent's report, which somebody else in the pod may have written; that its
    // container had been started by then says the kubelet.
    let made_later = network_since.zip(entry.applied_at.as_ref()).is_some_and(|(since, applied)| {
        let started = ephemeral::state(pod, &entry.container).and_then(started_at);
        since.0 > applied.0 && started.is_none_or(|started| since.0 > started.0)
    });
    other_address || made_later
}

fn started_at(state: &ContainerState) -> Option<&Time> {
    let of_running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    of_running.or(state.terminated.as_ref().and_then(|ended| ended.started_at.as_ref()))
}

fn has(pod: &Pod, container: &str) -> bool {
    ephemeral::container(pod, container).is_some()
}

fn state(pod: &Pod, container: &str, run: &str) -> AgentState {
    let status = ephemeral::status(pod, container);
    let made = status.is_some_and(|status| status.container_id.as_ref().is_some_and(|id| !id.is_empty()));
    match status.and_then(|status| status.state.as_ref()) {
        Some(ContainerState { terminated: Some(ended), .. }) => {
            let text = ended.message.as_deref().unwrap_or_default();
            let last = report::last(text, run).map(Box::new);
            let message = ended.message.clone().filter(|_| last.is_none());
            AgentState::Terminated { exit_code: ended.exit_code, reason: ended.reason.clone(), message, last }
        }
        Some(ContainerState { running: Some(_), .. }) => AgentState::Running,
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            AgentState::Waiting { made, reason: waiting.reason.clone(), message: waiting.message.clone() }
        }
        // The kubelet has not seen it yet.
        _ => AgentState::Waiting { made, reason: None, message: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::{at, entry, spec};
    use serde_json::{Value, json};

    fn seen(overlay: &Value) -> PodView {
        let entry = entry();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": entry.name, "namespace": entry.namespace, "uid": entry.uid },
            "spec": { "containers": [{ "name": "app" }], "ephemeralContainers": [{ "name": entry.container, "args": entry.argv }] },
            "status": { "phase": "Running", "ephemeralContainerStatuses": [
                { "name": entry.container, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": overlay },
            ] },
        }))
        .unwrap();
        view(Some(&pod), &entry, Lookup { run: "uid/1", spec: &spec(), now: at(0) })
    }

    fn state_of(view: PodView) -> AgentState {
        match view {
            PodView::Present { agent: Some(agent), .. } => agent.state,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_that_took_the_name_of_another_is_not_that_pod() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "uid": "another" } })).unwrap();
        assert_eq!(view(Some(&pod), &entry(), Lookup { run: "uid/1", spec: &spec(), now: at(0) }), PodView::Replaced);
        assert_eq!(view(None, &entry(), Lookup { run: "uid/1", spec: &spec(), now: at(0) }), PodView::Gone);
    }

    #[test]
    fn a_planned_pod_is_one_that_the_spec_selects() {
        let skip = |labels: Value, argv: &[&str], spare_node: bool| {
            let entry = PodStatus { argv: argv.iter().map(|&word| word.to_owned()).collect(), ..entry() };
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": entry.name, "namespace": entry.namespace, "uid": entry.uid, "labels": labels },
                "spec": { "containers": [{ "name": "app" }] },
                "status": { "phase": "Running", "hostIPs": [{ "ip": "172.18.0.2" }, { "ip": "fc00::2" }] },
            }))
            .unwrap();
            let spec = ChaosExperimentSpec { spare_node: Some(spare_node), ..spec() };
            let PodView::Present { skip, agent: None, .. } = view(Some(&pod), &entry, Lookup { run: "uid/1", spec: &spec, now: at(0) })
            else {
                panic!("it is there")
            };
            skip
        };
        let web = || json!({ "app": "web", "tier": "front" });
        assert_eq!(skip(web(), &["run"], false), None);
        assert_eq!(skip(json!({ "app": "db" }), &["run"], false), Some(Skip::NotSelected));
        assert_eq!(skip(json!({}), &["run"], false), Some(Skip::NotSelected));
        assert_eq!(skip(web(), &["run", "--spare-node=172.18.0.2", "--spare-node=fc00::2"], true), None);
        assert_eq!(skip(web(), &["run", "--spare-node=172.18.0.9", "--spare-node=fc00::2"], true), Some(Skip::OtherNodeAddresses));
        assert_eq!(skip(web(), &["run"], true), Some(Skip::OtherNodeAddresses));
    }

    #[test]
    fn states_are_the_kubelets() {
        assert_eq!(state_of(seen(&json!({ "running": {} }))), AgentState::Running);
        assert_eq!(state_of(seen(&json!({}))), AgentState::Waiting { made: false, reason: None, message: None });
        let waiting = AgentState::Waiting { made: false, reason: Some("ImagePullBackOff".to_owned()), message: Some("no".to_owned()) };
        assert_eq!(state_of(seen(&json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no" } }))), waiting);
    }

    #[test]
    fn a_container_that_is_made_has_an_id() {
        let made = |overlay: &Value| {
            let pod = json!({ "status": { "ephemeralContainerStatuses": [
                { "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "containerID": overlay, "state": { "waiting": {} } },
            ] } });
            state(&serde_json::from_value(pod).unwrap(), "a", "uid/1")
        };
        assert_eq!(made(&json!("containerd://f00")), AgentState::Waiting { made: true, reason: None, message: None });
        assert_eq!(made(&json!("")), AgentState::Waiting { made: false, reason: None, message: None });
    }

    /// Or else nobody would look at what an agent has left that was killed in a pod that forged when its loss began.
    #[test]
    fn a_sandbox_that_is_older_than_the_agents_container_is_not_new() {
        let new_sandbox = |since: &str, applied: &str| {
            let entry = PodStatus { applied_at: Some(Time(applied.parse().unwrap())), ..entry() };
            let state = json!({ "terminated": { "exitCode": 137, "startedAt": "2027-01-15T08:00:00Z" } });
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": entry.name, "namespace": entry.namespace, "uid": entry.uid },
                "status": {
                    "conditions": [{ "type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": since }],
                    "ephemeralContainerStatuses": [
                        { "name": entry.container, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state },
                    ],
                },
            }))
            .unwrap();
            matches!(
                view(Some(&pod), &entry, Lookup { run: "uid/1", spec: &spec(), now: at(0) }),
                PodView::Present { new_sandbox: true, .. }
            )
        };
        assert!(new_sandbox("2027-01-15T08:00:30Z", "2027-01-15T08:00:10Z"));
        assert!(!new_sandbox("2027-01-15T07:00:00Z", "2027-01-15T08:00:10Z"));
        assert!(!new_sandbox("2027-01-15T07:00:00Z", "1970-01-01T00:00:00Z"), "forged");
    }

    #[test]
    fn words_that_are_no_report_are_kept_as_words() {
        let ended = state_of(seen(&json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "no such file" } })));
        let AgentState::Terminated { exit_code: 128, message: Some(message), last: None, .. } = ended else { panic!("{ended:?}") };
        assert_eq!(message, "no such file");
    }
}
