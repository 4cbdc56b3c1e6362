//! The agent on a real kernel: these tests run as root inside a guest (`cargo lab kernel`), with packets that are really sent.
//!
//! Each test makes a pod of its own. None measures time: what is waited for is an event, and the waits are generous.

mod commands;
mod counting;
mod drift;
mod ending;
mod filters;
mod foreign;
mod guarded;
mod heartbeat;
mod host_network;
mod interface;
mod interface_kinds;
mod interleaving;
mod killed;
mod leftovers;
mod loss;
mod models;
mod plan;
mod policy;
mod restoring;
mod rtnetlink_lock;
mod segments;
mod sockets;
mod stress;
mod suspended;
mod terminal;
mod usage;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::Counted;
use netloss_lab_guest::statistics::acceptable;

/// What the tests of a guest share, three at a time, and few of them change: the clock, and where a container's last words go.
static MACHINE: RwLock<()> = RwLock::new(());

/// For a test that needs the machine to stay as it is.
fn machine() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that changes it.
fn machine_alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Both ways to put the loss into the kernel: what is true of one is true of the other, unless a test says so.
const BACKENDS: [&str; 2] = ["guarded", "tc"];

/// Checks that as many packets were lost as a correct netem loses, but for one run in a million.
fn assert_loss(counted: Counted, percent: f64) -> Result<()> {
    let range = acceptable(counted.sent.into(), percent / 100.0).context("no such probability")?;
    ensure!(range.contains(&counted.lost.into()), "{} of {} packets lost; {percent} % would be {range:?}", counted.lost, counted.sent);
    Ok(())
}

/// Whether the kernel is of that version or a later one.
fn kernel_is_at_least(major: u32, minor: u32) -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().context("the kernel's release has no version")?.context("the kernel's version is no number");
    Ok((next()?, next()?) >= (major, minor))
}

/// How often something is repeated: as the variable says, which is for campaigns, otherwise a few times.
fn repeats(variable: &str, few: u32) -> Result<u32> {
    std::env::var(variable).map_or(Ok(few), |number| number.parse().with_context(|| format!("{variable} is a number, not {number:?}")))
}

/// Checks that nothing was lost at all.
fn assert_no_loss(counted: Counted) -> Result<()> {
    ensure!(counted.lost == 0, "{} of {} packets lost, expected none", counted.lost, counted.sent);
    Ok(())
}
