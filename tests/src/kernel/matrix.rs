//! The kernel tests on several kernels, as many at once as the machine has processors.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

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

/// Builds what is needed and runs the kernel tests, with the harness's arguments, on each of the kernels. Where there are more
/// processors than kernels, each kernel's tests are dealt out to several guests.
///
/// # Errors
///
/// If something cannot be built or prepared. What goes wrong in a guest is in its report.
pub fn run(kernels: &[Kernel], arguments: &[OsString]) -> Result<Vec<Report>> {
    let guests_per_kernel = processors() / kernels.len().max(1);
    let mut payloads: Vec<(Arch, Vec<Payload>)> = Vec::new();
    let mut work = VecDeque::new();
    for kernel in kernels {
        let guest = kernel.prepare()?;
        if payloads.iter().all(|(arch, _)| *arch != kernel.arch) {
            payloads.push((kernel.arch, payloads_of(kernel.arch, arguments, guests_per_kernel)?));
        }
        let of_arch = payloads.iter().filter(|(arch, _)| *arch == kernel.arch).flat_map(|(_, payloads)| payloads);
        work.extend(of_arch.map(|payload| (*kernel, guest.clone(), payload.clone())));
    }
    Ok(run_all(work))
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The tests, as one payload or dealt out to several.
fn payloads_of(arch: Arch, arguments: &[OsString], guests: usize) -> Result<Vec<Payload>> {
    let mut payload = Payload { arguments: arguments.to_vec(), environment: forwarded_environment(), ..agent::build(arch)? };
    let has_threads = |argument: &OsString| argument.to_string_lossy().starts_with("--test-threads");
    if !arguments.iter().any(has_threads) {
        payload.arguments.push(THREADS.into());
    }
    // What is asked for by name is little; and the names come from the tests themselves, which run here if they are of this machine.
    if guests < 2 || !arguments.is_empty() || arch.to_string() != std::env::consts::ARCH {
        return Ok(vec![payload]);
    }
    let names = names(&payload.binary)?;
    let dealt = |hand: usize| {
        let mut payload = payload.clone();
        payload.arguments.push("--exact".into());
        // Tests of one module are much alike: neighbours go to different guests.
        payload.arguments.extend(names.iter().skip(hand).step_by(guests).map(OsString::from));
        payload
    };
    Ok((0..guests.min(names.len())).map(dealt).collect())
}

/// The names of the tests in a binary.
fn names(binary: &Path) -> Result<Vec<String>> {
    let output = Command::new(binary).args(["--list", "--format", "terse"]).output().context("cannot start the kernel tests")?;
    let text = String::from_utf8(output.stdout).context("the names of the kernel tests")?;
    let names: Vec<String> = text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    ensure!(output.status.success() && !names.is_empty(), "{} names no tests: {}", binary.display(), output.status);
    Ok(names)
}

fn run_all(work: VecDeque<(Kernel, Guest, Payload)>) -> Vec<Report> {
    let workers = processors().min(work.len());
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
        tally.lock().unwrap_or_else(PoisonError::into_inner).read(line);
    });
    Report { kernel, tally: tally.into_inner().unwrap_or_else(PoisonError::into_inner), outcome }
}
