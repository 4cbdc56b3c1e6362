//! Running a guest: QEMU's command line, its console, its end.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::{self, Line};
use super::{Arch, Kernel, Payload, X86_CPU, initramfs};
use crate::host::paths;

/// As many lines of a dead guest's console as an oops and the panic after it have.
const TAIL_LINES: usize = 120;

/// Runs that may be repeated because of QEMU's own defect.
const ATTEMPTS: u32 = 3;

/// A kernel that is ready to boot.
#[derive(Debug, Clone)]
pub struct Guest {
    kernel: Kernel,
    folder: PathBuf,
}

/// How a guest's work ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The payload's exit code.
    pub code: u8,
    /// The kernel's release.
    pub release: String,
    /// How long it took, boot and retries included.
    pub elapsed: Duration,
    /// How often it was started again because of the emulator's defect.
    pub retries: u32,
}

/// How one boot ended.
enum Boot {
    Finished { code: u8, release: String },
    EmulatorDefect,
}

impl Guest {
    pub(super) fn new(kernel: Kernel) -> Result<Self> {
        Ok(Self { kernel, folder: initramfs::prepare(kernel)? })
    }

    /// Boots, runs the payload and hands every line that it prints to `print`.
    ///
    /// # Errors
    ///
    /// If the guest does not come to its own end: the kernel dies, or says nothing for as long as `NETLOSS_GUEST_LIMIT` has it, in
    /// seconds. A payload that fails is no error.
    pub fn run(&self, payload: &Payload, print: impl Fn(&str)) -> Result<Outcome> {
        let started = Instant::now();
        let silence = longest_silence()?;
        for retries in 0..ATTEMPTS {
            match self.boot(payload, silence, &print)? {
                Boot::Finished { code, release } => return Ok(Outcome { code, release, elapsed: started.elapsed(), retries }),
                Boot::EmulatorDefect => {
                    print(&format!("{}: the emulator failed (stray int3), attempt {} of {ATTEMPTS}", self.kernel, retries + 1));
                }
            }
        }
        bail!("the kernel {} died {ATTEMPTS} times of the emulator's stray int3", self.kernel)
    }

    fn boot(&self, payload: &Payload, silence: Duration, print: &impl Fn(&str)) -> Result<Boot> {
        let initramfs = Initramfs::write(&self.folder.join(initramfs::BASE), payload)?;
        let mut qemu = Qemu::start(self.kernel.arch, payload.processors, &self.folder.join(initramfs::VMLINUZ), &initramfs.path)?;
        let lines = qemu.lines()?;
        let mut release = String::from("unknown");
        let mut code = None;
        let mut tail = VecDeque::new();
        loop {
            let line = match lines.recv_timeout(silence) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the guest {} has said nothing for {} s (NETLOSS_GUEST_LIMIT); its console ended with:\n{}",
                    self.kernel,
                    silence.as_secs(),
                    joined(&tail)
                ),
            };
            // What QEMU has read need not stay behind if the lab is killed.
            initramfs.remove();
            match Line::parse(&line) {
                Line::Kernel(name) => name.clone_into(&mut release),
                Line::Exit(number) => code = Some(number),
                Line::Complaint(message) => print(&format!("{}: the kernel complained: {message}", self.kernel)),
                // After the payload's end there is only the kernel's farewell.
                Line::Text(text) if code.is_none() => print(text),
                Line::Text(_) => {}
            }
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
        let errors = qemu.wait()?;
        let console = joined(&tail);
        match code {
            Some(code) => Ok(Boot::Finished { code, release }),
            None if console::is_emulator_defect(&console) => Ok(Boot::EmulatorDefect),
            None if console::is_kernel_death(&console) => bail!("the kernel {} died:\n{console}", self.kernel),
            None => bail!("the guest {} ended without a result:\n{console}\n{errors}", self.kernel),
        }
    }
}

/// A guest that works through its tests says so, however slow the machine is that emulates it; one that says nothing hangs.
fn longest_silence() -> Result<Duration> {
    let seconds = std::env::var("NETLOSS_GUEST_LIMIT").unwrap_or_else(|_| "600".into());
    seconds.parse().map(Duration::from_secs).with_context(|| format!("NETLOSS_GUEST_LIMIT is a number of seconds, not {seconds:?}"))
}

fn joined(tail: &VecDeque<String>) -> String {
    tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// The initramfs of one boot: the shared part and the payload, removed when the guest has ended.
struct Initramfs {
    path: PathBuf,
}

impl Initramfs {
    fn write(base: &Path, payload: &Payload) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let folder = paths::lab_dir().join("run");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let name = format!("initramfs-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let this = Self { path: folder.join(name) };
        let mut bytes = fs::read(base).with_context(|| format!("cannot read {}", base.display()))?;
        bytes.append(&mut payload.archive()?);
        fs::write(&this.path, bytes).with_context(|| format!("cannot write {}", this.path.display()))?;
        Ok(this)
    }

    fn remove(&self) {
        // It fails where it is removed already.
        drop(fs::remove_file(&self.path));
    }
}

impl Drop for Initramfs {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A running QEMU. It ends with the lab, however the lab ends.
struct Qemu {
    child: Child,
}

impl Qemu {
    fn start(arch: Arch, processors: u32, vmlinuz: &Path, initramfs: &Path) -> Result<Self> {
        let (program, console) = match arch {
            Arch::X86_64 => ("qemu-system-x86_64", "ttyS0"),
            Arch::Aarch64 => ("qemu-system-aarch64", "ttyAMA0"),
        };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        match arch {
            Arch::X86_64 => command.args(["-accel", "tcg", "-cpu", X86_CPU]),
            Arch::Aarch64 => command.args(["-accel", "tcg", "-M", "virt", "-cpu", "cortex-a57"]),
        };
        command.arg("-smp").arg(processors.to_string());
        command.args(["-m", "512", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-nic", "none"]);
        command.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(initramfs);
        command.arg("-append").arg(format!("console={console} quiet panic=-1 oops=panic"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Ok(Self { child: child.context("cannot start QEMU")? })
    }

    /// The lines of the console as they come, without the carriage returns of a serial line.
    fn lines(&mut self) -> Result<mpsc::Receiver<String>> {
        let mut console = BufReader::new(self.child.stdout.take().context("QEMU has no output")?);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            while console.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
                let line = String::from_utf8_lossy(&bytes).replace('\r', "");
                if sender.send(line.trim_end_matches('\n').to_owned()).is_err() {
                    break;
                }
                bytes.clear();
            }
        });
        Ok(receiver)
    }

    /// Waits for the end, and returns what QEMU itself had to say.
    fn wait(&mut self) -> Result<String> {
        let mut errors = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut errors)?;
        }
        self.child.wait().context("cannot wait for QEMU")?;
        Ok(errors)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
