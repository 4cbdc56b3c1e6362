//! That the loss is to end: a signal has come, or somebody has asked for it over the control socket. Any thread can see it, whatever the
//! others wait for.

use crate::{clock::Moment, signals::Signals};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    io::{self, PipeReader, PipeWriter, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

/// Who did not run for this long may have been taken for dead: a client gives up after [`crate::control::ANSWER_LIMIT`].
const ASLEEP: Duration = Duration::from_secs(4);

/// How long requests that came to a sleeper take at most to be read once it runs again.
const HEARING: Duration = Duration::from_millis(250);

/// Sees that the loss is to end.
#[derive(Debug, Clone)]
pub struct Ending {
    signals: Arc<OwnedFd>,
    bell: Arc<PipeReader>,
}

/// Says that the loss is to end. For good: what has rung goes on ringing.
#[derive(Debug)]
pub struct Bell {
    pipe: PipeWriter,
    rung: bool,
}

impl Bell {
    /// Rings it.
    pub fn ring(&mut self) {
        if !self.rung {
            // One byte always fits, and while nobody sees it there is nobody to be told.
            self.rung = self.pipe.write(&[0]).is_ok();
        }
    }
}

impl Ending {
    /// By the signals of this process, or the bell.
    ///
    /// # Errors
    /// Where no descriptor is to be had.
    pub fn new(signals: &Signals) -> io::Result<(Bell, Self)> {
        let (reader, pipe) = io::pipe()?;
        let signals = Arc::new(signals.as_fd().try_clone_to_owned()?);
        Ok((Bell { pipe, rung: false }, Self { signals, bell: Arc::new(reader) }))
    }

    /// Waits until the loss is to end or something is to be read from `other`, but not for longer than `limit`. Whether one of them is so.
    #[must_use]
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, limit: Duration) -> bool {
        let mut fds: Vec<_> = [Some(self.signals.as_fd()), Some(self.bell.as_fd()), other]
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // Not less than asked for, which would be a busy loop.
        let limit = PollTimeout::try_from(limit + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, limit).is_ok_and(|ready| ready > 0)
    }

    /// Whether the loss was to end while this process did not run, as it has not since `last`. Nothing for one that has run.
    #[must_use]
    pub fn came_in_sleep_since(&self, last: Moment) -> bool {
        Moment::now().since(last) >= ASLEEP && self.wait(None, HEARING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_rung() {
        let (mut bell, ending) = Ending::new(&Signals::install().unwrap()).unwrap();
        assert!(!ending.wait(None, Duration::ZERO));
        bell.ring();
        bell.ring();
        let other = ending.clone();
        assert!(ending.wait(None, Duration::ZERO) && ending.wait(None, Duration::ZERO) && other.wait(None, Duration::from_mins(1)));
    }

    #[test]
    fn asks_only_after_a_sleep() {
        let (mut bell, ending) = Ending::new(&Signals::install().unwrap()).unwrap();
        bell.ring();
        let now = Moment::now();
        assert!(!ending.came_in_sleep_since(now));
        // A machine that was started less than this ago cannot have slept for longer.
        assert_eq!(ending.came_in_sleep_since(Moment::at(Duration::ZERO)), now.since(Moment::at(Duration::ZERO)) >= ASLEEP);
    }
}
