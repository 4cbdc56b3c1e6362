use super::*;
use crate::{Correlation, Finding, Interval, Verdict};
use crate::{Direction, LossModel};
use proptest::prelude::*;
use serde_json::Value;

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
    assert_eq!(Record::from_line(&value.to_string()), Some(failed("m".to_owned(), Vec::new())));
}

#[test]
fn a_long_line_says_what_was_left_out() {
    let record = failed("ü".repeat(5000), vec!["q".repeat(200); 40]);
    let Some(Record { event: Event::Failed(failed), .. }) = Record::from_line(&record.to_line()) else { panic!() };
    assert!(failed.message.ends_with('…'));
    assert_eq!(failed.left.last().unwrap(), "and 35 more");
}

/// A record of each event with every field set and an entry in every list, so that what is tested of each text is tested of all of them.
fn whole() -> Vec<Record> {
    let text = || "words".to_owned();
    let at: Timestamp = "2026-11-23T12:00:00.123Z".parse().unwrap();
    let run: Option<RunId> = Some("r".repeat(128).parse().unwrap());
    let holder = || Holder { run: run.clone(), pid: u32::MAX, agent_version: text(), started_at: at };
    let asked = || Asked {
        model: LossModel::Random { loss_percentage: 10.0.try_into().unwrap(), correlation: Correlation::default() },
        direction: Direction::Both,
        seed: Some(u64::MAX),
        per_segment: true,
    };
    let traffic = || Traffic {
        packets: u64::MAX,
        dropped: u64::MAX,
        observed_percentage: Some(33.333),
        interval: Some(Interval { low: 11.111, high: 99.999 }),
        too_few_packets: true,
    };
    let traffic = || PerDirection { egress: Some(traffic()), ingress: Some(traffic()) };
    let kept = || Some(LeaseStats { armed_seconds: 604_799.999, lapses: u32::MAX, degraded: true, trouble: Some(text()) });
    let predicted = Some(Predicted { loss_percentage: 0.333_333, mean_burst: Some(3.333_333) });
    let guard = Some(Guard { ends_with_agent: true, lease_seconds: 10, only_ip_egress: true });
    let filtered = || Filtered { targets: vec![text()], spared: vec![text()] };
    let applied = || Applied {
        agent_version: text(),
        kernel: text(),
        interface: text(),
        interface_reason: text(),
        backend: Backend::Guarded,
        backend_reason: text(),
        unguarded: true,
        guard,
        asked: asked(),
        predicted,
        filtered: filtered(),
        warnings: vec![text()],
        ends_at: at,
        leftovers_removed: vec![text()],
    };
    let heartbeat = || Heartbeat {
        elapsed_seconds: 604_799.999,
        remaining_seconds: 604_799.999,
        traffic: traffic(),
        kept: kept(),
        intact: false,
        drift: vec![text()],
        repaired: vec![text()],
        warnings: vec![text()],
        lines_dropped: u64::MAX,
    };
    let finding = Finding { what: text(), verdict: Verdict::Warning, found: text(), remedy: Some(text()) };
    let events = [
        Event::Applied(applied()),
        Event::Heartbeat(heartbeat()),
        Event::Removed(Removed {
            cause: Cause::LeaseExpired,
            interface: text(),
            backend: Backend::Guarded,
            asked: asked(),
            predicted,
            applied_at: at,
            elapsed_seconds: 604_799.999,
            traffic: traffic(),
            kept: kept(),
            drift: vec![text()],
            repaired: vec![text()],
            warnings: vec![text()],
            lines_dropped: u64::MAX,
        }),
        Event::Failed(Failed {
            stage: Stage::Snapshot,
            message: text(),
            exit: ExitCode::DeadlinePassed,
            left: vec![text()],
            holder: Some(Box::new(holder())),
        }),
        Event::Status(Box::new(Status { holder: Some(holder()), applied: Some(applied()), now: Some(heartbeat()) })),
        Event::Stopped(Stopped { holder: Some(holder()), exit: Some(ExitCode::Incomplete) }),
        Event::Cleaned(Cleaned { removed: vec![text()] }),
        Event::Planned(Box::new(Planned {
            interface: text(),
            interface_reason: text(),
            backend: Backend::Guarded,
            backend_reason: text(),
            unguarded: true,
            guard,
            asked: asked(),
            predicted,
            filtered: filtered(),
            ends_at: at,
            steps: vec![text()],
            warnings: vec![text()],
        })),
        Event::Checked(Checked { verdict: Verdict::Warning, findings: vec![finding; 13] }),
    ];
    events.into_iter().map(|event| Record { schema: SCHEMA, time: at, run: run.clone(), event }).collect()
}

/// Puts `hostile` in the place of each free text, and `times` of them into each list of texts. What has a form of its own (times, names of
/// runs, words of an enumeration) is not touched. Returns how many there were.
fn poison(value: &mut Value, hostile: &str, times: usize) -> usize {
    match value {
        Value::String(text) if text == "words" => {
            hostile.clone_into(text);
            1
        }
        Value::Array(values) if values.iter().all(Value::is_string) => {
            *values = vec![hostile.into(); times];
            1
        }
        Value::Array(values) => values.iter_mut().map(|value| poison(value, hostile, times)).sum(),
        Value::Object(fields) => fields.values_mut().map(|value| poison(value, hostile, times)).sum(),
        _ => 0,
    }
}

/// `whole` with that text wherever a record has one.
fn poisoned(hostile: &str, times: usize) -> Vec<Record> {
    let records = whole().into_iter().map(|record| {
        let mut value = serde_json::to_value(&record).unwrap();
        assert!(poison(&mut value, hostile, times) > 0, "{record:?} has no text");
        serde_json::from_value(value).unwrap()
    });
    records.collect()
}

fn check_line(line: &str) {
    assert!(line.len() <= LINE_LIMIT, "{} bytes: {line}", line.len());
    assert!(!line.contains(is_unprintable), "{line:?}");
    let read = Record::from_line(line).unwrap_or_else(|| panic!("not read back: {line}"));
    assert_eq!(read.to_line(), line, "a line that was read is written as it was");
}

#[test]
fn every_text_is_bounded_and_printable_even_if_all_are_hostile() {
    for hostile in
        ["\u{1b}[2J\u{9b}31m\r\n\u{7f}\u{202e}".to_owned(), "\"".repeat(5000), "\\".repeat(5000), "ü".repeat(5000), "x".repeat(5000)]
    {
        for record in poisoned(&hostile, 50) {
            check_line(&record.to_line());
        }
    }
}

/// What others answer on the socket or leave in a log is read as this version would have written it.
#[test]
fn what_is_read_is_bounded_and_printable() {
    for record in poisoned("\u{1b}]0;title\u{7}\u{9b}2J", 200) {
        let hostile = serde_json::to_string(&record).unwrap();
        assert!(hostile.len() > LINE_LIMIT || hostile.contains("\\u001b"), "{hostile}");
        let read = Record::from_line(&hostile).unwrap();
        let texts = serde_json::to_string(&read).unwrap();
        assert!(texts.len() <= LINE_LIMIT && !texts.contains("\\u") && !texts.contains(is_unprintable), "{texts}");
    }
}

proptest! {
    // Each case is all texts of all records.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_text_in_any_field_gives_one_bounded_printable_line(text in any::<String>(), repeats in 1..60_usize, times in 0..6_usize) {
        for record in poisoned(&text.repeat(repeats), times) {
            check_line(&record.to_line());
        }
    }
}

proptest! {
    #[test]
    fn a_line_fits_and_reads_back(message in ".{0,6000}", left in proptest::collection::vec(".{0,300}", 0..60)) {
        let message = failed(message, left).to_line();
        prop_assert!(message.len() <= LINE_LIMIT, "{}", message.len());
        prop_assert!(Record::from_line(&message).is_some());
    }

    #[test]
    fn a_line_reads_back(message in "[^\\p{C}\\p{Zl}\\p{Zp}]{0,200}", left in proptest::collection::vec("[^\\p{C}\\p{Zl}\\p{Zp}]{0,30}", 0..3)) {
        let record = failed(message, left);
        prop_assert_eq!(Record::from_line(&record.to_line()), Some(record));
    }
}
