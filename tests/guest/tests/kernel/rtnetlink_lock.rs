//! The end of a guarded loss does not wait for the agent's main thread, which may wait for rtnetlink's lock: that is the whole node's, and nothing
//! interrupts the wait for it.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netloss_contract::{Cause, ExitCode};
use netloss_lab_guest::{Agent, PATIENCE, Pod, Way};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands::command;
use crate::{assert_no_loss, machine};

/// Shorter than a lease, which would end the loss of an agent none of whose threads runs; its ttl and deadline would too, as no lease reaches past
/// them.
const AT_ONCE: Duration = Duration::from_secs(7);

/// A thread that does not run, by the freezer of cgroups(7) version 1: that of version 2 knows whole processes only. Dropped, it runs again.
struct Frozen(PathBuf);

impl Frozen {
    /// A process's main thread.
    fn main_thread(pid: u32) -> Result<Self> {
        static MOUNTED: OnceLock<bool> = OnceLock::new();
        const FREEZER: &str = "/tmp/freezer";
        let mounted = MOUNTED.get_or_init(|| {
            drop(fs::create_dir(FREEZER));
            mount(Some("freezer"), FREEZER, Some("cgroup"), MsFlags::empty(), Some("freezer")).is_ok()
        });
        ensure!(mounted, "this kernel has no freezer");
        let path = PathBuf::from(format!("{FREEZER}/{pid}"));
        fs::create_dir(&path).context("cannot make a group")?;
        let this = Self(path);
        fs::write(this.0.join("tasks"), pid.to_string()).context("cannot move the thread")?;
        fs::write(this.0.join("freezer.state"), "FROZEN").context("cannot freeze it")?;
        let started = Instant::now();
        while fs::read_to_string(this.0.join("freezer.state"))?.trim() != "FROZEN" {
            ensure!(started.elapsed() < PATIENCE, "it is never frozen");
        }
        Ok(this)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(fs::write(self.0.join("freezer.state"), "THAWED"));
    }
}

/// Ends the loss of an agent whose main thread is held up, and sees packets pass before that goes on.
fn check(arguments: &str, end: impl Fn(&Pod, u32) -> Result<()> + Sync, cause: Cause) -> Result<()> {
    let _machine = machine();
    // On a machine that is too slow to see the difference, once more.
    for _ in 0..5 {
        let pod = Pod::new()?;
        let deadline = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(15))?;
        let arguments = arguments.replace("DEADLINE", &deadline.to_string());
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 100 --heartbeat 1h --run R1 --backend guarded {arguments}"))?;
        agent.applied()?;
        let frozen = Frozen::main_thread(agent.pid())?;
        let (pid, started) = (agent.pid(), Instant::now());
        let took = thread::scope(|scope| {
            let ended = scope.spawn(|| end(&pod, pid));
            pod.send(Way::Out, 0)?;
            pod.send(Way::In, 0)?;
            let took = started.elapsed();
            assert_no_loss(pod.send(Way::Out, 200)?)?;
            drop(frozen);
            ended.join().map_err(|_| anyhow::anyhow!("ending panicked"))??;
            anyhow::Ok(took)
        })?;
        ensure!(agent.finish()?.removed()?.cause == cause, "it ended otherwise");
        if took < AT_ONCE || [Cause::Ttl, Cause::Deadline].contains(&cause) {
            return Ok(());
        }
    }
    anyhow::bail!("the loss lasted until its lease expired")
}

#[test]
fn a_signal_ends_the_loss() -> Result<()> {
    check("--ttl 1h", |_, pid| Ok(kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?), Cause::Sigterm)
}

#[test]
fn a_stop_ends_the_loss() -> Result<()> {
    // Nobody answers it for as long.
    check("--ttl 1h", |pod, _| command(pod, "stop --run R1").map(drop), Cause::Stopped)
}

/// Its sockets, and with them the tables, stay as long as the thread that cannot die. So it is the lease that ends this loss, and the lock is held meanwhile.
#[test]
fn a_killed_agent_that_cannot_die_loses_packets_for_a_lease_at_most() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 100 --ttl 1h --backend guarded")?;
    agent.applied()?;
    let frozen = Frozen::main_thread(agent.pid())?;
    agent.signal(Signal::SIGKILL)?;
    // Waits until one gets through.
    pod.send(Way::Out, 0)?;
    pod.send(Way::In, 0)?;
    assert_no_loss(pod.send(Way::Out, 200)?)?;
    ensure!(agent.is_running()?, "it has died, so this shows nothing");
    Agent::start(&pod.pod, "status --json")?.finish()?.failed(ExitCode::Unresponsive)?;
    drop(frozen);
    ensure!(agent.finish()?.code.is_none(), "the agent was not killed");
    Ok(())
}

#[test]
fn the_ttl_ends_the_loss() -> Result<()> {
    check("--ttl 4s", |_, _| Ok(()), Cause::Ttl)
}

#[test]
fn the_deadline_ends_the_loss() -> Result<()> {
    check("--ttl 1h --deadline DEADLINE", |_, _| Ok(()), Cause::Deadline)
}
