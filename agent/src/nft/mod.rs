//! nftables over nfnetlink: the guard that lets the kernel itself end the loss.
//!
//! netem only ever sees what a rule sends there, and the rule sends only while the interface's name is in a set, the *lease*, whose
//! element expires unless it is renewed. Where the kernel knows `flags owner` (5.12), the whole table goes with the socket that made
//! it: an agent that is killed takes the loss with it.

mod expression;
// The captured bytes are in the order of a little-endian machine.
#[cfg(test)]
#[cfg(target_endian = "little")]
mod golden;
mod listing;
mod matching;
mod ruleset;
mod socket;
mod wire;

pub use ruleset::{Egress, EgressHook, Element, Message, PeerFilter, Ruleset, SHORTEST_LEASE, TABLE};
pub use socket::{Error, Socket, Told};
