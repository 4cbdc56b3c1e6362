//! Whoever speaks to an agent, or is spoken to in the place of one, holds nobody up.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netloss_contract::{Cause, ExitCode};
use netloss_lab_guest::{Agent, Pod, Way};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::commands::{command, stopped};
use crate::{BACKENDS, assert_no_loss};

const NAME: &str = "netloss-agent";

/// What a pod's own programs can do to its agent's socket.
fn crowd(pod: &Pod, clients: usize) -> Result<Vec<UnixStream>> {
    pod.pod.run(|| {
        let address = SocketAddr::from_abstract_name(NAME)?;
        let mut crowd = Vec::new();
        for number in 0..clients {
            let mut client = UnixStream::connect_addr(&address)?;
            // Those that were let go do not take it.
            drop(match number % 4 {
                0 => Ok(()),
                1 => client.write_all(&[b'x'; 512]),
                2 => client.write_all(b"{\"request\":"),
                _ => client.write_all(b"{\"request\":\"status\"}\n"),
            });
            crowd.push(client);
        }
        Ok(crowd)
    })
}

#[test]
fn hundreds_of_clients_do_not_delay_a_stop() -> Result<()> {
    for backend in BACKENDS {
        let pod = Pod::new()?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --run uid/1 --backend {backend}"))?;
        agent.applied()?;
        let crowd = crowd(&pod, 400)?;
        let stopped = stopped(command(&pod, "stop --run uid/1")?).context(backend)?;
        ensure!(stopped.exit == Some(ExitCode::Done), "{backend}: {stopped:?}");
        ensure!(agent.finish()?.removed()?.cause == Cause::Stopped, "{backend}: it ended otherwise");
        drop(crowd);
        assert_no_loss(pod.send(Way::Out, 500)?)?;
    }
    Ok(())
}

#[test]
fn hundreds_of_clients_do_not_delay_a_signal() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = Agent::start(&pod.pod, "run --loss 30 --ttl 1h")?;
    agent.applied()?;
    let crowd = crowd(&pod, 400)?;
    agent.signal(Signal::SIGTERM)?;
    ensure!(agent.finish()?.removed()?.cause == Cause::Sigterm);
    drop(crowd);
    Ok(())
}

/// Holds the name in the pod, with a queue that is short.
fn hold(pod: &Pod) -> Result<UnixListener> {
    pod.pod.sysctl("net/core/somaxconn", "4")?;
    pod.pod.run(|| Ok(UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)?))
}

/// Fills the queue of whoever holds the name and accepts nobody.
pub(crate) fn fill(pod: &Pod) -> Result<Vec<std::os::fd::OwnedFd>> {
    pod.pod.run(|| {
        let mut waiting = Vec::new();
        loop {
            let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
            match connect(stream.as_raw_fd(), &UnixAddr::new_abstract(NAME.as_bytes())?) {
                Ok(()) => waiting.push(stream),
                Err(Errno::EAGAIN) => return Ok(waiting),
                Err(error) => return Err(error.into()),
            }
        }
    })
}

/// What each command says of a holder that does not answer.
fn gives_up(pod: &Pod) -> Result<()> {
    for arguments in ["status", "stop", "cleanup", "plan --loss 1 --ttl 1m"] {
        command(pod, arguments)?.failed(ExitCode::Unresponsive).context(arguments)?;
    }
    command(pod, "run --loss 1 --ttl 1m")?.failed(ExitCode::AlreadyRunning).map(drop)
}

#[test]
fn a_holder_that_accepts_nobody_is_given_up() -> Result<()> {
    let pod = Pod::new()?;
    let holder = hold(&pod)?;
    gives_up(&pod).context("with room in its queue")?;
    let waiting = fill(&pod)?;
    gives_up(&pod).context("with a full queue")?;
    // What it may still bring it cannot be told to leave.
    command(&pod, "cleanup --force")?.failed(ExitCode::Unresponsive)?;
    drop((waiting, holder));
    Ok(())
}

/// Whatever is waited for: a signal ends that.
#[test]
fn a_signal_ends_the_waiting_for_a_full_queue() -> Result<()> {
    let pod = Pod::new()?;
    let holder = hold(&pod)?;
    let waiting = fill(&pod)?;
    for arguments in ["run --loss 1 --ttl 1m", "stop --timeout 1h", "status --watch"] {
        let mut agent = Agent::start(&pod.pod, &format!("{arguments} --json"))?;
        // It waits by now, or has the signal before it does.
        thread::sleep(Duration::from_millis(500));
        agent.signal(Signal::SIGTERM)?;
        let end = agent.finish()?;
        ensure!(end.code.is_some_and(|code| code != 0), "{arguments}: {end:?}");
    }
    drop((waiting, holder));
    Ok(())
}

/// Lets `answer` speak to whoever comes, as long as the test goes on.
fn answering(pod: &Pod, answer: impl Fn(UnixStream) + Send + Sync + 'static) -> Result<()> {
    let holder = hold(pod)?;
    thread::spawn(move || {
        let answer = &answer;
        thread::scope(|scope| {
            for client in holder.incoming().flatten() {
                scope.spawn(move || answer(client));
            }
        });
    });
    Ok(())
}

/// What went with its connection nobody reads, whether it was read or not.
#[test]
fn a_request_that_was_hung_up_on_counts_as_told_by_nobody() -> Result<()> {
    for reads in [true, false] {
        let pod = Pod::new()?;
        answering(&pod, move |mut client| {
            if reads {
                drop(client.read(&mut [0; 64]));
            } else {
                // Until it is there: closing what was not read is a reset.
                drop(client.set_nonblocking(true));
                while client.peer_addr().is_ok()
                    && nix::sys::socket::recv(client.as_raw_fd(), &mut [0; 1], nix::sys::socket::MsgFlags::MSG_PEEK).is_err()
                {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        })?;
        let failed = command(&pod, "stop --run R1")?.failed(ExitCode::Unresponsive)?;
        ensure!(!failed.message.contains("told to end"), "reads: {reads}: {failed:?}");
    }
    Ok(())
}

/// Each of these bytes comes in time, and the line never does.
#[test]
fn a_holder_that_answers_byte_by_byte_is_given_up() -> Result<()> {
    let pod = Pod::new()?;
    answering(&pod, |mut client| {
        while client.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_secs(1));
        }
    })?;
    gives_up(&pod)
}

/// What a pod's program says in the place of an agent comes to a terminal as text alone.
#[test]
fn what_a_holder_says_drives_no_terminal() -> Result<()> {
    let pod = Pod::new()?;
    answering(&pod, |mut client| {
        drop(client.read(&mut [0; 64]));
        let failed = r#"{"schema":1,"time":"2026-11-24T12:00:00Z","event":"failed","stage":"hold","exit":"otherRun","message":"\u001b[2J\u009b31mMESSAGE\nLINE\u202e"}"#;
        drop(client.write_all(format!("{failed}\n").as_bytes()));
    })?;
    for arguments in ["stop", "status", "stop --json", "status --json"] {
        let output = pod.pod.run(|| Ok(std::process::Command::new("/usr/bin/netloss-agent").args(arguments.split(' ')).output()?))?;
        let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        ensure!(said.contains("MESSAGE LINE"), "{arguments}: {said:?}");
        ensure!(!said.trim_end_matches('\n').contains(netloss_contract::is_unprintable), "{arguments}: {said:?}");
    }
    Ok(())
}
