use super::*;
use crate::Correlation;
use proptest::prelude::*;

fn failed(message: String, left: Vec<String>) -> Record {
    Record {
        schema: SCHEMA,
        time: Timestamp::from_second(1_800_000_000).unwrap(),
        run: Some("r".repeat(128).parse().unwrap()),
        event: Event::Failed(Failed { stage: Stage::Apply, message, exit: ExitCode::Failed, left, holder: None }),
    }
}

#[test]
fn the_form_is_the_documented_one() {
    let record = Record {
        schema: SCHEMA,
        time: "2026-11-23T12:00:00Z".parse().unwrap(),
        run: Some("uid/1".parse().unwrap()),
        event: Event::Removed(Removed {
            cause: Cause::Ttl,
            interface: "eth0".to_owned(),
            backend: Backend::Tc,
            asked: Asked {
                model: LossModel::Random { loss_percentage: 10.0.try_into().unwrap(), correlation: Correlation::default() },
                direction: Direction::Egress,
                seed: None,
                per_segment: false,
            },
            predicted: None,
            applied_at: "2026-11-23T11:58:00Z".parse().unwrap(),
            elapsed_seconds: 120.0,
            traffic: PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: None },
            kept: None,
            drift: Vec::new(),
            repaired: Vec::new(),
            warnings: Vec::new(),
            lines_dropped: 0,
        }),
    };
    let line = concat!(
        r#"{"schema":1,"time":"2026-11-23T12:00:00Z","run":"uid/1","event":"removed","cause":"ttl","interface":"eth0","backend":"tc","#,
        r#""asked":{"model":"random","lossPercentage":10.0,"correlation":0.0,"direction":"egress"},"appliedAt":"2026-11-23T11:58:00Z","#,
        r#""elapsedSeconds":120.0,"traffic":{"egress":{"packets":1000,"dropped":98,"observedPercentage":9.8,"#,
        r#""interval":{"low":8.108,"high":11.799}}}}"#
    );
    assert_eq!(record.to_line(), line);
    assert_eq!(Record::from_line(line), Some(record));
}

#[test]
fn what_is_no_record_is_none() {
    for line in ["", "{}", "hello", r#"{"schema":2,"time":"2026-11-23T12:00:00Z","event":"failed"}"#] {
        assert_eq!(Record::from_line(line), None, "{line}");
    }
}

#[test]
fn unknown_fields_are_skipped() {
    let mut value = serde_json::to_value(failed("m".to_owned(), Vec::new())).unwrap();
    value["fromTheFuture"] = 1.into();
    assert!(Record::from_line(&value.to_string()).is_some());
}

#[test]
fn a_long_line_says_what_was_left_out() {
    let record = failed("ü".repeat(5000), vec!["q".repeat(200); 40]);
    let Some(Record { event: Event::Failed(failed), .. }) = Record::from_line(&record.to_line()) else { panic!() };
    assert!(failed.message.ends_with('…'));
    assert_eq!(failed.left.last().unwrap(), "and 35 more");
}

proptest! {
    #[test]
    fn a_line_fits_and_reads_back(message in ".{0,6000}", left in proptest::collection::vec(".{0,300}", 0..60)) {
        let message = failed(message, left).to_line();
        prop_assert!(message.len() <= LINE_LIMIT, "{}", message.len());
        prop_assert!(Record::from_line(&message).is_some());
    }

    #[test]
    fn a_line_reads_back(message in ".{0,200}", left in proptest::collection::vec(".{0,30}", 0..3)) {
        let record = failed(message, left);
        prop_assert_eq!(Record::from_line(&record.to_line()), Some(record));
    }
}
