//! The Debian archive, as the machine's own apt sources name it: the lab fetches other suites and architectures from there.

use std::process::Command;

use anyhow::{Context, Result};

use super::command;

/// The keys of all of Debian's suites; the package `debian-archive-keyring`, which every Debian has.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What identifies a Debian archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its address, without a slash at the end.
    pub address: String,
    /// The components that the machine takes from it, `main` among them.
    pub components: Vec<String>,
}

impl Archive {
    /// The archive in the form that apt, debootstrap and mmdebstrap read, for one suite.
    #[must_use]
    pub fn source_line(&self, suite: &str) -> String {
        format!("deb [signed-by={KEYRING}] {} {suite} {}", self.address, self.components.join(" "))
    }
}

/// The variable that names a mirror on machines whose own sources have no Debian archive.
const MIRROR: &str = "NETLOSS_DEBIAN_ARCHIVE";

/// The archive of the machine's apt sources, or of the variable `NETLOSS_DEBIAN_ARCHIVE`.
///
/// # Errors
///
/// If there is none among them. A fresh image has sources but no lists, and without lists apt does not know which of the sources is Debian:
/// `tests/setup` sees to that.
pub fn debian() -> Result<Archive> {
    if let Ok(address) = std::env::var(MIRROR) {
        return Ok(Archive { address: address.trim_end_matches('/').to_owned(), components: vec!["main".into()] });
    }
    parse(&index_targets()?)
        .with_context(|| format!("none of the machine's apt sources is a Debian archive: run `tests/setup`, or set {MIRROR}"))
}

fn index_targets() -> Result<String> {
    command::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE)\t$(COMPONENT)",
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
    ]))
}

fn parse(targets: &str) -> Option<Archive> {
    let rows: Vec<(&str, &str)> = targets.lines().filter_map(|line| line.split_once('\t')).collect();
    let (address, _) = *rows.iter().find(|(_, component)| *component == "main")?;
    let mut components: Vec<String> = Vec::new();
    for (_, component) in rows.iter().filter(|(site, _)| *site == address) {
        if !components.iter().any(|known| known == component) {
            components.push((*component).to_owned());
        }
    }
    Some(Archive { address: address.trim_end_matches('/').to_owned(), components })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_first_with_a_main_component() {
        let targets = "http://b.example/\tcontrib\nhttp://a.example/debian/\tmain\nhttp://a.example/debian/\tcontrib\nhttp://a.example/debian/\tmain\n";
        let archive = parse(targets).unwrap();
        let expected = format!("deb [signed-by={KEYRING}] http://a.example/debian trixie main contrib");
        assert_eq!(archive.source_line("trixie"), expected);
    }

    #[test]
    fn no_debian_archive_is_none() {
        assert_eq!(parse(""), None);
    }
}
