//! Network interfaces (`RTM_*LINK`, rtnetlink(7)).

use super::{Error, Netlink};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
};
use nix::errno::Errno;

/// Index of the loopback, in every namespace (`LOOPBACK_IFINDEX`).
pub(super) const LOOPBACK: u32 = 1;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its index in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The driver's kind (`veth`, `ifb`, …), of virtual interfaces.
    pub kind: Option<String>,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether it is the loopback (`IFF_LOOPBACK`).
    pub loopback: bool,
    /// Length of the transmit queue (`IFLA_TXQLEN`), in packets.
    pub txqlen: u32,
    /// The longest packet that it sends, in bytes and without the link layer's header (`IFLA_MTU`).
    pub mtu: u32,
    /// Index of the bridge or bond that it is a port of.
    pub controller: Option<u32>,
    /// Namespace of the other end, by this namespace's numbering (`IFLA_LINK_NETNSID`).
    pub peer_namespace: Option<i32>,
    /// Packets sent since it was made, that passed its qdisc (`IFLA_STATS64`).
    pub tx_packets: u64,
}

impl Link {
    fn parse(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::TxQueueLen(length) => link.txqlen = *length,
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(*id),
                LinkAttribute::Stats64(stats) => link.tx_packets = stats.tx_packets,
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }

    /// As the kernel tells of it; none where an answer is about something else.
    #[must_use]
    pub fn from_answer(answer: &RouteNetlinkMessage) -> Option<Self> {
        match answer {
            RouteNetlinkMessage::NewLink(message) => Some(Self::parse(message)),
            _ => None,
        }
    }
}

impl Netlink {
    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn links(&self) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        // Without IPv6's statistics, which the kernel sums up over all processors (`RTEXT_FILTER_SKIP_STATS`); `IFLA_STATS64` is there all the same.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.dump(&RouteNetlinkMessage::GetLink(message))?;
        Ok(answers.iter().filter_map(Link::from_answer).collect())
    }

    /// Makes an ifb of that name and index without addresses of its own, and sets it up.
    ///
    /// With an address it would send packets of its own (router solicitations, MLD reports), which are no received ones and would be lost and counted among them. The
    /// kernel makes the address when the interface is set up, and looks at no `IFLA_AF_SPEC` when it makes an interface (`rtnl_newlink_create`) nor before the flags
    /// when it changes one (`do_setlink`), so there are three requests.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn create_ifb(&self, name: &str, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
        self.request(self.handle.link().add(message).execute())?;
        self.set_no_addresses(index)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(self.handle.link().set(message).execute())
    }

    /// Keeps IPv6 from making addresses of an interface (`IN6_ADDR_GEN_MODE_NONE`). A kernel without IPv6 makes none.
    fn set_no_addresses(&self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        match self.request(self.handle.link().set(message).execute()) {
            Err(error) if error.errno() == Some(Errno::EAFNOSUPPORT) => Ok(()),
            answer => answer,
        }
    }

    /// Whether this process may change the namespace's network: asked by setting nothing of the loopback.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn is_permitted(&self) -> Result<bool, Error> {
        let mut message = LinkMessage::default();
        message.header.index = LOOPBACK;
        match self.request(self.handle.link().set(message).execute()) {
            Err(error) if error.errno() == Some(Errno::EPERM) => Ok(false),
            answer => answer.map(|()| true),
        }
    }

    /// Whether the kernel has ifbs, or loads them now; none where it does not say. Asked for by one with more queues than are possible,
    /// which is refused after the kind was looked for (`rtnl_create_link` in net/core/rtnetlink.c).
    pub fn knows_ifb(&self) -> Option<bool> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
        message.attributes.push(LinkAttribute::NumTxQueues(u32::MAX));
        match self.request(self.handle.link().add(message).execute()).err()?.errno()? {
            Errno::EINVAL => Some(true),
            Errno::EOPNOTSUPP => Some(false),
            _ => None,
        }
    }

    /// Removes an interface. One that is not there is fine.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn delete_link(&self, index: u32) -> Result<(), Error> {
        match self.request(self.handle.link().del(index).execute()) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
            answer => answer,
        }
    }

    /// Sets the length of an interface's transmit queue, in packets.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn set_txqlen(&self, index: u32, packets: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::TxQueueLen(packets));
        self.request(self.handle.link().set(message).execute())
    }
}
