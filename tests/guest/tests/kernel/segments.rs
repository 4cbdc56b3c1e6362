//! TCP hands over super-packets of many segments, and netem loses a packet whole. `--per-segment` takes them apart first.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use netloss_contract::{Direction, ExitCode, Traffic};
use netloss_lab_guest::statistics::acceptable;
use netloss_lab_guest::{Agent, NamespaceState, Pod};
use nix::sys::signal::Signal;

/// Bytes that one transfer has: some 1400 segments.
const LENGTH: usize = 2_000_000;

/// Of a TCP segment without options, on an MTU of 1500.
const MSS: u64 = 1460;

/// Sends data from the pod, or to it, over TCP, and checks that it arrives as it was sent.
fn transfer(pod: &Pod, direction: Direction) -> Result<()> {
    let data: Vec<u8> = (0..=250).cycle().take(LENGTH).collect();
    let listener = pod.peer.run(|| Ok(TcpListener::bind("192.0.2.2:0")?))?;
    let near = pod.pod.run(|| Ok(TcpStream::connect(listener.local_addr()?)?))?;
    let (far, _) = listener.accept()?;
    let (mut from, mut to) = if direction == Direction::Egress { (near, far) } else { (far, near) };
    let mut received = Vec::with_capacity(LENGTH);
    thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| to.read_to_end(&mut received));
        from.write_all(&data)?;
        drop(from);
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        Ok(())
    })?;
    ensure!(received == data, "{} of {LENGTH} bytes arrived, or others", received.len());
    Ok(())
}

/// What a transfer in this direction met.
fn met(pod: &Pod, direction: Direction, arguments: &str) -> Result<Traffic> {
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = Agent::start(&pod.pod, &format!("run --direction {direction} --ttl 1h {arguments}"))?;
    agent.applied()?;
    transfer(pod, direction)?;
    agent.signal(Signal::SIGTERM)?;
    let removed = agent.finish()?.removed()?;
    ensure!(removed.drift.is_empty(), "{removed:?}");
    before.assert_unchanged(&pod.pod)?;
    let traffic = if direction == Direction::Egress { removed.traffic.egress } else { removed.traffic.ingress };
    traffic.context("no figures")
}

#[test]
fn super_packets_are_taken_apart() -> Result<()> {
    for direction in [Direction::Egress, Direction::Ingress] {
        let whole = met(&Pod::new()?, direction, "--loss 1")?;
        let apart = met(&Pod::new()?, direction, "--loss 1 --per-segment")?;
        let segments = LENGTH as u64 / MSS;
        let lost = |traffic: &Traffic| format!("{} of {} packets lost", traffic.dropped, traffic.packets);
        println!("{direction} at 1 %: {}; with --per-segment {}", lost(&whole), lost(&apart));
        // Otherwise there was nothing to take apart, and the test tests nothing.
        ensure!(whole.packets < segments / 2, "{direction:?}: {whole:?}");
        ensure!(apart.packets >= segments, "{direction:?}: {apart:?}");
        let range = acceptable(apart.packets, 0.01).context("no such probability")?;
        ensure!(range.contains(&apart.dropped), "{direction:?}: {apart:?}, expected {range:?}");
    }
    Ok(())
}

#[test]
fn tc_takes_nothing_apart() -> Result<()> {
    let pod = Pod::new()?;
    let failed = Agent::start(&pod.pod, "run --loss 1 --ttl 1h --per-segment --backend tc")?.finish()?.failed(ExitCode::Usage)?;
    ensure!(failed.message.contains("--backend guarded"), "{failed:?}");
    Ok(())
}
