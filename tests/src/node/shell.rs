//! A root shell on the node, over a virtio port: it works without the node's network, which is what is under test.
//!
//! A request is a line `ID SECONDS SCRIPT`, its answer a line `ID STATUS OUTPUT`, with script and output in base64
//! (`tests/node/shell` is the other end). One request is under way at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The socket's name in the node's folder.
pub(super) const SOCKET: &str = "shell.sock";

/// How much later than the script's own limit an answer may come; a node that is booting answers when it is up.
const GRACE: Duration = Duration::from_mins(1);

/// What a script came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status; 137 when it was killed for taking too long.
    pub status: i32,
    /// What it wrote to stdout and stderr.
    pub output: String,
}

impl Answer {
    /// Whether its exit status was 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// The lab's end of the shell.
#[derive(Debug)]
pub struct Shell {
    dir: PathBuf,
    line: Mutex<Line>,
}

/// The connection, made when it is first needed and again after an error.
#[derive(Debug, Default)]
struct Line {
    connection: Option<BufReader<UnixStream>>,
    last_id: u64,
}

impl Shell {
    /// The shell of the node whose socket is in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), line: Mutex::default() }
    }

    /// Runs a script on the node, which kills it after `limit`.
    ///
    /// # Errors
    ///
    /// If the node does not answer. A script that fails is no error.
    pub fn run(&self, script: &str, limit: Duration) -> Result<Answer> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = line.ask(&self.dir, script, limit);
        if answer.is_err() {
            // A late answer would be taken for the next one's beginning.
            line.connection = None;
        }
        answer.with_context(|| format!("the node's shell did not answer to: {script}"))
    }

    /// Does something while no request is under way.
    pub(super) fn between_requests<T>(&self, act: impl FnOnce() -> T) -> T {
        let _line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        act()
    }
}

impl Line {
    fn ask(&mut self, dir: &Path, script: &str, limit: Duration) -> Result<Answer> {
        if self.connection.is_none() {
            self.connection = Some(connect(dir, SOCKET)?);
        }
        let connection = self.connection.as_mut().context("not connected")?;
        // Ids of other labs that spoke to the same node must not come up again.
        self.last_id = self.last_id.max(u64::from(std::process::id()) << 32) + 1;
        let request = format!("{} {} {}\n", self.last_id, limit.as_secs().max(1), STANDARD.encode(script));
        connection.get_mut().write_all(request.as_bytes()).context("cannot ask")?;
        let deadline = Instant::now() + limit + GRACE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer in time");
            }
            connection.get_mut().set_read_timeout(Some(left))?;
            let mut answer = String::new();
            if connection.read_line(&mut answer).context("no answer")? == 0 {
                bail!("the VM closed the connection");
            }
            if let Some(answer) = parse(&answer, self.last_id)? {
                return Ok(answer);
            }
        }
    }
}

/// The answer in a line, or nothing if it is to an earlier request that was given up.
fn parse(line: &str, id: u64) -> Result<Option<Answer>> {
    let mut words = line.split_whitespace();
    if words.next().and_then(|word| word.parse().ok()) != Some(id) {
        return Ok(None);
    }
    let status = words.next().and_then(|word| word.parse().ok()).context("an answer without a status")?;
    let output = STANDARD.decode(words.next().unwrap_or_default()).context("an answer that is not base64")?;
    Ok(Some(Answer { status, output: String::from_utf8_lossy(&output).into_owned() }))
}

/// Connects to a socket that QEMU has made in the node's folder.
pub(super) fn connect(dir: &Path, socket: &str) -> Result<BufReader<UnixStream>> {
    // A socket's path may have 107 bytes; through a descriptor of its folder it is short wherever that is.
    let folder = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    let path = format!("/proc/self/fd/{}/{socket}", folder.as_raw_fd());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => return Ok(BufReader::new(stream)),
            // QEMU has just been started.
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("cannot connect to {socket} in {}", dir.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_earlier_requests_are_skipped() {
        assert_eq!(parse("6 0 aGk=\n", 7).unwrap(), None);
        assert_eq!(parse("garbage\n", 7).unwrap(), None);
        assert_eq!(parse("7 3 aGk=\n", 7).unwrap(), Some(Answer { status: 3, output: "hi".into() }));
        assert_eq!(parse("7 0 \n", 7).unwrap(), Some(Answer { status: 0, output: String::new() }));
        assert!(parse("7\n", 7).is_err());
    }
}
