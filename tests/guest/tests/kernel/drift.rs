//! Somebody changes the loss, or the interface below it, while the agent works. Heartbeats are hours apart here: it has to notice by
//! itself.

use anyhow::{Context, Result, bail, ensure};
use netloss_contract::{Cause, Event, ExitCode, Heartbeat};
use netloss_lab_guest::{Agent, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, assert_loss, assert_no_loss};

/// Asks this often for what has to come at once.
const PATIENCE: usize = 500;

fn start(pod: &Pod, backend: &str) -> Result<Agent> {
    let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --heartbeat 1h --backend {backend}"))?;
    agent.applied()?;
    Ok(agent)
}

/// How it goes by now.
fn now(pod: &Pod) -> Result<Heartbeat> {
    match Agent::start(&pod.pod, "status --json")?.finish()?.last {
        Some(Event::Status(status)) => status.now.context("no figures"),
        other => bail!("no status: {other:?}"),
    }
}

/// Waits until what was changed has been brought again.
fn repaired(pod: &Pod) -> Result<Heartbeat> {
    for _ in 0..PATIENCE {
        let now = now(pod)?;
        if !now.repaired.is_empty() {
            ensure!(now.intact, "{now:?}");
            return Ok(now);
        }
    }
    bail!("nothing was brought again")
}

fn check_loss(pod: &Pod) -> Result<()> {
    assert_loss(pod.send(Way::Out, 2000)?, 30.0)?;
    assert_loss(pod.send(Way::In, 2000)?, 30.0)
}

#[test]
fn what_somebody_changed_is_brought_again() -> Result<()> {
    for backend in BACKENDS {
        let in_band = if backend == "guarded" { "parent 7a11:4" } else { "root" };
        for change in [
            "tc qdisc del dev eth0 root".to_owned(),
            format!("tc qdisc change dev eth0 {in_band} handle 7a12: netem loss 90%"),
            "ip link del nl-in".to_owned(),
            "ip link set nl-in down".to_owned(),
        ] {
            check_repair(backend, &change).with_context(|| format!("{backend}, {change}"))?;
        }
    }
    Ok(())
}

fn check_repair(backend: &str, change: &str) -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = start(&pod, backend)?;
    pod.send(Way::Out, 500)?;
    // What nobody has read before it went is lost.
    now(&pod)?;
    run(&pod, change)?;
    let now = repaired(&pod)?;
    // What was counted before still counts.
    ensure!(now.traffic.egress.is_some_and(|traffic| traffic.packets >= 500), "{now:?}");
    check_loss(&pod)?;
    agent.signal(Signal::SIGTERM)?;
    let removed = agent.finish()?.removed()?;
    ensure!(removed.repaired == now.repaired && removed.drift.is_empty(), "{removed:?}");
    ensure!(removed.traffic.egress.is_some_and(|traffic| traffic.packets >= 2500), "{removed:?}");
    before.assert_unchanged(&pod.pod)
}

fn run(pod: &Pod, command: &str) -> Result<()> {
    match command.split_once(' ').context("no command")? {
        ("tc", arguments) => pod.pod.tc(arguments),
        (_, arguments) => pod.pod.ip(arguments),
    }
}

/// Once is an accident. Twice is somebody who means it.
#[test]
fn a_second_time_is_reported_and_never_cuts_the_pod_off() -> Result<()> {
    for backend in BACKENDS {
        // As a network manager makes it again: it is up, and nothing leads to it.
        for change in ["link del nl-in\n", "link del nl-in\nlink add nl-in type ifb\nlink set nl-in up\n"] {
            check_second_time(backend, change).with_context(|| format!("{backend}, {change}"))?;
        }
    }
    Ok(())
}

fn check_second_time(backend: &str, change: &str) -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = start(&pod, backend)?;
    pod.pod.tc("qdisc del dev eth0 root")?;
    repaired(&pod)?;
    pod.pod.tc("qdisc del dev eth0 root")?;
    assert_no_loss(pod.send(Way::Out, 500)?)?;
    let now = now(&pod)?;
    ensure!(!now.intact && now.drift.iter().any(|drift| drift.contains("is gone")), "{now:?}");
    // It sees what the change led to, and nothing in between.
    agent.signal(Signal::SIGSTOP)?;
    pod.pod.ip_batch(change)?;
    agent.signal(Signal::SIGCONT)?;
    let removed = agent.finish()?.removed()?;
    ensure!(removed.cause == Cause::Drift && removed.drift.len() >= 2 && removed.repaired.len() == 1, "{removed:?}");
    assert_no_loss(pod.send(Way::In, 500)?)?;
    before.assert_unchanged(&pod.pod)
}

/// The kernel makes a queue length of 0 into 1000 when a qdisc comes. What tells of that is a mark on the qdisc, which somebody takes away here.
#[test]
fn a_queue_length_of_zero_is_restored_without_the_qdisc_that_tells_of_it() -> Result<()> {
    for backend in BACKENDS {
        for times in [1, 2] {
            let pod = Pod::new()?;
            pod.pod.ip("link set eth0 txqueuelen 0")?;
            let before = NamespaceState::of(&pod.pod)?;
            let mut agent = start(&pod, backend)?;
            pod.pod.tc("qdisc del dev eth0 root")?;
            repaired(&pod)?;
            if times == 2 {
                pod.pod.tc("qdisc del dev eth0 root")?;
            }
            agent.signal(Signal::SIGTERM)?;
            agent.finish()?.removed()?;
            before.assert_unchanged(&pod.pod).with_context(|| format!("{backend}, deleted {times} times"))?;
        }
    }
    Ok(())
}

#[test]
fn nothing_of_others_is_replaced() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let mut agent = start(&pod, backend)?;
        pod.pod.tc("qdisc replace dev eth0 root handle 1: pfifo limit 99")?;
        let now = now(&pod)?;
        ensure!(!now.intact && now.drift[0].contains("pfifo 1:"), "{now:?}");
        agent.signal(Signal::SIGTERM)?;
        agent.finish()?.removed()?;
        let state = NamespaceState::of(&pod.pod)?;
        ensure!(state.has("qdisc.eth0.root.pfifo"), "{state:?}");
    }
    Ok(())
}

/// What was taken away from an agent that hung was perhaps taken away for that.
#[test]
fn an_agent_that_hung_brings_nothing_again() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let agent = start(&pod, backend)?;
        agent.signal(Signal::SIGSTOP)?;
        Agent::start(&pod.pod, "status --json")?.finish()?.failed(ExitCode::Unresponsive)?;
        pod.pod.tc("qdisc del dev eth0 root")?;
        agent.signal(Signal::SIGCONT)?;
        let now = now(&pod)?;
        ensure!(!now.intact && now.repaired.is_empty(), "{now:?}");
        assert_no_loss(pod.send(Way::Out, 500)?).context(backend)?;
    }
    Ok(())
}

#[test]
fn an_interface_that_is_lost_ends_the_loss() -> Result<()> {
    for backend in BACKENDS {
        for change in [
            "link del eth0\n",
            "link set eth0 down\nlink set eth0 name eth7\nlink set eth7 up\n",
            // The same name and index, and yet another.
            "link del eth0\nlink add eth0 index 77 type veth peer name other\nlink set eth0 up\n",
        ] {
            check_lost(backend, change).with_context(|| format!("{backend}, {change}"))?;
        }
    }
    Ok(())
}

fn check_lost(backend: &str, change: &str) -> Result<()> {
    let pod = Pod::with_index(77)?;
    let mut agent = start(&pod, backend)?;
    pod.pod.ip_batch(change)?;
    let removed = agent.finish()?.removed()?;
    ensure!(removed.cause == Cause::InterfaceLost && removed.drift.len() == 1, "{removed:?}");
    let state = NamespaceState::of(&pod.pod)?;
    for left in ["link.nl-in", "qdisc.eth0.root.prio", "qdisc.eth7.root.prio", "qdisc.eth0.root.netem", "qdisc.eth7.root.netem"] {
        ensure!(!state.has(left), "{left} is there: {state:?}");
    }
    Ok(())
}
