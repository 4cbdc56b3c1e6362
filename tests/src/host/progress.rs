//! What is going on, for the person who waits: one line for each step that ends, with the time it took and the time since the start.
//!
//! On a terminal, steps that are under way have a line each below that. Elsewhere one line says what they are doing, every ten seconds at
//! most. What the programs of a step print goes to a file, whose path and last lines are shown if it fails.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::paths;

/// Where there is no terminal, the steps under way are said at most this often.
const INTERVAL: Duration = Duration::from_secs(10);

/// As many lines of a failed step's log as help to see what went wrong.
const LINES_SHOWN: usize = 20;

static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
static RUNNING: Mutex<Vec<Arc<Mutex<State>>>> = Mutex::new(Vec::new());

/// Starts a step. Several may be under way at once.
#[must_use = "a step that is dropped before it is done counts as failed"]
pub fn step(title: impl Into<String>) -> Step {
    LazyLock::force(&STARTED);
    let title = title.into();
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = SCREEN.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner:.cyan} {prefix}  {wide_msg:.dim} {elapsed:.dim}"));
        bar.set_prefix(title.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    let state = Arc::new(Mutex::new(State { title, detail: String::new(), started: Instant::now() }));
    lock(&RUNNING).push(Arc::clone(&state));
    if bar.is_none() {
        static TICKER: Once = Once::new();
        TICKER.call_once(|| {
            thread::spawn(tick);
        });
    }
    Step { state, bar, log: Mutex::default(), finished: false }
}

/// Prints a line, above the steps that are under way if there are any.
pub fn note(text: impl AsRef<str>) {
    SCREEN.suspend(|| eprintln!("{}", text.as_ref()));
}

/// Where there is no terminal: says every ten seconds what is under way.
fn tick() {
    loop {
        thread::sleep(INTERVAL);
        let running: Vec<String> = lock(&RUNNING).iter().map(|state| lock(state).line()).collect();
        if !running.is_empty() {
            eprintln!("   {} {}", clock(STARTED.elapsed()), running.join("; "));
        }
    }
}

/// What there is to say about a step that is under way.
#[derive(Debug)]
struct State {
    title: String,
    detail: String,
    started: Instant,
}

impl State {
    fn line(&self) -> String {
        let detail = if self.detail.is_empty() { String::new() } else { format!(": {}", self.detail) };
        format!("{}{detail} ({:.0} s)", self.title, self.started.elapsed().as_secs_f64())
    }
}

/// A piece of work that is under way. Dropped before it is [`done`](Step::done), it is shown as failed.
#[derive(Debug)]
pub struct Step {
    state: Arc<Mutex<State>>,
    /// `None` where the output is not a terminal.
    bar: Option<ProgressBar>,
    log: Mutex<Log>,
    finished: bool,
}

/// What the programs of a step printed: all of it in a file, which is made with the first line, and the end of it at hand.
#[derive(Debug, Default)]
struct Log {
    file: Option<(PathBuf, File)>,
    tail: VecDeque<String>,
}

impl Step {
    /// Says what the step is doing right now.
    pub fn detail(&self, text: impl Into<String>) {
        let text = text.into();
        if let Some(bar) = &self.bar {
            bar.set_message(text.clone());
        }
        lock(&self.state).detail = text;
    }

    /// Says how much of a known amount is done.
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(total) {
                bar.set_style(style("{spinner:.cyan} {prefix}  [{bar:24}] {pos}/{len} {wide_msg:.dim} {elapsed:.dim}"));
                bar.set_length(total);
            }
            bar.set_position(done);
        }
        lock(&self.state).detail = format!("{done} of {total}");
    }

    /// Keeps a line that a program of the step printed.
    pub fn log(&self, line: &str) {
        let mut log = lock(&self.log);
        if log.file.is_none() {
            log.file = create_log(&lock(&self.state).title);
        }
        if let Some((_, file)) = &mut log.file {
            // A full disk shows in the work itself.
            drop(writeln!(file, "{line}"));
        }
        if log.tail.len() == LINES_SHOWN {
            log.tail.pop_front();
        }
        log.tail.push_back(line.to_owned());
    }

    /// Ends the step well, saying what came out of it.
    pub fn done(mut self, text: impl AsRef<str>) {
        self.finish("ok    ", text.as_ref());
    }

    fn finish(&mut self, mark: &str, text: &str) {
        self.finished = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            SCREEN.remove(&bar);
        }
        lock(&RUNNING).retain(|state| !Arc::ptr_eq(state, &self.state));
        let state = lock(&self.state);
        let colon = if text.is_empty() { "" } else { ": " };
        let seconds = state.started.elapsed().as_secs_f64();
        note(format!("{mark}{} {}{colon}{text} ({seconds:.1} s)", clock(STARTED.elapsed()), state.title));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.finish("FAILED ", "");
        let log = lock(&self.log);
        if let Some((path, _)) = &log.file {
            note(format!("The log is {}; it ends with:", path.display()));
            log.tail.iter().for_each(|line| note(format!("  {line}")));
        }
    }
}

/// A file for a step's log: one for each title, so that there are not ever more of them.
fn create_log(title: &str) -> Option<(PathBuf, File)> {
    let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name: String = words.collect::<Vec<_>>().join("-").to_lowercase().chars().take(80).collect();
    let path = paths::lab_dir().join("logs").join(format!("{name}.log"));
    fs::create_dir_all(path.parent()?).ok()?;
    let file = File::create(&path).ok()?;
    Some((path, file))
}

/// Minutes and seconds.
fn clock(elapsed: Duration) -> String {
    format!("{}:{:02}", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a wrong one costs the looks and not the work.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_keeps_the_end_of_its_log_and_all_of_it_in_a_file() {
        let step = step("Testing a log: of this test");
        (0..30).for_each(|number| step.log(&format!("line {number}")));
        let (path, tail) = {
            let log = lock(&step.log);
            (log.file.as_ref().unwrap().0.clone(), log.tail.iter().cloned().collect::<Vec<_>>())
        };
        step.done("");
        assert_eq!(path.file_name().unwrap(), "testing-a-log-of-this-test.log");
        assert_eq!((tail.len(), tail[0].as_str()), (LINES_SHOWN, "line 10"));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 30);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_step_under_way_says_what_it_does_and_for_how_long() {
        let state = State { title: "Building".into(), detail: "3 of 7".into(), started: Instant::now() };
        assert_eq!(state.line(), "Building: 3 of 7 (0 s)");
        assert_eq!(clock(Duration::from_secs(125)), "2:05");
    }
}
