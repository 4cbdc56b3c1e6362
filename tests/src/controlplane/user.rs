//! kubectl, Helm and a shell with both, as a user of the cluster has them, and with nothing of the user of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tokio::task::spawn_blocking;

use super::Tool;
use crate::host::{command, paths};

/// What in the environment these programs go by: another cluster, another cache, plugins.
const TAKEN_AWAY: &[&str] = &["HELM_", "KUBE", "XDG_"];

/// A command of such a program, in the root of the workspace, as whoever the kubeconfig is for. What the program keeps from one run to
/// the next is kept beside the kubeconfig.
///
/// # Errors
///
/// If the program has to be built and that fails.
pub fn user_command(tool: Tool, kubeconfig: &Path) -> Result<Command> {
    of_user(Command::new(tool.binary()?), kubeconfig)
}

/// A shell in the root of the workspace that finds kubectl, Helm and `more` programs, and stops at the first command that fails.
///
/// # Errors
///
/// If a program has to be built and that fails.
pub fn shell(kubeconfig: &Path, more: &[&Path]) -> Result<Command> {
    shell_with(&["-euo", "pipefail", "-c"], kubeconfig, more)
}

/// A shell as [`shell`] that continues after a command that fails, as one does into which a person pastes the commands.
///
/// # Errors
///
/// If a program has to be built and that fails.
pub fn interactive_shell(kubeconfig: &Path, more: &[&Path]) -> Result<Command> {
    shell_with(&["-c"], kubeconfig, more)
}

fn shell_with(options: &[&str], kubeconfig: &Path, more: &[&Path]) -> Result<Command> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    for program in [Tool::Kubectl.binary()?, Tool::Helm.binary()?].iter().map(PathBuf::as_path).chain(more.iter().copied()) {
        let folder = program.parent().with_context(|| format!("{} is in no folder", program.display()))?;
        path = std::env::join_paths(std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path)))?;
    }
    let mut command = Command::new("bash");
    command.args(options);
    let mut command = of_user(command, kubeconfig)?;
    command.env("PATH", path);
    Ok(command)
}

fn of_user(mut command: Command, kubeconfig: &Path) -> Result<Command> {
    let folder = kubeconfig.parent().with_context(|| format!("{} is in no folder", kubeconfig.display()))?;
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| TAKEN_AWAY.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command.current_dir(paths::workspace_root()).env("KUBECONFIG", kubeconfig).env("HOME", folder.join("home"));
    Ok(command)
}

/// Runs such a program to its end, while the caller's runtime goes on, and returns what it wrote to stdout.
///
/// # Errors
///
/// If it cannot be built or started, or does not succeed; the message has the end of what it printed.
pub async fn run_as_user<S: Into<String>>(tool: Tool, kubeconfig: &Path, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let kubeconfig = kubeconfig.to_owned();
    let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
    spawn_blocking(move || command::output(user_command(tool, &kubeconfig)?.args(arguments))).await?
}
