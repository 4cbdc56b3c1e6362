//! The bounds of each exploration.

use crate::{
    executor::Flaw,
    world::{Fault, Left, Wish},
};
use netloss_api::ChaosExperiment;
use serde_json::json;

/// What can happen in one exploration, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub name: &'static str,
    pub pods: usize,
    /// Whether the kernel ends what a dead or hung agent has brought.
    pub guarded: bool,
    /// Steps of time, in seconds.
    pub tick: i64,
    /// Whether both replicas believe to lead, all the time.
    pub rivals: bool,
    /// Whether time may pass between reading the experiment and looking at its pods.
    pub slow_looks: bool,
    pub left: Left,
    pub wishes: &'static [Wish],
    pub faults: &'static [Fault],
    pub retries: u32,
}

impl Shape {
    /// One pod and one leader, with nothing that goes wrong but crashes.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            pods: 1,
            guarded: false,
            tick: 60,
            rivals: false,
            slow_looks: false,
            left: Left::default(),
            wishes: &[],
            faults: &[],
            retries: 0,
        }
    }

    /// The experiment at the begin.
    pub(crate) fn experiment(&self) -> ChaosExperiment {
        let object = json!({
            "apiVersion": "chaos.gushchin.dev/v1alpha1",
            "kind": "ChaosExperiment",
            "metadata": { "name": "x", "namespace": "n", "uid": "1b4e28ba-2fa1-41d2-883f-0016d3cca427", "generation": 1 },
            "spec": {
                "action": "pod-network-loss",
                "selector": { "app": "web" },
                "duration": "60s",
                "count": self.pods,
                "maxRetries": self.retries,
            },
        });
        serde_json::from_value(object).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// All explorations.
pub(crate) fn all(large: bool) -> Vec<Shape> {
    const AGENTS: &[Fault] = &[Fault::Killed, Fault::Hangs, Fault::DiesUnseen, Fault::PodGoes];
    let none = Left::default();
    let moves = |moves| Left { moves, ..none };
    let wishes = |moves, wishes| Left { moves, wishes, faults: 0 };
    let faults = |moves, faults| Left { moves, wishes: 0, faults };
    if large {
        let rivals = |name| Shape { rivals: true, ..Shape::new(name) };
        return vec![
            Shape { slow_looks: true, tick: 45, ..rivals("two leaders, at any pace") },
            Shape { left: moves(3), tick: 30, retries: 1, ..Shape::new("leadership moves, in steps of 30 s") },
            Shape { left: wishes(2, 1), wishes: &[Wish::Delete], tick: 45, ..Shape::new("deleted") },
            Shape { left: wishes(1, 2), wishes: &[Wish::Pause], ..Shape::new("paused and resumed") },
            Shape { left: wishes(1, 1), wishes: &[Wish::Edit], ..Shape::new("edited") },
            Shape { left: wishes(1, 2), wishes: &[Wish::Freeze], tick: 45, ..Shape::new("frozen and thawed") },
            Shape {
                left: Left { moves: 1, wishes: 1, faults: 1 },
                wishes: &[Wish::Delete],
                faults: AGENTS,
                ..Shape::new("deleted, and agents fail")
            },
            Shape { left: faults(1, 2), faults: AGENTS, ..Shape::new("agents fail twice") },
            Shape { left: faults(1, 1), faults: AGENTS, guarded: true, ..Shape::new("guarded agents fail") },
            Shape {
                left: faults(0, 2),
                faults: &[Fault::PolicyFlips, Fault::RequestFails],
                retries: 1,
                ..Shape::new("requests are refused and fail")
            },
            Shape { left: moves(1), pods: 2, ..Shape::new("two pods") },
        ];
    }
    vec![
        Shape { rivals: true, tick: 45, ..Shape::new("two leaders") },
        Shape { left: moves(1), tick: 45, slow_looks: true, ..Shape::new("leadership moves") },
        Shape { left: wishes(1, 1), wishes: &[Wish::Delete], ..Shape::new("deleted") },
        Shape { left: wishes(0, 2), wishes: &[Wish::Pause], ..Shape::new("paused and resumed") },
        Shape { left: wishes(0, 1), wishes: &[Wish::Edit], ..Shape::new("edited") },
        Shape { left: wishes(1, 1), wishes: &[Wish::Freeze], ..Shape::new("frozen") },
        Shape { left: faults(0, 1), faults: AGENTS, ..Shape::new("agents fail") },
        Shape { left: faults(0, 1), faults: AGENTS, guarded: true, ..Shape::new("guarded agents fail") },
        Shape {
            left: faults(0, 2),
            faults: &[Fault::PolicyFlips, Fault::RequestFails],
            retries: 1,
            ..Shape::new("requests are refused and fail")
        },
        Shape { pods: 2, ..Shape::new("two pods") },
    ]
}

/// A policy refuses an agent, and admits another controller's a moment later.
pub(crate) fn with_a_fickle_policy() -> Shape {
    Shape { left: Left { moves: 1, wishes: 0, faults: 2 }, faults: &[Fault::PolicyFlips], ..Shape::new("a fickle policy") }
}

/// The one in which each flaw shows soonest.
pub(crate) fn of_flaw(flaw: Flaw) -> Shape {
    let late = Left { moves: 2, wishes: 2, faults: 0 };
    match flaw {
        Flaw::ReadsOnce | Flaw::ActsHoweverLate | Flaw::WritesHoweverLate | Flaw::ActsAlmostTooLong => {
            Shape { left: late, wishes: &[Wish::Freeze], ..Shape::new("too late") }
        }
        Flaw::RenewsHoweverLate | Flaw::ForgetsThatItSlept => Shape {
            left: Left { moves: 0, wishes: 0, faults: 1 },
            faults: &[Fault::Hangs],
            guarded: flaw == Flaw::RenewsHoweverLate,
            ..Shape::new("a sleeper")
        },
        _ => Shape {
            tick: 45,
            left: Left { moves: 1, wishes: 2, faults: 1 },
            wishes: &[Wish::Delete, Wish::Freeze],
            faults: &[Fault::Killed],
            ..Shape::new("a flaw")
        },
    }
}
