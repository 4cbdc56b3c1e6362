//! The netlink socket below [`super::Socket`]: messages as one datagram, then the answers to them.
//!
//! Not rtnetlink's, as that package knows no nf_tables, and its connection takes turns with whoever polls it. A lease is renewed from a thread of its own that
//! waits for nothing else, so this is blocking, with a time limit for each answer.

use crate::netlink::{ANSWER, Error, accepted, open, receive};
use netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_sys::Socket;
use std::{fmt::Debug, os::fd::AsFd, time::Duration};

/// `NLMSG_ALIGNTO`: where the next message of a datagram begins.
const NLMSG_ALIGNTO: usize = 4;

/// `struct nlmsghdr` in bytes.
const HEADER: usize = 16;

/// A socket of one protocol. Close-on-exec.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
    answers: Vec<u8>,
}

impl NetlinkSocket {
    /// Opens it.
    ///
    /// # Errors
    /// Where the kernel has no such protocol, or no socket is to be had.
    pub(crate) fn open(protocol: isize, limit: Duration) -> Result<Self, Error> {
        Ok(Self { socket: open(protocol, limit)?, sequence: 0, answers: Vec::with_capacity(ANSWER) })
    }

    /// The socket itself, for its options.
    pub(crate) fn socket(&self) -> &impl AsFd {
        &self.socket
    }

    /// Sends messages as one datagram; returns the first sequence number. Takes as long as the kernel works on them, for which there is no limit.
    pub(crate) fn write<I: NetlinkSerializable>(&mut self, messages: impl Iterator<Item = NetlinkMessage<I>>) -> Result<u32, Error> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for mut message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            message.finalize();
            let start = bytes.len();
            // Its length as it was just finalized: to find it takes as long as to write it.
            bytes.resize(start + message.header.length as usize, 0);
            message.serialize(&mut bytes[start..]);
        }
        self.socket.send(&bytes, 0)?;
        Ok(first)
    }

    /// Hands the answers to all messages since `first`, with their flags, to `is_last`, until that says so. An error to any message fails
    /// all.
    pub(crate) fn read<I: NetlinkDeserializable + Debug>(
        &mut self,
        first: u32,
        mut is_last: impl FnMut(u16, NetlinkPayload<I>) -> bool,
    ) -> Result<(), Error> {
        let own = self.sequence.wrapping_sub(first);
        let mut overran = false;
        loop {
            self.answers.clear();
            receive(&self.socket, &mut self.answers, &mut overran)?;
            if take(&self.answers, first, own, &mut is_last)? {
                return if overran { Err(Error::Unstable) } else { Ok(()) };
            }
        }
    }
}

/// Hands the answers of one datagram to `is_last`, those to `first` and the `own` messages after it. Whether that said so.
pub(crate) fn take<I: NetlinkDeserializable + Debug>(
    datagram: &[u8],
    first: u32,
    own: u32,
    mut is_last: impl FnMut(u16, NetlinkPayload<I>) -> bool,
) -> Result<bool, Error> {
    let mut rest = datagram;
    while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
        let length = (buffer.length() as usize).max(HEADER).next_multiple_of(NLMSG_ALIGNTO);
        let (this, sequence) = (rest, buffer.sequence_number());
        rest = rest.get(length..).unwrap_or_default();
        // Late answers to requests that were given up.
        if sequence.wrapping_sub(first) > own {
            continue;
        }
        let message = match NetlinkMessage::<I>::deserialize(this) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "an answer of the kernel that is not understood");
                continue;
            }
        };
        if is_last(message.header.flags, accepted(message.payload)?) {
            return Ok(true);
        }
    }
    Ok(false)
}
