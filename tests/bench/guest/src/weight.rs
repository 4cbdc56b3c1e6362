//! What a program costs while its loss is in place.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netloss_lab_guest::Pod;

use super::hand_over;
use super::programs::{Directions, Program, Running, kibibytes};
use super::recording::per_heartbeat;
use super::start::SHELL;
use crate::result::{Bound, Comparison};

pub(super) const GUARDED: &str = "agent, guarded";
pub(super) const TC: &str = "agent, tc";

/// Four heartbeats of the agent, ten renewals of its lease.
const WINDOW: Duration = Duration::from_secs(20);

pub(super) fn measure(times: u32) -> Result<()> {
    let programs = [(SHELL, Program::Shell), (GUARDED, Program::Agent("guarded")), (TC, Program::Agent("tc"))];
    let mut running = Vec::new();
    for (name, program) in &programs {
        let pod = Pod::new()?;
        running.push((*name, program.start(&pod, Directions::Both)?, pod));
    }
    let mut times_used = vec![Vec::new(); running.len()];
    for _ in 0..times {
        let before = running.iter().map(|(_, running, _)| processor_time(running)).collect::<Result<Vec<_>>>()?;
        let started = Instant::now();
        sleep(WINDOW);
        for (((_, running, _), before), used) in running.iter().zip(before).zip(&mut times_used) {
            let used_here = processor_time(running)?.saturating_sub(before);
            used.push(used_here.as_secs_f64() * 1e3 * 60.0 / started.elapsed().as_secs_f64());
        }
    }
    let (mut resident, mut own) = (Comparison::new("resident", "MiB"), Comparison::new("of that its own", "MiB"));
    let mut time = Comparison::new("processor time in a minute", "ms");
    for ((name, running, _), used) in running.iter().zip(times_used) {
        resident = resident.variant(*name, vec![mebibytes(running, "VmRSS:")?]);
        own = own.variant(*name, vec![mebibytes(running, "RssAnon:")?]);
        time = time.variant(*name, used);
    }
    let (most, guard) = (Bound::AtMost(2.5), Some(Bound::AtMost(3.0)));
    hand_over(&resident.value(GUARDED, most, guard).value(TC, most, guard))?;
    hand_over(&own)?;
    hand_over(&time)?;
    for (_, running, _pod) in running {
        running.stop()?;
    }
    let mut calls = Comparison::new("system calls for a heartbeat (5 s)", "");
    for (name, program) in &programs[1..] {
        calls = calls.variant(*name, vec![per_heartbeat(program, Directions::Both, 4)?]);
    }
    hand_over(&calls.undrawn())
}

/// Of a program and its children.
fn processes(running: &Running) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid())).context("it is gone")?;
    Ok(std::iter::once(running.pid()).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect())
}

fn mebibytes(running: &Running, name: &str) -> Result<f64> {
    let all = processes(running)?.into_iter().map(|process| kibibytes(process, name)).collect::<Result<Vec<_>>>()?;
    Ok(all.iter().sum::<f64>() / 1024.0)
}

/// Of all its threads, to the nanosecond (the first number of `schedstat`).
fn processor_time(running: &Running) -> Result<Duration> {
    let mut nanoseconds = 0;
    for process in processes(running)? {
        for thread in fs::read_dir(format!("/proc/{process}/task")).context("it is gone")? {
            let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += statistics.split(' ').next().context("no time")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}
