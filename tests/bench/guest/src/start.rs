//! From the start of a program until its loss is in place, from SIGTERM until it is gone, and until the program is.

use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result};
use netloss_lab_guest::Pod;

use super::hand_over;
use super::programs::{Directions, Program};
use super::recording::{Recording, record};
use crate::result::{Bound, Comparison};

pub(super) const SHELL: &str = "sh + iproute2";
const GUARDED: &str = "agent, guarded";
const TC: &str = "agent, tc";
const FLOORS: [&str; 2] = ["floor of guarded", "floor of tc"];

/// What is wanted of the agent by the shell's time, and by that of its own messages.
const WANTED: [(Directions, Bound, Bound); 2] =
    [(Directions::Egress, Bound::AtMost(0.5), Bound::AtMost(0.6)), (Directions::Both, Bound::AtMost(0.25), Bound::AtMost(0.4))];
/// Why more than that is done.
const MORE_THAN_THE_FLOOR: &str = "1.5 × the floor. The floor knows beforehand what it has to send, and looks at no answer. The agent loads more code, \
     reads its command line, chooses the interface from what the kernel shows, decides, compares what it set with what is there, and reports it. \
     What each of these takes is below.";
/// Which nobody waits for: the kernel frees the tables meanwhile.
const TO_ITS_END: &str = "SIGTERM to its end";
const WANTED_OF_FLOOR: Bound = Bound::AtMost(1.5);
const GUARD_OF_FLOOR: Bound = Bound::AtMost(2.5);

pub(super) fn measure(times: u32) -> Result<()> {
    for (directions, wanted, guard) in WANTED {
        let words = if directions == Directions::Both { "both directions" } else { "egress" };
        println!("{words}: recording");
        let recordings = [Program::Agent("guarded"), Program::Agent("tc"), Program::Shell].map(|program| record(&program, directions));
        let [guarded, tc, shell] = recordings;
        let (guarded, tc, shell) = (guarded.context("guarded")?, tc.context("tc")?, shell.context("the shell")?);
        let mut variants = vec![(SHELL, Program::Shell), (GUARDED, Program::Agent("guarded")), (TC, Program::Agent("tc"))];
        for (name, recording) in FLOORS.into_iter().zip([&guarded, &tc]) {
            let file = format!("/tmp/{}-{words}", name.replace(' ', "-"));
            fs::write(&file, &recording.datagrams)?;
            variants.push((name, Program::Floor(file)));
        }
        let mut samples: Vec<[Vec<f64>; 3]> = vec![Default::default(); variants.len()];
        for time in 0..=times {
            println!("{words}: {time} of {times}");
            for ((_, program), samples) in variants.iter().zip(&mut samples) {
                let pod = Pod::new()?;
                thread::sleep(phase(time));
                let running = program.start(&pod, directions)?;
                let applied = running.applied;
                thread::sleep(phase(time));
                let [clean, ended] = running.stop()?;
                // The first round loads modules and files.
                if time > 0 {
                    for (samples, took) in samples.iter_mut().zip([applied, clean, ended]) {
                        samples.push(milliseconds(took));
                    }
                }
            }
        }
        for (place, what) in ["start to applied", "SIGTERM to clean", TO_ITS_END].into_iter().enumerate() {
            let mut comparison = Comparison::new(format!("{words}, {what}"), "ms");
            for ((name, _), samples) in variants.iter().zip(&mut samples) {
                comparison = comparison.variant(*name, std::mem::take(&mut samples[place]));
            }
            let goals = [GUARDED, TC].into_iter().zip(FLOORS).filter(|_| what != TO_ITS_END);
            for (agent, floor) in goals {
                comparison = comparison.ratio(agent, SHELL, wanted, Some(guard)).ratio(agent, floor, WANTED_OF_FLOOR, Some(GUARD_OF_FLOOR));
                comparison = comparison.because(MORE_THAN_THE_FLOOR);
            }
            hand_over(&comparison)?;
        }
        let counted = ["system calls", "netlink round trips"];
        for (place, what) in ["start to applied", TO_ITS_END].into_iter().enumerate() {
            for (which, unit) in counted.into_iter().enumerate() {
                let of = |recording: &Recording| vec![f64::from(recording.stages[place].counts()[which])];
                let comparison = Comparison::new(format!("{words}, {what}"), unit).variant(SHELL, of(&shell));
                let mut comparison = comparison.variant(GUARDED, of(&guarded)).variant(TC, of(&tc)).undrawn();
                if which == 0 {
                    // The same each time, but for a packet that comes in between.
                    comparison = comparison.ratio(GUARDED, SHELL, wanted, Some(guard)).ratio(TC, SHELL, wanted, Some(guard));
                }
                hand_over(&comparison)?;
            }
        }
    }
    Ok(())
}

/// A pause by which samples begin all over the kernel's ticks, of up to 10 ms: what waits for a tick would wait equally long each time.
fn phase(time: u32) -> Duration {
    const TICK: u32 = 10_000;
    const GOLDEN: u32 = 6_180;
    Duration::from_micros(u64::from(time * GOLDEN % TICK))
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    // To the microsecond, which is finer than an emulated machine can tell.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
