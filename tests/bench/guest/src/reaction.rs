//! From the agent's violent death until packets arrive again.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{PATIENCE, Pod, Way};

use super::hand_over;
use super::programs::{AGENT, start};
use super::start::milliseconds;
use crate::result::{Bound, Comparison};

const OURS: &str = "agent, guarded";

/// Between two packets.
const PACE: Duration = Duration::from_micros(500);
/// How long nothing arrives before the agent is killed.
const LOST: Duration = Duration::from_millis(50);

pub(super) fn measure(times: u32) -> Result<()> {
    for (what, way, direction) in [("packets sent", Way::Out, "egress"), ("packets received", Way::In, "ingress")] {
        let mut samples = Vec::new();
        for time in 0..=times {
            println!("{what}: {time} of {times}");
            let took = until_clean(way, direction)?;
            if time > 0 {
                samples.push(milliseconds(took));
            }
        }
        let comparison = Comparison::new(format!("SIGKILL to first clean packet, {what}"), "ms").variant(OURS, samples);
        hand_over(&comparison.percentile(OURS, 95, Bound::AtMost(100.0)))?;
    }
    Ok(())
}

/// Everything is lost until the agent is gone, so the first packet that arrives is a clean one.
fn until_clean(way: Way, direction: &str) -> Result<Duration> {
    let pod = Pod::new()?;
    let inside = pod.pod.run(|| Ok(UdpSocket::bind("192.0.2.1:9000")?))?;
    let outside = pod.peer.run(|| Ok(UdpSocket::bind("192.0.2.2:9000")?))?;
    let (from, to) = if way == Way::Out { (inside, outside) } else { (outside, inside) };
    from.connect(to.local_addr()?)?;
    let line = format!("{AGENT} run --loss 100 --ttl 1h --backend guarded --direction {direction}");
    let running = start(&pod, &line.split(' ').map(str::to_owned).collect::<Vec<_>>())?;
    let is_over = AtomicBool::new(false);
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // One that is not sent is one that does not arrive.
                drop(from.send(&[0]));
                thread::sleep(PACE);
            }
        });
        let took = measured(&to, || running.kill());
        is_over.store(true, Ordering::Relaxed);
        took
    });
    running.bury()?;
    took
}

fn measured(to: &UdpSocket, kill: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let mut buffer = [0];
    to.set_read_timeout(Some(LOST))?;
    ensure!(to.recv(&mut buffer).is_err(), "a packet arrives although all are lost");
    to.set_read_timeout(Some(PATIENCE))?;
    let killed = Instant::now();
    kill()?;
    to.recv(&mut buffer).context("no packet arrives after the agent's end")?;
    Ok(killed.elapsed())
}
