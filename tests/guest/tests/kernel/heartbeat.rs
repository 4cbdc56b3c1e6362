//! What the agent says while it works is what the kernel did.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use netloss_contract::{Expectation, LossVerdict};
use netloss_lab_guest::{Agent, Pod, Way};
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

/// At the end of the ttl the tables go, with the counters of their rules: a last interval without those counted as lost, all of it.
#[test]
fn the_last_report_of_a_busy_pod_is_the_loss() -> Result<()> {
    let pod = Pod::new()?;
    pod.silence()?;
    for _ in 0..4 {
        let mut agent = Agent::start(&pod.pod, "run --loss 10 --ttl 2s --heartbeat 1s --direction egress --backend guarded")?;
        agent.applied()?;
        let over = AtomicBool::new(false);
        let (removed, sent) = thread::scope(|scope| -> Result<_> {
            let sender = scope.spawn(|| {
                pod.pod.run(|| {
                    let socket = UdpSocket::bind("192.0.2.1:0").context("cannot open a socket")?;
                    let mut sent = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        // While a root qdisc goes the kernel takes nothing.
                        sent += u64::from(socket.send_to(&[0], "192.0.2.2:9").is_ok());
                    }
                    Ok(sent)
                })
            });
            let removed = agent.finish();
            over.store(true, Ordering::Relaxed);
            let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            Ok((removed?.removed()?, sent))
        })?;
        let egress = removed.traffic.egress.context("no egress figures")?;
        println!("{egress:?} of {sent} sent");
        ensure!(egress.packets > 100 && egress.packets <= sent, "{egress:?} of {sent} sent");
        let verdict = Expectation::independent(10.0).judge(egress.packets, egress.dropped);
        ensure!(verdict == LossVerdict::Consistent, "{egress:?}: {verdict:?}");
    }
    Ok(())
}

/// Router solicitations and multicast reports of its own would be lost and counted among what the pod receives.
#[test]
fn the_ifb_has_no_addresses_of_its_own() -> Result<()> {
    let pod = Pod::new()?;
    for backend in BACKENDS {
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 100 --direction ingress --ttl 1h --heartbeat 1s --backend {backend}"))?;
        agent.applied()?;
        agent.heartbeat(|beat| beat.elapsed_seconds > 2.0)?;
        let addresses = pod.pod.json("ip", "-j addr show dev nl-in")?[0]["addr_info"].clone();
        ensure!(addresses.as_array().is_some_and(Vec::is_empty), "{backend}: {addresses}");
        agent.signal(Signal::SIGTERM)?;
        let removed = agent.finish()?.removed()?;
        let ingress = removed.traffic.ingress.context("no ingress figures")?;
        ensure!(ingress.observed_percentage.is_none_or(|percent| percent <= 100.0), "{ingress:?}");
    }
    Ok(())
}
