//! Interfaces as clusters have them: the loss is what was asked for on each, both ways, and the namespace as it was afterwards.

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{Agent, Counted, Interface, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, assert_loss, kernel_is_at_least};

fn check(interface: Interface) -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::on(interface)?;
        check_pod(&pod, backend, Pod::send).with_context(|| format!("{interface:?}, {backend}"))?;
    }
    Ok(())
}

fn check_pod(pod: &Pod, backend: &str, send: impl Fn(&Pod, Way, u32) -> Result<Counted>) -> Result<()> {
    // Without loss first: a way that is broken is no loss of ours.
    for way in [Way::Out, Way::In] {
        ensure!(send(pod, way, 100)?.lost == 0, "packets are lost {way:?} without an agent");
    }
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --backend {backend}"))?;
    ensure!(agent.applied()?.interface == "eth0");
    for way in [Way::Out, Way::In] {
        assert_loss(send(pod, way, 1000)?, 30.0).with_context(|| format!("{way:?}"))?;
    }
    agent.signal(Signal::SIGTERM)?;
    agent.finish()?.removed()?;
    before.assert_unchanged(&pod.pod)?;
    for way in [Way::Out, Way::In] {
        ensure!(send(pod, way, 100)?.lost == 0, "packets are lost {way:?} afterwards");
    }
    Ok(())
}

#[test]
fn macvlan() -> Result<()> {
    check(Interface::Macvlan)
}

#[test]
fn ipvlan() -> Result<()> {
    check(Interface::Ipvlan)
}

#[test]
fn netkit() -> Result<()> {
    // It came with Linux 6.7.
    if kernel_is_at_least(6, 7)? { check(Interface::Netkit) } else { Ok(()) }
}

/// Its default is an mq with a qdisc for each queue, which has to come back.
#[test]
fn several_queues() -> Result<()> {
    let state = NamespaceState::of(&Pod::on(Interface::MultiQueue)?.pod)?;
    ensure!(state.has("qdisc.eth0.root.noqueue") || state.has("qdisc.eth0.root.mq"), "no default: {state:?}");
    check(Interface::MultiQueue)
}

/// As Calico has it: an address without a network, and a gateway that answers for everything.
#[test]
fn an_address_of_its_own_and_a_link_local_gateway() -> Result<()> {
    check(Interface::PointToPoint)
}

#[test]
fn ipv6_alone() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        pod.pod.ip("-4 addr flush dev eth0")?;
        check_pod(&pod, backend, Pod::send_ipv6).context(backend)?;
    }
    Ok(())
}

/// A pod with a user namespace of its own (`hostUsers: false`): the agent is root there and nobody on the node.
#[test]
fn a_user_namespace() -> Result<()> {
    for backend in BACKENDS {
        let (pod, mut agent) = Agent::start_in_user_namespace(&format!("run --loss 30 --ttl 1h --backend {backend}"))?;
        ensure!(agent.applied().with_context(|| backend.to_owned())?.interface == "eth0");
        for way in [Way::Out, Way::In] {
            assert_loss(pod.send(way, 1000)?, 30.0).with_context(|| format!("{backend}, {way:?}"))?;
        }
        agent.signal(Signal::SIGTERM)?;
        agent.finish()?.removed()?;
        for way in [Way::Out, Way::In] {
            ensure!(pod.send(way, 100)?.lost == 0, "packets are lost {way:?} afterwards");
        }
    }
    Ok(())
}
