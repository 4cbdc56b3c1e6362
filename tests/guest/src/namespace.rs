//! Network namespaces that live as long as the tests that made them.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::{panic, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// A network namespace. It has no name: the kernel removes it, with all that is in it, when the last user is gone.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with nothing but a loopback interface that is down.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn new() -> Result<Self> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            Self::open("/proc/thread-self/ns/net")
        })
    }

    /// The guest's own, which is to the agent what a node's is.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn initial() -> Result<Self> {
        Self::open("/proc/1/ns/net")
    }

    /// That of a process.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub(super) fn of_process(pid: u32) -> Result<Self> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    fn open(path: &str) -> Result<Self> {
        Ok(Self { file: File::open(path).with_context(|| format!("cannot open {path}"))? })
    }

    /// The same one, once more.
    pub(super) fn again(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone().context("cannot duplicate a descriptor")? })
    }

    /// A path by which other processes find it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Makes `ip netns` know it by this name, as long as the guest runs.
    ///
    /// # Errors
    ///
    /// If it cannot be mounted.
    pub fn name(&self, name: &str) -> Result<()> {
        let place = format!("/run/netns/{name}");
        std::fs::create_dir_all("/run/netns").context("cannot make /run/netns")?;
        File::create(&place).with_context(|| format!("cannot make {place}"))?;
        mount(Some(self.path().as_str()), place.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot mount {place}"))
    }

    /// Does something inside: sockets and processes made by it belong to this namespace for good.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered, or what the work itself returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            work()
        })
    }

    /// Runs iproute2's `ip` inside, with the arguments separated by blanks.
    ///
    /// # Errors
    ///
    /// If it fails; the message holds its own words.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.iproute2("ip", arguments, "").map(drop)
    }

    /// Runs iproute2's `tc` inside, with the arguments separated by blanks.
    ///
    /// # Errors
    ///
    /// If it fails; the message holds its own words.
    pub fn tc(&self, arguments: &str) -> Result<()> {
        self.iproute2("tc", arguments, "").map(drop)
    }

    /// Runs several lines of `ip` in one process: starting one is what takes time in an emulated guest.
    ///
    /// # Errors
    ///
    /// If one of them fails.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.iproute2("ip", "-batch -", lines).map(drop)
    }

    /// Runs nftables' `nft` inside, with commands separated by semicolons.
    ///
    /// # Errors
    ///
    /// If it fails; the message holds its own words.
    pub fn nft(&self, commands: &str) -> Result<()> {
        self.iproute2("nft", commands, "").map(drop)
    }

    /// What `ip` or `tc` answers in words.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn words(&self, program: &str, arguments: &str) -> Result<String> {
        self.iproute2(program, arguments, "")
    }

    /// What `ip` or `tc` answers in JSON.
    ///
    /// # Errors
    ///
    /// If it fails, or answers something else.
    pub fn json(&self, program: &str, arguments: &str) -> Result<Value> {
        let answer = self.iproute2(program, arguments, "")?;
        // Where there is nothing to tell, some versions print an empty list and others nothing.
        let answer = if answer.trim().is_empty() { "[]" } else { &answer };
        serde_json::from_str(answer).with_context(|| format!("`{program} {arguments}` printed no JSON: {answer}"))
    }

    fn iproute2(&self, program: &str, arguments: &str, input: &str) -> Result<String> {
        // By its path: busybox has programs of the same names.
        let mut command = Command::new(format!("/usr/bin/{program}"));
        command.args(arguments.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.run(|| command.spawn().with_context(|| format!("cannot start {program}")))?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("`{program} {arguments}` failed: {}{input}", words.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Sets a network sysctl, such as `net/ipv4/ip_forward`, of this namespace.
    ///
    /// # Errors
    ///
    /// If the kernel does not have it or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        ensure!(name.starts_with("net/"), "{name} does not belong to a network namespace");
        self.run(|| std::fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("cannot set {name} to {value}")))
    }
}

/// Namespaces belong to threads: a thread of its own keeps the caller where it is.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|cause| panic::resume_unwind(cause))
}
