//! Taking away what carries our marks, whichever backend put it there.

use super::{Device, Step};
use crate::{
    marks,
    netlink::{Handle, INGRESS_PARENT, QDISC_INGRESS, QDISC_NETEM, QDISC_PRIO, Qdisc, ROOT},
    snapshot::Snapshot,
};
use std::collections::BTreeSet;

/// What a caller knows of its own changes that carry no mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unmarked {
    /// Index of the interface on which it made an ingress qdisc, which bears no mark of its own, only that of its redirect.
    pub ingress_qdisc: Option<u32>,
    /// Index of the interface whose transmit queue had the length 0 before it got a root qdisc. The mark of that tells of it while it is there.
    pub txqlen_0: Option<u32>,
}

/// What the kernel makes of a transmit queue of length 0 when it is asked for a qdisc, also where it then refuses that (`qdisc_create`:
/// `DEFAULT_TX_QUEUE_LEN`, include/linux/netdevice.h).
const DEFAULT_TXQLEN: u32 = 1000;

/// The steps that take away whatever carries our marks, on any interface, in the safe order: what leads to the ifb goes before the
/// ifb does. Nothing where nothing of ours is there.
#[must_use]
pub fn removal(snapshot: &Snapshot, unmarked: Unmarked) -> Vec<Step> {
    let mut redirects = Vec::new();
    let mut rest = Vec::new();
    for link in &snapshot.links {
        let hook = snapshot.ingress(link.index);
        let ours: BTreeSet<u16> = snapshot
            .filters
            .iter()
            .filter(|filter| filter.ifindex == link.index && snapshot.is_ours(filter))
            .map(|filter| filter.priority)
            .collect();
        redirects.extend(ours.iter().map(|priority| Step::DeleteFilters { device: Device::of(link), priority: *priority }));
        // Ours goes, unless somebody has come to use it too.
        let made = ours.contains(&marks::REDIRECT_OWN_QDISC) || unmarked.ingress_qdisc == Some(link.index);
        let unused = snapshot.foreign_filters(link.index).next().is_none();
        if let Some(hook) = hook.filter(|hook| made && unused && hook.kind == QDISC_INGRESS) {
            rest.push(Step::DeleteQdisc { device: Device::of(link), qdisc: hook.clone() });
        }
        let root = snapshot.root(link.index);
        let ours = root.filter(|root| is_our_root(root));
        // While the mark is there to tell of it.
        let marked = ours.is_some_and(|root| marks::tells_of_txqlen_0(root.handle)) && link.txqlen != 0;
        let free = ours.is_some() || root.is_none_or(Qdisc::is_default);
        let known = unmarked.txqlen_0 == Some(link.index) && link.txqlen == DEFAULT_TXQLEN && free;
        if marked || known {
            rest.push(Step::SetTxqlen { device: Device::of(link), packets: 0 });
        }
        if let Some(root) = ours {
            rest.push(Step::DeleteQdisc { device: Device::of(link), qdisc: root.clone() });
        }
    }
    let ifb = snapshot.ifb().map(|ifb| Step::DeleteLink { device: Device::of(ifb) });
    redirects.into_iter().chain(ifb).chain(rest).collect()
}

/// What may be done of a removal's step while something may still lead to the ifb: that loses every packet that is sent to one that is gone. It stays, without
/// what loses packets on it.
#[must_use]
pub fn keeping_ifb(snapshot: &Snapshot, step: Step) -> Option<Step> {
    match step {
        Step::DeleteLink { device } => {
            let root = snapshot.root(device.index).filter(|root| !root.is_default());
            root.map(|root| Step::DeleteQdisc { device, qdisc: root.clone() })
        }
        step => Some(step),
    }
}

/// What the kernel will show when [`removal`] has been done.
#[must_use]
pub fn without_ours(snapshot: &Snapshot, unmarked: Unmarked) -> Snapshot {
    let mut after = snapshot.clone();
    for step in removal(snapshot, unmarked) {
        match step {
            Step::DeleteFilters { device: Device { index, .. }, priority } => {
                after.filters.retain(|filter| (filter.ifindex, filter.priority) != (index, priority));
            }
            Step::DeleteQdisc { qdisc, .. } => {
                // With it goes what hangs in its classes.
                let major = |handle: Handle| handle.0 >> 16;
                let gone = |other: &Qdisc| {
                    let below = other.parent != ROOT && other.parent != INGRESS_PARENT && major(other.parent) == major(qdisc.handle);
                    other.ifindex == qdisc.ifindex && (other.handle == qdisc.handle && other.parent == qdisc.parent || below)
                };
                after.qdiscs.retain(|other| !gone(other));
            }
            Step::DeleteLink { device: Device { index, .. } } => {
                after.links.retain(|link| link.index != index);
                after.qdiscs.retain(|qdisc| qdisc.ifindex != index);
                after.filters.retain(|filter| filter.ifindex != index);
            }
            Step::SetTxqlen { device: Device { index, .. }, packets } => {
                after.links.iter_mut().filter(|link| link.index == index).for_each(|link| link.txqlen = packets);
            }
            _ => {}
        }
    }
    after
}

fn is_our_root(root: &Qdisc) -> bool {
    match root.kind.as_str() {
        QDISC_NETEM => marks::is_egress_netem(root.handle),
        QDISC_PRIO => marks::is_prio(root.handle),
        _ => false,
    }
}
