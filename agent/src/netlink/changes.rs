//! That something has changed in the namespace (`RTNLGRP_LINK` and `RTNLGRP_TC`, rtnetlink(7)), whoever did it.
//!
//! A socket of its own: notifications bear the sequence numbers of the requests that caused them, so on a socket with requests of its
//! own they could be taken for answers.

use super::Error;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{errno::Errno, sys::socket::MsgFlags};
use std::{collections::BTreeSet, io, time::Duration};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// `RTMGRP_LINK` and `RTMGRP_TC` (include/uapi/linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x8;

/// `RTM_DELLINK`.
const RTM_DELLINK: u16 = 17;

/// `struct nlmsghdr` in bytes.
const HEADER: usize = 16;

/// Room for the part of a notification that is read: `struct nlmsghdr` and `struct ifinfomsg`. The kernel drops the rest.
const ROOM: usize = 32;

/// Notifications that are taken before whoever waits for something else has a turn.
const AT_ONCE: u32 = 1000;

/// Between a change that is noticed and the word of it: one change is often several notifications, and nobody is to keep the agent busy.
const SETTLING: Duration = Duration::from_millis(10);

/// The notifications of one network namespace.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<Socket>,
    noticed: Option<Instant>,
}

impl Changes {
    /// Listens from now on.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        #[allow(deprecated, reason = "unsound for types whose descriptor changes; a socket's does not, and the other way is unsafe code")]
        let socket = AsyncFd::with_interest(socket, Interest::READABLE)?;
        Ok(Self { socket, noticed: None })
    }

    /// Waits until something has changed, and a while. Cancel safe, and the while is not waited for anew.
    ///
    /// # Errors
    /// Where the runtime cannot watch the socket.
    pub async fn come(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            // It may have been taken meanwhile.
            match self.socket.get_ref().recv(&mut Vec::with_capacity(1), MsgFlags::MSG_PEEK.bits()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                _ => break,
            }
        }
        let noticed = *self.noticed.get_or_insert_with(Instant::now);
        tokio::time::sleep_until(noticed + SETTLING).await;
        Ok(())
    }

    /// Takes the notifications that have come, but not for ever: more may come as fast as they are taken. Returns the indices of the
    /// interfaces that were deleted, or moved to another namespace.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn take(&mut self) -> io::Result<BTreeSet<u32>> {
        self.noticed = None;
        let mut deleted = BTreeSet::new();
        for _ in 0..AT_ONCE {
            let mut bytes = Vec::with_capacity(ROOM);
            match self.socket.get_ref().recv(&mut bytes, 0) {
                Ok(_) => deleted.extend(deleted_link(&bytes)),
                // More came than the socket holds: what it was shows when the kernel is asked.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

/// The index of the interface that a notification says is gone. A bridge's port that leaves it is told with another family.
#[must_use]
pub fn deleted_link(bytes: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let family = *bytes.get(HEADER)?;
    let index = u32::from_ne_bytes(bytes.get(HEADER + 4..HEADER + 8)?.try_into().ok()?);
    (kind == RTM_DELLINK && family == 0).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(kind: u16, family: u8, index: u32) -> Vec<u8> {
        let mut bytes = vec![0; ROOM];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[HEADER] = family;
        bytes[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_a_deleted_interface_is_one() {
        const RTM_NEWLINK: u16 = 16;
        const AF_BRIDGE: u8 = 7;
        assert_eq!(deleted_link(&notification(RTM_DELLINK, 0, 7)), Some(7));
        assert_eq!(deleted_link(&notification(RTM_NEWLINK, 0, 7)), None);
        assert_eq!(deleted_link(&notification(RTM_DELLINK, AF_BRIDGE, 7)), None);
        assert_eq!(deleted_link(&notification(RTM_DELLINK, 0, 7)[..20]), None);
    }
}
