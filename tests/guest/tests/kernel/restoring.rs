//! Afterwards the namespace is as it was: qdiscs, filters, and every attribute of every link.

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{Agent, NamespaceState, Pod};
use nix::sys::signal::Signal;

use crate::BACKENDS;

/// Applies and removes, and compares what iproute2 shows before and after.
fn check(pod: &Pod, direction: &str) -> Result<()> {
    BACKENDS.into_iter().try_for_each(|backend| check_with(backend, pod, direction).context(backend))
}

fn check_with(backend: &str, pod: &Pod, direction: &str) -> Result<()> {
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = Agent::start(&pod.pod, &format!("run --loss 10 --direction {direction} --ttl 1h --backend {backend}"))?;
    agent.applied()?;
    ensure!(before.assert_unchanged(&pod.pod).is_err(), "the loss is not visible to iproute2");
    agent.signal(Signal::SIGTERM)?;
    agent.finish()?.removed()?;
    before.assert_unchanged(&pod.pod)
}

#[test]
fn a_plain_pod_is_restored() -> Result<()> {
    check(&Pod::new()?, "both")
}

#[test]
fn egress_alone_is_restored() -> Result<()> {
    check(&Pod::new()?, "egress")
}

#[test]
fn ingress_alone_is_restored() -> Result<()> {
    check(&Pod::new()?, "ingress")
}

/// The kernel makes a queue length of 0 into 1000 when a qdisc comes, and leaves it so.
#[test]
fn a_queue_length_of_zero_is_restored() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.ip("link set eth0 txqueuelen 0")?;
    check(&pod, "both")
}

#[test]
fn an_unusual_queue_length_is_restored() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.ip("link set eth0 txqueuelen 123")?;
    check(&pod, "both")
}

/// Runs follow one another in a pod's life.
#[test]
fn a_second_run_is_restored_as_the_first() -> Result<()> {
    let pod = Pod::new()?;
    check(&pod, "both")?;
    check(&pod, "both")
}

/// A link's queues make the kernel's default an mq with children.
#[test]
fn a_multiqueue_device_is_restored() -> Result<()> {
    let pod = Pod::without_routes()?;
    pod.pod.ip_batch("link del eth0\nlink add eth0 numtxqueues 4 numrxqueues 4 type veth peer name other\nlink set other up\nlink set eth0 up\naddr add 192.0.2.1/24 dev eth0\nroute add default via 192.0.2.2\n")?;
    check(&pod, "both")
}
