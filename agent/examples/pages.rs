//! Writes the man pages and the shell completions, as docs/man has them:
//! `cargo run -p netloss-agent --example pages -- docs/man`

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use netloss_agent::cli::Cli;
use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).ok_or_else(|| io::Error::other("name the folder to write to, such as docs/man"))?;
    write(Path::new(&folder))
}

/// Writes all of them into a folder.
///
/// # Errors
/// Where that cannot be written.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "netloss-agent", folder)?;
    }
    Ok(())
}
