//! `status`, `stop` and `cleanup`: what a person in the pod, or a controller without a shell there, can do.

use anyhow::{Context, Result, bail, ensure};
use netloss_contract::{Cause, Cleaned, Event, ExitCode, Status, Stopped};
use netloss_lab_documents::Document;
use netloss_lab_guest::{Agent, End, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, assert_loss, assert_no_loss, machine};

pub(crate) fn command(pod: &Pod, arguments: &str) -> Result<End> {
    Agent::start(&pod.pod, &format!("{arguments} --json"))?.finish()
}

pub(crate) fn cleaned(end: End) -> Result<Vec<String>> {
    match end {
        End { code: Some(0), last: Some(Event::Cleaned(Cleaned { removed })), .. } => Ok(removed),
        other => bail!("not cleaned up: {other:?}"),
    }
}

pub(crate) fn stopped(end: End) -> Result<Stopped> {
    match end {
        End { code: Some(0), last: Some(Event::Stopped(stopped)), .. } => Ok(stopped),
        other => bail!("not stopped: {other:?}"),
    }
}

fn status(pod: &Pod) -> Result<Status> {
    match command(pod, "status")? {
        End { code: Some(0), last: Some(Event::Status(status)), .. } => Ok(*status),
        other => bail!("no status: {other:?}"),
    }
}

#[test]
fn status_tells_who_works_and_how_it_goes() -> Result<()> {
    let pod = Pod::new()?;
    ensure!(status(&pod)?.holder.is_none(), "somebody works in an untouched pod");
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --ttl 1h --heartbeat 1h --run uid/1")?;
    let applied = agent.applied()?;
    let counted = pod.send(Way::Out, 1000)?;
    let status = status(&pod)?;
    ensure!(status.holder.and_then(|holder| holder.run).is_some_and(|run| run.as_str() == "uid/1"), "not of the run");
    ensure!(status.applied == Some(applied), "{:?}", status.applied);
    let egress = status.now.and_then(|now| now.traffic.egress).context("no figures")?;
    ensure!(egress.packets >= 1000 && egress.dropped >= counted.lost.into(), "{egress:?}, {counted:?}");
    Ok(())
}

#[test]
fn stop_ends_the_loss_and_waits_for_it() -> Result<()> {
    let _machine = machine();
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let before = NamespaceState::of(&pod.pod)?;
        let mut agent = Agent::start_in_container(&pod.pod, &format!("run --loss 30 --ttl 1h --run uid/1 --backend {backend}"))?;
        agent.applied()?;
        let stopped = stopped(command(&pod, "stop --run uid/1")?)?;
        // Whoever has waited finds the namespace as it was, and free.
        before.assert_unchanged(&pod.pod).context(backend)?;
        ensure!(status(&pod)?.holder.is_none() && stopped.exit == Some(ExitCode::Done), "{stopped:?}");
        assert_no_loss(pod.send(Way::Out, 1000)?)?;
        let removed = agent.finish()?.removed()?;
        ensure!(removed.cause == Cause::Stopped, "{removed:?}");
    }
    Ok(())
}

/// In a user namespace of its own a process has no capability over the pod's network.
#[test]
fn status_and_stop_need_no_capability() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --ttl 1h --run uid/1")?;
    agent.applied()?;
    let powerless = |arguments: &str| {
        let mut command = std::process::Command::new("/usr/bin/unshare");
        command.args(["-U", "/usr/bin/netloss-agent"]).args(arguments.split(' '));
        pod.pod.run(|| Ok(command.output()?))
    };
    let cleanup = powerless("cleanup --run uid/2 --json")?;
    ensure!(cleanup.status.code() == Some(8), "{cleanup:?}");
    let status = powerless("status")?;
    ensure!(status.status.success() && String::from_utf8_lossy(&status.stdout).contains("run uid/1"), "{status:?}");
    let stopped = powerless("stop --run uid/1")?;
    ensure!(stopped.status.success() && String::from_utf8_lossy(&stopped.stdout).contains("stopped: run uid/1"), "{stopped:?}");
    ensure!(agent.finish()?.removed()?.cause == Cause::Stopped);
    // That it was without power: it can bring no loss.
    for arguments in ["run --loss 10 --ttl 1h", "plan --loss 10 --ttl 1h", "cleanup", "check"] {
        let refused = powerless(arguments)?;
        let words = String::from_utf8_lossy(&refused.stdout);
        ensure!(refused.status.code() == Some(i32::from(ExitCode::Unsupported.code())), "{arguments}: {refused:?}");
        ensure!(words.contains("CAP_NET_ADMIN") && words.contains("capabilities.add: [NET_ADMIN]"), "{arguments}: {words}");
    }
    Ok(())
}

#[test]
fn stop_with_nobody_there_is_fine() -> Result<()> {
    let pod = Pod::new()?;
    let stopped = stopped(command(&pod, "stop --run uid/1")?)?;
    ensure!(stopped.holder.is_none() && stopped.exit.is_none(), "{stopped:?}");
    Ok(())
}

#[test]
fn another_run_and_a_passed_deadline_are_left_alone() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --ttl 1h --run uid/2")?;
    agent.applied()?;
    for command_line in ["stop", "cleanup"] {
        let failed = command(&pod, &format!("{command_line} --run uid/1"))?.failed(ExitCode::OtherRun)?;
        ensure!(failed.holder.is_some(), "{failed:?}");
        command(&pod, &format!("{command_line} --deadline 2020-01-01T00:00:00Z"))?.failed(ExitCode::DeadlinePassed)?;
    }
    let failed = command(&pod, "cleanup --run uid/2")?.failed(ExitCode::AlreadyRunning)?;
    ensure!(failed.message.contains("netloss-agent stop"), "{failed:?}");
    assert_loss(pod.send(Way::Out, 4000)?, 30.0)
}

#[test]
fn cleanup_removes_what_a_killed_agent_left_and_then_nothing() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let before = NamespaceState::of(&pod.pod)?;
        ensure!(cleaned(command(&pod, "cleanup")?)?.is_empty(), "something was removed from an untouched pod");
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --backend {backend}"))?;
        agent.applied()?;
        agent.signal(Signal::SIGKILL)?;
        ensure!(agent.finish()?.code.is_none(), "the agent was not killed");
        if backend == "tc" {
            assert_loss(pod.send(Way::Out, 4000)?, 30.0)?;
        }
        ensure!(!cleaned(command(&pod, "cleanup --run uid/1")?)?.is_empty(), "{backend}: nothing was removed");
        before.assert_unchanged(&pod.pod).context(backend)?;
        assert_no_loss(pod.send(Way::Out, 1000)?)?;
        assert_no_loss(pod.send(Way::In, 1000)?)?;
        ensure!(cleaned(command(&pod, "cleanup")?)?.is_empty(), "{backend}: something was left");
    }
    Ok(())
}

/// One that hangs is told from one that works, and forced only where that is safe.
#[test]
fn an_agent_that_hangs_does_not_answer() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --backend {backend}"))?;
        let owned = agent.applied()?.guard.is_some_and(|guard| guard.ends_with_agent);
        agent.signal(Signal::SIGSTOP)?;
        for arguments in ["status", "stop", "cleanup"] {
            command(&pod, arguments)?.failed(ExitCode::Unresponsive).context(arguments)?;
        }
        let removed = cleaned(command(&pod, "cleanup --force")?)?;
        ensure!(removed.iter().any(|words| words.contains("told to end")), "{removed:?}");
        // What a guard still leads to stays, without its lease.
        ensure!(NamespaceState::of(&pod.pod)?.has("link.nl-in") == owned, "{backend}: {removed:?}");
        assert_no_loss(pod.send(Way::Out, 1000)?).context(backend)?;
        assert_no_loss(pod.send(Way::In, 1000)?).context(backend)?;
        agent.signal(Signal::SIGCONT)?;
        let removed = agent.finish()?.removed()?;
        // It may see first that what leads to the ifb is gone.
        ensure!([Cause::Stopped, Cause::LeaseExpired, Cause::Drift].contains(&removed.cause), "{removed:?}");
        assert_no_loss(pod.send(Way::In, 1000)?)?;
    }
    Ok(())
}

/// Who asks slowly, or asks nonsense, delays nobody.
#[test]
fn bad_clients_delay_nobody() -> Result<()> {
    use std::io::Write;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};

    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --ttl 1h")?;
    agent.applied()?;
    let clients = pod.pod.run(|| {
        let address = SocketAddr::from_abstract_name("netloss-agent")?;
        let mut clients = Vec::new();
        for number in 0..30 {
            let mut client = UnixStream::connect_addr(&address)?;
            match number % 3 {
                0 => {}
                1 => client.write_all(&[b'x'; 4000])?,
                _ => client.write_all(b"{\"request\":\"nonsense\"}\n")?,
            }
            clients.push(client);
        }
        Ok(clients)
    })?;
    agent.signal(Signal::SIGTERM)?;
    agent.finish()?.removed()?;
    drop(clients);
    assert_no_loss(pod.send(Way::Out, 1000)?)
}

#[test]
fn a_person_reads_words() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --ttl 1h --run uid/1")?;
    agent.applied()?;
    let words = |arguments: &str| -> Result<String> {
        pod.pod.run(|| {
            Ok(String::from_utf8(std::process::Command::new("/usr/bin/netloss-agent").args(arguments.split(' ')).output()?.stdout)?)
        })
    };
    let status = words("status")?;
    ensure!(status.contains("run uid/1") && status.contains("30 %, both") && status.contains("interface   eth0"), "{status}");
    let stopped = words("stop")?;
    ensure!(stopped.contains("it was asked to stop; nothing of it is left") && stopped.contains("stopped: run uid/1"), "{stopped}");
    let nothing = words("stop")?;
    ensure!(nothing.contains("nothing to stop"), "{nothing}");
    Ok(())
}

/// The commands that docs/AGENT.md has under this name.
fn documented(name: &str) -> Result<String> {
    let page = Document { name: "docs/AGENT.md".into(), text: include_str!("../../../../docs/AGENT.md").into() };
    page.commands(name).with_context(|| format!("no commands are marked {name:?}"))
}

/// The commands that docs/AGENT.md begins with, as they stand there.
#[test]
fn what_a_person_is_told_to_type_works() -> Result<()> {
    let typed = |name| -> Result<Vec<String>> {
        let text = documented(name)?;
        text.lines().map(|line| line.strip_prefix("$ netloss-agent ").map(str::to_owned).context("another program")).collect()
    };
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let succeeds = |arguments: &str| -> Result<()> {
        let end = command(&pod, arguments)?;
        ensure!(end.code == Some(0), "{arguments}: {end:?}");
        Ok(())
    };
    for arguments in typed("agent asked before")? {
        succeeds(&arguments)?;
    }
    let run = typed("agent by hand")?;
    let mut agent = Agent::start(&pod.pod, run.first().context("no command")?)?;
    agent.applied()?;
    for arguments in typed("agent asked meanwhile")? {
        succeeds(&arguments)?;
    }
    ensure!(agent.finish()?.removed()?.cause == Cause::Stopped, "it ended otherwise");
    before.assert_unchanged(&pod.pod)
}

/// A namespace of a machine, by its name.
#[test]
fn a_named_namespace_is_served() -> Result<()> {
    let typed = documented("agent in a namespace")?.replace("NAME", "lossy").replace("--ttl 1m", "--ttl 3s");
    let pod = Pod::new()?;
    pod.pod.name("lossy")?;
    let before = NamespaceState::of(&pod.pod)?;
    // Not by the guest's shell, which has an `ip` of its own.
    let mut words = typed.split_whitespace();
    let output = std::process::Command::new(words.next().context("no command")?).args(words).output()?;
    let [said, complaint] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(output.status.success() && said.contains("\"event\":\"applied\"") && said.contains("\"cause\":\"ttl\""), "{said}\n{complaint}");
    before.assert_unchanged(&pod.pod)
}
