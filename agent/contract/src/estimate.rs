//! What counters say about a rate, and how surely. The one rule for measured loss: agent, controller and CLI use it.

use serde::{Deserialize, Serialize};

/// The normal distribution's 97.5 % quantile: two tails of it leave 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// How improbable counts of a correct run have to be for a [`LossVerdict`] against it: 10⁻⁶ for both directions together, as a natural
/// logarithm. With the 95 % interval one correct run in twenty would be judged wrong.
pub(crate) const LOG_IMPROBABLE: f64 = -14.508_657_738_524;

/// So many times the variance inflation of lost packets are allowed for before a [`LossVerdict::Above`]: of 1000 packets with a loss of 0.1 % in bursts of
/// 100, more than half are lost in one of 40 000 correct runs.
const BURSTS: f64 = 3.0;

/// Relative difference from the expected rate that no [`LossVerdict`] reports, however many packets there are. A judgement: 9.9 % instead of 10 % tells
/// nobody anything, and with millions of packets it would be significant.
const TOLERANCE: f64 = 0.01;

/// The rate that a loss model is expected to lose, and how far the share of the lost packets scatters around it.
///
/// Losses that come in bursts scatter more than independent ones. The variance inflation is the factor between the variances, for many
/// packets: `n` packets say as much as `n / inflation` independent ones. For a chain of two states that loses all in one of them it is
/// (1+ρ)/(1−ρ), where ρ is the correlation of successive losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    percentage: f64,
    variance_inflation: f64,
    start: f64,
}

impl Expectation {
    /// Losses that avoid each other scatter less, and a share of few packets is a multiple of one packet all the same. A tenth is a judgement: it
    /// keeps an interval from becoming a point.
    const LEAST_INFLATION: f64 = 0.1;

    /// As good as never settling, and still a number in JSON.
    const MOST_INFLATION: f64 = 1e12;

    /// A rate in percent, brought into 0 to 100, and a variance inflation, brought into 0.1 to 10¹². What is no number counts as 0 % and as
    /// the largest inflation.
    #[must_use]
    pub fn new(percentage: f64, variance_inflation: f64) -> Self {
        let inflation = if variance_inflation.is_nan() { Self::MOST_INFLATION } else { variance_inflation };
        Self {
            percentage: if percentage.is_nan() { 0.0 } else { percentage.clamp(0.0, 100.0) },
            variance_inflation: inflation.clamp(Self::LEAST_INFLATION, Self::MOST_INFLATION),
            start: 0.0,
        }
    }

    /// The same of a model that may lose some `packets` more at its start than in the long run, or fewer where this is negative.
    #[must_use]
    pub(crate) fn with_start(self, packets: f64) -> Self {
        Self { start: packets, ..self }
    }

    /// Of packets that are lost independently of each other, in percent.
    #[must_use]
    pub fn independent(percentage: f64) -> Self {
        Self::new(percentage, 1.0)
    }

    /// How many packets more, or fewer where this is negative, may be lost at the start than in the long run.
    #[cfg(test)]
    pub(crate) fn start(self) -> f64 {
        self.start
    }

    /// In percent, 0 to 100.
    #[must_use]
    pub fn percentage(self) -> f64 {
        self.percentage
    }

    /// The factor between the variance of the observed share and that of independent losses, 0.1 to 10¹².
    #[must_use]
    pub fn variance_inflation(self) -> f64 {
        self.variance_inflation
    }

    /// Whether counts agree with what is expected: `dropped` of `packets`.
    #[must_use]
    pub fn judge(self, packets: u64, dropped: u64) -> LossVerdict {
        if packets == 0 {
            return LossVerdict::NoPackets;
        }
        let (n, dropped) = (packets as f64 / self.variance_inflation, dropped.min(packets));
        let expected = self.percentage / 100.0;
        let (least, most) = (expected * (1.0 - TOLERANCE), (expected * (1.0 + TOLERANCE)).min(1.0));
        // Chernoff's bound is one for independent packets; a burst or two that happen to be long are allowed for.
        let bursts = if self.variance_inflation > 1.0 { BURSTS * self.variance_inflation } else { 0.0 };
        let more = (dropped as f64 - self.start.max(0.0) - bursts).max(0.0) / packets as f64;
        let fewer = (dropped as f64 - self.start.min(0.0)).min(packets as f64) / packets as f64;
        if fewer < least && log_tail(n, fewer, least) < LOG_IMPROBABLE {
            LossVerdict::Below
        } else if more > most && log_tail(n, more, most) < LOG_IMPROBABLE {
            LossVerdict::Above
        } else if Traffic::new(packets, dropped, self).too_few_packets {
            LossVerdict::TooFewPackets
        } else {
            LossVerdict::Consistent
        }
    }

    /// The Wilson score interval (Wilson, 1927) of `dropped` in `packets` as fractions, for the effective number of packets; none where there
    /// were none.
    fn wilson(self, packets: u64, dropped: u64) -> Option<(f64, f64)> {
        if packets == 0 {
            return None;
        }
        let (n, p) = (packets as f64 / self.variance_inflation, dropped.min(packets) as f64 / packets as f64);
        let z2 = Z * Z;
        let center = p + z2 / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let bound = |x: f64| (x / (1.0 + z2 / n)).clamp(0.0, 1.0);
        Some((bound(center - half), bound(center + half)))
    }
}

/// Chernoff's bound, as a natural logarithm: of `n` independent packets, each lost with the probability `p`, a share of at least `share` (where that
/// is above `p`; at most, where it is below) is lost with no higher probability. Unlike an interval of the normal distribution it holds for
/// three packets too.
fn log_tail(n: f64, share: f64, p: f64) -> f64 {
    // 0·ln(0/x) is 0.
    let term = |x: f64, y: f64| if x > 0.0 { x * (x / y).ln() } else { 0.0 };
    -n * (term(share, p) + term(1.0 - share, 1.0 - p))
}

impl From<f64> for Expectation {
    /// Independent losses, in percent.
    fn from(percentage: f64) -> Self {
        Self::independent(percentage)
    }
}

/// Whether the counted loss agrees with the expected rate.
///
/// `Below` and `Above` say that a correct run would have such counts less than once in a million times, even if its rate were a hundredth off. They come before `TooFewPackets`: 40 lost of 50 are few packets, and yet surely not 1 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossVerdict {
    /// The counts agree with the expected rate.
    Consistent,
    /// Surely fewer packets were lost.
    Below,
    /// Surely more packets were lost.
    Above,
    /// The 95 % interval is wider than the expected rate itself, so the counts say nothing about it.
    TooFewPackets,
    /// No packet met the loss.
    NoPackets,
}

/// A range that a rate lies in, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// From, in percent.
    pub low: f64,
    /// To, in percent.
    pub high: f64,
}

/// To the thousandth: no count here tells more.
fn rounded(percent: f64) -> f64 {
    (percent * 1000.0).round() / 1000.0
}

/// Packets of one direction since the loss was applied, and what they say about its rate.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Packets that met the loss, dropped ones included.
    pub packets: u64,
    /// Packets that it dropped.
    pub dropped: u64,
    /// The share that was lost, in percent; none where nothing came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_percentage: Option<f64>,
    /// 95 % confidence interval of the rate (Wilson), for the effective number of packets; none where nothing came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// That these are too few packets to tell whether the expected rate was met: the interval is wider than that rate itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_few_packets: bool,
}

impl Traffic {
    /// Of counters, and what the loss model is expected to do. Never more dropped packets than packets: counters that are read one after the
    /// other may differ by those that pass in between.
    #[must_use]
    pub fn new(packets: u64, dropped: u64, expected: impl Into<Expectation>) -> Self {
        let (expected, dropped) = (expected.into(), dropped.min(packets));
        let bounds = expected.wilson(packets, dropped);
        let interval = bounds.map(|(low, high)| Interval { low: rounded(100.0 * low), high: rounded(100.0 * high) });
        Self {
            packets,
            dropped,
            observed_percentage: (packets > 0).then(|| rounded(100.0 * dropped as f64 / packets as f64)),
            interval,
            too_few_packets: bounds.is_none_or(|(low, high)| 100.0 * (high - low) > expected.percentage),
        }
    }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
