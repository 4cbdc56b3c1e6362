//! Which packets are lost, of what was asked for and what is there. Pure.

use crate::{netlink::DefaultRoute, nft::PeerFilter};
use netloss_contract::{Endpoint, Filtered, Filters};
use std::net::IpAddr;

/// The ends that the filters mean on an interface.
///
/// The kubelet's probes come from one of the node's addresses, or, where the node is a router of the pod's own subnet (a bridge), from the
/// address that is the pod's default gateway: who spares the node spares that too.
#[must_use]
pub fn resolve(filters: &Filters, routes: &[DefaultRoute], ifindex: u32) -> PeerFilter {
    let spares = filters
        .spares
        .iter()
        .cloned()
        .chain(filters.spare_node.iter().copied().chain(gateways(filters, routes, ifindex)).map(Endpoint::of_address));
    PeerFilter { targets: filters.targets.clone(), spares: spares.collect(), spare_neighbour: filters.spare_neighbour }
}

/// The same, in words.
#[must_use]
pub fn describe(filters: &Filters, routes: &[DefaultRoute], ifindex: u32) -> Filtered {
    let named = filters.spares.iter().map(ToString::to_string);
    let node = filters.spare_node.iter().map(|address| format!("{address} (the node)"));
    let gateway = gateways(filters, routes, ifindex).map(|address| format!("{address} (the default gateway)"));
    let neighbour = filters.spare_neighbour.then(|| "ARP and NDP".to_owned());
    Filtered {
        targets: filters.targets.iter().map(ToString::to_string).collect(),
        spared: named.chain(node).chain(gateway).chain(neighbour).collect(),
    }
}

fn gateways<'a>(filters: &'a Filters, routes: &'a [DefaultRoute], ifindex: u32) -> impl Iterator<Item = IpAddr> + 'a {
    let of_node = !filters.spare_node.is_empty();
    let ours = routes.iter().filter(move |route| of_node && route.ifindex == ifindex);
    ours.filter_map(|route| route.gateway).filter(|gateway| !filters.spare_node.contains(gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Vec<DefaultRoute> {
        let via = |ifindex, gateway: &str| DefaultRoute { ifindex, gateway: Some(gateway.parse().unwrap()), ..DefaultRoute::default() };
        vec![via(2, "10.244.0.1"), via(2, "fd00::1"), via(3, "192.0.2.1")]
    }

    #[test]
    fn who_spares_the_node_spares_the_gateways_of_the_interface() {
        let filters = Filters { spare_node: vec!["172.18.0.2".parse().unwrap(), "fd00::1".parse().unwrap()], ..Filters::default() };
        let ends = resolve(&filters, &routes(), 2);
        let spares: Vec<_> = ends.spares.iter().map(ToString::to_string).collect();
        assert_eq!(spares, ["172.18.0.2", "fd00::1", "10.244.0.1"]);
        let words = describe(&filters, &routes(), 2).spared;
        assert_eq!(words, ["172.18.0.2 (the node)", "fd00::1 (the node)", "10.244.0.1 (the default gateway)"]);
    }

    #[test]
    fn who_does_not_spares_nothing_unasked() {
        let filters = Filters { spare_neighbour: true, ..Filters::default() };
        assert_eq!(resolve(&filters, &routes(), 2), PeerFilter { spare_neighbour: true, ..PeerFilter::default() });
        assert_eq!(describe(&filters, &routes(), 2).spared, ["ARP and NDP"]);
        assert!(describe(&Filters::default(), &routes(), 2).is_empty());
    }
}
