//! What there is: what the API server holds, what is so on the nodes, and where two replicas of the controller stand.

use crate::{
    checks::Promise,
    kept::Kept,
    node::{Life, Node},
};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, PodStatus, SentContainer};
use netloss_core::{
    machine::{Decision, PodView, Preflight, Settings},
    steps::Step,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct World {
    /// Seconds since the begin.
    pub now: i64,
    /// The experiment, until it is gone. Its resourceVersion stands in [`Work::current`]: numbers that count writes would tell apart
    /// states that nobody can tell apart.
    pub object: Option<Kept<ChaosExperiment>>,
    pub nodes: Vec<Kept<Node>>,
    /// Runs that have a record.
    pub records: BTreeSet<u32>,
    /// Whether all experiments are frozen.
    pub frozen: bool,
    /// Whether a policy of the cluster refuses what is put into pods.
    pub refuses: bool,
    /// The first one leads; where both believe to lead, both do.
    pub replicas: [Replica; 2],
    /// What may still happen.
    pub left: Left,
    /// Nodes of which status has said that loss may remain.
    pub given_up: BTreeSet<String>,
    /// What should not have happened.
    pub broke: Option<Promise>,
}

/// How much may still happen that need not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub moves: u8,
    pub wishes: u8,
    pub faults: u8,
}

/// One replica of the controller.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Replica {
    /// What was heard in one round, for the next one.
    pub heard: Kept<Heard>,
    /// The round that is under way.
    pub work: Option<Work>,
    /// What was last read, for a flawed executor that reads no more.
    pub cache: Option<Kept<ChaosExperiment>>,
}

/// As `reconcile::pass` keeps it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Heard {
    pub refused: BTreeMap<String, PodView>,
    pub preflight: Option<Preflight>,
    /// Whether something has to be tried again.
    pub failed: bool,
}

/// A round that is under way.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Work {
    pub read: Kept<ChaosExperiment>,
    /// Whether nobody has written the experiment since, which the API server tells by its resourceVersion.
    pub current: bool,
    pub begun: i64,
    /// None until it has looked at the pods.
    pub decided: Option<(Kept<Decision>, VecDeque<Do>)>,
}

/// What one request does, and the steps that are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Do {
    Step(Step),
    /// Of [`Step::Inject`]: the agent of this entry.
    Agent(usize),
    /// Of [`Step::ApplyFollowUps`].
    Stop(usize),
    Repair(usize),
}

impl Do {
    /// Whether it is a request that changes something.
    pub(crate) fn acts(self) -> bool {
        if let Self::Step(step) = self { step.acts() } else { true }
    }
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A replica reads the experiment, looks at the pods and decides.
    Round(usize),
    /// It reads the experiment.
    Read(usize),
    /// It looks at the pods and decides.
    Look(usize),
    /// It does the next step.
    Does(usize),
    /// It hears an error in place of an answer, and nothing was done.
    Fails(usize),
    /// It ends where it stands, and is started again.
    Crashes(usize),
    /// The other replica leads from now on. The one that did does not know, and goes on with its round.
    LeaderMoves,
    /// A node starts a container.
    Starts(usize, usize),
    /// A node shows that an agent's time is over.
    Shows(usize, usize),
    /// An agent that was stopped or frozen runs again.
    Wakes(usize, usize),
    /// Something goes wrong.
    Fault(Fault, usize, usize),
    /// A user wants something.
    Wish(Wish),
    /// Time passes.
    Passes,
}

/// What goes wrong beside controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// An agent is killed.
    Killed,
    /// An agent hangs: it is stopped or frozen. It may run again at any time.
    Hangs,
    /// The container runtime is killed as it starts a container, and kills that when it is there again.
    DiesUnseen,
    /// A pod goes.
    PodGoes,
    /// A policy of the cluster begins to refuse what is put into pods, or no longer does.
    PolicyFlips,
    /// A request for an agent fails.
    RequestFails,
}

/// What a user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wish {
    Delete,
    /// Pause, or go on.
    Pause,
    Edit,
    /// Freeze all experiments, or thaw them.
    Freeze,
}

impl World {
    pub(crate) fn status(&self) -> Option<&ChaosExperimentStatus> {
        self.object.as_ref().and_then(|object| object.status.as_ref())
    }

    pub(crate) fn finalized(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty()))
    }

    /// The experiment is another one from now on, or gone.
    pub(crate) fn replace(&mut self, object: Option<Kept<ChaosExperiment>>) {
        self.object = object;
        for work in self.replicas.iter_mut().filter_map(|replica| replica.work.as_mut()) {
            work.current = false;
        }
    }

    /// Whether an agent has ended and its node does not show it yet.
    pub(crate) fn is_due(&self) -> bool {
        self.nodes.iter().any(|node| !node.gone && node.containers.iter().any(|container| container.is_due(self.now)))
    }

    /// Whether time brings something that has not come yet. That a decision is too old some time is like a crash, which can come at any time.
    pub(crate) fn waits(&self) -> bool {
        let grace = i64::try_from(Settings::new("", "").grace.as_secs()).unwrap_or(i64::MAX);
        let sent = |sent: &SentContainer| sent.deadline.0.as_second() + grace;
        let of_entry = |pod: &PodStatus| {
            let latest = pod.stop.iter().chain(&pod.repair).map(sent).max();
            latest.max(Some(pod.deadline.0.as_second() + grace))
        };
        let entries = self.status().into_iter().flat_map(ChaosExperimentStatus::open_pods).filter_map(of_entry);
        let retry = self.status().and_then(|status| status.next_retry_time.as_ref()).map(|time| time.0.as_second());
        let containers = self.nodes.iter().filter(|node| !node.gone).flat_map(|node| &node.containers);
        let lives = containers.filter_map(|container| match container.life {
            Life::Waiting => Some(container.deadline()),
            Life::Running { until, asleep: None, .. } => Some(until),
            Life::Running { .. } | Life::Unseen | Life::Ended { .. } => None,
        });
        entries.chain(retry).chain(lives).any(|time| time > self.now)
    }
}
