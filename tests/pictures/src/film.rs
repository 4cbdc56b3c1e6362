//! Screens of a terminal as SVG, one or all of them: text that can be selected, colours as they were, no script.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::terminal::Frame;

/// A cell, in pixels: letters of 14 pixels as most monospaced fonts have them.
const CELL: (f64, f64) = (8.4, 19.0);
/// Around the screen, and above it for the window's bar.
const MARGIN: f64 = 14.0;
const BAR: f64 = 30.0;
const BACK: &str = "#0d1117";
const INK: &str = "#e6edf3";
/// The sixteen colours, readable on that back.
const COLOURS: [&str; 16] = [
    "#6e7681", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4", "#8b949e", "#ffa198", "#56d364", "#e3b341",
    "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff",
];

/// Faster than it was.
const SPEED: u32 = 4;
/// Nothing changes for longer than this.
const LONGEST: Duration = Duration::from_millis(1200);
/// What changes faster than this is not seen.
const SHORTEST: Duration = Duration::from_millis(150);
/// How long the end is shown before it begins again.
const LAST: Duration = Duration::from_secs(5);

/// One screen.
pub(super) fn still(frame: &Frame) -> String {
    let rows = rows(frame);
    let line = |(n, row): (usize, &String)| format!("<g transform=\"translate(0 {:.0})\">{row}</g>\n", n as f64 * CELL.1);
    let lines: String = rows.iter().enumerate().map(line).collect();
    window(width(frame), rows.len(), "", &lines)
}

/// All screens, one after the other, again and again; the last one alone for who wants nothing to move.
pub(super) fn film(frames: &[Frame]) -> String {
    let Some(first) = frames.first() else { return String::new() };
    let scenes = scenes(frames);
    let height = scenes.iter().map(|(rows, _)| rows.len()).max().unwrap_or_default();
    // Most lines stay as they are from one screen to the next: each is written once.
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for row in scenes.iter().flat_map(|(rows, _)| rows) {
        let next = names.len();
        names.entry(row).or_insert(next);
    }
    let definition = |(row, name): (&&str, &usize)| format!("<g id=\"l{name}\">{row}</g>\n");
    let lines: String = names.iter().map(definition).collect();
    let reel = height as f64 * CELL.1;
    let total: Duration = scenes.iter().map(|(_, time)| *time).sum();
    let (mut strip, mut steps, mut at) = (String::new(), String::new(), Duration::ZERO);
    for (n, (rows, time)) in scenes.iter().enumerate() {
        let top = n as f64 * reel;
        let share = 100.0 * at.as_secs_f64() / total.as_secs_f64();
        // Of what is written into a string, nothing can fail.
        let _ = write!(steps, "{share:.2}%{{transform:translateY(-{top:.0}px)}}");
        for (row, line) in rows.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
            let _ = write!(strip, "<use href=\"#l{}\" y=\"{:.0}\"/>", names[line.as_str()], top + row as f64 * CELL.1);
        }
        strip.push('\n');
        at += *time;
    }
    let end = scenes.len().saturating_sub(1) as f64 * reel;
    let style = format!(
        "@keyframes film{{{steps}100%{{transform:translateY(-{end:.0}px)}}}}.film{{animation:film {:.1}s step-end infinite}}\
         @media(prefers-reduced-motion:reduce){{.film{{animation:none;transform:translateY(-{end:.0}px)}}}}",
        total.as_secs_f64()
    );
    let reel = format!(
        "<defs>\n{lines}</defs>\n<svg width=\"{:.0}\" height=\"{reel:.0}\" overflow=\"hidden\"><g class=\"film\">\n{strip}</g></svg>\n",
        width(first)
    );
    window(width(first), height, &style, &reel)
}

/// What is shown for how long: quick changes are one, long waits are cut short.
fn scenes(frames: &[Frame]) -> Vec<(Vec<String>, Duration)> {
    let mut scenes: Vec<(Vec<String>, Duration)> = Vec::new();
    for (n, frame) in frames.iter().enumerate() {
        let shown = frames.get(n + 1).map_or(LAST, |next| (next.at.saturating_sub(frame.at) / SPEED).min(LONGEST));
        let rows = rows(frame);
        match scenes.last_mut() {
            Some((last, time)) if *last == rows => *time = (*time + shown).min(LONGEST.max(shown)),
            Some((last, time)) if *time < SHORTEST => {
                *last = rows;
                *time += shown;
            }
            _ => scenes.push((rows, shown)),
        }
    }
    scenes
}

fn width(frame: &Frame) -> f64 {
    f64::from(frame.screen.size().1) * CELL.0
}

/// A window as a person has it on the desk.
fn window(width: f64, rows: usize, style: &str, inside: &str) -> String {
    let (full, height) = (width + 2.0 * MARGIN, rows as f64 * CELL.1 + BAR + MARGIN + 6.0);
    let lights: String = [("#ff5f57", 20), ("#febc2e", 40), ("#28c840", 60)]
        .map(|(colour, x)| format!("<circle cx=\"{x}\" cy=\"17\" r=\"6\" fill=\"{colour}\"/>"))
        .concat();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full:.0} {height:.0}\" width=\"{full:.0}\" height=\"{height:.0}\" role=\"img\" \
         aria-label=\"kubectl netloss in a terminal\">\n<style>text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;\
         fill:{INK};white-space:pre}}.b{{font-weight:700}}.d{{opacity:.65}}{style}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACK}\" stroke=\"#30363d\"/>\n{lights}\n<g transform=\"translate({MARGIN} {BAR})\">\n{inside}</g>\n</svg>\n"
    )
}

/// The lines of a screen, without the empty ones at its end.
fn rows(frame: &Frame) -> Vec<String> {
    let mut rows: Vec<String> = (0..frame.screen.size().0).map(|row| line(&frame.screen, row)).collect();
    while rows.last().is_some_and(String::is_empty) {
        rows.pop();
    }
    rows
}

/// Letters of one look, side by side.
#[derive(PartialEq)]
struct Look {
    colour: Option<&'static str>,
    bold: bool,
    dim: bool,
}

impl Look {
    fn of(cell: &vt100::Cell) -> Self {
        let colour = match cell.fgcolor() {
            vt100::Color::Idx(colour) => COLOURS.get(usize::from(colour)).copied(),
            _ => None,
        };
        Self { colour, bold: cell.bold(), dim: cell.dim() }
    }

    fn attributes(&self) -> String {
        let classes =
            [(self.bold, "b"), (self.dim, "d")].into_iter().filter_map(|(is, class)| is.then_some(class)).collect::<Vec<_>>().join(" ");
        let class = if classes.is_empty() { classes } else { format!(" class=\"{classes}\"") };
        format!("{}{class}", self.colour.map(|colour| format!(" style=\"fill:{colour}\"")).unwrap_or_default())
    }
}

/// Each piece is told where it begins and how wide it is, so that columns are columns in whichever font there is.
fn line(screen: &vt100::Screen, row: u16) -> String {
    let mut pieces: Vec<(u16, Look, String)> = Vec::new();
    for column in 0..screen.size().1 {
        let Some(cell) = screen.cell(row, column).filter(|cell| cell.has_contents() && cell.contents() != " ") else { continue };
        let look = Look::of(cell);
        match pieces.last_mut() {
            // A single space is part of a sentence; more of them are between columns.
            Some((from, last, text)) if *last == look && column - *from <= width_of(text) + 1 => {
                if column - *from > width_of(text) {
                    text.push(' ');
                }
                text.push_str(cell.contents());
            }
            _ => pieces.push((column, look, cell.contents().to_owned())),
        }
    }
    let piece = |(from, look, text): &(u16, Look, String)| {
        let (x, length) = (f64::from(*from) * CELL.0, f64::from(width_of(text)) * CELL.0);
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!(
            "<text x=\"{x:.1}\" y=\"15\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\"{}>{text}</text>",
            look.attributes()
        )
    };
    pieces.iter().map(piece).collect()
}

/// What is drawn here has no letters that are wider than others.
fn width_of(text: &str) -> u16 {
    u16::try_from(text.chars().count()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(shown: &[(u64, &str)]) -> Vec<Frame> {
        let mut parser = vt100::Parser::new(4, 20, 0);
        let mut frame = |&(millis, text): &(u64, &str)| {
            parser.process(text.as_bytes());
            Frame { at: Duration::from_millis(millis), screen: parser.screen().clone() }
        };
        shown.iter().map(&mut frame).collect()
    }

    #[test]
    fn columns_and_colours_are_kept() {
        let svg = still(&frames(&[(0, "a b   \x1b[1;32m<ok>\x1b[m")])[0]);
        assert!(svg.contains("<text x=\"0.0\" y=\"15\" textLength=\"25.2\" lengthAdjust=\"spacingAndGlyphs\">a b</text>"), "{svg}");
        assert!(svg.contains("<text x=\"50.4\" y=\"15\" textLength=\"33.6\" lengthAdjust=\"spacingAndGlyphs\" style=\"fill:#3fb950\" class=\"b\">&lt;ok&gt;</text>"), "{svg}");
        assert_eq!(svg.matches("<g ").count(), 2, "one line, in one window");
    }

    #[test]
    fn a_film_has_each_line_once_and_no_long_wait() {
        let frames = frames(&[(0, "one\r\n"), (1000, "two"), (1010, "\rtwo!"), (60_000, "\rthree")]);
        let times: Vec<u128> = scenes(&frames).iter().map(|(_, time)| time.as_millis()).collect();
        assert_eq!(times, [250, 1202, 5000], "what is on for 2.5 ms is not seen");
        let film = film(&frames);
        assert_eq!((film.matches(">one<").count(), film.matches("<use ").count()), (1, 5), "{film}");
        assert!(film.contains("prefers-reduced-motion") && film.contains("step-end infinite"));
    }
}
