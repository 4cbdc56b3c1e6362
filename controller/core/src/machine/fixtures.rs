//! What the tests of the machine and of its surroundings share.

// Of tests alone: they panic where a fixture is wrong.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::panic)]

use super::{
    AgentLog, AgentState, AgentView, Applied, BTreeMap, Candidate, ChaosExperimentSpec, ChaosExperimentStatus, Experiment, Observed,
    PodStatus, PodView, Pods, Preconditions, Protection, Record, Settings, Timestamp, decide,
};
use crate::targets::Target;
use netloss_api::PodState;
use netloss_contract::{
    Asked, Backend, Cause, Correlation, Direction, Event, Filtered, Heartbeat, LossModel, PerDirection, Removed, SCHEMA, Traffic,
};
use serde_json::json;

/// A pod that is planned, in the first run of the experiment `uid`.
#[must_use]
pub fn entry() -> PodStatus {
    let entry = json!({
        "namespace": "n",
        "name": "p",
        "uid": "pod-uid",
        "container": "network-loss-uid-r1-a1",
        "image": "agent:1",
        "argv": ["run"],
        "deadline": at(0),
        "attempt": 1,
        "asked": { "lossPercentage": 10.0, "correlation": 0.0, "direction": Direction::Both, "duration": "30s" },
        "state": PodState::Planned,
    });
    serde_json::from_value(entry).unwrap()
}

/// Seconds after some moment.
#[must_use]
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A record of the first run of the experiment `uid`.
#[must_use]
pub fn record(event: Event) -> Record {
    Record { schema: SCHEMA, time: at(40), run: Some("uid/1".parse().unwrap()), event }
}

fn asked() -> Asked {
    let model = LossModel::Random { loss_percentage: 10.0.try_into().unwrap(), correlation: Correlation::default() };
    Asked { model, direction: Direction::Both, seed: None, per_segment: false }
}

/// The agent says that its loss is in place.
#[must_use]
pub fn applied() -> Event {
    Event::Applied(Applied {
        agent_version: "0.1.0".to_owned(),
        kernel: "6.12".to_owned(),
        interface: "eth0".to_owned(),
        interface_reason: "default route".to_owned(),
        backend: Backend::Tc,
        backend_reason: String::new(),
        unguarded: true,
        guard: None,
        asked: asked(),
        predicted: None,
        filtered: Filtered::default(),
        ends_at: at(70),
        leftovers_removed: Vec::new(),
        warnings: vec![],
    })
}

/// The agent says that it is alive.
#[must_use]
pub fn heartbeat() -> Event {
    Event::Heartbeat(Heartbeat {
        elapsed_seconds: 10.0,
        remaining_seconds: 20.0,
        traffic: PerDirection { egress: Some(Traffic::new(100, 9, 10.0)), ingress: None },
        intact: true,
        kept: None,
        drift: Vec::new(),
        repaired: Vec::new(),
        lines_dropped: 0,
        warnings: vec![],
    })
}

/// The agent says that its loss is gone.
#[must_use]
pub fn removed() -> Event {
    Event::Removed(Removed {
        cause: Cause::Ttl,
        interface: "eth0".to_owned(),
        backend: Backend::Tc,
        asked: asked(),
        predicted: None,
        applied_at: at(10),
        elapsed_seconds: 30.0,
        traffic: PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: None },
        kept: None,
        drift: Vec::new(),
        repaired: Vec::new(),
        lines_dropped: 0,
        warnings: vec![],
    })
}

/// What a user of the defaults asks for, but for retries.
#[must_use]
pub fn spec() -> ChaosExperimentSpec {
    serde_json::from_value(serde_json::json!({
        "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s", "lossPercentage": 10, "count": 2, "maxRetries": 0,
    }))
    .unwrap()
}

/// What the controller of most tests was started with.
#[must_use]
pub fn settings() -> Settings {
    Settings::new("agent:1", "netloss-system")
}

/// The experiment `uid` in the namespace `n`.
#[must_use]
pub fn experiment<'a>(spec: &'a ChaosExperimentSpec, status: Option<&'a ChaosExperimentStatus>) -> Experiment<'a> {
    Experiment { namespace: "n", uid: "uid", generation: 1, deleting: false, finalized: true, requested: None, spec, status }
}

/// Eligible pods p0, p1 …, and their uids.
#[must_use]
pub fn candidates(count: usize) -> Vec<Candidate> {
    let target = |n| Target { namespace: "n".to_owned(), name: format!("p{n}"), uid: format!("pod-uid-{n}"), node: None };
    let candidate = |n| Candidate {
        target: target(n),
        host_ips: vec!["172.18.0.2".parse().unwrap()],
        ip: None,
        ready: true,
        template: "template".to_owned(),
        containers: 0,
        skip: None,
    };
    (0..count).map(candidate).collect()
}

/// A namespace with these pods in it.
#[must_use]
pub fn preconditions(pods: Vec<Candidate>) -> Observed {
    Observed::Preconditions(Preconditions { pods, ..Preconditions::default() })
}

/// These pods of a run.
#[must_use]
pub fn pods(views: BTreeMap<String, PodView>) -> Observed {
    Observed::Pods(Pods { views, protection: Some(Protection::default()), ..Pods::default() })
}

/// A planned run that the API server would admit.
#[must_use]
pub fn planned(spec: &ChaosExperimentSpec, pods: usize) -> ChaosExperimentStatus {
    let mut status = decide(&experiment(spec, None), &preconditions(candidates(pods)), at(0), &settings()).status.unwrap();
    status.set_condition(netloss_api::PREFLIGHT, "True", "Admitted", "", at(0));
    status
}

/// What is seen of an agent of a planned pod.
#[must_use]
pub fn agent_view(entry: &PodStatus, state: AgentState, log: AgentLog) -> AgentView {
    AgentView { args: entry.argv.clone(), state, log, stop: None, repair: None }
}

/// An agent of a planned pod.
#[must_use]
pub fn present(agent: AgentView) -> PodView {
    PodView::Present { skip: None, new_sandbox: false, agent: Some(Box::new(agent)) }
}

/// An agent of a planned pod, in this state.
#[must_use]
pub fn agent(entry: &PodStatus, state: AgentState) -> PodView {
    present(agent_view(entry, state, AgentLog::NotApplied))
}

/// A log that says that the loss is in place.
#[must_use]
pub fn log_of(applied: Event, since: Timestamp) -> AgentLog {
    let Event::Applied(applied) = applied else { panic!("{applied:?}") };
    AgentLog::Applied(since, Box::new(applied))
}

/// A pod without an agent.
pub const BARE: PodView = PodView::Present { skip: None, new_sandbox: false, agent: None };

/// An agent that ended.
#[must_use]
pub fn terminated(exit_code: i32, last: Option<Event>) -> AgentState {
    AgentState::Terminated { exit_code, reason: None, message: None, last: last.map(|event| Box::new(record(event))) }
}
