//! The agent's records, found in text that anything may have written.

use netloss_contract::{Event, Record};
use netloss_core::machine::{AgentLog, Live};

/// The records of this run, in their order.
fn records<'a>(text: &'a str, run: &'a str) -> impl DoubleEndedIterator<Item = Record> + 'a {
    let of_run = move |record: &Record| record.run.as_ref().is_some_and(|name| name.as_str() == run);
    text.lines().filter_map(|line| Record::from_line(line.trim())).filter(of_run)
}

/// The final record of a termination message, or else its last one: an agent that was killed leaves the end of its log there.
pub(super) fn last(text: &str, run: &str) -> Option<Record> {
    records(text, run).rev().find(|record| record.event.is_final()).or_else(|| records(text, run).next_back())
}

/// Whether a log says that the loss is in place. An agent that is started again says it again; what counts is the first time.
pub(super) fn of_log(text: &str, run: &str) -> AgentLog {
    let applied = records(text, run).find_map(|record| match record.event {
        Event::Applied(applied) => Some(AgentLog::Applied(record.time, Box::new(applied))),
        _ => None,
    });
    applied.unwrap_or(AgentLog::NotApplied)
}

/// What a log last says of a loss that is in place.
pub(super) fn live(text: &str, run: &str) -> Option<Box<Live>> {
    records(text, run).rev().find_map(|record| match record.event {
        Event::Heartbeat(heartbeat) => Some(Box::new(Live { at: record.time, traffic: heartbeat.traffic })),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::{applied, heartbeat, record, removed};

    #[test]
    fn a_log_is_searched_for_the_begin_of_the_loss() {
        let lines = [record(applied()).to_line(), record(heartbeat()).to_line()].join("\n");
        assert!(matches!(of_log(&lines, "uid/1"), AgentLog::Applied(..)));
        // The limit on what is read may cut a line.
        assert_eq!(of_log(&lines[..40], "uid/1"), AgentLog::NotApplied);
        assert_eq!(of_log(&lines, "uid/2"), AgentLog::NotApplied);
        assert_eq!(of_log("\u{0}\u{ff}{{{\n\n[]", "uid/1"), AgentLog::NotApplied);
    }

    #[test]
    fn a_termination_message_is_searched_for_its_end() {
        let lines = [record(heartbeat()), record(removed()), record(heartbeat())].map(|record| record.to_line()).join("\n");
        assert_eq!(last(&lines, "uid/1"), Some(record(removed())));
        assert_eq!(last(&record(heartbeat()).to_line(), "uid/1"), Some(record(heartbeat())));
        assert_eq!(last(&lines, "uid/11"), None);
    }
}
