//! The signals that end the loss.
//!
//! PID 1 of a container ignores a signal that it has no handler for, for good; one that is blocked stays pending. So the signals are
//! blocked, in every thread, and read from a descriptor (signalfd(2)).

use netloss_contract::Cause;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// What each signal means. SIGHUP and SIGQUIT too: their default would kill the agent and leave the loss.
const MEANINGS: [(Signal, Cause); 4] = [
    (Signal::SIGTERM, Cause::Sigterm),
    (Signal::SIGINT, Cause::Sigint),
    (Signal::SIGHUP, Cause::Sighup),
    (Signal::SIGQUIT, Cause::Sigquit),
];

/// Signals that have come.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    came: Cell<Option<Cause>>,
}

impl Signals {
    /// Lets them come to a descriptor. To be called before anything else, and from the only thread: others inherit that they are blocked.
    ///
    /// # Errors
    /// Where the system refuses it.
    pub fn install() -> io::Result<Self> {
        let set: SigSet = MEANINGS.iter().map(|(signal, _)| *signal).collect();
        set.thread_block()?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { descriptor, came: Cell::new(None) })
    }

    /// Whether one has come.
    #[must_use]
    pub fn came(&self) -> bool {
        self.last().is_some()
    }

    /// Waits until a signal has come, but not for longer than `limit`. Whether one has.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        self.wait_or_read(None, limit);
        self.came()
    }

    /// Waits until a signal has come or something is to be read from `other`, but not for longer than `limit`.
    pub(crate) fn wait_or_read(&self, other: Option<BorrowedFd<'_>>, limit: Duration) {
        if self.came() {
            return;
        }
        let fds = [Some(self.descriptor.as_fd()), other];
        let mut fds: Vec<_> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Whoever waits looks again, whatever ended it.
        let _ = poll(&mut fds, PollTimeout::try_from(limit + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX));
    }

    /// What the last one that came means.
    fn last(&self) -> Option<Cause> {
        while let Ok(Some(signal)) = self.descriptor.read_signal() {
            let meaning = MEANINGS.iter().find(|(known, _)| u32::try_from(*known as i32) == Ok(signal.ssi_signo));
            self.came.set(meaning.map(|(_, cause)| *cause).or(self.came.get()));
        }
        self.came.get()
    }

    /// Lets the runtime watch for them.
    ///
    /// # Errors
    /// Where the runtime cannot watch the descriptor.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(&self) -> io::Result<Watch<'_>> {
        let descriptor = self.descriptor.as_fd().try_clone_to_owned()?;
        #[allow(deprecated, reason = "unsound for types whose descriptor changes; an OwnedFd's does not, and the other way is unsafe code")]
        let wake = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        Ok(Watch { signals: self, wake })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Waits for a signal.
#[derive(Debug)]
pub struct Watch<'a> {
    signals: &'a Signals,
    wake: AsyncFd<OwnedFd>,
}

impl Watch<'_> {
    /// Returns when a signal has come; at once where one already has. Cancel safe.
    ///
    /// # Errors
    /// Where the runtime goes away.
    pub async fn come(&self) -> io::Result<Cause> {
        loop {
            if let Some(cause) = self.signals.last() {
                return Ok(cause);
            }
            // What has come in between wakes again.
            self.wake.readable().await?.clear_ready();
        }
    }
}
