//! The expressions that the guard's rules are made of (`include/uapi/linux/netfilter/nf_tables.h`).

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
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

/// The header that bytes are read from (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// IP's.
    Network = 1,
    /// That of TCP, UDP or ICMP; in a fragment that is not the first there is none, and the rule does not match.
    Transport = 2,
}

/// Reads bytes of a header.
pub(super) fn load_bytes(header: Header, offset: u32, length: u32) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(header as u32),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
    .into()
}

/// Keeps only the bits of a mask of what was read.
pub(super) fn mask(bits: &[u8]) -> Expression {
    let data = |bytes: Vec<u8>| DataAttribute::Value(bytes);
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        // An address has 16 bytes at most.
        Bitwise::Length(u32::try_from(bits.len()).unwrap_or(0)),
        Bitwise::Mask(data(bits.to_vec())),
        Bitwise::Xor(data(vec![0; bits.len()])),
    ])
    .into()
}

/// Goes on only where what was read compares so, as bytes in network order.
pub(super) fn compare(operator: Operator, bytes: &[u8]) -> Expression {
    let data = Cmp::Data(DataAttribute::Value(bytes.to_vec()));
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), data]).into()
}

/// Ends the chain: in ours, whose policy is to accept, the packet goes on its way.
pub(super) fn leave() -> Expression {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Return)]);
    // NFT_REG_VERDICT
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)]).into()
}

/// Kind of the expression that counts.
pub(super) const COUNTER: &str = "counter";

/// Counts the packets that come here.
pub(super) fn counter() -> Expression {
    Expressions::Other { expression_type: COUNTER.to_owned(), attributes: Vec::new() }.into()
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
