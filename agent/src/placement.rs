//! The loss in its place: chosen, brought, watched and taken away, whichever backend it is.

use crate::{
    apply::{Kernel, StepFailed},
    backend::{
        self, Refusal, Step, Target,
        guarded::{self, Variant},
        tc,
    },
    clock::Limit,
    guard::{self, Account, Guard},
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

/// Why the loss could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum NotBrought {
    /// The kernel did not take a step.
    #[error(transparent)]
    Step(#[from] StepFailed),
    /// The kernel did not take the guard.
    #[error("cannot arm the guard: {0}")]
    Guard(nft::Error),
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

    /// Does it, with the tables of [`Trial::Creation`], and reads it back. `changes` has listened since before. `limit` is asked when the loss begins.
    ///
    /// # Errors
    /// Where the kernel does not do it. What has been done by then is still there: [`Kernel::remove`] takes it away.
    pub fn bring(
        self,
        kernel: &Kernel,
        changes: &mut Changes,
        limit: impl FnOnce() -> Limit,
    ) -> Result<(Placement, Limit, Snapshot), NotBrought> {
        kernel.apply(&self.steps)?;
        let limit = limit();
        let guard = match self.guard {
            None => None,
            Some((socket, variant)) => {
                let ruleset = guarded::ruleset(&self.target, variant);
                let guard = Guard::arm(socket, ruleset.clone(), limit).map_err(NotBrought::Guard)?;
                Some(Guarded { guard, variant, ruleset })
            }
        };
        let placement = Placement { target: self.target, guard };
        // What was changed by now the look shows, but for an interface that has the place of another.
        let gone = changes.take().map_err(|error| NotBrought::Unreadable(error.into()))?;
        let after = Snapshot::take(&kernel.netlink).map_err(NotBrought::Unreadable)?;
        let unseeded = |netem: &Qdisc| netem.netem.as_ref().is_some_and(|netem| netem.seed.is_none());
        let netem = after.egress_netem(placement.target.link.index).or_else(|| after.ingress_netem());
        if placement.target.netem.seed.is_some() && netem.is_some_and(unseeded) {
            return Err(NotBrought::NoSeed);
        }
        let mut drift = placement.drift(&after);
        if drift.is_empty() && gone.contains(&placement.target.link.index) {
            drift.push(backend::replaced(&placement.target.link));
        }
        if drift.is_empty() { Ok((placement, limit, after)) } else { Err(NotBrought::Different(drift)) }
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

    /// How many packets met the loss, as the guard's rules have counted them, also after the tables have gone; none where there is no guard, or nothing can be read. Read over
    /// a socket that the lease does not wait for.
    pub fn counted(&self, kernel: &mut Kernel) -> Option<PerDirection<u64>> {
        let Guarded { guard, ruleset, .. } = self.guard.as_ref()?;
        guard.counted_at_end().or_else(|| {
            let counted = kernel.tables()?.counted(ruleset);
            let counted = counted.inspect_err(|error| tracing::warn!(%error, "the guard's counters cannot be read")).ok();
            // The tables may have gone while they were listed.
            guard.counted_at_end().or(counted)
        })
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

    /// Ends the loss, so far as a guard does; what is left is for [`Kernel::remove`].
    pub fn disarm(&self) {
        if let Some(Guarded { guard, .. }) = &self.guard {
            guard.disarm();
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
