//! `plan` and `check`: what would be, said before, and nothing changed.

use anyhow::{Context, Result, bail, ensure};
use netloss_contract::{Applied, Backend, Checked, Event, ExitCode, Planned, Verdict};
use netloss_lab_guest::{Agent, End, NamespaceState, Pod};
use nix::sys::signal::Signal;

use crate::BACKENDS;

fn plan(pod: &Pod, arguments: &str) -> Result<Planned> {
    match Agent::start(&pod.pod, &format!("plan {arguments} --json"))?.finish()? {
        End { code: Some(0), last: Some(Event::Planned(planned)), .. } => Ok(*planned),
        other => bail!("no plan: {other:?}"),
    }
}

fn check(pod: &Pod) -> Result<(ExitCode, Checked)> {
    match Agent::start(&pod.pod, "check --json")?.finish()? {
        End { code: Some(code), last: Some(Event::Checked(checked)), .. } => {
            Ok((ExitCode::from_code(code).context("no exit code of the agent")?, checked))
        }
        other => bail!("nothing checked: {other:?}"),
    }
}

/// What is found under that name.
fn verdict(checked: &Checked, what: &str) -> Result<Verdict> {
    Ok(checked.findings.iter().find(|finding| finding.what == what).context("no such finding")?.verdict)
}

#[test]
fn a_run_does_what_was_planned() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let before = NamespaceState::of(&pod.pod)?;
        let arguments = format!("--loss 10 --correlation 25 --ttl 1h --backend {backend}");
        let planned = plan(&pod, &arguments)?;
        before.assert_unchanged(&pod.pod)?;
        // By the kernel's formula, as docs/AGENT.md has it.
        ensure!(planned.predicted.is_some_and(|predicted| predicted.loss_percentage < 2.0) && planned.warnings.len() == 1, "{planned:?}");
        let words = |word: &str| planned.steps.iter().any(|step| step.contains(word));
        ensure!(words("add the netem qdisc 7a12: to eth0") && words("nl-in"), "{planned:?}");
        ensure!(words("nftables") == (planned.backend == Backend::Guarded), "{planned:?}");

        let mut agent = Agent::start(&pod.pod, &format!("run {arguments}"))?;
        let Applied { interface, backend, guard, asked, predicted, .. } = agent.applied()?;
        let done = (interface, backend, guard, asked, predicted);
        ensure!(done == (planned.interface, planned.backend, planned.guard, planned.asked, planned.predicted), "{done:?}");
    }
    Ok(())
}

#[test]
fn what_a_run_refuses_a_plan_refuses() -> Result<()> {
    let pod = Pod::new()?;
    let plan =
        |arguments: &str, exit| Agent::start(&pod.pod, &format!("plan --loss 10 --ttl 1h {arguments} --json"))?.finish()?.failed(exit);
    plan("--interface eth7", ExitCode::Refused)?;
    plan("--deadline 2020-01-01T00:00:00Z", ExitCode::DeadlinePassed)?;
    plan("--backend tc --per-segment", ExitCode::Usage)?;
    let mut agent = Agent::start(&pod.pod, "run --loss 10 --ttl 1h --run uid/1")?;
    agent.applied()?;
    let failed = plan("", ExitCode::AlreadyRunning)?;
    ensure!(failed.holder.is_some() && failed.message.contains("uid/1"), "{failed:?}");
    drop(agent);
    pod.pod.tc("qdisc replace dev eth0 root handle 1: pfifo")?;
    plan("", ExitCode::Refused)?;
    Ok(())
}

/// What the kernel lacks cannot be taken from it here, so that is what the unit tests have; a host without sch_netem is what they were
/// compared with.
#[test]
fn a_check_finds_what_is_there_and_changes_nothing() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let (exit, checked) = check(&pod)?;
    ensure!(exit == ExitCode::Done && checked.verdict != Verdict::Bad, "{checked:?}");
    for what in ["capability", "agent", "namespace", "interface", "root qdisc", "netem", "prio", "ifb", "tbf"] {
        ensure!(verdict(&checked, what)? == Verdict::Good, "{what}: {checked:?}");
    }
    before.assert_unchanged(&pod.pod)?;

    let mut agent = Agent::start(&pod.pod, "run --loss 10 --ttl 1h --backend tc")?;
    agent.applied()?;
    let (exit, checked) = check(&pod)?;
    ensure!(exit == ExitCode::AlreadyRunning && verdict(&checked, "agent")? == Verdict::Bad, "{checked:?}");
    agent.signal(Signal::SIGKILL)?;
    agent.finish()?;
    let (exit, checked) = check(&pod)?;
    ensure!(exit == ExitCode::Done && verdict(&checked, "leftovers")? == Verdict::Warning, "{checked:?}");
    Agent::start(&pod.pod, "cleanup --json")?.finish()?;
    before.assert_unchanged(&pod.pod)?;

    pod.pod.tc("qdisc replace dev eth0 root handle 1: pfifo")?;
    let (exit, checked) = check(&pod)?;
    ensure!(exit == ExitCode::Refused && verdict(&checked, "root qdisc")? == Verdict::Bad, "{checked:?}");
    Ok(())
}
