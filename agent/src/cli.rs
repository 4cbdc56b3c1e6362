//! The command line.

use clap::{Parser, Subcommand};
use netloss_contract::{CleanupArgs, RunArgs, StopArgs};
use std::ffi::OsString;

/// Puts packet loss on this network namespace's primary interface, and takes it away again.
///
/// Needs `CAP_NET_ADMIN` and nothing else. Reports go to standard output, diagnostics to standard error.
#[derive(Debug, Parser)]
#[command(name = "netloss-agent", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// How much to say on standard error: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "NETLOSS_LOG", global = true)]
    pub log: tracing::Level,

    /// Print JSON, one object a line, as run does anyway where standard output is no terminal
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The part of [`Cli`] that somebody waits for: to describe all the others takes longer than to read the arguments of one.
#[derive(Debug, Parser)]
#[command(name = "run", disable_help_flag = true)]
struct QuickRun {
    #[arg(long, default_value = "warn", env = "NETLOSS_LOG")]
    log: tracing::Level,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// Reads the command line, or says what is wrong with it and ends.
#[must_use]
pub fn parse() -> Cli {
    quick(&std::env::args_os().collect::<Vec<_>>()).unwrap_or_else(Cli::parse)
}

/// A `run` that nothing is wrong with; whatever else there is to say is left to [`Cli`].
fn quick(arguments: &[OsString]) -> Option<Cli> {
    let rest = arguments.get(1..)?;
    rest.first().filter(|command| *command == "run")?;
    let QuickRun { log, json, run } = QuickRun::try_parse_from(rest).ok()?;
    Some(Cli { log, json, command: Command::Run(run) })
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lose packets until the ttl or the deadline is over, or SIGTERM, SIGINT, SIGHUP or SIGQUIT comes
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Show what run would do with these arguments, and change nothing
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(RunArgs),
    /// Show whether loss would work here, and what to do where it would not. Changes nothing
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Interface to look at, instead of the one that the default route leaves by
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
    },
    /// Show the agent that works in this network namespace, and how its loss goes. Needs no capability
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// Show it again each second, until it has ended
        #[arg(long)]
        watch: bool,
    },
    /// Ask the agent that works in this network namespace to end, and wait for it. Needs no capability; fine where there is none
    #[command(after_help = STOP_EXAMPLES)]
    Stop(StopArgs),
    /// Remove what an agent that was killed left in this network namespace. Fine where nothing is left
    #[command(after_help = CLEANUP_EXAMPLES)]
    Cleanup(CleanupArgs),
}

const PLAN_EXAMPLES: &str = "\
Examples:
  What correlated loss really loses, and how it would be done here:
      netloss-agent plan --loss 10 --correlation 25 --ttl 2m";

const CHECK_EXAMPLES: &str = "\
Examples:
  Before the first run on a node:
      netloss-agent check
  For a program; exit code 0 means that a run would work:
      netloss-agent check --json";

const STATUS_EXAMPLES: &str = "\
Examples:
  Watch the loss in another container of this pod:
      netloss-agent status --watch
  The same figures for a program:
      netloss-agent status --json";

const STOP_EXAMPLES: &str = "\
Examples:
  End the loss now, whoever started it:
      netloss-agent stop
  End that of one run only (exit code 8 where it is another's):
      netloss-agent stop --run 1b4e28ba/3";

const CLEANUP_EXAMPLES: &str = "\
Examples:
  Remove the loss that a killed agent of the backend tc left:
      netloss-agent cleanup
  Also where an agent hangs (exit code 9 without --force):
      netloss-agent cleanup --force";

const RUN_EXAMPLES: &str = "\
Examples:
  Lose 10 % of the packets sent and 10 % of those received, for two minutes:
      netloss-agent run --loss 10 --ttl 2m
  Lose a third of what is received on one interface, and not past noon:
      netloss-agent run --loss 33.3 --direction ingress --interface net1 --ttl 1h --deadline 2026-12-01T12:00:00Z";

const EXIT_CODES: &str = "\
Exit codes:
  0  done: the loss was applied, has ended, and is verified to be gone; or there was nothing to stop or clean up
  1  something failed; what had been done was undone
  2  the arguments are wrong; nothing was touched
  3  another agent works in this network namespace; nothing was touched
  4  refused for safety; nothing was touched
  5  the deadline had passed; nothing was touched
  6  the kernel or the container lacks what is needed; what had been done was undone
  7  removal could not be completed: loss may remain
  8  an agent of another run works here; nothing was touched
  9  an agent works here and does not answer";

#[cfg(test)]
mod tests {
    use super::*;

    fn read_quickly(line: &str) -> Option<Cli> {
        quick(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_read_quickly_is_what_is_read() {
        for line in
            ["netloss-agent run --loss 10 --ttl 2m", "netloss-agent run --model gilbert --loss 5 --burst 4 --ttl 1h --log debug --json"]
        {
            let (quick, whole) = (read_quickly(line).unwrap(), Cli::parse_from(line.split(' ')));
            assert_eq!(format!("{quick:?}"), format!("{whole:?}"));
        }
    }

    #[test]
    fn the_rest_is_left_to_the_whole() {
        for line in [
            "netloss-agent",
            "netloss-agent run",
            "netloss-agent run --help",
            "netloss-agent plan --loss 1 --ttl 1m",
            "netloss-agent --json run",
        ] {
            assert!(read_quickly(line).is_none(), "{line}");
        }
    }
}
