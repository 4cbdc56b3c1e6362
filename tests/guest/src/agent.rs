//! The agent as a child process, in a pod's network namespace.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use netloss_contract::{Applied, Event, ExitCode, Failed, Heartbeat, Record, Removed};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Namespace, PATIENCE, Pod};

const PROGRAM: &str = "/usr/bin/netloss-agent";

/// Where a container's runtime puts the file for its last words.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// As a container's runtime does it: a /proc of the new pid namespace, a file for the last words, and the program in place.
const ENTER_CONTAINER: &str = r#"mount -t proc proc /proc && mount --bind "$0" /dev/termination-log && exec "$@""#;

/// A running agent. Dropped, it is killed.
#[derive(Debug)]
pub struct Agent {
    namespace: Namespace,
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    termination_log: Option<PathBuf>,
}

/// How an agent ended.
#[derive(Debug)]
pub struct End {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its last record.
    pub last: Option<Event>,
    /// What it wrote to stderr.
    pub stderr: String,
    /// What it left in /dev/termination-log; empty for one that was not started as a container.
    pub termination_message: String,
}

impl Agent {
    /// Starts `netloss-agent` with the arguments, separated by blanks, as an ordinary process.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(namespace: &Namespace, arguments: &str) -> Result<Self> {
        let mut command = Command::new(PROGRAM);
        command.args(arguments.split_whitespace());
        Self::spawn(namespace, command, CloneFlags::empty(), None)
    }

    /// Starts it the way a container is started: as the first process of a pid namespace.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start_in_container(namespace: &Namespace, arguments: &str) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let log = PathBuf::from(format!("/tmp/termination-log-{}", SERIAL.fetch_add(1, Ordering::Relaxed)));
        fs::write(&log, "").context("cannot create a termination log")?;
        fs::OpenOptions::new().create(true).append(true).open(TERMINATION_LOG).context("cannot create a place for termination logs")?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", ENTER_CONTAINER]).arg(&log).arg(PROGRAM).args(arguments.split_whitespace());
        Self::spawn(namespace, command, CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS, Some(log))
    }

    /// Starts it as in a pod with `hostUsers: false`: as root of a user namespace that owns the pod's network namespace, and nobody outside it.
    /// The pod is made around it before it begins.
    ///
    /// # Errors
    ///
    /// If the namespaces cannot be made or it cannot be started.
    pub fn start_in_user_namespace(arguments: &str) -> Result<(Pod, Self)> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let ready = PathBuf::from(format!("/tmp/pod-is-ready-{}", SERIAL.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new("unshare");
        command.args(["-U", "-r", "-n", "sh", "-c", r#"while [ ! -e "$0" ]; do sleep 0.05; done; exec "$@""#]).arg(&ready).arg(PROGRAM);
        command.args(arguments.split_whitespace());
        let mut agent = Self::spawn(&Namespace::new()?, command, CloneFlags::empty(), None)?;
        let (started, name) = (Instant::now(), format!("/proc/{}/comm", agent.child.id()));
        // Once it is the shell, it is in namespaces of its own.
        while fs::read_to_string(&name).context("the agent's shell is gone")?.trim() != "sh" {
            ensure!(started.elapsed() < PATIENCE, "no namespaces were made");
        }
        agent.namespace = Namespace::of_process(agent.child.id())?;
        let pod = Pod::in_namespace(agent.namespace.again()?)?;
        fs::write(&ready, "").context("cannot say that the pod is ready")?;
        Ok((pod, agent))
    }

    fn spawn(namespace: &Namespace, mut command: Command, namespaces: CloneFlags, termination_log: Option<PathBuf>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = namespace.run(|| {
            unshare(namespaces).context("cannot make a container's namespaces")?;
            command.spawn().context("cannot start the agent")
        })?;
        let stdout = child.stdout.take().context("the agent has no stdout")?;
        let mut stderr = child.stderr.take().context("the agent has no stderr")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.into_iter().try_for_each(|line| sender.send(line))
        });
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            drop(stderr.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self { namespace: namespace.again()?, child, lines, stderr: Some(stderr), termination_log })
    }

    /// Waits until the loss is in place.
    ///
    /// # Errors
    ///
    /// If the agent ends before that, or nothing happens.
    pub fn applied(&mut self) -> Result<Applied> {
        self.wait_for("applied", |event| if let Event::Applied(applied) = event { Some(applied.clone()) } else { None })
    }

    /// Waits for the next heartbeat that satisfies the condition.
    ///
    /// # Errors
    ///
    /// If the agent ends before that, or nothing happens.
    pub fn heartbeat(&mut self, condition: impl Fn(&Heartbeat) -> bool) -> Result<Heartbeat> {
        self.wait_for("such a heartbeat", |event| match event {
            Event::Heartbeat(heartbeat) if condition(heartbeat) => Some(heartbeat.clone()),
            _ => None,
        })
    }

    fn wait_for<T>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> Result<T> {
        let mut seen = Vec::new();
        while let Some(event) = self.next()? {
            if let Some(picked) = pick(&event) {
                return Ok(picked);
            }
            let last = event.is_final();
            seen.push(event);
            if last {
                break;
            }
        }
        let end = self.finish()?;
        bail!("the agent ended without {what}, exit code {:?}, after {seen:?}\n{}", end.code, end.stderr)
    }

    /// The next event; none at the end.
    fn next(&mut self) -> Result<Option<Event>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                let record = Record::from_line(&line).with_context(|| format!("the agent printed a line that is no record: {line}"))?;
                Ok(Some(record.event))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the agent has been silent for {} s", PATIENCE.as_secs()),
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// If the process cannot be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("no process has such an id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to the agent"))
    }

    /// Whether it works still.
    ///
    /// # Errors
    ///
    /// If that cannot be told.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("cannot look after the agent")?.is_none())
    }

    /// Asks for its status and does not wait for the answer: makes it do something.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered.
    pub fn poke(&self) -> Result<()> {
        // Where nobody listens, nobody is to be made to do anything.
        self.namespace.run(|| {
            drop(dial());
            Ok(())
        })
    }

    /// Asks for its status and waits for the answer.
    ///
    /// # Errors
    ///
    /// If none comes.
    pub fn ask(&self) -> Result<()> {
        let stream = self.namespace.run(|| dial().context("nobody listens"))?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).context("no answer")?;
        ensure!(Record::from_line(answer.trim_end()).is_some(), "an answer that is no record: {answer}");
        Ok(())
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// If it does not come.
    pub fn finish(&mut self) -> Result<End> {
        let mut last = None;
        while let Some(event) = self.next()? {
            last = Some(event);
        }
        let status = self.child.wait().context("cannot wait for the agent")?;
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let termination_message = self.termination_log.as_ref().map(fs::read_to_string).transpose()?.unwrap_or_default();
        Ok(End { code: status.code(), last, stderr, termination_message })
    }
}

/// A connection to the agent of this network namespace, with a request for its status.
fn dial() -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name("netloss-agent")?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"request\":\"status\"}\n")?;
    Ok(stream)
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl End {
    /// The report of an agent that ended as it should.
    ///
    /// # Errors
    ///
    /// If it ended in any other way.
    pub fn removed(self) -> Result<Removed> {
        match self {
            Self { code: Some(0), last: Some(Event::Removed(removed)), .. } => Ok(removed),
            other => bail!("the agent did not end well: {other:?}"),
        }
    }

    /// The report of an agent that failed with this exit code.
    ///
    /// # Errors
    ///
    /// If it ended in any other way.
    pub fn failed(self, exit: ExitCode) -> Result<Failed> {
        match self {
            Self { code: Some(code), last: Some(Event::Failed(failed)), .. } if code == i32::from(exit.code()) && failed.exit == exit => {
                Ok(failed)
            }
            other => bail!("the agent did not end with {exit:?}: {other:?}"),
        }
    }
}
