//! Nothing of others is touched: what is in the way is refused, and stays.

use anyhow::{Context, Result, ensure};
use netloss_contract::ExitCode;
use netloss_lab_guest::{Agent, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, assert_loss};

/// Expects a refusal that names what is in the way, and a namespace as it was.
fn check_refused(backends: &[&str], pod: &Pod, direction: &str, named: &str) -> Result<()> {
    backends.iter().try_for_each(|backend| check_refused_by(backend, pod, direction, named).context((*backend).to_owned()))
}

fn check_refused_by(backend: &str, pod: &Pod, direction: &str, named: &str) -> Result<()> {
    let before = NamespaceState::of(&pod.pod)?;
    let end = Agent::start(&pod.pod, &format!("run --loss 10 --direction {direction} --ttl 1h --backend {backend}"))?.finish()?;
    let failed = end.failed(ExitCode::Refused)?;
    ensure!(failed.message.contains(named) && failed.left.is_empty(), "the refusal does not name {named}: {failed:?}");
    before.assert_unchanged(&pod.pod)
}

#[test]
fn a_foreign_htb_is_refused() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 root handle 1: htb default 10")?;
    pod.pod.tc("class add dev eth0 parent 1: classid 1:10 htb rate 1gbit")?;
    check_refused(&BACKENDS, &pod, "egress", "htb")?;
    check_refused(&BACKENDS, &pod, "both", "htb")
}

#[test]
fn a_foreign_prio_is_refused() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 root handle 1: prio")?;
    check_refused(&BACKENDS, &pod, "egress", "prio")
}

#[test]
fn a_foreign_netem_is_refused() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 root netem delay 1ms")?;
    check_refused(&BACKENDS, &pod, "both", "netem")
}

/// Expects loss of what is received, with each backend, and a namespace as it was.
fn check_lives_with_it(pod: &Pod, direction: &str) -> Result<()> {
    for backend in BACKENDS {
        let before = NamespaceState::of(&pod.pod)?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --direction {direction} --ttl 1h --backend {backend}"))?;
        agent.applied()?;
        assert_loss(pod.send(Way::In, 4000)?, 30.0).context(backend)?;
        agent.signal(Signal::SIGTERM)?;
        agent.finish()?.removed()?;
        before.assert_unchanged(&pod.pod).context(backend)?;
    }
    Ok(())
}

/// Ingress alone does not touch the root.
#[test]
fn ingress_alone_lives_with_a_foreign_root() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 root handle 1: prio")?;
    check_lives_with_it(&pod, "ingress")
}

#[test]
fn a_clsact_without_ingress_filters_is_left() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 clsact")?;
    pod.pod.tc("filter add dev eth0 egress matchall action gact pass")?;
    check_lives_with_it(&pod, "both")
}

#[test]
fn a_clsact_with_ingress_filters_is_refused() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 clsact")?;
    pod.pod.tc("filter add dev eth0 ingress matchall action gact pass")?;
    check_refused(&["tc"], &pod, "ingress", "clsact")
}

#[test]
fn an_ingress_qdisc_with_filters_is_refused() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.tc("qdisc add dev eth0 ingress")?;
    pod.pod.tc("filter add dev eth0 ingress protocol ip matchall action gact pass")?;
    check_refused(&["tc"], &pod, "both", "ingress")
}

#[test]
fn a_second_agent_names_the_first() -> Result<()> {
    let pod = Pod::new()?;
    let mut first = Agent::start(&pod.pod, "run --loss 10 --ttl 1h --run experiment-1/first")?;
    first.applied()?;
    let during = NamespaceState::of(&pod.pod)?;
    let end = Agent::start(&pod.pod, "run --loss 20 --ttl 1h --run experiment-2/second")?.finish()?;
    let failed = end.failed(ExitCode::AlreadyRunning)?;
    let holder = failed.holder.as_ref().and_then(|holder| holder.run.as_ref()).map(ToString::to_string);
    ensure!(holder.as_deref() == Some("experiment-1/first") && failed.message.contains("experiment-1/first"), "{failed:?}");
    during.assert_unchanged(&pod.pod)
}
