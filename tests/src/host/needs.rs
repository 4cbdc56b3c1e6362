//! What a part of the lab uses of the machine: its `*.needs` file, which lies beside its code and which `tests/setup` installs.
//!
//! Nothing is installed while something is built: a part only checks that what it uses is there.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::paths;

/// The declarations of one part; `tests/setup` describes their format.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    part: &'static str,
    text: &'static str,
}

impl Needs {
    /// The part's name, which is the file's without `.needs`, and the file's text.
    #[must_use]
    pub const fn new(part: &'static str, text: &'static str) -> Self {
        Self { part, text }
    }

    /// Checks that the programs and files are there.
    ///
    /// # Errors
    ///
    /// If one is missing; the message says which command installs it.
    pub fn require(&self) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
        let programs = self.lines("program").filter(|program| !in_path(program));
        let missing: Vec<&str> = programs.chain(self.lines("file").filter(|file| !Path::new(file).exists())).collect();
        self.verdict(&missing)
    }

    /// The Debian packages of a root file system, with `{arch}` where Debian's name of an architecture belongs.
    #[must_use]
    pub fn tree(&self) -> Vec<&'static str> {
        self.lines("tree").flat_map(str::split_whitespace).collect()
    }

    /// A file of a Debian package that is unpacked and not installed; of several names of the package, the first.
    ///
    /// # Errors
    ///
    /// If it is not declared, or not there.
    pub fn unpacked(&self, package: &str, file: &str) -> Result<PathBuf> {
        let names = |line: &'static str| line.split_once(' ').map(|(names, file)| (names.split('|').next().unwrap_or_default(), file));
        let declared = self.lines("unpacked").any(|line| names(line) == Some((package, file)));
        let path = paths::lab_dir().join("unpacked").join(package).join(file);
        self.verdict(if declared && path.exists() { &[] } else { std::slice::from_ref(&file) })?;
        Ok(path)
    }

    fn lines(&self, key: &str) -> impl Iterator<Item = &'static str> {
        self.text.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    fn verdict(&self, missing: &[&str]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        bail!("this machine has no {}: `tests/setup {}` installs it", missing.join(", "), self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requires_programs_and_files() {
        assert!(Needs::new("part", "# what\nprogram sh\nfile /etc/passwd\n").require().is_ok());
        let error = Needs::new("part", "program sh\nprogram no-such-program\nfile /no/such/file\n").require().unwrap_err().to_string();
        assert_eq!(error, "this machine has no no-such-program, /no/such/file: `tests/setup part` installs it");
        assert_eq!(Needs::new("part", "tree one two-{arch}\ntree three\n").tree(), ["one", "two-{arch}", "three"]);
        assert!(Needs::new("part", "unpacked one usr/bin/one\n").unpacked("one", "usr/bin/two").is_err());
    }
}
