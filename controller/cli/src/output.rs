//! What is printed, and in which form.

use super::error::Error;
use clap::{Args, ValueEnum};
use console::Style;
use netloss_core::sanitize::acts;
use serde::Serialize;
use std::io::Write as _;
use tabled::{
    builder::Builder,
    settings::{Padding, Style as Border},
};

/// Version of the form of JSON and YAML. Fields are added without a new version; one that changes its meaning or goes makes a new one.
pub(super) const SCHEMA: u32 = 1;

/// In which form to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// For programs; with a schema version
    Json,
    /// For programs; with a schema version
    Yaml,
}

impl Format {
    /// Whether it is for people.
    pub(super) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct OutputArgs {
    /// How to print
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    pub(super) output: Format,
}

#[derive(Serialize)]
struct Document<'a, T> {
    schema: u32,
    kind: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

/// A document for programs: `body`, which is an object, with its schema and kind in front.
pub(super) fn document<T: Serialize>(format: Format, kind: &'static str, body: &T) -> Result<String, Error> {
    let document = Document { schema: SCHEMA, kind, body };
    let failed = |error: &dyn std::fmt::Display| Error::Failed(format!("writing {kind}: {error}"));
    match format {
        Format::Yaml => yaml(&document),
        _ => serde_json::to_string_pretty(&document).map(|text| text + "\n").map_err(|error| failed(&error)),
    }
}

/// A document on one line, for a stream of them.
pub(super) fn document_line<T: Serialize>(kind: &'static str, body: &T) -> Result<String, Error> {
    let document = Document { schema: SCHEMA, kind, body };
    serde_json::to_string(&document).map(|text| text + "\n").map_err(|error| Error::Failed(format!("writing {kind}: {error}")))
}

/// As YAML.
pub(super) fn yaml<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| Error::Failed(format!("writing YAML: {error}")))
}

/// Prints to standard output, at once.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(shown(text).as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints a line to standard error. Nobody may be there to read it, which is no reason to stop.
pub(super) fn note(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{}", shown(line)));
}

/// A text without characters that do something to a terminal, but for the ends of its lines and the colours of [`Paint`]. What comes from
/// a cluster has none to begin with ([`netloss_core::sanitize::plain`]); this is for what did not come that way.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(acts) {
        let (before, tail) = rest.split_at(at);
        shown += before;
        let kept = colour(tail).or_else(|| tail.starts_with(['\n', '\t']).then_some(1));
        shown += kept.map_or(" ", |length| &tail[..length]);
        rest = &tail[kept.unwrap_or_else(|| tail.chars().next().map_or(1, char::len_utf8))..];
    }
    shown + rest
}

/// The length of the escape sequence that the text begins with, if it is one that sets a colour: `ESC [ 1 ; 31 m`.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

/// What a colour is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// At work.
    Busy,
    /// Wrong.
    Bad,
    /// Of less interest.
    Quiet,
    /// What it is about.
    Strong,
}

/// Colours, where there is a terminal that shows them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    colours: bool,
}

impl Paint {
    /// For standard output: colours on a terminal, and not where NO_COLOR is set.
    pub(super) fn stdout() -> Self {
        Self { colours: console::colors_enabled() }
    }

    /// Without colours.
    pub(super) fn none() -> Self {
        Self { colours: false }
    }

    /// A text in this tone.
    pub(super) fn tone(self, tone: Tone, text: &str) -> String {
        let style = Style::new().force_styling(self.colours);
        let style = match tone {
            Tone::Good => style.green(),
            Tone::Busy => style.yellow(),
            Tone::Bad => style.red().bold(),
            Tone::Quiet => style.dim(),
            Tone::Strong => style.bold(),
        };
        style.apply_to(text).to_string()
    }
}

/// A table as kubectl prints them: columns with three spaces between them, a heading in capitals. Without rows it is the heading alone.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut builder = Builder::default();
    builder.push_record(heading.iter().copied());
    for row in rows {
        builder.push_record(row.iter().map(|cell| if cell.is_empty() { "-" } else { cell.as_str() }));
    }
    let table = builder.build().with(Border::empty()).with(Padding::new(0, 3, 0, 0)).to_string();
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_kubectls_form() {
        let rows =
            vec![vec!["a".to_owned(), String::new()], vec!["longer".to_owned(), "ü".to_owned()], vec!["b".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["NAME", "PHASE"], &rows), "NAME     PHASE\na        -\nlonger   ü\nb        c\n");
        assert_eq!(table(&["NAME"], &[]), "NAME\n");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let red = Paint { colours: true }.tone(Tone::Bad, "Failed");
        assert!(red.starts_with("\u{1b}["), "{red:?}");
        let rows = vec![vec![red, "x".to_owned()], vec!["Running".to_owned(), "y".to_owned()]];
        let plain = console::strip_ansi_codes(&table(&["PHASE", "Z"], &rows)).into_owned();
        assert_eq!(plain, "PHASE     Z\nFailed    x\nRunning   y\n");
        assert_eq!(Paint::none().tone(Tone::Bad, "Failed"), "Failed");
    }

    #[test]
    fn a_terminal_is_told_nothing_but_colours() {
        let red = Paint { colours: true }.tone(Tone::Bad, "Failed");
        assert_eq!(shown(&format!("{red}\tü\n")), format!("{red}\tü\n"));
        assert_eq!(shown("a\u{1b}[2Jb\u{1b}]0;title\u{7}c\rd\u{9b}31me\u{2028}f\u{202e}g\u{1b}["), "a [2Jb ]0;title c d 31me f g [");
    }

    #[test]
    fn documents_carry_their_schema() {
        #[derive(Serialize)]
        struct Body {
            name: &'static str,
        }
        let json: serde_json::Value = serde_json::from_str(&document(Format::Json, "Status", &Body { name: "x" }).unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({ "schema": SCHEMA, "kind": "Status", "name": "x" }));
        assert!(document(Format::Yaml, "Status", &Body { name: "x" }).unwrap().starts_with("schema: 1\nkind: Status\nname: x"));
        assert_eq!(document_line("Status", &Body { name: "x" }).unwrap().lines().count(), 1);
    }
}
