//! The loss that was asked for, counted on the arriving side.

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{Agent, Pod, Way};

use crate::{BACKENDS, assert_loss, assert_no_loss};

/// Enough to tell 10 % from 12.5 %, with one false alarm in a million runs.
const PACKETS: u32 = 4000;

fn check(percent: u32, direction: &str) -> Result<()> {
    BACKENDS.into_iter().try_for_each(|backend| check_with(backend, percent, direction).context(backend))
}

fn check_with(backend: &str, percent: u32, direction: &str) -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, &format!("run --loss {percent} --direction {direction} --ttl 1h --backend {backend}"))?;
    let applied = agent.applied()?;
    ensure!(applied.interface == "eth0", "applied to {}", applied.interface);
    for (way, hit) in [(Way::Out, direction != "ingress"), (Way::In, direction != "egress")] {
        if hit {
            assert_loss(pod.send(way, PACKETS)?, percent.into())?;
        } else {
            assert_no_loss(pod.send(way, 1000)?)?;
        }
    }
    Ok(())
}

#[test]
fn loss_10_egress() -> Result<()> {
    check(10, "egress")
}

#[test]
fn loss_10_ingress() -> Result<()> {
    check(10, "ingress")
}

#[test]
fn loss_10_both() -> Result<()> {
    check(10, "both")
}

#[test]
fn loss_30_egress() -> Result<()> {
    check(30, "egress")
}

#[test]
fn loss_30_ingress() -> Result<()> {
    check(30, "ingress")
}

#[test]
fn loss_30_both() -> Result<()> {
    check(30, "both")
}

#[test]
fn loss_hits_ipv6_too() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --backend {backend}"))?;
        agent.applied()?;
        assert_loss(pod.send_ipv6(Way::Out, PACKETS)?, 30.0).context(backend)?;
        assert_loss(pod.send_ipv6(Way::In, PACKETS)?, 30.0).context(backend)?;
    }
    Ok(())
}

/// netem's correlation lowers the rate (docs say by how much); that it does is the proof that it reached the kernel.
#[test]
fn correlation_reaches_the_kernel() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let arguments = format!("run --loss 30 --correlation 25 --direction egress --ttl 1h --backend {backend}");
        let mut agent = Agent::start(&pod.pod, &arguments)?;
        agent.applied()?;
        let counted = pod.send(Way::Out, PACKETS)?;
        let lost = counted.lost;
        ensure!((600..1060).contains(&lost), "{backend}: {lost} of {PACKETS} lost; 30 % with a correlation of 25 % is some 23 %");
    }
    Ok(())
}
