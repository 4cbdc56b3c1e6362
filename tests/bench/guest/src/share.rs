//! Where the time of the agent's start goes: it, less and less of it, down to a program that does nothing.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::Pod;

use super::hand_over;
use super::programs::AGENT;
use super::start::milliseconds;
use crate::result::Comparison;

/// What is run, from its start to its end, in a pod without a loss.
const STEPS: [(&str, &[&str]); 5] = [
    ("true", &["/usr/bin/true"]),
    ("tc -V", &["/usr/bin/tc", "-V"]),
    ("agent --version", &[AGENT, "--version"]),
    ("agent status", &[AGENT, "status", "--json"]),
    ("agent plan", &[AGENT, "plan", "--loss", "10", "--ttl", "1h", "--json"]),
];

pub(super) fn measure(times: u32) -> Result<()> {
    let pod = Pod::new()?;
    let mut samples = vec![Vec::new(); STEPS.len()];
    for time in 0..=times {
        for ((_, line), samples) in STEPS.iter().zip(&mut samples) {
            let mut command = Command::new(line[0]);
            command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null());
            let took = pod.pod.run(|| {
                let started = Instant::now();
                let status = command.status().with_context(|| format!("cannot start {}", line[0]))?;
                ensure!(status.success(), "{} ended with {status}", line[0]);
                Ok(started.elapsed())
            })?;
            if time > 0 {
                samples.push(milliseconds(took));
            }
        }
    }
    let comparison = Comparison::new("from its start to its end", "ms");
    let comparison = STEPS.iter().zip(samples).fold(comparison, |all, ((name, _), samples)| all.variant(*name, samples));
    hand_over(&comparison)
}
