//! The guest that benchmarks run in.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::{Context, Result, ensure};
use netloss_lab::host::{cargo, progress};
use netloss_lab::kernel::{Arch, Guest, Kernel, Payload, Suite, Tools, agent};
use netloss_lab_measure::{Comparison, RESULT};

/// The kernel that is measured on: the oldest that has all of the guard.
pub(super) const KERNEL: Kernel = Kernel { suite: Suite::Bookworm, arch: Arch::X86_64 };

/// A guest with everything that is measured in it.
#[derive(Debug)]
pub(super) struct Machine {
    guest: Guest,
    payload: Payload,
    pub(super) tools: Tools,
    /// The release build of the agent.
    pub(super) agent: PathBuf,
}

/// What was measured in it.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) comparisons: Vec<Comparison>,
    /// In words.
    pub(super) machine: String,
}

impl Machine {
    /// Builds and fetches what is needed.
    pub(super) fn prepare() -> Result<Self> {
        let guest = KERNEL.prepare()?;
        let tools = Tools::prepare(KERNEL)?;
        // One that is built already, such as that of another commit.
        let agent = std::env::var_os("NETLOSS_AGENT").map_or_else(|| agent::build_release(KERNEL.arch), |agent| Ok(agent.into()))?;
        let step = progress::step("Building what measures");
        let (binary, floor) = (program("measure")?, program("floor")?);
        step.done(format!("agent of {} KiB", fs::metadata(&agent)?.len() / 1024));
        let mut files = vec![(agent::IN_GUEST.to_owned(), agent.clone()), ("/usr/bin/floor".to_owned(), floor)];
        files.extend(tools.strace()?);
        Ok(Self { guest, payload: Payload { binary, files, ..Payload::default() }, tools, agent })
    }

    /// Measures something so many times, in a guest with so many processors.
    pub(super) fn measure(&self, what: &str, times: u32, processors: u32) -> Result<Measured> {
        let arguments = vec![what.into(), times.to_string().into()];
        let payload = Payload { arguments, processors, ..self.payload.clone() };
        let lines = Mutex::new(Vec::new());
        let outcome = self.guest.run(&payload, |line| match line.strip_prefix(RESULT) {
            Some(result) => lines.lock().unwrap_or_else(PoisonError::into_inner).push(result.to_owned()),
            None => println!("{line}"),
        })?;
        ensure!(outcome.code == 0, "it ended with exit code {}", outcome.code);
        let lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
        let comparisons =
            lines.iter().map(|line| serde_json::from_str(line).context("what was measured is no result")).collect::<Result<_>>()?;
        let machine = format!(
            "Linux {}, emulated by QEMU (TCG) with {processors} processor{}, without address space randomisation",
            outcome.release,
            if processors == 1 { "" } else { "s" }
        );
        Ok(Measured { comparisons, machine })
    }
}

/// Builds a program of the lab's for the guest.
fn program(name: &str) -> Result<PathBuf> {
    let mut build = cargo::cargo();
    build.args([
        "build",
        "--quiet",
        "--package",
        "netloss-lab-measure",
        "--bin",
        name,
        "--profile",
        "guest",
        "--target",
        KERNEL.arch.target(),
    ]);
    build.args(["--message-format", "json-render-diagnostics"]);
    cargo::executables(&mut build)?.pop().with_context(|| format!("cargo built no {name}"))
}
