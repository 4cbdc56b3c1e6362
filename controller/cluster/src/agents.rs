//! The agents that are in pods, whatever experiments say of them.

use crate::observe::is_cleaned_since;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use kube::ResourceExt;
use netloss_api::{ChaosExperiment, ChaosExperimentSpec, ChaosExperimentStatus, Phase, PodState, PodStatus};
use netloss_contract::{CONTAINER_PREFIX, Event, Record, container_name};
use netloss_core::{ephemeral, targets};
use serde_json::json;

/// The version digit of a direct run's uid (RFC 9562, section 5.8: UUIDs of the application's own making).
pub const DIRECT: u8 = b'8';

/// An agent's container.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The container's name.
    pub container: String,
    image: String,
    args: Vec<String>,
}

/// The agents of these pods that are active: they have not ended, and may still begin or lose packets.
#[must_use]
pub fn active(pods: &[Pod], now: Timestamp) -> Vec<Agent> {
    pods.iter().flat_map(|pod| active_in(pod, now)).collect()
}

/// The agents of this pod that are active.
pub fn active_in(pod: &Pod, now: Timestamp) -> impl Iterator<Item = Agent> {
    let active: Vec<String> = targets::active_containers(pod, now).map(|container| container.name.clone()).collect();
    all(pod).filter(move |agent| active.contains(&agent.container))
}

/// The agents of these pods that have ended, did not say that their loss is gone, and were not cleaned up after.
#[must_use]
pub fn ended_without_a_word(pods: &[Pod]) -> Vec<Agent> {
    let is_suspect = |pod: &Pod, agent: &Agent| {
        let Some(ended) = ephemeral::state(pod, &agent.container).and_then(|state| state.terminated.as_ref()) else { return false };
        let mut said = ended.message.iter().flat_map(|text| text.lines()).filter_map(Record::from_line);
        let is_told = said.any(|record| matches!(&record.event, Event::Removed(_)));
        let since = ended.finished_at.as_ref().map_or(Timestamp::MIN, |time| time.0);
        !is_told && !is_cleaned_since(pod, since)
    };
    pods.iter().flat_map(|pod| all(pod).filter(|agent| is_suspect(pod, agent)).collect::<Vec<_>>()).collect()
}

/// All agents of a pod whose network is there.
fn all(pod: &Pod) -> impl Iterator<Item = Agent> {
    let is_over = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    ephemeral::containers(pod).filter(move |container| is_agent(container) && !is_over).map(|container| Agent {
        namespace: pod.namespace().unwrap_or_default(),
        pod: pod.name_any(),
        pod_uid: pod.uid().unwrap_or_default(),
        container: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
    })
}

fn is_agent(container: &EphemeralContainer) -> bool {
    let first = container.args.iter().flatten().next();
    container.name.starts_with(CONTAINER_PREFIX) && first.is_some_and(|word| word == "run")
}

impl Agent {
    /// `namespace/pod:container`.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{}/{}:{}", self.namespace, self.pod, self.container)
    }

    fn argument(&self, name: &str) -> Option<&str> {
        self.args.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// Uid of the experiment that it was injected for, as its run is named after it; none where a person named the run.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.argument("--run")?.rsplit_once('/').map(|(uid, _)| uid)
    }

    /// Whether `run --direct` has injected it: then no experiment has it. The API server's uids are UUIDs of version 4, those of direct runs of version 8.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.owner().is_some_and(|uid| uid.len() == 36 && uid.as_bytes()[14] == DIRECT)
    }

    /// When its loss ends by itself, for a person.
    #[must_use]
    pub fn ends(&self) -> String {
        self.deadline().map_or_else(|| "at its time".to_owned(), |at| format!("at {at} at the latest"))
    }

    /// When it ends by itself at the latest, if it was told.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.argument("--deadline")?.parse().ok()
    }

    /// An experiment with this agent under way, as the controller would have it. None where no controller has named it.
    #[must_use]
    pub fn experiment(&self, now: Timestamp) -> Option<ChaosExperiment> {
        let (uid, run) = self.argument("--run")?.rsplit_once('/')?;
        let run: u32 = run.parse().ok()?;
        let attempt: u32 = self.container.rsplit_once("-a")?.1.parse().ok()?;
        if container_name(uid, run, attempt) != self.container {
            return None;
        }
        let later = now.saturating_add(SignedDuration::from_hours(1)).ok()?;
        let entry = json!({
            "namespace": self.namespace,
            "name": self.pod,
            "uid": self.pod_uid,
            "container": self.container,
            "image": self.image,
            "argv": self.args,
            "deadline": self.deadline().unwrap_or(later),
            "attempt": attempt,
            "asked": {
                "lossPercentage": self.argument("--loss").and_then(|loss| loss.parse::<f64>().ok()).unwrap_or_default(),
                "correlation": 0.0,
                "direction": self.argument("--direction").unwrap_or("both"),
                "duration": self.argument("--ttl").unwrap_or("1s"),
            },
            "state": PodState::Injected,
        });
        let entry: PodStatus = serde_json::from_value(entry).ok()?;
        let spec = json!({ "action": "pod-network-loss", "selector": { "app": "any" }, "duration": entry.asked.duration });
        let spec: ChaosExperimentSpec = serde_json::from_value(spec).ok()?;
        let mut object = ChaosExperiment::new(&format!("agent of {}", self.pod), spec);
        object.metadata.namespace = Some(self.namespace.clone());
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.generation = Some(1);
        object.status = Some(ChaosExperimentStatus {
            phase: Some(Phase::Running),
            run: Some(run),
            attempt: Some(attempt),
            observed_generation: Some(1),
            pods: vec![entry],
            ..ChaosExperimentStatus::default()
        });
        Some(object)
    }
}

/// Whether a pod that is named in a status is this one, and its network still there.
#[must_use]
pub fn is_same(pod: &Pod, entry: &PodStatus) -> bool {
    pod.uid().as_deref() == Some(&entry.uid) && !matches!(targets::skip(pod, Timestamp::now()), Some(targets::Skip::Finished))
}

/// An agent to test with.
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures {
    use super::Agent;
    use netloss_contract::container_name;

    /// An experiment's uid.
    pub const UID: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

    /// An active agent of the first run of this experiment.
    #[must_use]
    pub fn agent(uid: &str) -> Agent {
        Agent {
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            pod_uid: "u".to_owned(),
            container: container_name(uid, 1, 1),
            image: "agent:1".to_owned(),
            args: vec!["run".to_owned(), "--loss=10".to_owned(), format!("--run={uid}/1")],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fixtures::UID, *};
    use netloss_core::machine::fixtures::at;
    use serde_json::Value;

    fn pod(state: &Value) -> Pod {
        let args = ["run", "--loss=10", "--ttl=2m", &format!("--run={UID}/3"), "--deadline=2027-01-15T08:05:00Z"];
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [{ "name": "app" }], "ephemeralContainers": [
                { "name": "network-loss-1b4e28ba2fa1-r3-a1", "image": "agent:1", "args": args },
                { "name": "network-loss-1b4e28ba2fa1-r2-a1-stop", "args": ["stop"] },
                { "name": "debugger", "args": ["run"] },
            ] },
            "status": { "phase": "Running", "ephemeralContainerStatuses": [
                { "name": "network-loss-1b4e28ba2fa1-r3-a1", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn an_active_agent_says_whose_it_is() {
        let agents = active(&[pod(&json!({ "running": {} }))], at(0));
        assert_eq!(agents.len(), 1);
        assert_eq!((agents[0].words().as_str(), agents[0].deadline()), ("n/p:network-loss-1b4e28ba2fa1-r3-a1", Some(at(300))));
        assert!(active(&[pod(&json!({ "terminated": { "exitCode": 0 } }))], at(0)).is_empty());
        let object = agents[0].experiment(at(0)).unwrap();
        assert_eq!((object.uid().as_deref(), object.status.as_ref().unwrap().run), (Some(UID), Some(3)));
        assert_eq!((agents[0].owner(), agents[0].is_direct()), (Some(UID), false));
    }

    #[test]
    fn what_no_controller_has_named_is_not_taken_for_its_own() {
        let mut agent = active(&[pod(&json!({ "running": {} }))], at(0)).remove(0);
        agent.container = "network-loss-by-hand".to_owned();
        assert_eq!(agent.experiment(at(0)), None);
    }

    #[test]
    fn a_later_cleanup_is_the_end_of_a_worry() {
        let mut value = serde_json::to_value(pod(&json!({ "terminated": { "exitCode": 137 } }))).unwrap();
        value["spec"]["ephemeralContainers"][1]["args"] = json!(["cleanup", "--json"]);
        let name = value["spec"]["ephemeralContainers"][1]["name"].clone();
        let ended = |code: i32| {
            json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": code, "finishedAt": "2027-01-15T08:05:00Z" } } })
        };
        let with = |code: i32| {
            let mut value = value.clone();
            value["status"]["ephemeralContainerStatuses"] = json!([ended(code)]);
            serde_json::from_value::<Pod>(value).unwrap()
        };
        assert!(is_cleaned_since(&with(0), at(0)));
        assert!(!is_cleaned_since(&with(7), at(0)) && !is_cleaned_since(&with(0), at(301)));
    }

    #[test]
    fn an_agent_is_active_until_it_or_its_pod_has_ended() {
        let last = |phase: &str, args: serde_json::Value, state: serde_json::Value| {
            let name = "network-loss-abc-r1-a1";
            let pod = json!({
                "metadata": { "name": "p", "namespace": "n" },
                "spec": { "containers": [], "ephemeralContainers": [{ "name": name, "args": args }] },
                "status": { "phase": phase, "ephemeralContainerStatuses": [
                    { "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state },
                ] },
            });
            active(&[serde_json::from_value(pod).unwrap()], at(0)).pop()
        };
        let running = json!({ "running": {} });
        let agent = last("Running", json!(["run"]), running.clone()).unwrap();
        assert_eq!(agent.words(), "n/p:network-loss-abc-r1-a1");
        assert_eq!(last("Running", json!(["run"]), json!({ "terminated": { "exitCode": 0 } })), None);
        assert_eq!(last("Failed", json!(["run"]), running.clone()), None);
        assert_eq!(last("Running", json!(["tc qdisc add"]), running), None, "another tool's");
    }
}
