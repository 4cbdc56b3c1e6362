use super::*;
use proptest::{array, collection, option, prelude::*};

fn percent(percent: f64) -> Probability {
    Probability::from_percent(percent)
}

fn lossy(loss: f64) -> Netem {
    Netem { limit: 1000, loss: percent(loss), ..Netem::default() }
}

fn correlated(loss: f64, correlation: f64) -> Netem {
    Netem { correlations: Some(Correlations { loss: percent(correlation), ..Correlations::default() }), ..lossy(loss) }
}

/// What iproute2 6.1 sends as `TCA_OPTIONS` on x86_64, one row an invocation of
/// `strace -e trace=sendmsg -e write=all tc qdisc add dev lo root handle 7a12: netem ARGUMENTS`.
fn captured() -> Vec<(&'static str, &'static str, Netem)> {
    vec![
        ("loss 10%", "00000000e80300009a999919000000000000000000000000", lossy(10.0)),
        ("loss 30%", "00000000e8030000cccccc4c000000000000000000000000", lossy(30.0)),
        ("loss 0.1%", "00000000e803000037894100000000000000000000000000", lossy(0.1)),
        ("loss 40%", "00000000e803000066666666000000000000000000000000", lossy(40.0)),
        ("loss 100%", "00000000e8030000ffffffff000000000000000000000000", lossy(100.0)),
        ("loss 33.333333%", "00000000e803000047555555000000000000000000000000", lossy(33.333_333)),
        ("loss 0.0000001%", "00000000e803000004000000000000000000000000000000", lossy(0.000_000_1)),
        ("loss 10% 25%", "00000000e80300009a99991900000000000000000000000010000100000000000000004000000000", correlated(10.0, 25.0)),
        ("loss 30% 50%", "00000000e8030000cccccc4c00000000000000000000000010000100000000000000008000000000", correlated(30.0, 50.0)),
        ("loss 5% 100%", "00000000e8030000cdcccc0c0000000000000000000000001000010000000000ffffffff00000000", correlated(5.0, 100.0)),
        ("loss 1% limit 10000", "0000000010270000295c8f02000000000000000000000000", Netem { limit: 10_000, ..lossy(1.0) }),
        (
            "loss random 12.5% 75% limit 5000",
            "0000000088130000000000200000000000000000000000001000010000000000ffffffbf00000000",
            Netem { limit: 5000, ..correlated(12.5, 75.0) },
        ),
        (
            "loss gemodel 1.31579% 25%",
            "00000000e8030000000000000000000000000000000000001800058014000200ee505e03000000400000000000000000",
            Netem {
                loss: Probability(0),
                model: Some(LossModel::GilbertElliot([percent(1.31579), percent(25.0), percent(0.0), percent(0.0)])),
                ..lossy(0.0)
            },
        ),
        (
            "loss gemodel 5% 20% 90% 1%",
            "00000000e8030000000000000000000000000000000000001800058014000200cdcccc0c3333333399999919295c8f02",
            Netem {
                // iproute2 takes 1-h, netem h: 90 % become what is left to the whole, not 10 % rounded.
                model: Some(LossModel::GilbertElliot([percent(5.0), percent(20.0), Probability(u32::MAX - percent(90.0).0), percent(1.0)])),
                ..lossy(0.0)
            },
        ),
        (
            "loss state 2% 30% 100% 0% 1%",
            "00000000e8030000000000000000000000000000000000001c0005801800010052b81e05cccccc4cffffffff295c8f0200000000",
            Netem { model: Some(LossModel::GilbertIntuitive([2.0, 30.0, 100.0, 1.0, 0.0].map(percent))), ..lossy(0.0) },
        ),
        (
            "loss state 1% 20% 30% 40% 2%",
            "00000000e8030000000000000000000000000000000000001c00058018000100295c8f0233333333cccccc4c52b81e0566666666",
            Netem { model: Some(LossModel::GilbertIntuitive([1.0, 20.0, 30.0, 2.0, 40.0].map(percent))), ..lossy(0.0) },
        ),
        // Its sum of P31 and P32 is 2³², which the kernel adds to 0.
        (
            "loss state 1% 90% 10% 50% 0%",
            "00000000e8030000000000000000000000000000000000001c00058018000100295c8f02666666e69a9999190000000000000080",
            Netem { model: Some(LossModel::GilbertIntuitive([1.0, 90.0, 10.0, 0.0, 50.0].map(percent))), ..lossy(0.0) },
        ),
        ("loss 10% delay 10ms", "5a620200e80300009a999919000000000000000000000000", Netem { latency: 156_250, ..lossy(10.0) }),
        (
            "loss 20% delay 100ms 10ms",
            "84d71700e80300003333333300000000000000005a620200",
            Netem { latency: 1_562_500, jitter: 156_250, ..lossy(20.0) },
        ),
        ("duplicate 1% loss 2%", "00000000e803000052b81e0500000000295c8f0200000000", Netem { duplicate: percent(1.0), ..lossy(2.0) }),
    ]
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()).collect()
}

#[test]
#[cfg(target_endian = "little")] // the captured bytes are
fn encodes_what_iproute2_sends() {
    for (arguments, hex, netem) in captured() {
        assert_eq!(netem.encode(), bytes(hex), "{arguments}");
    }
}

#[test]
#[cfg(target_endian = "little")]
fn decodes_what_iproute2_sends() {
    for (arguments, hex, netem) in captured() {
        assert_eq!(Netem::decode(&bytes(hex)).unwrap(), netem, "{arguments}");
    }
}

/// The model that these arguments ask for.
fn of(arguments: &[&str], seed: Option<u64>) -> Netem {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        model: Asked,
    }
    let line: Line = clap::Parser::parse_from(std::iter::once(&"").chain(arguments));
    Netem::of(&line.model, seed)
}

/// What the agent sends for its models is what iproute2 sends for the same words, but for the length of the queue.
#[test]
#[cfg(target_endian = "little")]
fn the_models_are_those_of_tc() {
    for (ours, tc) in [
        (of(&["--model", "gemodel", "1.31579", "25"], None), "loss gemodel 1.31579% 25%"),
        (of(&["--model", "gemodel", "5", "20", "90", "1"], None), "loss gemodel 5% 20% 90% 1%"),
        (of(&["--model", "state", "1", "20", "30", "40", "2"], None), "loss state 1% 20% 30% 40% 2%"),
    ] {
        let (_, _, netem) = captured().into_iter().find(|(known, _, _)| *known == tc).unwrap_or_else(|| panic!("{tc}"));
        assert_eq!(ours, Netem { limit: Netem::LIMIT, correlations: Some(Correlations::default()), ..netem }, "{tc}");
    }
}

/// But for a sum that the kernel would wrap: the larger probability is sent 2⁻³² smaller than tc does.
#[test]
fn two_probabilities_of_100_percent_are_sent_so_that_their_sum_fits() {
    let Some(LossModel::GilbertIntuitive([_, p31, p32, ..])) = of(&["--model", "state", "1", "90", "10", "50", "0"], None).model else {
        panic!()
    };
    assert_eq!((p31, p32), (Probability(percent(90.0).0 - 1), percent(10.0)));
    assert_eq!(p31.0.checked_add(p32.0), Some(u32::MAX));
}

#[test]
fn gilbert_leaves_a_burst_after_its_mean_length() {
    let Some(LossModel::GilbertElliot([p, r, h, k])) = of(&["--loss", "20", "--model", "gilbert", "--burst", "4"], None).model else {
        panic!()
    };
    assert_eq!((r, h, k), (percent(25.0), Probability(0), Probability(0)));
    assert_eq!(p, percent(6.25));
}

#[test]
fn a_seed_that_was_asked_for_belongs_to_the_effect() {
    let asked = of(&["--loss", "10"], Some(7));
    assert!(asked.has_the_effect_of(&asked) && !asked.reseeded().has_the_effect_of(&asked));
    assert!(!Netem { seed: None, ..asked.clone() }.has_the_effect_of(&asked));
    assert_eq!(of(&["--loss", "10"], Some(u64::MAX)).reseeded().seed, Some(0));
}

#[test]
fn a_zero_answer_has_the_same_effect_and_any_other_has_not() {
    let asked = of(&["--loss", "10"], None);
    let answer = Netem { correlations: None, seed: Some(7), others: vec![(3, vec![0; 8]), (4, vec![0; 8])], ..asked.clone() };
    assert!(answer.has_the_effect_of(&asked));
    let changed = [
        Netem { loss: percent(11.0), ..answer.clone() },
        Netem { latency: 1, ..answer.clone() },
        Netem { limit: 999, ..answer.clone() },
        Netem { duplicate: Probability(1), ..answer.clone() },
        Netem { correlations: Some(Correlations { loss: Probability(1), ..Correlations::default() }), ..answer.clone() },
        Netem { model: Some(LossModel::GilbertElliot([Probability(1); 4])), ..answer.clone() },
        Netem { others: vec![(3, vec![1, 0, 0, 0, 0, 0, 0, 0])], ..answer.clone() },
    ];
    for netem in changed {
        assert!(!netem.has_the_effect_of(&asked), "{netem:?}");
    }
}

#[test]
fn cut_off_bytes_are_an_error() {
    let whole = Netem { seed: Some(1), ..correlated(10.0, 25.0) }.encode();
    for length in (0..whole.len()).filter(|length| ![24, 40].contains(length)) {
        assert!(Netem::decode(&whole[..length]).is_err(), "{length}");
    }
}

prop_compose! {
    fn probabilities()(values in array::uniform4(any::<u32>())) -> [Probability; 4] {
        values.map(Probability)
    }
}

prop_compose! {
    fn netem()(
        qopt in array::uniform6(any::<u32>()),
        correlations in option::of(probabilities()),
        model in option::of((probabilities(), any::<bool>())),
        seed in option::of(any::<u64>()),
        others in collection::vec((6u16..14, collection::vec(any::<u8>(), 0..16)), 0..3),
    ) -> Netem {
        let [latency, limit, loss, gap, duplicate, jitter] = qopt;
        Netem {
            latency, limit, loss: Probability(loss), gap, duplicate: Probability(duplicate), jitter,
            correlations: correlations.map(|[delay, loss, duplicate, _]| Correlations { delay, loss, duplicate }),
            model: model.map(|(four, elliot)| if elliot {
                LossModel::GilbertElliot(four)
            } else {
                LossModel::GilbertIntuitive([four[0], four[1], four[2], four[3], four[0]])
            }),
            seed,
            others,
        }
    }
}

proptest! {
    #[test]
    fn encoded_options_decode_to_themselves(netem in netem()) {
        prop_assert_eq!(Netem::decode(&netem.encode()), Ok(netem));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in collection::vec(any::<u8>(), 0..200)) {
        let _ = Netem::decode(&bytes);
    }

    #[test]
    fn a_percentage_survives_to_nine_digits(given in 0.0..=100.0f64) {
        prop_assert!((percent(given).percent() - given).abs() < 1e-7);
    }
}
