//! The signals that end the loss.
//!
//! PID 1 of a container ignores a signal that it has no handler for, for good; one that is blocked stays pending. So the signals are blocked first, in
//! every thread, and let in once the handlers stand: in a thread that does nothing else, as the one that a signal is for might wait for rtnetlink's lock, which no
//! signal interrupts, and in whoever asks whether one has come.

use netloss_contract::Cause;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, Signal},
};
use signal_hook::{flag, low_level::pipe};
use std::{
    io::{self, PipeReader},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
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

fn set() -> SigSet {
    MEANINGS.iter().map(|(signal, _)| *signal).collect()
}

fn block() -> io::Result<()> {
    Ok(set().thread_block()?)
}

/// Lets the signals in that came by now and wait for a thread, such as after a time in which no thread ran: they are handled before this returns.
pub(crate) fn let_in() {
    // Neither can fail: the signals are ones that there are (sigprocmask(2)).
    let _ = set().thread_unblock().and_then(|()| set().thread_block());
}

/// Signals that have come. Its descriptor can be read from once one has, for good: nobody takes what the handlers write.
#[derive(Debug)]
pub struct Signals {
    /// 1 + the place in [`MEANINGS`] of the last one that came; 0 before the first.
    last: Arc<AtomicUsize>,
    wake: PipeReader,
}

impl Signals {
    /// Puts the handlers in place. To be called before anything else, and from the only thread: others inherit that the signals are blocked.
    ///
    /// # Errors
    /// Where the system refuses a handler, a pipe or a thread.
    pub fn install() -> io::Result<Self> {
        block()?;
        let (wake, write) = io::pipe()?;
        let last = Arc::new(AtomicUsize::new(0));
        for (place, (signal, _)) in MEANINGS.iter().enumerate() {
            // In this order: who is woken finds the value.
            flag::register_usize(*signal as i32, Arc::clone(&last), place + 1)?;
            pipe::register(*signal as i32, write.try_clone()?)?;
        }
        thread::Builder::new().name("signals".to_owned()).stack_size(64 * 1024).spawn(|| {
            // It cannot fail: the signals are ones that there are (sigprocmask(2)).
            let _ = set().thread_unblock();
            loop {
                thread::park();
            }
        })?;
        Ok(Self { last, wake })
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
        let fds = [Some(self.wake.as_fd()), other];
        let mut fds: Vec<_> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Whoever waits looks again, whatever ended it.
        let _ = poll(&mut fds, PollTimeout::try_from(limit + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX));
    }

    /// What the last one that came means.
    fn last(&self) -> Option<Cause> {
        let_in();
        let place = self.last.load(Ordering::SeqCst).checked_sub(1)?;
        MEANINGS.get(place).map(|(_, cause)| *cause)
    }

    /// Lets the runtime watch for them.
    ///
    /// # Errors
    /// Where the runtime cannot watch the descriptor.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(&self) -> io::Result<Watch<'_>> {
        let descriptor = self.wake.as_fd().try_clone_to_owned()?;
        #[allow(deprecated, reason = "unsound for types whose descriptor changes; an OwnedFd's does not, and the other way is unsafe code")]
        let wake = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        Ok(Watch { signals: self, wake })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
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
            // One that came in between has made the pipe readable, and it stays so.
            let _ready = self.wake.readable().await?;
        }
    }
}
