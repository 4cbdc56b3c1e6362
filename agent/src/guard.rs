//! Keeps the guard armed, from a thread of its own.
//!
//! The thread renews the lease over the nfnetlink socket that owns the tables, and does nothing else: it waits for no rtnetlink
//! request (whose lock is the whole node's), no report and no runtime. When it stops, for whatever reason, the kernel ends the loss:
//! at once where the process died and the kernel knows owners, otherwise when the lease runs out. A lease never reaches past the end
//! of the loss, so the end is the kernel's business too.

use crate::{
    clock::{Limit, Moment},
    nft::{Error, Ruleset, Socket},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long packets are lost after the last renewal. Longer than a starved container's pauses, short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(10);

/// Between two renewals: several may fail or come late before the lease runs out.
pub const RENEWAL: Duration = Duration::from_secs(2);

/// An armed guard. Dropped, it lets its thread end, and with it the loss.
#[derive(Debug)]
pub struct Guard {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Result<(), Error>>,
    account: Arc<Mutex<Account>>,
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
    /// Makes the tables and arms them, then keeps them armed until the end.
    ///
    /// # Errors
    /// Where the kernel refuses the tables or the first lease; nothing of them is there then.
    pub fn arm(mut socket: Socket, ruleset: Ruleset, limit: Limit) -> Result<Self, Error> {
        let (now, lease) = (Moment::now(), limit.remaining().min(LEASE));
        let (mut messages, mut renewal) = (ruleset.creation(), ruleset.renewal(lease));
        messages.append(&mut renewal);
        socket.transact(messages)?;
        let mut account = Account::default();
        account.renewed(now, lease);
        let account = Arc::new(Mutex::new(account));
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("lease".to_owned()).stack_size(128 * 1024).spawn({
            let account = Arc::clone(&account);
            move || keep(socket, &ruleset, limit, &account, &stopped)
        })?;
        Ok(Self { stop, thread, account })
    }

    /// How well the lease has been kept so far.
    #[must_use]
    pub fn account(&self) -> Account {
        lock(&self.account).clone()
    }

    /// Takes the tables away: nothing is lost from here on. Returns how the lease was kept, and whether the tables went; where they did
    /// not, they go with the socket or the lease.
    pub fn disarm(self) -> (Account, Result<(), Error>) {
        drop(self.stop);
        let ended = self.thread.join().unwrap_or(Err(Error::ConnectionLost));
        let account = lock(&self.account).clone();
        (account, ended)
    }
}

fn lock(account: &Mutex<Account>) -> std::sync::MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews until it is told to stop, or nothing is left to renew for.
fn keep(mut socket: Socket, ruleset: &Ruleset, limit: Limit, account: &Mutex<Account>, stopped: &mpsc::Receiver<()>) -> Result<(), Error> {
    while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
        let (now, lease) = (Moment::now(), limit.remaining().min(LEASE));
        if lease.is_zero() {
            break;
        }
        let renewed = socket.transact(ruleset.renewal(lease));
        let mut account = lock(account);
        match renewed {
            Ok(()) => account.renewed(now, lease),
            Err(error) => account.trouble = Some(error.to_string()),
        }
    }
    let now = Moment::now();
    let ended = socket.transact(ruleset.removal());
    lock(account).ended(now);
    ended
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
