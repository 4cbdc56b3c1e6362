//! The models of loss: what they lose, in which bursts, and the same again with a seed.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use netloss_contract::{ExitCode, LossModel, LossPercentage, LossVerdict, Share, Traffic};
use netloss_lab_guest::{Agent, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, kernel_is_at_least, repeats};

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

/// The loss of a model is what is predicted of the integers that netem is given, but for one run of a correct kernel in a million.
fn check_predicted(model: &str) -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, &format!("run --model {model} --direction egress --ttl 1h"))?;
    let expected = agent.applied()?.asked.model.expectation();
    let counted = pod.send(Way::Out, 20_000)?;
    let verdict = expected.judge(counted.sent.into(), counted.lost.into());
    ensure!(verdict == LossVerdict::Consistent, "{model}: {counted:?}, expected {expected:?}: {verdict:?}");
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

/// P31 and P32 are 2³² together as tc rounds them, which the kernel adds to 0: a burst was never left, and 82 % were lost.
#[test]
fn probabilities_of_100_percent_together_lose_what_is_predicted() -> Result<()> {
    check_predicted("state 1 90 10 50 0")?;
    check_predicted("state 90 50 30 50 10")
}

/// What a model lost of packets that nobody waits for, as the agent's last report has it.
fn lost_of(pod: &Pod, model: &str, packets: u32) -> Result<(LossModel, Traffic)> {
    let mut agent = Agent::start(&pod.pod, &format!("run {model} --direction egress --ttl 1h"))?;
    let asked = agent.applied()?.asked.model;
    pod.pod.run(|| {
        let socket = UdpSocket::bind("192.0.2.1:0").context("cannot open a socket")?;
        (0..packets).try_for_each(|_| socket.send_to(&[0], "192.0.2.2:9").map(drop).context("cannot send"))
    })?;
    agent.signal(Signal::SIGTERM)?;
    let traffic = agent.finish()?.removed()?.traffic.egress.context("no figures of egress")?;
    ensure!((u64::from(packets)..u64::from(packets) + 10).contains(&traffic.packets), "{packets} packets were sent: {traffic:?}");
    Ok((asked, traffic))
}

fn check_lost(pod: &Pod, model: &str, packets: u32) -> Result<LossVerdict> {
    let (asked, traffic) = lost_of(pod, model, packets)?;
    let verdict = asked.expectation().judge(traffic.packets, traffic.dropped);
    println!("{model}: {:?} of {} lost, {:?}: {verdict:?}", traffic.dropped, traffic.packets, asked.expectation());
    ensure!(
        !matches!(verdict, LossVerdict::Below | LossVerdict::Above),
        "{model}: {traffic:?}, expected {:?}: {verdict:?}",
        asked.expectation()
    );
    Ok(verdict)
}

/// Probabilities at their bounds, sums of exactly 100, and integers of one unit.
#[test]
fn the_corners_of_each_model_lose_what_is_predicted() -> Result<()> {
    let pod = Pod::new()?;
    pod.silence()?;
    for model in [
        "--loss 100",
        "--loss 0.00000002",
        "--loss 100 --correlation 50",
        "--loss 45 --correlation 90",
        "--loss 50 --model gilbert --burst 1",
        "--loss 90 --model gilbert --burst 10",
        "--model gemodel 100 100",
        "--model gemodel 0 50 100 5",
        "--model gemodel 100 0",
        "--model gemodel 100 100 0 100",
        "--model state 0 0 0 0 100",
        "--model state 100 100 0 0 0",
        "--model state 100 0 0 0 0",
        "--model state 50 50 50 100 50",
        "--model state 100 0 100 100 0",
        "--model state 90 0 0 0 10",
        "--model state 99 1 99 99 1",
    ] {
        check_lost(&pod, model, 3000)?;
    }
    Ok(())
}

/// Random parameters by a seed. `NETLOSS_MODELS` says how many sets of each model; `NETLOSS_SEED` which.
#[test]
fn random_parameters_lose_what_is_predicted() -> Result<()> {
    const PACKETS: u32 = 5000;
    let (sets, mut state) = (repeats("NETLOSS_MODELS", 2)?, u64::from(repeats("NETLOSS_SEED", 1)?));
    // splitmix64, as a share of 1.
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    // Often a bound, or a small one; and what is left to 100 of another.
    let mut percent = move |most: f64| match random() * 6.0 {
        kind if kind < 1.0 => most,
        kind if kind < 2.0 => 0.0,
        kind if kind < 3.0 => most * random().powi(4),
        _ => most * random(),
    };
    let pod = Pod::new()?;
    pod.silence()?;
    let mut told = 0;
    for kind in 0..4 {
        let mut done = 0;
        while done < sets {
            let mut share = |most: f64| Share::try_from(percent(most));
            let model = match kind {
                0 => {
                    let (loss, correlation) = (share(100.0)?.percent(), share(90.0)?.percent());
                    let Ok(loss_percentage) = LossPercentage::try_from(loss) else { continue };
                    LossModel::Random { loss_percentage, correlation: correlation.try_into()? }
                }
                1 => {
                    let (loss, burst) = (share(100.0)?.percent(), 1.0 + share(20.0)?.percent());
                    let Ok(loss_percentage) = LossPercentage::try_from(loss) else { continue };
                    LossModel::Gilbert { loss_percentage, mean_burst: burst.try_into()? }
                }
                2 => LossModel::Gemodel { p: share(100.0)?, r: share(100.0)?, h: share(100.0)?, k: share(100.0)? },
                _ => {
                    let (p13, p31) = (share(100.0)?, share(100.0)?);
                    let (p32, p14) = (share(100.0 - p31.percent())?, share(100.0 - p13.percent())?);
                    LossModel::State { p13, p31, p32, p23: share(100.0)?, p14 }
                }
            };
            if model.check().is_err() {
                continue;
            }
            let expected = model.expectation();
            // Few events are not normal, and a chain that hardly moves has not come to its long run.
            let events = f64::from(PACKETS) * expected.percentage() / 100.0 / expected.variance_inflation().max(1.0);
            if events < 100.0 || expected.variance_inflation() > 20.0 {
                continue;
            }
            told += u32::from(check_lost(&pod, &model.to_argv().join(" "), PACKETS)? == LossVerdict::Consistent);
            done += 1;
        }
    }
    println!("{told} of {} sets had enough packets", 4 * sets);
    ensure!(told > 2 * sets, "{told} of {} sets had enough packets", 4 * sets);
    Ok(())
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
