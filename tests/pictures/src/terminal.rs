//! A terminal that remembers what it showed.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::pty::{Winsize, openpty};

/// Wide enough for a pod of a Deployment with its figures.
const COLUMNS: u16 = 100;
const ROWS: u16 = 14;
const PROMPT: &str = "\x1b[32m$\x1b[m ";
/// A program that writes nothing for so long has drawn what it wanted to draw.
const QUIET: Duration = Duration::from_millis(40);
/// Letters that are typed at once, and how long that takes.
const TYPED: usize = 6;
const TYPING: Duration = Duration::from_millis(220);

/// What is on the screen from a moment on.
#[derive(Clone)]
pub(super) struct Frame {
    pub(super) at: Duration,
    pub(super) screen: vt100::Screen,
}

impl Frame {
    pub(super) fn shows(&self, words: &str) -> bool {
        self.screen.contents().contains(words)
    }
}

/// A screen, and all that was on it.
pub(super) struct Terminal {
    parser: vt100::Parser,
    frames: Vec<Frame>,
    /// Where the time is.
    now: Duration,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self { parser: vt100::Parser::new(ROWS, COLUMNS, 0), frames: Vec::new(), now: Duration::ZERO }
    }

    /// All that was shown.
    pub(super) fn frames(self) -> Vec<Frame> {
        self.frames
    }

    /// Types `line` and runs `command`, which is what it says, to its end.
    pub(super) fn run(&mut self, line: &str, mut command: Command) -> Result<()> {
        self.show(PROMPT.as_bytes());
        let letters: Vec<char> = line.chars().collect();
        for letters in letters.chunks(TYPED) {
            self.now += TYPING;
            self.show(letters.iter().collect::<String>().as_bytes());
        }
        self.now += TYPING;
        self.show(b"\r\n");

        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).context("no pseudo-terminal")?;
        let end = || pty.slave.try_clone().map(Stdio::from);
        command.stdin(end()?).stdout(end()?).stderr(end()?).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        // Both hold the program's end open, and the reader below waits for the last one to let go.
        drop((command, pty.slave));
        let (written, read) = mpsc::channel();
        let mut master = File::from(pty.master);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is how Linux says that nobody is at the other end any more.
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                if written.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let (begin, before) = (Instant::now(), self.now);
        let mut is_drawn = true;
        loop {
            match read.recv_timeout(QUIET) {
                Ok(bytes) => {
                    self.parser.process(&bytes);
                    is_drawn = false;
                }
                Err(_) if !is_drawn => {
                    self.now = before + begin.elapsed();
                    self.show(b"");
                    is_drawn = true;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        drop(reader.join());
        let status = child.wait()?;
        ensure!(status.success(), "`{line}` failed: {status}\n{}", self.parser.screen().contents());
        self.now = before + begin.elapsed();
        self.show(PROMPT.as_bytes());
        Ok(())
    }

    /// Takes bytes in, and what they came to.
    fn show(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        self.frames.push(Frame { at: self.now, screen: self.parser.screen().clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_a_terminal_and_what_it_draws_is_kept() {
        let script = r"test -t 1 && stty size; printf '\033[31mone\033[m\n'; sleep 0.3; printf '\033[1Atwo\n'";
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut terminal = Terminal::new();
        terminal.run("sh it", command).unwrap();
        let frames = terminal.frames();
        let red = frames.iter().find(|frame| frame.shows("one")).unwrap();
        assert!(red.shows("14 100") && red.screen.cell(2, 0).unwrap().fgcolor() == vt100::Color::Idx(1));
        let last = frames.last().unwrap();
        assert_eq!(last.screen.contents(), "$ sh it\n14 100\ntwo\n$ ");
        assert!(last.at > red.at, "{:?}", last.at);
    }

    #[test]
    fn a_failure_says_what_was_on_the_screen() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        let error = Terminal::new().run("sh", command).unwrap_err().to_string();
        assert!(error.contains("the reason") && error.contains('3'), "{error}");
    }
}
