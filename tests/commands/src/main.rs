//! The lab's command line: parses, dispatches, exits. One command a file.

#![allow(clippy::doc_markdown, reason = "clap shows these comments as help, where backticks are noise")]

mod bench;
mod guest;
mod images;
mod kernel;
mod pictures;
mod run;
#[cfg(test)]
mod setup;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Run(run::Run),
    Up(up::Up),
    Down(up::Down),
    Images(images::Images),
    Pictures(pictures::Pictures),
    Test(test::Test),
    Kernel(kernel::KernelTests),
    Bench(bench::Bench),
    Guest(guest::Guest),
}

fn main() -> ExitCode {
    let result = match Lab::parse().command {
        Command::Run(command) => command.run(),
        Command::Up(command) => command.run(),
        Command::Down(_) => up::Down::run(),
        Command::Images(_) => images::Images::run(),
        Command::Pictures(_) => pictures::Pictures::run(),
        Command::Test(command) => Ok(command.run()),
        Command::Kernel(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Guest(command) => command.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("cargo lab: {error:#}");
        ExitCode::FAILURE
    })
}
