//! The commands for a person in a pod, and for a controller that has no other way into one: `status`, `stop`, `cleanup`, `plan`, `check`.

mod check;
mod plan;

pub use check::check;
pub use plan::plan;

use crate::{
    apply::Kernel,
    control::{self, Answers, Asked, Control, LockError},
    nft,
    prepare::{failed, in_time, permitted},
    reporter::Reporter,
    run::not_locked,
    signals::Signals,
};
use netloss_contract::{Cleaned, CleanupArgs, Event, ExitCode, Failed, Holder, Meant, Record, Request, Stage, Status, Stopped};
use std::{
    io, thread,
    time::{Duration, Instant},
};

/// Between two looks of `status --watch`, and between two looks whether a signal has come.
const LOOK: Duration = Duration::from_secs(1);

/// How long a process that has said its last word takes to go.
const FAREWELL: Duration = Duration::from_secs(10);

/// Says who works here, and how it goes; with `watch` until it has ended.
pub fn status(watch: bool, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    loop {
        let status = match control::ask(&Request::Status) {
            Ok(Asked::Nobody) => Event::Status(Box::new(Status { holder: None, applied: None, now: None })),
            Ok(Asked::NoAnswer) => return fail(reporter, unresponsive()),
            Ok(Asked::Answers(mut answers)) => match answers.next(LOOK) {
                Some(record) => record.event,
                None => return fail(reporter, unresponsive()),
            },
            Err(error) => return fail(reporter, no_socket(&error)),
        };
        let ended = !matches!(&status, Event::Status(status) if status.holder.is_some());
        reporter.report(status);
        if ended || !watch || signals.came() {
            return ExitCode::Done;
        }
        thread::sleep(LOOK);
    }
}

/// Asks the agent that works here to end, and waits for that.
pub fn stop(meant: &Meant, limit: Duration, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    match try_stop(meant, limit, signals, reporter) {
        Ok(stopped) => {
            let exit = stopped.exit.filter(|exit| *exit == ExitCode::Incomplete).unwrap_or(ExitCode::Done);
            reporter.report(Event::Stopped(stopped));
            exit
        }
        Err(failure) => fail(reporter, failure),
    }
}

fn try_stop(meant: &Meant, limit: Duration, signals: &Signals, reporter: &mut Reporter) -> Result<Stopped, Failed> {
    in_time(meant.deadline)?;
    let begun = Instant::now();
    let mut answers = match control::ask(&Request::Stop { run: meant.run.clone() }).map_err(|error| no_socket(&error))? {
        Asked::Nobody => return Ok(Stopped { holder: None, exit: None }),
        Asked::NoAnswer => return Err(unresponsive()),
        Asked::Answers(answers) => answers,
    };
    let holder = match answers.next(LOOK).map(|record| record.event) {
        Some(Event::Status(status)) => status.holder,
        Some(Event::Failed(failure)) => return Err(failure),
        _ => return Err(unresponsive()),
    };
    let last = last_word(&mut answers, begun + limit, signals).ok_or_else(|| {
        let message =
            format!("the agent was asked to stop and has not ended within {} s: its ttl and deadline still hold", limit.as_secs());
        failed(Stage::Hold, ExitCode::Unresponsive, message)
    })?;
    let exit = if let Event::Failed(failure) = &last.event { failure.exit } else { ExitCode::Done };
    reporter.pass_on(&last);
    // The lock goes with the process, and who stops one agent may want to start another.
    let said = Instant::now();
    while said.elapsed() < FAREWELL && !matches!(control::ask(&Request::Status), Ok(Asked::Nobody)) {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Stopped { holder, exit: Some(exit) })
}

fn last_word(answers: &mut Answers, limit: Instant, signals: &Signals) -> Option<Record> {
    while Instant::now() < limit && !signals.came() {
        if let Some(record) = answers.next(LOOK) {
            return Some(record);
        }
    }
    None
}

/// Takes away what a dead agent has left.
pub fn cleanup(args: &CleanupArgs, reporter: &mut Reporter) -> ExitCode {
    match block_on(try_cleanup(args)) {
        Ok(removed) => {
            reporter.report(Event::Cleaned(Cleaned { removed }));
            ExitCode::Done
        }
        Err(failure) => fail(reporter, failure),
    }
}

async fn try_cleanup(args: &CleanupArgs) -> Result<Vec<String>, Failed> {
    in_time(args.meant.deadline)?;
    let _lock = match Control::take() {
        Ok(lock) => Some(lock),
        Err(LockError::Held(Some(holder))) => return Err(at_work(*holder, &args.meant)),
        Err(LockError::Held(None)) if args.force => {
            // Its rules still lead to what would be taken away, once it goes on; without their lease they lose nothing.
            if nft::Socket::open().and_then(|mut socket| socket.has_owned_tables()).unwrap_or(false) {
                return Ok(Vec::new());
            }
            None
        }
        Err(LockError::Held(None)) => return Err(unresponsive()),
        Err(LockError::Io(error)) => return Err(no_socket(&error)),
    };
    let unreadable = |error| failed(Stage::Snapshot, ExitCode::Failed, format!("cannot open a netlink socket: {error}"));
    let mut kernel = Kernel::connect().map_err(unreadable)?;
    permitted(&kernel.netlink)?;
    let (removed, _) = kernel.remove(None).await.map_err(|left| {
        let message = "what a dead agent left here cannot be removed: loss may remain; restart the pod";
        Failed { left, ..failed(Stage::Remove, ExitCode::Incomplete, message) }
    })?;
    Ok(removed)
}

fn block_on<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(failed(Stage::Start, ExitCode::Failed, format!("cannot start the runtime: {error}"))),
    }
}

/// That no agent works here.
fn holder() -> Result<(), Failed> {
    match control::ask(&Request::Status).map_err(|error| no_socket(&error))? {
        Asked::Nobody => Ok(()),
        Asked::NoAnswer => Err(unresponsive()),
        Asked::Answers(mut answers) => {
            let holder = match answers.next(LOOK).map(|record| record.event) {
                Some(Event::Status(status)) => status.holder.map(Box::new),
                _ => None,
            };
            Err(not_locked(LockError::Held(holder)))
        }
    }
}

/// Why a cleanup leaves an agent alone that works.
fn at_work(holder: Holder, meant: &Meant) -> Failed {
    let other = meant.run.is_some() && meant.run != holder.run;
    let exit = if other { ExitCode::OtherRun } else { ExitCode::AlreadyRunning };
    let message = LockError::Held(Some(Box::new(holder.clone()))).to_string();
    Failed { holder: Some(Box::new(holder)), ..failed(Stage::Start, exit, message) }
}

fn unresponsive() -> Failed {
    let message = "an agent works in this network namespace and does not answer: it hangs. A guarded loss ends by itself within its lease of \
                   10 s; one of the backend tc stays until netloss-agent cleanup --force or the pod's end";
    failed(Stage::Start, ExitCode::Unresponsive, message)
}

fn no_socket(error: &io::Error) -> Failed {
    failed(Stage::Start, ExitCode::Failed, format!("cannot ask for the agent of this network namespace: {error}"))
}

fn fail(reporter: &mut Reporter, failure: Failed) -> ExitCode {
    let exit = failure.exit;
    reporter.report(Event::Failed(failure));
    exit
}
