//! What is not as it was applied: the parts that backends have in common. In words, for people.

use super::Target;
use crate::{
    marks,
    netem::Netem,
    netlink::{Handle, Link, QDISC_NETEM, QDISC_TBF, Qdisc},
    snapshot::Snapshot,
};

/// What became of the interface, if it is not the one any more on which the loss was put.
#[must_use]
pub fn lost_interface(snapshot: &Snapshot, link: &Link) -> Option<String> {
    let name = &link.name;
    match snapshot.link(link.index) {
        None => Some(format!("the interface {name} is gone")),
        Some(now) if now.name != *name => Some(format!("the interface {name} is now called {}", now.name)),
        Some(_) => None,
    }
}

/// What became of the interface, if it was deleted and another has its index.
#[must_use]
pub fn replaced(link: &Link) -> String {
    format!("the interface {} was deleted, and what has its name now is another", link.name)
}

/// Whether every packet that is sent to the interface of that index is lost, because it is gone or down. What the kernel sends packets to is an index, or the
/// interface itself, and never a name (`nf_fwd_netdev_egress`, `tcf_mirred_act`).
pub(super) fn leads_nowhere(snapshot: &Snapshot, index: u32) -> bool {
    snapshot.link(index).is_none_or(|link| !link.up)
}

/// Another root qdisc than ours.
pub(super) fn root_drift(snapshot: &Snapshot, link: &Link, kind: &str, is_ours: impl Fn(Handle) -> bool) -> Option<String> {
    let name = &link.name;
    match snapshot.root(link.index) {
        Some(root) if root.kind == kind && is_ours(root.handle) => None,
        Some(root) if !root.is_default() => Some(format!("the {kind} qdisc of {name} was replaced by {} {}", root.kind, root.handle)),
        _ => Some(format!("the {kind} qdisc of {name} is gone")),
    }
}

/// Our netem for what is sent.
pub(super) fn egress_netem_drift(snapshot: &Snapshot, target: &Target) -> Option<String> {
    netem_drift(snapshot.egress_netem(target.link.index), &target.link.name, &target.netem)
}

/// The ifb and our netem on it.
pub(super) fn ifb_drift(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    let Some(ifb) = snapshot.ifb() else { return vec![format!("the interface {} is gone", marks::IFB)] };
    let down = (!ifb.up).then(|| format!("the interface {} is down: everything that {} receives is lost", marks::IFB, target.link.name));
    let (kind, mark) = if target.per_segment { (QDISC_TBF, marks::INGRESS_TBF) } else { (QDISC_NETEM, marks::INGRESS_NETEM) };
    let root = root_drift(snapshot, ifb, kind, |handle| handle == mark);
    let netem = root.or_else(|| netem_drift(snapshot.ingress_netem(), marks::IFB, &target.ingress_netem()));
    down.into_iter().chain(netem).collect()
}

fn netem_drift(found: Option<&Qdisc>, interface: &str, asked: &Netem) -> Option<String> {
    let Some(found) = found else { return Some(format!("the netem qdisc of {interface} is gone")) };
    match &found.netem {
        Some(netem) if netem.has_the_effect_of(asked) => None,
        Some(netem) if netem.loss != asked.loss => {
            Some(format!("the netem qdisc of {interface} loses {:.3} % and not {:.3} %", netem.loss.percent(), asked.loss.percent()))
        }
        _ => Some(format!("the netem qdisc of {interface} has other options than were set")),
    }
}
