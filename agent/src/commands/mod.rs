//! The commands for a person in a pod, and for a controller that has no other way into one: `status`, `stop`, `cleanup`, `plan`, `check`.

mod check;
mod plan;

pub use check::check;
pub use plan::plan;

use crate::{
    apply::CAPABILITY,
    apply::Kernel,
    backend::Unmarked,
    control::{self, Asked, Control, LockError},
    guard::LEASE,
    nft,
    prepare::{failed, in_time, permitted},
    reporter::Reporter,
    run::not_locked,
    signals::Signals,
};
use netloss_contract::{Cleaned, CleanupArgs, Event, ExitCode, Failed, Holder, Request, RunSelector, Stage, Status, Stopped};
use nix::errno::Errno;
use std::{
    io,
    time::{Duration, Instant},
};

/// Between two looks of `status --watch`: as often as a person can read it.
const LOOK: Duration = Duration::from_secs(1);

/// Between two looks whether a process is gone. Not noticed by a person, and at most 500 connections to it in [`FAREWELL`].
const GOING: Duration = Duration::from_millis(20);

/// How long a process that has written its last record may take to exit. All that is left is to close its sockets: a judgement with room for a
/// container without processor time. After it, the command ends with what it knows.
const FAREWELL: Duration = Duration::from_secs(10);

/// Between two looks whether a lease has run out: a fiftieth of the lease, so that the wait is longer than the lease by 2 % at most.
const LEASE_LOOK: Duration = Duration::from_millis(200);

/// How long the lease of an agent that does not run lasts at most. The 5 s above the lease are a judgement: the kernel removes an expired element at
/// once, and they are for the looks, each of which is a dump on a node that may be slow.
const LEASE_LIMIT: Duration = Duration::from_secs(LEASE.as_secs() + 5);

/// Says who works here, and how it goes; with `watch` until it has ended.
pub fn status(watch: bool, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    loop {
        let status = match control::ask(&Request::Status, signals) {
            Ok(Asked::Nobody) => Event::Status(Box::new(Status { holder: None, applied: None, now: None })),
            Ok(Asked::NoAnswer { .. }) => return fail(reporter, unresponsive(false)),
            Ok(Asked::Answers(mut answers)) => match answers.next(Instant::now() + LOOK) {
                Some(record) => record.event,
                None => return fail(reporter, unresponsive(false)),
            },
            Err(error) => return fail(reporter, no_socket(&error)),
        };
        let ended = !matches!(&status, Event::Status(status) if status.holder.is_some());
        reporter.report(status);
        if ended || !watch || signals.wait(LOOK) {
            return ExitCode::Done;
        }
    }
}

/// Asks the agent that works here to end, and waits for that.
pub fn stop(meant: &RunSelector, limit: Duration, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    match try_stop(meant, limit, signals, reporter) {
        Ok(stopped) => {
            let exit = stopped.exit.filter(|exit| *exit == ExitCode::Incomplete).unwrap_or(ExitCode::Done);
            reporter.report(Event::Stopped(stopped));
            exit
        }
        Err(failure) => fail(reporter, failure),
    }
}

fn try_stop(meant: &RunSelector, limit: Duration, signals: &Signals, reporter: &mut Reporter) -> Result<Stopped, Failed> {
    in_time(meant.deadline)?;
    let begun = Instant::now();
    let mut answers = match control::ask(&Request::Stop { run: meant.run.clone() }, signals).map_err(|error| no_socket(&error))? {
        Asked::Nobody => return Ok(Stopped { holder: None, exit: None }),
        Asked::NoAnswer { told } => return Err(unresponsive(told)),
        Asked::Answers(answers) => answers,
    };
    let holder = match answers.next(Instant::now() + LOOK).map(|record| record.event) {
        Some(Event::Status(status)) => status.holder,
        Some(Event::Failed(failure)) => return Err(failure),
        _ => return Err(unresponsive(false)),
    };
    let last = answers.next(begun + limit).ok_or_else(|| {
        let message =
            format!("the agent was asked to stop and has not ended within {} s: its ttl and deadline still hold", limit.as_secs());
        failed(Stage::Hold, ExitCode::Unresponsive, message)
    })?;
    let exit = if let Event::Failed(failure) = &last.event { failure.exit } else { ExitCode::Done };
    reporter.pass_on(&last);
    wait_for_the_lock(signals);
    Ok(Stopped { holder, exit: Some(exit) })
}

/// The lock goes with the process, and who stops one agent may want to start another.
fn wait_for_the_lock(signals: &Signals) {
    let said = Instant::now();
    while said.elapsed() < FAREWELL && !matches!(control::ask(&Request::Status, signals), Ok(Asked::Nobody)) && !signals.wait(GOING) {}
}

/// Takes away what a dead agent has left.
pub fn cleanup(args: &CleanupArgs, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    match try_cleanup(args, signals) {
        Ok(removed) => {
            reporter.report(Event::Cleaned(Cleaned { removed }));
            ExitCode::Done
        }
        Err(failure) => fail(reporter, failure),
    }
}

fn try_cleanup(args: &CleanupArgs, signals: &Signals) -> Result<Vec<String>, Failed> {
    in_time(args.meant.deadline)?;
    let mut removed = Vec::new();
    let take = || Control::take(args.meant.run.as_ref(), signals);
    let lock = match take() {
        Err(LockError::Held(None)) if args.force => match silence(&args.meant, signals)? {
            Silenced::Gone => take().map(Some),
            Silenced::Ended => {
                removed.push("the loss of an agent that did not answer: it has ended as it was told".to_owned());
                take().map(Some)
            }
            Silenced::Hangs { told } => {
                let told = if told { "was told to end when it runs again, and " } else { "" };
                removed.push(format!("an agent that hangs {told}cannot resume its loss"));
                Ok(None)
            }
        },
        taken => taken.map(Some),
    };
    let _lock = match lock {
        // The rules of a living guard still lead to what would be taken away; without their lease they lose nothing, and go with it.
        Ok(None) if has_owned_tables()? => return Ok(removed),
        Ok(lock) => lock,
        Err(LockError::Held(Some(holder))) => return Err(at_work(*holder, &args.meant)),
        Err(LockError::Held(None)) => return Err(unresponsive(false)),
        Err(LockError::Io(error)) => return Err(no_socket(&error)),
    };
    let unreadable = |error| failed(Stage::Snapshot, ExitCode::Failed, format!("cannot open a netlink socket: {error}"));
    let mut kernel = Kernel::connect().map_err(unreadable)?;
    permitted(&kernel.netlink)?;
    let (gone, _) = block_on(async { kernel.remove(Unmarked::default()).await.map_err(not_cleaned) })?;
    removed.extend(gone);
    Ok(removed)
}

fn not_cleaned(left: Vec<String>) -> Failed {
    let message = "what a dead agent left here cannot be removed: loss may remain; delete the pod";
    Failed { left, ..failed(Stage::Remove, ExitCode::Incomplete, message) }
}

/// What became of an agent that did not answer.
enum Silenced {
    /// It was not there any more.
    Gone,
    /// It ran again, and ended.
    Ended,
    /// It does not run, and brings no loss when it does. `told`: a request for its end waits for it.
    Hangs {
        /// Whether one does.
        told: bool,
    },
}

/// Makes sure that an agent that does not answer brings no loss any more. It is told to end: it reads that before it makes or prolongs a loss. And
/// tables that go with an agent must have no live element: they can lose no packet then, whether it was told or not.
///
/// # Errors
/// Where it runs after all and ends otherwise, where it could not be told, or where its lease is renewed all the same.
fn silence(meant: &RunSelector, signals: &Signals) -> Result<Silenced, Failed> {
    let told = match control::ask(&Request::Stop { run: meant.run.clone() }, signals).map_err(|error| no_socket(&error))? {
        Asked::Nobody => return Ok(Silenced::Gone),
        Asked::Answers(mut answers) => {
            let until = Instant::now() + LEASE_LIMIT;
            let mut told = false;
            while let Some(record) = answers.next(until) {
                told = true;
                match record.event {
                    Event::Failed(failure) if failure.exit == ExitCode::OtherRun => return Err(failure),
                    event if event.is_final() => {
                        wait_for_the_lock(signals);
                        return Ok(Silenced::Ended);
                    }
                    _ => {}
                }
            }
            told
        }
        Asked::NoAnswer { told: false } if !has_owned_tables()? => return Err(untold()),
        Asked::NoAnswer { told } => told,
    };
    let begun = Instant::now();
    let mut tables = if has_owned_tables()? { nft::Socket::open_if_supported().map_err(|error| unlisted(&error))? } else { None };
    // What cannot be listed may be there.
    while tables.as_mut().is_some_and(|tables| tables.has_owned_tables().unwrap_or(true) && tables.has_live_lease().unwrap_or(true)) {
        if begun.elapsed() > LEASE_LIMIT || signals.wait(LEASE_LOOK) {
            return Err(renewing());
        }
    }
    // Tables that went while it was not told are no proof: it runs, or has died.
    if !told && !has_owned_tables()? { Err(untold()) } else { Ok(Silenced::Hangs { told }) }
}

fn has_owned_tables() -> Result<bool, Failed> {
    let listed = nft::Socket::open_if_supported().and_then(|socket| socket.map_or(Ok(false), |mut socket| socket.has_owned_tables()));
    listed.map_err(|error| unlisted(&error))
}

/// What an agent that does not answer has in the kernel is not known, so nothing of it may be taken away.
fn unlisted(error: &nft::Error) -> Failed {
    if error.errno() == Some(Errno::EPERM) {
        return failed(Stage::Start, ExitCode::Unsupported, CAPABILITY);
    }
    let message = format!(
        "an agent works in this network namespace and does not answer, and its nftables tables cannot be listed: {error}; loss may remain: try \
         again, or delete the pod"
    );
    failed(Stage::Start, ExitCode::Unresponsive, message)
}

fn block_on<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(failed(Stage::Start, ExitCode::Failed, format!("cannot start the runtime: {error}"))),
    }
}

/// That no agent works here.
fn holder(signals: &Signals) -> Result<(), Failed> {
    match control::ask(&Request::Status, signals).map_err(|error| no_socket(&error))? {
        Asked::Nobody => Ok(()),
        Asked::NoAnswer { .. } => Err(unresponsive(false)),
        Asked::Answers(mut answers) => {
            let holder = match answers.next(Instant::now() + LOOK).map(|record| record.event) {
                Some(Event::Status(status)) => status.holder.map(Box::new),
                _ => None,
            };
            Err(not_locked(LockError::Held(holder)))
        }
    }
}

/// Why a cleanup leaves an agent alone that works.
fn at_work(holder: Holder, meant: &RunSelector) -> Failed {
    let other = meant.run.is_some() && meant.run != holder.run;
    let exit = if other { ExitCode::OtherRun } else { ExitCode::AlreadyRunning };
    let message = LockError::Held(Some(Box::new(holder.clone()))).to_string();
    Failed { holder: Some(Box::new(holder)), ..failed(Stage::Start, exit, message) }
}

/// `told`: it was asked to end.
fn unresponsive(told: bool) -> Failed {
    let told = if told { " It was told to end, and does so when it runs again." } else { "" };
    let message = format!(
        "an agent works in this network namespace and does not answer: it hangs. A guarded loss ends by itself within its lease of \
         {} s; one of the backend tc stays until netloss-agent cleanup --force or the pod's end.{told}",
        LEASE.as_secs()
    );
    failed(Stage::Start, ExitCode::Unresponsive, message)
}

fn untold() -> Failed {
    let message = "an agent works in this network namespace and does not answer, and cannot be told to end, because its socket takes no more \
                   requests: loss may remain; try again, or delete the pod";
    failed(Stage::Start, ExitCode::Unresponsive, message)
}

fn renewing() -> Failed {
    let message = "an agent works in this network namespace, does not answer and renews its lease all the same: its loss ends at its ttl or \
                   deadline; try again, or delete the pod";
    failed(Stage::Hold, ExitCode::Unresponsive, message)
}

fn no_socket(error: &io::Error) -> Failed {
    failed(Stage::Start, ExitCode::Failed, format!("cannot ask for the agent of this network namespace: {error}"))
}

fn fail(reporter: &mut Reporter, failure: Failed) -> ExitCode {
    let exit = failure.exit;
    reporter.report(Event::Failed(failure));
    exit
}
