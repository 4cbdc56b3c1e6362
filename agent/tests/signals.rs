//! A process of its own: signals and their handlers are the whole process's.

use netloss_agent::signals::Signals;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, Signal, raise},
};
use std::{os::fd::AsFd, time::Duration};

#[test]
fn a_signal_that_comes_before_the_handlers_is_not_lost() {
    // As at the start of PID 1, where one that has no handler does nothing: it waits for this thread.
    SigSet::from(Signal::SIGHUP).thread_block().unwrap();
    raise(Signal::SIGHUP).unwrap();
    let signals = Signals::install().unwrap();
    assert!(signals.came());
    assert!(signals.wait(Duration::from_mins(1)));
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1), "and whoever waits for one is woken");
}
