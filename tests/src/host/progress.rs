//! Words for whoever waits: each long piece of work is a step, with a spinner on a terminal and plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// In a log, a step that goes on says so at most this often.
const DETAIL_INTERVAL: Duration = Duration::from_secs(10);

static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Starts a step. Several may be under way at once.
#[must_use = "a step that is dropped before it is done counts as failed"]
pub fn step(title: impl Into<String>) -> Step {
    let title = title.into();
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = SCREEN.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner:.cyan} {prefix}  {wide_msg:.dim} {elapsed:.dim}"));
        bar.set_prefix(title.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    if bar.is_none() {
        eprintln!("-> {title}");
    }
    let now = Instant::now();
    Step { title, started: now, bar, last_line: Mutex::new(now), finished: false }
}

/// Prints a line, above the steps that are under way if there are any.
pub fn note(text: impl AsRef<str>) {
    SCREEN.suspend(|| eprintln!("{}", text.as_ref()));
}

/// A piece of work that is under way. Dropped before it is [`done`](Step::done), it is shown as failed.
#[derive(Debug)]
pub struct Step {
    title: String,
    started: Instant,
    /// `None` where the output is not a terminal.
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
    finished: bool,
}

impl Step {
    /// Says what the step is doing right now.
    pub fn detail(&self, text: impl Into<String>) {
        let text = text.into();
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        } else if self.line_is_due() {
            eprintln!("   {}: {text} ({})", self.title, self.elapsed());
        }
    }

    /// Says how much of a known amount is done.
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(total) {
                bar.set_style(style("{spinner:.cyan} {prefix}  [{bar:24}] {pos}/{len} {wide_msg:.dim} {elapsed:.dim}"));
                bar.set_length(total);
            }
            bar.set_position(done);
        } else if self.line_is_due() {
            eprintln!("   {}: {done} of {total} ({})", self.title, self.elapsed());
        }
    }

    /// Ends the step well, saying what came out of it.
    pub fn done(mut self, text: impl AsRef<str>) {
        self.finish("ok", text.as_ref());
    }

    fn finish(&mut self, mark: &str, text: &str) {
        self.finished = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            SCREEN.remove(&bar);
        }
        let colon = if text.is_empty() { "" } else { ": " };
        note(format!("{mark} {}{colon}{text} ({})", self.title, self.elapsed()));
    }

    fn elapsed(&self) -> String {
        format!("{:.1} s", self.started.elapsed().as_secs_f64())
    }

    fn line_is_due(&self) -> bool {
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.elapsed() >= DETAIL_INTERVAL;
        if due {
            *last = Instant::now();
        }
        due
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.finish("FAILED", "");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a wrong one costs the looks and not the work.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
