//! One pod of a run that is under way: one step.

use super::{
    AgentLog, AgentState, AgentView, PodView, conclude,
    derive::{Derived, is_derived, repair_arguments, stop_arguments},
    follow::run_id,
    plan::deadline,
};
use crate::{
    refusal::{Refusal, RefusalReason},
    sanitize::brief,
    targets::Skip,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_api::{Outcome, PodState, PodStatus, SentContainer, Stopping};
use netloss_contract::{Event, ExitCode, Ttl, container_name, repair_container_name, stop_container_name};
use std::time::Duration;

/// Between looks at a log that does not yet say that the loss is in place. A judgement: half a
/// request a second for each pod that starts, and a status that is that late.
const POLL_LOG: Duration = Duration::from_secs(2);
/// Between looks at something that could not be read. A judgement: six requests a minute for each pod that is in trouble.
const POLL_TROUBLE: Duration = Duration::from_secs(10);
/// Containers that are sent after one agent to stop it, each when the node has not started the one before: a kubelet that is
/// killed between making a container and starting it never does.
const STOPS: u32 = 3;
/// Containers that are sent after one agent to remove what it left: another one where the first came while the agent was at work.
const REPAIRS: u32 = 2;
/// Between looks whether an agent still reports: the time after which silence counts (netloss-cluster's `SILENCE`).
const POLL_HEARTBEAT: Duration = Duration::from_secs(20);

/// Whether this controller can have written the entry. Someone with rights to a status alone must not come to a container in any pod
/// that they choose. The spec and the settings of now do not count here: they may have changed since the agent was injected. What is still
/// to be injected is held against them ([`Derived::mismatch`]).
pub(super) fn is_of_run(entry: &PodStatus, uid: &str, run: u32) -> bool {
    let named_so = entry.container == container_name(uid, run, entry.attempt);
    let run_id = format!("--run={}", run_id(uid, run));
    // Arguments are read from their record where they are needed, which is before the agent is in the pod.
    let elsewhere = entry.plan.is_some() && entry.argv.is_empty();
    let runs_so = elsewhere || (entry.argv.first().is_some_and(|word| word == "run") && entry.argv.contains(&run_id));
    let sent_so = |sent: Option<&SentContainer>, name: String, command: &str| {
        sent.is_none_or(|sent| {
            sent.container == name && sent.argv.first().is_some_and(|word| word == command) && sent.argv.contains(&run_id)
        })
    };
    let number = entry.stop.as_ref().map_or(1, |stop| stop.number);
    let stops_so = sent_so(entry.stop.as_ref(), stop_container_name(uid, run, entry.attempt, number), "stop");
    let number = entry.repair.as_ref().map_or(1, |repair| repair.number);
    let repairs_so = sent_so(entry.repair.as_ref(), repair_container_name(uid, run, entry.attempt, number), "cleanup");
    named_so && runs_so && stops_so && repairs_so
}

/// Whether a cleanup ended because an agent works in the pod and answers.
fn found_agent(exit_code: i32) -> bool {
    ExitCode::from_code(exit_code) == Some(ExitCode::AlreadyRunning)
}

/// What the kubelet says of every container before it starts it.
fn is_usual(reason: &str) -> bool {
    matches!(reason, "ContainerCreating" | "PodInitializing")
}

/// What one step of one pod comes to, besides the pod's new state.
#[derive(Default)]
pub(super) struct Step {
    /// What is to be put into the pod.
    pub(super) put_in: Option<PutIn>,
    /// The planned container was found in the pod.
    pub(super) adopted: bool,
    /// What stands in the way at present, in words.
    pub(super) obstacle: Option<String>,
    /// Why the entry puts nothing in, the first time that it is seen: it does not follow from the spec.
    pub(super) rejected: Option<String>,
    /// The safety that keeps the agent out, the first time that it does.
    pub(super) refused: Option<RefusalReason>,
    /// When to look again.
    pub(super) look_again: Option<Duration>,
}

/// Each of the containers of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PutIn {
    Agent,
    Stop,
    Repair,
}

impl Step {
    fn put_in(what: PutIn) -> Self {
        Self { put_in: Some(what), ..Self::again(POLL_TROUBLE) }
    }

    fn again(after: Duration) -> Self {
        Self { look_again: Some(after), ..Self::default() }
    }

    fn obstacle(words: String) -> Self {
        Self { obstacle: Some(words), ..Self::again(POLL_TROUBLE) }
    }
}

/// What the steps of all pods have in common.
pub(super) struct Follower<'a> {
    pub(super) now: Timestamp,
    pub(super) grace: Duration,
    /// How long a container may take to start.
    pub(super) start: Duration,
    /// Why the run is to end before its time, if so.
    pub(super) stopping: Option<Stopping>,
    /// Why no agent is put in, if so: the API server's words.
    pub(super) refusal: Option<String>,
    /// Whether an agent may be injected into the target as it is now; none where that was not looked at.
    pub(super) protection: Option<Result<(), Refusal>>,
    /// Whether somebody who read the status as it stood can have sent an agent that is not in its pod yet: this controller before it was
    /// restarted, or another one that was slow.
    pub(super) on_its_way: bool,
    /// What the spec gives.
    pub(super) derived: Derived<'a>,
    pub(super) uid: &'a str,
    pub(super) run: u32,
}

impl Follower<'_> {
    /// What to do about a pod, and what becomes of its entry.
    pub(super) fn step(&self, pod: &mut PodStatus, view: &PodView) -> Step {
        self.drop_foreign(pod, view);
        match view {
            PodView::Gone => self.end(pod, Outcome::PodEnded, "the pod is gone"),
            PodView::Replaced => self.end(pod, Outcome::PodEnded, "the pod is gone, and another has its name"),
            PodView::Unreadable(why) if self.is_overdue(pod) => {
                self.end(pod, Outcome::Unknown, &format!("it could not be read until after its deadline: {}", brief(why)))
            }
            PodView::Unreadable(why) => Step::obstacle(brief(why)),
            PodView::Refused(words) => self.end(pod, Outcome::Failed, &format!("the API server refused the agent: {}", brief(words))),
            PodView::SentRefused(words) => {
                pod.message = Some(format!("the API server refused what was sent after the agent: {}", brief(words)));
                Step::again(POLL_TROUBLE)
            }
            PodView::Present { skip, agent: None, .. } => self.without_agent(pod, skip.as_ref()),
            PodView::Present { skip, new_sandbox, agent: Some(agent) } => self.with_agent(pod, skip.as_ref(), *new_sandbox, agent),
        }
    }

    fn without_agent(&self, pod: &mut PodStatus, skip: Option<&Skip>) -> Step {
        match (pod.state, skip) {
            (_, Some(gone @ (Skip::Finished | Skip::Terminating))) => self.end(pod, Outcome::PodEnded, &gone.to_string()),
            (PodState::Planned, _) if self.now >= pod.deadline.0 => {
                self.end(pod, Outcome::NeverStarted, "its deadline passed before the agent could be put in")
            }
            (PodState::Planned, _) if let Some(why) = self.stopping => {
                self.leave(pod, &format!("{} before the agent could be put in", why.words()))
            }
            (PodState::Planned, _) if let Some(words) = &self.refusal => {
                self.end(pod, Outcome::Failed, &format!("the API server would refuse the agent, so no pod was touched: {words}"))
            }
            (PodState::Planned, Some(skip)) => self.leave(pod, &skip.to_string()),
            (PodState::Planned, None) if pod.argv.is_empty() => {
                let name = pod.plan.as_deref().unwrap_or_default();
                let words = format!("the ChaosExperimentPlan {name}, which had the agent's arguments, is gone: nothing was put in");
                self.leave(pod, &words)
            }
            (PodState::Planned, None) if let Some(why) = self.derived.mismatch(pod) => self.reject(pod, &why),
            (PodState::Planned, None) => match &self.protection {
                Some(Ok(())) => Step::put_in(PutIn::Agent),
                Some(Err(Refusal { reason, words })) => {
                    let refused = Some(*reason).filter(|_| pod.stop.is_none());
                    Step { refused, ..self.leave(pod, words) }
                }
                None => Step::again(POLL_TROUBLE),
            },
            _ => self.end(pod, Outcome::Unknown, "the agent's container is no longer in the pod: loss may remain until the pod ends"),
        }
    }

    /// Ends the entry of a pod into which no agent is to be put any more. Where one may be on its way already, what is to stop it is written
    /// down, and by that one's deadline either the agent is there, or nobody sends it any more (`steps::ACT_WITHIN`).
    fn leave(&self, pod: &mut PodStatus, why: &str) -> Step {
        let until = match &pod.stop {
            _ if !self.on_its_way => return self.end(pod, Outcome::NeverStarted, why),
            Some(stop) if self.now >= stop.deadline.0 => return self.end(pod, Outcome::NeverStarted, why),
            Some(stop) => stop.deadline.0,
            None => self.plan_stop(pod, 1),
        };
        Step { obstacle: Some(format!("{why}; one may be on its way until {until}")), ..Step::again(POLL_TROUBLE) }
    }

    /// Ends an entry that this controller cannot have planned, without injecting an agent.
    fn reject(&self, pod: &mut PodStatus, why: &str) -> Step {
        let words = format!("the plan in status does not follow from the spec: {}; another client wrote it, not injecting", brief(why));
        let is_new = pod.stop.is_none();
        Step { rejected: is_new.then(|| words.clone()), ..self.leave(pod, &words) }
    }

    /// Drops what is to be sent after an agent and has other arguments than this controller writes, so that it is written again.
    fn drop_foreign(&self, pod: &mut PodStatus, view: &PodView) {
        let PodView::Present { agent, .. } = view else { return };
        let (stops, repairs) = agent.as_ref().map_or((false, false), |agent| (agent.stop.is_some(), agent.repair.is_some()));
        let is_foreign = |sent: &mut SentContainer| !is_derived(sent, self.uid, self.run, self.now, self.start);
        // What is in the pod does what it does, whatever status says of it.
        pod.stop.take_if(|stop| !stops && (is_foreign(stop) || stop.number > STOPS));
        pod.repair.take_if(|repair| !repairs && (is_foreign(repair) || repair.number > REPAIRS));
    }

    /// Writes down what is to stop the agent, and returns until when it can.
    fn plan_stop(&self, pod: &mut PodStatus, number: u32) -> Timestamp {
        let until = deadline(self.now, self.start);
        // Past the agent's own deadline there is nobody to stop, but for one on a node whose clock is behind.
        let until = if self.is_overdue(pod) { until } else { until.min(pod.deadline.0) };
        let container = stop_container_name(self.uid, self.run, pod.attempt, number);
        let argv = stop_arguments(self.uid, self.run, until);
        pod.stop = Some(SentContainer { container, argv, deadline: Time(until), number });
        until
    }

    fn with_agent(&self, pod: &mut PodStatus, skip: Option<&Skip>, new_sandbox: bool, agent: &AgentView) -> Step {
        let adopted = pod.state == PodState::Planned;
        if adopted {
            if agent.args != pod.argv && !pod.argv.is_empty() {
                let foreign = format!("the pod already has a container {} with other arguments: it was left alone", pod.container);
                return self.end(pod, Outcome::Failed, &foreign);
            }
            pod.state = PodState::Injected;
        }
        let was_silent = pod.silent == Some(true);
        match &agent.log {
            AgentLog::Applied(at, applied) => conclude::mark_applied(pod, *at, applied),
            AgentLog::Heartbeat(_) => pod.silent = None,
            AgentLog::Stale => pod.silent = Some(true),
            AgentLog::NotRead | AgentLog::Unreadable(_) | AgentLog::NotApplied => {}
        }
        let step = match &agent.state {
            // The next run finds no pod free while something of this one is at work in it.
            AgentState::Terminated { .. } if self.is_being_stopped(pod, skip, agent) => Step::again(POLL_LOG),
            AgentState::Terminated { exit_code, reason, message, last } => {
                let mut ended = pod.clone();
                conclude::conclude(&mut ended, *exit_code, reason.as_deref(), message.as_deref(), last.as_deref());
                self.after_its_end(pod, ended, skip, new_sandbox, agent)
            }
            AgentState::Running | AgentState::Waiting { .. } if skip == Some(&Skip::Finished) => {
                self.end(pod, Outcome::PodEnded, &Skip::Finished.to_string())
            }
            AgentState::Running => self.running(pod, agent, was_silent),
            AgentState::Waiting { made, reason, message } => self.waiting(pod, agent, *made, reason.as_deref(), message.as_deref()),
        };
        Step { adopted, ..step }
    }

    /// What follows from how the agent has ended: an end, or where it left that open, a look at what it may have left.
    fn after_its_end(&self, pod: &mut PodStatus, ended: PodStatus, skip: Option<&Skip>, new_sandbox: bool, agent: &AgentView) -> Step {
        let words = ended.message.clone().unwrap_or_default();
        if ended.outcome != Some(Outcome::Unknown) {
            *pod = PodStatus { ended_at: Some(Time(self.now)), ..ended };
            return Step::default();
        }
        // What the agent's last words tell is kept: its counters, and when the loss began.
        *pod = PodStatus { state: pod.state, outcome: None, ..ended };
        match skip {
            Some(gone @ Skip::Finished) => self.end(pod, Outcome::PodEnded, &gone.to_string()),
            Some(gone @ Skip::Terminating) if pod.ends_by_itself() => self.end(pod, Outcome::PodEnded, &gone.to_string()),
            // Its network is there until it is gone, which its grace period may make hours, and nothing can be started in it any more.
            Some(Skip::Terminating) => {
                let words = format!("{}; the pod is terminating: loss may remain until it is gone", brief(&words));
                if self.is_overdue(pod) { self.end(pod, Outcome::Unknown, &words) } else { Step::obstacle(words) }
            }
            _ if new_sandbox => {
                let words = "the pod got a new sandbox: the network that the agent worked in is gone";
                self.end(pod, Outcome::SandboxRecreated, words)
            }
            _ => self.repair(pod, agent.repair.as_ref(), false, &words),
        }
    }

    fn running(&self, pod: &mut PodStatus, agent: &AgentView, was_silent: bool) -> Step {
        if self.is_overdue(pod) {
            return match &agent.repair {
                Some(AgentState::Terminated { exit_code, .. }) if found_agent(*exit_code) => self.outlive(pod, agent),
                repair => self.repair(pod, repair.as_ref(), true, "the agent is still running after its deadline"),
            };
        }
        if self.stopping.is_some() {
            return self.stop(pod, agent);
        }
        match &agent.log {
            // A log that was rotated a moment ago is empty once: the second empty look counts.
            AgentLog::Stale if was_silent => self.hung(pod, agent),
            _ if pod.silent == Some(true) && pod.repair.is_some() => self.hung(pod, agent),
            _ if pod.silent == Some(true) => Step::again(POLL_TROUBLE),
            AgentLog::Unreadable(why) => Step::obstacle(format!("the agent runs, but its log cannot be read: {}", brief(why))),
            _ if pod.state == PodState::Applied => Step::again(POLL_HEARTBEAT),
            _ => Step::again(POLL_LOG),
        }
    }

    /// An agent that runs and reports nothing. One that only cannot speak says so to what is sent to it, and is left alone.
    fn hung(&self, pod: &mut PodStatus, agent: &AgentView) -> Step {
        let words = "the agent runs, but has reported nothing for more than three heartbeats";
        match &agent.repair {
            Some(AgentState::Terminated { exit_code, .. }) if *exit_code != 0 => Step::obstacle(format!("{words}; it still answers")),
            repair => self.repair(pod, repair.as_ref(), true, words),
        }
    }

    /// An agent that runs after its deadline and answers: by its node's clock the deadline is still to come. It keeps the loss until its ttl,
    /// which no clock moves, or until it is stopped; its entry stays open for as long.
    fn outlive(&self, pod: &mut PodStatus, agent: &AgentView) -> Step {
        let words = "the agent runs after its deadline and answers: the clock of its node is behind";
        let ttl = pod.asked.duration.parse::<Ttl>().map_or(Ttl::MAX, Ttl::duration);
        // When it answered, the loss was in place at most as long as its container took to start.
        let answered = pod.repair.as_ref().map_or(pod.deadline.0, |repair| repair.deadline.0);
        if self.now >= deadline(answered, ttl + 2 * self.grace) {
            let words = format!("{words}, and does not end after {}: loss may remain until the pod ends", pod.asked.duration);
            return self.end(pod, Outcome::Unknown, &words);
        }
        match (&pod.stop, &agent.stop) {
            (None, _) => drop(self.plan_stop(pod, 1)),
            (Some(stop), None | Some(AgentState::Waiting { .. })) if self.now >= stop.deadline.0 => {
                if stop.number < STOPS {
                    let number = stop.number + 1;
                    self.plan_stop(pod, number);
                }
            }
            (Some(_), None) => return Step::put_in(PutIn::Stop),
            (Some(_), Some(_)) => {}
        }
        Step { obstacle: Some(words.to_owned()), ..Step::again(POLL_TROUBLE) }
    }

    /// Whether what was sent to stop the agent has not ended.
    fn is_being_stopped(&self, pod: &PodStatus, skip: Option<&Skip>, agent: &AgentView) -> bool {
        let at_work = match &agent.stop {
            Some(AgentState::Running) => true,
            // Past its deadline it stops nobody, should it start after all: an image that cannot be pulled is not waited for.
            Some(AgentState::Waiting { .. }) => pod.stop.as_ref().is_some_and(|stop| self.now < deadline(stop.deadline.0, self.grace)),
            Some(AgentState::Terminated { .. }) | None => false,
        };
        at_work && !self.is_overdue(pod) && !matches!(skip, Some(Skip::Finished | Skip::Terminating))
    }

    /// Sends what stops the agent: written down first, then put in, then waited for. The agent's own report says how it ended.
    fn stop(&self, pod: &mut PodStatus, agent: &AgentView) -> Step {
        let never_started = matches!(agent.stop, None | Some(AgentState::Waiting { .. }));
        let number = match &pod.stop {
            None => 1,
            // Past its deadline it does nothing any more, should it start after all.
            Some(stop) if never_started && self.now >= stop.deadline.0 && stop.number < STOPS => stop.number + 1,
            Some(_) => 0,
        };
        if number > 0 {
            self.plan_stop(pod, number);
            return Step::again(POLL_LOG);
        }
        match &agent.stop {
            None if pod.stop.as_ref().is_some_and(|stop| self.now >= stop.deadline.0) => Step::again(POLL_TROUBLE),
            None => Step::put_in(PutIn::Stop),
            Some(AgentState::Terminated { exit_code: 0, .. } | AgentState::Running) => Step::again(POLL_LOG),
            Some(AgentState::Terminated { exit_code, .. }) if ExitCode::from_code(*exit_code) == Some(ExitCode::Unresponsive) => {
                self.repair(pod, agent.repair.as_ref(), true, "the agent was to be stopped and does not answer")
            }
            Some(AgentState::Terminated { exit_code, .. }) => {
                Step::obstacle(format!("what was sent to stop the agent ended with exit code {exit_code}: the loss ends at its time"))
            }
            Some(AgentState::Waiting { reason, .. }) => match reason.as_deref().filter(|reason| !is_usual(reason)) {
                Some(reason) => Step::obstacle(format!("what was sent to stop the agent does not start: {}", brief(reason))),
                None => Step::again(POLL_TROUBLE),
            },
        }
    }

    /// Sends what takes away that which the agent may have left: written down first, then put in, then waited for. Its report says
    /// whether anything is left. `why` is what happened to the agent; `force` is for one that still runs, and hangs.
    fn repair(&self, pod: &mut PodStatus, sent: Option<&AgentState>, force: bool, why: &str) -> Step {
        let Some(repair) = pod.repair.clone() else { return self.plan_repair(pod, 1, force, why) };
        // The one before found the agent at work and left it alone. It has ended since.
        let was_early = matches!(sent, Some(AgentState::Terminated { exit_code, .. }) if found_agent(*exit_code));
        if was_early && !force && repair.number < REPAIRS {
            return self.plan_repair(pod, repair.number + 1, force, why);
        }
        let grace = SignedDuration::try_from(self.grace).unwrap_or(SignedDuration::MAX);
        let is_late = self.now >= repair.deadline.0.saturating_add(grace).unwrap_or(Timestamp::MAX);
        let unrepaired = |what: &str| {
            let consequence = if pod.ends_by_itself() {
                "the kernel ends a guarded loss without it, within seconds at the latest"
            } else {
                "loss may remain until the pod ends"
            };
            format!("{}; {what}: {consequence}", brief(why))
        };
        match sent {
            Some(AgentState::Terminated { exit_code, last, .. }) => match last.as_ref().map(|record| &record.event) {
                Some(Event::Cleaned(cleaned)) if *exit_code == 0 => {
                    let found = if cleaned.removed.is_empty() { "nothing was left".to_owned() } else { cleaned.removed.join("; ") };
                    self.end(pod, Outcome::Repaired, &brief(&format!("{why}; repaired: {found}")))
                }
                Some(Event::Failed(failed)) => {
                    let words = unrepaired(&format!("what was to repair it says: {}", brief(&failed.message)));
                    self.end(pod, Outcome::Unknown, &words)
                }
                _ => {
                    let words = unrepaired(&format!("what was to repair it ended with exit code {exit_code}"));
                    self.end(pod, Outcome::Unknown, &words)
                }
            },
            None if self.now >= repair.deadline.0 => {
                let words = unrepaired("what was to repair it could not be put in");
                self.end(pod, Outcome::Unknown, &words)
            }
            _ if is_late => {
                let words = unrepaired("what was to repair it did not end in time");
                self.end(pod, Outcome::Unknown, &words)
            }
            None => Step::put_in(PutIn::Repair),
            Some(AgentState::Waiting { reason: Some(reason), .. }) if !is_usual(reason) => {
                Step::obstacle(format!("what was sent to repair it does not start: {}", brief(reason)))
            }
            Some(AgentState::Waiting { .. } | AgentState::Running) => Step::again(POLL_TROUBLE),
        }
    }

    /// Writes down what removes what the agent may have left.
    fn plan_repair(&self, pod: &mut PodStatus, number: u32, force: bool, why: &str) -> Step {
        let until = deadline(self.now, self.start);
        let container = repair_container_name(self.uid, self.run, pod.attempt, number);
        let argv = repair_arguments(self.uid, self.run, until, force);
        pod.repair = Some(SentContainer { container, argv, deadline: Time(until), number });
        pod.message = Some(brief(why));
        Step::again(POLL_LOG)
    }

    fn waiting(&self, pod: &mut PodStatus, agent: &AgentView, made: bool, reason: Option<&str>, message: Option<&str>) -> Step {
        let trouble = reason.filter(|reason| !is_usual(reason));
        if self.is_overdue(pod) {
            return if pod.was_applied() {
                let words = "the agent's container was set back by the kubelet and did not say how its loss ended";
                self.repair(pod, agent.repair.as_ref(), false, words)
            } else if made {
                let words = "the agent's container was made and never seen to start: it may have been killed together with the runtime";
                self.repair(pod, agent.repair.as_ref(), false, words)
            } else {
                let why = [trouble, message].into_iter().flatten().map(brief).collect::<Vec<_>>().join(": ");
                let why = if why.is_empty() { "the kubelet gave no reason".to_owned() } else { why };
                self.end(pod, Outcome::NeverStarted, &format!("the agent did not start before its deadline: {why}"))
            };
        }
        // Without the kubelet's message: it differs from one try to the next, and status is written when it changes.
        Step { obstacle: trouble.map(brief), look_again: self.until_overdue(pod), ..Step::default() }
    }

    /// The pod's end.
    pub(super) fn end(&self, pod: &mut PodStatus, outcome: Outcome, message: &str) -> Step {
        pod.state = PodState::Ended;
        pod.outcome = Some(outcome);
        pod.message = Some(message.to_owned());
        pod.silent = None;
        pod.ended_at = Some(Time(self.now));
        if outcome == Outcome::Unknown && pod.ends_by_itself() {
            // By its arguments, perhaps, which may be in a plan and not in the status by then.
            pod.unguarded = Some(false);
        }
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
