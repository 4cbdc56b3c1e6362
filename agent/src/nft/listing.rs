//! What nf_tables lists: of tables and rules the part that is ours (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Read attribute by attribute: netlink-packet-netfilter writes each list into a text, in case it cannot be read, which is nineteen
//! twentieths of what its reading of a rule takes. With a hundred filters that was most of a heartbeat.

use super::expression::COUNTER;
use super::ruleset::{EGRESS_CHAIN, INGRESS_CHAIN, TABLE};
use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NlasIterator};
use netlink_packet_netfilter::NetfilterProtoFamily;

/// `NFT_MSG_NEWTABLE`, `NFT_MSG_NEWRULE` and `NFT_MSG_NEWSETELEM`, in the subsystem.
/// `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;

const NEW_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const NEW_RULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;
const NEW_ELEMENTS: u16 = NFNL_SUBSYS_NFTABLES << 8 | 0xc;

/// `struct nfgenmsg` in bytes, of which the first is the family.
const GENERAL: usize = 4;

/// `struct nlattr` in bytes, before the value.
const ATTRIBUTE: usize = 4;

/// `NFTA_TABLE_NAME`, `NFTA_TABLE_FLAGS`, and `NFT_TABLE_F_OWNER` in those.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const OWNER: u32 = 2;

/// `NFTA_RULE_*`.
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// `NFTA_SET_ELEM_LIST_*`.
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS: u16 = 3;

/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA` and `NFTA_COUNTER_PACKETS`.
const ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;

/// One table or rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// A table that bears our mark.
    Table {
        /// Its family.
        family: NetfilterProtoFamily,
        /// Whether it goes with the socket that made it.
        owned: bool,
    },
    /// A rule of ours.
    Rule {
        /// Which way it loses packets.
        way: Way,
        /// How many packets it has counted.
        packets: u64,
    },
    /// Elements of a set of ours that have not expired: the lease's.
    Lease,
    /// Somebody else's, or something else.
    Other,
}

/// Which way packets go, seen from the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Received.
    In,
    /// Sent.
    Out,
}

impl NetlinkDeserializable for Listed {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let Some((general, attributes)) = payload.split_at_checked(GENERAL) else { return Ok(Self::Other) };
        Ok(match header.message_type {
            NEW_TABLE if first(attributes, TABLE_NAME).is_some_and(|name| is(name, TABLE)) => {
                let flags = first(attributes, TABLE_FLAGS).and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_be_bytes);
                Self::Table { family: NetfilterProtoFamily::from(general[0]), owned: flags & OWNER != 0 }
            }
            NEW_RULE => rule(attributes).unwrap_or(Self::Other),
            NEW_ELEMENTS if first(attributes, ELEMENTS_TABLE).is_some_and(|table| is(table, TABLE)) => {
                let elements = first(attributes, ELEMENTS).unwrap_or_default();
                if all(elements).any(|(kind, _)| kind == ELEMENT) { Self::Lease } else { Self::Other }
            }
            _ => Self::Other,
        })
    }
}

/// None where it is not ours.
fn rule(attributes: &[u8]) -> Option<Listed> {
    first(attributes, RULE_TABLE).filter(|table| is(table, TABLE))?;
    let chain = first(attributes, RULE_CHAIN)?;
    let way = if is(chain, INGRESS_CHAIN) {
        Way::In
    } else if is(chain, EGRESS_CHAIN) {
        Way::Out
    } else {
        return None;
    };
    let expressions = first(attributes, RULE_EXPRESSIONS).unwrap_or_default();
    let packets = all(expressions).filter(|(kind, _)| *kind == ELEMENT).filter_map(|(_, expression)| counted(expression));
    Some(Listed::Rule { way, packets: packets.fold(0, u64::saturating_add) })
}

/// The packets that an expression has counted, if it is a counter.
fn counted(expression: &[u8]) -> Option<u64> {
    first(expression, EXPRESSION_NAME).filter(|name| is(name, COUNTER))?;
    let packets = first(first(expression, EXPRESSION_DATA)?, COUNTER_PACKETS)?;
    Some(u64::from_be_bytes(packets.try_into().ok()?))
}

/// Kinds and values of attributes, up to the first that is none.
fn all(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(attributes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, end) = (attribute.kind(), ATTRIBUTE + attribute.value_length());
        Some((kind, attribute.into_inner().get(ATTRIBUTE..end)?))
    })
}

/// The value of the first attribute of a kind.
pub(super) fn first(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    all(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Whether an attribute is that text, which the kernel ends with a zero.
fn is(value: &[u8], text: &str) -> bool {
    value.strip_suffix(&[0]).unwrap_or(value) == text.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::{Egress, EgressHook, Element, Message, PeerFilter, Ruleset};
    use super::*;
    use crate::netlink::Handle;
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

    fn read(bytes: &[u8]) -> Listed {
        match NetlinkMessage::<Listed>::deserialize(bytes).unwrap().payload {
            NetlinkPayload::InnerMessage(listed) => listed,
            other => panic!("{other:?}"),
        }
    }

    fn bytes(mut message: Message) -> Vec<u8> {
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// What makes a table or a rule is what lists it.
    #[test]
    fn what_we_make_is_ours() {
        for owned in [true, false] {
            let egress = Some(Egress { hook: EgressHook::Device, class: Handle(0x7a11_0004) });
            let ruleset = Ruleset { owned, interface: "eth0".to_owned(), ingress: Some(7), egress, ends: PeerFilter::default() };
            let made: Vec<_> =
                ruleset.creation(std::time::Duration::from_secs(1)).into_iter().map(|message| read(&bytes(message))).collect();
            let (table, family) = (Listed::Table { family: NetfilterProtoFamily::NetDev, owned }, Listed::Other);
            let rule = |way| Listed::Rule { way, packets: 0 };
            assert_eq!(made, [table, family, Listed::Lease, family, rule(Way::In), family, rule(Way::Out)]);
        }
    }

    /// What fills a lease is what lists it.
    #[test]
    fn a_lease_that_is_not_empty_is_listed() {
        let ruleset = Ruleset { owned: true, interface: "eth0".to_owned(), ingress: Some(7), egress: None, ends: PeerFilter::default() };
        let read_all = |messages: Vec<Message>| messages.into_iter().map(|message| read(&bytes(message))).collect::<Vec<_>>();
        let second = std::time::Duration::from_secs(1);
        for element in [Element::Armed, Element::Ready, Element::Ticket] {
            let filled = ruleset.replacement(Element::Armed, element, second).pop().into_iter().collect();
            assert_eq!(read_all(filled), [Listed::Lease]);
        }
        assert_eq!(read_all(ruleset.release()), [Listed::Other]);
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn listed_rule(table: &str, chain: &str, counters: &[u64]) -> Listed {
        // NFTA_COUNTER_BYTES comes first, and other expressions have attributes of the same numbers.
        let counter = |packets: &u64| {
            let data = [attribute(1, &9_u64.to_be_bytes()), attribute(COUNTER_PACKETS, &packets.to_be_bytes())].concat();
            let meta = [attribute(EXPRESSION_NAME, b"meta\0"), attribute(EXPRESSION_DATA, &data)].concat();
            let counter = [attribute(EXPRESSION_NAME, b"counter\0"), attribute(EXPRESSION_DATA, &data)].concat();
            [attribute(ELEMENT, &meta), attribute(ELEMENT, &counter)].concat()
        };
        let expressions: Vec<u8> = counters.iter().flat_map(counter).collect();
        let name = |name: &str| [name.as_bytes(), &[0]].concat();
        let rule = [attribute(RULE_TABLE, &name(table)), attribute(RULE_CHAIN, &name(chain)), attribute(RULE_EXPRESSIONS, &expressions)];
        let payload = [vec![5, 0, 0, 0], rule.concat()].concat();
        let mut header = NetlinkHeader::default();
        header.message_type = NEW_RULE;
        Listed::deserialize(&header, &payload).unwrap()
    }

    #[test]
    fn a_rule_tells_what_its_counters_have_counted() {
        assert_eq!(listed_rule(TABLE, INGRESS_CHAIN, &[3, 1 << 40]), Listed::Rule { way: Way::In, packets: 3 + (1 << 40) });
        assert_eq!(listed_rule(TABLE, EGRESS_CHAIN, &[u64::MAX, 1]), Listed::Rule { way: Way::Out, packets: u64::MAX });
        assert_eq!(listed_rule(TABLE, EGRESS_CHAIN, &[]), Listed::Rule { way: Way::Out, packets: 0 });
        assert_eq!(listed_rule(TABLE, "others", &[3]), Listed::Other);
        assert_eq!(listed_rule("filter", EGRESS_CHAIN, &[3]), Listed::Other);
    }
}
