//! The part of a guest's root file system that all guests of a kernel share.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::tree::Tree;
use super::{Kernel, NEEDS, libraries, modules};
use crate::host::{cache, progress};

const INIT: &str = include_str!("init.sh");
const MODPROBE: &str = include_str!("modprobe.sh");

/// The applets of busybox that init and tests use; `modprobe` is what `modprobe.sh` calls, and the kernel that.
const APPLETS: [&str; 23] = [
    "cat", "dmesg", "echo", "env", "grep", "head", "kill", "ls", "lsmod", "mkdir", "modprobe", "mount", "poweroff", "ps", "rm", "setsid",
    "sh", "sleep", "sysctl", "tail", "true", "umount", "unshare",
];

/// The suite's own tools, which are both the user's way to set things up and the oracle of what is set.
const PROGRAMS: [&str; 3] = ["ip", "tc", "nft"];

/// File names within the cached folder.
pub(super) const BASE: &str = "base.cpio";
pub(super) const VMLINUZ: &str = "vmlinuz";

/// The folder with [`BASE`] and [`VMLINUZ`], made unless it is there.
pub(super) fn prepare(kernel: Kernel) -> Result<std::path::PathBuf> {
    let packages = NEEDS.tree();
    let inputs =
        [INIT.to_owned(), MODPROBE.to_owned(), packages.join(" "), APPLETS.join(" "), PROGRAMS.join(" "), modules::WANTED.join(" ")];
    cache::entry(&format!("kernel-{}-{}", kernel.suite, kernel.arch), &inputs, |folder| {
        let step = progress::step(format!("Fetching Debian's kernel {kernel}"));
        let unpacked = folder.join("tree");
        let tree = Tree::fetch(kernel, &packages, &unpacked)?;
        step.detail("making an initramfs");
        let release = tree.release()?;
        fs::copy(tree.vmlinuz()?, folder.join(VMLINUZ)).context("cannot copy the kernel")?;
        fs::write(folder.join(BASE), base(kernel, &tree, folder)?)?;
        fs::remove_dir_all(&unpacked).context("cannot remove the unpacked packages")?;
        step.done(release);
        Ok(())
    })
}

fn base(kernel: Kernel, tree: &Tree, folder: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for path in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin"] {
        archive.folder(path);
    }
    // As in any merged Debian; that sbin is bin as well saves a second search path.
    let merged = [("bin", "usr/bin"), ("sbin", "usr/bin"), ("usr/sbin", "bin"), ("lib", "usr/lib"), ("lib64", "usr/lib")];
    for (path, target) in merged {
        archive.link(path, target);
    }
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("usr/bin/modprobe-and-wait", 0o755, MODPROBE.as_bytes());
    archive.copy("usr/bin/busybox", &tree.executable("busybox")?)?;
    for applet in APPLETS {
        archive.link(&format!("usr/bin/{applet}"), "busybox");
    }

    let staging = folder.join("staging");
    modules::copy(tree, &staging)?;
    archive.copy_folder("usr/lib", &staging.join("lib"))?;
    fs::remove_dir_all(&staging)?;

    let programs = PROGRAMS.iter().map(|name| tree.executable(name)).collect::<Result<Vec<_>>>()?;
    for (name, file) in PROGRAMS.iter().zip(&programs) {
        archive.copy(&format!("usr/bin/{name}"), file)?;
    }
    for (name, file) in libraries::closure(&programs, |name| tree.library(kernel, name))? {
        archive.copy(&format!("usr/lib/{name}"), &file)?;
    }
    Ok(archive.finish())
}
