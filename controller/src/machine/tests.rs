//! Tests of the machine as a whole, and what the tests of its surroundings share.

use super::*;
use crate::api::{AskedLoss, PodState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_contract::{Asked, Backend, Cause, Correlation, Direction, Event, Heartbeat, PerDirection, Removed, SCHEMA, Traffic};

/// A pod that is planned, in the first run of the experiment `uid`.
pub(crate) fn entry() -> PodStatus {
    PodStatus {
        namespace: "n".to_owned(),
        name: "p".to_owned(),
        uid: "pod-uid".to_owned(),
        node: None,
        container: "network-loss-uid-r1-a1".to_owned(),
        image: "agent:1".to_owned(),
        argv: vec!["run".to_owned()],
        deadline: Time(at(0)),
        attempt: 1,
        asked: AskedLoss { loss_percentage: 10.0, correlation: 0.0, direction: Direction::Both, duration: "30s".to_owned() },
        state: PodState::Planned,
        interface: None,
        backend: None,
        unguarded: None,
        applied_at: None,
        observed: None,
        outcome: None,
        ended_at: None,
        message: None,
    }
}

/// Seconds after some moment.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A record of the first run of the experiment `uid`.
pub(crate) fn record(event: Event) -> Record {
    Record { schema: SCHEMA, time: at(40), run: Some("uid/1".parse().unwrap()), event }
}

fn asked() -> Asked {
    Asked { loss_percentage: 10.0.try_into().unwrap(), correlation: Correlation::default(), direction: Direction::Both }
}

pub(crate) fn applied() -> Event {
    Event::Applied(Applied {
        agent_version: "0.1.0".to_owned(),
        kernel: "6.12".to_owned(),
        interface: "eth0".to_owned(),
        interface_reason: "default route".to_owned(),
        backend: Backend::Tc,
        unguarded: true,
        asked: asked(),
        ends_at: at(70),
        leftovers_removed: Vec::new(),
    })
}

pub(crate) fn heartbeat() -> Event {
    Event::Heartbeat(Heartbeat {
        elapsed_seconds: 10.0,
        remaining_seconds: 20.0,
        traffic: PerDirection { egress: Some(Traffic { packets: 100, dropped: 9 }), ingress: None },
        intact: true,
        drift: Vec::new(),
        lines_dropped: 0,
    })
}

pub(crate) fn removed() -> Event {
    Event::Removed(Removed {
        cause: Cause::Ttl,
        interface: "eth0".to_owned(),
        backend: Backend::Tc,
        asked: asked(),
        applied_at: at(10),
        elapsed_seconds: 30.0,
        traffic: PerDirection { egress: Some(Traffic { packets: 1000, dropped: 98 }), ingress: None },
        drift: Vec::new(),
        lines_dropped: 0,
    })
}
