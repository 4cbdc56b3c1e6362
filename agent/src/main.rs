//! Parses, runs, exits.

use netloss_agent::{
    cli::{self, Command},
    commands, diagnostics,
    reporter::{Form, Reporter},
    run,
    signals::Signals,
};
use netloss_contract::ExitCode;
use std::io::IsTerminal;

/// musl's own asks the system for each larger piece of memory, which takes longer than all that is done with it.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    // Before anything else: as PID 1 of a container, a signal that came before this would be lost.
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("netloss-agent: cannot handle signals: {error}");
            return ExitCode::Failed.into();
        }
    };
    let cli = cli::parse();
    let diagnostics = diagnostics::install(cli.log);
    let form = if cli.json { Form::Json } else { Form::Text };
    match cli.command {
        Command::Run(args) => {
            // A container's output is no terminal, unless somebody asked for one.
            let form = if cli.json || !std::io::stdout().is_terminal() { Form::Json } else { Form::Live };
            match diagnostics.and_then(|()| Reporter::never_waiting(args.run.clone(), form)) {
                Ok(mut reporter) => run::run(&args, &signals, &mut reporter).into(),
                Err(error) => {
                    eprintln!("netloss-agent: {error}; nothing was changed: send its output through a pipe (`2>&1 | cat`)");
                    ExitCode::Failed.into()
                }
            }
        }
        Command::Plan(args) => commands::plan(&args, &signals, &mut Reporter::new(args.run.clone(), form)).into(),
        Command::Check { interface } => commands::check(interface.as_deref(), &signals, &mut Reporter::new(None, form)).into(),
        Command::Status { watch } => commands::status(watch, &signals, &mut Reporter::new(None, form)).into(),
        Command::Stop(args) => {
            let mut reporter = Reporter::new(args.meant.run.clone(), form);
            commands::stop(&args.meant, args.timeout.duration(), &signals, &mut reporter).into()
        }
        Command::Cleanup(args) => commands::cleanup(&args, &signals, &mut Reporter::new(args.meant.run.clone(), form)).into(),
    }
}
