//! An nfnetlink socket and transactions over it. Blocking, with a time limit for each answer: it is used from a thread of its own, which must not
//! wait for rtnetlink, for standard output or for anything else.

use super::listing::{Listed, NFNL_SUBSYS_NFTABLES, Way};
use super::ruleset::{Message, Ruleset, TABLE, delete_table, list_lease, list_rules, list_tables};
use super::wire::{NetlinkSocket, take};
use crate::netlink::{self, Answers, stable};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, none::ControlMessage};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netloss_contract::PerDirection;
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::SndBuf},
};
use std::{io, time::Duration};

/// How long the answer to one transaction may take. The kernel works on it within send(2) and waits there for nf_tables' lock, which is this namespace's
/// own, so hardly ever for any time.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Room for a transaction with as many filters as there may be, in bytes; the kernel gives twice as much, and this much without asking
/// for a capability of its own namespace (`net.core.wmem_max`).
const SEND_BUFFER: usize = 212_992;

/// Why a transaction failed. Nothing of it holds then.
pub type Error = netlink::Error;

/// A socket that can own tables: those go when it is closed, however that happens.
///
/// Close-on-exec, so that no child keeps the loss alive.
#[derive(Debug)]
pub struct Socket {
    wire: NetlinkSocket,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// Where the kernel has no nfnetlink, or no socket is to be had.
    pub fn open() -> Result<Self, Error> {
        let wire = NetlinkSocket::open(NETLINK_NETFILTER, TIME_LIMIT)?;
        setsockopt(wire.socket(), SndBuf, &SEND_BUFFER).map_err(io::Error::from)?;
        Ok(Self { wire })
    }

    /// Opens it; none where the kernel has no nfnetlink, and so no tables.
    ///
    /// # Errors
    /// Where no socket is to be had for another reason, such as a lack of descriptors.
    pub fn open_if_supported() -> Result<Option<Self>, Error> {
        match Self::open() {
            Err(error) if error.is_unsupported() => {
                tracing::debug!(%error, "no nfnetlink, so no tables");
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// Does all that the messages say, or nothing.
    ///
    /// # Errors
    /// The first refusal, or that no answer came in time.
    pub fn transact(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        self.send(messages, true)
    }

    /// Asks whether [`Self::transact`] would be refused, and does nothing: a transaction without its end is checked, message by
    /// message, and then dropped.
    ///
    /// # Errors
    /// The first refusal, or that no answer came in time.
    pub fn rehearse(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        self.send(messages, false)
    }

    /// Whether there are tables of our name that belong to a process that lives.
    ///
    /// # Errors
    /// Where they cannot be listed. A kernel without nf_tables has none.
    pub fn has_owned_tables(&mut self) -> Result<bool, Error> {
        let listed = self.own_tables()?;
        Ok(listed.iter().any(|listed| matches!(listed, Listed::Table { owned: true, .. })))
    }

    /// Whether a lease in a table of our name has not expired. While it has not, who holds it loses packets, or may begin to; once it has,
    /// the kernel does not take it for a renewal any more.
    ///
    /// # Errors
    /// Where it cannot be listed.
    pub fn has_live_lease(&mut self) -> Result<bool, Error> {
        let mut live = false;
        for family in self.own_families()? {
            match self.dump(&list_lease(family)) {
                // The table has just gone, and its lease with it.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                listed => live |= listed?.iter().any(|listed| matches!(listed, Listed::Lease)),
            }
        }
        Ok(live)
    }

    /// Takes away tables of our name that somebody left who is not there any more, and says which.
    ///
    /// # Errors
    /// Where they cannot be listed or taken away. A kernel without nf_tables has none.
    pub fn remove_leftovers(&mut self) -> Result<Vec<String>, Error> {
        let families = self.own_families()?;
        if families.is_empty() {
            return Ok(Vec::new());
        }
        self.transact(families.iter().copied().map(delete_table).collect())?;
        Ok(families.iter().map(|family| format!("remove the nftables table {family:?} {TABLE}").to_lowercase()).collect())
    }

    /// The families in which there is a table of our name. A kernel without nf_tables has none.
    fn own_families(&mut self) -> Result<Vec<NetfilterProtoFamily>, Error> {
        let family = |listed| if let Listed::Table { family, .. } = listed { Some(family) } else { None };
        Ok(self.own_tables()?.into_iter().filter_map(family).collect())
    }

    /// The tables of our name. A kernel without nf_tables has none.
    fn own_tables(&mut self) -> Result<Vec<Listed>, Error> {
        match self.dump(&list_tables()) {
            Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EINVAL)) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// How many packets the rules of a ruleset have sent to their loss since they were made, where there are such rules.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn counted(&mut self, ruleset: &Ruleset) -> Result<PerDirection<u64>, Error> {
        let mut counts = PerDirection::default();
        for family in ruleset.families() {
            self.dump(&list_rules(family))?.into_iter().for_each(|listed| add(&mut counts, listed));
        }
        Ok(counts)
    }

    /// Asks for all objects, and again where they changed meanwhile: a renewal of the lease is such a change.
    fn dump(&mut self, request: &Message) -> Result<Vec<Listed>, Error> {
        stable(|| {
            let first = self.wire.write(std::iter::once(request.clone()))?;
            let mut answers = Answers::default();
            self.wire.read(first, |flags, payload| answers.take(flags, payload))?;
            answers.finish()
        })
    }

    /// Only the last message is acknowledged: hundreds of acknowledgments would overrun the socket's buffer. The kernel answers in the
    /// order of the messages, and refusals always, so whoever has the last acknowledgment has seen every refusal.
    fn send(&mut self, mut messages: Vec<Message>, commit: bool) -> Result<(), Error> {
        if let Some((_, others)) = messages.split_last_mut() {
            for message in others {
                message.header.flags &= !NLM_F_ACK;
            }
        }
        let end = commit.then(|| control(ControlMessage::BatchEnd));
        let first = self.wire.write(std::iter::once(control(ControlMessage::BatchBegin)).chain(messages).chain(end))?;
        self.wire.read(first, |_, payload: NetlinkPayload<Listed>| matches!(payload, NetlinkPayload::Error(_)))
    }
}

/// What a datagram tells of our tables and rules, whoever was asked for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// Tables of our name.
    pub tables: u32,
    /// Those of them that go with their socket.
    pub owned: u32,
    /// What our rules have counted.
    pub counted: PerDirection<u64>,
}

impl Told {
    /// Reads a datagram as a [`Socket`] reads what comes from the kernel.
    ///
    /// # Errors
    /// Where the kernel said no.
    pub fn by(datagram: &[u8]) -> Result<Self, Error> {
        let mut told = Self::default();
        take(datagram, 0, u32::MAX, |_, payload| {
            if let NetlinkPayload::InnerMessage(listed) = payload {
                if let Listed::Table { owned, .. } = listed {
                    told.tables += 1;
                    told.owned += u32::from(owned);
                }
                add(&mut told.counted, listed);
            }
            false
        })?;
        Ok(told)
    }
}

/// Adds what a listed rule has counted, if it is ours.
fn add(counts: &mut PerDirection<u64>, listed: Listed) {
    if let Listed::Rule { way, packets } = listed {
        let count = if way == Way::In { &mut counts.ingress } else { &mut counts.egress };
        *count = Some(count.unwrap_or(0).saturating_add(packets));
    }
}

fn control(message: ControlMessage) -> Message {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST;
    message
}
