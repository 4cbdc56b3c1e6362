//! What the loss has done so far, counted from the moment that it was in place. Pure.
//!
//! The number of packets that met the loss is what the guard's rules have counted; where there is no guard, that of the packets that left
//! the interface plus those that netem dropped. netem's own "sent" counts segments where "dropped" counts packets, but where each
//! segment is a packet of its own, it is the one that knows.

use crate::{backend::Target, netem::Netem, netlink::Qdisc, snapshot::Snapshot};
use netloss_contract::{Backend, PerDirection, Traffic};
use std::collections::BTreeMap;

/// From so many waiting packets on, a netem's queue may have been full between two looks.
const NEARLY_FULL: u32 = Netem::LIMIT / 10 * 9;

/// Counters of both directions.
#[derive(Debug, Clone)]
pub struct Meter {
    egress: Option<Gauge>,
    ingress: Option<Gauge>,
    target: Target,
    /// In percent.
    expected: f64,
    /// Of netem queues that were nearly full, by interface: how many packets waited at most.
    full: BTreeMap<String, u32>,
}

/// What the kernel's counters of one direction show.
#[derive(Debug, Clone, Copy)]
struct Reading {
    met: Met,
    dropped: u32,
}

/// How the packets that met the loss are counted.
#[derive(Debug, Clone, Copy)]
enum Met {
    /// As those that passed it, dropped ones left out.
    Passed(u64),
    /// The same, 32 bits wide.
    PassedNetem(u32),
    /// All of them.
    All(u64),
}

#[derive(Debug, Clone, Copy)]
struct Gauge {
    last: Reading,
    packets: u64,
    dropped: u64,
}

impl Meter {
    /// Counts what a backend brings that has just been put in place, and of which `snapshot` shows what was not made for it. `expected` is the
    /// rate that the counts are held against, in percent.
    #[must_use]
    pub fn start(snapshot: &Snapshot, backend: Backend, target: &Target, expected: f64) -> Self {
        let gauge = |reading: Option<Reading>| reading.map(|last| Gauge { last, packets: 0, dropped: 0 });
        let [egress, ingress] = first(snapshot, backend, target);
        Self { egress: gauge(egress), ingress: gauge(ingress), target: target.clone(), expected, full: BTreeMap::new() }
    }

    /// Goes on with counters that begin anew, as [`Self::start`].
    pub fn rebase(&mut self, snapshot: &Snapshot, backend: Backend) {
        let [egress, ingress] = first(snapshot, backend, &self.target);
        for (gauge, reading) in [(&mut self.egress, egress), (&mut self.ingress, ingress)] {
            if let (Some(gauge), Some(reading)) = (gauge, reading) {
                gauge.last = reading;
            }
        }
    }

    /// Adds what has come since. Counters that cannot be read now count nothing.
    pub fn update(&mut self, snapshot: &Snapshot, counted: Option<PerDirection<u64>>) {
        let [egress, ingress] = readings(snapshot, counted, &self.target);
        for (gauge, reading) in [(&mut self.egress, egress), (&mut self.ingress, ingress)] {
            if let (Some(gauge), Some(reading)) = (gauge, reading) {
                gauge.advance(reading);
            }
        }
        for netem in netems(snapshot, &self.target).into_iter().flatten().filter(|netem| netem.waiting >= NEARLY_FULL) {
            let name = snapshot.link(netem.ifindex).map_or_else(String::new, |link| link.name.clone());
            let most = self.full.entry(name).or_default();
            *most = (*most).max(netem.waiting);
        }
    }

    /// That a full queue may have dropped packets that the model did not, in words.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let warning = |(name, waiting): (&String, &u32)| {
            let limit = Netem::LIMIT;
            format!(
                "up to {waiting} packets waited in the netem of {name}, which holds {limit}: some may have been dropped because it was full"
            )
        };
        self.full.iter().map(warning).collect()
    }

    /// The counts.
    #[must_use]
    pub fn traffic(&self) -> PerDirection<Traffic> {
        let traffic = |gauge: Gauge| Traffic::new(gauge.packets, gauge.dropped, self.expected);
        PerDirection { egress: self.egress.map(traffic), ingress: self.ingress.map(traffic) }
    }
}

impl Gauge {
    fn advance(&mut self, now: Reading) {
        // 32 bits wide in the kernel, so it wraps. Half of that between two looks is none: somebody made the qdisc anew.
        let since = now.dropped.wrapping_sub(self.last.dropped);
        let dropped = u64::from(if since <= u32::MAX / 2 { since } else { now.dropped });
        self.dropped += dropped;
        self.packets += match (now.met, self.last.met) {
            (Met::Passed(now), Met::Passed(last)) => now.saturating_sub(last) + dropped,
            (Met::PassedNetem(now), Met::PassedNetem(last)) => u64::from(now.wrapping_sub(last)) + dropped,
            (Met::All(now), Met::All(last)) => now.saturating_sub(last),
            // The way of counting does not change during a run.
            _ => dropped,
        };
        self.last = now;
    }
}

/// Our netems of egress and ingress, where they are asked for.
fn netems<'a>(snapshot: &'a Snapshot, target: &Target) -> [Option<&'a Qdisc>; 2] {
    let egress = target.direction.egress().then(|| snapshot.egress_netem(target.link.index)).flatten();
    let ingress = target.direction.ingress().then(|| snapshot.ingress_netem()).flatten();
    [egress, ingress]
}

/// What the counters show before the first packet has met the loss, of egress and ingress. Those of a guard's rules and of its netems are at
/// zero when they are made, and need not be asked.
fn first(snapshot: &Snapshot, backend: Backend, target: &Target) -> [Option<Reading>; 2] {
    if backend == Backend::Tc {
        return readings(snapshot, None, target);
    }
    let met = if target.per_segment { Met::PassedNetem(0) } else { Met::All(0) };
    [target.direction.egress(), target.direction.ingress()].map(|asked| asked.then_some(Reading { met, dropped: 0 }))
}

/// Of egress and ingress.
fn readings(snapshot: &Snapshot, counted: Option<PerDirection<u64>>, target: &Target) -> [Option<Reading>; 2] {
    let [egress, ingress] = netems(snapshot, target);
    let counted = counted.unwrap_or_default();
    [(egress, counted.egress), (ingress, counted.ingress)].map(|(netem, counted)| {
        let netem = netem?;
        let met = match counted {
            _ if target.per_segment => Met::PassedNetem(netem.passed),
            Some(all) => Met::All(all),
            None => Met::Passed(snapshot.link(netem.ifindex)?.tx_packets),
        };
        Some(Reading { met, dropped: netem.drops })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        marks,
        netlink::{Link, ROOT},
        nft::Ends,
    };
    use netloss_contract::Direction;

    fn snapshot(tx_packets: u64, drops: u32) -> Snapshot {
        let link = Link { index: 2, name: "eth0".to_owned(), tx_packets, ..Link::default() };
        let handle = marks::EGRESS_NETEM;
        let root =
            Qdisc { ifindex: 2, parent: ROOT, handle, kind: "netem".to_owned(), netem: Some(Netem::default()), drops, ..Qdisc::default() };
        Snapshot { links: vec![link], qdiscs: vec![root], filters: vec![] }
    }

    fn meter(start: &Snapshot) -> Meter {
        Meter::start(
            start,
            Backend::Tc,
            &Target {
                link: start.links[0].clone(),
                direction: Direction::Egress,
                netem: Netem::default(),
                per_segment: false,
                ends: Ends::default(),
            },
            10.0,
        )
    }

    #[test]
    fn what_was_there_before_does_not_count() {
        let mut meter = meter(&snapshot(1000, 0));
        meter.update(&snapshot(1090, 10), None);
        assert_eq!(meter.traffic(), PerDirection { egress: Some(Traffic::new(100, 10, 10.0)), ingress: None });
    }

    #[test]
    fn a_counter_that_wraps_goes_on() {
        let mut meter = meter(&snapshot(0, u32::MAX - 4));
        meter.update(&snapshot(0, 5), None);
        meter.update(&snapshot(0, 6), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(11, 11, 10.0)));
    }

    #[test]
    fn a_qdisc_that_was_made_anew_counts_from_zero() {
        let mut meter = meter(&snapshot(0, 0));
        meter.update(&snapshot(0, 100), None);
        meter.update(&snapshot(0, 3), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(103, 103, 10.0)));
    }

    #[test]
    fn counters_that_begin_anew_add_to_what_was_counted() {
        let mut meter = meter(&snapshot(0, 0));
        meter.update(&snapshot(90, 10), None);
        meter.rebase(&snapshot(500, 0), Backend::Tc);
        meter.update(&snapshot(545, 5), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(150, 15, 10.0)));
    }

    #[test]
    fn what_cannot_be_read_counts_nothing() {
        let mut meter = meter(&snapshot(0, 0));
        meter.update(&snapshot(10, 1), None);
        meter.update(&Snapshot::default(), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(11, 1, 10.0)));
    }

    #[test]
    fn a_queue_that_was_nearly_full_is_warned_of() {
        let mut meter = meter(&snapshot(0, 0));
        let with = |waiting: u32| {
            let mut snapshot = snapshot(10, 1);
            snapshot.qdiscs[0].waiting = waiting;
            snapshot
        };
        meter.update(&with(8999), None);
        assert_eq!(meter.warnings(), Vec::<String>::new());
        meter.update(&with(9500), None);
        meter.update(&with(9100), None);
        assert!(meter.warnings()[0].starts_with("up to 9500 packets waited in the netem of eth0"), "{:?}", meter.warnings());
    }

    #[test]
    fn a_guards_rules_count_what_met_the_loss() {
        let counted = |packets| Some(PerDirection { egress: Some(packets), ingress: None });
        let start = snapshot(1000, 0);
        let target = Target {
            link: start.links[0].clone(),
            direction: Direction::Egress,
            netem: Netem::default(),
            per_segment: false,
            ends: Ends::default(),
        };
        // What is lost before the first look is lost already.
        let mut meter = Meter::start(&snapshot(1000, 2), Backend::Guarded, &target, 10.0);
        // 9000 others were spared.
        meter.update(&snapshot(11_000, 100), counted(1000));
        assert_eq!(meter.traffic().egress, Some(Traffic::new(1000, 100, 10.0)));
        meter.rebase(&snapshot(12_000, 1), Backend::Guarded);
        meter.update(&snapshot(13_000, 3), counted(20));
        assert_eq!(meter.traffic().egress, Some(Traffic::new(1020, 103, 10.0)));
    }
}
