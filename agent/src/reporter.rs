//! Where reports go: standard output, and the file that becomes the container's termination message.
//!
//! Nothing that a run writes may ever wait: neither a full log pipe nor a terminal that nobody reads may delay the removal of the loss.

use crate::{clock, text};
use netloss_contract::{Event, Heartbeat, Record, RunId, SCHEMA};
use nix::{
    fcntl::{self, OFlag},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
    unistd,
};
use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};
use tracing::debug;

/// The container's termination message (`terminationMessagePath`, its default).
const TERMINATION_LOG: &str = "/dev/termination-log";

/// How standard output has a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a line of JSON.
    Json,
    /// In words.
    Text,
    /// In words on a terminal, where heartbeats are one line that is written over.
    Live,
}

/// Back to the begin of the terminal's line, which is then empty (ECMA-48: CR, EL).
const OVER: &str = "\r\x1b[K";

/// Writes records.
#[derive(Debug)]
pub struct Reporter {
    run: Option<RunId>,
    form: Form,
    /// Standard output where it is a terminal and must not be waited for.
    terminal: Option<OwnedFd>,
    lines_dropped: u64,
}

impl Reporter {
    /// For the run of that name.
    #[must_use]
    pub fn new(run: Option<RunId>, form: Form) -> Self {
        Self { run, form, terminal: None, lines_dropped: 0 }
    }

    /// The same for an agent that holds a loss: it waits for no terminal either.
    ///
    /// # Errors
    /// Where standard output is a terminal and cannot be opened again.
    pub fn never_waiting(run: Option<RunId>, form: Form) -> io::Result<Self> {
        Ok(Self { terminal: unblocked(&io::stdout())?, ..Self::new(run, form) })
    }

    /// Lines that standard output did not take.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped
    }

    /// Reports an event: as a line on standard output, and a final one as the termination message too.
    pub fn report(&mut self, event: Event) -> Record {
        let last = event.is_final();
        let record = self.record(event);
        if last && let Err(error) = leave_termination_message(&record.to_line()) {
            debug!(%error, "no termination message");
        }
        self.pass_on(&record);
        record
    }

    /// An event as a record of this run and moment.
    #[must_use]
    pub fn record(&self, event: Event) -> Record {
        Record { schema: SCHEMA, time: clock::now(), run: self.run.clone(), event }
    }

    /// Writes a record, which may be another agent's, on standard output.
    pub fn pass_on(&mut self, record: &Record) {
        match self.form {
            Form::Json => self.write(&(record.to_line() + "\n")),
            Form::Text => text::render(record).for_each(|line| self.write(&line)),
            Form::Live => {
                self.write(OVER);
                text::render(record).for_each(|line| self.write(&line));
            }
        }
    }

    /// Whether somebody watches.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.form == Form::Live
    }

    /// Reports how a run goes: where somebody watches in one line, and in more only what is not as it should be.
    pub fn heartbeat(&mut self, interface: &str, heartbeat: Heartbeat) {
        if self.is_live() && heartbeat.intact {
            self.write(&format!("{OVER}{}", text::progress(interface, &heartbeat)));
        } else {
            self.report(Event::Heartbeat(heartbeat));
        }
    }

    /// Writes one line at most: a pipe takes no more at once.
    fn write(&mut self, text: &str) {
        let stdout = io::stdout();
        let to = self.terminal.as_ref().map_or_else(|| stdout.as_fd(), AsFd::as_fd);
        if !write_now(to, text.as_bytes()) {
            self.lines_dropped += 1;
        }
    }
}

/// Opens a terminal again, for writing that never waits; none where it is no terminal.
///
/// A terminal polls writable when it takes a byte, and write(2) then waits until it has taken all of them, unless it is `O_NONBLOCK` (`n_tty_poll` and
/// `n_tty_write` of drivers/tty/n_tty.c). That flag belongs to the open file description, which other processes use too: it is set on a new one.
///
/// # Errors
/// Where it cannot be opened, as another user's, or without /proc.
pub(crate) fn unblocked(output: &(impl AsFd + IsTerminal)) -> io::Result<Option<OwnedFd>> {
    if !output.is_terminal() {
        return Ok(None);
    }
    let path = format!("/proc/self/fd/{}", output.as_fd().as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let opened = fcntl::open(path.as_str(), flags, Mode::empty());
    Ok(Some(opened.map_err(|errno| io::Error::other(format!("cannot open the terminal again for writing without waiting: {errno}")))?))
}

/// Writes if that can be done without waiting. A pipe that polls writable takes `PIPE_BUF` bytes at once (pipe(7)), and a record's
/// line is no longer than that; for a terminal see [`unblocked`]. What was written in part counts as not written.
pub(crate) fn write_now(fd: BorrowedFd<'_>, line: &[u8]) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let writable = poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT) && !events.contains(PollFlags::POLLERR));
    writable && unistd::write(fd, line) == Ok(line.len())
}

fn leave_termination_message(line: &str) -> io::Result<()> {
    // Only where Kubernetes has put the file.
    OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::{OpenptyResult, openpty};
    use std::{sync::mpsc, thread, time::Duration};

    /// Longer than what a terminal takes while nobody reads it.
    const LONG: usize = 256 * 1024;

    #[test]
    fn a_terminal_that_nobody_reads_holds_nobody_up() {
        let OpenptyResult { master: _unread, slave } = openpty(None, None).unwrap();
        let inherited = slave.try_clone().unwrap();
        let (sender, written) = mpsc::channel();
        thread::spawn(move || {
            let terminal = unblocked(&slave).unwrap().unwrap();
            let written = [write_now(terminal.as_fd(), b"short\n"), write_now(terminal.as_fd(), &vec![b'x'; LONG])];
            sender.send(written)
        });
        assert_eq!(written.recv_timeout(Duration::from_secs(30)), Ok([true, false]));
        let flags = OFlag::from_bits_retain(fcntl::fcntl(&inherited, fcntl::FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK), "others write to it as before");
    }

    #[test]
    fn what_is_no_terminal_is_not_opened_again() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = std::fs::File::from(OwnedFd::from(writer));
        assert!(unblocked(&file).unwrap().is_none());
    }
}
