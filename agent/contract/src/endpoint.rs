//! Remote ends of traffic: which packets are lost, and which are spared.

use crate::Invalid;
use ipnet::IpNet;
use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

/// The remote end of traffic, whichever way it goes: `CIDR[:PORT[-PORT]][/PROTO]`.
///
/// * `10.0.0.0/8`, `192.0.2.7`: a network or an address; with `any` in its place, every one of both families;
/// * `10.0.0.0/8:443`, `192.0.2.7:8000-8999`: of these only the port, of tcp and udp;
/// * `10.0.0.0/8/udp`, `any:53/udp`, `any/icmp`: of these only the protocol. For IPv6 `icmp` is ICMPv6;
/// * `[2001:db8::/32]:443/tcp`: an IPv6 network in brackets, where a port follows.
///
/// Ports are in the first fragment of a datagram only, so the other fragments match no end with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses; none for every one.
    pub network: Option<IpNet>,
    /// Its ports; none for every one.
    pub ports: Option<RangeInclusive<u16>>,
    /// Its protocol; none for every one, or with ports for tcp and udp.
    pub protocol: Option<Protocol>,
}

/// A protocol that a filter knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, and for IPv6 ICMPv6.
    Icmp,
}

impl Protocol {
    /// As it is written in arguments and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl Endpoint {
    /// Everything that one address sends or receives.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self { network: Some(address.into()), ports: None, protocol: None }
    }
}

/// What stands for every address.
const ANY: &str = "any";

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let malformed = |why: &str| {
            Invalid::new(format!(
                "\"{text}\" {why}: give CIDR[:PORT[-PORT]][/PROTO], such as 10.0.0.0/8, 192.0.2.7:443/tcp, [2001:db8::/32]:80-90 or any:53/udp"
            ))
        };
        // A prefix length is made of digits, a protocol is not.
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, last)) if !last.starts_with(|c: char| c.is_ascii_digit()) => {
                let protocol = match last {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    "icmp" => Protocol::Icmp,
                    other => return Err(malformed(&format!("has the protocol \"{other}\", which is none of tcp, udp and icmp"))),
                };
                (rest, Some(protocol))
            }
            _ => (text, None),
        };
        let (network, ports) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (network, tail) = bracketed.split_once(']').ok_or_else(|| malformed("has no closing bracket"))?;
            match tail.strip_prefix(':') {
                Some(ports) => (network, Some(ports)),
                None if tail.is_empty() => (network, None),
                None => return Err(malformed("goes on after the bracket without a colon")),
            }
        } else if rest.matches(':').count() == 1 {
            rest.split_once(':').map_or((rest, None), |(network, ports)| (network, Some(ports)))
        } else {
            (rest, None)
        };
        let ports =
            ports.map(|ports| parse_ports(ports).ok_or_else(|| malformed("has a port that is none from 1 to 65535"))).transpose()?;
        if ports.is_some() && protocol == Some(Protocol::Icmp) {
            return Err(malformed("has a port, which icmp has not"));
        }
        let network = if network == ANY { None } else { Some(parse_network(network).map_err(|why| malformed(&why))?) };
        Ok(Self { network, ports, protocol })
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    // No sign, and no port 0.
    let port = |text: &str| text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|port| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| format!("has no address or network in \"{text}\""))?,
    };
    if network.trunc() != network {
        return Err(format!("has an address with bits behind its prefix, where {} would be the network", network.trunc()));
    }
    Ok(network)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.network {
            None => f.write_str(ANY)?,
            Some(network) => {
                let whole = network.prefix_len() == network.max_prefix_len();
                let words = if whole { network.addr().to_string() } else { network.to_string() };
                let brackets = matches!(network, IpNet::V6(_)) && self.ports.is_some();
                if brackets { write!(f, "[{words}]")? } else { f.write_str(&words)? }
            }
        }
        if let Some(ports) = &self.ports {
            write!(f, ":{}", ports.start())?;
            if ports.start() != ports.end() {
                write!(f, "-{}", ports.end())?;
            }
        }
        if let Some(protocol) = self.protocol { write!(f, "/{}", protocol.as_str()) } else { Ok(()) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::{option, prelude::*};

    #[test]
    fn ends_read_as_they_are_documented() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("192.0.2.7:8000-8999/tcp", "192.0.2.7:8000-8999/tcp"),
            ("192.0.2.7:80-80", "192.0.2.7:80"),
            ("10.0.0.0/8/udp", "10.0.0.0/8/udp"),
            ("any", "any"),
            ("any:53/udp", "any:53/udp"),
            ("any/icmp", "any/icmp"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1/icmp", "2001:db8::1/icmp"),
            ("[2001:db8::/32]:443/tcp", "[2001:db8::/32]:443/tcp"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("0.0.0.0/0:443", "0.0.0.0/0:443"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_value_and_the_way_out() {
        for bad in [
            "",
            "/",
            ":",
            ":80",
            "any:",
            "any:0",
            "any:65536",
            "any:90-80",
            "any:+80",
            "any:80-",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0/8",
            "2001:db8::1/64",
            "2001:db8::/129",
            "[2001:db8::/32",
            "[2001:db8::/32]443",
            "10.0.0.0/8/sctp",
            "10.0.0.0/8/",
            "any:80/icmp",
            "example.com",
            "example.com:443",
            "10.0.0.0/8:http",
            "10.0.0.0/8:1:2",
            "any/tcp/udp",
            "10.0.0.0/08:1/x",
        ] {
            let error = bad.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(&format!("\"{bad}\"")) && error.contains("CIDR[:PORT[-PORT]][/PROTO]"), "{bad}: {error}");
        }
        let error = "10.0.0.1/8".parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/8 would be the network"), "{error}");
    }

    /// Any end that can be written.
    pub(crate) fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        let network = prop_oneof![
            (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap().trunc())),
            (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| IpNet::V6(Ipv6Net::new(bits.into(), length).unwrap().trunc())),
        ];
        let ports = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| a.min(b)..=a.max(b));
        let with_ports = (Just(()), ports, option::of(prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]))
            .prop_map(|((), ports, protocol)| (Some(ports), protocol));
        let without = option::of(prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Icmp)]).prop_map(|p| (None, p));
        (option::of(network), prop_oneof![with_ports, without]).prop_map(|(network, (ports, protocol))| Endpoint {
            network,
            ports,
            protocol,
        })
    }

    proptest! {
        #[test]
        fn a_written_end_reads_back(end in any_endpoint()) {
            prop_assert_eq!(end.to_string().parse::<Endpoint>().unwrap(), end);
        }

        #[test]
        fn no_text_makes_a_panic(text in "[a-z0-9:/.\\[\\]-]{0,40}") {
            let _ = text.parse::<Endpoint>();
        }
    }
}
