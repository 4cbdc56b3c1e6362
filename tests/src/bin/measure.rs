//! Measures inside a kernel guest, as its payload; `cargo lab bench` says what.

use std::process::ExitCode;

use netloss_lab::bench::guest;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match guest::main(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
