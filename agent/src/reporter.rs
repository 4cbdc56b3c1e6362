//! Where reports go: standard output, and the file that becomes the container's termination message.
//!
//! Nothing here may ever wait: a full log pipe must not delay the removal of the loss.

use crate::{clock, text};
use netloss_contract::{Event, Heartbeat, Record, RunId, SCHEMA};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd,
};
use std::{
    fs::OpenOptions,
    io::Write,
    os::fd::{AsFd, BorrowedFd},
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
    lines_dropped: u64,
}

impl Reporter {
    /// For the run of that name.
    #[must_use]
    pub fn new(run: Option<RunId>, form: Form) -> Self {
        Self { run, form, lines_dropped: 0 }
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
        if !write_now(std::io::stdout().as_fd(), text.as_bytes()) {
            self.lines_dropped += 1;
        }
    }
}

/// Writes if that can be done without waiting. A pipe that polls writable takes `PIPE_BUF` bytes at once (pipe(7)), and a record's
/// line is no longer than that.
pub(crate) fn write_now(fd: BorrowedFd<'_>, line: &[u8]) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let writable = poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT) && !events.contains(PollFlags::POLLERR));
    writable && unistd::write(fd, line) == Ok(line.len())
}

fn leave_termination_message(line: &str) -> std::io::Result<()> {
    // Only where Kubernetes has put the file.
    OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG)?.write_all(line.as_bytes())
}
