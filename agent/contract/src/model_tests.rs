use super::*;
use crate::Predicted;
use clap::Parser;
use proptest::prelude::*;
use std::fmt::Write as _;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    model: LossModel,
}

fn parse(line: &str) -> Result<LossModel, String> {
    let line = std::iter::once("x").chain(line.split_whitespace());
    Line::try_parse_from(line).map(|line| line.model).map_err(|error| error.to_string())
}

fn predicted(line: &str) -> Predicted {
    parse(line).unwrap().predicted().unwrap()
}

#[test]
fn models_are_read_as_tc_writes_them() {
    let share = |percent: f64| Share::try_from(percent).unwrap();
    let loss_percentage = 10.0.try_into().unwrap();
    assert_eq!(parse("--loss 10"), Ok(LossModel::Random { loss_percentage, correlation: Correlation::default() }));
    assert_eq!(parse("--loss 10 --model gilbert --burst 4").unwrap().to_argv(), ["--model=gilbert", "--loss=10", "--burst=4"]);
    let gemodel = LossModel::Gemodel { p: share(1.0), r: share(10.0), h: share(100.0), k: share(0.0) };
    assert_eq!(parse("--model gemodel 1 10"), Ok(gemodel));
    assert_eq!(parse("--model gemodel 1% 10% 100% 0%"), Ok(gemodel));
    assert_eq!(parse("--model=gemodel,1,10,100,0"), Ok(gemodel));
    assert!(matches!(parse("--model state 1 20 30 40 2"), Ok(LossModel::State { p14, .. }) if p14 == share(2.0)));
}

#[test]
fn what_does_not_fit_together_is_refused_with_the_way_out() {
    for (line, words) in [
        ("", "--loss is missing"),
        ("--model gilbert --loss 5", "--burst is missing"),
        ("--loss 5 --burst 4", "--model gilbert"),
        ("--loss 5 --model gilbert --burst 4 --correlation 25", "--correlation is not for the model gilbert"),
        ("--loss 5 --model gemodel 1 10", "--loss is not for the model gemodel"),
        ("--model gemodel 1", "2 to 4 probabilities"),
        ("--model gemodel 1 2 3 4 5", "2 to 4 probabilities"),
        ("--model state 1 2 3 4", "5 probabilities"),
        ("--model state 60 20 30 40 50", "P13 and P14"),
        ("--model state 1 60 50 40 2", "P31 and P32"),
        ("--model gemodel 0 10", "no packet is ever lost"),
        ("--model gemodel 101 10", "101"),
        ("--model gemodel NaN 10", "NaN"),
        ("--model gemodel -1 10", "-1"),
        ("--model random 3 --loss 5", "takes no probabilities"),
        ("--model markov --loss 5", "\"markov\""),
        ("--loss 5 --model gilbert --burst 0.5", "0.5"),
        ("--loss 5 --model gilbert --burst 1001", "1001"),
        ("--loss 5 --model gilbert --burst inf", "inf"),
        ("--loss 100 --model gilbert --burst 4", "longer bursts"),
        ("--loss 90 --model gilbert --burst 4", "longer bursts"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn predictions_are_those_of_the_kernels_formulas() {
    assert_eq!(parse("--loss 10").unwrap().predicted(), None);
    assert_eq!(predicted("--loss 10 --model gilbert --burst 8"), Predicted { loss_percentage: 10.0, mean_burst: Some(8.0) });
    // π(bad) = p/(p+r); a burst ends with r.
    assert_eq!(predicted("--model gemodel 1 10"), Predicted { loss_percentage: 9.091, mean_burst: Some(10.0) });
    // Every packet in the bad state is lost half of the time.
    let half = predicted("--model gemodel 1 10 50");
    assert!((half.loss_percentage - 4.545).abs() < 0.001, "{half:?}");
    // Lost alone only: one in eleven, and never two in a row.
    assert_eq!(predicted("--model state 0 0 0 0 10"), Predicted { loss_percentage: 9.091, mean_burst: Some(1.0) });
    let correlated = predicted("--loss 10 --correlation 25").loss_percentage;
    assert!((1.6..1.9).contains(&correlated), "{correlated}");
    // For ever: no number says how long.
    assert_eq!(predicted("--model gemodel 10 0"), Predicted { loss_percentage: 100.0, mean_burst: None });
}

#[test]
fn a_rate_that_correlation_lowers_is_warned_of() {
    let warning = parse("--loss 10 --correlation 25").unwrap().warning().unwrap();
    assert!(warning.contains("10 % asked") && warning.contains("gilbert"), "{warning}");
    assert_eq!(parse("--loss 10 --correlation 0").unwrap().warning(), None);
    assert_eq!(parse("--loss 40 --correlation 10").unwrap().warning(), None, "38.9 % is near enough");
}

#[test]
fn the_json_form_is_the_documented_one() {
    for (line, json) in [
        ("--loss 10", r#"{"model":"random","lossPercentage":10.0,"correlation":0.0}"#),
        ("--loss 5 --model gilbert --burst 4", r#"{"model":"gilbert","lossPercentage":5.0,"meanBurst":4.0}"#),
        ("--model gemodel 1 10", r#"{"model":"gemodel","p":1.0,"r":10.0,"1-h":100.0,"1-k":0.0}"#),
        ("--model state 1 20 30 40 2", r#"{"model":"state","p13":1.0,"p31":20.0,"p32":30.0,"p23":40.0,"p14":2.0}"#),
    ] {
        let model = parse(line).unwrap();
        assert_eq!(serde_json::to_string(&model).unwrap(), json);
        assert_eq!(serde_json::from_str::<LossModel>(json).unwrap(), model);
    }
}

/// Any model whose numbers fit together.
pub(crate) fn any_model() -> impl Strategy<Value = LossModel> {
    let share = || (0.0..=50.0f64).prop_map(|percent| Share::try_from(percent).unwrap());
    let loss = || (1e-6..=50.0f64).prop_map(|percent| LossPercentage::try_from(percent).unwrap());
    prop_oneof![
        (loss(), 0.0..=100.0f64).prop_map(|(loss_percentage, c)| LossModel::Random { loss_percentage, correlation: c.try_into().unwrap() }),
        (loss(), 1.0..=1000.0f64)
            .prop_map(|(loss_percentage, b)| LossModel::Gilbert { loss_percentage, mean_burst: b.try_into().unwrap() }),
        (share(), share(), share(), share()).prop_map(|(p, r, h, k)| LossModel::Gemodel { p, r, h, k }),
        (share(), share(), share(), share(), share()).prop_map(|(p13, p31, p32, p23, p14)| LossModel::State { p13, p31, p32, p23, p14 }),
    ]
    .prop_filter("fits together", |model| model.check().is_ok())
}

proptest! {
    #[test]
    fn argv_reads_back_to_the_same_model(model in any_model()) {
        prop_assert_eq!(parse(&model.to_argv().join(" ")), Ok(model));
    }

    #[test]
    fn a_prediction_is_a_percentage(model in any_model()) {
        if let Some(Predicted { loss_percentage, mean_burst }) = model.predicted() {
            prop_assert!((0.0..=100.0).contains(&loss_percentage));
            prop_assert!(mean_burst.is_none_or(|burst| burst >= 0.999));
        }
    }
}

/// The table of docs/AGENT.md.
#[test]
fn the_documented_table_is_what_is_predicted() {
    let mut table = String::new();
    for asked in ["1", "5", "10", "20", "40"] {
        let rate = |correlation: &str| predicted(&format!("--loss {asked} --correlation {correlation}")).loss_percentage;
        writeln!(table, "| {asked} | {} | {} | {} |", rate("10"), rate("25"), rate("50")).unwrap();
    }
    let document = include_str!("../../../docs/AGENT.md");
    assert!(document.contains(&table), "docs/AGENT.md does not have\n{table}");
}
