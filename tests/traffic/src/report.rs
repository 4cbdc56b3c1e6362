//! The line that each side writes once a second.

use serde::{Deserialize, Serialize};

/// A second of a conversation, as one side of it knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// The peer's address.
    pub peer: String,
    /// From this side to the peer, by the peer's count.
    pub to_peer: Direction,
    /// From the peer to this side, by this side's own count.
    pub from_peer: Direction,
    /// Packets that the kernel refused to send, since the start; they count as sent. An unresolved neighbour is the usual reason.
    pub send_errors: u64,
}

/// One direction of a conversation, counted by its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Packets sent since the last line, as far as the receiver can know: up to the highest number that it has seen.
    pub sent: u64,
    /// How many of them arrived. A packet that was overtaken counts where it arrives, so this may exceed `sent`.
    pub arrived: u64,
    /// The share that did not arrive, in percent; nothing when nothing is known to have been sent.
    pub loss: Option<f64>,
    /// Packets sent since the start.
    pub total_sent: u64,
    /// Packets that arrived since the start.
    pub total_arrived: u64,
}

impl Direction {
    pub(super) fn new(sent: u64, arrived: u64, total_sent: u64, total_arrived: u64) -> Self {
        // Two decimals are finer than a second of packets can tell.
        let loss = (sent > 0).then(|| (sent.saturating_sub(arrived) as f64 / sent as f64 * 10_000.0).round() / 100.0);
        Self { sent, arrived, loss, total_sent, total_arrived }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_unknown_without_packets_and_never_negative() {
        assert_eq!(Direction::new(0, 0, 5, 5).loss, None);
        assert_eq!(Direction::new(10, 11, 20, 20).loss, Some(0.0));
        assert_eq!(Direction::new(3, 2, 3, 2).loss, Some(33.33));
    }

    #[test]
    fn a_line_survives_the_trip_through_the_log() {
        let direction = Direction::new(200, 180, 400, 361);
        let line = Line { time: 1.5, peer: "10.244.0.3:9000".into(), to_peer: direction, from_peer: direction, send_errors: 0 };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }
}
