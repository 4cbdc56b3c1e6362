//! `kubectl-netloss`: parses, runs, maps to an exit code.

use clap::Parser;
use netloss_cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    Cli::parse().run().into()
}
