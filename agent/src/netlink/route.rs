//! Default routes (`RTM_GETROUTE`, rtnetlink(7)).

use super::{Error, Netlink};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia},
};
use std::net::IpAddr;

/// A default route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DefaultRoute {
    /// Index of the interface that it leaves by; of a multipath route, its first.
    pub ifindex: u32,
    /// Its metric: the lower the better. 0 where the kernel names none.
    pub metric: u32,
    /// Whether it is IPv6's.
    pub v6: bool,
    /// The router that it leads to; of a multipath route, its first.
    pub gateway: Option<IpAddr>,
}

impl DefaultRoute {
    /// As the kernel tells of it; none where an answer is about something else.
    #[must_use]
    pub fn from_answer(answer: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
        let header = &message.header;
        if !matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6) {
            return None;
        }
        // "unreachable default dev lo" is what older kernels show where IPv6 has no route.
        if header.destination_prefix_length != 0 || header.kind != RouteType::Unicast {
            return None;
        }
        let (mut table, mut metric, mut ifindex, mut gateway) = (u32::from(header.table), 0, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
                RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                    gateway = Some(IpAddr::V6(*address));
                }
                RouteAttribute::MultiPath(hops) => ifindex = ifindex.or(hops.first().map(|hop| hop.interface_index)),
                _ => {}
            }
        }
        let v6 = header.address_family == AddressFamily::Inet6;
        (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(Self { ifindex: ifindex?, metric, v6, gateway })
    }
}

impl Netlink {
    /// The default routes of both families.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn default_routes(&self) -> Result<Vec<DefaultRoute>, Error> {
        // Without a family the kernel answers for all of them.
        let answers = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answers.iter().filter_map(DefaultRoute::from_answer).collect())
    }
}
