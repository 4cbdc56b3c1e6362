//! A packet on the wire: both sides send the same kind.

/// Keeps strangers' datagrams out of the figures.
const MAGIC: [u8; 4] = *b"nlt1";

/// A packet's length, without the padding that may follow.
pub(super) const LENGTH: usize = 4 + 4 * 8;

/// A packet: its own number, and what its sender has seen of the other side's packets so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    /// Drawn by the probing side when it starts, so that a restarted one is not taken for a gap of a million packets.
    pub(super) session: u64,
    /// Counts the packets that this side has sent in the session, from 1.
    pub(super) number: u64,
    /// The highest number seen from the other side.
    pub(super) seen: u64,
    /// How many different packets have arrived from the other side.
    pub(super) arrived: u64,
}

impl Packet {
    pub(super) fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        for (place, value) in bytes[4..].chunks_exact_mut(8).zip([self.session, self.number, self.seen, self.arrived]) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    /// The packet in a datagram, if it is one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.strip_prefix(&MAGIC)?.chunks_exact(8).map(|field| field.try_into().map(u64::from_be_bytes).ok());
        let mut next = || fields.next().flatten();
        Some(Self { session: next()?, number: next()?, seen: next()?, arrived: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes() {
        let packet = Packet { session: u64::MAX, number: 1, seen: 2, arrived: 3 };
        assert_eq!(Packet::decode(&packet.encode()), Some(packet));
    }

    #[test]
    fn strangers_are_no_packets() {
        let encoded = Packet { session: 1, number: 1, seen: 0, arrived: 0 }.encode();
        assert_eq!(Packet::decode(&encoded[..LENGTH - 1]), None);
        assert_eq!(Packet::decode(b"GET / HTTP/1.1\r\n\r\n and some more bytes to be long enough"), None);
        assert_eq!(Packet::decode(&[]), None);
    }
}
