//! What brings a loss and takes it away: the agent, a shell with iproute2, and the floor below them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(super) const AGENT: &str = "/usr/bin/netloss-agent";
const FLOOR: &str = "/usr/bin/floor";

/// What an image with iproute2 would run, as lean as a shell allows: no program but `ip` and `tc`, and no child to parse their output. Like
/// the agent it finds the interface, says when it is ready, and takes everything away on SIGTERM. Unlike the agent it looks at nothing
/// before, and verifies nothing afterwards. By their paths: busybox has programs of the same names.
const SHELL: &str = r#"
set -e
set -- $(/usr/bin/ip route show default)
while [ "$1" != dev ]; do shift; done
device=$2
"#;

const SHELL_EGRESS: &str = r"
/usr/bin/tc qdisc add dev $device root netem loss 10%
";

const SHELL_INGRESS: &str = r"
/usr/bin/ip link add ifb-loss type ifb
/usr/bin/ip link set ifb-loss up
/usr/bin/tc qdisc add dev ifb-loss root netem loss 10%
/usr/bin/tc qdisc add dev $device handle ffff: ingress
/usr/bin/tc filter add dev $device parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ifb-loss
";

const SHELL_STOP_EGRESS: &str = "/usr/bin/tc qdisc del dev $device root;";

const SHELL_STOP_INGRESS: &str = "/usr/bin/tc qdisc del dev $device ingress; /usr/bin/ip link del ifb-loss;";

const SHELL_WAIT: &str = r"
echo applied
sleep 100000 &
wait $!
";

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directions {
    Egress,
    Both,
}

/// One that brings a loss of 10 % when it starts, and takes it away on SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    Shell,
    /// The agent, with a backend.
    Agent(&'static str),
    /// The agent's messages alone, from this file.
    Floor(String),
}

/// A program whose loss is in place.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    /// From its start until it said that the loss is there.
    pub(super) applied: Duration,
}

impl Program {
    /// Its command line.
    pub(super) fn command(&self, directions: Directions) -> Vec<String> {
        let direction = if directions == Directions::Both { "both" } else { "egress" };
        match self {
            Self::Shell => vec!["/usr/bin/sh".into(), "-c".into(), script(directions)],
            Self::Agent(backend) => {
                let arguments = format!("{AGENT} run --loss 10 --ttl 1h --direction {direction} --backend {backend}");
                arguments.split(' ').map(str::to_owned).collect()
            }
            Self::Floor(recording) => vec![FLOOR.into(), recording.clone()],
        }
    }

    /// Starts it in a pod and waits until the loss is in place.
    pub(super) fn start(&self, pod: &Pod, directions: Directions) -> Result<Running> {
        start(pod, &self.command(directions))
    }
}

/// Starts a command line in a pod and waits until it says that the loss is in place.
pub(super) fn start(pod: &Pod, line: &[String]) -> Result<Running> {
    let (program, arguments) = line.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    pod.pod.run(|| {
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let applied = started.elapsed();
        ensure!(line.contains("applied"), "{program} did not apply the loss: {line:?}");
        Ok(Running { child, output, applied })
    })
}

impl Running {
    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid().try_into()?), Signal::SIGKILL).context("cannot kill it")
    }

    /// Waits for the end of one that was killed.
    pub(super) fn bury(mut self) -> Result<()> {
        self.child.wait().map(drop).context("cannot wait for its end")
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid().try_into()?), Signal::SIGTERM).context("cannot stop it")
    }

    /// Waits for its end.
    pub(super) fn end(mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Sends SIGTERM, waits for its end, and returns how long it took to say that the loss is gone, and to end.
    pub(super) fn stop(self) -> Result<[Duration; 2]> {
        let pid = self.pid();
        self.stop_by(pid)
    }

    /// The same by a signal to another process, such as the one that is traced.
    pub(super) fn stop_by(mut self, pid: u32) -> Result<[Duration; 2]> {
        let started = Instant::now();
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM).context("cannot stop it")?;
        loop {
            let line = self.line()?;
            ensure!(!line.is_empty(), "it ended without saying that the loss is gone");
            if line.contains("removed") {
                break;
            }
        }
        let clean = started.elapsed();
        // What it says at its end is read, so that it need not wait.
        std::io::copy(&mut self.output, &mut std::io::sink())?;
        let status = self.child.wait()?;
        let ended = started.elapsed();
        ensure!(status.success(), "it ended with {status}");
        Ok([clean, ended])
    }
}

fn script(directions: Directions) -> String {
    let (start, stop) = match directions {
        Directions::Egress => (SHELL_EGRESS.to_owned(), SHELL_STOP_EGRESS.to_owned()),
        Directions::Both => (SHELL_INGRESS.to_owned() + SHELL_EGRESS, SHELL_STOP_INGRESS.to_owned() + SHELL_STOP_EGRESS),
    };
    // The sleep has to go too, or it would keep the output open.
    format!(
        r#"{SHELL}trap '{stop} echo removed; [ -z "$!" ] || kill $!; exit 0' TERM
{start}{SHELL_WAIT}"#
    )
}

/// A figure of a process, such as `VmRSS:`, in KiB (proc_pid_status(5)).
pub(super) fn kibibytes(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
