//! The socket that rtnetlink's connection sends and receives through.
//!
//! It waits for answers itself, with a time limit, where the package's own would leave that to a runtime: a request and its answer are two system calls. And it
//! keeps what the package would only log: why it failed, and that answers were lost.

use super::{Error, TIME_LIMIT};
use bytes::BufMut;
use netlink_proto::sys::AsyncSocket;
use netlink_sys::SocketAddr;
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    cell::{Cell, RefCell},
    io,
    task::{Context, Poll},
    time::Duration,
};

/// As much as the kernel answers at once (`netlink_recvmsg`), in bytes.
pub(crate) const ANSWER: usize = 32 * 1024;

/// Opens a socket of a protocol that waits so long for each answer. Close-on-exec.
///
/// # Errors
/// Where the kernel has no such protocol, or no socket is to be had.
pub(crate) fn open(protocol: isize, limit: Duration) -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(protocol)?;
    socket.bind_auto()?;
    // Nobody but the kernel may answer.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&socket, ReceiveTimeout, &limit)?;
    Ok(socket)
}

/// Waits for one datagram of answers to a request. `overran` says whether some were lost, in this one or before it: a transaction that fails has an error for
/// each of its messages, which may be more than the socket's buffer holds. The kernel says so before it hands out what it kept, and the first error among that
/// is the one that counts. All of that is there already, so there is nothing to wait for then.
///
/// # Errors
/// [`Error::TimedOut`] where none came in time, [`Error::Unstable`] where nothing is left of those that did, and what else the socket says.
pub(crate) fn receive<B: BufMut>(socket: &netlink_sys::Socket, buffer: &mut B, overran: &mut bool) -> Result<(), Error> {
    loop {
        let flags = if *overran { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        match socket.recv(buffer, flags.bits()) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => *overran = true,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(if *overran { Error::Unstable } else { Error::TimedOut });
            }
            Err(error) => return Err(Error::Socket(error)),
        }
    }
}

/// Close-on-exec.
#[derive(Debug)]
pub(super) struct Socket {
    inner: netlink_sys::Socket,
    /// Whether a datagram is to be waited for.
    awaits: Cell<bool>,
    /// Whether answers to the request did not fit the socket's buffer.
    overran: Cell<bool>,
    failure: RefCell<Option<Error>>,
}

impl Socket {
    /// For a new request, of which nothing was sent yet.
    pub(super) fn begin(&mut self) {
        self.awaits.set(false);
        self.overran.set(false);
        self.failure.take();
    }

    /// Waits for a datagram when the connection receives next.
    pub(super) fn await_one(&mut self) {
        self.awaits.set(true);
    }

    /// Why nothing was sent or received since this was asked last, where that failed.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Whether answers were lost since the request began.
    pub(super) fn has_overrun(&self) -> bool {
        self.overran.get()
    }

    /// Fails the request. Not the connection: the package would give it up, and the next request may do.
    fn fail(&self, error: Error) {
        self.failure.replace(Some(error));
    }

    /// Waits for one datagram and takes it, where one is to be waited for.
    fn receive<B: BufMut>(&self, buffer: &mut B) -> Poll<io::Result<()>> {
        // No more than one: whoever made the request looks first whether that was all of it.
        if !self.awaits.replace(false) {
            return Poll::Pending;
        }
        let mut overran = self.overran.get();
        let received = receive(&self.inner, buffer, &mut overran);
        self.overran.set(overran);
        match received {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => {
                self.fail(error);
                Poll::Pending
            }
        }
    }
}

impl AsyncSocket for Socket {
    fn socket_ref(&self) -> &netlink_sys::Socket {
        &self.inner
    }

    fn socket_mut(&mut self) -> &mut netlink_sys::Socket {
        &mut self.inner
    }

    fn new(protocol: isize) -> io::Result<Self> {
        let socket = open(protocol, TIME_LIMIT)?;
        Ok(Self { inner: socket, awaits: Cell::default(), overran: Cell::default(), failure: RefCell::default() })
    }

    fn poll_send(&self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // However long the kernel works on it: there is no limit for that.
        if let Err(error) = self.inner.send(bytes, 0) {
            self.fail(Error::Socket(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_send_to(&self, context: &mut Context<'_>, bytes: &[u8], _: &SocketAddr) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes)
    }

    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<()>> {
        self.receive(buffer)
    }

    fn poll_recv_from<B: BufMut>(&self, _: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<SocketAddr>> {
        self.receive(buffer).map_ok(|()| SocketAddr::new(0, 0))
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        let mut bytes = Vec::with_capacity(ANSWER);
        self.receive(&mut bytes).map_ok(|()| (bytes, SocketAddr::new(0, 0)))
    }
}
