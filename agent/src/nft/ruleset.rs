//! What the guard puts into nftables, as messages. No I/O.
//!
//! ```text
//! table netdev netloss { flags owner;
//!   set lease { type ifname; flags timeout; }
//!   chain in { type filter hook ingress device eth0 priority 2147483647; iifname @lease counter fwd to nl-in }
//!   chain eg { type filter hook egress  device eth0 priority 2147483647; oifname @lease counter meta priority set 7a11:4 } }
//! ```
//!
//! With filters there are rules before that one: spared ends leave the chain, and the last rule is there once for each target.
//!
//! Before 5.16 there is no egress hook; an inet table with a postrouting chain takes its place (IP only, no ARP).

use super::{
    expression::{Expression, counter, forward_to, is_in, leave, load, set_priority},
    matching::{self, Remote},
};
use crate::netlink::Handle;
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, DataAttribute, DevHookNumber, Hook, HookNumber, InetHookNumber, ListAttribute, MetaKey,
        NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementList, SetElementMessage, SetFlags,
        SetMessage, TableAttribute, TableFlags, TableMessage,
    },
};
use netloss_contract::Endpoint;
use std::time::Duration;

/// Name of our tables, in each family: the mark by which they are known.
pub const TABLE: &str = "netloss";

const LEASE: &str = "lease";
pub(super) const INGRESS_CHAIN: &str = "in";
pub(super) const EGRESS_CHAIN: &str = "eg";

/// nft's number for the type `ifname` (`TYPE_IFNAME` in nftables' datatype.h); the kernel only keeps it for nft to show.
const TYPE_IFNAME: u32 = 41;

/// `IFNAMSIZ`: an interface's name, padded with zeros.
const IFNAMSIZ: u32 = 16;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// Behind every other chain: what others drop or count, they still do.
const LAST: u32 = i32::MAX.cast_unsigned();

/// The shortest lease that is asked for. A timeout of 0 would mean that the element never expires, and the kernel rounds down to
/// jiffies, of up to 10 ms.
pub const SHORTEST_LEASE: Duration = Duration::from_millis(20);

/// Where egress packets are given their class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgressHook {
    /// The interface's own egress hook (5.16): everything that it sends.
    Device,
    /// IP's postrouting hook: not ARP.
    Postrouting,
}

/// Loss of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    /// Where.
    pub hook: EgressHook,
    /// The class whose qdisc is netem.
    pub class: Handle,
}

/// Which packets are lost, by their remote ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerFilter {
    /// These alone; empty for all.
    pub targets: Vec<Endpoint>,
    /// Never these, whatever the targets say.
    pub spares: Vec<Endpoint>,
    /// Never ARP and NDP.
    pub spare_neighbour: bool,
}

impl PeerFilter {
    /// The rules of a chain that `strike` the packets that are to be lost, in their order.
    fn rules(&self, remote: Remote, interface: MetaKey, strike: &[Expression]) -> Vec<Vec<Expression>> {
        let neighbours = self.spare_neighbour.then(matching::neighbours).into_iter().flatten();
        let spares = self.spares.iter().flat_map(|end| matching::of_end(end, remote));
        let passes = neighbours.chain(spares).map(|matches| [matches, vec![leave()]].concat());
        let all = self.targets.is_empty().then(Vec::new);
        let targets = all.into_iter().chain(self.targets.iter().flat_map(|end| matching::of_end(end, remote)));
        let leased = [load(interface), is_in(LEASE), counter()];
        // A packet of two targets is one packet.
        let struck = targets.map(|matches| [&matches, leased.as_slice(), strike, &[leave()]].concat());
        passes.chain(struck).collect()
    }
}

/// The guard of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Whether the tables go with the socket that makes them.
    pub owned: bool,
    /// The interface's name.
    pub interface: String,
    /// Index of the ifb that received packets are sent through.
    pub ingress: Option<u32>,
    /// Loss of what is sent.
    pub egress: Option<Egress>,
    /// Which packets.
    pub ends: PeerFilter,
}

/// What an element of the lease means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Packets are lost.
    Armed,
    /// None are, and the guard may be armed.
    Ready,
    /// Beside one of the others: a renewal that names this one may take effect.
    Ticket,
}

impl Element {
    /// Its key. No interface can be called as those of [`Self::Ready`] and [`Self::Ticket`] (`dev_valid_name`), so no packet finds them.
    fn key(self, interface: &str) -> DataAttribute {
        let name = match self {
            Self::Armed => interface,
            Self::Ready => "netloss/ready",
            Self::Ticket => "netloss/ticket",
        };
        let mut key = name.as_bytes().to_vec();
        key.resize(IFNAMSIZ as usize, 0);
        DataAttribute::Value(key)
    }
}

/// One message of a transaction.
pub type Message = NetlinkMessage<NetfilterMessage>;

impl Ruleset {
    /// The families in which there is a table.
    pub(super) fn families(&self) -> impl Iterator<Item = NetfilterProtoFamily> {
        let postrouting = self.egress.is_some_and(|egress| egress.hook == EgressHook::Postrouting);
        let device = self.ingress.is_some() || self.egress.is_some_and(|egress| egress.hook == EgressHook::Device);
        let netdev = device.then_some(NetfilterProtoFamily::NetDev);
        netdev.into_iter().chain(postrouting.then_some(NetfilterProtoFamily::Inet))
    }

    /// Makes everything. No packet is lost yet; for `ready` from now the guard may be armed ([`Self::replacement`] of [`Element::Ready`]), and no
    /// longer: there are no tables of which it is not known when they can lose nothing any more.
    #[must_use]
    pub fn creation(&self, ready: Duration) -> Vec<Message> {
        let made = |family| [self.table(family), lease(family), self.fill(family, Element::Ready, ready)];
        let mut messages: Vec<Message> = self.families().flat_map(made).collect();
        if let Some(ifb) = self.ingress {
            let hook = self.device_hook(DevHookNumber::Ingress);
            let rules = self.ends.rules(Remote::Source, MetaKey::Iifname, &forward_to(ifb));
            messages.extend(chain(NetfilterProtoFamily::NetDev, INGRESS_CHAIN, hook, rules));
        }
        if let Some(egress) = self.egress {
            let (family, hook) = match egress.hook {
                EgressHook::Device => (NetfilterProtoFamily::NetDev, self.device_hook(DevHookNumber::Egress)),
                EgressHook::Postrouting => {
                    let number = HookNumber::Inet(InetHookNumber::PostRouting);
                    (NetfilterProtoFamily::Inet, vec![Hook::Number(number), Hook::Priority(LAST)])
                }
            };
            let rules = self.ends.rules(Remote::Destination, MetaKey::Oifname, &set_priority(egress.class.0));
            messages.extend(chain(family, EGRESS_CHAIN, hook, rules));
        }
        messages
    }

    /// Puts one element in the place of another, for `timeout` from now: [`Element::Ready`] for itself keeps the guard ready, [`Element::Armed`]
    /// for [`Element::Ready`] arms it, for itself keeps it armed, and the reverse disarms it so that it may be armed again. At once for all packets,
    /// with none slipping through in between.
    ///
    /// Refused (ENOENT) where the element that is replaced is not there any more: a deletion fails where its element has expired, and with it the whole
    /// transaction. So an agent that was stopped cannot bring back a lease that has run out, wherever it was stopped.
    #[must_use]
    pub fn replacement(&self, old: Element, new: Element, timeout: Duration) -> Vec<Message> {
        self.families().flat_map(|family| [self.delete(family, old), self.fill(family, new, timeout)]).collect()
    }

    /// Lets a renewal take effect that comes within `timeout` from now.
    #[must_use]
    pub fn ticket(&self, timeout: Duration) -> Vec<Message> {
        self.families().map(|family| self.fill(family, Element::Ticket, timeout)).collect()
    }

    /// As [`Self::replacement`] by [`Element::Armed`], refused also where the ticket has expired: so the lease ends at the latest that long, and
    /// the ticket's time, after the ticket was made, wherever the agent was stopped in between.
    #[must_use]
    pub fn renewal_in_time(&self, old: Element, lease: Duration) -> Vec<Message> {
        let renew = |family| [self.delete(family, Element::Ticket), self.delete(family, old), self.fill(family, Element::Armed, lease)];
        self.families().flat_map(renew).collect()
    }

    /// Disarms the guard, in whatever state it is.
    #[must_use]
    pub fn release(&self) -> Vec<Message> {
        self.families().map(empty).collect()
    }

    fn delete(&self, family: NetfilterProtoFamily, element: Element) -> Message {
        let element = ListAttribute::Element(vec![SetElementAttribute::Key(element.key(&self.interface))]);
        elements(family, NfTablesMessage::DeleteSetElement, Some(SetElementList::Elements(vec![element])), 0)
    }

    fn fill(&self, family: NetfilterProtoFamily, element: Element, timeout: Duration) -> Message {
        let milliseconds = u64::try_from(timeout.max(SHORTEST_LEASE).as_millis()).unwrap_or(u64::MAX);
        let key = SetElementAttribute::Key(element.key(&self.interface));
        let element = ListAttribute::Element(vec![key, SetElementAttribute::Timeout(milliseconds)]);
        elements(family, NfTablesMessage::NewSetElement, Some(SetElementList::Elements(vec![element])), NLM_F_CREATE)
    }

    /// Takes everything away.
    #[must_use]
    pub fn removal(&self) -> Vec<Message> {
        self.families().map(delete_table).collect()
    }

    fn table(&self, family: NetfilterProtoFamily) -> Message {
        let flags = if self.owned { TableFlags::Owner } else { TableFlags::default() };
        let attributes = vec![TableAttribute::Name(TABLE.to_owned()), TableAttribute::Flags(flags)];
        message(family, NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn device_hook(&self, hook: DevHookNumber) -> Vec<Hook> {
        vec![Hook::Number(HookNumber::Dev(hook)), Hook::Priority(LAST), Hook::NetDeviceName(self.interface.clone())]
    }
}

fn message(family: NetfilterProtoFamily, message: NfTablesMessage, flags: u16) -> Message {
    let mut message = NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message
}

fn lease(family: NetfilterProtoFamily) -> Message {
    let attributes = vec![
        SetAttribute::Table(TABLE.to_owned()),
        SetAttribute::Name(LEASE.to_owned()),
        SetAttribute::Flags(SetFlags::Timeout),
        SetAttribute::KeyType(TYPE_IFNAME),
        SetAttribute::KeyLen(IFNAMSIZ),
        SetAttribute::Id(1),
    ];
    message(family, NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE | NLM_F_EXCL)
}

fn chain(family: NetfilterProtoFamily, name: &str, hook: Vec<Hook>, rules: Vec<Vec<Expression>>) -> Vec<Message> {
    let chain = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(name.to_owned()),
        ChainAttribute::Hook(hook),
        ChainAttribute::Policy(ACCEPT),
        ChainAttribute::Type("filter".to_owned()),
    ];
    let chain = message(family, NfTablesMessage::NewChain(ChainMessage { attributes: chain }), NLM_F_CREATE | NLM_F_EXCL);
    let rules = rules.into_iter().map(|rule| {
        let attributes = [&[RuleAttribute::Expressions(rule)], in_chain(name).as_slice()].concat();
        message(family, NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
    });
    std::iter::once(chain).chain(rules).collect()
}

fn elements(
    family: NetfilterProtoFamily,
    kind: impl Fn(SetElementMessage) -> NfTablesMessage,
    elements: Option<SetElementList>,
    flags: u16,
) -> Message {
    let mut attributes = vec![SetElementList::Table(TABLE.to_owned()), SetElementList::Set(LEASE.to_owned())];
    attributes.extend(elements);
    message(family, kind(SetElementMessage { attributes }), flags)
}

/// Empties the lease of a family.
fn empty(family: NetfilterProtoFamily) -> Message {
    elements(family, NfTablesMessage::DeleteSetElement, None, 0)
}

fn in_chain(name: &str) -> [RuleAttribute; 2] {
    [RuleAttribute::Table(TABLE.to_owned()), RuleAttribute::Chain(name.to_owned())]
}

/// Asks for the rules of the chains of a ruleset.
pub(super) fn list_rules(family: NetfilterProtoFamily) -> Message {
    let attributes = vec![RuleAttribute::Table(TABLE.to_owned())];
    let mut message = message(family, NfTablesMessage::GetRule(RuleMessage { attributes }), 0);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message
}

/// Asks for all tables of all families.
pub(super) fn list_tables() -> Message {
    let mut message = message(NetfilterProtoFamily::Unspec, NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }), 0);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message
}

/// Asks for the elements of the lease of a family, which the kernel lists as long as they have not expired.
pub(super) fn list_lease(family: NetfilterProtoFamily) -> Message {
    let mut message = elements(family, NfTablesMessage::GetSetElement, None, 0);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message
}

/// Takes our table of a family away.
pub(super) fn delete_table(family: NetfilterProtoFamily) -> Message {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    message(family, NfTablesMessage::DeleteTable(TableMessage { attributes }), 0)
}

#[cfg(test)]
mod tests {
    use super::super::listing::first;
    use super::*;

    fn ruleset(hook: EgressHook) -> Ruleset {
        let egress = Some(Egress { hook, class: Handle(0x7a11_0004) });
        Ruleset { owned: true, interface: "eth0".to_owned(), ingress: Some(7), egress, ends: PeerFilter::default() }
    }

    const KEYS: [(Element, &str); 3] = [(Element::Armed, "eth0"), (Element::Ready, "netloss/ready"), (Element::Ticket, "netloss/ticket")];

    /// `NFT_MSG_NEWTABLE`, `NFT_MSG_NEWSETELEM` and `NFT_MSG_DELSETELEM` behind nf_tables' number.
    const NEW_TABLE: u16 = 0xa00;
    const NEW_ELEMENT: u16 = 0xa0c;
    const DELETE_ELEMENT: u16 = 0xa0e;

    /// A message's type, and its attributes as they are sent.
    fn written(message: &Message) -> (u16, Vec<u8>) {
        let mut message = message.clone();
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        // struct nlmsghdr and struct nfgenmsg.
        (u16::from_ne_bytes([bytes[4], bytes[5]]), bytes.split_off(16 + 4))
    }

    /// The only element of a message that adds or deletes one: its key, and its timeout in milliseconds (`NFTA_SET_ELEM_LIST_ELEMENTS`,
    /// `NFTA_LIST_ELEM`; `NFTA_SET_ELEM_KEY` with `NFTA_DATA_VALUE`, `NFTA_SET_ELEM_TIMEOUT`).
    fn element(attributes: &[u8]) -> Option<(Vec<u8>, Option<u64>)> {
        let element = first(first(attributes, 3)?, 1)?;
        let key = first(first(element, 1)?, 1)?.to_vec();
        Some((key, first(element, 4).map(|timeout| u64::from_be_bytes(timeout.try_into().unwrap()))))
    }

    /// The elements that messages delete and add, in their order.
    fn changes(messages: &[Message]) -> Vec<(bool, Element)> {
        let change = |message: &Message| {
            let (kind, attributes) = written(message);
            assert!([NEW_ELEMENT, DELETE_ELEMENT].contains(&kind), "{message:?}");
            let (key, _) = element(&attributes).unwrap_or_else(|| panic!("no element: {message:?}"));
            let name = String::from_utf8(key).unwrap();
            let (element, _) = KEYS.iter().find(|(_, key)| name.trim_end_matches('\0') == *key).unwrap_or_else(|| panic!("{name}"));
            (kind == NEW_ELEMENT, *element)
        };
        messages.iter().map(change).collect()
    }

    /// A renewal is refused where the element that it deletes has expired, so it deletes the very one that it renews, and empties nothing.
    #[test]
    fn a_renewal_needs_the_lease_that_it_renews() {
        let (ruleset, second) = (ruleset(EgressHook::Device), Duration::from_secs(1));
        for (old, _) in KEYS {
            for (new, _) in KEYS {
                assert_eq!(changes(&ruleset.replacement(old, new, second)), [(false, old), (true, new)]);
            }
            let in_time = [(false, Element::Ticket), (false, old), (true, Element::Armed)];
            assert_eq!(changes(&ruleset.renewal_in_time(old, second)), in_time);
        }
        assert_eq!(changes(&ruleset.ticket(second)), [(true, Element::Ticket)]);
    }

    /// Whoever sees tables without a live element knows that they lose nothing any more, from their first moment on.
    #[test]
    fn tables_are_made_with_the_time_until_which_they_may_be_armed() {
        for (hook, tables) in [(EgressHook::Device, 1), (EgressHook::Postrouting, 2)] {
            let messages = ruleset(hook).creation(Duration::from_secs(10));
            assert_eq!(timeouts(&messages), vec![10_000; tables]);
            let made: Vec<usize> = (0..messages.len()).filter(|place| written(&messages[*place]).0 == NEW_TABLE).collect();
            assert_eq!(made.len(), tables);
            for place in made {
                assert_eq!(changes(&messages[place + 2..place + 3]), [(true, Element::Ready)], "{:?}", messages[place]);
            }
        }
    }

    fn timeouts(messages: &[Message]) -> Vec<u64> {
        messages
            .iter()
            .map(written)
            .filter(|(kind, _)| *kind == NEW_ELEMENT)
            .filter_map(|(_, attributes)| element(&attributes)?.1)
            .collect()
    }

    /// A timeout of 0 is one that never comes: the loss would not end with the lease.
    #[test]
    fn a_lease_always_ends() {
        for nanoseconds in [0, 1, 999_999, 1_000_000, 19_999_999] {
            let renewal = ruleset(EgressHook::Device).renewal_in_time(Element::Armed, Duration::from_nanos(nanoseconds));
            assert_eq!(timeouts(&renewal), [20], "{nanoseconds}");
        }
        assert_eq!(timeouts(&ruleset(EgressHook::Device).replacement(Element::Armed, Element::Armed, Duration::from_secs(10))), [10_000]);
    }

    #[test]
    fn each_table_has_a_lease_that_is_renewed_and_goes() {
        for (hook, tables) in [(EgressHook::Device, 1), (EgressHook::Postrouting, 2)] {
            let ruleset = ruleset(hook);
            let lease = Duration::from_secs(10);
            // For each table: the table, its set and its element; and a chain and a rule for each direction.
            assert_eq!(ruleset.creation(lease).len(), 3 * tables + 4);
            assert_eq!(ruleset.replacement(Element::Armed, Element::Armed, lease).len(), 2 * tables);
            assert_eq!(ruleset.renewal_in_time(Element::Armed, lease).len(), 3 * tables);
            assert_eq!(ruleset.removal().len(), tables);
        }
    }

    #[test]
    fn each_end_is_a_rule_or_two_in_each_direction() {
        let parse = |ends: &[&str]| ends.iter().map(|end| end.parse().unwrap()).collect();
        let ends = PeerFilter { targets: parse(&["10.0.0.0/8", "any:80"]), spares: parse(&["10.1.0.0/16/udp"]), spare_neighbour: true };
        let with = Ruleset { ends, ..ruleset(EgressHook::Device) };
        // Neighbours are two rules, the spared end is one, the targets are one and two; without any of them there is one.
        let lease = Duration::from_secs(10);
        assert_eq!(with.creation(lease).len(), ruleset(EgressHook::Device).creation(lease).len() + 2 * (2 + 1 + 3 - 1));
    }
}
