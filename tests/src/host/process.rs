//! Long-lived programs (etcd, kube-apiserver, QEMU …): started, watched, and ended by pid.
//!
//! Nothing here outlives the lab by accident. A program is started through `setpriv --pdeathsig KILL`, so the kernel ends it
//! when the lab dies, however it dies; a program that is meant to stay ([`Lifetime::Detached`]) leaves a [`Record`] instead,
//! with which a later run of the lab finds and ends exactly that process and no other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How often an ending process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How long a started program may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// No longer than the lab itself.
    WithLab,
    /// Longer, if it is [released](Daemon::release): until somebody ends it by its [`Record`].
    Detached,
}

/// A program that runs in the background, its output in a log file.
///
/// Dropped, it is asked to end and then made to, unless it was [released](Daemon::release).
#[derive(Debug)]
pub struct Daemon {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    log: PathBuf,
    released: bool,
}

/// What identifies a process for as long as the machine runs: a pid alone is used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What the process is, for messages.
    pub name: String,
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// The boot that the ticks count from.
    pub boot_id: String,
}

impl Daemon {
    /// Starts a program with its output in `log`.
    ///
    /// # Errors
    ///
    /// If the log cannot be written or the program cannot be started.
    pub fn start(name: &str, command: &Command, log: &Path, lifetime: Lifetime) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut wrapped = wrapped(command, lifetime);
        wrapped.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = spawn(wrapped).with_context(|| format!("cannot start {name}"))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok(Self { name: name.to_owned(), pid, child: Mutex::new(child), log: log.to_owned(), released: false })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The memory that it has, in KiB.
    ///
    /// # Errors
    ///
    /// If the program has ended.
    pub fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most memory that it has had, in KiB.
    ///
    /// # Errors
    ///
    /// If the program has ended.
    pub fn most_resident(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// An amount of memory in proc_pid_status(5), in KiB.
    fn status(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("a process without memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The processor time that it has taken so far.
    ///
    /// # Errors
    ///
    /// If the program has ended.
    pub fn processor_time(&self) -> Result<Duration> {
        // utime and stime, in ticks of the interface's own hundredth of a second.
        let fields = stat(self.pid()).context("a process that is gone")?;
        let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field - 3).context("a short stat")?.parse()?) };
        Ok(Duration::from_millis(10 * (ticks(14)? + ticks(15)?)))
    }

    /// An error with the end of its log if the program has ended.
    ///
    /// # Errors
    ///
    /// If the program has ended.
    pub fn ensure_running(&self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!("{} ended early: {status}\n{}", self.name, self.log_tail(20)),
        }
    }

    /// The last lines of its log, with the log's path above them.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        format!("--- {} (last lines of {})\n{}", self.name, self.log.display(), tail(&self.log, lines))
    }

    /// Sends a signal, if the program still runs.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to send it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exit_status()?.is_none() {
            signal::kill(self.pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))?;
        }
        Ok(())
    }

    /// Ends the program: SIGTERM, and SIGKILL when it takes longer than `grace`.
    ///
    /// # Errors
    ///
    /// If it cannot be signalled.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if !self.wait(grace)? {
            self.signal(Signal::SIGKILL)?;
            self.wait(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// What a later run of the lab needs to end this process.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn record(&self) -> Result<Record> {
        Record::of(&self.name, self.pid.as_raw())
    }

    /// Leaves the program running when this value goes. It must have been started as [`Lifetime::Detached`].
    pub fn release(&mut self) {
        self.released = true;
    }

    fn wait(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while self.exit_status()?.is_none() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }

    fn exit_status(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.released {
            // What cannot be ended here is ended by the kernel when the lab's own process ends.
            drop(self.stop(Duration::from_secs(10)));
        }
    }
}

impl Record {
    /// The record of the process that asks.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn this_process(name: &str) -> Result<Self> {
        Self::of(name, std::process::id().cast_signed())
    }

    fn of(name: &str, pid: i32) -> Result<Self> {
        let start_time = start_time(pid).with_context(|| format!("{name} (pid {pid}) is gone"))?;
        Ok(Self { name: name.to_owned(), pid, start_time, boot_id: boot_id()? })
    }

    /// Whether exactly this process still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id) && start_time(self.pid) == Some(self.start_time)
    }

    /// Ends the process if it still is the recorded one: SIGTERM, and SIGKILL when it takes longer than `grace`.
    ///
    /// # Errors
    ///
    /// If it cannot be signalled.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        for (signal, limit) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, Duration::from_secs(10))] {
            if !self.is_running() {
                return Ok(());
            }
            signal::kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot send {signal} to {}", self.name))?;
            let deadline = Instant::now() + limit;
            while self.is_running() && Instant::now() < deadline {
                thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

/// The last lines of a file, or why it cannot be read.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Err(error) => format!("(cannot read {}: {error})", path.display()),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
    }
}

/// The command in a session of its own, where the terminal's Ctrl-C and hang-up do not reach it.
fn wrapped(command: &Command, lifetime: Lifetime) -> Command {
    let mut wrapped = Command::new("setsid");
    if lifetime == Lifetime::WithLab {
        wrapped.args(["setpriv", "--pdeathsig", "KILL", "--"]);
    }
    wrapped.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

type Job = (Command, Sender<std::io::Result<Child>>);

/// The thread that all programs are started from. The kernel sends the death signal when the *thread* that forked ends, and
/// a test's thread ends long before the lab does; this one never ends.
static SPAWNER: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for (mut command, reply) in queue {
            drop(reply.send(command.spawn()));
        }
    });
    jobs
});

fn spawn(command: Command) -> Result<Child> {
    let (reply, child) = mpsc::channel();
    SPAWNER.send((command, reply)).ok().context("the spawning thread is gone")?;
    Ok(child.recv().context("the spawning thread is gone")??)
}

/// When a live process started, in clock ticks since boot; `None` if there is none or it is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let fields = stat(pid)?;
    if fields.first()? == "Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The fields of proc_pid_stat(5) from the third one on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself contain spaces and parentheses.
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("netloss-process-{name}-{}", std::process::id()))
    }

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn outlives_the_thread_that_asked_for_it_and_ends_when_dropped() {
        let path = log("thread");
        let asked = path.clone();
        let daemon = thread::spawn(move || Daemon::start("sleep", &sh("sleep 100"), &asked, Lifetime::WithLab)).join().unwrap().unwrap();
        thread::sleep(Duration::from_millis(200));
        daemon.ensure_running().unwrap();
        let record = daemon.record().unwrap();
        assert!(record.is_running());
        drop(daemon);
        assert!(!record.is_running());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_early_end_is_an_error_with_the_log() {
        let path = log("early");
        let daemon = Daemon::start("sh", &sh("echo the reason; exit 3"), &path, Lifetime::WithLab).unwrap();
        assert!(daemon.wait(Duration::from_secs(10)).unwrap());
        let message = daemon.ensure_running().unwrap_err().to_string();
        assert!(message.contains("the reason") && message.contains('3'), "{message}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_program_deaf_to_sigterm_is_killed() {
        let path = log("deaf");
        let daemon = Daemon::start("sh", &sh("trap '' TERM; echo deaf; while :; do sleep 1; done"), &path, Lifetime::WithLab).unwrap();
        while !tail(&path, 1).contains("deaf") {
            thread::sleep(POLL);
        }
        daemon.stop(Duration::from_millis(300)).unwrap();
        assert!(daemon.record().is_err());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_pid_that_is_used_again_is_not_the_recorded_process() {
        let mut record = Record::this_process("this test").unwrap();
        assert!(record.is_running());
        record.start_time += 1;
        assert!(!record.is_running());
        record.stop(Duration::from_millis(1)).unwrap();
    }
}
