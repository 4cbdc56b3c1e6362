//! What a program asks of the kernel, as strace sees it: how often, and its netlink messages, for the floor to send again.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::Pod;

use super::programs::{Directions, Program, Running, start};

/// What was asked of the kernel.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// Until the loss was in place, then until the end.
    pub(super) stages: [Stage; 2],
    /// Netlink datagrams as `floor` reads them.
    pub(super) datagrams: Vec<u8>,
}

/// How often something was asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) calls: u32,
    pub(super) round_trips: u32,
}

impl Stage {
    /// System calls and netlink round trips.
    pub(super) fn counts(self) -> [u32; 2] {
        [self.calls, self.round_trips]
    }
}

const STRACE: &str = "/usr/bin/strace";

/// Runs a program from its start to its end, under strace.
pub(super) fn record(program: &Program, directions: Directions) -> Result<Recording> {
    parse(&trace(program, directions, |_| Ok(()))?)
}

/// What strace says of a program that runs as long as `work` does.
fn trace(program: &Program, directions: Directions, work: impl FnOnce(&mut Running) -> Result<()>) -> Result<String> {
    const TRACE: &str = "/tmp/trace";
    let pod = Pod::new()?;
    pod.silence()?;
    // The child of strace is the program itself, and signals go to it. Reports are longer than what strace shows of a text by itself.
    let mut line: Vec<String> = [STRACE, "-f", "-qq", "-s", "300", "-e", "write=all", "-o", TRACE].map(str::to_owned).to_vec();
    line.extend(program.command(directions));
    let mut running = start(&pod, &line)?;
    work(&mut running)?;
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let children = fs::read_to_string(children).context("cannot find the traced process")?;
    let child = children.split_whitespace().next().context("strace has no child")?.parse()?;
    running.stop_by(child)?;
    Ok(fs::read_to_string(TRACE)?)
}

/// System calls between two heartbeats of the agent, the mean of so many.
pub(super) fn per_heartbeat(program: &Program, directions: Directions, heartbeats: u32) -> Result<f64> {
    let trace = trace(program, directions, |running| {
        // The first may still do something for the first time.
        for _ in 0..=heartbeats {
            let line = running.line()?;
            ensure!(line.contains("heartbeat"), "this is no heartbeat: {line}");
        }
        Ok(())
    })?;
    let (mut calls, mut counted, mut beats) = (0, 0, 0);
    for line in trace.lines() {
        let Some((_, name, arguments)) = call(line) else { continue };
        if line.ends_with("<unfinished ...>") {
            continue;
        }
        calls += 1;
        if name == "write" && arguments.starts_with("1,") && line.contains("heartbeat") {
            beats += 1;
            if beats == 1 {
                calls = 0;
            }
            counted = calls;
        }
    }
    ensure!(beats > 1, "the trace has no heartbeats");
    Ok(f64::from(counted) / f64::from(beats - 1))
}

/// A line of strace: the process, the call, its first argument, and all of it.
fn call(line: &str) -> Option<(&str, &str, &str)> {
    let (process, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    let (name, arguments) = match rest.strip_prefix("<... ") {
        Some(resumed) => (resumed.split(' ').next()?, ""),
        None => rest.split_once('(')?,
    };
    let is_call =
        process.bytes().all(|byte| byte.is_ascii_digit()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_call.then_some((process, name, arguments))
}

fn parse(trace: &str) -> Result<Recording> {
    let mut recording = Recording::default();
    let mut stage = 0;
    // For each descriptor the place of its socket among all that were made, and its protocol.
    let mut sockets: HashMap<u32, (u8, u8)> = HashMap::new();
    let mut made = 0;
    let mut unfinished: HashMap<String, String> = HashMap::new();
    let mut lines = trace.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((process, name, mut arguments)) = call(line) else { continue };
        if line.ends_with("<unfinished ...>") {
            unfinished.insert(process.to_owned(), arguments.to_owned());
            continue;
        }
        let begun = unfinished.remove(process);
        if arguments.is_empty()
            && let Some(begun) = &begun
        {
            arguments = begun;
        }
        recording.stages[stage].calls += 1;
        let descriptor: Option<u32> = arguments.split([',', ')']).next().and_then(|first| first.trim().parse().ok());
        match name {
            "socket" if arguments.starts_with("AF_NETLINK") => {
                let result = line.rsplit("= ").next().context("no result")?;
                let protocol = if line.contains("NETFILTER") { 12 } else { 0 };
                if let Ok(descriptor) = result.trim().parse() {
                    sockets.insert(descriptor, (made, protocol));
                    made += 1;
                }
            }
            "close" => drop(descriptor.and_then(|descriptor| sockets.remove(&descriptor))),
            "sendto" | "sendmsg" | "send" | "write" => {
                let mut bytes = Vec::new();
                while let Some(dump) = lines.next_if(|line| line.starts_with(" | ")) {
                    bytes.extend(dumped(dump));
                }
                if let Some((place, protocol)) = descriptor.and_then(|descriptor| sockets.get(&descriptor)) {
                    recording.stages[stage].round_trips += 1;
                    recording.datagrams.extend([u8::try_from(stage)?, *place, *protocol]);
                    recording.datagrams.extend(u32::try_from(bytes.len())?.to_le_bytes());
                    recording.datagrams.append(&mut bytes);
                } else if descriptor == Some(1) && contains(&bytes, b"applied") {
                    stage = 1;
                }
            }
            _ => {}
        }
    }
    ensure!(stage == 1 && recording.stages[1].calls > 0, "the trace ends before the loss was in place");
    Ok(recording)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// The bytes of a line ` | 00010  34 00 00 00 … |4...|`.
fn dumped(line: &str) -> impl Iterator<Item = u8> + '_ {
    let digits = line.trim_start_matches(" | ").split_once("  ").map_or("", |(_, rest)| rest);
    // Sixteen bytes, three characters each, in two halves.
    let digits = digits.get(..49.min(digits.len())).unwrap_or_default();
    digits.split_whitespace().map_while(|digits| u8::from_str_radix(digits, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_counted_and_its_datagrams_kept() {
        let trace = "\
70 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_NETFILTER) = 5
70 sendto(5, [{nlmsg_len=20}], 18, 0, NULL, 0) = 18
 | 00000  14 00 00 00 12 00 01 03  01 00 00 00 00 00 00 00  ................ |
 | 00010  ab cd                                             ..               |
70 write(1, \"applied\\n\", 8) = 8
 | 00000  61 70 70 6c 69 65 64 0a                           applied.         |
71 recvfrom(5,  <unfinished ...>
70 --- SIGTERM {si_signo=SIGTERM} ---
71 <... recvfrom resumed>\"\", 1, 0, NULL, NULL) = 0
70 exit_group(0) = ?
70 +++ exited with 0 +++
";
        let recording = parse(trace).unwrap();
        assert_eq!(recording.stages, [Stage { calls: 3, round_trips: 1 }, Stage { calls: 2, round_trips: 0 }]);
        assert_eq!(recording.datagrams[..7], [0, 0, 12, 18, 0, 0, 0]);
        assert_eq!(recording.datagrams[7..], [20, 0, 0, 0, 18, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd]);
    }
}
