//! Records in words, for a person in a pod. Pure.

use netloss_contract::{
    Applied, Asked, Backend, Cause, Checked, Cleaned, Event, ExitCode, Failed, Filtered, Guard, Heartbeat, Holder, Interval, LINE_LIMIT,
    PerDirection, Planned, Predicted, Record, Removed, Status, Stopped, Traffic, Verdict, sanitize, truncate,
};
use std::time::Duration;

/// The record as lines, each with its end, and each printable and bounded whatever the record's texts are ([`printable`]).
pub fn render(record: &Record) -> impl Iterator<Item = String> {
    let lines = match &record.event {
        Event::Applied(applied) => self::applied(applied),
        Event::Heartbeat(heartbeat) => self::heartbeat(heartbeat),
        Event::Removed(removed) => self::removed(removed),
        Event::Failed(failed) => self::failed(failed),
        Event::Status(status) => self::status(status),
        Event::Stopped(stopped) => self::stopped(stopped),
        Event::Planned(planned) => self::planned(planned),
        Event::Checked(checked) => self::checked(checked),
        Event::Cleaned(Cleaned { removed }) if removed.is_empty() => {
            vec!["nothing to clean up: no dead agent left anything here".to_owned()]
        }
        Event::Cleaned(Cleaned { removed }) => {
            std::iter::once("cleaned up what a dead agent had left:".to_owned()).chain(indented(removed)).collect()
        }
    };
    lines.into_iter().map(|line| printable(&line) + "\n")
}

/// Names of interfaces, the kernel's words and other agents' answers may have characters that drive a terminal, and a pipe takes `PIPE_BUF`
/// at once: as long as the longest record.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut text = sanitize(text);
    truncate(&mut text, LINE_LIMIT - '…'.len_utf8());
    text
}

fn indented(words: &[String]) -> impl Iterator<Item = String> + '_ {
    words.iter().map(|word| format!("  {word}"))
}

fn row(name: &str, value: &str) -> String {
    format!("{name:<11} {value}")
}

fn warnings(words: &[String]) -> impl Iterator<Item = String> + '_ {
    words.iter().map(|word| row("warning", word))
}

fn asked(Asked { model, direction, seed, per_segment }: &Asked) -> String {
    let seed = seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
    let segments = if *per_segment { ", segment by segment" } else { "" };
    format!("{model}, {direction}{seed}{segments}")
}

fn backend(backend: Backend, guard: Option<Guard>) -> String {
    match (backend, guard) {
        (Backend::Guarded, Some(guard)) if guard.ends_with_agent => {
            "guarded: the kernel ends the loss if the agent dies or hangs".to_owned()
        }
        (Backend::Guarded, _) => "guarded: the kernel ends the loss when its lease runs out".to_owned(),
        (Backend::Tc, _) => "tc: a killed agent leaves the loss in place (netloss-agent cleanup removes it)".to_owned(),
    }
}

fn applied(applied: &Applied) -> Vec<String> {
    let mut lines = vec![
        row("interface", &format!("{} ({})", applied.interface, applied.interface_reason)),
        row("asked", &asked(&applied.asked)),
        row("backend", &backend(applied.backend, applied.guard)),
    ];
    lines.extend(applied.predicted.map(predicted));
    lines.extend(filtered(&applied.filtered));
    lines.push(row("ends at", &applied.ends_at.to_string()));
    lines.extend(warnings(&applied.warnings));
    lines
}

fn predicted(predicted: Predicted) -> String {
    let bursts = predicted.mean_burst.map(|packets| format!(", in bursts of {packets} packets")).unwrap_or_default();
    row("predicted", &format!("{} % in the long run{bursts}", predicted.loss_percentage))
}

fn filtered(filtered: &Filtered) -> impl Iterator<Item = String> {
    let only = (!filtered.targets.is_empty()).then(|| row("only", &filtered.targets.join(", ")));
    let spared = (!filtered.spared.is_empty()).then(|| row("spared", &filtered.spared.join(", ")));
    only.into_iter().chain(spared)
}

fn planned(planned: &Planned) -> Vec<String> {
    let mut lines = vec![
        row("interface", &format!("{} ({})", planned.interface, planned.interface_reason)),
        row("would lose", &asked(&planned.asked)),
        row("backend", &backend(planned.backend, planned.guard)),
        row("because", &planned.backend_reason),
    ];
    lines.extend(planned.predicted.map(predicted));
    lines.extend(filtered(&planned.filtered));
    lines.push(row("until", &planned.ends_at.to_string()));
    lines.extend(warnings(&planned.warnings));
    lines.push("run would:".to_owned());
    lines.extend(indented(&planned.steps));
    lines.push("nothing was changed".to_owned());
    lines
}

fn checked(checked: &Checked) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in &checked.findings {
        let verdict = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warning",
            Verdict::Bad => "BAD",
        };
        lines.push(format!("{verdict:<8} {:<13} {}", finding.what, finding.found));
        lines.extend(finding.remedy.iter().map(|remedy| format!("{:<22} -> {remedy}", "")));
    }
    lines.push(
        match checked.verdict {
            Verdict::Good => "loss works here",
            Verdict::Warning => "loss works here, with the limits above",
            Verdict::Bad => "loss in both directions does not work here",
        }
        .to_owned(),
    );
    lines
}

fn traffic(traffic: &PerDirection<Traffic>) -> Vec<String> {
    let of = |name: &str, traffic: Traffic| {
        let observed = match (traffic.observed_percentage, traffic.interval) {
            (Some(observed), Some(Interval { low, high })) => {
                let few = if traffic.too_few_packets { "; too few packets to tell" } else { "" };
                format!("{observed:.2} % lost (95 %: {low:.2} to {high:.2}), {} of {} packets{few}", traffic.dropped, traffic.packets)
            }
            _ => "no packets yet".to_owned(),
        };
        row(name, &observed)
    };
    let egress = traffic.egress.map(|traffic| of("egress", traffic));
    egress.into_iter().chain(traffic.ingress.map(|traffic| of("ingress", traffic))).collect()
}

/// How a run goes, in one line without its end.
#[must_use]
pub fn progress(interface: &str, heartbeat: &Heartbeat) -> String {
    let of = |words: &str, traffic: Option<Traffic>| {
        let traffic = traffic?;
        let observed = traffic.observed_percentage.map_or_else(|| "nothing".to_owned(), |observed| format!("{observed:.1} %"));
        Some(format!("{words} {observed} of {}", traffic.packets))
    };
    let lost = [of("sent", heartbeat.traffic.egress), of("received", heartbeat.traffic.ingress)];
    let lost: Vec<_> = lost.into_iter().flatten().collect();
    printable(&format!("{interface} lost: {}; {} left, Ctrl-C ends it", lost.join(", "), span(heartbeat.remaining_seconds)))
}

fn heartbeat(heartbeat: &Heartbeat) -> Vec<String> {
    let mut lines = traffic(&heartbeat.traffic);
    lines.push(row("elapsed", &span(heartbeat.elapsed_seconds)));
    lines.push(row("remaining", &span(heartbeat.remaining_seconds)));
    lines.extend(
        heartbeat
            .kept
            .iter()
            .filter(|kept| kept.degraded)
            .map(|kept| row("degraded", &format!("packets were lost for {} only: the agent hardly gets to run", span(kept.armed_seconds)))),
    );
    lines.extend(heartbeat.drift.iter().map(|drift| row("changed", drift)));
    lines.extend(heartbeat.repaired.iter().map(|repaired| row("repaired", repaired)));
    lines.extend(warnings(&heartbeat.warnings));
    lines
}

fn removed(removed: &Removed) -> Vec<String> {
    let cause = match removed.cause {
        Cause::Ttl => "its time was over",
        Cause::Deadline => "its deadline came",
        Cause::Sigterm => "SIGTERM came",
        Cause::Sigint => "SIGINT came",
        Cause::Sighup => "SIGHUP came",
        Cause::Sigquit => "SIGQUIT came",
        Cause::Stopped => "it was asked to stop",
        Cause::InterfaceLost => "the interface was deleted or renamed",
        Cause::Drift => "somebody changed it, and it could not be brought again",
        Cause::LeaseExpired => "its lease ran out: the agent did not run, or could not renew it",
    };
    let elapsed = span(removed.elapsed_seconds);
    let mut lines = vec![format!("the loss on {} has ended after {elapsed}, because {cause}; nothing of it is left", removed.interface)];
    lines.push(row("asked", &asked(&removed.asked)));
    lines.extend(traffic(&removed.traffic));
    lines.extend(removed.drift.iter().map(|drift| row("changed", drift)));
    lines.extend(removed.repaired.iter().map(|repaired| row("repaired", repaired)));
    lines.extend(warnings(&removed.warnings));
    lines
}

fn failed(failed: &Failed) -> Vec<String> {
    let mut lines = vec![failed.message.clone()];
    if !failed.left.is_empty() {
        lines.push("what is left:".to_owned());
        lines.extend(indented(&failed.left));
    }
    lines
}

fn status(status: &Status) -> Vec<String> {
    let Some(holder) = &status.holder else { return vec!["no agent works in this network namespace".to_owned()] };
    let mut lines = vec![row("agent", &describe(holder))];
    lines.extend(status.applied.iter().flat_map(applied));
    lines.extend(status.now.iter().flat_map(heartbeat));
    lines
}

fn stopped(stopped: &Stopped) -> Vec<String> {
    match (&stopped.holder, stopped.exit) {
        (Some(holder), Some(ExitCode::Done)) => vec![format!("stopped: {}", describe(holder))],
        (Some(holder), _) => vec![format!("ended with a failure: {}", describe(holder))],
        (None, _) => vec!["nothing to stop: no agent works in this network namespace".to_owned()],
    }
}

fn describe(holder: &Holder) -> String {
    let run = holder.run.as_ref().map_or_else(|| "without a run's name".to_owned(), |run| format!("run {run}"));
    format!("{run}, pid {} of its container, since {}", holder.pid, holder.started_at)
}

/// `1h 2m 3s`; tenths of a second below a minute.
fn span(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let (hours, minutes, seconds) = (whole / 3600, whole % 3600 / 60, whole % 60);
    if hours > 0 { format!("{hours}h {minutes}m {seconds}s") } else { format!("{minutes}m {seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_contract::{SCHEMA, is_unprintable};
    use proptest::prelude::*;

    fn text(event: Event) -> String {
        render(&Record { schema: SCHEMA, time: "2026-11-24T12:00:00Z".parse().unwrap(), run: None, event }).collect()
    }

    fn failure(message: &str) -> Event {
        Event::Failed(Failed {
            stage: netloss_contract::Stage::Start,
            message: message.to_owned(),
            exit: ExitCode::AlreadyRunning,
            left: vec![message.to_owned()],
            holder: None,
        })
    }

    proptest! {
        #[test]
        fn a_terminal_is_shown_bounded_lines_and_nothing_else(message in any::<String>(), repeats in 1..200_usize) {
            let words = text(failure(&message.repeat(repeats)));
            prop_assert_eq!(words.lines().count(), 3, "{:?}", words);
            prop_assert!(words.lines().all(|line| line.len() <= LINE_LIMIT && !line.contains(is_unprintable)), "{:?}", words);
            prop_assert!(words.ends_with('\n') && !printable(&message).contains(is_unprintable));
        }
    }

    #[test]
    fn nothing_is_said_in_words_too() {
        assert_eq!(text(Event::Cleaned(Cleaned { removed: vec![] })), "nothing to clean up: no dead agent left anything here\n");
        assert_eq!(
            text(Event::Stopped(Stopped { holder: None, exit: None })),
            "nothing to stop: no agent works in this network namespace\n"
        );
        let status = Status { holder: None, applied: None, now: None };
        assert_eq!(text(Event::Status(Box::new(status))), "no agent works in this network namespace\n");
    }

    #[test]
    fn a_rate_is_said_with_its_interval_and_its_doubt() {
        let traffic = PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: Some(Traffic::new(5, 1, 10.0)) };
        let lines = super::traffic(&traffic);
        assert_eq!(lines[0], "egress      9.80 % lost (95 %: 8.11 to 11.80), 98 of 1000 packets");
        assert!(lines[1].ends_with("1 of 5 packets; too few packets to tell"), "{lines:?}");
    }

    #[test]
    fn a_run_goes_by_in_a_line() {
        let mut heartbeat = Heartbeat {
            elapsed_seconds: 60.0,
            remaining_seconds: 61.0,
            traffic: PerDirection { egress: Some(Traffic::new(1000, 98, 10.0)), ingress: Some(Traffic::new(0, 0, 10.0)) },
            kept: None,
            intact: true,
            drift: vec![],
            repaired: vec![],
            warnings: vec![],
            lines_dropped: 0,
        };
        assert_eq!(progress("eth0", &heartbeat), "eth0 lost: sent 9.8 % of 1000, received nothing of 0; 1m 1s left, Ctrl-C ends it");
        heartbeat.traffic.ingress = None;
        assert_eq!(progress("eth0", &heartbeat), "eth0 lost: sent 9.8 % of 1000; 1m 1s left, Ctrl-C ends it");
    }

    #[test]
    fn spans_are_read_at_a_glance() {
        assert_eq!([3.25, 59.96, 61.0, 7384.0].map(span), ["3.2s", "60.0s", "1m 1s", "2h 3m 4s"]);
    }

    #[test]
    fn what_is_left_is_listed() {
        let failed = Failed {
            stage: netloss_contract::Stage::Remove,
            message: "the loss could not be removed".to_owned(),
            exit: ExitCode::Incomplete,
            left: vec!["a qdisc".to_owned()],
            holder: None,
        };
        assert_eq!(text(Event::Failed(failed)), "the loss could not be removed\nwhat is left:\n  a qdisc\n");
    }
}
