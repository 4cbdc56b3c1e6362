//! The least that a program can do to bring and take away a loss: the agent's own netlink messages, recorded from it and sent again by
//! nothing but system calls. What the agent takes beyond this is its own.
//!
//! `floor FILE`: sends what is to be sent first, says so, waits for SIGTERM, sends the rest, says so. The form of the file is that of
//! `netloss_lab_measure::recording`.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NETLINK_NETFILTER: u8 = 12;

fn main() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let file = std::env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let recording = fs::read(file)?;
    let mut sockets: Vec<Option<OwnedFd>> = Vec::new();
    let mut rest = recording.as_slice();
    let mut stopped = false;
    // Stage, socket, protocol, length and bytes of each datagram.
    while let [stage, place, protocol, a, b, c, d, tail @ ..] = rest {
        let (datagram, tail) = tail.split_at(u32::from_le_bytes([*a, *b, *c, *d]) as usize);
        rest = tail;
        if *stage == 1 && !stopped {
            applied(&signals)?;
            stopped = true;
        }
        let place = usize::from(*place);
        if sockets.len() <= place {
            sockets.resize_with(place + 1, || None);
        }
        if sockets[place].is_none() {
            let protocol = if *protocol == NETLINK_NETFILTER { SockProtocol::NetlinkNetFilter } else { SockProtocol::NetlinkRoute };
            sockets[place] = Some(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?);
        }
        if let Some(socket) = &sockets[place] {
            exchange(socket, datagram)?;
        }
    }
    if !stopped {
        applied(&signals)?;
    }
    io::stdout().write_all(b"removed\n")
}

fn applied(signals: &SigSet) -> io::Result<()> {
    io::stdout().write_all(b"applied\n")?;
    signals.wait()?;
    Ok(())
}

/// Sends a datagram and takes the answers, up to the last.
fn exchange(socket: &OwnedFd, datagram: &[u8]) -> io::Result<()> {
    send(socket.as_raw_fd(), datagram, MsgFlags::empty())?;
    let last = sequences(datagram).filter(|(_, flags, _)| flags & 0x304 != 0).last().map(|(_, _, sequence)| sequence);
    let mut answers = vec![0; 32 * 1024];
    loop {
        let length = recv(socket.as_raw_fd(), &mut answers, MsgFlags::empty())?;
        let ended = |(kind, _, sequence): (u16, u16, u32)| matches!(kind, NLMSG_ERROR | NLMSG_DONE) && Some(sequence) == last;
        if sequences(&answers[..length]).any(ended) {
            return Ok(());
        }
    }
}

/// Kind, flags and sequence number of each message.
fn sequences(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, u32)> + '_ {
    std::iter::from_fn(move || {
        let header: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        Some((kind, flags, u32::from_ne_bytes([header[8], header[9], header[10], header[11]])))
    })
}
