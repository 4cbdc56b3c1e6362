//! Keeps the guard armed, from a thread of its own.
//!
//! The thread renews the lease over the nfnetlink socket that owns the tables, and does nothing else: it waits for no rtnetlink
//! request (whose lock is the whole node's), no report and no runtime. It ends the loss itself where a signal or a request for the end comes, so
//! that the loss does not wait for the rest of the agent either.
//! When it stops, for whatever reason, the kernel ends the loss: at once where the process died and the kernel knows owners, otherwise
//! when the lease runs out. A lease never reaches past the end of the loss, so the end is the kernel's business too.
//!
//! An agent may be stopped, frozen or starved for any time and at any point, also between a decision and its message to the kernel. What has
//! run out by then stays so: a renewal is a transaction that the kernel refuses once the lease has expired, and the first one is refused once
//! the guard was not armed within the time of a lease. So whoever sees an empty lease knows that this agent loses no packet any more.

use crate::{
    clock::{Limit, Moment},
    ending::Ending,
    nft::{self, Element, Ruleset, Socket},
};
use nix::errno::Errno;
use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// How long packets are lost after the last renewal. Longer than a starved container's pauses, short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(10);

/// Between two renewals: several may fail or come late before the lease runs out.
pub const RENEWAL: Duration = Duration::from_secs(2);

/// Why a guard was not armed.
#[derive(Debug, thiserror::Error)]
pub enum NotArmed {
    /// The kernel refuses it, or there is no thread to be had.
    #[error(transparent)]
    Kernel(#[from] nft::Error),
    /// Nothing is left of the time of the loss.
    #[error("its time ended before the loss was in place")]
    Over,
    /// The agent was asked to end while it did not run.
    #[error("the agent did not run for seconds, and was asked to end meanwhile")]
    Ended,
    /// The agent did not run at the wrong moment.
    #[error("the agent did not run for {} s while the guard was armed: it was stopped, frozen or starved", LEASE.as_secs())]
    Slept,
}

impl From<io::Error> for NotArmed {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error.into())
    }
}

/// An armed guard. Dropped, it lets its thread end, and with it the loss.
///
/// That is for when nobody waits: the kernel frees the tables a while after they went (an RCU grace period, often more than all else that an
/// end takes), and who closes a socket before waits for that.
#[derive(Debug)]
pub struct Guard {
    keeper: Arc<Mutex<Keeper>>,
    /// Closed with the guard, which is what its thread sees.
    _held: PipeWriter,
}

/// What keeps the lease.
#[derive(Debug)]
struct Keeper {
    /// The owner of the tables.
    socket: Socket,
    ruleset: Ruleset,
    limit: Limit,
    ending: Ending,
    account: Account,
    /// When it last looked after the lease.
    looked: Moment,
    /// Whether the lease is to be renewed.
    holds: bool,
    /// Whether the tables are there.
    tables: bool,
    /// When the lease ran out, of an agent that did not run.
    expired: Option<Moment>,
}

/// What a keeper does about its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Renews it, for this long.
    Renew(Duration),
    /// Ends it: nothing is left of the time of the loss.
    Over,
    /// Ends it: the agent did not run for as long as the lease lasted. Whoever looked since has seen no loss, and may have said so.
    Expired,
}

/// Decides at `now` about a lease that was renewed last for `lease`, by a keeper that last ran at `looked`, with `remaining` until the end of
/// the loss.
///
/// Time counts as on `CLOCK_BOOTTIME`, on which a suspended machine sleeps too, while the kernel counts timeouts in jiffies: a lease never
/// ends later by this than in the kernel.
fn next(lease: Duration, looked: Moment, now: Moment, remaining: Duration) -> Next {
    if remaining.is_zero() {
        Next::Over
    } else if now.since(looked) >= lease {
        Next::Expired
    } else {
        Next::Renew(remaining.min(LEASE))
    }
}

/// How well the lease was kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Time for which packets were lost, up to the last renewal.
    pub armed: Duration,
    /// How often the lease ran out before it was renewed.
    pub lapses: u32,
    /// Why the last renewal failed, if it did.
    pub trouble: Option<String>,
    last: Option<(Moment, Duration)>,
}

impl Account {
    /// A renewal at `now`, for `lease`.
    fn renewed(&mut self, now: Moment, lease: Duration) {
        self.settle(now);
        self.last = Some((now, lease));
        self.trouble = None;
    }

    /// The end, at `now`. A shortened lease that ran out by then is no lapse: it was not to reach further.
    fn ended(&mut self, now: Moment) {
        let lapses = self.lapses;
        self.settle(now);
        if self.last.take().is_some_and(|(_, lease)| lease < LEASE) {
            self.lapses = lapses;
        }
    }

    /// Both, one after the other.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self { armed: self.armed + later.armed, lapses: self.lapses + later.lapses, ..later }
    }

    fn settle(&mut self, now: Moment) {
        if let Some((then, lease)) = self.last {
            let since = now.since(then);
            self.armed += since.min(lease);
            self.lapses += u32::from(since > lease);
        }
    }
}

impl Guard {
    /// Arms the tables, which are those of `socket`, then keeps them armed until the end. `begun`: when this agent began with it.
    ///
    /// # Errors
    /// Where the kernel refuses the first lease, it comes too late, or there is no thread to be had. Tables that have no owner are left to
    /// others then.
    pub fn arm(mut socket: Socket, ruleset: Ruleset, limit: Limit, ending: Ending, begun: Moment) -> Result<Self, NotArmed> {
        let remaining = || Some(limit.remaining().min(LEASE)).filter(|lease| !lease.is_zero()).ok_or(NotArmed::Over);
        socket.transact(ruleset.preparation(remaining()?))?;
        if ending.came_in_sleep_since(begun) {
            return Err(NotArmed::Ended);
        }
        let (now, lease) = (Moment::now(), remaining()?);
        socket.transact(ruleset.renewal(Element::Ready, lease)).map_err(|error| match error.errno() {
            Some(Errno::ENOENT) => NotArmed::Slept,
            _ => error.into(),
        })?;
        let mut account = Account::default();
        account.renewed(now, lease);
        let keeper = Keeper { socket, ruleset, limit, ending, account, looked: now, holds: true, tables: true, expired: None };
        let keeper = Arc::new(Mutex::new(keeper));
        let (dropped, held) = io::pipe()?;
        thread::Builder::new().name("lease".to_owned()).stack_size(128 * 1024).spawn({
            let keeper = Arc::clone(&keeper);
            move || keep(&keeper, &dropped)
        })?;
        Ok(Self { keeper, _held: held })
    }

    /// How well the lease has been kept so far.
    #[must_use]
    pub fn account(&self) -> Account {
        lock(&self.keeper).account.clone()
    }

    /// When the lease ran out because the agent did not run, if it did. It is not renewed any more then.
    #[must_use]
    pub fn expired(&self) -> Option<Moment> {
        lock(&self.keeper).expired
    }

    /// Empties the lease: nothing is lost from here on. The tables stay, with what they have counted.
    pub fn disarm(&self) {
        lock(&self.keeper).release();
    }

    /// Takes the tables away.
    pub fn remove(&self) {
        lock(&self.keeper).remove();
    }
}

impl Keeper {
    /// What to do about the lease at `now`.
    fn next(&self, now: Moment) -> Next {
        let lease = self.account.last.map_or(LEASE, |(_, lease)| lease);
        next(lease, self.looked, now, self.limit.remaining())
    }

    /// Until it has to look after the lease again.
    fn pause(&self) -> Duration {
        self.limit.remaining().min(RENEWAL)
    }

    /// Looks after the lease. Whether it has to do so again.
    fn look_after(&mut self) -> bool {
        let now = Moment::now();
        match self.next(now) {
            _ if !self.holds => {}
            Next::Renew(lease) => match self.socket.transact(self.ruleset.renewal(Element::Armed, lease)) {
                Ok(()) => {
                    self.account.renewed(now, lease);
                    self.looked = now;
                }
                // It was stopped between the decision and the kernel's answer.
                Err(_) if self.next(Moment::now()) == Next::Expired => self.release(),
                Err(error) => {
                    self.account.trouble = Some(error.to_string());
                    self.looked = now;
                }
            },
            Next::Over | Next::Expired => self.release(),
        }
        self.holds
    }

    /// Empties the lease, once. Whoever asks for that: a lease that has run out before, of an agent that did not run, has run out.
    fn release(&mut self) {
        if !self.holds {
            return;
        }
        self.holds = false;
        let now = Moment::now();
        if self.next(now) == Next::Expired {
            self.expired = self.account.last.map(|(renewed, lease)| renewed.after(lease));
        }
        if let Err(error) = self.socket.transact(self.ruleset.release()) {
            tracing::warn!(%error, "the lease was not emptied, and runs out");
        }
        self.account.ended(now);
    }

    /// Takes the tables away, once.
    fn remove(&mut self) {
        self.release();
        if !std::mem::take(&mut self.tables) {
            return;
        }
        if let Err(error) = self.socket.transact(self.ruleset.removal()) {
            tracing::warn!(%error, "the tables were not taken away, and go with their socket or their lease");
        }
    }
}

fn lock(keeper: &Mutex<Keeper>) -> std::sync::MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews until the loss is to end, nothing is left to renew for, or the guard is `dropped`. The tables stay until that.
fn keep(keeper: &Mutex<Keeper>, dropped: &PipeReader) {
    let ending = lock(keeper).ending.clone();
    loop {
        let pause = lock(keeper).pause();
        let paused = Moment::now();
        // Who slept hears first what was asked of it meanwhile.
        if ending.wait(Some(dropped.as_fd()), pause) || ending.came_in_sleep_since(paused) || !lock(keeper).look_after() {
            break;
        }
    }
    lock(keeper).release();
    // Nothing is ever written: reading ends when the other end is closed.
    drop(io::Read::read(&mut &*dropped, &mut [0]));
    lock(keeper).remove();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Moment {
        Moment::at(Duration::from_secs(seconds))
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn renews_while_the_lease_lasts_and_never_after() {
        assert_eq!(next(LEASE, at(100), at(102), HOUR), Next::Renew(LEASE));
        assert_eq!(next(LEASE, at(100), at(109), HOUR), Next::Renew(LEASE));
        assert_eq!(next(LEASE, at(100), at(110), HOUR), Next::Expired);
        assert_eq!(next(LEASE, at(100), at(100_000), HOUR), Next::Expired);
    }

    #[test]
    fn a_lease_reaches_to_the_end_at_most() {
        assert_eq!(next(LEASE, at(100), at(102), Duration::from_secs(3)), Next::Renew(Duration::from_secs(3)));
        assert_eq!(next(LEASE, at(100), at(102), Duration::ZERO), Next::Over);
        // What sleeps past its end has ended by its time.
        assert_eq!(next(LEASE, at(100), at(200), Duration::ZERO), Next::Over);
    }

    /// A clock that is set back lengthens the time until a deadline, and brings no lease back that was cut short by it.
    #[test]
    fn a_short_lease_that_ran_out_is_not_renewed() {
        assert_eq!(next(Duration::from_secs(1), at(100), at(101), HOUR), Next::Expired);
    }

    proptest! {
        /// A keeper as the kernel sees it, which runs at any moments: a lease that has run out once never comes back, and none outlives the loss.
        #[test]
        fn a_sleeper_never_resumes(sleeps in proptest::collection::vec(0..20_000_u64, 1..60), ttl in 1..300_u64) {
            let millis = |millis| Moment::at(Duration::from_millis(millis));
            let remaining = |now: u64| Duration::from_millis((ttl * 1000).saturating_sub(now));
            let (mut now, mut looked) = (0, 0);
            let mut lease = remaining(0).min(LEASE);
            let mut gone = false;
            for sleep in sleeps {
                now += sleep;
                gone |= now - looked >= u64::try_from(lease.as_millis()).unwrap();
                match next(lease, millis(looked), millis(now), remaining(now)) {
                    Next::Renew(renewed) => {
                        prop_assert!(!gone, "renewed at {now} what was last renewed at {looked} for {lease:?}");
                        prop_assert!(renewed <= LEASE && renewed <= remaining(now) && !renewed.is_zero());
                        (looked, lease) = (now, renewed);
                    }
                    Next::Over => prop_assert!(now >= ttl * 1000),
                    Next::Expired => {
                        prop_assert!(gone && now < ttl * 1000);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn time_without_a_lease_is_not_armed_and_counts_as_a_lapse() {
        let mut account = Account::default();
        account.renewed(at(100), LEASE);
        account.renewed(at(102), LEASE);
        assert_eq!((account.armed.as_secs(), account.lapses), (2, 0));
        account.renewed(at(122), LEASE);
        assert_eq!((account.armed.as_secs(), account.lapses), (12, 1));
    }

    #[test]
    fn the_last_lease_runs_out_at_the_end_and_that_is_no_lapse() {
        let mut account = Account::default();
        account.renewed(at(100), Duration::from_secs(3));
        account.ended(at(104));
        assert_eq!((account.armed.as_secs(), account.lapses), (3, 0));
    }

    #[test]
    fn a_lease_that_ran_out_long_before_the_end_is_one() {
        let mut account = Account::default();
        account.renewed(at(100), LEASE);
        account.ended(at(200));
        assert_eq!((account.armed.as_secs(), account.lapses), (10, 1));
    }
}
