//! Keeps the guard armed, from a thread of its own.
//!
//! The thread renews the lease over the nfnetlink socket that owns the tables, and does nothing else: it waits for no rtnetlink
//! request (whose lock is the whole node's), no report and no runtime. It ends the loss itself where a signal or a request for the end comes, so
//! that the loss does not wait for the rest of the agent either.
//! When it stops, for whatever reason, the kernel ends the loss: at once where the process died and the kernel knows owners, otherwise
//! when the lease runs out.
//!
//! An agent may be stopped, frozen or starved for any time and at any point, also between a decision and its message to the kernel. What has
//! run out by then stays so: a renewal is a transaction that the kernel refuses once the lease has expired, and the first one is refused once
//! the guard was not armed within the time of a lease from when its tables were made ([`Armable`]). So whoever sees tables without a live element
//! knows that they lose no packet any more. Only a renewal that the kernel has taken counts: one that fails prolongs nothing.
//!
//! A lease never reaches past the end of the loss, so the end is the kernel's business too. Its timeouts begin when the kernel takes them, so a renewal
//! that was decided in time could be taken late, and the lease last as much longer. Far from the end that does no harm, as a renewal is taken while
//! the last lease lasts or not at all. Near it each renewal needs a ticket, an element that expires at once ([`TICKET`]), and the lease is shorter
//! by that.

use crate::{
    clock::{Expiry, Moment},
    ending::Ending,
    nft::{self, Element, Message, Ruleset, SHORTEST_LEASE, Socket},
};
use nix::errno::Errno;
use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// How long packets are lost after the last renewal. A judgement between two errors: a shorter lease expires in a container that the CPU quota pauses
/// (100 ms periods, several in a row), a longer one keeps the loss of an agent that hangs. The documents are compared with it (agent/tests/documents.rs).
pub const LEASE: Duration = Duration::from_secs(10);

/// Between two renewals: a fifth of [`LEASE`], so that four in a row may fail or come late before the lease runs out.
pub const RENEWAL: Duration = Duration::from_secs(2);

/// Near the end, how long after it was decided a renewal may be taken. Many times what it takes, and too short to miss at the end of the loss,
/// which is that much earlier where nobody ends it.
pub const TICKET: Duration = Duration::from_millis(50);

/// How often a renewal that came too late for its ticket is tried at once: where the processor is shared with many, some do. With [`TICKET`] that is one
/// second at most, half of [`RENEWAL`], so that the next renewal is not late for it.
const TICKETS: u32 = 20;

/// How often the end of a loss is tried at once where the kernel did not take it for a reason that may pass, such as a lack of memory. With
/// [`END_PAUSE`] that takes 40 ms. A judgement: the lease ends the loss in any case, so more attempts only delay the report.
const END_ATTEMPTS: u32 = 3;

/// The pause before each further one. Whoever waits for the end waits for that too.
const END_PAUSE: Duration = Duration::from_millis(20);

/// Why a guard was not armed.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The kernel refuses it, or there is no thread to be had.
    #[error(transparent)]
    Kernel(#[from] nft::Error),
    /// Nothing is left of the time of the loss.
    #[error("its time ended before the loss was in place")]
    Over,
    /// The agent did not run at the wrong moment.
    #[error(
        "the guard was not armed within {} s: the agent was stopped, frozen or starved, or the kernel did not answer for so long",
        LEASE.as_secs()
    )]
    Slept,
}

impl From<io::Error> for ArmError {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error.into())
    }
}

impl From<NotRenewed> for ArmError {
    fn from(error: NotRenewed) -> Self {
        match error {
            NotRenewed::Kernel(error) => Self::Kernel(error),
            NotRenewed::Gone | NotRenewed::Late => Self::Slept,
        }
    }
}

/// Why the kernel did not take a renewal.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    /// What was to be renewed is not there any more.
    #[error("the lease has expired, or somebody took it away")]
    Gone,
    /// Each attempt came too late.
    #[error("each renewal reached the kernel more than {} ms after it was decided: the agent hardly runs", TICKET.as_millis())]
    Late,
    /// For another reason.
    #[error(transparent)]
    Kernel(nft::Error),
}

impl From<nft::Error> for NotRenewed {
    fn from(error: nft::Error) -> Self {
        if error.errno() == Some(Errno::ENOENT) { Self::Gone } else { Self::Kernel(error) }
    }
}

/// Where transactions go: the owner of the tables.
trait Tables {
    fn transact(&mut self, messages: Vec<Message>) -> Result<(), nft::Error>;
}

impl Tables for Socket {
    fn transact(&mut self, messages: Vec<Message>) -> Result<(), nft::Error> {
        Self::transact(self, messages)
    }
}

/// Tables that lose no packet, and may be armed for as long as their element [`Element::Ready`] lives: a lease from when they were made, or kept.
#[derive(Debug)]
pub struct Armable {
    socket: Socket,
    ruleset: Ruleset,
    /// Before they were made or kept last.
    kept: Moment,
}

impl Armable {
    /// Those of `socket`, which were made after `made`.
    #[must_use]
    pub fn new(socket: Socket, ruleset: Ruleset, made: Moment) -> Self {
        Self { socket, ruleset, kept: made }
    }

    /// Lets them be armed for as long again, where that is worth a transaction.
    ///
    /// # Errors
    /// Where they cannot be armed any more, or the kernel refuses it otherwise.
    pub fn keep(&mut self) -> Result<(), ArmError> {
        let now = Moment::now();
        if now.since(self.kept) >= RENEWAL {
            self.socket.transact(self.ruleset.replacement(Element::Ready, Element::Ready, LEASE)).map_err(NotRenewed::from)?;
            self.kept = now;
        }
        Ok(())
    }

    /// Arms them, and keeps them armed until the end.
    ///
    /// # Errors
    /// Where the kernel refuses the first lease, it comes too late, or there is no thread to be had. Tables that have no owner are left to
    /// others then.
    pub fn arm(mut self, limit: Expiry, ending: Ending) -> Result<Guard, ArmError> {
        let (now, lease) = renew(&mut self.socket, &self.ruleset, Element::Ready, &limit)?.ok_or(ArmError::Over)?;
        let mut account = Account::default();
        account.renewed(now, lease);
        let Self { socket, ruleset, .. } = self;
        let keeper = Keeper { socket: Some(socket), ruleset, limit, account, holds: true, tables: true, expired: None };
        let keeper = Arc::new(Mutex::new(keeper));
        let (dropped, held) = io::pipe()?;
        thread::Builder::new().name("lease".to_owned()).stack_size(128 * 1024).spawn({
            let keeper = Arc::clone(&keeper);
            move || keep(&keeper, &ending, &dropped)
        })?;
        Ok(Guard { keeper, _held: held })
    }
}

/// Puts a lease in the place of an element, so that it does not reach past the end of the loss. Returns a moment before it began, and how long it
/// is; none where too little is left of the loss for another.
fn renew(tables: &mut impl Tables, ruleset: &Ruleset, old: Element, limit: &Expiry) -> Result<Option<(Moment, Duration)>, NotRenewed> {
    for _ in 0..TICKETS {
        let now = Moment::now();
        if is_far(limit.remaining()) {
            tables.transact(ruleset.replacement(old, Element::Armed, LEASE))?;
            return Ok(Some((now, LEASE)));
        }
        tables.transact(ruleset.ticket(TICKET))?;
        let now = Moment::now();
        let Some(lease) = last_lease(limit.remaining()) else { return Ok(None) };
        match tables.transact(ruleset.renewal_in_time(old, lease)).map_err(NotRenewed::from) {
            Ok(()) => return Ok(Some((now, lease))),
            // The ticket, or what is renewed.
            Err(NotRenewed::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NotRenewed::Late)
}

/// Whether a lease that is decided now ends in time, whenever the kernel takes it: that is before the last one has expired, which lasts no longer
/// from now than a whole lease.
fn is_far(remaining: Duration) -> bool {
    remaining >= 2 * LEASE
}

/// A lease that ends in time where its ticket was made before it was decided; none where it would be too short.
fn last_lease(remaining: Duration) -> Option<Duration> {
    remaining.checked_sub(TICKET).filter(|lease| *lease >= SHORTEST_LEASE).map(|lease| lease.min(LEASE))
}

/// An armed guard. Dropped, it lets its thread end, and with it the loss.
///
/// That is for when nobody waits: the kernel frees the tables a while after they went (an RCU grace period, often more than all else that an
/// end takes), and who closes a socket before waits for that.
#[derive(Debug)]
pub struct Guard {
    keeper: Arc<Mutex<Keeper<Socket>>>,
    /// Closed with the guard, which is what its thread sees.
    _held: PipeWriter,
}

/// What keeps the lease.
#[derive(Debug)]
struct Keeper<T> {
    /// The owner of the tables; none once it was closed to end the loss.
    socket: Option<T>,
    ruleset: Ruleset,
    limit: Expiry,
    account: Account,
    /// Whether the lease is to be renewed.
    holds: bool,
    /// Whether the tables are there.
    tables: bool,
    /// When the lease ran out before the end of the loss.
    expired: Option<Moment>,
}

/// What a keeper does about its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Renews it.
    Renew,
    /// Ends it: too little is left of the time of the loss.
    Over,
    /// Ends it: it was not renewed for as long as it lasted. Whoever looked since has seen no loss, and may have said so.
    Expired,
}

/// Decides at `now` about a lease that the kernel took last after `renewed`, for `lease`, with `remaining` until the end of the loss.
///
/// Time counts as on `CLOCK_BOOTTIME`, on which a suspended machine sleeps too, while the kernel counts timeouts in jiffies: a lease never
/// ends later by this than in the kernel.
fn next(lease: Duration, renewed: Moment, now: Moment, remaining: Duration) -> Next {
    if last_lease(remaining).is_none() {
        Next::Over
    } else if now.since(renewed) >= lease {
        Next::Expired
    } else {
        Next::Renew
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

    /// The lease was found gone at `now`, before it was to run out.
    fn lapsed(&mut self, now: Moment) {
        self.settle(now);
        self.lapses += u32::from(self.last.take().is_some_and(|(then, lease)| now.since(then) <= lease));
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
    /// How well the lease has been kept so far.
    #[must_use]
    pub fn account(&self) -> Account {
        lock(&self.keeper).account.clone()
    }

    /// When the lease ran out before the end of the loss, if it did: the agent did not run, or could not renew it. It is not renewed any more then.
    #[must_use]
    pub fn expired(&self) -> Option<Moment> {
        lock(&self.keeper).expired
    }

    /// Empties the lease: nothing is lost from here on. The tables stay, with what they have counted.
    pub fn disarm(&self) {
        lock(&self.keeper).release();
    }

    /// Empties the lease as [`Self::disarm`] does, of a guard that is to be armed again: whether it had not expired by then. While that may still
    /// happen, for a lease from now, its tables have a live element.
    #[must_use]
    pub fn suspend(&self) -> bool {
        lock(&self.keeper).suspend()
    }

    /// Takes the tables away.
    pub fn remove(&self) {
        lock(&self.keeper).remove();
    }
}

impl<T: Tables> Keeper<T> {
    /// What to do about the lease at `now`.
    fn next(&self, now: Moment) -> Next {
        self.account.last.map_or(Next::Expired, |(renewed, lease)| next(lease, renewed, now, self.limit.remaining()))
    }

    /// Until it has to look after the lease again.
    fn pause(&self) -> Duration {
        self.limit.remaining().min(RENEWAL)
    }

    /// Looks after the lease. Whether it has to do so again.
    fn look_after(&mut self) -> bool {
        if !self.holds {
            return false;
        }
        if self.next(Moment::now()) != Next::Renew {
            self.release();
            return false;
        }
        let Some(socket) = &mut self.socket else { return false };
        match renew(socket, &self.ruleset, Element::Armed, &self.limit) {
            Ok(Some((now, lease))) => self.account.renewed(now, lease),
            // The lease that there is lasts until then.
            Ok(None) => {}
            Err(NotRenewed::Gone) => self.lost(),
            // It runs out unless a later one is taken.
            Err(error) => {
                self.account.trouble = Some(error.to_string());
                if self.next(Moment::now()) == Next::Expired {
                    self.release();
                }
            }
        }
        self.holds
    }

    /// The kernel has no lease any more: it ran out while the agent did not run, or somebody took it away.
    fn lost(&mut self) {
        self.holds = false;
        let now = Moment::now();
        self.expired = self.account.last.map(|(renewed, lease)| renewed.after(lease).min(now));
        self.account.lapsed(now);
    }

    /// Empties the lease, once. Whoever asks for that: a lease that has run out before has run out.
    fn release(&mut self) {
        if !self.holds {
            return;
        }
        self.holds = false;
        let now = Moment::now();
        if self.next(now) == Next::Expired {
            self.expired = self.account.last.map(|(renewed, lease)| renewed.after(lease));
        }
        if let Err(error) = self.insist(Ruleset::release) {
            tracing::warn!(%error, "the lease was not emptied, and ends with its tables or runs out");
            self.close();
        }
        self.account.ended(now);
    }

    /// See [`Guard::suspend`]. Where the kernel does not confirm that the lease was there, it counts as run out.
    fn suspend(&mut self) -> bool {
        if !self.holds || self.next(Moment::now()) != Next::Renew {
            self.release();
            return false;
        }
        let now = Moment::now();
        let Some(socket) = &mut self.socket else { return false };
        if let Err(error) = socket.transact(self.ruleset.replacement(Element::Armed, Element::Ready, LEASE)) {
            tracing::warn!(%error, "the lease was not renewed to put the loss in place again");
            self.release();
            self.expired = self.expired.or(Some(now));
            return false;
        }
        self.holds = false;
        self.account.ended(now);
        true
    }

    /// Takes the tables away, once.
    fn remove(&mut self) {
        self.release();
        if !self.tables {
            return;
        }
        match self.insist(Ruleset::removal) {
            Ok(()) => self.tables = false,
            Err(error) => {
                tracing::warn!(%error, "the tables were not taken away, and go with their socket, or lose nothing once their lease has run out");
                self.close();
            }
        }
    }

    /// Has the kernel do what ends the loss, in a few attempts.
    fn insist(&mut self, messages: impl Fn(&Ruleset) -> Vec<Message>) -> Result<(), nft::Error> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let mut attempts = 1..END_ATTEMPTS;
        loop {
            match socket.transact(messages(&self.ruleset)) {
                Err(error) if !error.is_unsupported() && attempts.next().is_some() => {
                    tracing::debug!(%error, "once more");
                    thread::sleep(END_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Closes the socket, which removes the tables that it owns: the kernel needs no memory for that. Those without an owner stay.
    fn close(&mut self) {
        if self.ruleset.owned {
            self.socket = None;
            self.tables = false;
        }
    }
}

fn lock<T>(keeper: &Mutex<Keeper<T>>) -> std::sync::MutexGuard<'_, Keeper<T>> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews until the loss is to end, nothing is left to renew for, or the guard is `dropped`. The tables stay until that.
fn keep(keeper: &Mutex<Keeper<Socket>>, ending: &Ending, dropped: &PipeReader) {
    loop {
        let pause = lock(keeper).pause();
        // Whoever slept reads first what was asked of it by then.
        if ending.wait(Some(dropped.as_fd()), pause) || ending.has_come() || !lock(keeper).look_after() {
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
        assert_eq!(next(LEASE, at(100), at(102), HOUR), Next::Renew);
        assert_eq!(next(LEASE, at(100), at(109), HOUR), Next::Renew);
        assert_eq!(next(LEASE, at(100), at(110), HOUR), Next::Expired);
        assert_eq!(next(LEASE, at(100), at(100_000), HOUR), Next::Expired);
    }

    #[test]
    fn a_lease_reaches_to_the_end_at_most() {
        assert_eq!(last_lease(Duration::from_secs(3)), Some(Duration::from_millis(2950)));
        assert_eq!(last_lease(2 * LEASE), Some(LEASE));
        assert_eq!(last_lease(TICKET), None);
        assert_eq!(next(LEASE, at(100), at(102), Duration::ZERO), Next::Over);
        // What sleeps past its end has ended by its time, and what has a moment left needs no other lease for that.
        assert_eq!(next(LEASE, at(100), at(200), Duration::ZERO), Next::Over);
        assert_eq!(next(Duration::from_secs(1), at(100), at(101), TICKET), Next::Over);
    }

    /// A clock that is set back lengthens the time until a deadline, and brings no lease back that was cut short by it.
    #[test]
    fn a_short_lease_that_ran_out_is_not_renewed() {
        assert_eq!(next(Duration::from_secs(1), at(100), at(101), HOUR), Next::Expired);
    }

    /// A keeper and the kernel in milliseconds. Between any two of its steps the agent may sleep.
    #[derive(Default)]
    struct Play {
        now: u64,
        /// Until when the kernel has each element.
        armed: u64,
        ticket: u64,
        /// Whether the lease has run out once.
        gone: bool,
    }

    impl Play {
        fn sleep(&mut self, sleep: u64) {
            self.now += sleep;
            self.gone |= self.now >= self.armed;
        }

        /// As [`renew`] does it, once. Whether the kernel took it.
        fn renew(&mut self, end: u64, sleeps: [u64; 3]) -> bool {
            let remaining = |now: u64| Duration::from_millis(end.saturating_sub(now));
            let far = is_far(remaining(self.now));
            self.sleep(sleeps[0]);
            let mut lease = LEASE;
            if !far {
                self.ticket = self.now + u64::try_from(TICKET.as_millis()).unwrap();
                self.sleep(sleeps[1]);
                let Some(last) = last_lease(remaining(self.now)) else { return false };
                lease = last;
                self.sleep(sleeps[2]);
            }
            if self.now >= self.armed || !far && self.now >= self.ticket {
                return false;
            }
            self.armed = self.now + u64::try_from(lease.as_millis()).unwrap();
            true
        }
    }

    proptest! {
        /// However long it sleeps, and wherever: a lease that has run out once never comes back, and none outlives the loss.
        #[test]
        fn a_sleeper_never_resumes(
            rounds in proptest::collection::vec((0..4_000_u64, [0..12_000_u64, 0..100, 0..100]), 1..60),
            ttl in 1..60_u64,
        ) {
            let end = ttl * 1000;
            let mut play = Play { armed: 10_000, ..Play::default() };
            // As it is armed: with a ticket, where the end is near.
            play.renew(end, [0; 3]);
            prop_assert!(play.armed <= end);
            let (mut renewed, mut lease) = (0, play.armed);
            for (pause, sleeps) in rounds {
                play.sleep(pause);
                let remaining = Duration::from_millis(end.saturating_sub(play.now));
                match next(Duration::from_millis(lease), at_ms(renewed), at_ms(play.now), remaining) {
                    Next::Renew => {
                        if play.renew(end, sleeps) {
                            prop_assert!(!play.gone, "renewed at {} what had run out", play.now);
                            prop_assert!(play.armed <= end, "at {} until {}, past {end}", play.now, play.armed);
                            (renewed, lease) = (play.now, play.armed - play.now);
                        }
                    }
                    Next::Over => prop_assert!(play.now + 70 >= end),
                    Next::Expired => {
                        prop_assert!(play.gone && play.now < end);
                        break;
                    }
                }
            }
        }
    }

    fn at_ms(milliseconds: u64) -> Moment {
        Moment::at(Duration::from_millis(milliseconds))
    }

    /// Tables that take no transaction, for this reason; or not the first few of them.
    struct Refusing(Errno, Arc<Mutex<u32>>, Option<u32>);

    impl Tables for Refusing {
        fn transact(&mut self, _: Vec<Message>) -> Result<(), nft::Error> {
            let mut asked = self.1.lock().unwrap();
            *asked += 1;
            if self.2.is_some_and(|first| *asked > first) { Ok(()) } else { Err(nft::Error::Kernel { errno: self.0, words: None }) }
        }
    }

    fn asked(keeper: &Keeper<Refusing>) -> u32 {
        keeper.socket.as_ref().map_or(0, |socket| *socket.1.lock().unwrap())
    }

    /// A keeper whose lease was taken that long ago, and will not be renewed.
    fn refused(errno: Errno, ago: Duration, remaining: Duration) -> Keeper<Refusing> {
        let ruleset =
            Ruleset { owned: true, interface: "eth0".to_owned(), ingress: Some(7), egress: None, ends: nft::PeerFilter::default() };
        let limit = Expiry::new(Moment::now(), "1h".parse().unwrap(), Some(jiff::Timestamp::now() + remaining));
        let now = Moment::now().since(Moment::at(Duration::ZERO));
        let mut account = Account::default();
        account.renewed(Moment::at(now.saturating_sub(ago)), LEASE);
        let socket = Some(Refusing(errno, Arc::default(), None));
        Keeper { socket, ruleset, limit, account, holds: true, tables: true, expired: None }
    }

    /// Where the kernel takes no transaction, closing the socket of owned tables is the way that is left. Otherwise their rules would lead packets to an ifb that is
    /// removed next.
    #[test]
    fn tables_that_the_kernel_does_not_disarm_go_with_their_socket() {
        for errno in [Errno::ENOMEM, Errno::ENOBUFS, Errno::EPERM] {
            let mut keeper = refused(errno, Duration::from_secs(1), HOUR);
            keeper.release();
            assert!(keeper.socket.is_none() && !keeper.tables && !keeper.holds, "{errno}");
            assert!(!keeper.look_after() && !keeper.suspend());
            keeper.remove();

            let mut keeper = refused(errno, Duration::from_secs(1), HOUR);
            keeper.holds = false;
            keeper.remove();
            assert!(keeper.socket.is_none() && !keeper.tables, "{errno}");
        }
    }

    /// Nothing but a transaction takes away tables without an owner: it may work later.
    #[test]
    fn tables_without_an_owner_are_tried_again() {
        let mut keeper = refused(Errno::ENOMEM, Duration::from_secs(1), HOUR);
        keeper.ruleset.owned = false;
        keeper.remove();
        assert!(keeper.socket.is_some() && keeper.tables && asked(&keeper) == 2 * END_ATTEMPTS);
        keeper.remove();
        assert_eq!(asked(&keeper), 3 * END_ATTEMPTS, "the lease is emptied once");
    }

    #[test]
    fn a_failure_that_passes_keeps_the_counters() {
        let mut keeper = refused(Errno::ENOBUFS, Duration::from_secs(1), HOUR);
        keeper.socket = Some(Refusing(Errno::ENOBUFS, Arc::default(), Some(1)));
        keeper.release();
        assert!(keeper.socket.is_some() && keeper.tables && asked(&keeper) == 2);
        keeper.remove();
        assert!(keeper.socket.is_some() && !keeper.tables && asked(&keeper) == 3);
    }

    /// A renewal that the kernel does not take prolongs nothing, however often it is tried.
    #[test]
    fn renewals_that_fail_do_not_keep_a_lease() {
        for remaining in [HOUR, Duration::from_secs(15)] {
            let mut keeper = refused(Errno::EBUSY, Duration::from_secs(9), remaining);
            assert!(keeper.look_after() && keeper.account.trouble.is_some() && keeper.expired.is_none());
            keeper.account.last = keeper.account.last.map(|(then, _)| (then, Duration::from_secs(8)));
            assert!(!keeper.look_after(), "it had run out, by the last renewal that was taken");
            assert!(keeper.expired.is_some());
            let before = asked(&keeper);
            assert!(!keeper.look_after() && !keeper.suspend());
            assert_eq!(asked(&keeper), before, "nothing more is asked of the kernel");
        }
    }

    /// The kernel knows better: somebody took the tables away, or the element.
    #[test]
    fn a_lease_that_the_kernel_has_not_is_not_asked_for_again() {
        for remaining in [HOUR, Duration::from_secs(15)] {
            let mut keeper = refused(Errno::ENOENT, Duration::from_secs(1), remaining);
            assert!(!keeper.look_after());
            assert!(keeper.expired.is_some_and(|expired| expired <= Moment::now()));
            assert_eq!(keeper.account.lapses, 1);
        }
    }

    /// Only the kernel's word that the lease was there lets the loss be put in place again.
    #[test]
    fn without_the_kernels_word_nothing_is_armed_again() {
        for errno in [Errno::ENOENT, Errno::EBUSY] {
            let mut keeper = refused(errno, Duration::from_secs(1), HOUR);
            assert!(!keeper.suspend());
            assert!(keeper.expired.is_some() && !keeper.holds);
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
