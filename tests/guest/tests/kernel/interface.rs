//! Which interface is the pod's, by its routes and links.

use anyhow::{Result, ensure};
use netloss_contract::ExitCode;
use netloss_lab_guest::{Agent, NamespaceState, Pod};

/// A second interface for a pod, with an address and no routes.
const SECOND: &str = "link add net1 type veth peer name net1p\nlink set net1p up\nlink set net1 up\naddr add 198.51.100.1/24 dev net1\n";

/// Expects the agent to choose this interface.
fn check_chosen(pod: &Pod, arguments: &str, interface: &str) -> Result<()> {
    // Which one is chosen does not depend on the backend; this one shows at the root.
    let mut agent = Agent::start(&pod.pod, &format!("run --loss 10 --ttl 1h --backend tc {arguments}"))?;
    let applied = agent.applied()?;
    ensure!(applied.interface == interface, "chose {}: {}", applied.interface, applied.interface_reason);
    let state = NamespaceState::of(&pod.pod)?;
    ensure!(state.has(&format!("qdisc.{interface}.root.netem")), "no netem on {interface}: {state:?}");
    Ok(())
}

#[test]
fn the_default_route_with_the_lowest_metric_wins() -> Result<()> {
    let pod = Pod::without_routes()?;
    let routes = "route add default via 192.0.2.2 dev eth0 metric 200\nroute add default via 198.51.100.2 dev net1 metric 100\n";
    pod.pod.ip_batch(&(SECOND.to_owned() + routes))?;
    check_chosen(&pod, "", "net1")
}

#[test]
fn without_ipv4_the_ipv6_route_decides() -> Result<()> {
    let pod = Pod::without_routes()?;
    pod.pod.ip_batch(&(SECOND.to_owned() + "addr del 192.0.2.1/24 dev eth0\nroute add default via 2001:db8::2 dev eth0\n"))?;
    check_chosen(&pod, "", "eth0")
}

#[test]
fn the_only_interface_needs_no_route() -> Result<()> {
    check_chosen(&Pod::without_routes()?, "", "eth0")
}

#[test]
fn several_interfaces_without_a_route_are_listed() -> Result<()> {
    let pod = Pod::without_routes()?;
    pod.pod.ip_batch(SECOND)?;
    let before = NamespaceState::of(&pod.pod)?;
    let failed = Agent::start(&pod.pod, "run --loss 10 --ttl 1h")?.finish()?.failed(ExitCode::Refused)?;
    for name in ["eth0", "net1", "--interface"] {
        ensure!(failed.message.contains(name), "the message does not name {name}: {failed:?}");
    }
    before.assert_unchanged(&pod.pod)
}

#[test]
fn the_named_interface_wins_over_routes() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.ip_batch(SECOND)?;
    check_chosen(&pod, "--interface net1", "net1")
}

#[test]
fn a_name_that_is_not_there_is_refused() -> Result<()> {
    let pod = Pod::new()?;
    let failed = Agent::start(&pod.pod, "run --loss 10 --ttl 1h --interface eth7")?.finish()?.failed(ExitCode::Refused)?;
    ensure!(failed.message.contains("eth7") && failed.message.contains("eth0"), "{failed:?}");
    Ok(())
}
