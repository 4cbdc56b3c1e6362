//! The signals that end the loss.
//!
//! PID 1 of a container ignores a signal that it has no handler for, for good. So the signals are blocked first, which keeps those
//! that come early pending, and let in once the handlers stand.

use netloss_contract::Cause;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::{flag, low_level::pipe};
use std::{
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

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
    /// 1 + the place in [`MEANINGS`] of the last one that came; 0 before the first.
    last: Arc<AtomicUsize>,
    /// Gets a byte with each.
    wake: UnixStream,
}

impl Signals {
    /// Puts the handlers in place. To be called before anything else, and from the only thread.
    ///
    /// # Errors
    /// Where the system refuses a signal handler or a pair of sockets.
    pub fn install() -> io::Result<Self> {
        let set: SigSet = MEANINGS.iter().map(|(signal, _)| *signal).collect();
        set.thread_block()?;
        let (wake, write) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let last = Arc::new(AtomicUsize::new(0));
        for (place, (signal, _)) in MEANINGS.iter().enumerate() {
            // In this order: who is woken finds the value.
            flag::register_usize(*signal as i32, Arc::clone(&last), place + 1)?;
            pipe::register(*signal as i32, write.try_clone()?)?;
        }
        set.thread_unblock()?;
        Ok(Self { last, wake })
    }

    /// Whether one has come.
    #[must_use]
    pub fn came(&self) -> bool {
        self.last.load(Ordering::SeqCst) > 0
    }

    /// Lets the runtime watch for them.
    ///
    /// # Errors
    /// Where the runtime cannot watch the socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(&self) -> io::Result<Watch<'_>> {
        Ok(Watch { last: &self.last, wake: tokio::net::UnixStream::from_std(self.wake.try_clone()?)? })
    }
}

/// Waits for a signal.
#[derive(Debug)]
pub struct Watch<'a> {
    last: &'a AtomicUsize,
    wake: tokio::net::UnixStream,
}

impl Watch<'_> {
    /// Returns when a signal has come; at once where one already has. Cancel safe.
    ///
    /// # Errors
    /// Where the runtime goes away.
    pub async fn come(&self) -> io::Result<Cause> {
        loop {
            let came = self.last.load(Ordering::SeqCst);
            if let Some((_, cause)) = came.checked_sub(1).and_then(|place| MEANINGS.get(place)) {
                return Ok(*cause);
            }
            self.wake.readable().await?;
            // The byte says no more than that the value is there to read.
            let _ = self.wake.try_read(&mut [0; 8]);
        }
    }
}
