//! How loss is put into the kernel: what to do, what to expect afterwards and how to take it away, as values. Nothing here does I/O.

mod drift;
pub mod guarded;
mod removal;
pub mod tc;

pub use drift::{lost_interface, replaced};
pub use removal::{Unmarked, keeping_ifb, removal, without_ours};

use crate::{
    marks,
    netem::Netem,
    netlink::{Handle, Link, Qdisc, ROOT},
    nft::PeerFilter,
    snapshot::Snapshot,
};
use netloss_contract::Direction;
use std::fmt;

/// What is asked for: which interface, which way, what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The interface.
    pub link: Link,
    /// Which way packets are lost.
    pub direction: Direction,
    /// How they are lost when they are sent.
    pub netem: Netem,
    /// Whether super-packets are taken apart before they meet the loss. Only the guarded backend does that.
    pub per_segment: bool,
    /// Which packets.
    pub ends: PeerFilter,
}

impl Target {
    /// How packets are lost when they are received.
    #[must_use]
    pub fn ingress_netem(&self) -> Netem {
        self.netem.reseeded()
    }
}

/// An interface that a step has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name, for people.
    pub name: String,
}

impl Device {
    /// One that is there.
    #[must_use]
    pub fn of(link: &Link) -> Self {
        Self { index: link.index, name: link.name.clone() }
    }

    /// The ifb, which a step of the same plan makes.
    #[must_use]
    pub fn ifb() -> Self {
        Self { index: marks::IFB_INDEX, name: marks::IFB.to_owned() }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// One request to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes the ifb and sets it up.
    CreateIfb,
    /// Puts a prio at an interface's root, all of whose traffic goes to the first band.
    AddRootPrio {
        /// The interface.
        device: Device,
        /// Our mark.
        handle: Handle,
    },
    /// Puts a netem at an interface's root or into a class.
    AddNetem {
        /// The interface.
        device: Device,
        /// The place.
        parent: Handle,
        /// Our mark.
        handle: Handle,
        /// What it does.
        netem: Netem,
    },
    /// Puts a tbf at an interface's root or into a class, for taking super-packets apart.
    AddTbf {
        /// The interface.
        device: Device,
        /// The place.
        parent: Handle,
        /// Our mark.
        handle: Handle,
        /// The longest packet that passes whole, in bytes, link layer's header and all.
        longest: u32,
    },
    /// Puts an ingress qdisc on an interface.
    AddIngress {
        /// The interface.
        device: Device,
    },
    /// Sends what an interface receives through the ifb.
    AddRedirect {
        /// The interface.
        device: Device,
        /// Our mark.
        priority: u16,
    },
    /// Takes the filters of a priority away from an interface's ingress hook.
    DeleteFilters {
        /// The interface.
        device: Device,
        /// Our mark.
        priority: u16,
    },
    /// Takes a qdisc away.
    DeleteQdisc {
        /// The interface.
        device: Device,
        /// As it was seen.
        qdisc: Qdisc,
    },
    /// Takes an interface away.
    DeleteLink {
        /// The interface.
        device: Device,
    },
    /// Sets the length of an interface's transmit queue.
    SetTxqlen {
        /// The interface.
        device: Device,
        /// In packets.
        packets: u32,
    },
}

impl fmt::Display for Step {
    /// In words that go on after "cannot" and after "left:".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateIfb => write!(f, "create the interface {}", marks::IFB),
            Self::AddRootPrio { device, handle } => write!(f, "add the prio qdisc {handle} to {device}"),
            Self::AddNetem { device, handle, .. } => write!(f, "add the netem qdisc {handle} to {device}"),
            Self::AddTbf { device, handle, .. } => write!(f, "add the tbf qdisc {handle} to {device}"),
            Self::AddIngress { device } => write!(f, "add an ingress qdisc to {device}"),
            Self::AddRedirect { device, .. } => write!(f, "redirect what {device} receives to {}", marks::IFB),
            Self::DeleteFilters { device, priority } => write!(f, "remove the redirect (pref {priority}) from {device}"),
            Self::DeleteQdisc { device, qdisc } => write!(f, "remove the {} qdisc {} from {device}", qdisc.kind, qdisc.handle),
            Self::DeleteLink { device } => write!(f, "remove the interface {device}"),
            Self::SetTxqlen { device, packets } => write!(f, "set the transmit queue length of {device} back to {packets}"),
        }
    }
}

/// Why nothing is done, for safety.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody's root qdisc is there.
    #[error(
        "{interface} has a root qdisc that is not the kernel's default ({kind} {handle}), and it is not replaced: remove it, or ask for --direction ingress"
    )]
    ForeignRoot {
        /// The interface.
        interface: String,
        /// Kind of the qdisc.
        kind: String,
        /// Its handle.
        handle: Handle,
    },
    /// Somebody's ingress filters are there.
    #[error(
        "the {kind} qdisc of {interface} has ingress filters of others ({filters}), and a redirect would come before or after them: remove them, or ask for --direction egress"
    )]
    ForeignFilters {
        /// The interface.
        interface: String,
        /// Kind of the qdisc.
        kind: String,
        /// The filters, in words.
        filters: String,
    },
    /// An interface has the name that the ifb is to have.
    #[error("there is an interface {0} that is no ifb: rename it, or ask for --direction egress")]
    NameTaken(&'static str),
    /// An interface has the index that the ifb is to have.
    #[error("the interface {0} has the index {index} that the ifb for received packets is to have: make it anew, or ask for --direction egress", index = marks::IFB_INDEX)]
    IndexTaken(String),
}

/// The link layer's header in bytes, with room for VLAN tags: Ethernet has 14 (`ETH_HLEN`), each tag 4, and the rest is a margin. A packet that is longer than a tbf's burst, and no super-packet, would be lost.
const LINK_HEADER: u32 = 100;

/// The netem in its place, below a tbf where single segments are asked for.
fn netem(target: &Target, device: &Device, parent: Handle, tbf: Handle, handle: Handle, netem: Netem) -> Vec<Step> {
    let longest = target.link.mtu.saturating_add(LINK_HEADER);
    let segments = target.per_segment.then(|| Step::AddTbf { device: device.clone(), parent, handle: tbf, longest });
    let parent = if target.per_segment { tbf.class(1) } else { parent };
    segments.into_iter().chain([Step::AddNetem { device: device.clone(), parent, handle, netem }]).collect()
}

/// The ifb with its loss, to which nothing leads yet.
fn ifb(target: &Target) -> Vec<Step> {
    let netem = netem(target, &Device::ifb(), ROOT, marks::INGRESS_TBF, marks::INGRESS_NETEM, target.ingress_netem());
    std::iter::once(Step::CreateIfb).chain(netem).collect()
}

/// The ifb's name and index are free.
fn free_ifb(snapshot: &Snapshot) -> Result<(), Refusal> {
    if snapshot.links.iter().any(|link| link.name == marks::IFB) {
        return Err(Refusal::NameTaken(marks::IFB));
    }
    snapshot.link(marks::IFB_INDEX).map_or(Ok(()), |link| Err(Refusal::IndexTaken(link.name.clone())))
}

/// The interface sends through the kernel's default qdisc.
fn free_root(snapshot: &Snapshot, link: &Link) -> Result<(), Refusal> {
    match snapshot.root(link.index).filter(|root| !root.is_default()) {
        None => Ok(()),
        Some(root) => Err(Refusal::ForeignRoot { interface: link.name.clone(), kind: root.kind.clone(), handle: root.handle }),
    }
}
