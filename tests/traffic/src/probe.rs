//! The probing side: sends at a steady pace and counts the answers.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::flow::Flow;
use super::packet::{LENGTH, Packet};
use super::report::Line;

/// How often a line is written.
pub(super) const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Sends a packet to `peer` every `interval`, and calls `write` with a line every second, until `write` returns an error.
///
/// # Errors
///
/// If the socket cannot be had, or `write` fails.
pub fn probe(peer: SocketAddr, interval: Duration, mut write: impl FnMut(&Line) -> io::Result<()>) -> io::Result<()> {
    let socket = UdpSocket::bind(if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(peer)?;
    let mut flow = Flow::new(RandomState::new().build_hasher().finish());
    let mut send_errors = 0;
    let mut next_packet = Instant::now();
    let mut next_line = next_packet + LINE_INTERVAL;
    loop {
        let now = Instant::now();
        if now >= next_packet {
            // A refused packet is lost as far as the peer can tell; the pace goes on.
            if socket.send(&flow.next().encode()).is_err() {
                send_errors += 1;
            }
            // After a pause (a stopped VM, a starved CPU) the missed packets are not sent in one burst.
            next_packet = (next_packet + interval).max(now);
        }
        if now >= next_line {
            let (to_peer, from_peer) = flow.report();
            write(&Line { time: unix_time(), peer: peer.to_string(), to_peer, from_peer, send_errors })?;
            next_line = (next_line + LINE_INTERVAL).max(now);
        }
        if let Some(packet) = answer(&socket, next_packet.min(next_line), flow.session())? {
            flow.receive(packet);
        }
    }
}

/// An answer to a packet of this session, if one comes by then.
pub(super) fn answer(socket: &UdpSocket, limit: Instant, session: u64) -> io::Result<Option<Packet>> {
    let pause = limit.saturating_duration_since(Instant::now());
    if pause.is_zero() {
        return Ok(None);
    }
    socket.set_read_timeout(Some(pause))?;
    let mut buffer = [0; LENGTH];
    // Time-outs and the peer's "port unreachable" alike: there is no answer.
    let packet = socket.recv(&mut buffer).ok().and_then(|length| Packet::decode(&buffer[..length]));
    Ok(packet.filter(|packet| packet.session == session))
}

pub(super) fn unix_time() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::thread;

    use super::*;
    use crate::echo;

    #[test]
    fn loopback_loses_nothing_and_both_sides_say_so() {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        thread::spawn(move || echo(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), |_| Ok(())));
        thread::sleep(Duration::from_millis(200));
        let mut lines = Vec::new();
        let ended = probe(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_millis(5), |line| {
            lines.push(line.clone());
            if lines.len() < 2 { Ok(()) } else { Err(io::Error::other("enough")) }
        });
        assert_eq!(ended.unwrap_err().to_string(), "enough");
        let last = lines.last().unwrap();
        assert!(last.to_peer.sent > 50, "{last:?}");
        assert_eq!((last.to_peer.loss, last.from_peer.loss), (Some(0.0), Some(0.0)), "{last:?}");
    }
}
