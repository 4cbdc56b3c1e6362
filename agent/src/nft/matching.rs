//! Remote ends as the expressions of rules. No I/O.

use super::expression::{Expression, Header, compare, load, load_bytes, mask};
use ipnet::IpNet;
use netlink_packet_netfilter::nftables::{MetaKey, Operator};
use netloss_contract::{Endpoint, Protocol};

/// `ETH_P_IP`, `ETH_P_IPV6` and `ETH_P_ARP` (include/uapi/linux/if_ether.h).
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_ARP: u16 = 0x0806;

/// `IPPROTO_*` (include/uapi/linux/in.h, in6.h).
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;

/// ICMPv6 types of neighbour discovery, from router solicitation to redirect (RFC 4861, section 4).
const NDP: [u8; 2] = [133, 137];

/// Which end of a packet is the remote one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remote {
    /// Of what is received.
    Source,
    /// Of what is sent.
    Destination,
}

/// The matches that an end needs, each for a rule of its own: a packet is of the end where one of them holds.
pub(super) fn of_end(end: &Endpoint, remote: Remote) -> Vec<Vec<Expression>> {
    let v6 = end.network.map(|network| matches!(network, IpNet::V6(_)));
    let protocols: &[u8] = match (end.protocol, v6) {
        (Some(Protocol::Tcp), _) => &[IPPROTO_TCP],
        (Some(Protocol::Udp), _) => &[IPPROTO_UDP],
        (Some(Protocol::Icmp), Some(false)) => &[IPPROTO_ICMP],
        (Some(Protocol::Icmp), Some(true)) => &[IPPROTO_ICMPV6],
        (Some(Protocol::Icmp), None) => &[IPPROTO_ICMP, IPPROTO_ICMPV6],
        (None, _) if end.ports.is_some() => &[IPPROTO_TCP, IPPROTO_UDP],
        (None, _) => return vec![of_network(end.network, remote)],
    };
    protocols
        .iter()
        .map(|protocol| {
            let mut matches = of_network(end.network, remote);
            matches.extend([load(MetaKey::L4Proto), compare(Operator::Equal, &[*protocol])]);
            if let Some(ports) = &end.ports {
                // TCP and UDP both begin with the source port and the destination port.
                let offset = if remote == Remote::Source { 0 } else { 2 };
                matches.push(load_bytes(Header::Transport, offset, 2));
                matches.push(compare(Operator::GreatherThanEqual, &ports.start().to_be_bytes()));
                matches.push(compare(Operator::LessThanEqual, &ports.end().to_be_bytes()));
            }
            matches
        })
        .collect()
}

fn of_network(network: Option<IpNet>, remote: Remote) -> Vec<Expression> {
    let Some(network) = network else { return Vec::new() };
    // Offsets in the headers: RFC 791, section 3.1, and RFC 8200, section 3.
    let (ethertype, source, address, netmask) = match network {
        IpNet::V4(net) => (ETH_P_IP, 12, net.addr().octets().to_vec(), net.netmask().octets().to_vec()),
        IpNet::V6(net) => (ETH_P_IPV6, 8, net.addr().octets().to_vec(), net.netmask().octets().to_vec()),
    };
    let mut matches = is_protocol(ethertype).to_vec();
    if network.prefix_len() > 0 {
        let length = if matches!(network, IpNet::V4(_)) { 4 } else { 16 };
        matches.push(load_bytes(Header::Network, if remote == Remote::Source { source } else { source + length }, length));
        if network.prefix_len() < network.max_prefix_len() {
            matches.push(mask(&netmask));
        }
        matches.push(compare(Operator::Equal, &address));
    }
    matches
}

fn is_protocol(ethertype: u16) -> [Expression; 2] {
    [load(MetaKey::EtherTypeProtocol), compare(Operator::Equal, &ethertype.to_be_bytes())]
}

/// The matches of what finds neighbours, each for a rule of its own: ARP, and NDP.
pub(super) fn neighbours() -> [Vec<Expression>; 2] {
    let [first, last] = NDP;
    let ndp = vec![
        load(MetaKey::L4Proto),
        compare(Operator::Equal, &[IPPROTO_ICMPV6]),
        load_bytes(Header::Transport, 0, 1),
        compare(Operator::GreatherThanEqual, &[first]),
        compare(Operator::LessThanEqual, &[last]),
    ];
    [is_protocol(ETH_P_ARP).to_vec(), ndp]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(end: &str) -> usize {
        let rules = of_end(&end.parse().unwrap(), Remote::Source);
        assert_eq!(rules.len(), of_end(&end.parse().unwrap(), Remote::Destination).len());
        rules.len()
    }

    #[test]
    fn an_end_is_as_many_rules_as_it_has_protocols() {
        for (end, expected) in
            [("any", 1), ("10.0.0.0/8", 1), ("10.0.0.0/8/tcp", 1), ("10.0.0.0/8:80", 2), ("any:53/udp", 1), ("any/icmp", 2)]
        {
            assert_eq!(rules(end), expected, "{end}");
        }
        assert_eq!(rules("2001:db8::/32/icmp"), 1);
    }

    #[test]
    fn everything_needs_no_match_and_all_of_a_family_only_that() {
        let matches = |end: &str| of_end(&end.parse().unwrap(), Remote::Source)[0].len();
        assert_eq!(matches("any"), 0);
        assert_eq!(matches("0.0.0.0/0"), 2);
        assert_eq!(matches("10.0.0.0/8"), 5);
        assert_eq!(matches("10.0.0.1"), 4);
    }
}
