//! What a replica does: the real decisions, in the real order of steps, one request at a time.
//!
//! `Executor::advance` is this with an API server in place of [`World`]. Flaws are what it must not be.

use crate::{
    Check,
    checks::{Promise, is_forward, is_written},
    kept::Kept,
    node::{Life, Node},
    reports,
    world::{Action, Do, Heard, Left, Work, World},
};
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use netloss_api::{ChaosExperiment, ChaosExperimentSpec, ChaosExperimentStatus, FINALIZER, PodState, PodStatus};
use netloss_cluster::observe::{self, Log, Lookup};
use netloss_core::{
    container::{agent_container, repair_container, stop_container},
    machine::{self, AgentLog, Decision, Experiment, Needs, Observed, PodView, Pods, Preconditions, Preflight, Protection},
    steps::{self, Step},
    targets::Candidate,
};
use std::collections::{BTreeMap, VecDeque};

/// What an executor could do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It puts in what it is about to write down.
    PatchesFirst,
    /// It writes status without the version that it was decided from.
    WritesBlindly,
    /// It decides from what it has read or written last, until a write shows that this is old.
    ReadsOnce,
    /// It lets a deleted experiment go at once.
    LetsGoEarly,
    /// It never lets an experiment go.
    NeverLetsGo,
    /// It does what it decided, however long ago that was.
    ActsHoweverLate,
    /// It puts in no agent that it decided about long ago, but writes what it decided then.
    WritesHoweverLate,
    /// It does what it decided for as long as half of what the machine waits for.
    ActsAlmostTooLong,
    /// It does not write records.
    LeavesNoRecord,
    /// It sends nothing after an agent.
    SendsNothingAfter,
    /// It does not see that its agent is in a pod already.
    SeesNoAgent,
    /// Its agents renew their lease however long they slept.
    RenewsHoweverLate,
    /// Its agents, without a guard, bring again what was taken away while they slept.
    ForgetsThatItSlept,
}

impl Check {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// A replica reads the experiment, as it stands.
    pub(crate) fn read(&self, world: &mut World, replica: usize) {
        let begun = world.now;
        let this = &mut world.replicas[replica];
        // Where nothing more goes wrong, it hears of what was written.
        let caches = self.has(Flaw::ReadsOnce) && world.left != Left::default();
        let read = world.object.as_ref().map(|object| this.cache.as_ref().filter(|_| caches).unwrap_or(object).clone());
        this.cache = read.clone().filter(|_| caches);
        let digest = world.object.as_ref().map(Kept::digest);
        this.work = read.map(|read| Work { current: digest == Some(read.digest()), read, begun, decided: None });
        if this.work.is_none() {
            this.heard = self.nothing.clone();
        }
    }

    /// It looks at the pods and decides.
    pub(crate) fn look(&self, world: &mut World, replica: usize) {
        let this = &world.replicas[replica];
        let (Some(work), heard) = (this.work.clone(), this.heard.clone()) else { return };
        let question = (&work.read, &world.nodes, world.frozen, world.now, &heard);
        let decision = self.decisions.get(&question, || Kept::new(self.decide(world, &work.read, &heard)));
        let mut todo = VecDeque::new();
        for step in steps::steps(&decision, work.read.status.as_ref(), heard.failed) {
            match step {
                Step::Record if self.has(Flaw::LeavesNoRecord) => {}
                Step::ApplyFollowUps if self.has(Flaw::SendsNothingAfter) => {}
                Step::SetFinalizer(false) if self.has(Flaw::NeverLetsGo) => {}
                Step::WriteStatus if self.has(Flaw::PatchesFirst) && plans(&decision) => {
                    todo.extend((0..decision.status.iter().flat_map(|status| &status.pods).count()).map(Do::Agent));
                    todo.push_back(Do::Step(step));
                }
                Step::ApplyFollowUps => {
                    todo.extend((0..decision.stops.len()).map(Do::Stop));
                    todo.extend((0..decision.repairs.len()).map(Do::Repair));
                }
                Step::Inject => todo.extend((0..decision.injections.len()).map(Do::Agent)),
                _ => todo.push_back(Do::Step(step)),
            }
        }
        let early = self.has(Flaw::LetsGoEarly) && work.read.metadata.deletion_timestamp.is_some();
        if early && work.read.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty()) {
            todo.push_front(Do::Step(Step::SetFinalizer(false)));
        }
        self.note(world, replica, &decision);
        let heard = if heard.failed { Kept::new(Heard { failed: true, ..Heard::default() }) } else { self.nothing.clone() };
        world.replicas[replica].heard = heard;
        world.replicas[replica].work = Some(Work { decided: Some((decision, todo)), ..work });
        self.go_on(world, replica);
    }

    fn decide(&self, world: &World, read: &ChaosExperiment, heard: &Heard) -> Decision {
        let uid = read.metadata.uid.clone().unwrap_or_default();
        let experiment = Experiment {
            namespace: "n",
            uid: &uid,
            generation: read.metadata.generation.unwrap_or_default(),
            deleting: read.metadata.deletion_timestamp.is_some(),
            finalized: read.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER),
            requested: None,
            spec: &read.spec,
            status: read.status.as_ref(),
        };
        let freeze = world.frozen.then(|| "because".to_owned());
        let now = reports::at(world.now);
        let observed = match machine::needs(&experiment, now, &self.settings) {
            Needs::Nothing => Observed::Nothing,
            Needs::Preconditions { .. } => {
                let pods = world.nodes.iter().filter_map(|node| self.pod(node)).map(|pod| Candidate::of(&pod, now)).collect();
                Observed::Preconditions(Preconditions { freeze, pods, ..Preconditions::default() })
            }
            Needs::Pods { .. } => {
                let run = format!("{uid}/{}", read.status.as_ref().and_then(|status| status.run).unwrap_or_default());
                let open = read.status.iter().flat_map(ChaosExperimentStatus::open_pods);
                let mut views: BTreeMap<_, _> = open.map(|entry| (entry.uid.clone(), self.view(world, entry, &run, &read.spec))).collect();
                views.extend(heard.refused.clone());
                Observed::Pods(Pods {
                    views,
                    ready: None,
                    freeze,
                    protection: Some(Protection::default()),
                    preflight: heard.preflight.clone(),
                })
            }
        };
        machine::decide(&experiment, &observed, now, &self.settings)
    }

    fn pod(&self, node: &Kept<Node>) -> Option<Kept<Pod>> {
        self.pods.get(node, || node.pod().map(Kept::new))
    }

    /// As `observe::view` puts it together.
    fn view(&self, world: &World, entry: &PodStatus, run: &str, spec: &ChaosExperimentSpec) -> PodView {
        let Some(node) = world.nodes.iter().find(|node| node.name == entry.name) else { return PodView::Gone };
        let mut view = observe::view_of(self.pod(node).as_deref(), entry, Lookup { run, spec, now: reports::at(world.now) });
        if let PodView::Present { agent, .. } = &mut view
            && let Some(seen) = agent
            && let Some(there) = node.containers.iter().find(|container| container.name == entry.container)
        {
            let hung = matches!(there.life, Life::Running { asleep: Some(_), .. });
            seen.log = match (observe::log_to_read(entry, &seen.state), there.since) {
                (Some(Log::Begin), Some(since)) => {
                    AgentLog::Applied(reports::at(since), Box::new(reports::applied(self.shape.guarded, there.deadline())))
                }
                (Some(Log::Begin), None) => AgentLog::NotApplied,
                (Some(Log::Lately), _) => {
                    if hung {
                        AgentLog::Stale
                    } else {
                        AgentLog::Heartbeat(None)
                    }
                }
                (None, _) => AgentLog::NotRead,
            };
            if self.has(Flaw::SeesNoAgent) {
                *agent = None;
            }
        }
        view
    }

    /// It does the next step.
    pub(crate) fn perform(&self, world: &mut World, replica: usize) {
        let Some(mut work) = world.replicas[replica].work.take() else { return };
        let Some((decision, todo)) = &mut work.decided else { return };
        let (decision, Some(next)) = (decision.clone(), todo.pop_front()) else { return };
        let goes_on = match next {
            Do::Step(Step::WriteStatus) => self.write_status(world, replica, &work, &decision),
            Do::Step(Step::Record) => {
                // That of a pause is not the run's own.
                let over = decision.status.as_ref().filter(|status| status.completed_at.is_some());
                world.records.extend(over.and_then(|status| status.run));
                true
            }
            Do::Step(Step::SetFinalizer(wanted)) => {
                self.set_finalizer(world, replica, &work, wanted);
                true
            }
            Do::Step(Step::DryRunPatch) => {
                let answer = if world.refuses { Preflight::Refused("no".to_owned()) } else { Preflight::Admitted };
                let heard = &mut world.replicas[replica].heard;
                *heard = heard.with(|heard| heard.preflight = Some(answer));
                true
            }
            Do::Agent(at) => {
                let planned = decision.status.as_ref().map(|status| &status.pods).filter(|_| decision.injections.is_empty());
                if let Some(entry) = planned.unwrap_or(&decision.injections).get(at) {
                    self.put_in(world, replica, entry, &agent_container(entry));
                }
                true
            }
            Do::Stop(at) => {
                let entry = &decision.stops[at];
                entry.stop.iter().for_each(|sent| self.put_in(world, replica, entry, &stop_container(entry, sent)));
                true
            }
            Do::Repair(at) => {
                let entry = &decision.repairs[at];
                entry.repair.iter().for_each(|sent| self.put_in(world, replica, entry, &repair_container(entry, sent)));
                true
            }
            Do::Step(Step::Publish | Step::GiveUp | Step::AwaitChange | Step::ApplyFollowUps | Step::Inject) => true,
        };
        if goes_on {
            world.replicas[replica].work = Some(work);
            self.go_on(world, replica);
        }
    }

    /// Goes through what is no request, until there is one that is not too late, or the end of the round.
    pub(crate) fn go_on(&self, world: &mut World, replica: usize) {
        let this = &mut world.replicas[replica];
        let Some(work) = &mut this.work else { return };
        let age = world.now - work.begun;
        let is_late = steps::is_too_late(reports::at(work.begun), reports::at(world.now));
        let flaw = self.flaw;
        let too_late = |next: Do| match flaw {
            Some(Flaw::ActsHoweverLate) => false,
            Some(Flaw::WritesHoweverLate) => is_late && matches!(next, Do::Agent(_)),
            Some(Flaw::ActsAlmostTooLong) => age > 60,
            _ => is_late,
        };
        let Some((_, todo)) = &mut work.decided else {
            // What it would decide now would be dropped.
            this.work = this.work.take().filter(|_| !is_late);
            return;
        };
        while let Some(next) = todo.front() {
            if next.acts() && too_late(*next) {
                self.saw("a decision that came too late");
                break;
            }
            if next.acts() {
                return;
            }
            if matches!(next, Do::Step(Step::GiveUp | Step::AwaitChange)) {
                this.heard = self.nothing.clone();
            }
            todo.pop_front();
        }
        this.work = None;
    }

    fn write_status(&self, world: &mut World, replica: usize, work: &Work, decision: &Kept<Decision>) -> bool {
        let (Some(object), Some(status)) = (world.object.clone(), &decision.status) else {
            // It is gone, which ends the pass.
            world.replicas[replica].heard = self.nothing.clone();
            return false;
        };
        if !work.current && !self.has(Flaw::WritesBlindly) {
            self.saw("a conflict");
            world.replicas[replica].cache = None;
            return false;
        }
        if !is_forward(object.status.as_ref(), status) {
            world.broke = Some(Promise::OnlyForward);
        }
        for pod in status.pods.iter().filter(|pod| pod.may_be_impaired()) {
            world.given_up.insert(pod.name.clone());
        }
        let written = self.objects.get(&(&object, decision), || object.with(|object| object.status = Some(status.clone())));
        self.written(world, replica, Some(written));
        true
    }

    fn set_finalizer(&self, world: &mut World, replica: usize, work: &Work, wanted: bool) {
        let Some(object) = world.object.clone().filter(|_| work.current) else {
            self.saw("a conflict");
            world.replicas[replica].cache = None;
            return;
        };
        let written = self
            .objects
            .get(&(&object, wanted), || object.with(|object| object.metadata.finalizers = wanted.then(|| vec![FINALIZER.to_owned()])));
        let goes = !wanted && written.metadata.deletion_timestamp.is_some();
        self.written(world, replica, (!goes).then_some(written));
    }

    /// The replica has written the experiment, and knows what it wrote.
    fn written(&self, world: &mut World, replica: usize, object: Option<Kept<ChaosExperiment>>) {
        world.replicas[replica].cache = object.clone().filter(|_| self.has(Flaw::ReadsOnce));
        world.replace(object);
    }

    fn put_in(&self, world: &mut World, replica: usize, entry: &PodStatus, container: &EphemeralContainer) {
        let Some(at) = world.nodes.iter().position(|node| node.name == entry.name && !node.gone) else { return };
        let (is_agent, node) = (container.name == entry.container, world.nodes[at].clone());
        if world.refuses {
            let is_there = node.containers.iter().any(|there| there.name == entry.container);
            let words = "no".to_owned();
            let view = match (is_agent, is_there) {
                (true, true) => return,
                (true, false) => PodView::Refused(words),
                (false, _) => PodView::SentRefused(words),
            };
            let heard = &mut world.replicas[replica].heard;
            *heard = heard.with(|heard| drop(heard.refused.insert(entry.uid.clone(), view)));
            return;
        }
        let (node, is_it) = self.puts.get(&(&node, &container.name, &container.args), || {
            let mut changed = Node::clone(&node);
            let is_it = changed.put_in(container);
            (Kept::new(changed), is_it)
        });
        if !is_it {
            world.broke = Some(Promise::OneName);
        }
        if world.nodes[at].digest() == node.digest() {
            self.saw("a container that was there already");
        } else if let Some(put_in) = node.containers.last()
            && !is_written(world, entry, put_in)
        {
            world.broke = Some(Promise::WriteAhead);
        }
        world.nodes[at] = node;
    }

    /// What has been come across, for knowing that the check is of something.
    fn note(&self, world: &World, replica: usize, decision: &Decision) {
        let Some(status) = &decision.status else { return };
        for pod in &status.pods {
            if let Some(outcome) = pod.outcome {
                self.saw(&format!("{outcome:?}"));
            }
            let before = world.status().and_then(|before| before.pods.iter().find(|before| before.uid == pod.uid));
            let planned = before.is_some_and(|before| before.state == PodState::Planned);
            if planned && pod.state > PodState::Planned && pod.stop.is_some() {
                self.saw("an agent that came when it was to be stopped");
            }
        }
        if replica == 1 {
            self.saw("two that decide");
        }
    }

    /// A request fails, and nothing is done.
    pub(crate) fn fail(&self, world: &mut World, replica: usize) {
        let this = &mut world.replicas[replica];
        let Some(Work { decided: Some((_, todo)), .. }) = &mut this.work else { return };
        // Of agents alone the others are put in all the same; anything else ends the pass.
        if let Some(Do::Agent(_)) = todo.pop_front() {
            this.heard = this.heard.with(|heard| heard.failed = true);
            self.go_on(world, replica);
        } else {
            (this.work, this.heard) = (None, self.nothing.clone());
        }
    }
}

/// Whether a decision plans an attempt.
fn plans(decision: &Decision) -> bool {
    let mut pods = decision.status.iter().flat_map(|status| &status.pods);
    decision.injections.is_empty() && pods.any(|pod| pod.state == PodState::Planned && pod.stop.is_none())
}

/// Whose round it can be.
pub(crate) fn leads(rivals: bool, replica: usize) -> bool {
    rivals || replica == 0
}

/// Makes this replica's step out of what is possible.
pub(crate) fn next(work: &Work, replica: usize) -> Action {
    if work.decided.is_some() { Action::Does(replica) } else { Action::Look(replica) }
}
