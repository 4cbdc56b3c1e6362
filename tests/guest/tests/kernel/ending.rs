//! The loss ends: by time, by signal, at once, and completely. The agent is the first process of a pid namespace here, as in a
//! container, where a signal without a handler is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netloss_contract::{Cause, Event, ExitCode, Record};
use netloss_lab_guest::{Agent, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, assert_no_loss, machine};

/// Runs until `end` has made the agent end, then looks for remains, in packets and in the kernel's objects.
fn check(ttl: &str, cause: Cause, end: impl Fn(&Agent) -> Result<()>) -> Result<()> {
    BACKENDS.into_iter().try_for_each(|backend| check_with(backend, ttl, cause, &end).context(backend))
}

fn check_with(backend: &str, ttl: &str, cause: Cause, end: &impl Fn(&Agent) -> Result<()>) -> Result<()> {
    let _machine = machine();
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let mut agent = Agent::start_in_container(&pod.pod, &format!("run --loss 30 --ttl {ttl} --backend {backend}"))?;
    agent.applied()?;
    end(&agent)?;
    let ended = agent.finish()?;
    let last_words = Record::from_line(&ended.termination_message).map(|record| record.event);
    ensure!(last_words == ended.last, "the termination message differs from the last line: {ended:?}");
    let removed = ended.removed()?;
    ensure!(removed.cause == cause && removed.drift.is_empty(), "{removed:?}");
    assert_no_loss(pod.send(Way::Out, 1000)?)?;
    assert_no_loss(pod.send(Way::In, 1000)?)?;
    before.assert_unchanged(&pod.pod)
}

#[test]
fn after_the_ttl_nothing_is_lost() -> Result<()> {
    check("1s", Cause::Ttl, |_| Ok(()))
}

#[test]
fn after_sigterm_nothing_is_lost() -> Result<()> {
    check("1h", Cause::Sigterm, |agent| agent.signal(Signal::SIGTERM))
}

#[test]
fn after_sigint_nothing_is_lost() -> Result<()> {
    check("1h", Cause::Sigint, |agent| agent.signal(Signal::SIGINT))
}

#[test]
fn after_sighup_nothing_is_lost() -> Result<()> {
    check("1h", Cause::Sighup, |agent| agent.signal(Signal::SIGHUP))
}

#[test]
fn after_sigquit_nothing_is_lost() -> Result<()> {
    check("1h", Cause::Sigquit, |agent| agent.signal(Signal::SIGQUIT))
}

#[test]
fn impatient_signals_change_nothing() -> Result<()> {
    check("1h", Cause::Sigterm, |agent| (0..10).try_for_each(|_| agent.signal(Signal::SIGTERM)))
}

/// A deadline that comes before the ttl ends the loss.
#[test]
fn after_the_deadline_nothing_is_lost() -> Result<()> {
    let _machine = machine();
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    // How long a guest takes to start the agent is not known: the deadline is moved on until the agent meets it.
    for seconds in [3, 10, 30, 60] {
        let deadline = at(seconds)?;
        let end = Agent::start_in_container(&pod.pod, &format!("run --loss 30 --ttl 1h --deadline {deadline}"))?.finish()?;
        if matches!(&end.last, Some(Event::Failed(failed)) if failed.exit == ExitCode::DeadlinePassed) {
            continue;
        }
        let removed = end.removed()?;
        ensure!(removed.cause == Cause::Deadline, "{removed:?}");
        assert_no_loss(pod.send(Way::Out, 1000)?)?;
        return before.assert_unchanged(&pod.pod);
    }
    anyhow::bail!("the agent never started before its deadline")
}

#[test]
fn a_deadline_in_the_past_changes_nothing() -> Result<()> {
    let _machine = machine();
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let deadline = at(-1)?;
    let end = Agent::start_in_container(&pod.pod, &format!("run --loss 30 --ttl 1h --deadline {deadline}"))?.finish()?;
    let failed = end.failed(ExitCode::DeadlinePassed)?;
    ensure!(failed.left.is_empty() && failed.message.contains("deadline"), "{failed:?}");
    before.assert_unchanged(&pod.pod)
}

/// A signal that comes while the agent is being executed finds it at another point each time. Before its handlers are in place the
/// kernel drops it (which is no fault of a first process), and the ttl ends the loss; from then on the signal does.
#[test]
fn a_signal_at_any_moment_of_the_start_ends_it_cleanly() -> Result<()> {
    let _machine = machine();
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    for attempt in 0..20 {
        let mut agent = Agent::start_in_container(&pod.pod, "run --loss 30 --ttl 1s")?;
        // Nothing is waited for: this only spreads the moments over what a start takes here, some 300 ms.
        std::thread::sleep(Duration::from_millis(20) * attempt);
        agent.signal(Signal::SIGTERM)?;
        let end = agent.finish()?;
        ensure!(end.code == Some(0), "attempt {attempt}: {end:?}");
    }
    assert_no_loss(pod.send(Way::Out, 1000)?)?;
    before.assert_unchanged(&pod.pod)
}

/// The time so many seconds from now, as RFC 3339 has it.
fn at(seconds: i64) -> Result<jiff::Timestamp> {
    Ok(jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(seconds))?)
}
