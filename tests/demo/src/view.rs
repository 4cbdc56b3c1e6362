//! What is known at a moment, and how it looks: text from values, without a terminal.

use std::time::Duration;

use anyhow::Result;
use netloss_lab_traffic::{Direction as Counts, Line};

use super::experiment::{Direction, Experiment};

/// Seconds of history that are drawn.
const HISTORY: usize = 60;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Everything that is shown.
#[derive(Debug, Clone)]
pub(super) struct View {
    experiment: Experiment,
    duration: Duration,
    /// The target's egress and ingress, as the peer knows them: each second of the demonstration.
    egress: Track,
    ingress: Track,
    time: f64,
    quiet: u32,
}

/// One direction over time.
#[derive(Debug, Clone, Default)]
struct Track {
    seconds: Vec<Second>,
}

/// One direction in one second.
#[derive(Debug, Clone, Copy)]
struct Second {
    end: f64,
    sent: u64,
    arrived: u64,
    loss: Option<f64>,
}

/// Packets while the loss was in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    sent: u64,
    arrived: u64,
}

impl Totals {
    pub(super) fn lost(self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }

    fn percent(self) -> Option<f64> {
        (self.sent > 0).then(|| self.lost() as f64 / self.sent as f64 * 100.0)
    }
}

impl Track {
    fn add(&mut self, end: f64, direction: &Counts) {
        self.seconds.push(Second { end, sent: direction.sent, arrived: direction.arrived, loss: direction.loss });
    }

    fn now(&self) -> Option<f64> {
        self.seconds.last().and_then(|second| second.loss)
    }

    /// The seconds that lie wholly within this time: of a second that is cut, nobody knows which packets were at risk.
    fn within(&self, time: Option<(f64, f64)>) -> Totals {
        let Some((begin, end)) = time else { return Totals::default() };
        let seconds = self.seconds.iter().filter(|second| second.end - 1.0 >= begin && second.end <= end);
        seconds.fold(Totals::default(), |sum, second| Totals { sent: sum.sent + second.sent, arrived: sum.arrived + second.arrived })
    }

    /// One bar a second; full height is `top` percent.
    fn chart(&self, top: f64) -> String {
        let bar = |second: &Second| match second.loss {
            None => '?',
            Some(loss) if loss <= 0.0 => '·',
            // The quotient is within 1 to 8, so nothing is cut off.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(loss) => BARS[(loss / top * 8.0).ceil().clamp(1.0, 8.0) as usize],
        };
        self.seconds[self.seconds.len().saturating_sub(HISTORY)..].iter().map(bar).collect()
    }
}

impl View {
    pub(super) fn new(experiment: &Experiment) -> Result<Self> {
        let duration = experiment.duration()?;
        let (egress, ingress) = (Track::default(), Track::default());
        Ok(Self { experiment: experiment.clone(), duration, egress, ingress, time: 0.0, quiet: 0 })
    }

    /// Takes in a second of the peer's traffic.
    pub(super) fn add(&mut self, line: &Line) {
        self.time = line.time;
        self.egress.add(line.time, &line.from_peer);
        self.ingress.add(line.time, &line.to_peer);
        let quiet = [&self.egress, &self.ingress].iter().all(|track| track.now() == Some(0.0));
        self.quiet = if quiet { self.quiet + 1 } else { 0 };
    }

    /// Takes in the experiment as the API server has it.
    pub(super) fn update(&mut self, experiment: Experiment) {
        self.experiment = experiment;
    }

    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    /// Whether the controller says that the experiment has ended.
    pub(super) fn is_over(&self) -> bool {
        ["Completed", "Failed"].contains(&self.phase())
    }

    pub(super) fn is_completed(&self) -> bool {
        self.phase() == "Completed"
    }

    /// How many seconds without any loss there were last.
    pub(super) fn quiet_seconds(&self) -> u32 {
        self.quiet
    }

    /// What was counted in the directions that were asked for.
    pub(super) fn asked_directions(&self) -> Vec<Totals> {
        let tracks = match self.experiment.spec.direction {
            Direction::Egress => vec![&self.egress],
            Direction::Ingress => vec![&self.ingress],
            Direction::Both => vec![&self.egress, &self.ingress],
        };
        tracks.into_iter().map(|track| track.within(self.in_place())).collect()
    }

    /// The block that is drawn again and again on a terminal.
    pub(super) fn block(&self) -> Vec<String> {
        let top = self.experiment.spec.loss_percentage * 2.5;
        let row = |name: &str, track: &Track| {
            let during = track.within(self.in_place()).percent().map_or_else(|| "      –".into(), |percent| format!("{percent:>5.1} %"));
            format!("  {name:<24}{}   {during}  {}", percent(track.now()), track.chart(top))
        };
        vec![
            String::new(),
            format!("  asked     {}", self.asked()),
            format!("  phase     {}", self.phase()),
            format!("  time left {}", self.time_left().map_or_else(|| "–".into(), |left| self.gauge(left))),
            String::new(),
            format!("  {:<24}{:>7}   {:>7}  a bar a second", "seen by the peer", "now", "so far"),
            row("target → peer (egress)", &self.egress),
            row("peer → target (ingress)", &self.ingress),
            String::new(),
            format!("  {}", self.word()),
        ]
    }

    /// The line that is written each second where there is no terminal.
    pub(super) fn line(&self) -> String {
        let left = self.time_left().map_or_else(|| "     –".into(), |left| format!("{left:>4.0} s"));
        format!(
            "{:<9} time left {left}   asked {:>4} %   target→peer {}   peer→target {}",
            self.phase(),
            self.experiment.spec.loss_percentage,
            percent(self.egress.now()),
            percent(self.ingress.now())
        )
    }

    /// What came of it.
    pub(super) fn summary(&self) -> String {
        let mut rows = vec![("phase", self.phase().to_owned()), ("message", self.word().to_owned()), ("asked", self.asked())];
        for (name, track) in [("egress", &self.egress), ("ingress", &self.ingress)] {
            let totals = track.within(self.in_place());
            let seen = percent(totals.percent());
            rows.push((name, format!("{} seen by the peer while it lasted ({} of {} packets)", seen.trim(), totals.lost(), totals.sent)));
        }
        rows.push(("now", format!("{} and {}", percent(self.egress.now()).trim(), percent(self.ingress.now()).trim())));
        for pod in &self.experiment.status.pods {
            let words = [pod.state.as_deref(), pod.outcome.as_deref(), pod.backend.as_deref(), pod.message.as_deref()];
            rows.push(("pod", format!("{}: {}", pod.name, words.into_iter().flatten().collect::<Vec<_>>().join(", "))));
        }
        rows.iter().map(|(name, value)| format!("  {name:<10}{value}")).collect::<Vec<_>>().join("\n")
    }

    /// When the loss was or is to be in place, by the node's clock.
    fn in_place(&self) -> Option<(f64, f64)> {
        let applied = self.experiment.applied_at()?;
        Some((applied, applied + self.duration.as_secs_f64()))
    }

    fn asked(&self) -> String {
        let direction = match self.experiment.spec.direction {
            Direction::Egress => "of what the target sends",
            Direction::Ingress => "of what the target receives",
            Direction::Both => "in both directions",
        };
        format!("{} % {direction}, for {} s", self.experiment.spec.loss_percentage, self.duration.as_secs())
    }

    fn phase(&self) -> &str {
        self.experiment.status.phase.as_deref().unwrap_or("–")
    }

    fn word(&self) -> &str {
        self.experiment.status.message.as_deref().unwrap_or("")
    }

    /// Seconds until the loss is due to end, once it has begun.
    fn time_left(&self) -> Option<f64> {
        let (_, end) = self.in_place()?;
        Some((end - self.time).max(0.0))
    }

    fn gauge(&self, left: f64) -> String {
        let share = left / self.duration.as_secs_f64().max(1.0);
        // Within 0 to 30.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let filled = (share * 30.0).round().clamp(0.0, 30.0) as usize;
        format!("{left:>4.0} s  {}{}", "█".repeat(filled), "░".repeat(30 - filled))
    }
}

fn percent(loss: Option<f64>) -> String {
    loss.map_or_else(|| "      ?".into(), |loss| format!("{loss:>5.1} %"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn experiment(status: &serde_json::Value) -> Experiment {
        let spec = json!({ "lossPercentage": 10, "direction": "both", "duration": "30s", "selector": { "app": "demo" } });
        serde_json::from_value(json!({ "spec": spec, "status": status })).unwrap()
    }

    fn line(time: f64, sent: u64, arrived: u64) -> Line {
        let loss = Some((sent - arrived) as f64 / sent as f64 * 100.0);
        let direction = Counts { sent, arrived, loss, total_sent: sent, total_arrived: arrived };
        Line { time, peer: "10.0.0.1:9000".into(), to_peer: direction, from_peer: direction, send_errors: 0 }
    }

    #[test]
    fn only_whole_seconds_of_loss_count() {
        let mut view = View::new(&experiment(&json!({}))).unwrap();
        view.add(&line(99.0, 200, 200));
        view.update(experiment(&json!({ "phase": "Running", "pods": [{ "name": "target", "appliedAt": "1970-01-01T00:01:40Z" }] })));
        view.add(&line(100.5, 200, 190));
        view.add(&line(110.0, 200, 180));
        view.add(&line(130.5, 200, 199));
        assert_eq!(view.asked_directions(), [Totals { sent: 200, arrived: 180 }; 2]);
        assert_eq!(view.quiet_seconds(), 0);
        view.add(&line(131.5, 200, 200));
        assert_eq!(view.quiet_seconds(), 1);
    }

    #[test]
    fn time_left_counts_down_from_the_moment_of_application() {
        let status = json!({ "phase": "Running", "pods": [{ "name": "target", "appliedAt": "1970-01-01T00:01:40Z" }] });
        let mut view = View::new(&experiment(&status)).unwrap();
        view.add(&line(110.0, 200, 180));
        assert!(view.line().contains("time left   20 s"), "{}", view.line());
        view.add(&line(140.0, 200, 200));
        assert!(view.line().contains("time left    0 s"), "{}", view.line());
    }

    #[test]
    fn the_block_keeps_its_height() {
        let mut view = View::new(&experiment(&json!({}))).unwrap();
        let height = view.block().len();
        for second in 0..100 {
            view.add(&line(f64::from(second), 200, 150));
        }
        assert_eq!(view.block().len(), height);
        assert!(view.block().iter().all(|line| line.chars().count() <= 110));
    }

    #[test]
    fn a_status_without_anything_is_understood() {
        let view = View::new(&experiment(&json!({}))).unwrap();
        assert!(!view.is_over());
        assert!(view.summary().contains('–'));
    }
}
