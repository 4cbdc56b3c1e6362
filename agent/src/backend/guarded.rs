//! The backend whose loss the kernel ends: netem only sees what a rule of the guard ([`crate::nft`]) sends there.
//!
//! Egress is a prio at the root with netem in a band that nothing reaches by itself; the rule sets the packet's priority to that
//! band. It must not be an ifb: a packet that an ifb sends on skips the other end's ingress hooks, and with them the host's network
//! policy. Ingress is an ifb with netem, to which the rule forwards.
//!
//! Without the guard all of this is inert, so what a killed agent leaves behind loses nothing.

use super::{
    Device, Refusal, Step, Target,
    drift::{egress_netem_drift, ifb_drift, leads_nowhere, lost_interface, root_drift},
    free_ifb, free_root,
};
use crate::{
    marks,
    netlink::{Handle, PRIO_BANDS, QDISC_PRIO},
    nft::{Egress, EgressHook, Ruleset},
    snapshot::Snapshot,
};

/// What a kernel can do for the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Whether the tables go with the agent (5.12).
    pub owned: bool,
    /// Where egress packets are given their band.
    pub hook: EgressHook,
}

impl Variant {
    /// In words.
    #[must_use]
    pub fn describe(self) -> String {
        let owner = if self.owned { "nftables tables that go with the agent" } else { "nftables tables without an owner" };
        let hook = match self.hook {
            EgressHook::Device => "the interface's egress hook",
            EgressHook::Postrouting => "IP's postrouting hook",
        };
        format!("{owner}, {hook}")
    }
}

/// The variants, the best first.
pub const LADDER: [Variant; 4] = [
    Variant { owned: true, hook: EgressHook::Device },
    Variant { owned: true, hook: EgressHook::Postrouting },
    Variant { owned: false, hook: EgressHook::Device },
    Variant { owned: false, hook: EgressHook::Postrouting },
];

fn prio(target: &Target) -> Handle {
    if target.link.txqlen == 0 { marks::PRIO_TXQLEN_0 } else { marks::PRIO }
}

/// The steps that prepare the loss, in their order, on a namespace that carries none of our marks. No packet is lost by them.
///
/// # Errors
/// Where something of others is in the way.
pub fn application(snapshot: &Snapshot, target: &Target) -> Result<Vec<Step>, Refusal> {
    let Target { link, direction, netem, .. } = target;
    let mut steps = Vec::new();
    if direction.ingress() {
        free_ifb(snapshot)?;
        steps.extend(super::ifb(target));
    }
    if direction.egress() {
        free_root(snapshot, link)?;
        let (device, prio) = (Device::of(link), prio(target));
        steps.push(Step::AddRootPrio { device: device.clone(), handle: prio });
        let band = prio.class(PRIO_BANDS);
        steps.extend(super::netem(target, &device, band, marks::EGRESS_TBF, marks::EGRESS_NETEM, netem.clone()));
    }
    Ok(steps)
}

/// The guard that brings the loss.
#[must_use]
pub fn ruleset(target: &Target, variant: Variant) -> Ruleset {
    let Target { link, direction, .. } = target;
    Ruleset {
        owned: variant.owned,
        interface: link.name.clone(),
        ingress: direction.ingress().then_some(marks::IFB_INDEX),
        egress: direction.egress().then(|| Egress { hook: variant.hook, class: prio(target).class(PRIO_BANDS) }),
        ends: target.ends.clone(),
    }
}

/// What is not as [`application`] made it, in words. Nothing where all is.
#[must_use]
pub fn drift(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    if let Some(lost) = lost_interface(snapshot, &target.link) {
        return vec![lost];
    }
    let mut drift = Vec::new();
    if target.direction.egress() {
        let root = root_drift(snapshot, &target.link, QDISC_PRIO, marks::is_prio);
        drift.extend(root.or_else(|| egress_netem_drift(snapshot, target)));
    }
    if target.direction.ingress() {
        if snapshot.ifb().is_some_and(|ifb| ifb.index != marks::IFB_INDEX) {
            drift.push(format!("the interface {} was replaced by another one of that name", marks::IFB));
        }
        drift.extend(ifb_drift(snapshot, target));
    }
    drift
}

/// Whether everything that the interface receives is lost, because the ifb that the rules lead to is gone or down.
#[must_use]
pub fn receives_nothing(snapshot: &Snapshot, target: &Target) -> bool {
    target.direction.ingress() && leads_nowhere(snapshot, marks::IFB_INDEX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        netem::Netem,
        netlink::{Link, QDISC_NETEM, Qdisc, ROOT},
        nft::PeerFilter,
    };
    use netloss_contract::Direction;

    fn ifb(index: u32, name: &str, up: bool) -> Link {
        Link { index, name: name.to_owned(), kind: Some("ifb".to_owned()), up, ..Link::default() }
    }

    #[test]
    fn only_the_ifb_of_the_rules_index_counts() {
        let link = Link { index: 2, name: "eth0".to_owned(), up: true, ..Link::default() };
        let target = Target {
            link: link.clone(),
            direction: Direction::Ingress,
            netem: Netem::default(),
            per_segment: false,
            ends: PeerFilter::default(),
        };
        let cases = [
            (ifb(marks::IFB_INDEX, marks::IFB, true), false, false),
            (ifb(marks::IFB_INDEX, marks::IFB, false), true, true),
            // Made again by its name alone, with the same netem.
            (ifb(9, marks::IFB, true), true, true),
            // It has another name and is still what the rules lead to.
            (ifb(marks::IFB_INDEX, "renamed", true), false, true),
        ];
        for (ifb, cut_off, drifted) in cases {
            let (ifindex, netem) = (ifb.index, Some(target.ingress_netem()));
            let netem =
                Qdisc { ifindex, parent: ROOT, handle: marks::INGRESS_NETEM, kind: QDISC_NETEM.to_owned(), netem, ..Qdisc::default() };
            let snapshot = Snapshot { links: vec![link.clone(), ifb.clone()], qdiscs: vec![netem], filters: Vec::new() };
            assert_eq!(receives_nothing(&snapshot, &target), cut_off, "{ifb:?}");
            assert_eq!(!drift(&snapshot, &target).is_empty(), drifted, "{ifb:?}");
        }
        let egress = Target { direction: Direction::Egress, ..target };
        assert!(!receives_nothing(&Snapshot::default(), &egress));
    }
}
