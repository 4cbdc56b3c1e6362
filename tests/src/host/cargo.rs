//! Cargo, as the lab calls it for what it builds and tests.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::tally::Tally;
use super::{cache, command, paths, progress};

/// Cargo, run from the root of the workspace.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::workspace_root());
    without_cargo_variables(&mut cargo);
    cargo
}

/// `images/build`, which calls cargo with the options that what ships is compiled with.
#[must_use]
pub fn images_build() -> Command {
    let mut script = Command::new(paths::workspace_root().join("images/build"));
    script.env("CARGO_TARGET_DIR", paths::target_dir());
    without_cargo_variables(&mut script);
    script
}

/// Takes away what `cargo run` and `cargo test` tell a program about its own package. A cargo that inherits it takes it for a changed
/// environment of build scripts that look at such variables, and builds TLS anew each time.
pub fn without_cargo_variables(command: &mut Command) {
    let about_the_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(about_the_package) {
            command.env_remove(name);
        }
    }
}

/// Runs a cargo that tests, showing what it prints, and counts the results.
///
/// # Errors
///
/// If it fails without a failed test: something does not build, or a test binary died.
pub fn test(cargo: &mut Command) -> Result<Tally> {
    let line = command::line(cargo);
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read cargo's output")?;
        println!("{line}");
        tally.read(&line);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    if !status.success() && tally.failed == 0 {
        bail!("`{line}` failed: {status}");
    }
    Ok(tally)
}

/// A program that comes as a crate, installed below the target folder and not for the user. Not optimised: on a machine of continuous
/// integration, building it takes far longer than running it.
///
/// # Errors
///
/// If it cannot be built.
pub fn installed(program: &str, version: &str) -> Result<PathBuf> {
    let root = cache::entry(&format!("{program}-{version}"), &[version], |dir| {
        let step = progress::step(format!("Building {program} {version}"));
        command::run(cargo().args(["install", "--debug", "--quiet", "--locked", program, "--version", version, "--root"]).arg(dir))?;
        step.done("installed");
        Ok(())
    })?;
    Ok(root.join("bin").join(program))
}

/// The executables that a cargo with `--message-format json` reports.
///
/// # Errors
///
/// If the build fails; the compiler's own words are on stderr then.
pub fn executables(cargo: &mut Command) -> Result<Vec<PathBuf>> {
    let line = command::line(cargo);
    // The compiler renders its diagnostics to stderr, which is passed through.
    let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", output.status);
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    Ok(parse_executables(&messages))
}

fn parse_executables(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_those_of_artifact_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"nix"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"kernel"},"executable":"/t/deps/kernel-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(parse_executables(messages), [PathBuf::from("/t/deps/kernel-1")]);
    }
}
