//! Keeps the guard armed, from a thread of its own.
//!
//! The thread renews the lease over the nfnetlink socket that owns the tables, and does nothing else: it waits for no rtnetlink
//! request (whose lock is the whole node's), no report and no runtime, and for the rest of the agent only while that ends the loss.
//! When it stops, for whatever reason, the kernel ends the loss: at once where the process died and the kernel knows owners, otherwise
//! when the lease runs out. A lease never reaches past the end of the loss, so the end is the kernel's business too.

use crate::{
    clock::{Limit, Moment},
    nft::{Error, Ruleset, Socket},
};
use netloss_contract::PerDirection;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// How long packets are lost after the last renewal. Longer than a starved container's pauses, short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(10);

/// Between two renewals: several may fail or come late before the lease runs out.
pub const RENEWAL: Duration = Duration::from_secs(2);

/// An armed guard. Dropped, it lets its thread end, and with it the loss.
///
/// That is for when nobody waits: the kernel frees the tables a while after they went (an RCU grace period, often more than all else that an
/// end takes), and who closes a socket before waits for that.
#[derive(Debug)]
pub struct Guard {
    keeper: Arc<Mutex<Keeper>>,
    /// Dropped with the guard, which is what its thread waits for.
    _stop: mpsc::Sender<()>,
}

/// What keeps the lease.
#[derive(Debug)]
struct Keeper {
    /// The owner of the tables.
    socket: Socket,
    ruleset: Ruleset,
    limit: Limit,
    account: Account,
    ended: bool,
    /// What the rules had counted when the tables were taken away.
    counted: Option<PerDirection<u64>>,
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
    /// Arms the tables, which are those of `socket`, then keeps them armed until the end.
    ///
    /// # Errors
    /// Where the kernel refuses the first lease, or there is no thread to be had. Tables that have no owner are left to others then.
    pub fn arm(socket: Socket, ruleset: Ruleset, limit: Limit) -> Result<Self, Error> {
        let mut keeper = Keeper { socket, ruleset, limit, account: Account::default(), ended: false, counted: None };
        keeper.lease(keeper.remaining())?;
        let keeper = Arc::new(Mutex::new(keeper));
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new().name("lease".to_owned()).stack_size(128 * 1024).spawn({
            let keeper = Arc::clone(&keeper);
            move || keep(&keeper, &stopped)
        })?;
        Ok(Self { keeper, _stop: stop })
    }

    /// How well the lease has been kept so far.
    #[must_use]
    pub fn account(&self) -> Account {
        lock(&self.keeper).account.clone()
    }

    /// What the rules had counted when the tables were taken away; none before that, or where it could not be read.
    #[must_use]
    pub fn counted_at_end(&self) -> Option<PerDirection<u64>> {
        lock(&self.keeper).counted
    }

    /// Takes the tables away: nothing is lost from here on.
    pub fn disarm(&self) {
        lock(&self.keeper).end();
    }
}

impl Keeper {
    /// For how long the next lease is to be.
    fn remaining(&self) -> Duration {
        self.limit.remaining().min(LEASE)
    }

    fn lease(&mut self, lease: Duration) -> Result<(), Error> {
        let now = Moment::now();
        self.socket.transact(self.ruleset.renewal(lease))?;
        self.account.renewed(now, lease);
        Ok(())
    }

    /// Renews the lease, unless nothing is left to renew it for. Whether there was.
    fn renew(&mut self) -> bool {
        let lease = self.remaining();
        if self.ended || lease.is_zero() {
            return false;
        }
        if let Err(error) = self.lease(lease) {
            self.account.trouble = Some(error.to_string());
        }
        true
    }

    /// Takes the tables away, once: first the lease, so that no packet meets the loss any more, then their counters are read, which go with them.
    fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        let now = Moment::now();
        let counted = self.socket.transact(self.ruleset.expiry()).and_then(|()| self.socket.counted(&self.ruleset));
        self.counted = counted.inspect_err(|error| tracing::warn!(%error, "the guard's counters cannot be read before they go")).ok();
        if let Err(error) = self.socket.transact(self.ruleset.removal()) {
            tracing::warn!(%error, "the tables were not taken away, and go with their socket or their lease");
        }
        self.account.ended(now);
    }
}

fn lock(keeper: &Mutex<Keeper>) -> std::sync::MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews until it is told to stop, or nothing is left to renew for.
fn keep(keeper: &Mutex<Keeper>, stopped: &mpsc::Receiver<()>) {
    while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) && lock(keeper).renew() {}
    lock(keeper).end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::at(Duration::from_secs(seconds))
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
