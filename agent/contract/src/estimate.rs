//! What counters say about a rate, and how surely.

use serde::{Deserialize, Serialize};

/// The normal distribution's 97.5 % quantile: two tails of it leave 95 %.
const Z: f64 = 1.959_963_984_540_054;

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

/// The 95 % Wilson score interval of a rate of which `hits` in `trials` were seen (Wilson, 1927): where 95 of 100 such intervals hold the
/// rate, also near 0 and for few trials. None where nothing was tried.
#[must_use]
pub fn wilson(hits: u64, trials: u64) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let (n, p) = (trials as f64, hits.min(trials) as f64 / trials as f64);
    let z2 = Z * Z;
    let center = p + z2 / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let bound = |x: f64| rounded(100.0 * (x / (1.0 + z2 / n)).clamp(0.0, 1.0));
    Some(Interval { low: bound(center - half), high: bound(center + half) })
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
    /// Where the rate lies, with 95 % confidence (Wilson); none where nothing came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// That these are too few packets to tell whether the asked rate was met: the interval is wider than that rate itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_few_packets: bool,
}

impl Traffic {
    /// Of counters, and the rate that is expected, in percent.
    #[must_use]
    pub fn new(packets: u64, dropped: u64, expected_percentage: f64) -> Self {
        let interval = wilson(dropped, packets);
        Self {
            packets,
            dropped,
            observed_percentage: (packets > 0).then(|| rounded(100.0 * dropped as f64 / packets as f64)),
            interval,
            too_few_packets: interval.is_none_or(|interval| interval.high - interval.low > expected_percentage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The values that R's `prop.test(hits, trials, correct = FALSE)` and statsmodels' `proportion_confint(method="wilson")` give.
    #[test]
    fn the_interval_is_wilsons() {
        for (hits, trials, low, high) in
            [(0, 10, 0.0, 27.753), (1, 10, 1.788, 40.415), (10, 100, 5.523, 17.437), (5, 5, 56.552, 100.0), (100, 10_000, 0.823, 1.215)]
        {
            assert_eq!(wilson(hits, trials), Some(Interval { low, high }), "{hits} of {trials}");
        }
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn a_share_of_nothing_is_no_share() {
        let nothing = Traffic::new(0, 0, 10.0);
        assert_eq!((nothing.observed_percentage, nothing.interval, nothing.too_few_packets), (None, None, true));
    }

    #[test]
    fn few_packets_are_said_to_be_few() {
        assert!(Traffic::new(100, 10, 10.0).too_few_packets);
        assert!(!Traffic::new(1000, 100, 10.0).too_few_packets);
        assert!(Traffic::new(1000, 1, 0.1).too_few_packets);
        assert_eq!(Traffic::new(200, 50, 10.0).observed_percentage, Some(25.0));
    }

    proptest! {
        #[test]
        fn the_rate_that_was_seen_is_in_its_interval(trials in 1..u64::MAX / 2, share in 0.0..=1.0f64) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let hits = ((trials as f64 * share) as u64).min(trials);
            let traffic = Traffic::new(trials, hits, 1.0);
            let (observed, Interval { low, high }) = (traffic.observed_percentage.unwrap(), traffic.interval.unwrap());
            prop_assert!(low <= observed + 0.001 && observed <= high + 0.001, "{traffic:?}");
            prop_assert!((0.0..=100.0).contains(&low) && (0.0..=100.0).contains(&high));
        }
    }
}
