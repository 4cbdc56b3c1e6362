//! The models of loss: what they lose, in which bursts, and the same again with a seed.

use anyhow::{Context, Result, ensure};
use netloss_contract::{ExitCode, LossModel};
use netloss_lab::guest::{Agent, Pod, Way};

use crate::{BACKENDS, kernel_is_at_least};

/// 4.9 standard deviations: a normal value is further out once in a million times.
const DEVIATIONS: f64 = 4.9;

/// A rate and a mean length of bursts, both checked so that a correct kernel fails once in a million runs.
///
/// Of a two-state chain the variance of the mean is π(1−π)/n · (1+λ)/(1−λ), with λ = 1 − p − r. A burst's length is geometric, with the
/// variance B(B−1), and the number of packets is chosen so that 4.9 standard deviations of its mean are a tenth of it.
fn check_gilbert(backend: &str, way: Way, percent: f64, burst: f64) -> Result<()> {
    let loss = percent / 100.0;
    let bursts = (10.0 * DEVIATIONS).powi(2) * (burst - 1.0) / burst;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let packets = (bursts * burst / loss).ceil() as u32;

    let pod = Pod::new()?;
    let direction = if way == Way::Out { "egress" } else { "ingress" };
    let arguments = format!("run --model gilbert --loss {percent} --burst {burst} --direction {direction} --ttl 1h --backend {backend}");
    let mut agent = Agent::start(&pod.pod, &arguments)?;
    let applied = agent.applied()?;
    let predicted = applied.predicted.context("no prediction")?;
    ensure!((predicted.loss_percentage - percent).abs() < 1e-9 && predicted.mean_burst == Some(burst), "{predicted:?}");

    let trace = pod.trace(way, packets)?;
    let dropped = trace.iter().filter(|arrived| !**arrived).count() as f64;
    let begun = trace.windows(2).filter(|pair| pair[0] && !pair[1]).count() as f64;
    let (p, r) = (loss / (1.0 - loss) / burst, 1.0 / burst);
    let lambda = 1.0 - p - r;
    let deviation = (loss * (1.0 - loss) / f64::from(packets) * (1.0 + lambda) / (1.0 - lambda)).sqrt();
    let (rate, mean) = (dropped / f64::from(packets), dropped / begun);
    println!("{backend} {direction} {percent} % in bursts of {burst}: {:.3} % in bursts of {mean:.3}, of {packets} packets", 100.0 * rate);
    ensure!((rate - loss).abs() < DEVIATIONS * deviation, "{:.3} % lost of {packets} packets", 100.0 * rate);
    ensure!((mean - burst).abs() < burst / 10.0, "{mean:.3} packets lost in a row, and not {burst}");
    Ok(())
}

#[test]
fn gilbert_5_in_bursts_of_4() -> Result<()> {
    check_gilbert("guarded", Way::Out, 5.0, 4.0)
}

#[test]
fn gilbert_10_in_bursts_of_8() -> Result<()> {
    check_gilbert("tc", Way::In, 10.0, 8.0)
}

#[test]
fn gilbert_20_in_bursts_of_3() -> Result<()> {
    BACKENDS
        .into_iter()
        .try_for_each(|backend| [Way::Out, Way::In].into_iter().try_for_each(|way| check_gilbert(backend, way, 20.0, 3.0).context(backend)))
}

/// Their predictions are those of the formulas, and the kernel's loss is that of the predictions. Bursts make the mean spread more than
/// independent losses do: eight times as much is more than these chains can.
fn check_predicted(model: &str) -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, &format!("run --model {model} --direction egress --ttl 1h"))?;
    let predicted = agent.applied()?.predicted.context("no prediction")?.loss_percentage / 100.0;
    let counted = pod.send(Way::Out, 20_000)?;
    let rate = f64::from(counted.lost) / f64::from(counted.sent);
    let deviation = (8.0 * predicted * (1.0 - predicted) / f64::from(counted.sent)).sqrt();
    ensure!((rate - predicted).abs() < DEVIATIONS * deviation, "{model}: {rate} lost, {predicted} predicted");
    Ok(())
}

#[test]
fn gemodel_loses_what_is_predicted() -> Result<()> {
    check_predicted("gemodel 5 40 70 1")
}

#[test]
fn state_loses_what_is_predicted() -> Result<()> {
    check_predicted("state 5 40 30 50 2")
}

#[test]
fn correlated_loss_is_predicted_and_warned_of() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --correlation 25 --direction egress --ttl 1h")?;
    let applied = agent.applied()?;
    let predicted = applied.predicted.context("no prediction")?.loss_percentage / 100.0;
    ensure!(applied.warnings.iter().any(|warning| warning.contains("30 % asked")), "{:?}", applied.warnings);
    let counted = pod.send(Way::Out, 20_000)?;
    let rate = f64::from(counted.lost) / f64::from(counted.sent);
    // Correlation of the numbers makes the mean spread more: by (1+c)/(1-c) at most.
    let deviation = (predicted * (1.0 - predicted) / f64::from(counted.sent) * 1.25 / 0.75).sqrt();
    ensure!((rate - predicted).abs() < DEVIATIONS * deviation, "{rate} lost, {predicted} predicted");
    Ok(())
}

/// The same seed loses the same packets, another one others; a kernel without seeds says so and keeps nothing.
#[test]
fn a_seed_loses_the_same_packets_again() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        pod.silence()?;
        let mut traces = Vec::new();
        for seed in [7, 7, 8] {
            let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --seed {seed} --ttl 1h --backend {backend}"))?;
            // netem has had seeds since Linux 6.7.
            if !kernel_is_at_least(6, 7)? {
                let failed = agent.finish()?.failed(ExitCode::Unsupported)?;
                ensure!(failed.message.contains("--seed") && failed.left.is_empty(), "{failed:?}");
                return Ok(());
            }
            let applied = agent.applied()?;
            ensure!(applied.asked.seed == Some(seed) && matches!(applied.asked.model, LossModel::Random { .. }), "{applied:?}");
            traces.push([pod.trace(Way::Out, 1000)?, pod.trace(Way::In, 1000)?]);
            agent.signal(nix::sys::signal::Signal::SIGTERM)?;
            agent.finish()?.removed()?;
        }
        ensure!(traces[0] == traces[1], "{backend}: the same seed lost other packets");
        ensure!(traces[0][0] != traces[2][0] && traces[0][1] != traces[2][1], "{backend}: another seed lost the same packets");
        ensure!(traces[0][0] != traces[0][1], "{backend}: both directions lose in step");
    }
    Ok(())
}
