//! The expressions that the guard's rules are made of (`include/uapi/linux/netfilter/nf_tables.h`).

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, MetaKey, Register,
};

/// One element of a rule.
pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// `NFTA_FWD_SREG_DEV`.
const NFTA_FWD_SREG_DEV: u16 = 1;

/// Reads a property of the packet.
pub(super) fn load(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]).into()
}

/// Goes on only where what was read is in a set of the same table.
pub(super) fn is_in(set: &str) -> Expression {
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(Register::Reg1)]).into()
}

/// Counts the packets that come here.
pub(super) fn counter() -> Expression {
    Expressions::Other { expression_type: "counter".to_owned(), attributes: Vec::new() }.into()
}

/// Sends the packet out of another interface, as if it had been sent there. netlink-packet-netfilter has no `fwd`.
pub(super) fn forward_to(ifindex: u32) -> [Expression; 2] {
    let register = u32::from(Register::Reg1).to_be_bytes().to_vec();
    let attributes = vec![DefaultNla::new(NFTA_FWD_SREG_DEV, register)];
    [immediate(ifindex), Expressions::Other { expression_type: "fwd".to_owned(), attributes }.into()]
}

/// Sets `skb->priority`, by which a prio qdisc finds the class.
pub(super) fn set_priority(class: u32) -> [Expression; 2] {
    let set = Expressions::Meta(vec![Meta::Key(MetaKey::Priority), Meta::SourceRegister(Register::Reg1)]);
    [immediate(class), set.into()]
}

/// A number in host byte order, as the kernel's own variables are.
fn immediate(number: u32) -> Expression {
    let data = DataAttribute::Value(number.to_ne_bytes().to_vec());
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Reg1), Immediate::Data(data)]).into()
}
