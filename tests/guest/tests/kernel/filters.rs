//! Loss that is kept to some remote ends, or kept off them: always the remote end, whichever way the packets go.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netloss_contract::{Applied, ExitCode};
use netloss_lab_guest::{Agent, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{assert_loss, assert_no_loss};

/// A peer with two addresses of each family, and a loss of 50 % with these filters.
fn lossy(filters: &str) -> Result<(Pod, Agent, Applied)> {
    let pod = Pod::new()?;
    pod.add_remote("192.0.2.3".parse()?)?;
    pod.add_remote("2001:db8::3".parse()?)?;
    let mut agent = Agent::start(&pod.pod, &format!("run --loss 50 --ttl 1h --heartbeat 1s {filters}"))?;
    let applied = agent.applied()?;
    Ok((pod, agent, applied))
}

/// Whether packets to and from each remote end are lost.
fn check(filters: &str, ends: &[(&str, bool)]) -> Result<()> {
    let (pod, _agent, _) = lossy(filters)?;
    for (end, hit) in ends {
        let remote: SocketAddr = end.parse()?;
        for way in [Way::Out, Way::In] {
            let counted = pod.send_with(way, remote, 500)?;
            let checked = if *hit { assert_loss(counted, 50.0) } else { assert_no_loss(counted) };
            checked.with_context(|| format!("{filters}: {end} {way:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_target_alone_is_hit() -> Result<()> {
    check("--target 192.0.2.3", &[("192.0.2.3:0", true), ("192.0.2.2:0", false), ("[2001:db8::2]:0", false)])?;
    check("--target 192.0.2.2/31", &[("192.0.2.3:0", true), ("192.0.2.2:0", true), ("[2001:db8::3]:0", false)])?;
    check("--target 2001:db8::3", &[("[2001:db8::3]:0", true), ("[2001:db8::2]:0", false), ("192.0.2.3:0", false)])
}

#[test]
fn a_port_is_the_remote_ends() -> Result<()> {
    check("--target 192.0.2.2:5000-5999/udp", &[("192.0.2.2:5000", true), ("192.0.2.2:5999", true), ("192.0.2.2:4999", false)])?;
    check("--target any:53", &[("192.0.2.2:53", true), ("[2001:db8::2]:53", true), ("192.0.2.3:54", false)])?;
    check("--target any:53/tcp --target any/icmp", &[("192.0.2.2:53", false), ("[2001:db8::2]:53", false)])
}

#[test]
fn what_is_spared_wins_over_the_targets() -> Result<()> {
    check("--spare 192.0.2.3", &[("192.0.2.3:0", false), ("192.0.2.2:0", true), ("[2001:db8::2]:0", true)])?;
    check("--target 192.0.2.0/24 --spare any:53/udp", &[("192.0.2.2:53", false), ("192.0.2.2:54", true), ("[2001:db8::2]:54", false)])
}

/// A hundred filters are one transaction, and a packet that several of them mean is lost and counted once.
#[test]
fn a_hundred_filters_are_as_good_as_one() -> Result<()> {
    let many: Vec<_> = (0..98).map(|third| format!("--target 198.51.{third}.0/24:1-65535")).collect();
    let (pod, mut agent, applied) = lossy(&format!("{} --target 192.0.2.2 --target 192.0.2.0/24", many.join(" ")))?;
    ensure!(applied.filtered.targets.len() > 20, "{:?}", applied.filtered);
    let counted = pod.send(Way::Out, 1000)?;
    assert_loss(counted, 50.0)?;
    agent.signal(Signal::SIGTERM)?;
    let egress = agent.finish()?.removed()?.traffic.egress.context("no egress figures")?;
    // With markers: some more. Twice as many would be each packet counted for both targets.
    ensure!((1000..1900).contains(&egress.packets), "{egress:?}");
    Ok(())
}

/// What the report is about is what met the loss, and not all that left the interface.
#[test]
fn spared_packets_do_not_count() -> Result<()> {
    let (pod, mut agent, applied) = lossy("--target 192.0.2.3")?;
    ensure!(applied.filtered.targets == ["192.0.2.3"], "{:?}", applied.filtered);
    assert_no_loss(pod.send(Way::Out, 3000)?)?;
    let counted = pod.send_with(Way::Out, "192.0.2.3:0".parse()?, 500)?;
    agent.signal(Signal::SIGTERM)?;
    let egress = agent.finish()?.removed()?.traffic.egress.context("no egress figures")?;
    ensure!((500..1000).contains(&egress.packets) && egress.dropped >= counted.lost.into(), "{egress:?}, {counted:?}");
    // A 95 % interval misses the true rate once in twenty times, but never what was seen.
    let (observed, interval) = egress.observed_percentage.zip(egress.interval).context("no rate")?;
    ensure!(interval.low < observed && observed < interval.high && !egress.too_few_packets, "{egress:?}");
    Ok(())
}

/// The node, and the default gateway, which on a bridge is where the kubelet's probes come from.
#[test]
fn the_node_and_the_gateway_are_spared() -> Result<()> {
    let filters = "--spare-node 192.0.2.3,2001:db8::3";
    let ends = [("192.0.2.3:0", false), ("192.0.2.2:0", false), ("[2001:db8::3]:0", false), ("[2001:db8::2]:0", false)];
    check(filters, &ends)?;
    let (pod, _agent, applied) = lossy(filters)?;
    ensure!(applied.filtered.spared.iter().any(|end| end == "192.0.2.2 (the default gateway)"), "{:?}", applied.filtered);
    pod.add_remote("192.0.2.4".parse()?)?;
    assert_loss(pod.send_with(Way::Out, "192.0.2.4:0".parse()?, 500)?, 50.0)
}

#[test]
fn all_gateways_of_a_multipath_route_are_spared() -> Result<()> {
    let pod = Pod::without_routes()?;
    for address in ["192.0.2.3", "192.0.2.4", "2001:db8::3", "2001:db8::4"] {
        pod.add_remote(address.parse()?)?;
    }
    pod.pod.ip_batch(
        "route add default nexthop via 192.0.2.2 nexthop via 192.0.2.3\n\
         route add default nexthop via 2001:db8::2 nexthop via 2001:db8::3\n",
    )?;
    let mut agent = Agent::start(&pod.pod, "run --loss 50 --ttl 1h --spare-node 198.51.100.1")?;
    let applied = agent.applied()?;
    for gateway in ["192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::3"] {
        let words = format!("{gateway} (the default gateway)");
        ensure!(applied.filtered.spared.contains(&words), "{:?}", applied.filtered);
    }
    for spared in ["192.0.2.2:0", "192.0.2.3:0", "[2001:db8::2]:0", "[2001:db8::3]:0"] {
        assert_no_loss(pod.send_with(Way::Out, spared.parse()?, 200)?).context(spared)?;
    }
    for hit in ["192.0.2.4:0", "[2001:db8::4]:0"] {
        assert_loss(pod.send_with(Way::Out, hit.parse()?, 500)?, 50.0).context(hit)?;
    }
    Ok(())
}

/// With everything lost a connection is made to a spared port only.
#[test]
fn tcp_ports_are_told_apart() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 100 --ttl 1h --spare any:7001/tcp")?;
    agent.applied()?;
    let connect = |port: u16| -> Result<bool> {
        let _listener = pod.peer.run(|| Ok(TcpListener::bind(("192.0.2.2", port))?))?;
        pod.pod.run(|| Ok(TcpStream::connect_timeout(&SocketAddr::new("192.0.2.2".parse()?, port), Duration::from_secs(3)).is_ok()))
    };
    ensure!(connect(7001)?, "the spared port is not reached");
    ensure!(!connect(7002)?, "another port is reached through a loss of 100 %");
    Ok(())
}

/// With everything lost but ARP and NDP, neighbours are still found.
#[test]
fn neighbours_are_found_where_they_are_spared() -> Result<()> {
    for address in ["192.0.2.2", "2001:db8::2"] {
        let pod = Pod::new()?;
        let mut agent = Agent::start(&pod.pod, "run --loss 100 --ttl 1h --spare-neighbour")?;
        agent.applied()?;
        pod.pod.ip(&format!("neigh del {address} dev eth0"))?;
        pod.pod.ip(&format!("neigh add {address} dev eth0 nud none")).or_else(|_| anyhow::Ok(()))?;
        let found = || -> Result<bool> {
            let neighbours = pod.pod.json("ip", &format!("-j neigh show to {address} dev eth0"))?;
            Ok(neighbours[0]["lladdr"] == "02:00:00:00:00:02")
        };
        let deadline = std::time::Instant::now() + netloss_lab_guest::PATIENCE;
        while !found()? {
            ensure!(std::time::Instant::now() < deadline, "{address} was never found");
            pod.pod.run(|| {
                let socket = std::net::UdpSocket::bind(if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" })?;
                // It may be refused until the neighbour is known.
                drop(socket.send_to(b"?", (address, 9)));
                Ok(())
            })?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

#[test]
fn filters_with_tc_are_a_clear_error() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let end = Agent::start(&pod.pod, "run --loss 50 --ttl 1h --backend tc --target 192.0.2.3")?.finish()?;
    let failed = end.failed(ExitCode::Usage)?;
    ensure!(failed.message.contains("--backend guarded"), "{failed:?}");
    before.assert_unchanged(&pod.pod)
}
