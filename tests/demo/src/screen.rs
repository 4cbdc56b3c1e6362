//! Where the view goes: on a terminal a block that is drawn over itself, elsewhere a line a second.

use std::io::{self, IsTerminal, Write};
use std::iter;

use super::view::View;

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    is_terminal: bool,
    /// Lines of the block that stands on the terminal.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), drawn: 0 }
    }

    /// Shows a new second.
    pub(super) fn show(&mut self, view: &View) {
        if self.is_terminal { self.draw(view) } else { println!("{}", view.line()) }
    }

    /// Shows a change within a second.
    pub(super) fn refresh(&mut self, view: &View) {
        if self.is_terminal {
            self.draw(view);
        }
    }

    /// Leaves the block where it stands.
    pub(super) fn leave(&mut self) {
        self.drawn = 0;
    }

    fn draw(&mut self, view: &View) {
        let lines = view.block();
        // Up to the block's first line; then to the end of each line nothing of the last drawing may be left.
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let text: String = iter::once(up).chain(lines.iter().map(|line| format!("\r{line}\x1b[K\n"))).collect();
        self.drawn = lines.len();
        let mut out = io::stdout().lock();
        // A terminal that is gone is no reason to leave the cluster as it is.
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }
}
