//! `kubectl-netloss`: parses, runs, maps to an exit code.

use clap::Parser;
use netloss_controller::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    Cli::parse().run().into()
}
