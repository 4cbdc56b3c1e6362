//! A Go toolchain that is new enough for Kubernetes: the machine's own, or the one that `tests/setup` took from the Python package index.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::{command, paths};

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
    /// Finds the machine's own, or the one that `tests/setup` put into the lab's folder.
    pub(super) fn find() -> Result<Self> {
        let usual = ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"].map(PathBuf::from);
        let folders = std::fs::read_dir(paths::lab_dir().join("go")).into_iter().flatten();
        let of_setup = folders.filter_map(|folder| Some(folder.ok()?.path().join("go/bin/go")));
        let found = usual.into_iter().chain(of_setup).find_map(|program| Self::at(&program));
        found.with_context(|| {
            format!("this machine has no Go of at least {}.{}: `tests/setup controlplane` installs it", OLDEST.0, OLDEST.1)
        })
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
