//! The virtual machine: QEMU's command line, its console, its end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;

use super::rootfs::System;
use super::shell::{self, Shell};
use super::{disk, monitor};
use crate::host::process::{Daemon, Lifetime};
use crate::kernel::X86_CPU;
use crate::kernel::console::is_emulator_defect;

/// Boots that may be repeated because of QEMU's own defect.
const ATTEMPTS: u32 = 3;

/// A virtual machine, ended when it is dropped.
#[derive(Debug)]
pub(super) struct Vm {
    system: System,
    dir: PathBuf,
    kubelet_port: u16,
    lifetime: Lifetime,
    boots: u32,
    process: Daemon,
    shell: Arc<Shell>,
}

impl Vm {
    /// Boots a machine whose second disk is in `dir`; its console and sockets go there too.
    pub(super) fn start(system: System, dir: PathBuf, kubelet_port: u16, lifetime: Lifetime) -> Result<Self> {
        let process = boot(&system, &dir, kubelet_port, lifetime)?;
        let shell = Arc::new(Shell::new(&dir));
        Ok(Self { system, dir, kubelet_port, lifetime, boots: 1, process, shell })
    }

    /// An error with the end of the console if the machine has ended; it is booted again if the emulator is to blame.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        let Err(error) = self.process.ensure_running() else { return Ok(()) };
        if self.boots == ATTEMPTS || !is_emulator_defect(&format!("{error:#}")) {
            return Err(error);
        }
        self.boots += 1;
        self.process = boot(&self.system, &self.dir, self.kubelet_port, self.lifetime)?;
        Ok(())
    }

    pub(super) fn shell(&self) -> Arc<Shell> {
        Arc::clone(&self.shell)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn process(&self) -> &Daemon {
        &self.process
    }

    pub(super) fn process_mut(&mut self) -> &mut Daemon {
        &mut self.process
    }
}

fn boot(system: &System, dir: &Path, kubelet_port: u16, lifetime: Lifetime) -> Result<Daemon> {
    Daemon::start("the node's VM", &command(system, dir, kubelet_port), &dir.join("console.log"), lifetime)
}

fn command(system: &System, dir: &Path, kubelet_port: u16) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", X86_CPU, "-smp", "2", "-m", "3072"]);
    qemu.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(system.kernel()).arg("-initrd").arg(system.initramfs());
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off"]);
    // What the node writes goes to a temporary file that QEMU has already deleted; the system stays as it was made.
    let root = format!("file={},format=raw,if=virtio,cache=unsafe,snapshot=on", escaped(&system.root()));
    let disk = format!("file={},format=raw,if=virtio,readonly=on", disk::IMAGE);
    qemu.args(["-drive", &root, "-drive", &disk]);
    let network = format!("user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:{kubelet_port}-:{kubelet_port}");
    qemu.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
    let socket = format!("socket,id=shell,path={},server=on,wait=off", shell::SOCKET);
    qemu.args(["-chardev", &socket, "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell,name=netloss.shell"]);
    qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", monitor::SOCKET)]);
    // Sockets have short names only, so they are named from the folder they are in.
    qemu.current_dir(dir).env("TMPDIR", dir);
    qemu
}

/// A path as the value of one of QEMU's options, in which a comma separates.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
