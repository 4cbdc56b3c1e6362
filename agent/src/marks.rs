//! The marks by which the agent's objects in the kernel are known to be its own, whoever looks: the agent that made them, the next
//! one, or a cleanup. What carries no mark is never touched (invariant 3).
//!
//! Where the state before has to come back, the mark says what it was: a dead agent leaves no other memory.

use crate::netlink::Handle;

/// Name of the ifb that received packets pass.
pub const IFB: &str = "nl-in";

/// Index of that ifb. The kernel counts indices up from 1 and takes any other that is asked for, so none but ours is this high; known
/// beforehand, the rules that lead to the ifb need not wait for it.
pub const IFB_INDEX: u32 = 0x7a11_0001;

/// The prio at the root of the interface, under a guard.
pub const PRIO: Handle = Handle::of_major(0x7a11);

/// As [`PRIO`], on an interface whose transmit queue had the length 0: see [`EGRESS_NETEM_TXQLEN_0`].
pub const PRIO_TXQLEN_0: Handle = Handle::of_major(0x7a15);

/// The netem at the root of the interface, or in a band of [`PRIO`].
pub const EGRESS_NETEM: Handle = Handle::of_major(0x7a12);

/// As [`EGRESS_NETEM`], on an interface whose transmit queue had the length 0. The kernel makes that 1000 when a qdisc comes, and
/// leaves it so when it goes.
pub const EGRESS_NETEM_TXQLEN_0: Handle = Handle::of_major(0x7a14);

/// The netem at the root of the ifb.
pub const INGRESS_NETEM: Handle = Handle::of_major(0x7a13);

/// The tbf in a band of [`PRIO`], above the netem, that takes super-packets apart.
pub const EGRESS_TBF: Handle = Handle::of_major(0x7a16);

/// The same at the root of the ifb.
pub const INGRESS_TBF: Handle = Handle::of_major(0x7a17);

/// Priority of the redirect on an ingress hook that was there before. In decimal 31249, as `tc filter` shows it; behind the priorities that people give by
/// hand, and in front of the kernel's own, which count down from 0xc000 (`tcf_auto_prio`, net/sched/cls_api.c).
pub const REDIRECT: u16 = 0x7a11;

/// Priority of the redirect on an ingress qdisc that was made for it, and goes with it.
pub const REDIRECT_OWN_QDISC: u16 = 0x7a12;

/// Whether a netem of that handle, on an interface that is not our ifb, is ours.
#[must_use]
pub fn is_egress_netem(handle: Handle) -> bool {
    handle == EGRESS_NETEM || handle == EGRESS_NETEM_TXQLEN_0
}

/// Whether a prio of that handle is ours.
#[must_use]
pub fn is_prio(handle: Handle) -> bool {
    handle == PRIO || handle == PRIO_TXQLEN_0
}

/// Whether a root of that handle, ours, tells of a transmit queue that had the length 0.
#[must_use]
pub fn tells_of_txqlen_0(handle: Handle) -> bool {
    handle == EGRESS_NETEM_TXQLEN_0 || handle == PRIO_TXQLEN_0
}

/// Whether a filter of that priority is ours.
#[must_use]
pub fn is_redirect(priority: u16) -> bool {
    priority == REDIRECT || priority == REDIRECT_OWN_QDISC
}
