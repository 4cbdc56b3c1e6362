//! What the loss has done so far, counted from the moment that it was in place. Pure.
//!
//! Both numbers of an interval count the same packets, or the interval is left out of both: counters that cannot be read now are read with the next ones, and where an
//! object was recreated in between nobody knows what it had counted.

use crate::{backend::Target, netem::Netem, netlink::Qdisc, nft::PeerFilter, snapshot::Snapshot};
use netloss_contract::{Backend, Expectation, Guard, PerDirection, Traffic};
use std::collections::BTreeMap;

/// From this many waiting packets on, a netem's queue may have been full between two heartbeats, and drops by a full queue count as loss. Nine tenths of
/// the queue is a judgement: a lower value warns of queues that never fill, a higher one misses those that are full only between the heartbeats.
const NEARLY_FULL: u32 = Netem::LIMIT / 10 * 9;

/// Counters of both directions.
#[derive(Debug, Clone)]
pub struct Meter {
    egress: Option<Gauge>,
    ingress: Option<Gauge>,
    target: Target,
    counts: [Count; 2],
    expected: Expectation,
    /// Of netem queues that were nearly full, by interface: how many packets waited at most.
    full: BTreeMap<String, u32>,
}

/// By which counter the packets that met the loss are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// Packets that left the interface behind the netem, plus those that netem dropped.
    Interface,
    /// Packets that left netem plus those that it dropped. Of those that left the lesser of two counts, neither of which is too small: the interface's, which has others too
    /// (with filters, or once the lease has expired), and netem's, which counts the segments of a super-packet ("dropped" counts packets).
    Netem,
    /// What the guard's rules have counted.
    Rules,
}

impl Count {
    /// Of egress and ingress.
    fn of(backend: Backend, guard: Option<Guard>, target: &Target) -> [Self; 2] {
        if target.per_segment {
            return [Self::Netem; 2];
        }
        if backend == Backend::Tc {
            return [Self::Interface; 2];
        }
        // On IP's postrouting hook a datagram has not been fragmented yet, and netem drops its fragments one by one. With filters other packets leave the interface too.
        let fragmented = guard.is_some_and(|guard| guard.only_ip_egress) && target.ends == PeerFilter::default();
        [if fragmented { Self::Netem } else { Self::Rules }, Self::Rules]
    }
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
    /// The same, by the interface and, 32 bits wide, by netem.
    PassedNetem { interface: u64, netem: u32 },
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
    /// Counts what a backend brings that has just been put in place, and of which `snapshot` shows what was not made for it. `expected` is what the counts are held
    /// against.
    #[must_use]
    pub fn start(
        snapshot: &Snapshot,
        (backend, guard): (Backend, Option<Guard>),
        target: &Target,
        expected: impl Into<Expectation>,
    ) -> Self {
        let counts = Count::of(backend, guard, target);
        let gauge = |reading: Option<Reading>| reading.map(|last| Gauge { last, packets: 0, dropped: 0 });
        let [egress, ingress] = first(snapshot, counts, target);
        let (egress, ingress) = (gauge(egress), gauge(ingress));
        Self { egress, ingress, target: target.clone(), counts, expected: expected.into(), full: BTreeMap::new() }
    }

    /// Goes on with counters that begin anew, as [`Self::start`].
    pub fn rebase(&mut self, snapshot: &Snapshot, (backend, guard): (Backend, Option<Guard>)) {
        self.counts = Count::of(backend, guard, &self.target);
        let [egress, ingress] = first(snapshot, self.counts, &self.target);
        for (gauge, reading) in [(&mut self.egress, egress), (&mut self.ingress, ingress)] {
            if let (Some(gauge), Some(reading)) = (gauge, reading) {
                gauge.last = reading;
            }
        }
    }

    /// Adds what has come since. Counters that cannot be read now count nothing, and are made up for when they can. The rules' `counted` is read after `snapshot`, or when
    /// nothing was lost any more, so that no packet is dropped that was not counted.
    pub fn update(&mut self, snapshot: &Snapshot, counted: Option<PerDirection<u64>>) {
        let [egress, ingress] = readings(snapshot, counted, self.counts, &self.target);
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
        if let Some((packets, dropped)) = now.since(self.last) {
            self.packets += packets;
            self.dropped += dropped;
        }
        self.last = now;
    }
}

impl Reading {
    /// Packets that met the loss and dropped ones since another reading; none where a counter went backwards, because somebody recreated what it belongs to.
    fn since(self, last: Self) -> Option<(u64, u64)> {
        let dropped = u64::from(forward(self.dropped, last.dropped)?);
        let packets = match (self.met, last.met) {
            (Met::Passed(now), Met::Passed(last)) => now.checked_sub(last)? + dropped,
            (Met::PassedNetem { interface, netem }, Met::PassedNetem { interface: interface_then, netem: netem_then }) => {
                interface.checked_sub(interface_then)?.min(forward(netem, netem_then)?.into()) + dropped
            }
            (Met::All(now), Met::All(last)) => now.checked_sub(last)?,
            // Counted in another way before it was put in place again.
            _ => return None,
        };
        Some((packets, dropped))
    }
}

/// How far a counter of 32 bits has come, which wraps. Half of its range between two looks is none: it went backwards.
fn forward(now: u32, last: u32) -> Option<u32> {
    Some(now.wrapping_sub(last)).filter(|since| *since <= u32::MAX / 2)
}

/// Our netems of egress and ingress, where they are asked for.
fn netems<'a>(snapshot: &'a Snapshot, target: &Target) -> [Option<&'a Qdisc>; 2] {
    let egress = target.direction.egress().then(|| snapshot.egress_netem(target.link.index)).flatten();
    let ingress = target.direction.ingress().then(|| snapshot.ingress_netem()).flatten();
    [egress, ingress]
}

/// What the counters show when counting begins, of egress and ingress. Those of a guard's rules are at zero when they are made, and need not be
/// asked.
fn first(snapshot: &Snapshot, counts: [Count; 2], target: &Target) -> [Option<Reading>; 2] {
    let readings = readings(snapshot, None, counts, target);
    let asked = [target.direction.egress(), target.direction.ingress()];
    [0, 1].map(|way| {
        let met = match counts[way] {
            // The interface has counted before, and netem's counters are read with it.
            Count::Interface | Count::Netem => return readings[way],
            Count::Rules => Met::All(0),
        };
        asked[way].then_some(Reading { met, dropped: 0 })
    })
}

/// Of egress and ingress.
fn readings(snapshot: &Snapshot, counted: Option<PerDirection<u64>>, counts: [Count; 2], target: &Target) -> [Option<Reading>; 2] {
    let netems = netems(snapshot, target);
    let counted = counted.unwrap_or_default();
    let counted = [counted.egress, counted.ingress];
    [0, 1].map(|way| {
        let netem = netems[way]?;
        let met = match counts[way] {
            Count::Interface => Met::Passed(snapshot.link(netem.ifindex)?.tx_packets),
            Count::Netem => Met::PassedNetem { interface: snapshot.link(netem.ifindex)?.tx_packets, netem: netem.passed },
            Count::Rules => Met::All(counted[way]?),
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
        nft::PeerFilter,
    };
    use netloss_contract::Direction;

    fn snapshot(tx_packets: u64, drops: u32) -> Snapshot {
        let link = Link { index: 2, name: "eth0".to_owned(), tx_packets, ..Link::default() };
        let handle = marks::EGRESS_NETEM;
        let root =
            Qdisc { ifindex: 2, parent: ROOT, handle, kind: "netem".to_owned(), netem: Some(Netem::default()), drops, ..Qdisc::default() };
        Snapshot { links: vec![link], qdiscs: vec![root], filters: vec![] }
    }

    fn guarded_target() -> Target {
        Target {
            link: Link { index: 2, name: "eth0".to_owned(), ..Link::default() },
            direction: Direction::Egress,
            netem: Netem::default(),
            per_segment: false,
            ends: PeerFilter::default(),
        }
    }

    fn meter(start: &Snapshot) -> Meter {
        Meter::start(
            start,
            (Backend::Tc, None),
            &Target {
                link: start.links[0].clone(),
                direction: Direction::Egress,
                netem: Netem::default(),
                per_segment: false,
                ends: PeerFilter::default(),
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

    /// What the first qdisc dropped after the last look is known to nobody, and the packets that met it are counted: neither is.
    #[test]
    fn an_interval_in_which_a_qdisc_was_recreated_is_left_out() {
        let mut meter = meter(&snapshot(0, 0));
        meter.update(&snapshot(0, 100), None);
        meter.update(&snapshot(50, 3), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(100, 100, 10.0)));
        meter.update(&snapshot(59, 4), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(110, 101, 10.0)));
    }

    #[test]
    fn a_recreated_netem_adds_no_billions_of_segments() {
        let mut target = guarded_target();
        target.per_segment = true;
        let netem = |passed, drops| {
            let mut snapshot = snapshot(0, drops);
            snapshot.qdiscs[0].passed = passed;
            snapshot
        };
        let with = |interface, passed, drops| {
            let mut snapshot = netem(passed, drops);
            snapshot.links[0].tx_packets = interface;
            snapshot
        };
        let mut meter = Meter::start(&snapshot(0, 0), (Backend::Guarded, None), &target, 10.0);
        meter.update(&with(900, 900, 100), None);
        meter.update(&with(1000, 5, 200), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(1000, 100, 10.0)));
        meter.update(&with(2000, u32::MAX, 200), None);
        meter.update(&with(3000, 4, 201), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(1006, 101, 10.0)), "a step back is none, and a wrap is one of six packets");
    }

    /// Rules whose counters cannot be read, and netem's that can: it was all of the interval that counted as lost.
    #[test]
    fn what_cannot_be_counted_is_made_up_for_later() {
        let counted = |packets| Some(PerDirection { egress: Some(packets), ingress: None });
        let mut meter = Meter::start(&snapshot(0, 0), (Backend::Guarded, None), &guarded_target(), 10.0);
        meter.update(&snapshot(90, 10), counted(100));
        for unreadable in [None, Some(PerDirection::default())] {
            meter.update(&snapshot(180, 20), unreadable);
            assert_eq!(meter.traffic().egress, Some(Traffic::new(100, 10, 10.0)));
        }
        meter.update(&snapshot(270, 30), counted(300));
        assert_eq!(meter.traffic().egress, Some(Traffic::new(300, 30, 10.0)));
    }

    /// What the interface has sent, of which so many left netem.
    fn behind(interface: u64, netem: u32, drops: u32) -> Snapshot {
        let mut snapshot = snapshot(interface, drops);
        snapshot.qdiscs[0].passed = netem;
        snapshot
    }

    /// On kernels where only IP's postrouting hook is had, the interface counts on when the lease has expired, and nothing meets the loss any more.
    #[test]
    fn what_passes_after_the_lease_has_expired_met_no_loss() {
        let postrouting = Guard { ends_with_agent: true, lease_seconds: 10, only_ip_egress: true };
        let mut meter = Meter::start(&behind(1000, 0, 0), (Backend::Guarded, Some(postrouting)), &guarded_target(), 10.0);
        meter.update(&behind(1090, 90, 10), None);
        meter.update(&behind(9000, 180, 20), None);
        meter.update(&behind(99_000, 180, 20), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(200, 20, 10.0)));
    }

    /// On an MTU of 9000 six small segments are one packet to tbf and netem, which drops it as one.
    #[test]
    fn super_packets_that_stay_whole_are_counted_as_they_are_dropped() {
        let target = Target { per_segment: true, ..guarded_target() };
        let mut meter = Meter::start(&behind(1000, 0, 0), (Backend::Guarded, None), &target, 10.0);
        meter.update(&behind(1090, 540, 10), None);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(100, 10, 10.0)));
    }

    /// 8 KiB are six fragments, each of which may be dropped: 100 datagrams lost 60 of them, which is no 60 %.
    #[test]
    fn fragments_are_one_unit_with_what_netem_drops() {
        let postrouting = Guard { ends_with_agent: true, lease_seconds: 10, only_ip_egress: true };
        let counted = Some(PerDirection { egress: Some(100), ingress: None });
        let mut meter = Meter::start(&snapshot(1000, 0), (Backend::Guarded, Some(postrouting)), &guarded_target(), 10.0);
        meter.update(&behind(1540, 540, 60), counted);
        assert_eq!(meter.traffic().egress, Some(Traffic::new(600, 60, 10.0)));
        // With filters the interface has other packets too: the rules' count stands, and a share is never above all.
        let filtered = Target { ends: PeerFilter { spare_neighbour: true, ..PeerFilter::default() }, ..guarded_target() };
        let mut meter = Meter::start(&snapshot(1000, 0), (Backend::Guarded, Some(postrouting)), &filtered, 10.0);
        meter.update(&snapshot(1540, 240), counted);
        assert_eq!(meter.traffic().egress.unwrap().observed_percentage, Some(100.0));
    }

    #[test]
    fn counters_that_begin_anew_add_to_what_was_counted() {
        let mut meter = meter(&snapshot(0, 0));
        meter.update(&snapshot(90, 10), None);
        meter.rebase(&snapshot(500, 0), (Backend::Tc, None));
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
            ends: PeerFilter::default(),
        };
        // What is lost before the first look is lost already.
        let mut meter = Meter::start(&snapshot(1000, 2), (Backend::Guarded, None), &target, 10.0);
        // 9000 others were spared.
        meter.update(&snapshot(11_000, 100), counted(1000));
        assert_eq!(meter.traffic().egress, Some(Traffic::new(1000, 100, 10.0)));
        meter.rebase(&snapshot(12_000, 1), (Backend::Guarded, None));
        meter.update(&snapshot(13_000, 3), counted(20));
        assert_eq!(meter.traffic().egress, Some(Traffic::new(1020, 103, 10.0)));
    }
}
