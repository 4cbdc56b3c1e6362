//! What can go wrong around an agent, and must not keep the loss.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use netloss_contract::{Cause, Event};
use netloss_lab_guest::{Agent, Cgroup, NamespaceState, PATIENCE, Pod, Way};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::Pid;

use crate::{BACKENDS, assert_loss, assert_no_loss, machine_alone, repeats};

/// An agent with a standard output of the test's own.
fn start(pod: &Pod, arguments: &str, stdout: Stdio) -> Result<Child> {
    let mut command = Command::new("/usr/bin/netloss-agent");
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).stdout(stdout);
    pod.pod.run(|| Ok(command.spawn()?))
}

/// Waits until it has applied the loss, as nobody hears of it.
fn wait_for_the_loss(pod: &Pod) -> Result<()> {
    let started = std::time::Instant::now();
    while started.elapsed() < PATIENCE {
        let last = Agent::start(&pod.pod, "status --json")?.finish()?.last;
        if matches!(last, Some(Event::Status(status)) if status.applied.is_some()) {
            return Ok(());
        }
    }
    anyhow::bail!("the agent never applied the loss")
}

#[test]
fn nobody_reads_and_nobody_listens() -> Result<()> {
    for backend in BACKENDS {
        for closed in [true, false] {
            check_deaf(backend, closed).with_context(|| format!("{backend}, closed: {closed}"))?;
        }
    }
    Ok(())
}

/// Standard output is a pipe that is closed at the other end, or full.
fn check_deaf(backend: &str, closed: bool) -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let (reader, mut writer) = std::io::pipe()?;
    let reader = (!closed).then_some(reader);
    if !closed {
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        while writer.write(&[b'x'; 512]).is_ok() {}
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::empty()))?;
    }
    let arguments = format!("run --loss 30 --ttl 1h --heartbeat 1s --backend {backend}");
    let mut agent = start(&pod, &arguments, writer.into())?;
    wait_for_the_loss(&pod)?;
    assert_loss(pod.send(Way::Out, 1000)?, 30.0)?;
    kill(Pid::from_raw(agent.id().try_into()?), Signal::SIGTERM)?;
    ensure!(agent.wait()?.success(), "the agent did not end well");
    drop(reader);
    assert_no_loss(pod.send(Way::Out, 500)?)?;
    before.assert_unchanged(&pod.pod)
}

/// Outside of Kubernetes nobody has made the file for the last words, and nobody gets one.
#[test]
fn without_a_termination_log_none_is_made() -> Result<()> {
    const FILE: &str = "/dev/termination-log";
    let _machine = machine_alone();
    drop(std::fs::remove_file(FILE));
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --ttl 1s")?;
    agent.finish()?.removed()?;
    ensure!(!std::path::Path::new(FILE).exists(), "{FILE} was made");
    Ok(())
}

/// Moves the wall clock by so many seconds.
fn step(seconds: i64) -> Result<()> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    clock_settime(ClockId::CLOCK_REALTIME, now + TimeSpec::new(seconds, 0)).context("cannot set the clock")
}

#[test]
fn a_clock_that_is_set_past_the_deadline_ends_the_loss() -> Result<()> {
    const HOUR: i64 = 3600;
    let _machine = machine_alone();
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let before = NamespaceState::of(&pod.pod)?;
        let deadline = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(HOUR))?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 5h --deadline {deadline} --backend {backend}"))?;
        agent.applied()?;
        step(HOUR)?;
        let end = agent.finish();
        step(-HOUR)?;
        let removed = end?.removed()?;
        ensure!(removed.cause == Cause::Deadline && removed.elapsed_seconds < 600.0, "{removed:?}");
        before.assert_unchanged(&pod.pod).context(backend)?;
    }
    Ok(())
}

#[test]
fn a_clock_that_is_set_back_makes_no_ttl_longer() -> Result<()> {
    const HOUR: i64 = 3600;
    let _machine = machine_alone();
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 2s --backend {backend}"))?;
        agent.applied()?;
        step(-HOUR)?;
        let end = agent.finish();
        step(HOUR)?;
        let removed = end?.removed()?;
        ensure!(removed.cause == Cause::Ttl && removed.elapsed_seconds < 600.0, "{removed:?}");
    }
    Ok(())
}

/// The limits of a pod that has hardly anything left.
#[test]
fn sixteen_mebibytes_are_enough() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let before = NamespaceState::of(&pod.pod)?;
        let cgroup = Cgroup::new()?;
        cgroup.set("memory.max", "16M")?;
        let mut shell = Command::new("/bin/sh");
        let enter = format!("echo 0 > {}; exec /usr/bin/netloss-agent run --loss 30 --ttl 1h --backend {backend}", cgroup.procs());
        let mut agent = pod.pod.run(|| Ok(shell.args(["-c", &enter]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))?;
        wait_for_the_loss(&pod)?;
        kill(Pid::from_raw(agent.id().try_into()?), Signal::SIGTERM)?;
        ensure!(agent.wait()?.success() && cgroup.get("memory.events", "oom_kill ")? == 0, "{backend}: it was not enough");
        before.assert_unchanged(&pod.pod)?;
    }
    Ok(())
}

/// What is looked up and reported at a heartbeat is what a status answers, so it need not be waited for. `NETLOSS_BEATS` says how many;
/// the first of them fill buffers. 10 000 that leaked seven bytes each would be seen.
#[test]
fn heartbeats_take_no_memory() -> Result<()> {
    const WARM: u32 = 50;
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 24h --heartbeat 1h --backend {backend}"))?;
        agent.applied()?;
        let beats = |number: u32| (0..number).try_for_each(|_| agent.ask());
        beats(WARM)?;
        let before = kibibytes(agent.pid(), "RssAnon:")?;
        beats(repeats("NETLOSS_BEATS", 200)?)?;
        let after = kibibytes(agent.pid(), "RssAnon:")?;
        let resident = kibibytes(agent.pid(), "VmRSS:")?;
        println!("{backend}: {before} KiB of its own after {WARM} heartbeats, {after} KiB at the end; {resident} KiB resident");
        ensure!(after < before + 64 && resident < 3 * 1024, "{backend}: {before} KiB, later {after} KiB, resident {resident} KiB");
        agent.signal(Signal::SIGTERM)?;
        agent.finish()?.removed()?;
    }
    Ok(())
}

/// A figure of a process, in KiB (proc_pid_status(5)).
fn kibibytes(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A hundredth of a processor, as a throttled pod has it, is enough to keep the lease; and if it were not, the loss would end and the report say so.
#[test]
fn a_throttled_agent_keeps_its_lease_or_says_so() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 50 --ttl 1h --heartbeat 5s")?;
    agent.applied()?;
    let cgroup = Cgroup::new()?;
    cgroup.set("cpu.max", "10000 1000000")?;
    cgroup.add(agent.pid())?;
    // Longer than a lease.
    let beat = agent.heartbeat(|beat| beat.elapsed_seconds > 15.0);
    cgroup.set("cpu.max", "max")?;
    let Ok(beat) = beat else {
        let removed = agent.finish()?.removed()?;
        ensure!(removed.cause == Cause::LeaseExpired && removed.kept.is_some_and(|kept| kept.lapses > 0), "the end hides it");
        return Ok(());
    };
    let kept = beat.kept.context("no account")?;
    ensure!(kept.lapses == 0 && !kept.degraded, "{kept:?} of {} s", beat.elapsed_seconds);
    assert_loss(pod.send(Way::Out, 500)?, 50.0)?;
    agent.signal(Signal::SIGTERM)?;
    agent.finish()?.removed()?;
    Ok(())
}

/// A container that is paused cannot renew: the loss ends, and the report does not hide it.
#[test]
fn a_frozen_agents_lapse_is_counted() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = Agent::start(&pod.pod, "run --loss 50 --ttl 1h --heartbeat 1s")?;
    agent.applied()?;
    let cgroup = Cgroup::new()?;
    cgroup.add(agent.pid())?;
    cgroup.set("cgroup.freeze", "1")?;
    let started = std::time::Instant::now();
    // By chance, 200 packets pass half a loss once in 10^60 times.
    while pod.send(Way::Out, 200)?.lost > 0 {
        ensure!(started.elapsed() < PATIENCE, "the lease never lapsed");
    }
    cgroup.set("cgroup.freeze", "0")?;
    let removed = agent.finish()?.removed()?;
    ensure!(removed.cause == Cause::LeaseExpired, "{removed:?}");
    let kept = removed.kept.context("no account")?;
    ensure!(kept.lapses > 0 && kept.armed_seconds <= removed.elapsed_seconds + 0.001, "{kept:?} of {} s", removed.elapsed_seconds);
    before.assert_unchanged(&pod.pod)
}
