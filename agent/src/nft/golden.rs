//! The messages of a ruleset against those that nft sends for the same rules. `golden/NAME.nft` is nft's input and `golden/NAME.hex` what it sent;
//! `golden/capture` writes the second from the first, with the command and the versions in its first line.
//!
//! Compared are the trees of attributes, and of a rule the expressions in their order. Attributes of one level have no order. Each difference that is
//! meant is named below, with its reason; any other one fails.

use super::ruleset::{Egress, EgressHook, Element, Message, PeerFilter, Ruleset};
use crate::netlink::Handle;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NlaBuffer, NlasIterator};
use std::time::Duration;

/// `NFT_MSG_*` behind `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/nf_tables.h).
const NEW_TABLE: u16 = 0xa00;
const NEW_CHAIN: u16 = 0xa03;
const NEW_RULE: u16 = 0xa06;
const NEW_SET: u16 = 0xa09;
const NEW_ELEMENT: u16 = 0xa0c;
const DELETE_ELEMENT: u16 = 0xa0e;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` (include/uapi/linux/netfilter/nfnetlink.h).
const BATCH: [u16; 2] = [0x10, 0x11];

/// `NFTA_RULE_EXPRESSIONS`.
const EXPRESSIONS: u16 = 4;

/// `NFTA_SET_ID`: a number for the set within the transaction. nft counts; the agent, whose rules name the set by its name, gives each the number 1.
const SET_ID: &str = "10=";

/// `return`: an immediate with the verdict register and `NFT_RETURN`, -5.
const RETURN: &str = "immediate{1=00000000 2{2{1=fffffffb}}}";

/// `meta nfproto`: `NFT_META_NFPROTO` into register 1.
const NFPROTO: &str = "meta{1=00000001 2=0000000f}";

/// `NFTA_CMP_OP` with `NFT_CMP_EQ`, `NFT_CMP_LTE` and `NFT_CMP_GTE`, on register 1.
const EQUAL: &str = "cmp{1=00000001 2=00000000 ";
const AT_MOST: &str = "cmp{1=00000001 2=00000003 ";
const AT_LEAST: &str = "cmp{1=00000001 2=00000005 ";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    kind: u16,
    flags: u16,
    /// `struct nfgenmsg` (family, version, resource), the attributes, and of a rule its expressions.
    lines: Vec<String>,
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()).collect()
}

/// The attributes of one level, by their kinds; those of one kind, as a list has them, stay in their order.
fn attributes(bytes: &[u8]) -> Vec<NlaBuffer<&[u8]>> {
    let mut attributes: Vec<_> = NlasIterator::new(bytes).map(Result::unwrap).collect();
    attributes.sort_by_key(NlaBuffer::kind);
    attributes
}

fn shown(attribute: &NlaBuffer<&[u8]>) -> String {
    let (kind, value) = (attribute.kind(), attribute.value());
    if attribute.nested_flag() {
        let inner: Vec<String> = attributes(value).iter().map(shown).collect();
        format!("{kind}{{{}}}", inner.join(" "))
    } else {
        format!("{kind}={}", hex(value))
    }
}

/// An expression of a rule by its name, which is an attribute too: `counter{}`.
fn expression(element: &NlaBuffer<&[u8]>) -> String {
    let parts = attributes(element.value());
    let name = std::str::from_utf8(parts[0].value()).unwrap().trim_end_matches('\0');
    let data: Vec<String> = parts[1..].iter().flat_map(|data| attributes(data.value())).map(|attribute| shown(&attribute)).collect();
    format!("{name}{{{}}}", data.join(" "))
}

impl Sent {
    fn read(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let kind = half(4);
        let mut lines = vec![hex(&bytes[16..20])];
        for attribute in attributes(&bytes[20..]) {
            if kind == NEW_RULE && attribute.kind() == EXPRESSIONS {
                lines.extend(attributes(attribute.value()).iter().map(expression));
            } else {
                lines.push(shown(&attribute));
            }
        }
        Self { kind, flags: half(6), lines }
    }

    /// Without what the kernel needs of nft alone.
    fn of_nft(mut self) -> Self {
        match self.kind {
            // NFTA_SET_USERDATA: how nft prints the set again.
            NEW_SET => self.lines.retain(|line| !line.starts_with(SET_ID) && !line.starts_with("13=")),
            // NFTA_SET_ELEM_LIST_SET_ID and NFTA_LOOKUP_SET_ID: a set of the same transaction by its number. The kernel looks for its name too.
            NEW_ELEMENT | DELETE_ELEMENT => self.lines.retain(|line| !line.starts_with("4=")),
            NEW_RULE => {
                for line in self.lines.iter_mut().filter(|line| line.starts_with("lookup{")) {
                    let (kept, _) = line.split_once(" 4=").unwrap();
                    *line = format!("{kept}}}");
                }
                // In an inet table nft makes sure of IPv4 twice, by the EtherType that it was given and by `meta nfproto`.
                if let Some(place) = self.lines.iter().position(|line| line == NFPROTO) {
                    assert_eq!(self.lines[place + 1], format!("{EQUAL}3{{1=02}}}}"));
                    self.lines.drain(place..place + 2);
                }
            }
            _ => {}
        }
        self
    }

    /// With nft's forms where the agent's means the same.
    fn of_agent(mut self) -> Self {
        if self.kind == NEW_SET {
            self.lines.retain(|line| !line.starts_with(SET_ID));
        }
        // The agent ends each rule with `return`. Behind `fwd`, which has taken the packet away, nft refuses a statement.
        if let [.., fwd, last] = self.lines.as_slice()
            && fwd.starts_with("fwd{")
        {
            assert_eq!(last, RETURN);
            self.lines.pop();
        }
        // One port is a range for the agent.
        for place in 1..self.lines.len() {
            if let (Some(first), Some(last)) = (self.lines[place - 1].strip_prefix(AT_LEAST), self.lines[place].strip_prefix(AT_MOST))
                && first == last
            {
                self.lines[place] = format!("{EQUAL}{last}");
                self.lines.remove(place - 1);
                return self;
            }
        }
        self
    }
}

fn agent(messages: Vec<Message>) -> Vec<Sent> {
    let sent = messages.into_iter().map(|mut message| {
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut sent = Sent::read(&bytes);
        // nft asks for no acknowledgments, and takes an object that is already there: a table without NLM_F_CREATE, which nf_tables ignores.
        let more = match sent.kind {
            NEW_TABLE => NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE,
            NEW_SET | NEW_CHAIN => NLM_F_ACK | NLM_F_EXCL,
            _ => NLM_F_ACK,
        };
        assert_eq!(sent.flags & more, more, "{sent:?}");
        sent.flags &= !more;
        sent.of_agent()
    });
    sent.collect()
}

fn nft(captured: &str) -> Vec<Sent> {
    let lines = captured.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| Sent::read(&bytes(line))).filter(|sent| !BATCH.contains(&sent.kind)).map(Sent::of_nft).collect()
}

/// nft makes all tables, then all chains, all sets and so on; the agent a table with its lease, then the chains with their rules. Within a kind the order is
/// the same, that of rules too.
fn by_kind(mut messages: Vec<Sent>) -> Vec<Sent> {
    messages.sort_by_key(|sent| sent.kind);
    messages
}

/// Message by message, so that a difference shows only what differs.
fn same(agent: &[Sent], nft: &[Sent]) {
    for (place, (agent, nft)) in agent.iter().zip(nft).enumerate() {
        assert_eq!(agent, nft, "message {place}");
    }
    assert_eq!(agent.len(), nft.len());
}

fn ends(ends: &[&str]) -> Vec<netloss_contract::Endpoint> {
    ends.iter().map(|end| end.parse().unwrap()).collect()
}

/// Everything in both directions with the device's hooks, as in golden/device.nft.
fn device() -> Ruleset {
    let egress = Some(Egress { hook: EgressHook::Device, class: Handle(0x7a11_0004) });
    Ruleset { owned: true, interface: "eth0".to_owned(), ingress: Some(7), egress, ends: PeerFilter::default() }
}

#[test]
fn creates_the_tables_hooks_lease_and_rules_of_nft() {
    same(&by_kind(agent(device().creation(Duration::from_secs(10)))), &by_kind(nft(include_str!("golden/device.hex"))));
}

#[test]
fn creates_the_postrouting_hook_of_nft() {
    let egress = Some(Egress { hook: EgressHook::Postrouting, class: Handle(0x7a15_0002) });
    let ends = PeerFilter { targets: ends(&["10.128.0.0/9"]), ..PeerFilter::default() };
    let ruleset = Ruleset { owned: false, egress, ends, ..device() };
    same(&by_kind(agent(ruleset.creation(Duration::from_millis(1500)))), &by_kind(nft(include_str!("golden/postrouting.hex"))));
}

#[test]
fn creates_the_filters_of_nft_in_both_directions() {
    let ends = PeerFilter {
        targets: ends(&[
            "10.128.0.0/9",
            "192.0.2.7:8000-8999/tcp",
            "fd00:1234::/33",
            "[2001:db8::1]:5000-6000/udp",
            "any:80-443",
            "any/icmp",
            "0.0.0.0/0",
            "::/0",
            "any/tcp",
        ]),
        spares: ends(&["198.51.100.128/25/icmp", "2001:db8:8000::/33/icmp", "any:53/udp"]),
        spare_neighbour: true,
    };
    let ruleset = Ruleset { ends, ..device() };
    same(&by_kind(agent(ruleset.creation(Duration::from_secs(10)))), &by_kind(nft(include_str!("golden/filters.hex"))));
}

#[test]
fn changes_the_lease_as_nft_does() {
    let (ruleset, milliseconds) = (device(), Duration::from_millis);
    let messages = [
        ruleset.replacement(Element::Ready, Element::Armed, milliseconds(10_000)),
        ruleset.ticket(milliseconds(50)),
        ruleset.renewal_in_time(Element::Armed, milliseconds(7000)),
        // The shortest lease, as a timeout of 0 never comes.
        ruleset.replacement(Element::Armed, Element::Ready, milliseconds(0)),
        ruleset.release(),
        ruleset.removal(),
    ];
    same(&agent(messages.concat()), &nft(include_str!("golden/lease.hex")));
}
