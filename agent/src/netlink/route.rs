//! Default routes (`RTM_GETROUTE`, rtnetlink(7)).

use super::{Error, Netlink};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia},
};
use std::net::IpAddr;

/// A way out of the namespace: a default route of the main table, or one next hop of a multipath one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DefaultRoute {
    /// Index of the interface that it leaves by.
    pub ifindex: u32,
    /// Its metric: the lower the better. 0 where the kernel names none.
    pub metric: u32,
    /// Whether it is IPv6's.
    pub v6: bool,
    /// The router that it leads to.
    pub gateway: Option<IpAddr>,
}

impl DefaultRoute {
    /// As the kernel tells of it, one for each next hop in their order; none where an answer is about something else.
    #[must_use]
    pub fn from_answer(answer: &RouteNetlinkMessage) -> Vec<Self> {
        let RouteNetlinkMessage::NewRoute(message) = answer else { return Vec::new() };
        let header = &message.header;
        if !matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6) {
            return Vec::new();
        }
        // "unreachable default dev lo" is what older kernels show where IPv6 has no route.
        if header.destination_prefix_length != 0 || header.kind != RouteType::Unicast {
            return Vec::new();
        }
        let (mut table, mut metric, mut hops) = (u32::from(header.table), 0, Vec::new());
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Oif(index) => hops.push((*index, gateway(&message.attributes))),
                // Each has its own interface and router, and the route itself has neither (`fib_dump_info`, `rt6_fill_node`).
                RouteAttribute::MultiPath(paths) => hops.extend(paths.iter().map(|hop| (hop.interface_index, gateway(&hop.attributes)))),
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return Vec::new();
        }
        let v6 = header.address_family == AddressFamily::Inet6;
        let mut routes = Vec::new();
        for (ifindex, gateway) in hops {
            let route = Self { ifindex, metric, v6, gateway };
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
        routes
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

impl Netlink {
    /// The default routes of both families.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn default_routes(&self) -> Result<Vec<DefaultRoute>, Error> {
        // Without a family the kernel answers for all of them.
        let answers = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answers.iter().flat_map(DefaultRoute::from_answer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::route::RouteNextHop;

    fn answer(attributes: Vec<RouteAttribute>) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        RouteNetlinkMessage::NewRoute(message)
    }

    fn via(last: u8) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, last].into()))
    }

    fn hop(interface_index: u32, last: u8) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        (hop.interface_index, hop.attributes) = (interface_index, vec![via(last)]);
        hop
    }

    fn found(attributes: Vec<RouteAttribute>) -> Vec<(u32, u32, String)> {
        let routes = DefaultRoute::from_answer(&answer(attributes));
        routes
            .iter()
            .map(|route| (route.ifindex, route.metric, route.gateway.map(|gateway| gateway.to_string()).unwrap_or_default()))
            .collect()
    }

    #[test]
    fn each_next_hop_has_its_interface_and_its_gateway() {
        let multipath = RouteAttribute::MultiPath(vec![hop(2, 2), hop(2, 3), hop(3, 4), hop(2, 2)]);
        let all = [(2, "192.0.2.2"), (2, "192.0.2.3"), (3, "192.0.2.4")].map(|(index, gateway)| (index, 100, gateway.to_owned()));
        assert_eq!(found(vec![RouteAttribute::Priority(100), multipath]), all);
        assert_eq!(found(vec![RouteAttribute::Oif(2), via(2)]), [(2, 0, "192.0.2.2".to_owned())]);
        assert_eq!(found(vec![RouteAttribute::Oif(2)]), [(2, 0, String::new())]);
        assert_eq!(found(vec![RouteAttribute::Oif(2), via(2), RouteAttribute::Table(100)]), []);
    }
}
