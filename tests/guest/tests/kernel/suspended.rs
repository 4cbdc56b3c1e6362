//! An agent that was stopped, frozen or starved for any time, and runs again at any moment, never acts on what is over.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netloss_contract::{Cause, Event, ExitCode, Removed};
use netloss_lab_guest::{Agent, Cgroup, NamespaceState, PATIENCE, Pod, Way};
use nix::sys::signal::Signal;

use crate::commands::{cleaned, command};
use crate::sockets::fill;
use crate::{BACKENDS, assert_no_loss, kernel_is_at_least, machine};

/// How an agent is kept from running, and let run again.
enum Sleep {
    Stopped,
    Frozen(Cgroup),
}

impl Sleep {
    fn both() -> Result<[Self; 2]> {
        Ok([Self::Stopped, Self::Frozen(Cgroup::new()?)])
    }

    fn begin(&self, agent: &Agent) -> Result<()> {
        match self {
            Self::Stopped => agent.signal(Signal::SIGSTOP),
            Self::Frozen(cgroup) => {
                cgroup.add(agent.pid())?;
                cgroup.set("cgroup.freeze", "1")?;
                let started = Instant::now();
                while cgroup.get("cgroup.events", "frozen ")? == 0 {
                    ensure!(started.elapsed() < PATIENCE, "it is never frozen");
                }
                Ok(())
            }
        }
    }

    fn end(&self, agent: &Agent) -> Result<()> {
        match self {
            Self::Stopped => agent.signal(Signal::SIGCONT),
            Self::Frozen(cgroup) => cgroup.set("cgroup.freeze", "0"),
        }
    }
}

fn start(pod: &Pod, backend: &str) -> Result<Agent> {
    let mut agent = Agent::start(&pod.pod, &format!("run --loss 100 --ttl 3m --heartbeat 1s --run R1 --backend {backend}"))?;
    agent.applied()?;
    Ok(agent)
}

/// Waits until packets pass.
fn wait_for_the_lease(pod: &Pod) -> Result<()> {
    pod.send(Way::Out, 0)?;
    pod.send(Way::In, 0).map(drop)
}

/// Packets that the kernel itself may drop while a root qdisc goes (docs/AGENT.md), far fewer than a resumed loss would take.
const OF_THE_QDISC: u32 = 1000;

/// Lets it run again, and sends all the while: of a loss of everything, a moment of it would be seen in what is received.
fn wake(pod: &Pod, agent: &Agent, sleep: &Sleep) -> Result<()> {
    thread::scope(|scope| {
        let sent = [Way::Out, Way::In].map(|way| scope.spawn(move || pod.send(way, 20_000)));
        thread::sleep(Duration::from_millis(50));
        sleep.end(agent)?;
        let [sent, received] = sent.map(|thread| thread.join().map_err(|_| anyhow::anyhow!("sending panicked")));
        assert_no_loss(received??).context("as it woke up")?;
        let sent = sent??;
        ensure!(sent.lost < OF_THE_QDISC, "as it woke up: {sent:?}");
        Ok(())
    })
}

fn removed(pod: &Pod, agent: &mut Agent) -> Result<Removed> {
    let removed = agent.finish()?.removed()?;
    assert_no_loss(pod.send(Way::Out, 500)?)?;
    assert_no_loss(pod.send(Way::In, 500)?)?;
    Ok(removed)
}

/// The lease has run out, somebody has cleaned up and said so, and the loss is to have lasted for minutes more.
#[test]
fn a_lease_that_ran_out_is_not_renewed() -> Result<()> {
    for sleep in Sleep::both()? {
        let pod = Pod::new()?;
        let before = NamespaceState::of(&pod.pod)?;
        let mut agent = start(&pod, "guarded")?;
        sleep.begin(&agent)?;
        wait_for_the_lease(&pod)?;
        let what = cleaned(command(&pod, "cleanup --force --run R1")?)?;
        ensure!(!what.is_empty(), "an agent that can run again is nothing to clean up");
        wake(&pod, &agent, &sleep)?;
        let removed = removed(&pod, &mut agent)?;
        ensure!(removed.cause == Cause::LeaseExpired, "{removed:?}");
        let kept = removed.kept.context("no account")?;
        ensure!(kept.lapses == 1 && kept.armed_seconds <= removed.elapsed_seconds + 0.001, "{kept:?} of {} s", removed.elapsed_seconds);
        before.assert_unchanged(&pod.pod)?;
    }
    Ok(())
}

/// Nobody else has to be there: who slept longer than its lease ends.
#[test]
fn a_sleeper_ends_by_itself() -> Result<()> {
    for sleep in Sleep::both()? {
        let pod = Pod::new()?;
        let mut agent = start(&pod, "guarded")?;
        sleep.begin(&agent)?;
        wait_for_the_lease(&pod)?;
        wake(&pod, &agent, &sleep)?;
        ensure!(removed(&pod, &mut agent)?.cause == Cause::LeaseExpired);
    }
    Ok(())
}

/// A cleanup that says that it is done has waited until the kernel has ended the loss, however short the agent has been away.
#[test]
fn a_forced_cleanup_waits_for_the_lease() -> Result<()> {
    for backend in BACKENDS {
        for sleep in Sleep::both()? {
            let pod = Pod::new()?;
            let before = NamespaceState::of(&pod.pod)?;
            let mut agent = start(&pod, backend)?;
            sleep.begin(&agent)?;
            let what = cleaned(command(&pod, "cleanup --force --run R1")?)?;
            ensure!(!what.is_empty(), "{backend}: nothing was cleaned up");
            assert_no_loss(pod.send(Way::Out, 500)?).context(backend)?;
            assert_no_loss(pod.send(Way::In, 500)?).context(backend)?;
            wake(&pod, &agent, &sleep).context(backend)?;
            let removed = removed(&pod, &mut agent)?;
            // It may see first that what leads to the ifb is gone.
            ensure!([Cause::LeaseExpired, Cause::Stopped, Cause::Drift].contains(&removed.cause), "{removed:?}");
            ensure!(removed.repaired.is_empty(), "{removed:?}");
            before.assert_unchanged(&pod.pod).context(backend)?;
        }
    }
    Ok(())
}

/// A stop that finds nobody awake waits in the socket.
#[test]
fn a_stop_is_heard_when_the_agent_runs_again() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let before = NamespaceState::of(&pod.pod)?;
        let mut agent = start(&pod, backend)?;
        agent.signal(Signal::SIGSTOP)?;
        let failed = command(&pod, "stop --run other")?.failed(ExitCode::Unresponsive)?;
        ensure!(failed.message.contains("told to end"), "{failed:?}");
        let failed = command(&pod, "stop --run R1")?.failed(ExitCode::Unresponsive)?;
        ensure!(failed.message.contains("told to end"), "{failed:?}");
        agent.signal(Signal::SIGCONT)?;
        let removed = removed(&pod, &mut agent)?;
        // Both stops together take as long as a lease.
        let causes = if backend == "tc" { [Cause::Stopped; 2] } else { [Cause::Stopped, Cause::LeaseExpired] };
        ensure!(causes.contains(&removed.cause), "{backend}: {removed:?}");
        before.assert_unchanged(&pod.pod).context(backend)?;
    }
    Ok(())
}

/// However many others have come to its socket since.
#[test]
fn a_stop_is_read_though_the_socket_is_flooded() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 100 --ttl 25s --heartbeat 1s --run R1 --backend {backend}"))?;
        agent.applied()?;
        agent.signal(Signal::SIGSTOP)?;
        let failed = command(&pod, "stop --run R1")?.failed(ExitCode::Unresponsive)?;
        ensure!(failed.message.contains("told to end"), "{failed:?}");
        let crowd = pod.pod.run(|| {
            let address = SocketAddr::from_abstract_name("netloss-agent")?;
            Ok((0..100).map(|_| UnixStream::connect_addr(&address)).collect::<std::io::Result<Vec<_>>>()?)
        })?;
        agent.signal(Signal::SIGCONT)?;
        let removed = removed(&pod, &mut agent)?;
        // On a slow machine the stop takes as long as a lease.
        let expired = backend == "guarded" && removed.cause == Cause::LeaseExpired;
        ensure!(expired || removed.cause == Cause::Stopped, "{backend}: {removed:?}");
        drop(crowd);
    }
    Ok(())
}

/// Whether all threads of a process are stopped: what one asked of the kernel before is done by then.
fn is_stopped(pid: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that has just ended is no obstacle.
        let status = std::fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        if !status.is_empty() && !status.contains("State:\tT") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Starts an agent and stops it as soon as its namespace is as it is to be; with another one, where it has come too far by then.
fn stopped_while(pod: &Pod, arguments: &str, is_so: impl Fn(&Pod) -> bool) -> Result<Agent> {
    // Nothing is waited for: this only spreads the moments over what a start takes here, which is ten times as long where other guests take the processors.
    let moments = [10, 30, 100].into_iter().flat_map(|step| (0..30).map(move |number| Duration::from_millis(step) * number));
    for moment in moments {
        let mut agent = Agent::start(&pod.pod, arguments)?;
        thread::sleep(moment);
        agent.signal(Signal::SIGSTOP)?;
        let started = Instant::now();
        while !is_stopped(agent.pid())? {
            ensure!(started.elapsed() < PATIENCE, "it is never stopped");
        }
        if is_so(pod) {
            return Ok(agent);
        }
        agent.signal(Signal::SIGKILL)?;
        agent.finish()?;
        cleaned(command(pod, "cleanup")?)?;
    }
    anyhow::bail!("no agent was stopped at that point")
}

/// Whether a guard's tables are there and lose nothing yet.
fn has_tables_without_a_lease(pod: &Pod) -> bool {
    pod.pod.words("nft", "list set netdev netloss lease").is_ok_and(|set| !set.contains("eth0"))
}

/// It was stopped between making its tables and its first lease, and cannot be told to end. Whoever says that it cannot resume its loss is right.
#[test]
fn an_agent_that_was_stopped_before_its_first_lease_loses_nothing() -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.sysctl("net/core/somaxconn", "4")?;
    let mut agent = stopped_while(&pod, "run --loss 100 --ttl 30s --run R1 --backend guarded", has_tables_without_a_lease)?;
    let waiting = fill(&pod)?;
    let said = command(&pod, "cleanup --force --run R1")?;
    if kernel_is_at_least(5, 12)? {
        let what = cleaned(said)?;
        ensure!(what.iter().any(|words| words.contains("cannot resume") && !words.contains("told")), "{what:?}");
    } else {
        said.failed(ExitCode::Unresponsive)?;
        thread::sleep(Duration::from_secs(11));
    }
    wake(&pod, &agent, &Sleep::Stopped)?;
    let end = agent.finish()?;
    let never = matches!(&end.last, Some(Event::Failed(failed)) if failed.message.contains("not armed within") && failed.left.is_empty());
    // A thread stops when its system call has ended. Where that took longer than a lease, the first one had come and gone when the tables were looked at.
    let ran_out = matches!(&end.last, Some(Event::Removed(removed)) if removed.cause == Cause::LeaseExpired);
    ensure!(never || ran_out, "{end:?}");
    drop(waiting);
    assert_no_loss(pod.send(Way::Out, 500)?)?;
    assert_no_loss(pod.send(Way::In, 500)?)
}

/// Packets may be lost from the first step on, so the ttl counts from there.
#[test]
fn the_ttl_of_plain_tc_begins_before_its_first_step() -> Result<()> {
    let _machine = machine();
    let pod = Pod::new()?;
    let has_begun = |pod: &Pod| {
        let begun = pod.pod.words("ip", "link show dev nl-in").is_ok();
        begun && pod.pod.words("tc", "qdisc show dev eth0").is_ok_and(|qdiscs| !qdiscs.contains("netem"))
    };
    let mut agent = stopped_while(&pod, "run --loss 30 --ttl 1h --backend tc", has_begun)?;
    let stopped = jiff::Timestamp::now();
    thread::sleep(Duration::from_secs(1));
    agent.signal(Signal::SIGCONT)?;
    let applied = agent.applied()?;
    let latest = stopped.checked_add(jiff::SignedDuration::from_hours(1))?;
    ensure!(applied.ends_at <= latest, "ends at {}, and had begun by {stopped}", applied.ends_at);
    agent.signal(Signal::SIGTERM)?;
    agent.finish()?.removed().map(drop)
}

/// Stopped at some point of its start, it finds its deadline behind it when it goes on.
#[test]
fn a_start_that_slept_past_its_deadline_loses_nothing() -> Result<()> {
    let _machine = machine();
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    for attempt in 0..6 {
        let deadline = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(3))?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 100 --ttl 1h --deadline {deadline} --backend guarded"))?;
        // Nothing is waited for: this only spreads the moments over what a start takes here.
        thread::sleep(Duration::from_millis(60) * attempt);
        agent.signal(Signal::SIGSTOP)?;
        let limit = Instant::now() + PATIENCE;
        // The guard's last lease and the time to arm it end with the deadline.
        while jiff::Timestamp::now() < deadline.checked_add(jiff::SignedDuration::from_secs(1))? {
            ensure!(Instant::now() < limit, "the clock stands still");
            thread::sleep(Duration::from_millis(100));
        }
        wait_for_the_lease(&pod)?;
        wake(&pod, &agent, &Sleep::Stopped).with_context(|| format!("attempt {attempt}"))?;
        let end = agent.finish()?;
        let late = matches!(&end.last, Some(Event::Failed(failed)) if failed.exit == ExitCode::DeadlinePassed);
        let over = matches!(&end.last, Some(Event::Removed(removed)) if [Cause::Deadline, Cause::LeaseExpired].contains(&removed.cause));
        ensure!(late || over, "attempt {attempt}: {end:?}");
        before.assert_unchanged(&pod.pod)?;
    }
    Ok(())
}

/// Renewals leave no gap, over several of them.
#[test]
fn a_lease_that_is_renewed_loses_everything() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = start(&pod, "guarded")?;
    let trace = thread::scope(|scope| {
        // Then markers, until one gets through.
        let sent = scope.spawn(|| pod.trace(Way::Out, 2_000));
        // Longer than a lease.
        let beat = agent.heartbeat(|beat| beat.elapsed_seconds > 12.0)?;
        ensure!(!sent.is_finished() && beat.kept.is_some_and(|kept| kept.lapses == 0), "something got through");
        agent.signal(Signal::SIGTERM)?;
        sent.join().map_err(|_| anyhow::anyhow!("sending panicked"))?
    })?;
    ensure!(trace.iter().skip_while(|arrived| !**arrived).all(|arrived| *arrived), "something got through");
    agent.finish()?.removed()?;
    Ok(())
}
