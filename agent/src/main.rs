//! Parses, runs, exits.

use clap::Parser;
use netloss_agent::{
    cli::{Cli, Command},
    commands, diagnostics,
    reporter::{Form, Reporter},
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
    diagnostics::install(cli.log);
    let form = if cli.json { Form::Json } else { Form::Text };
    match cli.command {
        Command::Run(args) => run::run(&args, &signals, &mut Reporter::new(args.run.clone(), Form::Json)).into(),
        Command::Status { watch } => commands::status(watch, &signals, &mut Reporter::new(None, form)).into(),
        Command::Stop(args) => {
            let mut reporter = Reporter::new(args.meant.run.clone(), form);
            commands::stop(&args.meant, args.timeout.duration(), &signals, &mut reporter).into()
        }
        Command::Cleanup(args) => commands::cleanup(&args, &mut Reporter::new(args.meant.run.clone(), form)).into(),
    }
}
