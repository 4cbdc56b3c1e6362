//! `cargo lab test`: everything there is to check, in stages.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use netloss_lab::host::cargo::{self, cargo};
use netloss_lab::host::tally::Tally;
use netloss_lab::host::{command, paths};
use netloss_lab::kernel::{Kernel, matrix};

/// The version of cargo-deny that the deny stage installs.
const CARGO_DENY: &str = "0.20.2";

/// One stage.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    what: &'static str,
    run: fn() -> Result<Tally>,
}

/// What runs without arguments: what is cheap and breaks often comes first.
pub(crate) const SHORT: &[Stage] = &[
    Stage { name: "format", what: "rustfmt has nothing to change", run: format },
    Stage { name: "lint", what: "clippy has nothing to say, with warnings as errors", run: lint },
    Stage { name: "unit", what: "unit tests of all crates, on this machine", run: unit },
    Stage { name: "kernel", what: "the agent on Linux 6.1 (x86_64), in QEMU", run: kernel },
    Stage { name: "controlplane", what: "the controller on a real API server", run: controlplane },
    Stage { name: "cluster", what: "all of it on a real node, in QEMU", run: cluster },
];

/// What continuous integration adds.
const LONG: &[Stage] = &[
    Stage { name: "deny", what: "licences, banned crates and sources of all dependencies", run: deny },
    Stage { name: "setup", what: "tests/setup gives a fresh Debian all that the stages use", run: setup },
    Stage { name: "kernels", what: "the agent on Linux 5.10 (x86_64) and 6.12 (aarch64)", run: kernels },
    Stage { name: "bench", what: "speed and weight, against what is no noise any more", run: bench },
    Stage { name: "floor", what: "the controller on the API server of the oldest supported release", run: floor },
    Stage { name: "images", what: "the images for amd64 and arm64, what is in them, and the bill of that", run: images },
    Stage { name: "scenarios", what: "pods, kubelets and agents that come to harm during a run, and the node itself", run: scenarios },
    Stage { name: "faults", what: "a few schedules of the fault campaign, on a node of their own", run: faults },
    Stage { name: "run", what: "what `tests/lab run` shows", run: demonstration },
    Stage {
        name: "install",
        what: "the commands of the documents on a node, from installing to uninstalling, by kubectl and by Helm",
        run: install,
    },
];

pub(crate) fn stages() -> impl Iterator<Item = &'static Stage> {
    SHORT.iter().chain(LONG)
}

/// Run the checks: those of every change, those that continuous integration adds, or some stages
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(crate) struct Test {
    /// Run the long stages in place of the others
    #[arg(long, conflicts_with = "stages")]
    long: bool,
    /// The stages to run, by name
    #[arg(value_name = "STAGE", value_parser = clap::builder::PossibleValuesParser::new(stages().map(|stage| stage.name)))]
    stages: Vec<String>,
}

/// What a stage came to.
struct Report {
    name: &'static str,
    result: Result<Tally>,
    elapsed: Duration,
}

impl Test {
    /// Runs the command: all of its stages, also when an early one fails, so that one run shows everything.
    pub(crate) fn run(self) -> ExitCode {
        let reports: Vec<Report> = match (self.stages.as_slice(), self.long) {
            ([], false) => SHORT.iter().map(Stage::report).collect(),
            ([], true) => LONG.iter().map(Stage::report).collect(),
            (names, _) => stages().filter(|stage| names.iter().any(|name| name == stage.name)).map(Stage::report).collect(),
        };
        println!();
        let mut total = Tally::default();
        for report in &reports {
            println!("{}", report.line());
            total += report.tally();
        }
        println!("{total}");
        if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Stage {
    fn report(&self) -> Report {
        println!("== {}: {}", self.name, self.what);
        let started = Instant::now();
        let result = (self.run)();
        let report = Report { name: self.name, result, elapsed: started.elapsed() };
        println!("{}", report.line());
        report
    }
}

impl Report {
    fn line(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        match &self.result {
            Ok(tally) if tally.failed == 0 => format!("ok     {:<12} {seconds:>5.0} s  {tally}", self.name),
            Ok(tally) => format!("FAILED {:<12} {seconds:>5.0} s  {tally}", self.name),
            Err(error) => format!("FAILED {:<12} {seconds:>5.0} s  {error:#}", self.name),
        }
    }

    /// A stage that broke before it could count its failures counts as one.
    fn tally(&self) -> Tally {
        self.result.as_ref().map_or(Tally { failed: 1, ..Tally::default() }, Tally::clone)
    }
}

fn help() -> String {
    let lines = |stages: &[Stage]| {
        let lines = stages.iter().map(|stage| format!("  {:<12} {}", stage.name, stage.what));
        lines.collect::<Vec<_>>().join("\n")
    };
    format!("Stages:\n{}\n\nLong stages:\n{}", lines(SHORT), lines(LONG))
}

fn format() -> Result<Tally> {
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Tally::one_passed())
}

fn lint() -> Result<Tally> {
    let status = cargo().args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"]).status()?;
    if !status.success() {
        bail!("clippy: {status}");
    }
    Ok(Tally::one_passed())
}

fn deny() -> Result<Tally> {
    let deny = cargo::installed("cargo-deny", CARGO_DENY)?;
    command::run(Command::new(deny).current_dir(paths::workspace_root()).args(["check", "bans", "licenses", "sources"]))?;
    Ok(Tally::one_passed())
}

fn unit() -> Result<Tally> {
    // The integration tests of these two are the other stages.
    let others = ["--exclude", "netloss-lab", "--exclude", "netloss-lab-guest"];
    let mut tally = cargo::test(cargo().args(["test", "--workspace", "--no-fail-fast"]).args(others))?;
    let lab = ["test", "--package", "netloss-lab", "--package", "netloss-lab-guest", "--lib", "--no-fail-fast"];
    tally += cargo::test(cargo().args(lab))?;
    Ok(tally)
}

fn setup() -> Result<Tally> {
    let status = Command::new(paths::workspace_root().join("tests/bare-machine")).args(["tests/setup", "--download"]).status()?;
    if !status.success() {
        bail!("tests/bare-machine tests/setup --download: {status}");
    }
    Ok(Tally::one_passed())
}

fn kernel() -> Result<Tally> {
    on_kernels(&Kernel::ONE)
}

fn kernels() -> Result<Tally> {
    on_kernels(&Kernel::MORE)
}

fn on_kernels(kernels: &[Kernel]) -> Result<Tally> {
    let reports = matrix::run(kernels, &[])?;
    let mut tally = Tally::default();
    for report in reports {
        println!("{}", report.summary());
        if report.tally.failed == 0 && !report.is_success() {
            tally.failed += 1;
        }
        tally += report.tally;
    }
    Ok(tally)
}

fn bench() -> Result<Tally> {
    let passed = u32::try_from(super::bench::guards()?)?;
    Ok(Tally { passed, ..Tally::default() })
}

fn controlplane() -> Result<Tally> {
    lab_tests(&["lab_controlplane", "controlplane"], &["--skip=floor::", MANY_THREADS])
}

fn floor() -> Result<Tally> {
    lab_tests(&["controlplane"], &["floor::"])
}

fn images() -> Result<Tally> {
    lab_tests(&["images"], &[])
}

fn cluster() -> Result<Tally> {
    lab_tests(&["cluster"], &["--skip=node::", "--skip=scenarios::", MANY_THREADS])
}

fn scenarios() -> Result<Tally> {
    lab_tests(&["cluster"], &["node::", "scenarios::", MANY_THREADS])
}

fn faults() -> Result<Tally> {
    lab_tests(&["campaign"], &["--nocapture"])
}

fn demonstration() -> Result<Tally> {
    super::run::Run::default().run()?;
    Ok(Tally::one_passed())
}

fn install() -> Result<Tally> {
    lab_tests(&["install"], &[])
}

/// Most of these tests' time is waiting for a kubelet, a controller or a node.
const MANY_THREADS: &str = "--test-threads=16";

fn lab_tests(names: &[&str], arguments: &[&str]) -> Result<Tally> {
    let names = names.iter().flat_map(|name| ["--test", name]);
    cargo::test(cargo().args(["test", "--package", "netloss-lab", "--no-fail-fast"]).args(names).arg("--").args(arguments))
}
