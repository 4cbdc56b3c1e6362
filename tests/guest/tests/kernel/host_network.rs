//! A namespace that looks like a host's is refused, with the evidence, unless that is asked for.

use anyhow::{Result, ensure};
use netloss_contract::ExitCode;
use netloss_lab_guest::{Agent, Namespace, NamespaceState, Pod};
use nix::sys::signal::Signal;

fn check_refused(namespace: &Namespace, evidence: &str) -> Result<()> {
    let before = NamespaceState::of(namespace)?;
    let end = Agent::start(namespace, "run --loss 10 --ttl 1h")?.finish()?;
    let failed = end.failed(ExitCode::Refused)?;
    let message = &failed.message;
    ensure!(message.contains(evidence) && message.contains("--allow-host-network"), "the refusal does not say {evidence:?}: {failed:?}");
    before.assert_unchanged(namespace)
}

#[test]
fn the_initial_namespace_is_refused() -> Result<()> {
    check_refused(&Namespace::initial()?, "initial network namespace")
}

#[test]
fn a_bridge_with_ports_is_refused_unless_allowed() -> Result<()> {
    let pod = Pod::new()?;
    // Down, so that no carrier settles between the snapshots.
    pod.pod.ip_batch("link add cni0 type bridge\nlink add veth1 type veth peer name veth2\nlink set veth1 master cni0\n")?;
    check_refused(&pod.pod, "cni0")?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = Agent::start(&pod.pod, "run --loss 10 --ttl 1h --allow-host-network")?;
    agent.applied()?;
    agent.signal(Signal::SIGTERM)?;
    agent.finish()?.removed()?;
    before.assert_unchanged(&pod.pod)
}
