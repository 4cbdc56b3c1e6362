//! The answering side: one packet back for each that arrives.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::flow::Flow;
use super::packet::{LENGTH, Packet};
use super::probe::{LINE_INTERVAL, unix_time};
use super::report::Line;

/// A peer that is silent for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// More peers than any lab has; a stranger's packets do not make the table grow without end.
const MOST_PEERS: usize = 1024;

/// One peer of the answering side.
struct Peer {
    flow: Flow,
    heard: Instant,
    send_errors: u64,
}

/// Answers every packet that arrives at `address`, and calls `write` with a line per peer every second, until `write` returns
/// an error.
///
/// # Errors
///
/// If the socket cannot be had, or `write` fails.
pub fn echo(address: SocketAddr, mut write: impl FnMut(&Line) -> io::Result<()>) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let mut peers: HashMap<SocketAddr, Peer> = HashMap::new();
    let mut next_line = Instant::now() + LINE_INTERVAL;
    loop {
        let now = Instant::now();
        if now >= next_line {
            peers.retain(|_, peer| now - peer.heard < FORGET_AFTER);
            for (address, peer) in &mut peers {
                let (to_peer, from_peer) = peer.flow.report();
                let peer_name = SocketAddr::new(address.ip().to_canonical(), address.port()).to_string();
                write(&Line { time: unix_time(), peer: peer_name, to_peer, from_peer, send_errors: peer.send_errors })?;
            }
            next_line = (next_line + LINE_INTERVAL).max(now);
        }
        socket.set_read_timeout(Some(next_line.saturating_duration_since(now).max(Duration::from_millis(1))))?;
        let mut buffer = [0; LENGTH];
        let Ok((length, sender)) = socket.recv_from(&mut buffer) else { continue };
        let Some(packet) = Packet::decode(&buffer[..length]) else { continue };
        if peers.len() >= MOST_PEERS && !peers.contains_key(&sender) {
            continue;
        }
        let peer = peers.entry(sender).or_insert_with(|| Peer { flow: Flow::new(packet.session), heard: now, send_errors: 0 });
        if peer.flow.session() != packet.session {
            *peer = Peer { flow: Flow::new(packet.session), heard: now, send_errors: 0 };
        }
        peer.heard = now;
        // A duplicate gets no second answer: it would look like an answer that the network duplicated.
        if peer.flow.receive(packet) && socket.send_to(&peer.flow.next().encode(), sender).is_err() {
            peer.send_errors += 1;
        }
    }
}
