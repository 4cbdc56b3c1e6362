//! What agents say.

use jiff::Timestamp;
use netloss_contract::{
    Applied, Asked, Backend, Cause, Cleaned, Correlation, Direction, Event, Filtered, LossModel, LossPercentage, PerDirection, Record,
    Removed, SCHEMA,
};

/// Seconds after the begin, as a time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or_default()
}

fn line(run: Option<&str>, time: i64, event: Event) -> String {
    Record { schema: SCHEMA, time: at(time), run: run.and_then(|run| run.parse().ok()), event }.to_line()
}

fn asked() -> Asked {
    let loss_percentage = LossPercentage::try_from(10.0).unwrap_or_else(|error| panic!("{error}"));
    let model = LossModel::Random { loss_percentage, correlation: Correlation::default() };
    Asked { model, direction: Direction::Egress, seed: None, per_segment: false }
}

fn backend(guarded: bool) -> Backend {
    if guarded { Backend::Guarded } else { Backend::Tc }
}

/// The loss is in place.
pub(crate) fn applied(guarded: bool, until: i64) -> Applied {
    Applied {
        agent_version: String::new(),
        kernel: String::new(),
        interface: "eth0".to_owned(),
        interface_reason: String::new(),
        backend: backend(guarded),
        backend_reason: String::new(),
        unguarded: !guarded,
        guard: None,
        asked: asked(),
        predicted: None,
        filtered: Filtered::default(),
        ends_at: at(until),
        leftovers_removed: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The loss was in place from then to then.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn removed(run: Option<&str>, cause: Cause, guarded: bool, since: i64, until: i64) -> String {
    let removed = Removed {
        cause,
        interface: "eth0".to_owned(),
        backend: backend(guarded),
        asked: asked(),
        predicted: None,
        applied_at: at(since),
        elapsed_seconds: (until - since) as f64,
        traffic: PerDirection::default(),
        kept: None,
        drift: Vec::new(),
        repaired: Vec::new(),
        lines_dropped: 0,
        warnings: Vec::new(),
    };
    line(run, until, Event::Removed(removed))
}

/// Nothing is left.
pub(crate) fn cleaned(run: Option<&str>, now: i64) -> String {
    line(run, now, Event::Cleaned(Cleaned { removed: Vec::new() }))
}
