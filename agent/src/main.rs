//! Parses, runs, exits.

use clap::Parser;
use netloss_agent::{
    cli::{Cli, Command},
    run,
    signals::Signals,
};
use netloss_contract::ExitCode;

fn main() -> std::process::ExitCode {
    // Before anything else: as PID 1 of a container, a signal that came before this would be lost.
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("netloss-agent: cannot handle signals: {error}");
            return ExitCode::Failed.into();
        }
    };
    let cli = Cli::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(cli.log).init();
    match cli.command {
        Command::Run(args) => run::run(&args, &signals).into(),
    }
}
