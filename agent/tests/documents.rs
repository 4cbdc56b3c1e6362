//! The times that documents give for the guard are those of the agent's constants.

use netloss_agent::guard::{LEASE, RENEWAL, TICKET};
use std::{fs, path::Path, time::Duration};

/// `N` stands for the number that a sentence gives, in digits or as a word.
const SENTENCES: [(&str, &str, Duration); 9] = [
    ("AGENT.md", "is in a set whose element expires after N seconds.", LEASE),
    ("AGENT.md", "A thread of its own renews it every N seconds", RENEWAL),
    ("AGENT.md", "in the last N seconds the kernel takes a renewal", Duration::from_secs(2 * LEASE.as_secs())),
    ("AGENT.md", "takes a renewal only within N ms of its decision", TICKET),
    ("AGENT.md", "loses packets for N seconds more at most", LEASE),
    ("RELIABILITY.md", "a hanging agent's loss ends within one lease, N seconds,", LEASE),
    ("TROUBLESHOOTING.md", "The kernel ends a guarded loss within N seconds;", LEASE),
    ("TROUBLESHOOTING.md", "`leaseExpired`: the agent did not run for N seconds,", LEASE),
    ("adr/0002-guarded-backend.md", "a hanging one's within N seconds.", LEASE),
];

/// Numbers that documents spell out.
const WORDS: [&str; 13] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// What stands in a text where a sentence has its `N`.
fn number(text: &str, sentence: &str) -> Option<u128> {
    let (before, after) = sentence.split_once('N')?;
    let mut found = text.split(before).skip(1).filter_map(|rest| rest.split_once(after).map(|(number, _)| number));
    let number = found.find(|number| !number.contains(' '))?;
    number.parse().ok().or_else(|| WORDS.iter().position(|word| *word == number).map(|place| place as u128))
}

#[test]
fn documents_give_the_lease_its_duration() {
    for (document, sentence, duration) in SENTENCES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
        let expected = if sentence.contains("N ms") { duration.as_millis() } else { u128::from(duration.as_secs()) };
        assert_eq!(number(&text, sentence), Some(expected), "docs/{document}: {sentence}");
    }
}
