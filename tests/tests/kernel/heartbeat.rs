//! What the agent says while it works is what the kernel did.

use anyhow::{Context, Result, ensure};
use netloss_lab::guest::{Agent, Pod, Way};
use nix::sys::signal::Signal;

use crate::BACKENDS;

#[test]
fn heartbeats_count_what_was_dropped() -> Result<()> {
    BACKENDS.into_iter().try_for_each(|backend| check_counts(backend).context(backend))
}

fn check_counts(backend: &str) -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --heartbeat 1s --backend {backend}"))?;
    agent.applied()?;
    let (out, back) = (pod.send(Way::Out, 1000)?, pod.send(Way::In, 1000)?);
    let dropped = |traffic: Option<netloss_contract::Traffic>| traffic.map_or(0, |traffic| traffic.dropped);
    let beat = agent.heartbeat(|beat| {
        // Markers, and the kernel's own packets, may be dropped too.
        dropped(beat.traffic.egress) >= out.lost.into() && dropped(beat.traffic.ingress) >= back.lost.into()
    })?;
    ensure!(beat.intact && beat.drift.is_empty(), "{beat:?}");
    let egress = beat.traffic.egress.context("no egress figures")?;
    ensure!(egress.packets >= 1000 && egress.dropped < egress.packets, "{egress:?}");
    ensure!(beat.remaining_seconds > 0.0 && beat.remaining_seconds <= 3600.0, "{beat:?}");
    agent.signal(Signal::SIGTERM)?;
    let removed = agent.finish()?.removed()?;
    ensure!(removed.traffic.egress.is_some_and(|traffic| traffic.dropped >= egress.dropped), "{removed:?}");
    Ok(())
}
