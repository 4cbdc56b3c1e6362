//! What the kernel shows of a network namespace at one time.

use crate::{
    marks,
    netlink::{Error, Filter, INGRESS_PARENT, Link, Netlink, QDISC_CLSACT, QDISC_INGRESS, QDISC_NETEM, Qdisc, ROOT},
};

/// The part of a network namespace's state that the agent reads or writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// All interfaces.
    pub links: Vec<Link>,
    /// All qdiscs.
    pub qdiscs: Vec<Qdisc>,
    /// The filters of all ingress hooks.
    pub filters: Vec<Filter>,
}

impl Snapshot {
    /// Reads it.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn take(netlink: &Netlink) -> Result<Self, Error> {
        let links = netlink.links()?;
        let qdiscs = netlink.qdiscs()?;
        let mut filters = Vec::new();
        for hook in qdiscs.iter().filter(|qdisc| qdisc.parent == INGRESS_PARENT) {
            filters.extend(netlink.ingress_filters(hook.ifindex)?);
        }
        Ok(Self { links, qdiscs, filters })
    }

    /// The interface of that index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The ifb that carries our name.
    #[must_use]
    pub fn ifb(&self) -> Option<&Link> {
        self.links.iter().find(|link| link.name == marks::IFB && link.kind.as_deref() == Some("ifb"))
    }

    /// The qdisc that an interface sends through.
    #[must_use]
    pub fn root(&self, ifindex: u32) -> Option<&Qdisc> {
        self.qdiscs.iter().find(|qdisc| qdisc.ifindex == ifindex && qdisc.parent == ROOT)
    }

    /// Our netem for what an interface that is not the ifb sends, wherever it hangs.
    #[must_use]
    pub fn egress_netem(&self, ifindex: u32) -> Option<&Qdisc> {
        let ours = |qdisc: &&Qdisc| qdisc.ifindex == ifindex && qdisc.kind == QDISC_NETEM && marks::is_egress_netem(qdisc.handle);
        self.qdiscs.iter().find(ours)
    }

    /// Our netem for what the ifb sends on, wherever it hangs.
    #[must_use]
    pub fn ingress_netem(&self) -> Option<&Qdisc> {
        let ifb = self.ifb()?.index;
        self.qdiscs.iter().find(|qdisc| qdisc.ifindex == ifb && qdisc.kind == QDISC_NETEM && qdisc.handle == marks::INGRESS_NETEM)
    }

    /// The ingress qdisc or clsact of an interface.
    #[must_use]
    pub fn ingress(&self, ifindex: u32) -> Option<&Qdisc> {
        self.qdiscs.iter().find(|qdisc| {
            qdisc.ifindex == ifindex && qdisc.parent == INGRESS_PARENT && [QDISC_INGRESS, QDISC_CLSACT].contains(&qdisc.kind.as_str())
        })
    }

    /// Our redirect on an interface's ingress hook.
    #[must_use]
    pub fn redirect(&self, ifindex: u32) -> Option<&Filter> {
        self.filters.iter().find(|filter| filter.ifindex == ifindex && self.is_ours(filter) && filter.redirects_to.is_some())
    }

    /// Somebody else's filters on an interface's ingress hook.
    pub fn foreign_filters(&self, ifindex: u32) -> impl Iterator<Item = &Filter> {
        self.filters.iter().filter(move |filter| filter.ifindex == ifindex && !self.is_ours(filter))
    }

    /// Whether a filter on an ingress hook is ours: of our priority, and a redirect or one of the entries that it shows as. All filters of
    /// one priority are of one kind.
    #[must_use]
    pub fn is_ours(&self, filter: &Filter) -> bool {
        let same = |other: &&Filter| (other.ifindex, other.priority) == (filter.ifindex, filter.priority);
        marks::is_redirect(filter.priority) && self.filters.iter().filter(same).any(|other| other.redirects_to.is_some())
    }
}
