//! Control groups (cgroups(7), version 2), to starve an agent in.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Where the guest's init mounts them.
const ROOT: &str = "/sys/fs/cgroup";

/// A control group. Removed when it is dropped, if nothing runs in it any more.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new one, without limits on memory and processor.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn new() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        fs::write(format!("{ROOT}/cgroup.subtree_control"), "+memory +cpu").context("cannot delegate memory and cpu")?;
        let path = PathBuf::from(format!("{ROOT}/test-{}", SERIAL.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Sets a limit, such as `memory.max`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        fs::write(self.path.join(name), value).with_context(|| format!("cannot set {name} to {value}"))
    }

    /// Reads a value, or one of several by its name, such as `oom_kill` of `memory.events`.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn get(&self, file: &str, name: &str) -> Result<u64> {
        let text = fs::read_to_string(self.path.join(file)).with_context(|| format!("cannot read {file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{file} has no {name}: {text}"))?;
        line.trim().parse().with_context(|| format!("{file} has no number: {text}"))
    }

    /// The file that moves who writes to it.
    #[must_use]
    pub fn procs(&self) -> String {
        self.path.join("cgroup.procs").display().to_string()
    }

    /// Moves a process into it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The guest goes with it if something still runs there.
        drop(fs::remove_dir(&self.path));
    }
}
