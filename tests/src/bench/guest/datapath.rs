//! What a packet costs that meets a loss which loses (nearly) nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::hand_over;
use super::programs::{AGENT, start};
use crate::bench::{Bound, Comparison};
use crate::guest::{Pod, Way};

const PACKETS: u32 = 10_000;
const BYTES: usize = 20_000_000;

const TC: &str = "tc";
const GUARDED: &str = "guarded";
const FILTERED: &str = "guarded, 100 filters";

pub(super) fn measure(times: u32) -> Result<()> {
    // One packet in a million: none at all is no loss, which the agent does not take.
    let agent = |more: &str| format!("{AGENT} run --loss 0.0001 --ttl 10h --heartbeat 1h {more}");
    // None of these is where the packets go, so that each packet meets all rules, and then the loss.
    let spared: Vec<String> = (1..=100).map(|last| format!("--spare 198.51.100.{last}")).collect();
    let variants = [
        ("no loss", None),
        (TC, Some(agent("--backend tc"))),
        (GUARDED, Some(agent("--backend guarded"))),
        (FILTERED, Some(agent(&format!("--backend guarded {}", spared.join(" "))))),
    ];
    let mut pods = Vec::new();
    for (_, line) in &variants {
        let pod = Pod::new()?;
        let line = line.as_ref().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let running = line.map(|line| start(&pod, &line)).transpose()?;
        pods.push((pod, running));
    }
    let kinds = [
        ("UDP packets sent", Way::Out, true),
        ("UDP packets received", Way::In, true),
        ("TCP sent", Way::Out, false),
        ("TCP received", Way::In, false),
    ];
    for (what, way, is_udp) in kinds {
        println!("{what}");
        let unit = if is_udp { "thousands a second" } else { "MB/s" };
        let mut samples = vec![Vec::new(); variants.len()];
        for time in 0..=times {
            for ((pod, _), samples) in pods.iter().zip(&mut samples) {
                let figure = if is_udp { udp(pod, way)? } else { tcp(pod, way)? };
                if time > 0 {
                    samples.push(figure);
                }
            }
        }
        let comparison = Comparison::new(what, unit);
        let comparison = variants.iter().zip(samples).fold(comparison, |all, ((name, _), samples)| all.variant(*name, samples));
        hand_over(&comparison.ratio(GUARDED, TC, Bound::AtLeast(0.95), None))?;
    }
    for (_, running) in pods {
        running.map(super::programs::Running::stop).transpose()?;
    }
    Ok(())
}

/// In thousands a second, sent and received.
fn udp(pod: &Pod, way: Way) -> Result<f64> {
    let started = Instant::now();
    let counted = pod.send(way, PACKETS)?;
    ensure!(counted.lost < 10, "{} packets were lost", counted.lost);
    Ok(f64::from(PACKETS) / started.elapsed().as_secs_f64() / 1e3)
}

fn tcp(pod: &Pod, way: Way) -> Result<f64> {
    Ok(BYTES as f64 / transfer(pod, way, BYTES)? / 1e6)
}

/// Moves bytes over a TCP connection between pod and peer. Returns how many seconds it took.
pub(super) fn transfer(pod: &Pod, way: Way, bytes: usize) -> Result<f64> {
    let listener = pod.peer.run(|| Ok(TcpListener::bind("192.0.2.2:0")?))?;
    let near = pod.pod.run(|| Ok(TcpStream::connect(listener.local_addr()?)?))?;
    let (far, _) = listener.accept()?;
    let (mut from, mut to) = if way == Way::Out { (near, far) } else { (far, near) };
    let started = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(move || -> std::io::Result<usize> {
            let (mut buffer, mut received) = (vec![0; 256 * 1024], 0);
            loop {
                match to.read(&mut buffer)? {
                    0 => return Ok(received),
                    length => received += length,
                }
            }
        });
        let buffer = vec![0; 256 * 1024];
        let mut rest = bytes;
        while rest > 0 {
            let length = rest.min(buffer.len());
            from.write_all(&buffer[..length])?;
            rest -= length;
        }
        drop(from);
        let received = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?.context("cannot receive")?;
        ensure!(received == bytes, "{received} of {bytes} bytes arrived");
        Ok(())
    })?;
    Ok(started.elapsed().as_secs_f64())
}
