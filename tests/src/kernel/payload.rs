//! What a guest is to do: a static binary, its arguments and environment, and files to have at hand.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cpio::Archive;

/// A piece of work for a guest.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The static executable.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What is added to its environment.
    pub environment: Vec<(String, String)>,
    /// More executables: their path in the guest and their file here.
    pub files: Vec<(String, PathBuf)>,
    /// How many processors the guest has. With two, static keys are patched while the other one runs, which QEMU gets wrong now and then.
    pub processors: u32,
}

impl Default for Payload {
    fn default() -> Self {
        Self { binary: PathBuf::new(), arguments: Vec::new(), environment: Vec::new(), files: Vec::new(), processors: 1 }
    }
}

impl Payload {
    /// The archive that is appended to the initramfs.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        archive.copy("payload", &self.binary)?;
        archive.file("payload.sh", 0o755, self.script()?.as_bytes());
        for (path, file) in &self.files {
            archive.copy(path.trim_start_matches('/'), file)?;
        }
        Ok(archive.finish())
    }

    /// A shell script that is the payload: unlike the kernel's command line it has no limits of length or of characters.
    fn script(&self) -> Result<String> {
        let exports = self.environment.iter().map(|(name, value)| format!("export {name}={}\n", quote(value)));
        let mut call = String::from("exec /payload");
        for argument in &self.arguments {
            let argument = argument.to_str().with_context(|| format!("not UTF-8: the argument {}", argument.display()))?;
            call = call + " " + &quote(argument);
        }
        Ok(format!("#!/bin/sh\n{}{call}\n", exports.collect::<String>()))
    }
}

/// A word as the shell reads it back unchanged, whatever is in it.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn arguments_and_environment_survive_the_shell() {
        let words = ["plain", "two words", "it's", "$HOME `id` \\ \"q\"", "", "line\nbreak", "*"];
        let payload = Payload {
            arguments: words.iter().map(OsString::from).collect(),
            environment: vec![("NETLOSS_X".into(), "a 'b' $c".into())],
            ..Payload::default()
        };
        let script = payload.script().unwrap().replace("exec /payload", r#"printf '%s\0' "$NETLOSS_X""#);
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let read: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().split_terminator('\0').collect();
        assert_eq!(read[0], "a 'b' $c");
        assert_eq!(read[1..], words);
    }
}
