//! The backend of plain netem qdiscs, ADR 0007 to the letter: `root netem` for what the pod sends, and for what it receives a
//! redirect to an ifb with `root netem`.
//!
//! Only an agent ends this loss. After a SIGKILL it stays until the next agent or a cleanup finds it by its marks.

use super::{Device, Refusal, Step};
use crate::{
    marks,
    netem::Netem,
    netlink::{Link, QDISC_INGRESS, QDISC_NETEM, Qdisc},
    snapshot::Snapshot,
};
use netloss_contract::Direction;
use std::collections::BTreeSet;

/// What is asked for: which interface, which way, what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The interface.
    pub link: Link,
    /// Which way packets are lost.
    pub direction: Direction,
    /// How they are lost, in each direction.
    pub netem: Netem,
}

fn device(link: &Link) -> Device {
    Device::Index { index: link.index, name: link.name.clone() }
}

/// The steps that bring the loss about, in their order, on a namespace that carries none of our marks.
///
/// # Errors
/// Where something of others is in the way.
pub fn application(snapshot: &Snapshot, target: &Target) -> Result<Vec<Step>, Refusal> {
    let Target { link, direction, netem } = target;
    let mut steps = Vec::new();
    if direction.ingress() {
        if snapshot.links.iter().any(|link| link.name == marks::IFB) {
            return Err(Refusal::NameTaken(marks::IFB));
        }
        let hook = snapshot.ingress(link.index);
        let foreign: BTreeSet<_> =
            snapshot.foreign_filters(link.index).map(|filter| format!("{} pref {}", filter.kind, filter.priority)).collect();
        if let (Some(hook), false) = (hook, foreign.is_empty()) {
            return Err(Refusal::ForeignFilters {
                interface: link.name.clone(),
                kind: hook.kind.clone(),
                filters: foreign.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
        // The loss is ready before the redirect leads to it, and a redirect never leads to an ifb that is not there: that would be 100 %.
        steps.push(Step::CreateIfb);
        steps.push(Step::AddRootNetem { device: Device::Ifb, handle: marks::INGRESS_NETEM, netem: netem.clone() });
        let priority = if hook.is_none() {
            steps.push(Step::AddIngress { device: device(link) });
            marks::REDIRECT_OWN_QDISC
        } else {
            marks::REDIRECT
        };
        steps.push(Step::AddRedirect { device: device(link), priority });
    }
    if direction.egress() {
        if let Some(root) = snapshot.root(link.index).filter(|root| !root.is_default()) {
            return Err(Refusal::ForeignRoot { interface: link.name.clone(), kind: root.kind.clone(), handle: root.handle });
        }
        let handle = if link.txqlen == 0 { marks::EGRESS_NETEM_TXQLEN_0 } else { marks::EGRESS_NETEM };
        steps.push(Step::AddRootNetem { device: device(link), handle, netem: netem.clone() });
    }
    Ok(steps)
}

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
            .filter(|filter| filter.ifindex == link.index && marks::is_redirect(filter.priority))
            .map(|filter| filter.priority)
            .collect();
        redirects.extend(ours.iter().map(|priority| Step::DeleteFilters { device: device(link), priority: *priority }));
        // Ours goes, unless somebody has come to use it too.
        let made = ours.contains(&marks::REDIRECT_OWN_QDISC) || made_hook == Some(link.index);
        let unused = snapshot.foreign_filters(link.index).next().is_none();
        if let Some(hook) = hook.filter(|hook| made && unused && hook.kind == QDISC_INGRESS) {
            rest.push(Step::DeleteQdisc { device: device(link), qdisc: hook.clone() });
        }
        if let Some(root) = snapshot.root(link.index).filter(|root| root.kind == QDISC_NETEM && marks::is_egress_netem(root.handle)) {
            // While the mark is there to tell of it.
            if root.handle == marks::EGRESS_NETEM_TXQLEN_0 && link.txqlen != 0 {
                rest.push(Step::SetTxqlen { device: device(link), packets: 0 });
            }
            rest.push(Step::DeleteQdisc { device: device(link), qdisc: root.clone() });
        }
    }
    let ifb = snapshot.ifb().map(|ifb| Step::DeleteLink { device: device(ifb) });
    redirects.into_iter().chain(ifb).chain(rest).collect()
}

/// What is not as [`application`] made it, in words. Nothing where all is.
#[must_use]
pub fn drift(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    let Target { link, direction, netem } = target;
    let name = &link.name;
    let mut drift = Vec::new();
    match snapshot.link(link.index) {
        None => return vec![format!("the interface {name} is gone")],
        Some(now) if now.name != *name => drift.push(format!("the interface {name} is now called {}", now.name)),
        Some(_) => {}
    }
    if direction.egress() {
        drift.extend(netem_drift(snapshot.root(link.index), name, netem, marks::is_egress_netem));
    }
    if direction.ingress() {
        let Some(ifb) = snapshot.ifb() else {
            drift.push(format!("the interface {} is gone", marks::IFB));
            return drift;
        };
        if !ifb.up {
            drift.push(format!("the interface {} is down: everything that {name} receives is lost", marks::IFB));
        }
        drift.extend(netem_drift(snapshot.root(ifb.index), marks::IFB, netem, |handle| handle == marks::INGRESS_NETEM));
        match snapshot.redirect(link.index) {
            None => drift.push(format!("the redirect of what {name} receives is gone")),
            Some(redirect) if redirect.redirects_to != Some(ifb.index) => {
                drift.push(format!("the redirect of what {name} receives does not lead to {}", marks::IFB));
            }
            Some(_) => {}
        }
    }
    drift
}

fn netem_drift(root: Option<&Qdisc>, interface: &str, asked: &Netem, is_ours: impl Fn(crate::netlink::Handle) -> bool) -> Option<String> {
    match root {
        Some(root) if root.kind == QDISC_NETEM && is_ours(root.handle) => match &root.netem {
            Some(netem) if netem.has_the_effect_of(asked) => None,
            Some(netem) if netem.loss != asked.loss => {
                Some(format!("the netem qdisc of {interface} loses {:.3} % and not {:.3} %", netem.loss.percent(), asked.loss.percent()))
            }
            _ => Some(format!("the netem qdisc of {interface} has other options than were set")),
        },
        Some(root) if !root.is_default() => Some(format!("the netem qdisc of {interface} was replaced by {} {}", root.kind, root.handle)),
        _ => Some(format!("the netem qdisc of {interface} is gone")),
    }
}

#[cfg(test)]
#[path = "tc_tests.rs"]
mod tests;
