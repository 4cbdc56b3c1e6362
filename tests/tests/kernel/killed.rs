//! The agent dies. Where the kernel knows owners of tables the loss goes with it, long before the lease could run out.
//!
//! `NETLOSS_KILLS` says how often each death is repeated.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netloss_lab::guest::{Agent, Cgroup, Pod, Way};
use nix::sys::signal::Signal;

use crate::{assert_no_loss, kernel_is_at_least, repeats};

/// As the agent has it.
const LEASE: Duration = Duration::from_secs(10);

/// Lets one agent after the other die, and counts packets as soon as it is dead.
fn check(die: impl Fn(&Agent) -> Result<()>) -> Result<()> {
    if !kernel_is_at_least(5, 12)? {
        // Without owners the lease ends it: guarded.rs.
        return Ok(());
    }
    let pod = Pod::new()?;
    let (mut done, mut slow) = (0, 0);
    while done < repeats("NETLOSS_KILLS", 2)? {
        let mut agent = Agent::start(&pod.pod, "run --loss 50 --ttl 1h")?;
        agent.applied()?;
        let killed = Instant::now();
        die(&agent)?;
        ensure!(agent.finish()?.code.is_none(), "the agent was not killed");
        assert_no_loss(pod.send(Way::Out, 200)?).with_context(|| format!("after {done} deaths"))?;
        assert_no_loss(pod.send(Way::In, 200)?).with_context(|| format!("after {done} deaths"))?;
        // What took as long as a lease proves nothing; on a machine that is busy for once, once more.
        if killed.elapsed() < LEASE {
            done += 1;
        } else {
            slow += 1;
            ensure!(slow < 10, "this machine is too slow to tell an owner's end from a lease's");
        }
    }
    Ok(())
}

#[test]
fn by_sigkill() -> Result<()> {
    check(|agent| agent.signal(Signal::SIGKILL))
}

#[test]
fn by_abort() -> Result<()> {
    check(|agent| agent.signal(Signal::SIGABRT))
}

#[test]
fn by_the_oom_killer() -> Result<()> {
    check(|agent| {
        let cgroup = Cgroup::new()?;
        cgroup.add(agent.pid())?;
        // What it has is not charged to this group; the next page that it takes is too much.
        cgroup.set("memory.max", "0")?;
        let started = Instant::now();
        while cgroup.get("memory.events", "oom_kill ")? == 0 {
            // Each of these makes it take one.
            agent.poke()?;
            ensure!(started.elapsed() < netloss_lab::guest::PATIENCE, "the OOM killer never came");
        }
        Ok(())
    })
}
