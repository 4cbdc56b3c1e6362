//! Two controllers on this machine, behind the proxy, and what is done to them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use netloss_lab::cluster::Image;
use netloss_lab::host::cargo::{cargo, executables};
use netloss_lab::host::ports;
use netloss_lab::host::process::{Daemon, Lifetime};
use nix::sys::signal::Signal;
use tokio::task::spawn_blocking;

/// The shortest that there is, in seconds: failovers are what this is about.
const LEASE: u64 = 9;

/// Two processes, of which one leads.
pub(crate) struct Controllers {
    program: PathBuf,
    kubeconfig: PathBuf,
    dir: PathBuf,
    running: [Option<Daemon>; 2],
    started: usize,
}

impl Controllers {
    pub(crate) async fn start(dir: &Path, kubeconfig: PathBuf) -> Result<Self> {
        let arguments = ["build", "--quiet", "--package", "netloss-controller", "--bin", "netloss-controller"];
        let build = move || executables(cargo().args(arguments).args(["--message-format", "json-render-diagnostics"]));
        let program = spawn_blocking(build).await??.pop().context("no controller was built")?;
        let mut this = Self { program, kubeconfig, dir: dir.to_owned(), running: [None, None], started: 0 };
        this.bring_back()?;
        Ok(this)
    }

    /// Starts those that are not there.
    pub(crate) fn bring_back(&mut self) -> Result<()> {
        for (number, place) in self.running.iter_mut().enumerate() {
            if place.is_some() {
                continue;
            }
            self.started += 1;
            let mut command = Command::new(&self.program);
            command.env("KUBECONFIG", &self.kubeconfig).args(["run", "--leader-elect", "--log-format=text"]).args([
                format!("--agent-image={}", Image::Agent.reference()),
                format!("--lease-duration={LEASE}"),
                format!("--pod-name=controller-{number}"),
                format!("--metrics-listen=127.0.0.1:{}", ports::free()?),
                format!("--health-listen=127.0.0.1:{}", ports::free()?),
            ]);
            let log = self.dir.join(format!("controller-{}.log", self.started));
            *place = Some(Daemon::start("netloss-controller", &command, &log, Lifetime::WithLab)?);
        }
        Ok(())
    }

    /// Kills one of them.
    pub(crate) fn kill(&mut self, which: usize) -> Result<()> {
        match self.running[which].take() {
            // Dropping it takes it away.
            Some(daemon) => daemon.signal(Signal::SIGKILL),
            None => Ok(()),
        }
    }

    /// Stops or continues one of them, which then is an old leader that wakes up.
    pub(crate) fn signal(&self, which: usize, signal: Signal) -> Result<()> {
        self.running[which].as_ref().map_or(Ok(()), |daemon| daemon.signal(signal))
    }

    /// What their logs have that must not be there.
    pub(crate) fn panics(&self) -> Vec<String> {
        let logs = (1..=self.started).map(|number| self.dir.join(format!("controller-{number}.log")));
        let of_log = |log: PathBuf| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("panicked at"))?;
            Some(format!("{}: {line}", log.display()))
        };
        logs.filter_map(of_log).collect()
    }

    /// The most memory that one of them has, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        self.running.iter().flatten().filter_map(|daemon| daemon.resident().ok()).max().unwrap_or_default()
    }
}
