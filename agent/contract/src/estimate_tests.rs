use super::*;
use crate::{LossModel, Share};
use proptest::prelude::*;

/// The values that R's `prop.test(hits, trials, correct = FALSE)` and statsmodels' `proportion_confint(method="wilson")` give.
#[test]
fn the_interval_is_wilsons() {
    for (hits, trials, low, high) in
        [(0, 10, 0.0, 27.753), (1, 10, 1.788, 40.415), (10, 100, 5.523, 17.437), (5, 5, 56.552, 100.0), (100, 10_000, 0.823, 1.215)]
    {
        assert_eq!(Traffic::new(trials, hits, 1.0).interval, Some(Interval { low, high }), "{hits} of {trials}");
    }
}

/// `n` packets whose losses have the variance inflation 4 say as much as `n / 4` independent ones.
#[test]
fn an_inflated_interval_is_that_of_fewer_packets() {
    let (inflated, fewer) = (Traffic::new(4000, 400, Expectation::new(10.0, 4.0)), Traffic::new(1000, 100, 10.0));
    assert_eq!((inflated.interval, inflated.observed_percentage), (fewer.interval, fewer.observed_percentage));
    assert!(Traffic::new(1000, 100, Expectation::new(10.0, 10.0)).too_few_packets && !fewer.too_few_packets);
}

#[test]
fn a_share_of_nothing_is_no_share() {
    let nothing = Traffic::new(0, 0, 10.0);
    assert_eq!((nothing.observed_percentage, nothing.interval, nothing.too_few_packets), (None, None, true));
    assert_eq!(Expectation::independent(10.0).judge(0, 0), LossVerdict::NoPackets);
}

#[test]
fn few_packets_are_said_to_be_few() {
    assert!(Traffic::new(100, 10, 10.0).too_few_packets);
    assert!(!Traffic::new(1000, 100, 10.0).too_few_packets);
    assert!(Traffic::new(1000, 1, 0.1).too_few_packets);
    assert_eq!(Traffic::new(200, 50, 10.0).observed_percentage, Some(25.0));
}

#[test]
fn a_verdict_needs_more_than_chance() {
    let (ten, in_bursts) = (Expectation::independent(10.0), Expectation::new(10.0, 15.0));
    // Three standard deviations: outside the 95 % interval, and one of 370 correct runs is.
    assert_eq!(ten.judge(10_000, 1090), LossVerdict::Consistent);
    assert_eq!(ten.judge(10_000, 1300), LossVerdict::Above);
    assert_eq!(ten.judge(10_000, 700), LossVerdict::Below);
    assert_eq!(in_bursts.judge(10_000, 1300), LossVerdict::Consistent);
    assert_eq!(ten.judge(100, 12), LossVerdict::TooFewPackets);
    // However few: 40 of 50 are not 1 %.
    assert_eq!(Expectation::independent(1.0).judge(50, 40), LossVerdict::Above);
    // However many: nobody asks about a thousandth of the rate.
    assert_eq!(ten.judge(10_000_000_000, 1_001_000_000), LossVerdict::Consistent);
    // What never settles is never wrong.
    assert_eq!(Expectation::new(10.0, f64::INFINITY).judge(1_000_000, 1_000_000), LossVerdict::TooFewPackets);
    assert_eq!(Expectation::independent(100.0).judge(10_000, 10_000), LossVerdict::Consistent);
    assert_eq!(Expectation::independent(100.0).judge(10_000, 0), LossVerdict::Below);
}

/// netem starts from any random number, and leaves a state that it never comes back to when it happens to: neither is a contradiction.
#[test]
fn the_start_of_a_run_contradicts_nothing() {
    let correlated = |loss: f64, correlation: f64| LossModel::Random {
        loss_percentage: loss.try_into().unwrap(),
        correlation: correlation.try_into().unwrap(),
    };
    assert_ne!(correlated(10.0, 99.0).expectation().judge(10_000, 27), LossVerdict::Above);
    assert_ne!(correlated(10.0, 90.0).expectation().judge(1000, 3), LossVerdict::Above);
    assert_eq!(correlated(10.0, 25.0).expectation().judge(10_000, 1000), LossVerdict::Above);
    let share = |percent: f64| Share::try_from(percent).unwrap();
    let absorbed = LossModel::Gemodel { p: share(1.0), r: share(0.0), h: share(100.0), k: share(0.0) };
    assert_ne!(absorbed.expectation().judge(1000, 900), LossVerdict::Below);
    let bursts = LossModel::Gilbert { loss_percentage: 0.1.try_into().unwrap(), mean_burst: 100.0.try_into().unwrap() };
    assert_ne!(bursts.expectation().judge(1000, 518), LossVerdict::Above);
}

#[test]
fn no_number_is_no_certainty() {
    let nan = Expectation::new(f64::NAN, f64::NAN);
    assert_eq!((nan.percentage(), nan.variance_inflation()), (0.0, 1e12));
    assert_eq!(Traffic::new(10, 5, nan).interval, Some(Interval { low: 0.0, high: 100.0 }));
}

proptest! {
    #[test]
    fn the_rate_that_was_seen_is_in_its_interval(trials in 1..u64::MAX / 2, share in 0.0..=1.0f64, inflation in 0.1..1e6f64) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let hits = ((trials as f64 * share) as u64).min(trials);
        let traffic = Traffic::new(trials, hits, Expectation::new(1.0, inflation));
        let (observed, Interval { low, high }) = (traffic.observed_percentage.unwrap(), traffic.interval.unwrap());
        prop_assert!(low <= observed + 0.001 && observed <= high + 0.001, "{traffic:?}");
        prop_assert!((0.0..=100.0).contains(&low) && (0.0..=100.0).contains(&high));
    }

    #[test]
    fn no_share_is_above_all(packets in 1..u64::MAX, dropped: u64) {
        let traffic = Traffic::new(packets, dropped, 10.0);
        prop_assert!(traffic.dropped <= traffic.packets && traffic.observed_percentage.unwrap() <= 100.0, "{traffic:?}");
    }
}
