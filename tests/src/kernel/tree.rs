//! Debian packages, unpacked: for a guest a kernel, its modules and the suite's own iproute2; for a node a container runtime too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Kernel;
use crate::host::{archive, command};

/// An unpacked tree. Nothing of it is ever configured or executed, so its architecture may be a foreign one.
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Fetches packages of a suite, with all they depend on, and unpacks them into `root`.
    pub(crate) fn fetch(kernel: Kernel, packages: &[&str], root: &Path) -> Result<Self> {
        let arch = kernel.arch.debian();
        let archive = archive::debian()?;
        let (suite, base) = (kernel.suite, kernel.suite.base());
        let mut sources = vec![archive.source_line(base.name())];
        sources.extend((suite != base).then(|| archive.source_line(suite.name())));
        command::run(
            Command::new("mmdebstrap")
                .args(["--quiet", "--variant=extract", "--aptopt=Acquire::Retries \"3\"", "--aptopt=Acquire::http::Timeout \"30\""])
                // Otherwise apt takes of additions only what it is told to.
                .arg(format!("--aptopt=APT::Default-Release \"{suite}\""))
                .arg(format!("--architectures={arch}"))
                .arg(format!("--include={}", packages.join(",").replace("{arch}", arch)))
                .arg(base.name())
                .arg(root)
                .args(sources),
        )
        .context("cannot fetch Debian packages")?;
        Ok(Self { root: root.to_owned() })
    }

    /// The kernel's release, as `uname -r` prints it.
    pub(crate) fn release(&self) -> Result<String> {
        let releases = entries(&self.modules_base()?.join("lib/modules"))?;
        ensure!(releases.len() == 1, "expected the modules of one kernel, found {releases:?}");
        Ok(releases[0].file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
    }

    /// The kernel image: in `boot`, or since 7.x beside the modules.
    pub(crate) fn vmlinuz(&self) -> Result<PathBuf> {
        let release = self.release()?;
        let beside = self.modules_base()?.join("lib/modules").join(&release).join("vmlinuz");
        let found = [self.root.join("boot").join(format!("vmlinuz-{release}")), beside].into_iter().find(|path| path.is_file());
        found.with_context(|| format!("the packages have no image of the kernel {release}"))
    }

    /// The folder that `lib/modules` is in: older suites have it at the root, merged ones in `usr`.
    pub(crate) fn modules_base(&self) -> Result<PathBuf> {
        let found = ["usr", ""].into_iter().map(|prefix| self.root.join(prefix)).find(|base| base.join("lib/modules").is_dir());
        found.context("the kernel's package has no modules")
    }

    /// An executable of the tree by its name.
    pub(crate) fn executable(&self, name: &str) -> Result<PathBuf> {
        self.find(&["usr/bin", "usr/sbin", "bin", "sbin"], name)
    }

    /// A shared library of the tree by the name that ELF files use for it.
    pub(crate) fn library(&self, kernel: Kernel, name: &str) -> Result<PathBuf> {
        let triplet = format!("{}-linux-gnu", kernel.arch);
        self.find(&[&format!("usr/lib/{triplet}"), &format!("lib/{triplet}"), "usr/lib", "lib"], name)
    }

    fn find(&self, folders: &[&str], name: &str) -> Result<PathBuf> {
        let candidates = folders.iter().map(|folder| self.root.join(folder).join(name));
        // Links like lib64/ld-linux… are absolute and would lead out of the tree, so only what exists in it counts.
        let found = candidates.filter(|path| path.is_file()).find(|path| {
            let target = fs::read_link(path);
            target.is_err() || target.is_ok_and(|target| target.is_relative())
        });
        found.with_context(|| format!("the packages of the guest have no {name}"))
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
}
