//! The command line, and all wiring from it.

use crate::api;
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::io::Write as _;

/// Runs `ChaosExperiments` of the action pod-network-loss.
#[derive(Debug, Parser)]
#[command(name = "netloss-controller", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the definition of `ChaosExperiment` for the API server, in YAML
    Crd,
}

impl Args {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Says what was tried and what to do.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Crd => std::io::stdout().write_all(api::crd_yaml()?.as_bytes()).context("writing the definition to standard output"),
        }
    }
}
