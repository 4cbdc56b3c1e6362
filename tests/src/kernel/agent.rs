//! The agent's binary as guests get it, and how it and the kernel tests are built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Arch, Payload};
use crate::host::{cargo, command, paths, progress};

/// Where the agent lies in a guest; the kernel tests start it from there.
pub const IN_GUEST: &str = "/usr/bin/netloss-agent";

/// Adds the agent to a payload, from `NETLOSS_AGENT` or else from cargo's target folder.
///
/// # Errors
///
/// If it is not there although the payload, the kernel tests, cannot do without.
pub fn add_to(payload: &mut Payload, arch: Arch) -> Result<()> {
    let agent = std::env::var_os("NETLOSS_AGENT").map_or_else(|| built(arch), PathBuf::from);
    let build = format!("images/build --binary --only agent --arch {}", arch.debian());
    if agent.is_file() {
        if let Some(source) = newer_source(&agent) {
            progress::note(format!("{} is older than {}; to build it again: {build}", agent.display(), source.display()));
        }
        payload.files.push((IN_GUEST.to_owned(), agent));
    } else if is_kernel_test(&payload.binary) {
        bail!("there is no {}; build it with: {build}", agent.display());
    }
    Ok(())
}

/// Where cargo leaves it.
fn built(arch: Arch) -> PathBuf {
    paths::target_dir().join(arch.target()).join("release/netloss-agent")
}

/// A source that changed after the binary was built. Cargo lists the sources in a file beside it; without one, nothing is known.
fn newer_source(binary: &Path) -> Option<PathBuf> {
    let built = fs::metadata(binary).and_then(|metadata| metadata.modified()).ok()?;
    let listing = fs::read_to_string(binary.with_added_extension("d")).ok()?;
    let (_, sources) = listing.split_once(": ")?;
    let changed = |source: &PathBuf| fs::metadata(source).and_then(|metadata| metadata.modified()).is_ok_and(|changed| changed > built);
    sources.split_whitespace().map(PathBuf::from).find(changed)
}

/// Cargo names a test's executable after the test, a dash and a hash.
fn is_kernel_test(binary: &Path) -> bool {
    binary.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kernel-"))
}

/// Builds the agent and the kernel tests for an architecture. Returns the tests with the agent beside them.
///
/// # Errors
///
/// If one of them does not build.
pub fn build(arch: Arch) -> Result<Payload> {
    let target = arch.target();
    let step = progress::step(format!("Building the agent and the kernel tests for {arch}"));
    let agent = build_release(arch)?;
    step.detail("kernel tests");
    let mut tests = cargo::cargo();
    tests.args([
        "test",
        "--quiet",
        "--no-run",
        "--package",
        "netloss-lab-guest",
        "--test",
        "kernel",
        "--profile",
        "guest",
        "--target",
        target,
    ]);
    tests.args(["--message-format", "json-render-diagnostics"]);
    let binary = one(cargo::executables(&mut tests)?, "kernel test")?;
    let size = fs::metadata(&agent)?.len();
    step.done(format!("agent of {} KiB", size / 1024));
    Ok(Payload { binary, files: vec![(IN_GUEST.to_owned(), agent)], ..Payload::default() })
}

/// Builds the agent as it ships.
///
/// # Errors
///
/// If it does not build.
pub fn build_release(arch: Arch) -> Result<PathBuf> {
    // As it is in the image, paths and all.
    command::run(cargo::images_build().args(["--binary", "--only", "agent", "--arch", arch.debian()]))?;
    Ok(built(arch))
}

fn one(mut executables: Vec<PathBuf>, what: &str) -> Result<PathBuf> {
    match executables.len() {
        1 => executables.pop().context("unreachable: the length was 1"),
        _ => bail!("expected cargo to build one {what} executable, got {executables:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tests_are_told_by_their_name() {
        assert!(is_kernel_test(Path::new("/t/deps/kernel-0123456789abcdef")));
        assert!(!is_kernel_test(Path::new("/t/deps/netloss_agent-0123456789abcdef")));
    }
}
