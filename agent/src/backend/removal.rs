//! Taking away what carries our marks, whichever backend put it there.

use super::{Device, Step};
use crate::{
    marks,
    netlink::{Handle, INGRESS_PARENT, QDISC_INGRESS, QDISC_NETEM, QDISC_PRIO, Qdisc, ROOT},
    snapshot::Snapshot,
};
use std::collections::BTreeSet;

/// The steps that take away whatever carries our marks, on any interface, in the safe order: what leads to the ifb goes before the
/// ifb does. Nothing where nothing of ours is there.
///
/// An ingress qdisc bears no mark of its own, only that of its redirect: `made_hook` is the index of the interface on which the
/// caller knows that it made one, none for a caller that knows nothing.
#[must_use]
pub fn removal(snapshot: &Snapshot, made_hook: Option<u32>) -> Vec<Step> {
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
        let made = ours.contains(&marks::REDIRECT_OWN_QDISC) || made_hook == Some(link.index);
        let unused = snapshot.foreign_filters(link.index).next().is_none();
        if let Some(hook) = hook.filter(|hook| made && unused && hook.kind == QDISC_INGRESS) {
            rest.push(Step::DeleteQdisc { device: Device::of(link), qdisc: hook.clone() });
        }
        if let Some(root) = snapshot.root(link.index).filter(|root| is_our_root(root)) {
            // While the mark is there to tell of it.
            if marks::tells_of_txqlen_0(root.handle) && link.txqlen != 0 {
                rest.push(Step::SetTxqlen { device: Device::of(link), packets: 0 });
            }
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
pub fn without_ours(snapshot: &Snapshot, made_hook: Option<u32>) -> Snapshot {
    let mut after = snapshot.clone();
    for step in removal(snapshot, made_hook) {
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
