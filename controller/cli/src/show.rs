//! A run as it goes: redrawn on a terminal, line by line elsewhere.

use super::{
    error::Error,
    output::{Format, Paint, Tone, document, document_line, print, table},
    view::{ExperimentView, PodLine, Seen, span},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use std::{collections::HashMap, io::IsTerminal as _};

/// Shows a run again and again.
pub(super) enum Show {
    /// A table with a bar below, redrawn.
    Terminal(Terminal),
    /// A line for each change.
    Lines(Lines),
    /// A document for each change: JSON one a line, YAML with a separator in front of each.
    Documents(Format, Option<Box<ExperimentView>>),
    /// Nothing.
    Silent,
}

impl Show {
    /// What fits the output's form, and where it goes.
    pub(super) fn new(format: Format) -> Self {
        match format {
            Format::Json | Format::Yaml => Self::Documents(format, None),
            Format::Table | Format::Wide if std::io::stdout().is_terminal() => {
                Self::Terminal(Terminal::new(ProgressDrawTarget::stdout(), format == Format::Wide))
            }
            Format::Table | Format::Wide => Self::Lines(Lines::default()),
        }
    }

    /// Shows how it is now.
    pub(super) fn show(&mut self, view: &ExperimentView, now: Timestamp) -> Result<(), Error> {
        match self {
            Self::Terminal(terminal) => terminal.show(view),
            Self::Lines(lines) => print(&lines.of(view, now))?,
            Self::Documents(format, last) => {
                let steady = without_clock(view);
                if last.as_deref() != Some(&steady) {
                    print(&next_document(*format, view)?)?;
                    *last = Some(Box::new(steady));
                }
            }
            Self::Silent => {}
        }
        Ok(())
    }

    /// Leaves what is shown where it stands.
    pub(super) fn end(&self) {
        if let Self::Terminal(terminal) = self {
            terminal.bar.abandon();
        }
    }
}

/// One document of a stream.
fn next_document(format: Format, view: &ExperimentView) -> Result<String, Error> {
    match format {
        Format::Yaml => Ok(format!("---\n{}", document(format, "Experiment", view)?)),
        _ => document_line("Experiment", view),
    }
}

/// What changes by itself is no change.
fn without_clock(view: &ExperimentView) -> ExperimentView {
    let pods = view.pods.iter().map(|pod| PodLine { seconds_left: None, ..pod.clone() }).collect();
    ExperimentView { seconds_left: None, progress: None, pods, ..view.clone() }
}

/// Redraws itself.
pub(super) struct Terminal {
    bar: ProgressBar,
    wide: bool,
}

/// A thousandth is more than a bar shows.
const PARTS: u64 = 1000;

impl Terminal {
    fn new(target: ProgressDrawTarget, wide: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(PARTS), target);
        // The template is a constant: were it wrong, the bar would have its own form.
        if let Ok(style) = ProgressStyle::with_template("{msg}\n[{bar:40}] {percent:>3}%  {prefix}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, wide }
    }

    fn show(&self, view: &ExperimentView) {
        self.bar.set_message(whole(view, self.wide, Paint::stdout()).trim_end().to_owned());
        self.bar.set_prefix(left(view));
        self.bar.set_position(position(view.progress));
        self.bar.tick();
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of a number from 0 to PARTS
fn position(progress: Option<f64>) -> u64 {
    (progress.unwrap_or(0.0).clamp(0.0, 1.0) * PARTS as f64) as u64
}

fn left(view: &ExperimentView) -> String {
    match (view.seconds_left, view.open) {
        (Some(seconds), open) if open > 0 => format!("{} left at most", span(seconds)),
        _ => view.phase.clone(),
    }
}

/// The tone of a phase of an experiment or of a pod, or of a result.
pub(super) fn tone(phase: &str) -> Tone {
    match phase {
        "Completed" | "clean" | "success" => Tone::Good,
        "Failed" | "unknown" | "failed" | "failure" | "silent" => Tone::Bad,
        "New" | "Paused" | "planned" | "never-started" | "pod-ended" | "sandbox-recreated" | "cancelled" => Tone::Quiet,
        _ => Tone::Busy,
    }
}

/// An experiment with all its pods.
pub(super) fn whole(view: &ExperimentView, wide: bool, paint: Paint) -> String {
    let run = view.run.map(|run| format!(", run {run}")).unwrap_or_default();
    let duration = view.asked.duration.as_deref().map(|duration| format!(" for {duration}")).unwrap_or_default();
    let name = paint.tone(Tone::Strong, &format!("{}/{}", view.namespace, view.name));
    let phase = paint.tone(tone(&view.phase), &view.phase);
    let is = if view.open == 0 && view.applied > 0 { "was " } else { "" };
    let mut text =
        format!("{name}: {phase}{run}: {}{duration}, {is}in place in {} of {} pod(s)\n", view.asked.words(), view.applied, view.planned);
    if let Some(message) = &view.message {
        text.extend([message.as_str(), "\n"]);
    }
    if !view.pods.is_empty() {
        text += &pods(&view.pods, wide, paint);
    }
    text
}

/// A table of pods.
pub(super) fn pods(pods: &[PodLine], wide: bool, paint: Paint) -> String {
    let mut heading = vec!["POD", "PHASE", "ASKED", "EGRESS", "INGRESS", "LEFT"];
    if wide {
        heading.extend(["DROPPED", "NODE", "BACKEND", "CONTAINER", "MESSAGE"]);
    }
    let rows: Vec<Vec<String>> = pods.iter().map(|pod| row(pod, wide, paint)).collect();
    table(&heading, &rows)
}

fn row(pod: &PodLine, wide: bool, paint: Paint) -> Vec<String> {
    let seen = |seen: Option<Seen>| seen.map(|seen| seen.words()).unwrap_or_default();
    let mut row = vec![
        pod.pod.clone(),
        paint.tone(if pod.loss_may_remain { Tone::Bad } else { tone(&pod.phase) }, &pod.phase),
        pod.asked.words(),
        seen(pod.egress),
        seen(pod.ingress),
        time_left(pod),
    ];
    if wide {
        let counts: Vec<String> = [pod.egress, pod.ingress].into_iter().flatten().map(|seen| seen.counts()).collect();
        let backend = pod.backend.clone().unwrap_or_default();
        let backend = if pod.unguarded == Some(true) { format!("{backend}, unguarded") } else { backend };
        let node = pod.node.clone().unwrap_or_default();
        row.extend([counts.join(" "), node, backend, pod.container.clone(), pod.message.clone().unwrap_or_default()]);
    }
    row
}

fn time_left(pod: &PodLine) -> String {
    match pod.seconds_left {
        Some(seconds) if pod.applied.is_some() => span(seconds),
        Some(seconds) => format!("<={}", span(seconds)),
        None => String::new(),
    }
}

/// Remembers what it has said.
#[derive(Default)]
pub(super) struct Lines {
    head: Option<(String, Option<String>)>,
    pods: HashMap<String, PodLine>,
}

impl Lines {
    /// The lines for what has changed.
    pub(super) fn of(&mut self, view: &ExperimentView, now: Timestamp) -> String {
        let mut text = String::new();
        let at = now.strftime("%H:%M:%S").to_string();
        let head = (view.phase.clone(), view.message.clone());
        if self.head.as_ref() != Some(&head) {
            let message = view.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
            text = format!("{at}  {}/{}  {}{message}\n", view.namespace, view.name, view.phase);
            self.head = Some(head);
        }
        for pod in &view.pods {
            let steady = PodLine { seconds_left: None, ..pod.clone() };
            if self.pods.get(&pod.container_key()) != Some(&steady) {
                text += &line(&at, pod);
                self.pods.insert(pod.container_key(), steady);
            }
        }
        text
    }
}

impl PodLine {
    fn container_key(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

fn line(at: &str, pod: &PodLine) -> String {
    let seen = |way: &str, seen: Option<Seen>| seen.map(|seen| format!("  {way} {} {}", seen.words(), seen.counts())).unwrap_or_default();
    let left = time_left(pod);
    let left = if left.is_empty() { left } else { format!("  left {left}") };
    let message = pod.message.as_deref().map(|message| format!("  {message}")).unwrap_or_default();
    let (egress, ingress) = (seen("egress", pod.egress), seen("ingress", pod.ingress));
    format!("{at}  pod {}  {}  asked {}{egress}{ingress}{left}{message}\n", pod.pod, pod.phase, pod.asked.words())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::LiveFigures;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::{ChaosExperiment, ChaosExperimentStatus, Phase, PodState, PodStatus};
    use netloss_contract::{PerDirection, Traffic};
    use netloss_core::machine::{
        Live,
        fixtures::{at, entry, spec},
    };

    fn view(pods: Vec<PodStatus>, live: &LiveFigures, now: i64) -> ExperimentView {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        object.status = Some(ChaosExperimentStatus {
            phase: Some(Phase::Running),
            run: Some(1),
            message: Some("Successfully injected 10% packet loss into 1 pod(s)".to_owned()),
            pods,
            ..ChaosExperimentStatus::default()
        });
        ExperimentView::new(&object, live, at(now))
    }

    fn applied() -> PodStatus {
        PodStatus { state: PodState::Applied, applied_at: Some(Time(at(10))), deadline: Time(at(150)), ..entry() }
    }

    fn live(packets: u64, dropped: u64) -> LiveFigures {
        let traffic = PerDirection { egress: Some(Traffic::new(packets, dropped, 10.0)), ingress: Some(Traffic::new(0, 0, 10.0)) };
        LiveFigures::from([("pod-uid".to_owned(), Live { at: at(15), traffic })])
    }

    #[test]
    fn a_table_says_what_was_asked_and_what_was_seen() {
        let text = whole(&view(vec![applied()], &live(1000, 98), 20), false, Paint::none());
        assert_eq!(
            text,
            "n/x: Running, run 1: 10% both for 30s, in place in 1 of 1 pod(s)\n\
             Successfully injected 10% packet loss into 1 pod(s)\n\
             POD   PHASE     ASKED      EGRESS            INGRESS      LEFT\n\
             p     applied   10% both   9.8% (8.1-11.8)   no packets   20s\n"
        );
        let wide = whole(&view(vec![entry()], &LiveFigures::new(), 20), true, Paint::none());
        assert!(wide.contains("network-loss-uid-r1-a1") && wide.lines().any(|line| line.contains("CONTAINER")), "{wide}");
    }

    #[test]
    fn in_a_pipe_each_change_is_a_line() {
        let mut lines = Lines::default();
        let first = lines.of(&view(vec![entry()], &LiveFigures::new(), -20), at(-20));
        assert_eq!(first.lines().count(), 2, "{first}");
        assert!(first.lines().nth(1).unwrap().ends_with("pod p  planned  asked 10% both  left <=20s"), "{first}");
        assert_eq!(lines.of(&view(vec![entry()], &LiveFigures::new(), -19), at(-19)), "", "the clock alone is no change");
        let next = lines.of(&view(vec![applied()], &live(1000, 98), 20), at(20));
        assert!(next.ends_with("applied  asked 10% both  egress 9.8% (8.1-11.8) 98/1000  ingress no packets 0/0  left 20s\n"), "{next}");
    }

    #[test]
    fn on_a_terminal_the_table_is_redrawn_with_a_bar_below() {
        let screen = indicatif::InMemoryTerm::new(20, 120);
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let show = Show::Terminal(Terminal::new(target, false));
        let Show::Terminal(terminal) = &show else { panic!("it is one") };
        terminal.show(&view(vec![entry()], &LiveFigures::new(), -20));
        // The bar leaves out pictures that come faster than it draws.
        let begin = std::time::Instant::now();
        while !screen.contents().contains("15s left at most") {
            assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{}", screen.contents());
            terminal.show(&view(vec![applied()], &live(1000, 98), 25));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        show.end();
        let lines: Vec<String> = screen.contents().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 5, "the first picture is gone: {lines:?}");
        assert_eq!(lines[3], "p     applied   10% both   9.8% (8.1-11.8)   no packets   15s");
        assert_eq!(lines[4], "[====================>                   ]  50%  15s left at most");
    }

    #[test]
    fn a_stream_of_yaml_is_yaml() {
        let view = view(vec![applied()], &live(1000, 98), 20);
        let stream = next_document(Format::Yaml, &view).unwrap() + &next_document(Format::Yaml, &view).unwrap();
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&stream).unwrap();
        assert_eq!((documents.len(), &documents[1]["kind"]), (2, &serde_json::json!("Experiment")), "{stream}");
        assert!(stream.starts_with("---\nschema: 1\n"), "{stream}");
        assert_eq!(next_document(Format::Json, &view).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_bar_is_where_the_run_is() {
        assert_eq!((position(None), position(Some(0.5)), position(Some(7.0))), (0, PARTS / 2, PARTS));
        assert_eq!(left(&view(vec![applied()], &LiveFigures::new(), 20)), "20s left at most");
    }
}
