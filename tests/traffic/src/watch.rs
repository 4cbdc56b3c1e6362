//! The watching side: when packets began to be lost, and when they ceased to be.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::packet::Packet;
use super::probe::{answer, unix_time};

/// A packet whose answer takes longer is lost.
const LIMIT: Duration = Duration::from_secs(2);

/// From a packet on, packets are answered, or none is any more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When that packet was sent, in seconds since the Unix epoch.
    pub time: f64,
    /// Whether it was answered.
    pub answered: bool,
}

/// Sends a packet to `peer`, an [`echo`](super::echo()), every `interval`, and calls `write` with each change, until `write` returns an
/// error. A change is told when it is certain, which of a lost packet is after two seconds.
///
/// # Errors
///
/// If the socket cannot be had, or `write` fails.
pub fn watch(peer: SocketAddr, interval: Duration, mut write: impl FnMut(&Change) -> io::Result<()>) -> io::Result<()> {
    let socket = UdpSocket::bind(if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(peer)?;
    let session = RandomState::new().build_hasher().finish();
    let (mut number, mut next_packet, mut watched) = (0, Instant::now(), Watched::default());
    loop {
        let now = Instant::now();
        if now >= next_packet {
            number += 1;
            watched.sent(number, unix_time());
            // A refused packet gets no answer either.
            drop(socket.send(&Packet { session, number, seen: 0, arrived: 0 }.encode()));
            next_packet = (next_packet + interval).max(now);
        }
        for change in watched.changes(unix_time()) {
            write(&change)?;
        }
        if let Some(packet) = answer(&socket, next_packet, session)? {
            // Nothing overtakes anything between two pods of a node: the highest number that the peer has seen is that of the packet that it
            // answers.
            watched.answered(packet.seen);
        }
    }
}

/// Packets whose fate is open, and the last fate that was told.
#[derive(Default)]
struct Watched {
    open: VecDeque<Sent>,
    told: Option<bool>,
}

struct Sent {
    number: u64,
    time: f64,
    answered: bool,
}

impl Watched {
    fn sent(&mut self, number: u64, time: f64) {
        self.open.push_back(Sent { number, time, answered: false });
    }

    fn answered(&mut self, number: u64) {
        if let Ok(place) = self.open.binary_search_by_key(&number, |sent| sent.number) {
            self.open[place].answered = true;
        }
    }

    /// What is certain now, in the order in which it was sent.
    fn changes(&mut self, now: f64) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(sent) = self.open.pop_front_if(|sent| sent.answered || now - sent.time > LIMIT.as_secs_f64()) {
            if self.told != Some(sent.answered) {
                self.told = Some(sent.answered);
                changes.push(Change { time: sent.time, answered: sent.answered });
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_of_each_kind_is_told_once_it_is_certain() {
        let mut watched = Watched::default();
        for number in 1..=6 {
            watched.sent(number, f64::from(u32::try_from(number).unwrap()));
        }
        watched.answered(1);
        watched.answered(2);
        watched.answered(5);
        assert_eq!(watched.changes(3.5), [Change { time: 1.0, answered: true }]);
        assert_eq!(watched.changes(4.5), []);
        let lost = Change { time: 3.0, answered: false };
        assert_eq!(watched.changes(5.5), [lost]);
        // The fourth is not lost for certain yet, so nothing is said of the fifth.
        assert_eq!(watched.changes(6.5), [Change { time: 5.0, answered: true }]);
        // Nobody can answer what is told already.
        watched.answered(3);
        assert_eq!(watched.changes(9.0), [Change { time: 6.0, answered: false }]);
    }
}
