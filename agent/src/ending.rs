//! That the loss is to end: a signal has come, or somebody has asked for it over the control socket. Any thread can see it, whatever the
//! others wait for.

use crate::signals::{self, Signals};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    fmt::Debug,
    io::{self, PipeReader, PipeWriter, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

/// Requests that wait in the control socket.
pub trait Requests: Debug + Send + Sync {
    /// Reads what has come by now, without waiting for more, and rings the bell if it is a request for the end of this run.
    fn read(&self);
}

/// Sees that the loss is to end.
#[derive(Debug, Clone)]
pub struct Ending {
    signals: Arc<OwnedFd>,
    bell: Arc<PipeReader>,
    requests: Arc<dyn Requests>,
}

/// Says that the loss is to end. For good: what has rung goes on ringing.
#[derive(Debug)]
pub struct Bell {
    pipe: PipeWriter,
    rung: bool,
}

impl Bell {
    /// A bell, and what is readable once it has rung.
    ///
    /// # Errors
    /// Where no descriptor is to be had.
    pub fn new() -> io::Result<(Self, PipeReader)> {
        let (reader, pipe) = io::pipe()?;
        Ok((Self { pipe, rung: false }, reader))
    }

    /// Rings it.
    pub fn ring(&mut self) {
        if !self.rung {
            // One byte always fits, and while nobody sees it there is nobody to be told.
            self.rung = self.pipe.write(&[0]).is_ok();
        }
    }
}

impl Ending {
    /// By the signals of this process, or the bell that `requests` ring.
    ///
    /// # Errors
    /// Where no descriptor is to be had.
    pub fn new(signals: &Signals, bell: PipeReader, requests: Arc<dyn Requests>) -> io::Result<Self> {
        let signals = Arc::new(signals.as_fd().try_clone_to_owned()?);
        Ok(Self { signals, bell: Arc::new(bell), requests })
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

    /// Whether the loss is to end, as of now: reads the requests that wait in the control socket first, and takes the signals that
    /// wait for this process. Whoever asks this before it makes or
    /// prolongs a loss, after any time in which the process did not run, does nothing against a request that came before.
    #[must_use]
    pub fn has_come(&self) -> bool {
        signals::let_in();
        self.requests.read();
        self.wait(None, Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug)]
    struct Waiting(Mutex<(Bell, bool)>);

    impl Requests for Waiting {
        fn read(&self) {
            let (bell, asks) = &mut *self.0.lock().unwrap();
            if *asks {
                bell.ring();
            }
        }
    }

    fn ending(asks: bool) -> (Arc<Waiting>, Ending) {
        let (bell, reader) = Bell::new().unwrap();
        let requests = Arc::new(Waiting(Mutex::new((bell, asks))));
        let ending = Ending::new(&Signals::install().unwrap(), reader, requests.clone()).unwrap();
        (requests, ending)
    }

    #[test]
    fn stays_rung() {
        let (requests, ending) = ending(false);
        assert!(!ending.wait(None, Duration::ZERO) && !ending.has_come());
        requests.0.lock().unwrap().0.ring();
        requests.0.lock().unwrap().0.ring();
        let other = ending.clone();
        assert!(ending.wait(None, Duration::ZERO) && ending.has_come() && other.wait(None, Duration::from_mins(1)));
    }

    /// Nobody has to have read it before.
    #[test]
    fn a_request_that_waits_in_the_socket_counts() {
        let (_requests, ending) = ending(true);
        assert!(!ending.wait(None, Duration::ZERO));
        assert!(ending.has_come());
    }
}
