//! Debian's programs that only benchmarks need: strace for a guest, and what an image with iproute2 would hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::tree::Tree;
use super::{Kernel, libraries};
use crate::host::{cache, command, progress};

const PACKAGES: [&str; 3] = ["strace", "busybox-static", "iproute2"];

/// Programs with their libraries, as files for a guest.
#[derive(Debug)]
pub struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Fetches them, once.
    ///
    /// # Errors
    ///
    /// If a package cannot be had.
    pub fn prepare(kernel: Kernel) -> Result<Self> {
        let folder = cache::entry(&format!("tools-{}-{}", kernel.suite, kernel.arch), &PACKAGES, |folder| {
            let step = progress::step(format!("Fetching Debian's programs for benchmarks on {kernel}"));
            let unpacked = folder.join("tree");
            let tree = Tree::fetch(kernel, &PACKAGES, &unpacked)?;
            gather(kernel, &tree, &["strace"], &folder.join("strace"))?;
            gather(kernel, &tree, &["busybox", "ip", "tc"], &folder.join("iproute2"))?;
            fs::remove_dir_all(&unpacked).context("cannot remove the unpacked packages")?;
            step.done("strace, iproute2");
            Ok(())
        })?;
        Ok(Self { folder })
    }

    /// strace: paths in a guest and files here.
    ///
    /// # Errors
    ///
    /// If they cannot be listed.
    pub fn strace(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for folder in ["bin", "lib"] {
            for entry in fs::read_dir(self.folder.join("strace/usr").join(folder))? {
                let entry = entry?;
                files.push((format!("/usr/{folder}/{}", entry.file_name().to_string_lossy()), entry.path()));
            }
        }
        Ok(files)
    }

    /// The root of an image with busybox and iproute2 and nothing else.
    #[must_use]
    pub fn iproute2(&self) -> PathBuf {
        self.folder.join("iproute2")
    }
}

/// Copies programs and the libraries that they need below a root.
fn gather(kernel: Kernel, tree: &Tree, programs: &[&str], root: &Path) -> Result<()> {
    let programs = programs.iter().map(|name| Ok((*name, tree.executable(name)?))).collect::<Result<Vec<_>>>()?;
    let (bin, lib) = (root.join("usr/bin"), root.join("usr/lib"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&lib)?;
    for (name, file) in &programs {
        fs::copy(file, bin.join(name))?;
    }
    let files: Vec<PathBuf> = programs.into_iter().map(|(_, file)| file).collect();
    for (name, file) in libraries::closure(&files, |name| tree.library(kernel, name))? {
        fs::copy(file, lib.join(name))?;
    }
    // Only a program that links nothing else can be read everywhere; the rest is as in any merged Debian.
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib")] {
        std::os::unix::fs::symlink(target, root.join(link))?;
    }
    command::run(Command::new("chmod").arg("-R").arg("u+rwX,go+rX").arg(root))
}
