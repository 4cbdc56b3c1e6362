//! Debian packages of the machine: what a part of the lab needs, it installs itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{cache, command, progress};

/// Makes sure that the packages are installed, installing those that are missing.
///
/// # Errors
///
/// If something is missing and cannot be installed; without root the message says what to install by hand.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs the Debian packages {list}: run it as root, or first: sudo apt-get install {list}");
    }
    let step = progress::step("Installing Debian packages");
    step.detail(list.clone());
    update_lists()?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
    command::run(&mut install).with_context(|| format!("cannot install {list}"))?;
    step.done(list);
    Ok(())
}

/// What is in a Debian package, in a folder of the lab's: nothing is installed, and no service of it is started.
///
/// # Errors
///
/// If apt does not know it or cannot fetch it.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    let show = || command::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]));
    let description = show().or_else(|_| update_lists().and_then(|()| show())).with_context(|| format!("apt knows no {package}"))?;
    cache::entry(package, &[&description], |dir| {
        let step = progress::step(format!("Fetching the Debian package {package}"));
        command::run(apt_get().args(["download", package]).current_dir(dir))?;
        for file in fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()? {
            command::run(Command::new("dpkg-deb").arg("--extract").arg(file.path()).arg(dir.join("files")))?;
            fs::remove_file(file.path())?;
        }
        step.done(package);
        Ok(())
    })
    .map(|dir| dir.join("files"))
}

/// Reads the package lists of all apt sources anew.
///
/// # Errors
///
/// If apt cannot do so.
pub(super) fn update_lists() -> Result<()> {
    command::run(apt_get().arg("update")).context("cannot refresh apt's package lists")
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    // Another apt on the machine (unattended upgrades) is waited for rather than failed on.
    apt.args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// Those of the packages that are not completely installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query exits with 1 when one of the names is unknown to it; its answers about the others are still good.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${Status}\n"])
        .args(packages)
        .stderr(Stdio::null())
        .output()
        .context("cannot run dpkg-query: the lab's own setup needs Debian or one of its children")?;
    let answers = String::from_utf8_lossy(&output.stdout);
    Ok(not_installed(packages, &answers))
}

fn not_installed<'a>(packages: &[&'a str], answers: &str) -> Vec<&'a str> {
    let installed: Vec<&str> = answers.lines().filter_map(|line| line.strip_suffix(" install ok installed")).collect();
    packages.iter().copied().filter(|package| !installed.contains(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_removed_and_half_installed_packages_are_missing() {
        let answers = "cpio install ok installed\nkmod deinstall ok config-files\nxz-utils install reinst-required half-installed\n";
        assert_eq!(not_installed(&["cpio", "kmod", "xz-utils", "qemu"], answers), ["kmod", "xz-utils", "qemu"]);
    }
}
