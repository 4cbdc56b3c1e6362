//! The agent dies. Where the kernel knows owners of tables the loss goes with it, long before the lease could run out.
//!
//! `NETLOSS_KILLS` says how often each death is repeated.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{Agent, Cgroup, Pod, Way};
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

/// Says how long it takes from the signal until a packet gets through that would have been lost: what docs/AGENT.md has.
#[test]
fn and_packets_pass_again() -> Result<()> {
    if !kernel_is_at_least(5, 12)? {
        return Ok(());
    }
    let pod = Pod::new()?;
    let mut took = Vec::new();
    for _ in 0..repeats("NETLOSS_KILLS", 2)? {
        let mut agent = Agent::start(&pod.pod, "run --loss 100 --ttl 1h")?;
        agent.applied()?;
        let killed = Instant::now();
        agent.signal(Signal::SIGKILL)?;
        // Sends until one gets through.
        pod.send(Way::Out, 0)?;
        took.push(killed.elapsed());
        agent.finish()?;
    }
    took.sort_unstable();
    let place = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).map_or(0, Duration::as_millis);
    println!("after a SIGKILL packets pass after {} ms (median), {} ms (p95), of {}", place(50), place(95), took.len());
    Ok(())
}

/// A lease that is shorter than the others, because the end is near, is not followed by another.
#[test]
fn a_lease_never_reaches_past_the_end() -> Result<()> {
    const TTL: Duration = Duration::from_secs(4);
    // On a machine that is too slow to see the difference, once more.
    for _ in 0..10 {
        let pod = Pod::new()?;
        let started = Instant::now();
        let mut agent = Agent::start(&pod.pod, "run --loss 100 --ttl 4s")?;
        agent.applied()?;
        let applied = started.elapsed();
        agent.signal(Signal::SIGSTOP)?;
        pod.send(Way::Out, 0)?;
        let ended = started.elapsed();
        // It ended before a whole lease could have run out, and not before it was to end.
        if ended < LEASE && ended > TTL {
            return Ok(());
        }
        ensure!(ended > TTL, "the loss ended after {ended:?}, applied after {applied:?}");
    }
    anyhow::bail!("the loss of an agent that was stopped lasted longer than its ttl")
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
            ensure!(started.elapsed() < netloss_lab_guest::PATIENCE, "the OOM killer never came");
        }
        Ok(())
    })
}
