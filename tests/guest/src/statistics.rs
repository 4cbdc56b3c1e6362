//! How far from the asked rate a correct kernel may be.

use std::ops::RangeInclusive;

use statrs::distribution::{Binomial, BinomialError, DiscreteCDF};

/// How often a check of a correct kernel may fail.
pub const FALSE_ALARM: f64 = 1e-6;

/// The numbers of lost packets, out of `packets` that are each lost with `probability`, that are no cause for alarm.
///
/// Exact quantiles of the binomial distribution: each tail outside the range has at most half of [`FALSE_ALARM`].
///
/// # Errors
///
/// If `probability` is not one.
pub fn acceptable(packets: u64, probability: f64) -> Result<RangeInclusive<u64>, BinomialError> {
    let binomial = Binomial::new(probability, packets)?;
    let tail = FALSE_ALARM / 2.0;
    // The first number that is not too small; cdf rises with its argument, sf falls.
    let low = partition_point(packets, |lost| binomial.cdf(lost) <= tail);
    let high = partition_point(packets, |lost| binomial.sf(lost) > tail);
    Ok(low..=high)
}

/// The first number up to `end` for which `before` does not hold; it holds for all smaller ones.
fn partition_point(end: u64, before: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_intervals() {
        // Sums of the probabilities themselves, taken from both ends until they pass 5e-7.
        assert_eq!(acceptable(4000, 0.1).unwrap(), 310..=496);
        assert_eq!(acceptable(4000, 0.3).unwrap(), 1060..=1343);
    }

    #[test]
    fn the_tails_together_are_within_the_false_alarm_rate_and_not_wastefully_so() {
        for (packets, probability) in [(1000, 0.05), (4000, 0.1), (4000, 0.3), (200, 0.5)] {
            let range = acceptable(packets, probability).unwrap();
            let binomial = Binomial::new(probability, packets).unwrap();
            let tails = |low: u64, high: u64| if low == 0 { 0.0 } else { binomial.cdf(low - 1) } + binomial.sf(high);
            assert!(tails(*range.start(), *range.end()) <= FALSE_ALARM);
            assert!(tails(*range.start() + 1, *range.end() - 1) > FALSE_ALARM, "a narrower range would do for {packets} packets");
        }
    }

    #[test]
    fn certainty_leaves_no_room() {
        assert_eq!(acceptable(1000, 0.0).unwrap(), 0..=0);
        assert_eq!(acceptable(1000, 1.0).unwrap(), 1000..=1000);
    }
}
