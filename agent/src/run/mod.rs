//! `netloss-agent run`: brings the loss, watches over it, and takes it away.

mod watch;

use crate::{
    apply::Kernel,
    backend::Unmarked,
    clock::{self, Alarms, Expiry, Moment},
    control::{ClientRequest, Control, LockError},
    ending::Ending,
    guard::{self, Account},
    impairment::{ApplyError, Impairment, Terms, Trial},
    meter::Meter,
    netlink::Changes,
    prepare::{self, Prepared, asked, failed, unreadable},
    reporter::Reporter,
    signals::{Signals, Watch},
    snapshot::Snapshot,
};
use jiff::Timestamp;
use netloss_contract::{
    Applied, Cause, Event, ExitCode, Failed, Heartbeat, Holder, LeaseStats, Record, Removed, Request, RunArgs, Stage, Status,
};
use std::{io, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use watch::Pulse;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Does it, reports what happened, and says so with the exit code.
#[must_use]
pub fn run(args: &RunArgs, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_io_events_per_tick(16).build();
    match runtime {
        Ok(runtime) => runtime.block_on(whole(args, signals, reporter)),
        Err(error) => conclude(Err(failed(Stage::Start, ExitCode::Failed, format!("cannot start the runtime: {error}"))), reporter).1,
    }
}

/// The session, its last word, and telling that to those who asked for the end.
async fn whole(args: &RunArgs, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    let mut door = Door { control: None, waiting: Vec::new(), ended: None };
    let ended = session(args, signals, reporter, &mut door).await;
    let (last, exit) = conclude(ended, reporter);
    door.waiting.iter().for_each(|visit| visit.answer(&last));
    exit
}

/// What is left when the loss is gone: the lock, those who wait for the end, and sockets that it takes a while to close (see [`guard::Guard`]).
struct Door<'a> {
    control: Option<Control>,
    waiting: Vec<ClientRequest>,
    ended: Option<Session<'a>>,
}

fn conclude(ended: Result<Removed, Failed>, reporter: &mut Reporter) -> (Record, ExitCode) {
    match ended {
        Ok(mut removed) => {
            removed.lines_dropped = reporter.lines_dropped();
            (reporter.report(Event::Removed(removed)), ExitCode::Done)
        }
        Err(failed) => {
            let exit = failed.exit;
            (reporter.report(Event::Failed(failed)), exit)
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The loss in its place, and what is needed to watch over it and take it away.
struct Session<'a> {
    args: &'a RunArgs,
    kernel: Kernel,
    impairment: Impairment,
    /// What this session changed without a mark.
    unmarked: Unmarked,
    meter: Meter,
    limit: Expiry,
    alarms: Alarms,
    ending: Ending,
    changes: Changes,
    pulse: Pulse,
    /// What is not as applied, when the kernel was last asked.
    drift: Vec<String>,
    /// What was brought again, and how well the lease was kept before.
    repaired: Vec<String>,
    kept_before: Account,
    applied_at: Timestamp,
    myself: Holder,
    applied: Applied,
}

async fn session<'a>(args: &'a RunArgs, all_signals: &Signals, reporter: &mut Reporter, door: &mut Door<'a>) -> Result<Removed, Failed> {
    let begun = Moment::now();
    args.check().map_err(|error| failed(Stage::Start, ExitCode::Usage, error.to_string()))?;
    prepare::in_time(args.deadline)?;
    let signals =
        all_signals.watch().map_err(|error| failed(Stage::Start, ExitCode::Failed, format!("cannot watch for signals: {error}")))?;
    let myself = myself(args);
    let control = door.control.insert(Control::take(args.run.as_ref(), all_signals).map_err(not_locked)?);
    let mut session = Session::begin(args, (control.ending().clone(), begun), myself, reporter).await?;
    let (cause, looked) = session.hold(&signals, control, &mut door.waiting, reporter).await?;
    let removed = session.finish(cause, looked).await;
    door.ended = Some(session);
    removed
}

fn myself(args: &RunArgs) -> Holder {
    Holder { run: args.run.clone(), pid: std::process::id(), agent_version: VERSION.to_owned(), started_at: clock::now() }
}

/// Why this namespace is not ours.
#[must_use]
pub fn not_locked(error: LockError) -> Failed {
    let message = error.to_string();
    match error {
        LockError::Held(holder) => Failed { holder, ..failed(Stage::Start, ExitCode::AlreadyRunning, message) },
        LockError::Io(_) => failed(Stage::Start, ExitCode::Failed, message),
    }
}

impl<'a> Session<'a> {
    /// Looks, decides, applies, reads back and compares. Where that fails, nothing stays behind.
    async fn begin(args: &'a RunArgs, (ending, begun): (Ending, Moment), myself: Holder, reporter: &mut Reporter) -> Result<Self, Failed> {
        let mut kernel = Kernel::connect().map_err(|error| unreadable(&error))?;
        let seen = Snapshot::take(&kernel.netlink).map_err(|error| unreadable(&error))?;
        prepare::refuse_host(args, &seen.links)?;
        prepare::permitted(&kernel.netlink)?;
        let (leftovers_removed, before) = kernel.remove_seen(Unmarked::default(), Some(seen)).await.map_err(|left| {
            let message = "what a dead agent left here cannot be removed";
            Failed { left, ..failed(Stage::Snapshot, ExitCode::Incomplete, message) }
        })?;
        // Before the first change that could be missed.
        let mut changes = Changes::listen().map_err(|error| unreadable(&error))?;
        let Prepared { plan, interface_reason, filtered } = match prepare::prepare(args, &kernel.netlink, &before, Trial::Creation) {
            Ok(prepared) => prepared,
            // A guard that failed may have left tables.
            Err(failure) if failure.exit == ExitCode::Failed => return Err(undo(&mut kernel, Unmarked::default(), failure).await),
            Err(failure) => return Err(failure),
        };
        let (unmarked, backend_reason) = (plan.unmarked(), plan.reason().to_owned());
        let terms = Terms { ending: &ending, begun: Some(begun), until: None };
        let brought = plan.bring(&kernel, &mut changes, || Expiry::new(Moment::now(), args.ttl, args.deadline), &terms);
        let set = brought.map_err(|error| not_applied(&error)).and_then(|(impairment, limit, after)| match Alarms::set(&limit) {
            Ok(alarms) => Ok((impairment, limit, after, alarms)),
            Err(error) => {
                impairment.disarm();
                impairment.remove_tables();
                Err(failed(Stage::Apply, ExitCode::Failed, format!("cannot set a timer: {error}")))
            }
        });
        let (impairment, limit, after, alarms) = match set {
            Ok(set) => set,
            Err(failure) => return Err(undo(&mut kernel, unmarked, failure).await),
        };
        // Before anybody hears of the loss, and begins to count or stops the agent.
        let pulse = Pulse::new(Moment::now());
        let meter = Meter::start(&after, (impairment.backend(), impairment.guard()), impairment.target(), args.model.expectation());
        let applied = Applied {
            agent_version: VERSION.to_owned(),
            kernel: kernel_release(),
            interface: impairment.target().link.name.clone(),
            interface_reason,
            backend: impairment.backend(),
            backend_reason,
            unguarded: impairment.backend().unguarded(),
            guard: impairment.guard(),
            asked: asked(args),
            predicted: args.model.predicted(),
            filtered,
            warnings: args.model.warning().into_iter().collect(),
            ends_at: limit.at(),
            leftovers_removed,
        };
        reporter.report(Event::Applied(applied.clone()));
        let (drift, repaired, kept_before) = (Vec::new(), Vec::new(), Account::default());
        let applied_at = clock::now();
        Ok(Self {
            args,
            kernel,
            impairment,
            unmarked,
            meter,
            limit,
            alarms,
            ending,
            changes,
            pulse,
            drift,
            repaired,
            kept_before,
            applied_at,
            myself,
            applied,
        })
    }

    /// Waits for the end, with a heartbeat now and then. Returns what made it end, and whether that was found by a look.
    async fn hold(
        &mut self,
        signals: &Watch<'_>,
        control: &mut Control,
        waiting: &mut Vec<ClientRequest>,
        reporter: &mut Reporter,
    ) -> Result<(Cause, bool), Failed> {
        let mut beats = ticks(self.args.heartbeat.duration());
        let mut pulses = ticks(Pulse::PERIOD);
        let ended: io::Result<Cause> = loop {
            let found = tokio::select! {
                biased;
                cause = signals.come() => break cause,
                visit = control.stops.next() => {
                    // Before anything is asked of the kernel.
                    self.impairment.disarm();
                    waiting.extend(self.attend(visit, reporter));
                    break Ok(Cause::Stopped);
                }
                cause = self.alarms.come() => break cause,
                _ = pulses.tick() => {
                    self.pulse.beat(Moment::now());
                    if self.impairment.expired().is_some() {
                        break Ok(Cause::LeaseExpired);
                    }
                    if reporter.is_live() { self.beat(reporter).await } else { Ok(None) }
                }
                changed = self.changes.come() => match changed {
                    Ok(()) => self.follow().await,
                    Err(error) => break Err(error),
                },
                _ = beats.tick(), if !reporter.is_live() => self.beat(reporter).await,
                visit = control.visits.next() => {
                    drop(self.attend(visit, reporter));
                    Ok(None)
                }
            };
            match found {
                Ok(None) => {}
                Ok(Some(cause)) => return Ok((cause, true)),
                Err(failure) => {
                    self.impairment.disarm();
                    self.impairment.remove_tables();
                    return Err(undo(&mut self.kernel, self.unmarked, failure).await);
                }
            }
        };
        match ended {
            Ok(cause) => Ok((cause, false)),
            Err(error) => {
                self.impairment.disarm();
                self.impairment.remove_tables();
                let failure = failed(Stage::Hold, ExitCode::Failed, format!("cannot wait for the end any more: {error}"));
                Err(undo(&mut self.kernel, self.unmarked, failure).await)
            }
        }
    }

    /// Looks, and says what there is.
    async fn beat(&mut self, reporter: &mut Reporter) -> Result<Option<Cause>, Failed> {
        let found = self.inspect(false).await;
        let heartbeat = self.heartbeat(reporter.lines_dropped());
        reporter.heartbeat(&self.impairment.target().link.name, heartbeat);
        found
    }

    /// Answers one who asks. Returns the one who asked for the end of this run, and waits for it.
    fn attend(&mut self, visit: ClientRequest, reporter: &Reporter) -> Option<ClientRequest> {
        let stops = visit.request.stops(self.args.run.as_ref());
        if let (false, Request::Stop { run: Some(meant) }) = (stops, &visit.request) {
            let message = format!("the agent that works here is not that of run {meant}, so it was not stopped");
            let holder = Some(Box::new(self.myself.clone()));
            let failure = Failed { holder, ..failed(Stage::Hold, ExitCode::OtherRun, message) };
            visit.answer(&reporter.record(Event::Failed(failure)));
            return None;
        }
        self.look();
        let now = Some(self.heartbeat(reporter.lines_dropped()));
        let status = Status { holder: Some(self.myself.clone()), applied: Some(self.applied.clone()), now };
        visit.answer(&reporter.record(Event::Status(Box::new(status))));
        stops.then_some(visit)
    }

    /// Reads the counters and what has changed; none where the kernel does not say.
    fn look(&mut self) -> Option<Snapshot> {
        match Snapshot::take(&self.kernel.netlink) {
            Ok(snapshot) => {
                self.meter.update(&snapshot, self.impairment.counted(&mut self.kernel));
                self.drift = self.impairment.drift(&snapshot);
                Some(snapshot)
            }
            Err(error) => {
                self.drift = vec![format!("the kernel's state cannot be read: {error}")];
                None
            }
        }
    }

    /// How well the lease has been kept, where there is one.
    fn account(&self) -> Option<Account> {
        Some(self.kept_before.clone().then(self.impairment.account()?))
    }

    fn heartbeat(&self, lines_dropped: u64) -> Heartbeat {
        let drift = self.drift.clone();
        Heartbeat {
            elapsed_seconds: seconds(self.limit.elapsed()),
            remaining_seconds: seconds(self.limit.remaining()),
            traffic: self.meter.traffic(),
            kept: self.account().map(|account| kept(account, self.limit.elapsed())),
            intact: drift.is_empty(),
            drift,
            repaired: self.repaired.clone(),
            warnings: self.meter.warnings(),
            lines_dropped,
        }
    }

    /// Takes the loss away and reads back that it is gone: first what needs no rtnetlink, whose lock somebody may hold; then a last look, unless
    /// one has just been `taken`, while the guard's counters are there; then all that is left.
    async fn finish(&mut self, cause: Cause, taken: bool) -> Result<Removed, Failed> {
        self.impairment.disarm();
        let expired = self.impairment.expired();
        let elapsed = expired.map_or_else(|| self.limit.elapsed(), |at| self.limit.elapsed_at(at));
        let cause = if expired.is_some() { Cause::LeaseExpired } else { cause };
        let seen = if taken { None } else { self.look() };
        self.impairment.remove_tables();
        let backend = self.impairment.backend();
        let account = self.account();
        match self.kernel.remove_seen(self.unmarked, seen).await {
            Ok(_) => Ok(Removed {
                cause,
                interface: self.impairment.target().link.name.clone(),
                backend,
                asked: asked(self.args),
                predicted: self.args.model.predicted(),
                applied_at: self.applied_at,
                elapsed_seconds: seconds(elapsed),
                traffic: self.meter.traffic(),
                kept: account.map(|account| kept(account, elapsed)),
                drift: std::mem::take(&mut self.drift),
                repaired: std::mem::take(&mut self.repaired),
                warnings: self.meter.warnings(),
                lines_dropped: 0,
            }),
            Err(left) => {
                let message = format!("the loss on {} could not be removed completely: delete the pod", self.impairment.target().link.name);
                Err(Failed { left, ..failed(Stage::Remove, ExitCode::Incomplete, message) })
            }
        }
    }
}

/// Takes away what a failure left half done, and says in the failure what could not be taken away.
async fn undo(kernel: &mut Kernel, unmarked: Unmarked, mut failure: Failed) -> Failed {
    if let Err(left) = kernel.remove(unmarked).await {
        failure.exit = ExitCode::Incomplete;
        failure.left = left;
    }
    failure
}

fn not_applied(error: &ApplyError) -> Failed {
    let (stage, exit) = match error {
        ApplyError::Step(step) => (Stage::Apply, step.exit()),
        ApplyError::Guard(_) | ApplyError::Ended => (Stage::Apply, ExitCode::Failed),
        ApplyError::Over => (Stage::Apply, ExitCode::DeadlinePassed),
        ApplyError::NoSeed => (Stage::Verify, ExitCode::Unsupported),
        ApplyError::Unreadable(_) | ApplyError::Different(_) => (Stage::Verify, ExitCode::Failed),
    };
    failed(stage, exit, error.to_string())
}

/// The last renewal's lease has not been counted yet, so a single one that is missing is no degradation.
fn kept(account: Account, elapsed: Duration) -> LeaseStats {
    let degraded = (account.armed + guard::RENEWAL).as_secs_f64() < elapsed.as_secs_f64() * LeaseStats::WELL / 100.0;
    LeaseStats { armed_seconds: seconds(account.armed), lapses: account.lapses, degraded, trouble: account.trouble }
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}
