//! The command line.

use clap::{Parser, Subcommand};
use netloss_contract::RunArgs;

/// Puts packet loss on this network namespace's primary interface, and takes it away again.
///
/// Needs `CAP_NET_ADMIN` and nothing else. Reports as JSON, one object a line, on standard output; diagnostics go to standard error.
#[derive(Debug, Parser)]
#[command(name = "netloss-agent", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// How much to say on standard error: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "NETLOSS_LOG", global = true)]
    pub log: tracing::Level,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lose packets until the ttl or the deadline is over, or SIGTERM, SIGINT, SIGHUP or SIGQUIT comes
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  Lose 10 % of the packets sent and 10 % of those received, for two minutes:
      netloss-agent run --loss 10 --ttl 2m
  Lose a third of what is received on one interface, and not past noon:
      netloss-agent run --loss 33.3 --direction ingress --interface net1 --ttl 1h --deadline 2026-12-01T12:00:00Z";

const EXIT_CODES: &str = "\
Exit codes:
  0  the loss was applied, has ended, and is verified to be gone
  1  something failed; what had been done was undone
  2  the arguments are wrong; nothing was touched
  3  another agent works in this network namespace; nothing was touched
  4  refused for safety; nothing was touched
  5  the deadline had passed; nothing was touched
  6  the kernel or the container lacks what is needed; what had been done was undone
  7  removal could not be completed: loss may remain";
