//! What a packet costs that meets a loss which loses (nearly) nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{Pod, Way};

use super::hand_over;
use super::programs::{AGENT, start};
use crate::result::{Bound, Comparison};

const PACKETS: u32 = 10_000;
const BYTES: usize = 20_000_000;

const TC: &str = "tc";
const GUARDED: &str = "guarded";
const FILTERED: &str = "guarded, 100 filters";

/// One packet in a million: none at all is no loss, which the agent does not take.
const LOSS: &str = "0.0001";

pub(super) fn measure(times: u32) -> Result<()> {
    let agent = |more: &str| format!("{AGENT} run --loss {LOSS} --ttl 10h --heartbeat 1h {more}");
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
        let figure = |pod: &Pod| if is_udp { udp(pod, way) } else { tcp(pod, way) };
        let samples = alternately(&pods.iter().map(|(pod, _)| pod).collect::<Vec<_>>(), times, figure)?;
        let comparison = Comparison::new(what, unit);
        let comparison = variants.iter().zip(samples).fold(comparison, |all, ((name, _), samples)| all.variant(*name, samples));
        hand_over(&comparison.ratio(GUARDED, TC, Bound::AtLeast(0.95), None))?;
    }
    for (_, running) in pods {
        running.map(super::programs::Running::stop).transpose()?;
    }
    parts(times)
}

/// What of the cost of a packet that is sent under the guard is whose: the same parts, put there by tc and nft, one or two at a time.
fn parts(times: u32) -> Result<()> {
    let netem = |parent: &str| format!("qdisc add dev eth0 {parent} netem loss {LOSS}%");
    let root = [netem("root")];
    let under_prio =
        ["qdisc add dev eth0 root handle 7a11: prio bands 4 priomap 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3".to_owned(), netem("parent 7a11:4")];
    let hook = |rule: &str| {
        format!(
            "table netdev parts {{ set lease {{ type ifname; flags timeout; elements = {{ \"eth0\" timeout 10h }}; }}; \
             chain eg {{ type filter hook egress device \"eth0\" priority 2147483647; {rule} }}; }}"
        )
    };
    let (empty, rule) = (hook(""), hook("oifname @lease counter meta priority set 7a11:4 ;"));
    let variants: [(&str, &[String], Option<&str>); 5] = [
        ("netem", &root, None),
        ("under a prio", &under_prio, None),
        ("and an egress hook without a rule", &root, Some(&empty)),
        ("and one with the guard's rule", &root, Some(&rule)),
        ("all of it", &under_prio, Some(&rule)),
    ];
    println!("UDP packets sent, by the parts of the guard");
    let mut pods = Vec::new();
    for (_, qdiscs, ruleset) in &variants {
        let pod = Pod::new()?;
        for qdisc in *qdiscs {
            pod.pod.tc(qdisc)?;
        }
        ruleset.map(|ruleset| pod.pod.nft(ruleset)).transpose()?;
        pods.push(pod);
    }
    let samples = alternately(&pods.iter().collect::<Vec<_>>(), times, |pod| udp(pod, Way::Out))?;
    let comparison = Comparison::new("UDP packets sent, by the parts of the guard", "thousands a second").undrawn();
    let comparison = variants.iter().zip(samples).fold(comparison, |all, ((name, ..), samples)| all.variant(*name, samples));
    hand_over(&comparison)
}

/// Measures each pod in turn, so many times. The first time is for warming up.
fn alternately(pods: &[&Pod], times: u32, figure: impl Fn(&Pod) -> Result<f64>) -> Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::new(); pods.len()];
    for time in 0..=times {
        for (pod, samples) in pods.iter().zip(&mut samples) {
            let figure = figure(pod)?;
            if time > 0 {
                samples.push(figure);
            }
        }
    }
    Ok(samples)
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
