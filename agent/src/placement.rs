//! The loss in its place: chosen, brought, watched and taken away, whichever backend it is.

use crate::{
    apply::{Kernel, StepFailed},
    backend::{
        self, Refusal, Step, Target,
        guarded::{self, Variant},
        tc,
    },
    clock::{Limit, Moment},
    ending::Ending,
    guard::{self, Account, Guard, NotArmed},
    netlink::{self, Changes, Qdisc},
    nft::{self, EgressHook, Ends, Ruleset, Socket},
    snapshot::Snapshot,
};
use netloss_contract::{Backend, BackendChoice, PerDirection};

/// What is going to be done. Nothing has been changed yet, but for what [`Trial::Creation`] makes.
#[derive(Debug)]
pub struct Plan {
    target: Target,
    steps: Vec<Step>,
    guard: Option<(Socket, Variant)>,
    reason: String,
}

/// How the kernel is asked whether it takes the tables of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// By a transaction that it checks and drops, which takes it an RCU grace period.
    Rehearsal,
    /// By making them, with nothing in their lease: they lose no packet, and go with their socket, or are taken away by
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
}

impl From<NotArmed> for NotBrought {
    fn from(error: NotArmed) -> Self {
        match error {
            NotArmed::Over => Self::Over,
            NotArmed::Ended => Self::Ended,
            NotArmed::Kernel(_) | NotArmed::Slept => Self::Guard(error),
        }
    }
}

/// Why the loss could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum NotBrought {
    /// The kernel did not take a step.
    #[error(transparent)]
    Step(#[from] StepFailed),
    /// The kernel did not take the guard.
    #[error("cannot arm the guard: {0}")]
    Guard(NotArmed),
    /// Nothing was left of the time of the loss.
    #[error("its time ended while the loss was put in place")]
    Over,
    /// The agent was asked to end while it did not run.
    #[error("the agent did not run for seconds while it put the loss in place, and was asked to end meanwhile")]
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
    /// Where something of others is in the way, or what was asked for does not work here. Nothing has been changed then.
    pub fn make(choice: BackendChoice, before: &Snapshot, target: Target, trial: Trial) -> Result<Self, NoPlan> {
        // Whatever is in the way of this one is in the way of the other too.
        let guarded = guarded::application(before, &target)?;
        let (guard, reason) = match choice {
            BackendChoice::Tc => (None, "asked for with --backend tc".to_owned()),
            BackendChoice::Auto | BackendChoice::Guarded => match probe(&target, trial) {
                Ok((socket, variant)) => (Some((socket, variant)), format!("works here: {}", variant.describe())),
                Err(why) if choice == BackendChoice::Guarded => return Err(NoPlan::NoGuard(why)),
                Err(why) if target.ends != Ends::default() => return Err(NoPlan::NoFilters(why)),
                Err(why) if target.per_segment => return Err(NoPlan::NoSegments(why)),
                Err(why) => (None, format!("the guarded backend does not work here ({why})")),
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
        self.guard.as_ref().map(|(_, variant)| guard_of(&self.target, *variant))
    }

    /// The changes to the kernel in their order, in words.
    pub fn describe(&self) -> impl Iterator<Item = String> {
        let guard = self.guard.as_ref().map(|_| {
            let (interface, lease) = (&self.target.link.name, guard::LEASE.as_secs());
            format!("send packets of {interface} to the netem by nftables rules (table {}) with a lease of {lease} s", nft::TABLE)
        });
        self.steps.iter().map(ToString::to_string).chain(guard)
    }

    /// Why this backend.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The interface on which this makes an ingress qdisc (see [`crate::backend::removal`]).
    #[must_use]
    pub fn made_hook(&self) -> Option<u32> {
        self.steps.iter().any(|step| matches!(step, Step::AddIngress { .. })).then_some(self.target.link.index)
    }

    /// Does it, with the tables of [`Trial::Creation`], and reads it back. `changes` has listened since before. `limit` is asked when the loss
    /// begins. An agent that has slept since it began with this at `begun` does nothing that is over, or that it was asked to end meanwhile.
    ///
    /// # Errors
    /// Where the kernel does not do it. What has been done by then is still there, but for a guard: [`Kernel::remove`] takes it away.
    pub fn bring(
        self,
        kernel: &Kernel,
        changes: &mut Changes,
        limit: impl Fn() -> Limit,
        (ending, begun): (&Ending, Moment),
    ) -> Result<(Placement, Limit, Snapshot), NotBrought> {
        // With plain tc packets are lost from here on, and with a guard once that is armed.
        if limit().remaining().is_zero() {
            return Err(NotBrought::Over);
        }
        if ending.came_in_sleep_since(begun) {
            return Err(NotBrought::Ended);
        }
        kernel.apply(&self.steps)?;
        let limit = limit();
        let guard = match self.guard {
            None => None,
            Some((socket, variant)) => {
                let ruleset = guarded::ruleset(&self.target, variant);
                let guard = Guard::arm(socket, ruleset.clone(), limit, ending.clone(), begun)?;
                Some(Guarded { guard, variant, ruleset })
            }
        };
        let placement = Placement { target: self.target, guard };
        match placement.verify(kernel, changes) {
            Ok(after) => Ok((placement, limit, after)),
            Err(error) => {
                placement.disarm();
                placement.remove_tables();
                Err(error)
            }
        }
    }
}

/// The loss in its place. Dropped, it lets a guard end the loss.
#[derive(Debug)]
pub struct Placement {
    target: Target,
    guard: Option<Guarded>,
}

#[derive(Debug)]
struct Guarded {
    guard: Guard,
    variant: Variant,
    ruleset: Ruleset,
}

impl Placement {
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
        let counted = kernel.tables()?.counted(ruleset);
        counted.inspect_err(|error| tracing::warn!(%error, "the guard's counters cannot be read")).ok()
    }

    /// Reads back what was brought.
    fn verify(&self, kernel: &Kernel, changes: &mut Changes) -> Result<Snapshot, NotBrought> {
        // What was changed by now the look shows, but for an interface that has the place of another.
        let gone = changes.take().map_err(|error| NotBrought::Unreadable(error.into()))?;
        let after = Snapshot::take(&kernel.netlink).map_err(NotBrought::Unreadable)?;
        let unseeded = |netem: &Qdisc| netem.netem.as_ref().is_some_and(|netem| netem.seed.is_none());
        let netem = after.egress_netem(self.target.link.index).or_else(|| after.ingress_netem());
        if self.target.netem.seed.is_some() && netem.is_some_and(unseeded) {
            return Err(NotBrought::NoSeed);
        }
        let mut drift = self.drift(&after);
        if drift.is_empty() && gone.contains(&self.target.link.index) {
            drift.push(backend::replaced(&self.target.link));
        }
        if drift.is_empty() { Ok(after) } else { Err(NotBrought::Different(drift)) }
    }

    /// When the lease ran out because the agent did not run, if it did. The loss is over then.
    #[must_use]
    pub fn expired(&self) -> Option<Moment> {
        self.guard.as_ref().and_then(|guarded| guarded.guard.expired())
    }

    /// What is not as it was brought, in words.
    #[must_use]
    pub fn drift(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut drift = match self.backend() {
            Backend::Tc => tc::drift(snapshot, &self.target),
            Backend::Guarded => guarded::drift(snapshot, &self.target),
        };
        let trouble = self.account().and_then(|account| account.trouble);
        drift.extend(trouble.map(|trouble| format!("the lease could not be renewed: {trouble}")));
        drift
    }

    /// Whether bringing it again would be in nobody's way. `made_hook` as for [`crate::backend::removal`].
    #[must_use]
    pub fn can_be_brought_again(&self, snapshot: &Snapshot, made_hook: Option<u32>) -> bool {
        let before = backend::without_ours(snapshot, made_hook);
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

    /// Takes a guard's tables away, with its counters.
    pub fn remove_tables(&self) {
        if let Some(Guarded { guard, .. }) = &self.guard {
            guard.remove();
        }
    }
}

fn guard_of(target: &Target, variant: Variant) -> netloss_contract::Guard {
    let lease_seconds = u32::try_from(guard::LEASE.as_secs()).unwrap_or(u32::MAX);
    let only_ip_egress = target.direction.egress() && variant.hook == EgressHook::Postrouting;
    netloss_contract::Guard { ends_with_agent: variant.owned, lease_seconds, only_ip_egress }
}

/// The first variant of the guard that the kernel would take.
///
/// # Errors
/// Why it takes none, in words.
pub fn probe(target: &Target, trial: Trial) -> Result<(Socket, Variant), String> {
    let mut socket = Socket::open().map_err(|error| error.to_string())?;
    let mut refusals = Vec::new();
    for variant in guarded::LADDER {
        let messages = guarded::ruleset(target, variant).creation();
        let taken = match trial {
            Trial::Rehearsal => socket.rehearse(messages),
            Trial::Creation => socket.transact(messages),
        };
        match taken {
            Ok(()) => return Ok((socket, variant)),
            Err(error) => refusals.push(format!("{}: {error}", variant.describe())),
        }
    }
    Err(refusals.join("; "))
}
