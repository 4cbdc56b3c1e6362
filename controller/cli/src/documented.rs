//! Each command line of `kubectl netloss` that a document shows is one that the program takes.

use super::{Cli, PROGRAM};
use clap::{Command, CommandFactory, Parser, error::ErrorKind};
use std::{fs, path::Path};

/// How a document begins a command line.
const BEGIN: &str = "kubectl netloss ";

/// What stands for a value in a document, and a value. `…` is for arguments that are left out.
const PLACEHOLDERS: [(&str, &str); 4] = [("NAMESPACE", "shop"), ("NAME", "web-loss"), ("{{ $labels.namespace }}", "shop"), (" … ", " ")];

/// What ends a command line: the shell goes on, a comment begins, or the text around it.
const ENDS: [&str; 6] = [" #", " >", " |", " &&", ")", "`"];

/// A command line without [`BEGIN`].
struct Shown {
    place: String,
    arguments: String,
    /// Whether a reader is to type it as it stands there. A sentence may name an option of a command and leave the rest out.
    whole: bool,
}

/// The command lines of a text.
fn shown(name: &str, text: &str, is_prose: bool) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        let whole = fenced || !is_prose;
        // clap's own synopsis, and marks of the documents' blocks (<!-- run: … -->).
        if line.contains(" [OPTIONS]") || line.starts_with("<!--") {
            continue;
        }
        let begin = if whole { BEGIN.to_owned() } else { format!("`{BEGIN}") };
        for rest in line.split(&begin).skip(1) {
            let end = ENDS.iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
            found.push(Shown { place: format!("{name}:{}", number + 1), arguments: rest[..end].trim().to_owned(), whole });
        }
    }
    found
}

/// What `--help` adds to a command and to those below it.
fn help(command: &Command, found: &mut Vec<Shown>) {
    if let Some(text) = command.get_after_help() {
        found.extend(shown(&format!("--help of {}", command.get_name()), &text.to_string(), false));
    }
    command.get_subcommands().for_each(|below| help(below, found));
}

fn all() -> Vec<Shown> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut found = Vec::new();
    let documents = fs::read_dir(root.join("docs")).unwrap().map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    for name in
        documents.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md")).chain(["README.md".to_owned()])
    {
        found.extend(shown(&name, &read(&name), true));
    }
    for name in ["config/krew/netloss.yaml", "config/prometheus/alerts.yaml", "config/prometheus/prometheus_rule.yaml"] {
        let of_it = shown(name, &read(name), false);
        assert!(!of_it.is_empty(), "{name} shows no command");
        found.extend(of_it);
    }
    help(&Cli::command(), &mut found);
    found
}

/// Why a command line is not one of the program's.
fn refused(shown: &Shown) -> Option<clap::Error> {
    let arguments = PLACEHOLDERS.iter().fold(format!("{} ", shown.arguments), |line, (name, value)| line.replace(name, value));
    // clap looks for what is missing after it has understood all that is there.
    let is_part = |error: &clap::Error| !shown.whole && error.kind() == ErrorKind::MissingRequiredArgument;
    Cli::try_parse_from(std::iter::once(PROGRAM).chain(arguments.split_whitespace())).err().filter(|error| !is_part(error))
}

#[test]
fn accepts_each_command_line_that_a_document_shows() {
    let all = all();
    for shown in &all {
        if let Some(error) = refused(shown) {
            panic!("{}: kubectl netloss {}: {error}", shown.place, shown.arguments);
        }
    }
    // Each source has some; docs/CLI.md alone has those of all commands.
    for source in ["README.md", "docs/CLI.md", "docs/TROUBLESHOOTING.md", "--help of run", "--help of kubectl-netloss"] {
        assert!(all.iter().any(|shown| shown.place.starts_with(source)), "{source} shows no command: does the test still find them?");
    }
    assert!(all.len() > 50, "{}", all.len());
}

#[test]
fn finds_an_option_that_does_not_exist() {
    let text =
        "Use `kubectl netloss stop --everything`.\n```console\nkubectl netloss run --loss 10 # why\n```\n`kubectl netloss run --wait`\n";
    let refused: Vec<_> = shown("x", text, true).iter().map(|shown| refused(shown).map(|error| error.kind())).collect();
    assert_eq!(refused, [Some(ErrorKind::UnknownArgument), Some(ErrorKind::MissingRequiredArgument), None]);
}
