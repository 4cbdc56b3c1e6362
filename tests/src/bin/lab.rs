//! The lab's command line: parses, dispatches, exits.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use netloss_lab::commands;

/// Real kernels, a real control plane and a real node to try netloss on
///
/// What a command needs (kernels, tools) it fetches and builds itself, once, below cargo's target folder. `tests/lab` is the same command,
/// after `tests/setup` has installed Debian packages and toolchains.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Lab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Run),
    Up(commands::up::Up),
    Down(commands::up::Down),
    Images(commands::images::Images),
    Pictures(commands::pictures::Pictures),
    Test(commands::test::Test),
    Kernel(commands::kernel::KernelTests),
    Bench(commands::bench::Bench),
    Guest(commands::guest::Guest),
}

fn main() -> ExitCode {
    let result = match Lab::parse().command {
        Command::Run(command) => command.run(),
        Command::Up(command) => command.run(),
        Command::Down(command) => command.run(),
        Command::Images(command) => command.run(),
        Command::Pictures(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Kernel(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Guest(command) => command.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("cargo lab: {error:#}");
        ExitCode::FAILURE
    })
}
