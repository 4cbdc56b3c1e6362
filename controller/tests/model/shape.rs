//! The bounds of each exploration.

use crate::{
    executor::Flaw,
    world::{Fault, Left, Wish},
};
use netloss_controller::api::ChaosExperiment;
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
        let left = Left { moves: 0, wishes: 0, faults: 0 };
        let tick = std::env::var("TICK").map_or(45, |t| t.parse().unwrap());
        Self { name, pods: 1, guarded: false, tick, rivals: false, slow_looks: false, left, wishes: &[], faults: &[], retries: 0 }
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
    let one = Left { moves: 1, wishes: 0, faults: 1 };
    let mut all = vec![
        Shape::new("crashes"),
        // Two that both believe to lead, and any pace of each.
        Shape { rivals: true, slow_looks: true, ..Shape::new("rivals") },
        // A user has a wish at any moment, and leadership moves.
        Shape { left: Left { wishes: 1, faults: 0, ..one }, wishes: &[Wish::Delete], ..Shape::new("deleted") },
        Shape { left: Left { wishes: 2, faults: 0, ..one }, wishes: &[Wish::Pause], ..Shape::new("paused") },
        Shape { left: Left { wishes: 1, faults: 0, ..one }, wishes: &[Wish::Edit], ..Shape::new("edited") },
        // Something goes wrong in a pod whose loss the kernel does not end, or does.
        Shape { left: one, faults: &[Fault::Killed, Fault::Hangs, Fault::PodGoes], ..Shape::new("agents") },
        Shape { left: one, guarded: true, faults: &[Fault::Killed, Fault::Hangs], ..Shape::new("guarded agents") },
        Shape { left: one, faults: &[Fault::RequestFails], retries: 1, ..Shape::new("requests") },
    ];
    if large {
        all.extend([]);
    }
    all
}

/// The one in which each flaw shows soonest.
pub(crate) fn of_flaw(flaw: Flaw) -> Shape {
    let both = Left { moves: 1, wishes: 2, faults: 1 };
    let (wishes, faults) = (&[Wish::Delete, Wish::Freeze], &[Fault::Killed]);
    match flaw {
        Flaw::ActsAlmostTooLong => Shape { tick: 60, left: both, wishes: &[Wish::Freeze], ..Shape::new("a flaw") },
        _ => Shape { left: both, wishes, faults, ..Shape::new("a flaw") },
    }
}
