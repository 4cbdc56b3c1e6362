//! A run that is under way: one step for each of its pods.

use super::{AgentLog, AgentState, AgentView, Decision, Experiment, PodView, Settings, conclude, events, summary};
use crate::{
    api::{ChaosExperimentStatus, Outcome, Phase, PodState, PodStatus, StopContainer},
    targets::Skip,
    words::brief,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_contract::{Meant, StopArgs, Ttl, container_name, stop_container_name};
use std::{collections::BTreeMap, time::Duration};

/// Between looks at a log that does not yet say that the loss is in place.
const POLL_LOG: Duration = Duration::from_secs(2);
/// Between looks at something that could not be read.
const POLL_TROUBLE: Duration = Duration::from_secs(10);
/// Of an entry that was not written by this controller.
const FORGED: &str = "this entry does not belong to this run, somebody else has written it: nothing was done about it";
/// Between looks where a watch will tell anyway.
const POLL_QUIET: Duration = Duration::from_mins(1);

pub(super) fn follow(
    experiment: &Experiment<'_>,
    before: &ChaosExperimentStatus,
    views: &BTreeMap<String, PodView>,
    now: Timestamp,
    settings: &Settings,
) -> Decision {
    let mut after = before.clone();
    let mut decision = Decision::default();
    let mut obstacles = Vec::new();
    let run = before.run.unwrap_or_default();
    let stopping = if experiment.deleting {
        Some("the experiment was deleted")
    } else if before.observed_generation != Some(experiment.generation) {
        Some("the spec was edited")
    } else {
        None
    };
    let follower = Follower { now, grace: settings.grace, stopping, uid: experiment.uid, run };
    for (entry, pod) in before.pods.iter().zip(&mut after.pods).filter(|(entry, _)| entry.state != PodState::Ended) {
        // What is not looked at now is looked at the next time.
        let step = match views.get(&entry.uid) {
            Some(_) if !is_of_run(entry, experiment, run) => follower.end(pod, Outcome::Unknown, FORGED),
            Some(view) => follower.step(pod, view),
            None => Step::default(),
        };
        if step.inject {
            decision.injections.push(entry.clone());
        }
        if step.stop {
            decision.stops.push(entry.clone());
        }
        if step.adopted {
            after.affected_pods.push(format!("{}:{}", entry.display_name(), entry.container));
        }
        obstacles.extend(step.obstacle.map(|obstacle| format!("{}: {obstacle}", entry.name)));
        if pod.state != PodState::Ended {
            decision.requeue = [decision.requeue, step.look_again, Some(POLL_QUIET)].into_iter().flatten().min();
        }
        decision.events.extend(events::of_transition(entry, pod, step.adopted));
        if let (false, Some(Time(applied)), Some(Time(began))) = (entry.was_applied(), &pod.applied_at, &before.start_time) {
            decision.events.extend(events::clock_skew(pod, *began, *applied, now));
        }
    }
    let phase = phase(&after.pods);
    after.phase = Some(phase);
    after.completed_at = phase.is_final().then_some(Time(now));
    after.message = Some(summary::message(&after, experiment, &obstacles));
    decision.events.extend(events::of_phase(before, &after));
    decision.status = (after != *before).then_some(after);
    decision
}

/// Whether this controller can have written the entry. Someone with rights to a status alone must not come to a container in any pod
/// that they choose.
fn is_of_run(entry: &PodStatus, experiment: &Experiment<'_>, run: u32) -> bool {
    let named_so = entry.container == container_name(experiment.uid, run, entry.attempt);
    let runs_so = entry.argv.first().is_some_and(|word| word == "run") && entry.argv.contains(&format!("--run={}/{run}", experiment.uid));
    let stops_so = entry.stop.as_ref().is_none_or(|stop| *stop == stop_container(entry, experiment.uid, run));
    entry.namespace == experiment.namespace && named_so && runs_so && stops_so
}

/// What stops the agent of an entry: nothing of another run, and nothing after its deadline.
fn stop_container(entry: &PodStatus, uid: &str, run: u32) -> StopContainer {
    let meant = Meant { run: format!("{uid}/{run}").parse().ok(), deadline: Some(entry.deadline.0) };
    StopContainer { container: stop_container_name(uid, run, entry.attempt), argv: StopArgs { meant, timeout: Ttl::STOP }.to_argv() }
}

/// What the kubelet says of every container before it starts it.
fn is_usual(reason: &str) -> bool {
    matches!(reason, "ContainerCreating" | "PodInitializing")
}

fn phase(pods: &[PodStatus]) -> Phase {
    let applied = pods.iter().any(PodStatus::was_applied);
    let over = pods.iter().all(|pod| pod.state == PodState::Ended);
    match (over, applied) {
        (true, true) => Phase::Completed,
        (true, false) => Phase::Failed,
        (false, true) => Phase::Running,
        (false, false) => Phase::Pending,
    }
}

/// What one step of one pod comes to, besides the pod's new state.
#[derive(Default)]
struct Step {
    /// The agent is to be put into the pod.
    inject: bool,
    /// What stops the agent is to be put into the pod.
    stop: bool,
    /// The planned container was found in the pod.
    adopted: bool,
    /// What stands in the way at present, in words.
    obstacle: Option<String>,
    /// When to look again.
    look_again: Option<Duration>,
}

struct Follower<'a> {
    now: Timestamp,
    grace: Duration,
    /// Why the run is to end before its time, if so.
    stopping: Option<&'static str>,
    uid: &'a str,
    run: u32,
}

impl Follower<'_> {
    fn step(&self, pod: &mut PodStatus, view: &PodView) -> Step {
        match view {
            PodView::Gone => self.end(pod, Outcome::PodEnded, "the pod is gone"),
            PodView::Replaced => self.end(pod, Outcome::PodEnded, "the pod is gone, and another has its name"),
            PodView::Unreadable(why) if self.is_overdue(pod) => {
                self.end(pod, Outcome::Unknown, &format!("it could not be read until after its deadline: {}", brief(why)))
            }
            PodView::Unreadable(why) => Step { obstacle: Some(brief(why)), look_again: Some(POLL_TROUBLE), ..Step::default() },
            PodView::Refused(words) => self.end(pod, Outcome::Failed, &format!("the API server refused the agent: {}", brief(words))),
            PodView::Present { skip, agent: None } => self.without_agent(pod, skip.as_ref()),
            PodView::Present { skip, agent: Some(agent) } => self.with_agent(pod, skip.as_ref(), agent),
        }
    }

    fn without_agent(&self, pod: &mut PodStatus, skip: Option<&Skip>) -> Step {
        match (pod.state, skip) {
            (_, Some(gone @ (Skip::Finished | Skip::Terminating))) => self.end(pod, Outcome::PodEnded, &gone.to_string()),
            (PodState::Planned, _) if self.now >= pod.deadline.0 => {
                self.end(pod, Outcome::NeverStarted, "its deadline passed before the agent could be put in")
            }
            (PodState::Planned, _) if let Some(why) = self.stopping => {
                self.end(pod, Outcome::NeverStarted, &format!("{why} before the agent could be put in"))
            }
            (PodState::Planned, Some(skip)) => self.end(pod, Outcome::NeverStarted, &skip.to_string()),
            (PodState::Planned, None) => Step { inject: true, look_again: Some(POLL_TROUBLE), ..Step::default() },
            _ => self.end(pod, Outcome::Unknown, "the agent's container is no longer in the pod: loss may remain until the pod ends"),
        }
    }

    fn with_agent(&self, pod: &mut PodStatus, skip: Option<&Skip>, agent: &AgentView) -> Step {
        let adopted = pod.state == PodState::Planned;
        if adopted {
            if agent.args != pod.argv {
                let foreign = format!("the pod already has a container {} with other arguments: it was left alone", pod.container);
                return self.end(pod, Outcome::Failed, &foreign);
            }
            pod.state = PodState::Injected;
        }
        if let AgentLog::Applied(at, applied) = &agent.log {
            conclude::mark_applied(pod, *at, applied);
        }
        let step = match &agent.state {
            // The next run finds no pod free while something of this one is at work in it.
            AgentState::Terminated { .. } if self.is_being_stopped(pod, skip, agent) => {
                Step { look_again: Some(POLL_LOG), ..Step::default() }
            }
            AgentState::Terminated { exit_code, reason, message, last } => {
                conclude::conclude(pod, *exit_code, reason.as_deref(), message.as_deref(), last.as_deref());
                pod.ended_at = Some(Time(self.now));
                Step::default()
            }
            AgentState::Running | AgentState::Waiting { .. } if skip == Some(&Skip::Finished) => {
                self.end(pod, Outcome::PodEnded, &Skip::Finished.to_string())
            }
            AgentState::Running => self.running(pod, agent),
            AgentState::Waiting { reason, message } => self.waiting(pod, reason.as_deref(), message.as_deref()),
        };
        Step { adopted, ..step }
    }

    fn running(&self, pod: &mut PodStatus, agent: &AgentView) -> Step {
        if self.is_overdue(pod) {
            return self.end(pod, Outcome::Unknown, "the agent is still running after its deadline: loss may remain until the pod ends");
        }
        if self.stopping.is_some() {
            return self.stop(pod, agent.stop.as_ref());
        }
        let until_overdue = self.until_overdue(pod);
        match &agent.log {
            _ if pod.state == PodState::Applied => Step { look_again: until_overdue, ..Step::default() },
            AgentLog::Unreadable(why) => {
                let obstacle = format!("the agent runs, but its log cannot be read: {}", brief(why));
                Step { obstacle: Some(obstacle), look_again: Some(POLL_TROUBLE), ..Step::default() }
            }
            _ => Step { look_again: Some(POLL_LOG), ..Step::default() },
        }
    }

    /// Whether what was sent to stop the agent has not ended.
    fn is_being_stopped(&self, pod: &PodStatus, skip: Option<&Skip>, agent: &AgentView) -> bool {
        let at_work = matches!(agent.stop, Some(AgentState::Waiting { .. } | AgentState::Running));
        at_work && !self.is_overdue(pod) && !matches!(skip, Some(Skip::Finished | Skip::Terminating))
    }

    /// Sends what stops the agent: written down first, then put in, then waited for. The agent's own report says how it ended.
    fn stop(&self, pod: &mut PodStatus, sent: Option<&AgentState>) -> Step {
        let obstacle = |words: String| Step { obstacle: Some(words), look_again: Some(POLL_TROUBLE), ..Step::default() };
        match sent {
            _ if pod.stop.is_none() => {
                pod.stop = Some(stop_container(pod, self.uid, self.run));
                Step { look_again: Some(POLL_LOG), ..Step::default() }
            }
            None => Step { stop: true, look_again: Some(POLL_TROUBLE), ..Step::default() },
            Some(AgentState::Terminated { exit_code: 0, .. } | AgentState::Running) => {
                Step { look_again: Some(POLL_LOG), ..Step::default() }
            }
            Some(AgentState::Terminated { exit_code, .. }) => {
                obstacle(format!("what was sent to stop the agent ended with exit code {exit_code}: the loss ends at its time"))
            }
            Some(AgentState::Waiting { reason, .. }) => match reason.as_deref().filter(|reason| !is_usual(reason)) {
                Some(reason) => obstacle(format!("what was sent to stop the agent does not start: {}", brief(reason))),
                None => Step { look_again: Some(POLL_TROUBLE), ..Step::default() },
            },
        }
    }

    fn waiting(&self, pod: &mut PodStatus, reason: Option<&str>, message: Option<&str>) -> Step {
        let trouble = reason.filter(|reason| !is_usual(reason));
        if self.is_overdue(pod) {
            return if pod.was_applied() {
                self.end(pod, Outcome::Unknown, "the agent's container was set back by the kubelet and did not say how its loss ended")
            } else {
                let why = [trouble, message].into_iter().flatten().map(brief).collect::<Vec<_>>().join(": ");
                let why = if why.is_empty() { "the kubelet gave no reason".to_owned() } else { why };
                self.end(pod, Outcome::NeverStarted, &format!("the agent did not start before its deadline: {why}"))
            };
        }
        // Without the kubelet's message: it differs from one try to the next, and status is written when it changes.
        Step { obstacle: trouble.map(brief), look_again: self.until_overdue(pod), ..Step::default() }
    }

    fn end(&self, pod: &mut PodStatus, outcome: Outcome, message: &str) -> Step {
        pod.state = PodState::Ended;
        pod.outcome = Some(outcome);
        pod.message = Some(message.to_owned());
        pod.ended_at = Some(Time(self.now));
        Step::default()
    }

    /// The time at which waiting for this pod ends.
    fn overdue_at(&self, pod: &PodStatus) -> Timestamp {
        let grace = SignedDuration::try_from(self.grace).unwrap_or(SignedDuration::MAX);
        pod.deadline.0.saturating_add(grace).unwrap_or(Timestamp::MAX)
    }

    fn is_overdue(&self, pod: &PodStatus) -> bool {
        self.now >= self.overdue_at(pod)
    }

    fn until_overdue(&self, pod: &PodStatus) -> Option<Duration> {
        Duration::try_from(self.overdue_at(pod).duration_since(self.now)).ok()
    }
}
