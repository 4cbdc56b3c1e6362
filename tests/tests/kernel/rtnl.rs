//! Whoever holds rtnetlink's lock, which is the whole node's, holds up neither the end of the loss nor the word of it to the kernel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netloss_contract::Cause;
use netloss_lab::guest::{Agent, Namespace, Pod, Way};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands::command;

/// Interfaces that are deleted in one go, under one hold of the lock; twice as many where that was over too soon to tell.
const FEW: u32 = 250;
const MANY: u32 = 4000;

/// A namespace with so many interfaces in one group.
fn crowded(interfaces: u32) -> Result<Namespace> {
    let namespace = Namespace::new()?;
    let lines: String = (0..interfaces).map(|number| format!("link add d{number} group 7 type ifb\n")).collect();
    namespace.ip_batch(&lines)?;
    Ok(namespace)
}

/// Ends the loss while the lock is held, and sees packets pass before it is free again.
fn check(end: impl Fn(&Pod, u32) -> Result<()> + Sync, cause: Cause) -> Result<()> {
    let mut interfaces = FEW;
    while interfaces <= MANY {
        let pod = Pod::new()?;
        // Heartbeats ask rtnetlink too, and may be stuck there already.
        let mut agent = Agent::start(&pod.pod, "run --loss 100 --ttl 1h --heartbeat 1s --run R1 --backend guarded")?;
        agent.applied()?;
        let (crowded, pid) = (crowded(interfaces)?, agent.pid());
        let free = AtomicBool::new(false);
        let in_time = thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let deleted = crowded.ip("link del group 7");
                free.store(true, Ordering::SeqCst);
                deleted
            });
            // Until it holds the lock; where this is too short the loss ends before, which proves nothing and fails nothing.
            thread::sleep(Duration::from_millis(300));
            let ended = scope.spawn(|| end(&pod, pid));
            pod.send(Way::Out, 0)?;
            pod.send(Way::In, 0)?;
            let in_time = !free.load(Ordering::SeqCst);
            holder.join().map_err(|_| anyhow::anyhow!("the holder panicked"))??;
            ended.join().map_err(|_| anyhow::anyhow!("ending panicked"))??;
            anyhow::Ok(in_time)
        })?;
        ensure!(agent.finish()?.removed()?.cause == cause);
        if in_time {
            return Ok(());
        }
        interfaces *= 2;
    }
    anyhow::bail!("the loss lasted until the lock was free, or {MANY} interfaces are deleted too fast to tell")
}

#[test]
fn a_signal_ends_the_loss_at_once() -> Result<()> {
    check(|_, pid| Ok(kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?), Cause::Sigterm)
}

#[test]
fn a_stop_ends_the_loss_at_once() -> Result<()> {
    // It may take longer than the command waits for an answer.
    check(|pod, _| command(pod, "stop --run R1").map(drop).context("no stop"), Cause::Stopped)
}
