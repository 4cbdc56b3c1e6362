//! What an agent says, for tests and benches that play it.

use jiff::Timestamp;
use netloss_contract::{
    Applied, Asked, Backend, Cause, Correlation, Direction, Event, Filtered, LossModel, PerDirection, Record, Removed, SCHEMA, Traffic,
};

/// The first line of an agent that was asked for 10 % in both directions, and brought it at a time.
///
/// # Panics
///
/// If `run` names no run.
#[must_use]
pub fn applied(run: &str, at: Timestamp, ends_at: Timestamp) -> Record {
    let applied = Applied {
        agent_version: "0.1.0".to_owned(),
        kernel: "6.12.0".to_owned(),
        interface: "eth0".to_owned(),
        interface_reason: "default route".to_owned(),
        backend: Backend::Tc,
        backend_reason: String::new(),
        unguarded: true,
        guard: None,
        asked: asked(),
        predicted: None,
        filtered: Filtered::default(),
        ends_at,
        leftovers_removed: Vec::new(),
        warnings: vec![],
    };
    record(run, at, Event::Applied(applied))
}

/// Its last line, when it has lost packets for 30 s.
///
/// # Panics
///
/// If `run` names no run.
#[must_use]
pub fn removed(run: &str, at: Timestamp, applied_at: Timestamp) -> Record {
    let removed = Removed {
        cause: Cause::Ttl,
        interface: "eth0".to_owned(),
        backend: Backend::Tc,
        asked: asked(),
        predicted: None,
        applied_at,
        elapsed_seconds: 30.0,
        traffic: PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: Some(Traffic::new(800, 84, 10.0)) },
        kept: None,
        drift: Vec::new(),
        repaired: Vec::new(),
        lines_dropped: 0,
        warnings: vec![],
    };
    record(run, at, Event::Removed(removed))
}

#[allow(clippy::expect_used)] // what they are about is written above
fn record(run: &str, time: Timestamp, event: Event) -> Record {
    Record { schema: SCHEMA, time, run: Some(run.parse().expect("the name of a run")), event }
}

#[allow(clippy::expect_used)] // 10 is a percentage
fn asked() -> Asked {
    let loss_percentage = 10.0.try_into().expect("a percentage");
    let model = LossModel::Random { loss_percentage, correlation: Correlation::default() };
    Asked { model, direction: Direction::Both, seed: None, per_segment: false }
}
