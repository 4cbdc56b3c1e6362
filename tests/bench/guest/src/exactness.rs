//! What is lost, held against what was asked for.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use netloss_contract::{Event, Record};
use netloss_lab_guest::{Pod, Way};

use super::datapath::transfer;
use super::hand_over;
use super::programs::{AGENT, Running, start};
use crate::result::{Bound, Comparison};

const AGENTS: &str = "agent, guarded";
const TC: &str = "iproute2";

const RATES: [f64; 5] = [0.1, 1.0, 5.0, 10.0, 40.0];
/// Where the processors have something else to do.
const RATES_LOADED: [f64; 2] = [1.0, 10.0];
const BURST: f64 = 4.0;

/// Of a TCP segment without options, on an MTU of 1500.
const SEGMENT: usize = 1448;

/// Half as wide as an interval that 99 of 100 normal values are in, in standard deviations.
const DEVIATIONS: f64 = 2.576;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Model {
    Random,
    Correlated(f64),
    Gilbert,
}

impl Model {
    fn words(self) -> String {
        match self {
            Self::Random => "random".to_owned(),
            Self::Correlated(percent) => format!("random, correlation {percent} %"),
            Self::Gilbert => format!("gilbert, bursts of {BURST}"),
        }
    }

    fn of_agent(self, rate: f64) -> String {
        match self {
            Self::Random => format!("--loss {rate}"),
            Self::Correlated(percent) => format!("--loss {rate} --correlation {percent}"),
            Self::Gilbert => format!("--model gilbert --loss {rate} --burst {BURST}"),
        }
    }

    fn of_tc(self, rate: f64) -> String {
        match self {
            Self::Random => format!("loss {rate}%"),
            Self::Correlated(percent) => format!("loss {rate}% {percent}%"),
            Self::Gilbert => {
                let [p, r] = chain(rate);
                format!("loss gemodel {}% {}%", p * 100.0, r * 100.0)
            }
        }
    }

    /// What 99 of 100 correct runs lose, in percent.
    fn interval(self, rate: f64, packets: f64) -> Bound {
        let loss = rate / 100.0;
        let spread = match self {
            Self::Gilbert => {
                let [p, r] = chain(rate);
                let lambda = 1.0 - p - r;
                (1.0 + lambda) / (1.0 - lambda)
            }
            _ => 1.0,
        };
        let half = DEVIATIONS * (loss * (1.0 - loss) / packets * spread).sqrt();
        Bound::Within((loss - half).max(0.0) * 100.0, (loss + half) * 100.0)
    }
}

/// Into the bad state, and out of it.
fn chain(rate: f64) -> [f64; 2] {
    let loss = rate / 100.0;
    [loss / (1.0 - loss) / BURST, 1.0 / BURST]
}

/// Keeps the processors busy until it is dropped.
struct Load(Vec<Child>);

impl Load {
    fn begin(processes: u32) -> Result<Self> {
        let spin = |_| Command::new("/usr/bin/sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Ok(Self((0..processes).map(spin).collect::<Result<_, _>>()?))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

pub(super) fn measure(packets: u32) -> Result<()> {
    for loaded in [false, true] {
        let when = if loaded { ", loaded" } else { "" };
        let load = Load::begin(if loaded { 2 } else { 0 })?;
        let mut models = vec![Model::Random, Model::Gilbert];
        models.extend((!loaded).then_some(Model::Correlated(25.0)));
        for model in models {
            for way in [Way::Out, Way::In] {
                let rates = if loaded { RATES_LOADED.as_slice() } else { &RATES };
                for &rate in rates {
                    println!("{model:?} {way:?} {rate}{when}");
                    let [ours, theirs] = [agents(model, way, rate, packets)?, tcs(model, way, rate, packets)?];
                    let what = format!("{rate} % {}, {}{when}", model.words(), direction(way));
                    let comparison = Comparison::new(what, "% lost").variant(AGENTS, vec![ours]).variant(TC, vec![theirs]).undrawn();
                    let wanted = model.interval(rate, f64::from(packets));
                    hand_over(&if matches!(model, Model::Correlated(_)) {
                        comparison
                    } else {
                        comparison.value(AGENTS, wanted, None).because(CHANCE).value(TC, wanted, None).because(CHANCE)
                    })?;
                }
            }
        }
        for way in [Way::Out, Way::In] {
            for rate in [0.1, 1.0] {
                println!("TCP {way:?} {rate}{when}");
                let what = format!("{rate} % random, TCP, {}{when}", direction(way));
                let mut comparison = Comparison::new(what, "% lost").undrawn();
                for (name, more) in [("--per-segment", " --per-segment"), ("without it", "")] {
                    let (observed, met) = tcp(way, rate, more, packets)?;
                    comparison = comparison.variant(name, vec![observed]);
                    if !more.is_empty() {
                        comparison = comparison.value(name, Model::Random.interval(rate, met), None).because(CHANCE);
                    }
                }
                hand_over(&comparison)?;
            }
        }
        drop(load);
    }
    Ok(())
}

const CHANCE: &str = "a correct kernel is outside of a 99 % interval once in a hundred times, and these are very many intervals.";

fn direction(way: Way) -> &'static str {
    if way == Way::Out { "egress" } else { "ingress" }
}

fn percent_lost(pod: &Pod, way: Way, packets: u32) -> Result<f64> {
    let counted = pod.send(way, packets)?;
    Ok(f64::from(counted.lost) / f64::from(counted.sent) * 100.0)
}

fn agent(pod: &Pod, way: Way, arguments: &str) -> Result<Running> {
    let line = format!("{AGENT} run --backend guarded --ttl 10h --heartbeat 1h --direction {} {arguments}", direction(way));
    start(pod, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

fn agents(model: Model, way: Way, rate: f64, packets: u32) -> Result<f64> {
    let pod = Pod::new()?;
    let running = agent(&pod, way, &model.of_agent(rate))?;
    let lost = percent_lost(&pod, way, packets)?;
    running.stop()?;
    Ok(lost)
}

fn tcs(model: Model, way: Way, rate: f64, packets: u32) -> Result<f64> {
    let pod = Pod::new()?;
    let device = match way {
        Way::Out => "eth0",
        Way::In => {
            pod.pod.ip_batch("link add ifb-loss type ifb\nlink set ifb-loss up\n")?;
            pod.pod.tc("qdisc add dev eth0 handle ffff: ingress")?;
            let redirect = "action mirred egress redirect dev ifb-loss";
            pod.pod.tc(&format!("filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 {redirect}"))?;
            "ifb-loss"
        }
    };
    pod.pod.tc(&format!("qdisc add dev {device} root netem limit 10000 {}", model.of_tc(rate)))?;
    percent_lost(&pod, way, packets)
}

/// What the agent's report says of a transfer of so many segments: the observed percentage, and of how many packets.
fn tcp(way: Way, rate: f64, more: &str, segments: u32) -> Result<(f64, f64)> {
    let pod = Pod::new()?;
    let mut running = agent(&pod, way, &format!("--loss {rate}{more}"))?;
    transfer(&pod, way, segments as usize * SEGMENT)?;
    running.terminate()?;
    let line = running.line()?;
    let record = Record::from_line(line.trim_end()).with_context(|| format!("no record: {line}"))?;
    running.end()?;
    let Event::Removed(removed) = record.event else { anyhow::bail!("it did not end well: {line}") };
    let traffic = if way == Way::Out { removed.traffic.egress } else { removed.traffic.ingress };
    let traffic = traffic.context("no figures")?;
    ensure!(traffic.packets > 0, "no packets were seen");
    Ok((traffic.dropped as f64 / traffic.packets as f64 * 100.0, traffic.packets as f64))
}
