//! The kernel tests on several kernels, as many at once as the machine has processors.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use super::{Arch, Guest, Kernel, Outcome, Payload, agent, forwarded_environment};
use crate::host::progress;
use crate::host::tally::Tally;

/// What the tests on one kernel came to.
#[derive(Debug)]
pub struct Report {
    /// The kernel.
    pub kernel: Kernel,
    /// The tests' results, as far as they got.
    pub tally: Tally,
    /// How the guest ended, or why it did not.
    pub outcome: Result<Outcome>,
}

impl Report {
    /// Whether every test ran and passed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.tally.failed == 0 && self.outcome.as_ref().is_ok_and(|outcome| outcome.code == 0)
    }

    /// One line on it.
    #[must_use]
    pub fn summary(&self) -> String {
        match &self.outcome {
            Ok(Outcome { code, release, elapsed, retries }) => {
                let retries = if *retries > 0 { format!(", started again {retries} times") } else { String::new() };
                let code = if *code == 0 { String::new() } else { format!(", exit code {code}") };
                format!("{:<18} {release:<28} {} in {:.0} s{code}{retries}", self.kernel.to_string(), self.tally, elapsed.as_secs_f64())
            }
            Err(error) => format!("{:<18} {}; {error:#}", self.kernel.to_string(), self.tally),
        }
    }
}

/// A guest has one processor, and its tests wait for a ttl or a lease half of their time.
const THREADS: &str = "--test-threads=3";

/// Builds what is needed and runs the kernel tests, with the harness's arguments, on each of the kernels.
///
/// # Errors
///
/// If something cannot be built or prepared. What goes wrong in a guest is in its report.
pub fn run(kernels: &[Kernel], arguments: &[OsString]) -> Result<Vec<Report>> {
    let mut arguments = arguments.to_vec();
    let has_threads = |argument: &OsString| argument.to_string_lossy().starts_with("--test-threads");
    if !arguments.iter().any(has_threads) {
        arguments.push(THREADS.into());
    }
    let mut payloads: Vec<(Arch, Payload)> = Vec::new();
    let mut work = VecDeque::new();
    for kernel in kernels {
        let guest = kernel.prepare()?;
        let built = payloads.iter().find(|(arch, _)| *arch == kernel.arch);
        let payload = if let Some((_, payload)) = built {
            payload.clone()
        } else {
            let payload = Payload { arguments: arguments.clone(), environment: forwarded_environment(), ..agent::build(kernel.arch)? };
            payloads.push((kernel.arch, payload.clone()));
            payload
        };
        work.push_back((*kernel, guest, payload));
    }
    Ok(run_all(work))
}

fn run_all(work: VecDeque<(Kernel, Guest, Payload)>) -> Vec<Report> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(work.len());
    let queue = Mutex::new(work);
    let reports = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((kernel, guest, payload)) = next() {
                    let report = run_one(kernel, &guest, &payload);
                    progress::note(report.summary());
                    reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                }
            });
        }
    });
    reports.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run_one(kernel: Kernel, guest: &Guest, payload: &Payload) -> Report {
    let tally = Mutex::new(Tally::default());
    let outcome = guest.run(payload, |line| {
        println!("[{kernel}] {line}");
        if let Some(counts) = Tally::of_line(line) {
            *tally.lock().unwrap_or_else(PoisonError::into_inner) += counts;
        }
    });
    Report { kernel, tally: tally.into_inner().unwrap_or_else(PoisonError::into_inner), outcome }
}
