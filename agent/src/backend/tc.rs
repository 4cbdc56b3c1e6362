//! The backend of plain netem qdiscs, ADR 0007 to the letter: `root netem` for what the pod sends, and for what it receives a
//! redirect to an ifb with `root netem`.
//!
//! Only an agent ends this loss. After a SIGKILL it stays until the next agent or a cleanup finds it by its marks.

use super::{
    Device, Refusal, Step, Target,
    drift::{egress_netem_drift, ifb_drift, leads_nowhere, lost_interface, root_drift},
    free_ifb, free_root,
};
use crate::{
    marks,
    netlink::{QDISC_NETEM, ROOT},
    snapshot::Snapshot,
};
use std::collections::BTreeSet;

/// The steps that bring the loss about, in their order, on a namespace that carries none of our marks.
///
/// # Errors
/// Where something of others is in the way.
pub fn application(snapshot: &Snapshot, target: &Target) -> Result<Vec<Step>, Refusal> {
    let Target { link, direction, netem, .. } = target;
    let mut steps = Vec::new();
    if direction.ingress() {
        free_ifb(snapshot)?;
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
        steps.extend(super::ifb(target));
        let priority = if hook.is_none() {
            steps.push(Step::AddIngress { device: Device::of(link) });
            marks::REDIRECT_OWN_QDISC
        } else {
            marks::REDIRECT
        };
        steps.push(Step::AddRedirect { device: Device::of(link), priority });
    }
    if direction.egress() {
        free_root(snapshot, link)?;
        let handle = if link.txqlen == 0 { marks::EGRESS_NETEM_TXQLEN_0 } else { marks::EGRESS_NETEM };
        steps.push(Step::AddNetem { device: Device::of(link), parent: ROOT, handle, netem: netem.clone() });
    }
    Ok(steps)
}

/// What is not as [`application`] made it, in words. Nothing where all is.
#[must_use]
pub fn drift(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    let Target { link, direction, .. } = target;
    let name = &link.name;
    if let Some(lost) = lost_interface(snapshot, link) {
        return vec![lost];
    }
    let mut drift = Vec::new();
    if direction.egress() {
        let root = root_drift(snapshot, link, QDISC_NETEM, marks::is_egress_netem);
        drift.extend(root.or_else(|| egress_netem_drift(snapshot, target)));
    }
    if direction.ingress() {
        drift.extend(ifb_drift(snapshot, target));
        let ifb = snapshot.ifb().map(|ifb| ifb.index);
        match snapshot.redirect(link.index) {
            None => drift.push(format!("the redirect of what {name} receives is gone")),
            Some(redirect) if redirect.redirects_to != ifb => {
                drift.push(format!("the redirect of what {name} receives does not lead to {}", marks::IFB));
            }
            Some(_) => {}
        }
    }
    drift
}

/// Whether everything that the interface receives is lost, because the redirect leads to an interface that is gone or down.
#[must_use]
pub fn receives_nothing(snapshot: &Snapshot, target: &Target) -> bool {
    let redirect = snapshot.redirect(target.link.index);
    redirect.and_then(|redirect| redirect.redirects_to).is_some_and(|index| leads_nowhere(snapshot, index))
}

#[cfg(test)]
#[path = "tc_tests.rs"]
mod tests;
