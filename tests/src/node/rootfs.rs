//! The node's system: Debian packages as they were unpacked, on an ext4 image, with the kernel and a first file system that
//! finds its disks. Made once for a set of packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::NEEDS;
use crate::host::{cache, command, progress};
use crate::kernel::cpio::Archive;
use crate::kernel::tree::Tree;
use crate::kernel::{Arch, Kernel, Suite};

const KERNEL: Kernel = Kernel { suite: Suite::Trixie, arch: Arch::X86_64 };

/// Room for the packages, images and logs; only what is written takes any.
const SIZE: &str = "4G";

/// For a node that is reset while it writes.
const JOURNAL: &str = "has_journal";

const INIT: &str = include_str!("../../node/initramfs-init");

/// The files that a node boots from.
#[derive(Debug, Clone)]
pub(super) struct System {
    folder: PathBuf,
}

impl System {
    pub(super) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub(super) fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root.img")
    }
}

/// The system, made unless it is there.
pub(super) fn prepare() -> Result<System> {
    let packages = NEEDS.tree();
    let inputs = [packages.join(" "), KERNEL.to_string(), SIZE.to_owned(), JOURNAL.to_owned(), INIT.to_owned()];
    let folder = cache::entry("node", &inputs, |folder| {
        let step = progress::step("Making the node's system from Debian packages");
        step.detail("fetching");
        let system = System { folder: folder.to_owned() };
        let unpacked = folder.join("root");
        let tree = Tree::fetch(KERNEL, &packages, &unpacked)?;
        step.detail("making a file system");
        let release = tree.release()?;
        fs::copy(tree.vmlinuz()?, system.kernel()).context("cannot copy the kernel")?;
        let modules = tree.modules_base()?;
        command::run(Command::new("depmod").arg("--basedir").arg(&modules).arg(&release))?;
        let driver = modules.join("lib/modules").join(&release).join("kernel/drivers/block/virtio_blk.ko.xz");
        fs::write(system.initramfs(), initramfs(&tree, &driver)?)?;
        file_system(&unpacked, &system.root(), SIZE, JOURNAL)?;
        fs::remove_dir_all(&unpacked).context("cannot remove the unpacked packages")?;
        step.done(release);
        Ok(())
    })?;
    Ok(System { folder })
}

/// An ext4 image of `size` with the files of a folder, and these features beside mke2fs's own.
pub(super) fn file_system(files: &Path, image: &Path, size: &str, features: &str) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", features, "-m", "0", "-E", "root_owner=0:0", "-d"]);
    command::run(mke2fs.arg(files).arg(image).arg(size)).context("cannot make a file system")
}

fn initramfs(tree: &Tree, driver: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.folder("bin");
    archive.copy("bin/busybox", &tree.executable("busybox")?)?;
    archive.file("init", 0o755, INIT.as_bytes());
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(driver).output().context("cannot start xz")?;
    anyhow::ensure!(output.status.success(), "cannot unpack {}: {}", driver.display(), String::from_utf8_lossy(&output.stderr));
    archive.file("virtio_blk.ko", 0o644, &output.stdout);
    Ok(archive.finish())
}
