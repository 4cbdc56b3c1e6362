//! One side's view of a conversation: what it sent, what arrived, and what the other side says has arrived there.

use super::packet::Packet;
use super::report::Direction;
use super::window::Window;

/// A conversation with one peer, in one session.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    session: u64,
    sent: u64,
    from_peer: Window,
    /// The peer's latest word on what has arrived there, with the number of the packet that carried it.
    peer_saw: Counts,
    peer_saw_in: u64,
    /// Both directions as they were when the last line was written.
    reported: Totals,
}

/// How many packets a receiver knows to have been sent, and how many of them it got.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    sent: u64,
    arrived: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    to_peer: Counts,
    from_peer: Counts,
}

impl Flow {
    pub(super) fn new(session: u64) -> Self {
        Self { session, sent: 0, from_peer: Window::default(), peer_saw: Counts::default(), peer_saw_in: 0, reported: Totals::default() }
    }

    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// The next packet to send.
    pub(super) fn next(&mut self) -> Packet {
        self.sent += 1;
        Packet { session: self.session, number: self.sent, seen: self.from_peer.highest(), arrived: self.from_peer.arrived() }
    }

    /// Takes in a packet of this session. Returns whether it is one that had not arrived before.
    pub(super) fn receive(&mut self, packet: Packet) -> bool {
        // A packet that was overtaken carries older news than what is known.
        if packet.number > self.peer_saw_in {
            self.peer_saw_in = packet.number;
            self.peer_saw = Counts { sent: packet.seen, arrived: packet.arrived };
        }
        self.from_peer.insert(packet.number)
    }

    /// Both directions since the last report: to the peer, from the peer.
    pub(super) fn report(&mut self) -> (Direction, Direction) {
        let from_peer = Counts { sent: self.from_peer.highest(), arrived: self.from_peer.arrived() };
        let now = Totals { to_peer: self.peer_saw, from_peer };
        let before = std::mem::replace(&mut self.reported, now);
        (direction(before.to_peer, now.to_peer), direction(before.from_peer, now.from_peer))
    }
}

fn direction(before: Counts, now: Counts) -> Direction {
    Direction::new(now.sent - before.sent, now.arrived - before.arrived, now.sent, now.arrived)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sides between which `lost(number)` says which packets of each direction vanish.
    fn talk(rounds: u64, to_echo: impl Fn(u64) -> bool, to_probe: impl Fn(u64) -> bool) -> (Flow, Flow) {
        let (mut probe, mut echo) = (Flow::new(1), Flow::new(1));
        for _ in 0..rounds {
            let packet = probe.next();
            if to_echo(packet.number) || !echo.receive(packet) {
                continue;
            }
            let answer = echo.next();
            if !to_probe(answer.number) {
                probe.receive(answer);
            }
        }
        (probe, echo)
    }

    #[test]
    fn the_directions_are_told_apart_on_both_sides() {
        // Every tenth packet is lost on the way there, every fourth answer on the way back.
        let (mut probe, mut echo) = talk(10_001, |number| number % 10 == 0, |number| number % 4 == 0);
        let (to_echo, to_probe) = probe.report();
        assert!((to_echo.loss.unwrap() - 10.0).abs() < 0.05, "{to_echo:?}");
        assert!((to_probe.loss.unwrap() - 25.0).abs() < 0.05, "{to_probe:?}");
        let (to_probe, to_echo) = echo.report();
        assert!((to_echo.loss.unwrap() - 10.0).abs() < 0.05, "{to_echo:?}");
        assert!((to_probe.loss.unwrap() - 25.0).abs() < 0.05, "{to_probe:?}");
    }

    #[test]
    fn a_report_covers_the_time_since_the_last_one() {
        let (mut probe, _) = talk(100, |number| number <= 50, |_| false);
        let (to_echo, _) = probe.report();
        assert_eq!((to_echo.sent, to_echo.arrived), (100, 50));
        let (to_echo, from_echo) = probe.report();
        assert_eq!((to_echo.sent, to_echo.loss, from_echo.sent), (0, None, 0), "nothing since");
        assert_eq!((to_echo.total_sent, to_echo.total_arrived), (100, 50));
    }

    #[test]
    fn overtaken_news_is_not_news() {
        let mut flow = Flow::new(1);
        flow.receive(Packet { session: 1, number: 2, seen: 20, arrived: 20 });
        flow.receive(Packet { session: 1, number: 1, seen: 10, arrived: 10 });
        let (to_peer, from_peer) = flow.report();
        assert_eq!((to_peer.sent, from_peer.arrived), (20, 2));
    }
}
