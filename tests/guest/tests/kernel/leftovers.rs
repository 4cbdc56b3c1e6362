//! What an agent of the tc backend leaves behind when it is killed is found by its marks and cleaned by the next start.

use anyhow::{Result, ensure};
use netloss_lab_guest::{Agent, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{assert_loss, assert_no_loss};

/// Kills an agent that lost 30 %, lets another one run with other arguments, and compares with the beginning.
fn check(pod: &Pod, second: &str) -> Result<()> {
    let before = NamespaceState::of(&pod.pod)?;
    let mut killed = Agent::start(&pod.pod, "run --loss 30 --ttl 1h --backend tc")?;
    killed.applied()?;
    killed.signal(Signal::SIGKILL)?;
    ensure!(killed.finish()?.code.is_none(), "it was not killed");
    // Plain tc has nobody else to end the loss: that is what makes it "unguarded".
    assert_loss(pod.send(Way::Out, 4000)?, 30.0)?;

    let mut next = Agent::start(&pod.pod, second)?;
    let applied = next.applied()?;
    ensure!(!applied.leftovers_removed.is_empty(), "no word on the leftovers: {applied:?}");
    next.signal(Signal::SIGTERM)?;
    next.finish()?.removed()?;
    assert_no_loss(pod.send(Way::Out, 1000)?)?;
    assert_no_loss(pod.send(Way::In, 1000)?)?;
    before.assert_unchanged(&pod.pod)
}

#[test]
fn the_next_start_cleans_up() -> Result<()> {
    check(&Pod::new()?, "run --loss 10 --ttl 1h")
}

#[test]
fn a_start_for_one_direction_cleans_both() -> Result<()> {
    check(&Pod::new()?, "run --loss 10 --direction egress --ttl 1h")
}

/// The dead agent is the only one who knew; its marks have to tell.
#[test]
fn a_queue_length_of_zero_outlives_the_agent() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.ip("link set eth0 txqueuelen 0")?;
    check(&pod, "run --loss 10 --ttl 1h")
}

#[test]
fn a_clsact_of_others_outlives_the_agent() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 clsact")?;
    check(&pod, "run --loss 10 --ttl 1h")
}
