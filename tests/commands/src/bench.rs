//! `cargo lab bench`: the figures of docs/PERFORMANCE.md.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::builder::PossibleValuesParser;
use netloss_lab_bench::{self as bench, BENCHES, Report, Size, figure};

/// Measure speed, weight and exactness against what one would use instead
///
/// Writes docs/performance and the sections of docs/PERFORMANCE.md; with --small it writes nothing, and fails where a figure is a regression
/// that no noise explains.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = help())]
pub(crate) struct Bench {
    /// The benchmarks to run, by name; all if none is given, with --small those that have guards
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(BENCHES.iter().map(|bench| bench.name)))]
    names: Vec<String>,
    /// Few samples, and only a check
    #[arg(long)]
    small: bool,
}

fn help() -> String {
    let lines = BENCHES.iter().map(|bench| format!("  {:<12} {}", bench.name, bench.what));
    format!("Benchmarks:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

impl Bench {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// If something cannot be measured, or is a regression.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let size = if self.small { Size::Small } else { Size::Full };
        let named = |bench: &&bench::Bench| self.names.iter().any(|name| name == bench.name);
        let wanted = |bench: &&bench::Bench| if self.names.is_empty() { bench.guards || !self.small } else { named(bench) };
        let mut regressions = Vec::new();
        for bench in BENCHES.iter().filter(wanted) {
            let report = (bench.run)(size).with_context(|| format!("cannot measure {}", bench.name))?;
            println!("{}", bench::section(&report));
            if size == Size::Full {
                bench::publish(&report)?;
            }
            regressions.extend(regressions_of(&report));
        }
        ensure!(regressions.is_empty(), "slower or heavier than noise explains:\n{}", regressions.join("\n"));
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs what has guards on few samples, for continuous integration. Returns how many there were.
///
/// # Errors
///
/// As [`Bench::run`].
pub(crate) fn guards() -> Result<usize> {
    Bench { names: Vec::new(), small: true }.run()?;
    Ok(BENCHES.iter().filter(|bench| bench.guards).count())
}

fn regressions_of(report: &Report) -> Vec<String> {
    let mut regressions = Vec::new();
    for comparison in &report.comparisons {
        for goal in comparison.goals.iter().filter(|goal| goal.is_regression()) {
            let guard = goal.guard.map(|guard| guard.to_string()).unwrap_or_default();
            let to = goal.to.as_ref().map(|to| format!(" × {to}")).unwrap_or_default();
            regressions.push(format!(
                "{}: {}: {} is {}{to}, allowed is {guard}",
                report.name,
                comparison.what,
                goal.of,
                figure(goal.reached)
            ));
        }
    }
    regressions
}
