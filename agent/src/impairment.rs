//! The loss in its place: chosen, brought, watched and taken away, whichever backend it is.

use crate::{
    apply::{Kernel, StepFailed},
    backend::{
        self, Refusal, Step, Target, Unmarked,
        guarded::{self, Variant},
        tc,
    },
    clock::{Expiry, Moment},
    ending::Ending,
    guard::{Account, ArmError, Armable, Guard, LEASE},
    marks,
    netlink::{self, Changes, Qdisc},
    nft::{self, EgressHook, PeerFilter, Ruleset, Socket},
    snapshot::Snapshot,
};
use netloss_contract::{Backend, BackendChoice, PerDirection};
use std::time::Duration;

/// What is going to be done. Nothing has been changed yet, but for what [`Trial::Creation`] makes.
#[derive(Debug)]
pub struct Plan {
    target: Target,
    steps: Vec<Step>,
    guard: Option<Probed>,
    reason: String,
}

/// What a guard needs, as the kernel has taken it.
#[derive(Debug)]
pub struct Probed {
    /// The owner of the tables, where they were made.
    socket: Socket,
    /// What they are like.
    pub variant: Variant,
    /// Before they were made.
    made: Moment,
}

/// What keeps an agent from putting a loss in place.
#[derive(Debug)]
pub struct Terms<'a> {
    /// That it is to end.
    pub ending: &'a Ending,
    /// Since when it has been at it. One that is asked to end soon after that does so when the loss is in place, with the report of it; nobody has
    /// given it up by then. Without that, at once.
    pub begun: Option<Moment>,
    /// From when on it may not any more.
    pub until: Option<Moment>,
}

/// Nobody has given up an agent that began less than this ago: a client waits for an answer for one second longer
/// ([`crate::control::ANSWER_LIMIT`]).
const SOON: Duration = Duration::from_secs(4);

impl Terms<'_> {
    fn allow(&self) -> Result<(), ApplyError> {
        let now = Moment::now();
        if self.begun.is_none_or(|begun| now.since(begun) >= SOON) && self.ending.has_come() {
            return Err(ApplyError::Ended);
        }
        if self.until.is_some_and(|until| now >= until) {
            return Err(ArmError::Slept.into());
        }
        Ok(())
    }
}

/// How the kernel is asked whether it takes the tables of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// By a transaction that it checks and drops, which takes it an RCU grace period.
    Rehearsal,
    /// By making them, ready to be armed for the time of a lease: they lose no packet, and go with their socket, or are taken away by
    /// [`Kernel::remove`] where they have no owner.
    Creation,
}

/// Why nothing is going to be done.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// For safety.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The guard was asked for, and the kernel cannot do it.
    #[error(
        "--backend guarded does not work here ({0}): ask for --backend tc, whose loss stays when the agent is killed, or use another node"
    )]
    NoGuard(String),
    /// Filters were asked for, which are the guard's, and the kernel cannot do it.
    #[error(
        "filters need the guarded backend, which does not work here ({0}): leave --target and the --spare arguments out, or use another node"
    )]
    NoFilters(String),
    /// Single segments were asked for, which the guard's qdiscs make, and the kernel cannot do it.
    #[error("--per-segment needs the guarded backend, which does not work here ({0}): leave it out, or use another node")]
    NoSegments(String),
    /// The kernel can do it, and did not now.
    #[error("cannot create the guard: {0}; the loss was not put in place without it: try again")]
    GuardFailed(NoGuard),
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum NoGuard {
    /// The kernel supports no variant: each with the reason.
    #[error("{0}")]
    Unsupported(String),
    /// The kernel may support this one: it failed twice for another reason, which may pass, such as a lack of memory.
    #[error("{}: {error}", .variant.describe())]
    Failed {
        /// The variant.
        variant: Variant,
        /// The second failure.
        error: nft::Error,
    },
}

impl From<ArmError> for ApplyError {
    fn from(error: ArmError) -> Self {
        match error {
            ArmError::Over => Self::Over,
            ArmError::Kernel(_) | ArmError::Slept => Self::Guard(error),
        }
    }
}

/// Why the loss could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel did not take a step.
    #[error(transparent)]
    Step(#[from] StepFailed),
    /// The kernel did not take the guard.
    #[error("cannot arm the guard: {0}")]
    Guard(ArmError),
    /// Nothing was left of the time of the loss.
    #[error("its time ended while the loss was put in place")]
    Over,
    /// The agent was asked to end.
    #[error("the agent was asked to end while it put the loss in place")]
    Ended,
    /// The kernel's state could not be read back.
    #[error("cannot read the kernel's state: {0}")]
    Unreadable(netlink::Error),
    /// The kernel took the seed and has none.
    #[error("this kernel's netem knows no seed (Linux 6.7): leave --seed out, or use another node")]
    NoSeed,
    /// What was read back is something else.
    #[error("what the kernel shows is not what was set: {}", .0.join("; "))]
    Different(Vec<String>),
}

impl Plan {
    /// Chooses a backend, by asking the kernel what it would do.
    ///
    /// # Errors
    /// If something that belongs to others is in the way, or the request does not work here. Nothing has been changed then, with one exception: a guard that
    /// failed may leave tables without an owner. They lose no packet, and [`Kernel::remove`] removes them.
    pub fn make(choice: BackendChoice, before: &Snapshot, target: Target, trial: Trial) -> Result<Self, NoPlan> {
        // Whatever is in the way of this one is in the way of the other too.
        let guarded = guarded::application(before, &target)?;
        let (guard, reason) = match choice {
            BackendChoice::Tc => (None, "asked for with --backend tc".to_owned()),
            BackendChoice::Auto | BackendChoice::Guarded => match probe(&target, trial) {
                Ok(probed) => {
                    let reason = format!("works here: {}", probed.variant.describe());
                    (Some(probed), reason)
                }
                Err(failed @ NoGuard::Failed { .. }) => return Err(NoPlan::GuardFailed(failed)),
                Err(NoGuard::Unsupported(why)) if choice == BackendChoice::Guarded => return Err(NoPlan::NoGuard(why)),
                Err(NoGuard::Unsupported(why)) if target.ends != PeerFilter::default() => return Err(NoPlan::NoFilters(why)),
                Err(NoGuard::Unsupported(why)) if target.per_segment => return Err(NoPlan::NoSegments(why)),
                Err(NoGuard::Unsupported(why)) => (None, format!("the guarded backend does not work here ({why})")),
            },
        };
        let steps = if guard.is_some() { guarded } else { tc::application(before, &target)? };
        Ok(Self { target, steps, guard, reason })
    }

    /// What was asked for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How it is going to be done.
    #[must_use]
    pub fn backend(&self) -> Backend {
        if self.guard.is_some() { Backend::Guarded } else { Backend::Tc }
    }

    /// What will make the kernel end it, where it does.
    #[must_use]
    pub fn guard(&self) -> Option<netloss_contract::Guard> {
        self.guard.as_ref().map(|probed| guard_of(&self.target, probed.variant))
    }

    /// The changes to the kernel in their order, in words.
    pub fn describe(&self) -> impl Iterator<Item = String> {
        let guard = self.guard.as_ref().map(|_| {
            let (interface, lease) = (&self.target.link.name, LEASE.as_secs());
            format!("send packets of {interface} to the netem by nftables rules (table {}) with a lease of {lease} s", nft::TABLE)
        });
        self.steps.iter().map(ToString::to_string).chain(guard)
    }

    /// Why this backend.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What this changes without a mark.
    #[must_use]
    pub fn unmarked(&self) -> Unmarked {
        let index_if = |adds: fn(&Step) -> bool| self.steps.iter().any(adds).then_some(self.target.link.index);
        let tells = |step: &Step| match step {
            Step::AddRootPrio { handle, .. } | Step::AddNetem { handle, .. } => marks::tells_of_txqlen_0(*handle),
            _ => false,
        };
        Unmarked { ingress_qdisc: index_if(|step| matches!(step, Step::AddIngress { .. })), txqlen_0: index_if(tells) }
    }

    /// Does it, with the tables of [`Trial::Creation`], and reads it back. `changes` has listened since before. `limit` is asked when the loss may
    /// begin: with a guard when that is about to be armed, otherwise before the first step. Before each step, and before a guard is armed, the agent
    /// looks whether it still may: it puts nothing in place that is over, or against the terms.
    ///
    /// # Errors
    /// Where the kernel does not do it. What has been done by then is still there, but for a guard: [`Kernel::remove`] takes it away.
    pub fn bring(
        self,
        kernel: &Kernel,
        changes: &mut Changes,
        limit: impl Fn() -> Expiry,
        terms: &Terms<'_>,
    ) -> Result<(Impairment, Expiry, Snapshot), ApplyError> {
        // With plain tc a packet may be lost from the first step on.
        let unguarded = self.guard.is_none().then(&limit);
        let ruleset = self.guard.as_ref().map(|probed| (probed.variant, guarded::ruleset(&self.target, probed.variant)));
        let mut armable = self.guard.zip(ruleset).map(|(Probed { socket, made, .. }, (variant, ruleset))| {
            let tables = Armable::new(socket, ruleset.clone(), made);
            (tables, variant, ruleset)
        });
        let may = |tables: Option<&mut Armable>| -> Result<(), ApplyError> {
            if unguarded.unwrap_or_else(&limit).remaining().is_zero() {
                return Err(ApplyError::Over);
            }
            terms.allow()?;
            Ok(tables.map_or(Ok(()), Armable::keep)?)
        };
        kernel.apply(&self.steps, || may(armable.as_mut().map(|(tables, ..)| tables)))?;
        may(None)?;
        let limit = unguarded.unwrap_or_else(&limit);
        let guard = match armable {
            None => None,
            Some((tables, variant, ruleset)) => Some(Guarded { guard: tables.arm(limit, terms.ending.clone())?, variant, ruleset }),
        };
        let impairment = Impairment { target: self.target, guard };
        match impairment.verify(kernel, changes) {
            Ok(after) => Ok((impairment, limit, after)),
            Err(error) => {
                impairment.disarm();
                impairment.remove_tables();
                Err(error)
            }
        }
    }
}

/// The loss in its place. Dropped, it lets a guard end the loss.
#[derive(Debug)]
pub struct Impairment {
    target: Target,
    guard: Option<Guarded>,
}

#[derive(Debug)]
struct Guarded {
    guard: Guard,
    variant: Variant,
    ruleset: Ruleset,
}

impl Impairment {
    /// What was asked for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How it was done.
    #[must_use]
    pub fn backend(&self) -> Backend {
        if self.guard.is_some() { Backend::Guarded } else { Backend::Tc }
    }

    /// What makes the kernel end it, where it does.
    #[must_use]
    pub fn guard(&self) -> Option<netloss_contract::Guard> {
        self.guard.as_ref().map(|guarded| guard_of(&self.target, guarded.variant))
    }

    /// How well the lease has been kept, where there is one.
    #[must_use]
    pub fn account(&self) -> Option<Account> {
        self.guard.as_ref().map(|guarded| guarded.guard.account())
    }

    /// How many packets met the loss, as the guard's rules have counted them, also after the loss has ended; none where there is no guard, or nothing can be read. Read over
    /// a socket that the lease does not wait for.
    pub fn counted(&self, kernel: &mut Kernel) -> Option<PerDirection<u64>> {
        let Guarded { ruleset, .. } = self.guard.as_ref()?;
        let counted = kernel.tables().and_then(|tables| tables.map(|tables| tables.counted(ruleset)).transpose());
        counted.inspect_err(|error| tracing::warn!(%error, "the guard's counters cannot be read")).ok().flatten()
    }

    /// Reads back what was brought.
    fn verify(&self, kernel: &Kernel, changes: &mut Changes) -> Result<Snapshot, ApplyError> {
        // What was changed by now the look shows, but for an interface that has the place of another.
        let gone = changes.take().map_err(|error| ApplyError::Unreadable(error.into()))?;
        let after = Snapshot::take(&kernel.netlink).map_err(ApplyError::Unreadable)?;
        let unseeded = |netem: &Qdisc| netem.netem.as_ref().is_some_and(|netem| netem.seed.is_none());
        let netem = after.egress_netem(self.target.link.index).or_else(|| after.ingress_netem());
        if self.target.netem.seed.is_some() && netem.is_some_and(unseeded) {
            return Err(ApplyError::NoSeed);
        }
        let mut drift = self.drift(&after);
        if drift.is_empty() && gone.contains(&self.target.link.index) {
            drift.push(backend::replaced(&self.target.link));
        }
        if drift.is_empty() { Ok(after) } else { Err(ApplyError::Different(drift)) }
    }

    /// When the lease ran out because it was not renewed, if it did. The loss is over then.
    #[must_use]
    pub fn expired(&self) -> Option<Moment> {
        self.guard.as_ref().and_then(|guarded| guarded.guard.expired())
    }

    /// What somebody has changed of what was brought, in words.
    #[must_use]
    pub fn changed(&self, snapshot: &Snapshot) -> Vec<String> {
        match self.backend() {
            Backend::Tc => tc::drift(snapshot, &self.target),
            Backend::Guarded => guarded::drift(snapshot, &self.target),
        }
    }

    /// Whether everything that the interface receives is lost, because of what somebody has changed.
    #[must_use]
    pub fn receives_nothing(&self, snapshot: &Snapshot) -> bool {
        match self.backend() {
            Backend::Tc => tc::receives_nothing(snapshot, &self.target),
            Backend::Guarded => guarded::receives_nothing(snapshot, &self.target),
        }
    }

    /// What is not as it was brought, in words: what somebody has changed, and a lease that could not be renewed.
    #[must_use]
    pub fn drift(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut drift = self.changed(snapshot);
        let trouble = self.account().and_then(|account| account.trouble);
        drift.extend(trouble.map(|trouble| format!("the lease could not be renewed: {trouble}")));
        drift
    }

    /// Whether bringing it again would be in nobody's way.
    #[must_use]
    pub fn can_be_brought_again(&self, snapshot: &Snapshot, unmarked: Unmarked) -> bool {
        let before = backend::without_ours(snapshot, unmarked);
        let steps = match self.backend() {
            Backend::Tc => tc::application(&before, &self.target),
            Backend::Guarded => guarded::application(&before, &self.target),
        };
        steps.is_ok()
    }

    /// Ends the loss, so far as a guard does, without rtnetlink, whose lock is the whole node's. The guard's counters stay; what is left is for
    /// [`Self::remove_tables`] and [`Kernel::remove`].
    pub fn disarm(&self) {
        if let Some(Guarded { guard, .. }) = &self.guard {
            guard.disarm();
        }
    }

    /// The same for a loss that is to be put in place again: whether that may be, as a guard's lease had not expired by then.
    #[must_use]
    pub fn suspend(&self) -> bool {
        self.guard.as_ref().is_none_or(|guarded| guarded.guard.suspend())
    }

    /// Takes a guard's tables away, with its counters.
    pub fn remove_tables(&self) {
        if let Some(Guarded { guard, .. }) = &self.guard {
            guard.remove();
        }
    }
}

fn guard_of(target: &Target, variant: Variant) -> netloss_contract::Guard {
    let lease_seconds = u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX);
    let only_ip_egress = target.direction.egress() && variant.hook == EgressHook::Postrouting;
    netloss_contract::Guard { ends_with_agent: variant.owned, lease_seconds, only_ip_egress }
}

/// The first variant of the guard that the kernel takes.
///
/// # Errors
/// Where it supports none, or fails otherwise: only a kernel that lacks something is offered less.
pub fn probe(target: &Target, trial: Trial) -> Result<Probed, NoGuard> {
    descend(|variant| {
        let mut socket = Socket::open()?;
        let messages = guarded::ruleset(target, variant).creation(LEASE);
        let made = Moment::now();
        let taken = match trial {
            Trial::Rehearsal => socket.rehearse(messages),
            Trial::Creation => socket.transact(messages),
        };
        match taken {
            Ok(()) => Ok(Probed { socket, variant, made }),
            Err(error) => {
                // The kernel may have made the tables and lost its answer. Those that have an owner go with the socket.
                if trial == Trial::Creation && !variant.owned && error.errno().is_none() {
                    drop(socket.remove_leftovers().inspect_err(|error| tracing::warn!(%error, "tables without an owner may be left")));
                }
                Err(error)
            }
        }
    })
}

/// Tries one variant after the other, as far as the kernel does not support the one before. What fails for another reason is tried twice.
fn descend<T>(mut attempt: impl FnMut(Variant) -> Result<T, nft::Error>) -> Result<T, NoGuard> {
    let mut unsupported = Vec::new();
    for variant in guarded::LADDER {
        let taken = match attempt(variant) {
            Err(error) if !error.is_unsupported() => {
                tracing::warn!(%error, "the guard could not be created, which is tried once more");
                attempt(variant)
            }
            taken => taken,
        };
        match taken {
            Ok(taken) => return Ok(taken),
            Err(error) if error.is_unsupported() => unsupported.push(format!("{}: {error}", variant.describe())),
            Err(error) => return Err(NoGuard::Failed { variant, error }),
        }
    }
    Err(NoGuard::Unsupported(unsupported.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::guarded::LADDER;
    use nix::errno::Errno;
    use std::io;

    fn kernel(errno: Errno) -> nft::Error {
        nft::Error::Kernel { errno, words: None }
    }

    fn passing() -> [nft::Error; 7] {
        let socket = |errno: Errno| nft::Error::Socket(io::Error::from(errno));
        [
            kernel(Errno::ENOMEM),
            kernel(Errno::EEXIST),
            nft::Error::Unstable,
            nft::Error::TimedOut,
            socket(Errno::EMFILE),
            socket(Errno::ENOBUFS),
            nft::Error::ConnectionLost,
        ]
    }

    /// What `answers` say of one attempt after the other, and which variants were tried.
    fn descended(answers: Vec<Result<(), nft::Error>>) -> (Result<Variant, NoGuard>, Vec<Variant>) {
        let (mut answers, mut tried) = (answers.into_iter(), Vec::new());
        let taken = descend(|variant| {
            tried.push(variant);
            answers.next().unwrap_or(Err(nft::Error::TimedOut)).map(|()| variant)
        });
        (taken, tried)
    }

    #[test]
    fn a_failure_that_may_pass_never_leads_to_a_lesser_backend() {
        for error in passing() {
            let words = error.to_string();
            let again = match &error {
                nft::Error::Socket(error) => nft::Error::Socket(io::Error::from_raw_os_error(error.raw_os_error().unwrap())),
                nft::Error::Kernel { errno, .. } => kernel(*errno),
                _ => nft::Error::TimedOut,
            };
            let (taken, tried) = descended(vec![Err(error), Err(again)]);
            assert!(matches!(taken, Err(NoGuard::Failed { variant, .. }) if variant == LADDER[0]), "{words}: {taken:?}");
            assert_eq!(tried, [LADDER[0]; 2], "{words}");
        }
    }

    #[test]
    fn a_failure_that_passes_costs_no_variant() {
        for error in passing() {
            let words = error.to_string();
            let (taken, tried) = descended(vec![Err(error), Ok(())]);
            assert_eq!((taken.unwrap(), tried), (LADDER[0], vec![LADDER[0]; 2]), "{words}");
        }
    }

    #[test]
    fn a_kernel_that_lacks_something_is_offered_the_next_variant() {
        let lacking = || Err(kernel(Errno::EOPNOTSUPP));
        let (taken, tried) = descended(vec![lacking(), Err(kernel(Errno::EINVAL)), Err(nft::Error::Unstable), Ok(())]);
        assert_eq!((taken.unwrap(), tried), (LADDER[2], vec![LADDER[0], LADDER[1], LADDER[2], LADDER[2]]));
        let none = (0..4).map(|_| Err(nft::Error::Socket(io::Error::from(Errno::EPROTONOSUPPORT)))).collect();
        let (taken, tried) = descended(none);
        assert!(matches!(&taken, Err(NoGuard::Unsupported(why)) if why.matches(';').count() == 3), "{taken:?}");
        assert_eq!(tried, LADDER);
    }
}
