//! rtnetlink: the connection that every request goes through, and one file for each kernel object.

mod changes;
mod filter;
mod link;
mod qdisc;
mod route;
mod socket;

pub use changes::{Changes, deleted_link};
pub use filter::{Filter, INGRESS_HOOK};
pub use link::Link;
pub use qdisc::{Handle, INGRESS_PARENT, PRIO_BANDS, QDISC_CLSACT, QDISC_INGRESS, QDISC_NETEM, QDISC_PRIO, QDISC_TBF, Qdisc, ROOT};
pub use route::DefaultRoute;

use futures::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_proto::Connection;
use nix::errno::Errno;
use socket::Socket;
pub(crate) use socket::{ANSWER, open, receive};
use std::{
    cell::RefCell,
    fmt,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// How long the answer to one request may take. The kernel works on a request within send(2) and waits there, without a limit and without being
/// interrupted, for rtnetlink's lock, which is the whole node's (`rtnl_lock` in `rtnetlink_rcv_msg`): CNI churn elsewhere can hold it for a while. No
/// timeout of a socket changes that (`SO_SNDTIMEO` is for room in its buffer), so the end of a guarded loss needs no rtnetlink.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// A dump that the kernel marks as interrupted, or that overran the socket's buffer, is asked for again this often.
const DUMP_ATTEMPTS: usize = 10;

/// `NLMSGERR_ATTR_MSG` (include/uapi/linux/netlink.h): the kernel's own words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// `struct nlmsghdr` in bytes: what an error message repeats of the request, with `NETLINK_CAP_ACK`.
const NLMSGHDR_LENGTH: usize = 16;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel said no.
    #[error("{}{errno}", .words.as_ref().map(|words| format!("{words}: ")).unwrap_or_default())]
    Kernel {
        /// Its error code.
        errno: Errno,
        /// Its own words, where it has any (`NETLINK_EXT_ACK`).
        words: Option<String>,
    },
    /// No answer came in time.
    #[error("the kernel did not answer within {} s", TIME_LIMIT.as_secs())]
    TimedOut,
    /// The socket is gone, so nothing is known of the request.
    #[error("the netlink connection was lost before the kernel acknowledged")]
    ConnectionLost,
    /// A dump was interrupted by changes each time, or answers were lost for want of memory.
    #[error("the kernel's answers were incomplete, each time they were asked for: its state kept changing, or it has no memory for them")]
    Unstable,
    /// The socket could not be made.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
}

impl Error {
    /// The kernel's error code, if it was the kernel that said no.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the kernel does not have what was requested, or does not let this process have it (capabilities, a seccomp profile): it answers the same when
    /// it is asked again. Every other failure may pass: no memory (ENOMEM, ENOBUFS), no descriptor (EMFILE, ENFILE), a conflict (EEXIST, EBUSY), no answer.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let errno = match self {
            Self::Kernel { errno, .. } => *errno,
            Self::Socket(error) => Errno::from_raw(error.raw_os_error().unwrap_or_default()),
            Self::TimedOut | Self::ConnectionLost | Self::Unstable => return false,
        };
        matches!(
            errno,
            Errno::EOPNOTSUPP
                | Errno::EPROTONOSUPPORT
                | Errno::EAFNOSUPPORT
                | Errno::ENOPROTOOPT
                | Errno::ENOSYS
                | Errno::EINVAL
                | Errno::ENOENT
                | Errno::EPERM
                | Errno::EACCES
        )
    }

    /// The kernel's own words, if it had any.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Kernel { words: Some(words), .. } => words,
            _ => "",
        }
    }

    pub(crate) fn kernel(error: &ErrorMessage) -> Self {
        let errno = Errno::from_raw(error.raw_code().saturating_abs());
        let attributes = error.header.get(NLMSGHDR_LENGTH..).unwrap_or_default();
        let words = NlasIterator::new(attributes)
            .map_while(Result::ok)
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
            .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
        Self::Kernel { errno, words }
    }
}

/// What an answer says, unless that is a failure: no more than whether the kernel said yes.
///
/// # Errors
/// The kernel's error, or [`Error::Unstable`] where answers were lost.
pub(crate) fn accepted<I>(payload: NetlinkPayload<I>) -> Result<NetlinkPayload<I>, Error> {
    match payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(Error::kernel(&error)),
        NetlinkPayload::Done(done) if done.code < 0 => {
            Err(Error::Kernel { errno: Errno::from_raw(done.code.saturating_abs()), words: None })
        }
        NetlinkPayload::Overrun(_) => Err(Error::Unstable),
        payload => Ok(payload),
    }
}

/// A connection to rtnetlink in the network namespace of the thread that opened it.
///
/// Every request asks for its acknowledgment, and takes none within the time limit for a failure. The package's requests are used where they say all that
/// is to be said; they tell no interrupted list from a whole one, and take no options of qdiscs, so lists and the other requests are messages made here.
pub struct Netlink {
    handle: rtnetlink::Handle,
    connection: RefCell<Connection<RouteNetlinkMessage, Socket>>,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    pub fn connect() -> Result<Self, Error> {
        // The third would be what nobody has asked for: nothing, on a socket in no group.
        let (mut connection, handle, _) = rtnetlink::new_connection_with_socket()?;
        // Without these the stream of answers ends alike when a request is done and when the connection is lost.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        Ok(Self { handle, connection: RefCell::new(connection) })
    }

    /// Makes a change by a request of the package; returns when the kernel has acknowledged it.
    fn request(&self, request: impl Future<Output = Result<(), rtnetlink::Error>>) -> Result<(), Error> {
        self.wait(async {
            match request.await {
                // The package takes an acknowledgment that is forwarded for an error of no code.
                Err(rtnetlink::Error::NetlinkError(error)) => accepted(NetlinkPayload::<RouteNetlinkMessage>::Error(error)).map(drop),
                // The stream of answers ended before it.
                Ok(()) | Err(_) => Err(Error::ConnectionLost),
            }
        })
    }

    /// Makes a change; returns when the kernel has acknowledged it.
    fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.exchange(message, NLM_F_ACK | flags).map(drop)
    }

    /// Asks for all objects.
    fn dump(&self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        stable(|| self.exchange(message.clone(), NLM_F_DUMP))
    }

    fn exchange(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        self.wait(async {
            let mut stream = self.handle.clone().request(request).map_err(|_| Error::ConnectionLost)?;
            let mut answers = Answers::default();
            while let Some(answer) = stream.next().await {
                if answers.take(answer.header.flags, accepted(answer.payload)?) {
                    return answers.finish();
                }
            }
            Err(Error::ConnectionLost)
        })
    }

    /// Does a request to its end, in turn with the connection that it needs, on this thread and without a runtime: the kernel has done what a request asks
    /// before the send returns, so there is nothing else to do meanwhile, and its answer is waited for in the socket.
    fn wait<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut connection = self.connection.borrow_mut();
        let mut request = pin!(request);
        let mut context = Context::from_waker(Waker::noop());
        connection.socket_mut().begin();
        let mut lost = false;
        loop {
            if let Poll::Ready(done) = request.as_mut().poll(&mut context) {
                // What was lost may have been an answer to this.
                let overran = connection.socket_mut().has_overrun();
                return done.and_then(|done| if overran { Err(Error::Unstable) } else { Ok(done) });
            }
            if lost {
                return Err(Error::ConnectionLost);
            }
            lost = Pin::new(&mut *connection).poll(&mut context).is_ready();
            if let Some(error) = connection.socket_mut().failure() {
                return Err(error);
            }
            connection.socket_mut().await_one();
        }
    }
}

/// Repeats a dump that did not show one state.
///
/// # Errors
/// [`Error::Unstable`] where it never did, or any other error of an attempt.
pub(crate) fn stable<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 0..DUMP_ATTEMPTS {
        match attempt() {
            Err(Error::Unstable) => {}
            answer => return answer,
        }
    }
    Err(Error::Unstable)
}

/// The answers to one request, up to the last one.
#[derive(Debug)]
pub(crate) struct Answers<I> {
    found: Vec<I>,
    interrupted: bool,
}

impl<I> Default for Answers<I> {
    fn default() -> Self {
        Self { found: Vec::new(), interrupted: false }
    }
}

impl<I> Answers<I> {
    /// Keeps an answer. Whether it was the last one.
    pub(crate) fn take(&mut self, flags: u16, payload: NetlinkPayload<I>) -> bool {
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match payload {
            NetlinkPayload::InnerMessage(inner) => self.found.push(inner),
            NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return true,
            _ => {}
        }
        false
    }

    /// All of them.
    ///
    /// # Errors
    /// [`Error::Unstable`] where the kernel has marked one: its state changed while it was listed, and some of it may be missing or be there twice.
    pub(crate) fn finish(self) -> Result<Vec<I>, Error> {
        if self.interrupted { Err(Error::Unstable) } else { Ok(self.found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_dump_is_repeated() {
        let mut attempts = 0;
        let listed = stable(|| {
            attempts += 1;
            let mut answers = Answers::default();
            answers.take(if attempts == 1 { NLM_F_DUMP_INTR } else { 0 }, NetlinkPayload::InnerMessage(attempts));
            assert!(answers.take(0, NetlinkPayload::Done(netlink_packet_core::DoneMessage::default())));
            answers.finish()
        });
        assert_eq!((listed.unwrap(), attempts), (vec![2], 2));
        let never = stable(|| Err::<(), _>(Error::Unstable));
        assert!(matches!(never, Err(Error::Unstable)));
        assert!(matches!(stable(|| Err::<(), _>(Error::TimedOut)), Err(Error::TimedOut)), "only what may be otherwise the next time");
    }
}
