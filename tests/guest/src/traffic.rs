//! Numbered packets from one namespace to another, counted where they arrive.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Namespace, PATIENCE};

/// Which of the packets arrived, in the order in which they were sent.
pub(super) type Trace = Vec<bool>;

/// What came of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Packets that were sent.
    pub sent: u32,
    /// Packets that did not arrive.
    pub lost: u32,
}

impl Counted {
    pub(super) fn of(trace: &[bool]) -> Result<Self> {
        let lost = trace.iter().filter(|arrived| !**arrived).count();
        Ok(Self { sent: trace.len().try_into()?, lost: lost.try_into()? })
    }
}

/// So many packets fit into the receiver's buffer many times over.
const BURST: u32 = 64;

/// In bytes; a small packet takes about 1 KiB of it.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The number of the packets that only say: all before have passed.
const MARKER: u32 = u32::MAX;

/// Sends packets to the receiver and sees which of them arrive.
///
/// The end is known by markers, sent until one gets through: packets do not overtake each other here, so what has not
/// arrived before a marker never will. No time is measured.
pub(super) fn send(from: (&Namespace, SocketAddr), to: (&Namespace, SocketAddr), packets: u32) -> Result<Trace> {
    let sender = from.0.run(|| bind(from.1).context("cannot open the sender's socket"))?;
    let socket = to.0.run(|| bind(to.1).context("cannot open the receiver's socket"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("cannot enlarge the receive buffer")?;
    sender.connect(socket.local_addr()?).context("cannot reach the receiver")?;
    let mut receiver = Receiver { socket, arrived: vec![false; packets as usize], marked: false };

    let overflows = receive_buffer_overflows(to.0)?;
    for number in 0..packets {
        sender.send(&number.to_be_bytes()).with_context(|| format!("cannot send packet {number}"))?;
        if number % BURST == BURST - 1 {
            receiver.drain(None)?;
        }
    }
    let started = Instant::now();
    while !receiver.marked {
        ensure!(started.elapsed() < PATIENCE, "no marker arrived after {packets} packets: everything is lost, or the way is broken");
        sender.send(&MARKER.to_be_bytes()).context("cannot send a marker")?;
        receiver.drain(Some(Duration::from_millis(20)))?;
    }
    let overflows = receive_buffer_overflows(to.0)? - overflows;
    ensure!(overflows == 0, "{overflows} packets overflowed the receiver's buffer, which is no loss on the way");
    Ok(receiver.arrived)
}

/// A program that another test is just starting has copies of all sockets until it is loaded: one that was closed may be there a while.
fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let started = Instant::now();
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && started.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(10)),
            bound => return bound,
        }
    }
}

struct Receiver {
    socket: UdpSocket,
    arrived: Vec<bool>,
    marked: bool,
}

impl Receiver {
    /// Takes what is there, after waiting that long for the first packet.
    fn drain(&mut self, wait: Option<Duration>) -> Result<()> {
        self.socket.set_nonblocking(wait.is_none())?;
        self.socket.set_read_timeout(wait)?;
        let mut waits = wait.is_some();
        loop {
            let mut bytes = [0; 4];
            match self.socket.recv(&mut bytes) {
                Ok(4) => {
                    self.note(u32::from_be_bytes(bytes))?;
                    // Only the first one is waited for. To say so for each would take longer than to receive it.
                    if std::mem::take(&mut waits) {
                        self.socket.set_nonblocking(true)?;
                    }
                }
                Ok(length) => bail!("a packet of {length} bytes arrived that nobody sent"),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }

    fn note(&mut self, number: u32) -> Result<()> {
        if number == MARKER {
            self.marked = true;
            return Ok(());
        }
        let arrived = self.arrived.get_mut(number as usize).with_context(|| format!("packet {number} was never sent"))?;
        ensure!(!*arrived, "packet {number} arrived twice");
        *arrived = true;
        Ok(())
    }
}

/// How many packets of both families the namespace has lost to full receive buffers.
fn receive_buffer_overflows(namespace: &Namespace) -> Result<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).with_context(|| format!("cannot read {name}"));
    let (ipv4, ipv6) = namespace.run(|| Ok((read("snmp")?, read("snmp6")?)))?;
    let overflows = overflows_ipv4(&ipv4).context("net/snmp has no RcvbufErrors")?;
    Ok(overflows + overflows_ipv6(&ipv6).context("net/snmp6 has no Udp6RcvbufErrors")?)
}

/// A line of names, then a line of values.
fn overflows_ipv4(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "RcvbufErrors")?.1.parse().ok()
}

/// A name and a value on each line.
fn overflows_ipv6(snmp6: &str) -> Option<u64> {
    let line = snmp6.lines().find(|line| line.starts_with("Udp6RcvbufErrors"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflows_are_read_from_the_kernels_tables() {
        let snmp =
            "Tcp: RtoAlgorithm\nTcp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 7 0 3 7 3 0\n";
        assert_eq!(overflows_ipv4(snmp), Some(3));
        assert_eq!(overflows_ipv6("Udp6OutDatagrams \t4\nUdp6RcvbufErrors                \t5\n"), Some(5));
        assert_eq!(overflows_ipv6(""), None);
    }
}
