//! What only the guarded backend promises: the kernel ends the loss, whatever becomes of the agent.

use anyhow::{Context, Result, ensure};
use netloss_contract::{Backend, Cause, Guard};
use netloss_lab_guest::statistics::acceptable;
use netloss_lab_guest::{Agent, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, assert_loss, assert_no_loss, kernel_is_at_least};

/// Rounds of packets that are waited for a lease to run out.
const PATIENCE: u32 = 10_000;

fn start(pod: &Pod, loss: u32) -> Result<Agent> {
    let mut agent = Agent::start(&pod.pod, &format!("run --loss {loss} --ttl 1h --heartbeat 1s"))?;
    let applied = agent.applied()?;
    // Every kernel of the matrix has what it takes, and auto finds the best of it: no silent step down the ladder.
    ensure!(applied.backend == Backend::Guarded && !applied.unguarded, "{applied:?}");
    let (ends_with_agent, only_ip_egress) = (kernel_is_at_least(5, 12)?, !kernel_is_at_least(5, 16)?);
    ensure!(applied.guard == Some(Guard { ends_with_agent, lease_seconds: 10, only_ip_egress }), "{applied:?}");
    Ok(agent)
}

fn kill(agent: &mut Agent, signal: Signal) -> Result<()> {
    agent.signal(signal)?;
    ensure!(agent.finish()?.code.is_none(), "it ended by itself");
    Ok(())
}

/// Waits until the lease has run out.
fn wait_for_the_lease(pod: &Pod) -> Result<()> {
    let mut rounds = 0;
    // By chance, 200 packets pass half a loss once in 10^60 times.
    while pod.send(Way::Out, 200)?.lost > 0 {
        rounds += 1;
        ensure!(rounds < PATIENCE, "the loss went on without an agent");
    }
    Ok(())
}

/// The process is gone when its end is seen, and its socket with it, and the tables with that: no lease has to run out first. Before
/// Linux 5.12 it has to.
#[test]
fn a_killed_agent_takes_the_loss_with_it() -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGABRT] {
        let pod = Pod::new()?;
        let mut agent = start(&pod, 50)?;
        assert_loss(pod.send(Way::Out, 1000)?, 50.0)?;
        kill(&mut agent, signal)?;
        if !kernel_is_at_least(5, 12)? {
            wait_for_the_lease(&pod)?;
        }
        assert_no_loss(pod.send(Way::Out, 1000)?).with_context(|| signal.to_string())?;
        assert_no_loss(pod.send(Way::In, 1000)?).with_context(|| signal.to_string())?;
    }
    Ok(())
}

/// A stopped agent renews nothing.
#[test]
fn a_stopped_agents_loss_ends_with_its_lease() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = start(&pod, 50)?;
    agent.signal(Signal::SIGSTOP)?;
    assert_loss(pod.send(Way::Out, 200)?, 50.0).context("the loss ended before its lease")?;
    wait_for_the_lease(&pod)?;
    assert_no_loss(pod.send(Way::Out, 1000)?)?;
    assert_no_loss(pod.send(Way::In, 1000)?)?;

    agent.signal(Signal::SIGCONT)?;
    let removed = agent.finish()?.removed()?;
    ensure!(removed.cause == Cause::LeaseExpired, "{removed:?}");
    let kept = removed.kept.context("no account")?;
    ensure!(kept.lapses > 0 && kept.armed_seconds <= removed.elapsed_seconds + 0.001, "{kept:?} of {} s", removed.elapsed_seconds);
    before.assert_unchanged(&pod.pod)
}

/// What passes once the kernel has ended the loss is not among the packets that met it, by whatever they are counted.
#[test]
fn what_passes_after_the_lease_is_not_counted() -> Result<()> {
    let pod = Pod::new()?;
    pod.silence()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 50 --ttl 1h --heartbeat 1s --direction egress --backend guarded")?;
    agent.applied()?;
    pod.send(Way::Out, 500)?;
    agent.signal(Signal::SIGSTOP)?;
    wait_for_the_lease(&pod)?;
    pod.send(Way::Out, 20_000)?;
    agent.signal(Signal::SIGCONT)?;
    let removed = agent.finish()?.removed()?;
    let traffic = removed.traffic.egress.context("no figures")?;
    let range = acceptable(traffic.packets, 0.5).context("no such probability")?;
    ensure!(traffic.packets >= 500 && range.contains(&traffic.dropped), "{traffic:?}, expected {range:?}");
    Ok(())
}

/// Nobody can take the tables away from the agent that owns them. Without an owner somebody can: then there is no lease that could be renewed, and whoever
/// took them away may rely on it.
#[test]
fn tables_that_somebody_took_away_do_not_come_back() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = start(&pod, 50)?;
    let taken = pod.pod.nft("delete table netdev netloss").is_ok();
    ensure!(taken != kernel_is_at_least(5, 12)?, "taken: {taken}");
    if taken {
        let removed = agent.finish()?.removed()?;
        ensure!(removed.cause == Cause::LeaseExpired && removed.repaired.is_empty(), "{removed:?}");
    } else {
        assert_loss(pod.send(Way::In, 1000)?, 50.0)?;
        agent.signal(Signal::SIGTERM)?;
        agent.finish()?.removed()?;
    }
    assert_no_loss(pod.send(Way::Out, 1000)?)?;
    assert_no_loss(pod.send(Way::In, 1000)?)?;
    before.assert_unchanged(&pod.pod)
}

/// What is left of a killed agent loses nothing, and the next one takes it away.
#[test]
fn what_a_killed_agent_leaves_is_inert_and_goes_with_the_next_start() -> Result<()> {
    for txqlen in [1000, 0] {
        let pod = Pod::new()?;
        pod.pod.ip(&format!("link set eth0 txqueuelen {txqlen}"))?;
        let before = NamespaceState::of(&pod.pod)?;
        kill(&mut start(&pod, 30)?, Signal::SIGKILL)?;
        ensure!(before.assert_unchanged(&pod.pod).is_err(), "nothing is left: this test is about what is");
        for backend in BACKENDS {
            let mut next = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --backend {backend}"))?;
            let applied = next.applied()?;
            ensure!(applied.leftovers_removed.is_empty() == (backend != BACKENDS[0]), "{applied:?}");
            assert_loss(pod.send(Way::Out, 4000)?, 30.0)?;
            next.signal(Signal::SIGTERM)?;
            next.finish()?.removed()?;
            before.assert_unchanged(&pod.pod).with_context(|| format!("txqueuelen {txqlen}, {backend}"))?;
        }
    }
    Ok(())
}

/// The rules come after everybody's filters, so those still see what they saw.
#[test]
fn ingress_filters_of_others_go_on_working() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 clsact")?;
    pod.pod.tc("filter add dev eth0 ingress pref 5 matchall action gact pass")?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = start(&pod, 30)?;
    assert_loss(pod.send(Way::In, 4000)?, 30.0)?;
    agent.signal(Signal::SIGTERM)?;
    agent.finish()?.removed()?;
    before.assert_unchanged(&pod.pod)
}
