//! The tests' own instruments, without the agent: what they count is what the kernel's tools set.

use anyhow::{Result, ensure};
use netloss_lab_guest::{NamespaceState, Pod, Way};

use crate::{assert_loss, assert_no_loss};

#[test]
fn an_untouched_pod_loses_nothing() -> Result<()> {
    let pod = Pod::new()?;
    assert_no_loss(pod.send(Way::Out, 1000)?)?;
    assert_no_loss(pod.send(Way::In, 1000)?)?;
    assert_no_loss(pod.send_ipv6(Way::Out, 100)?)?;
    assert_no_loss(pod.send_ipv6(Way::In, 100)?)
}

#[test]
fn loss_that_tc_sets_is_counted() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 root netem loss 20%")?;
    assert_loss(pod.send(Way::Out, 4000)?, 20.0)?;
    assert_no_loss(pod.send(Way::In, 1000)?)
}

#[test]
fn loss_that_tc_sets_on_ingress_is_counted() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.ip_batch("link add ifb0 type ifb\nlink set ifb0 up\n")?;
    pod.pod.tc("qdisc add dev ifb0 root netem loss 20%")?;
    pod.pod.tc("qdisc add dev eth0 ingress")?;
    pod.pod.tc("filter add dev eth0 ingress matchall action mirred egress redirect dev ifb0")?;
    assert_loss(pod.send(Way::In, 4000)?, 20.0)?;
    assert_no_loss(pod.send(Way::Out, 1000)?)
}

#[test]
fn a_wrong_rate_is_noticed() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 root netem loss 15%")?;
    let counted = pod.send(Way::Out, 4000)?;
    ensure!(assert_loss(counted, 10.0).is_err(), "{counted:?} passed for 10 %");
    Ok(())
}

#[test]
fn a_change_of_the_namespace_is_noticed_and_its_undoing_too() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    pod.pod.tc("qdisc add dev eth0 clsact")?;
    pod.pod.tc("filter add dev eth0 ingress matchall action gact pass")?;
    let during = NamespaceState::of(&pod.pod)?;
    ensure!(during.has("qdisc.eth0") && during.has("filter.eth0.ingress"), "{during:?}");
    ensure!(before.assert_unchanged(&pod.pod).is_err(), "a new clsact with a filter passed for no change");
    pod.pod.tc("qdisc del dev eth0 clsact")?;
    before.assert_unchanged(&pod.pod)
}

/// The trap that the agent has to avoid, and the proof that the snapshot would tell.
#[test]
fn a_lost_txqlen_is_noticed() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.ip("link set eth0 txqueuelen 0")?;
    let before = NamespaceState::of(&pod.pod)?;
    pod.pod.tc("qdisc add dev eth0 root netem loss 1%")?;
    pod.pod.tc("qdisc del dev eth0 root")?;
    let after = NamespaceState::of(&pod.pod)?;
    // iproute2 does not mention a length of 0.
    let lengths = [&before, &after].map(|state| state.get("link.eth0.txqlen"));
    ensure!(lengths == [None, Some("1000")], "{lengths:?}");
    ensure!(before.assert_unchanged(&pod.pod).is_err(), "the difference passed for none");
    Ok(())
}
