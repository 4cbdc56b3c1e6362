//! `run` on a terminal: words, a line that is written over while it works, and the end on Ctrl-C.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netloss_contract::Event;
use netloss_lab_guest::{Agent, NamespaceState, PATIENCE, Pod, Way};
use nix::mount::{MsFlags, mount};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{BACKENDS, assert_no_loss};

/// A new terminal: its two ends.
fn terminal() -> Result<(File, File)> {
    static MOUNTED: Once = Once::new();
    MOUNTED.call_once(|| {
        // Where it is there already, nothing is lost by a second one.
        drop(std::fs::create_dir_all("/dev/pts"));
        let _ = mount(Some("devpts"), "/dev/pts", Some("devpts"), MsFlags::empty(), Some("ptmxmode=0666"));
    });
    let OpenptyResult { master, slave } = openpty(None, None).context("cannot open a terminal")?;
    Ok((master.into(), slave.into()))
}

#[test]
fn a_person_sees_words_and_a_line_that_goes_on() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let (mut near, far) = terminal()?;
    let mut child = pod.pod.run(|| {
        // As a shell does it: the terminal is that of a session of its own, so that Ctrl-C is a signal.
        let mut command = Command::new("/usr/bin/setsid");
        command.args(["-c", "/usr/bin/netloss-agent", "run", "--loss", "30", "--ttl", "1h"]);
        Ok(command.stdin(Stdio::from(far.try_clone()?)).stdout(Stdio::from(far.try_clone()?)).stderr(Stdio::from(far)).spawn()?)
    })?;
    let mut seen = String::new();
    let mut wait_for = |what: &str| -> Result<()> {
        while !seen.contains(what) {
            let mut part = [0; 512];
            let length = near.read(&mut part).with_context(|| format!("ended without \"{what}\": {seen}"))?;
            seen.push_str(&String::from_utf8_lossy(&part[..length]));
        }
        Ok(())
    };
    wait_for("ends at")?;
    // Two of them: the second is written over the first.
    wait_for("left, Ctrl-C ends it\r\x1b[K")?;
    pod.send(Way::Out, 200)?;
    near.write_all(b"\x03")?;
    let mut rest = Vec::new();
    // The last one to close the other end makes this an error.
    drop(near.read_to_end(&mut rest));
    let rest = String::from_utf8_lossy(&rest);
    ensure!(rest.contains("because SIGINT came") && !rest.contains('{'), "{seen}{rest}");
    ensure!(child.wait()?.success(), "{seen}{rest}");
    assert_no_loss(pod.send(Way::Out, 500)?)?;
    before.assert_unchanged(&pod.pod)
}

/// The person's end stops reading and does not hang up, as that of a stopped client or a sleeping laptop.
#[test]
fn a_terminal_that_nobody_reads_does_not_keep_the_loss() -> Result<()> {
    for backend in BACKENDS {
        check_unread(backend).context(backend)?;
    }
    Ok(())
}

fn check_unread(backend: &str) -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let (_unread, mut far) = terminal()?;
    // Of some 12 KiB that it takes. A line of JSON is longer than the steps in which the kernel makes room, so one fits in part.
    far.write_all(&[b'x'; 8 * 1024])?;
    let arguments = format!("run --json --loss 30 --ttl 1h --heartbeat 1s --backend {backend}");
    let mut child = pod.pod.run(|| {
        let mut command = Command::new("/usr/bin/netloss-agent");
        command.args(arguments.split_whitespace()).stdin(Stdio::null());
        Ok(command.stdout(Stdio::from(far.try_clone()?)).stderr(Stdio::from(far)).spawn()?)
    })?;
    let started = Instant::now();
    loop {
        ensure!(started.elapsed() < PATIENCE, "no line was dropped");
        match Agent::start(&pod.pod, "status --json")?.finish()?.last {
            Some(Event::Status(status)) if status.now.as_ref().is_some_and(|now| now.lines_dropped > 1) => break,
            Some(Event::Status(_)) => thread::sleep(Duration::from_millis(100)),
            other => bail!("the agent waits for its terminal: {other:?}"),
        }
    }
    kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
    while child.try_wait()?.is_none() {
        ensure!(started.elapsed() < 2 * PATIENCE, "it did not end");
        thread::sleep(Duration::from_millis(20));
    }
    assert_no_loss(pod.send(Way::Out, 500)?)?;
    before.assert_unchanged(&pod.pod)
}
