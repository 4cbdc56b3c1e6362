//! docs/CLI.md, written from the command line itself.

use super::{Cli, exit::Exit, output::SCHEMA};
use clap::{Arg, ArgAction, Command, CommandFactory};

/// The command that writes the page.
#[cfg(test)]
const REGENERATE: &str = "cargo run -q -p netloss-cli -- reference > docs/CLI.md";

/// The whole page.
pub(super) fn page() -> String {
    let mut root = Cli::command();
    root.build();
    let codes = Exit::ALL.map(|exit| format!("| {} | {} |\n", exit.code(), exit.words())).concat();
    let commands = root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    let commands: String = commands.map(of_command).collect();
    let shared: String = root.get_arguments().filter(|arg| arg.is_global_set()).map(row).collect();
    format!(
        "<!-- Generated from controller/cli by: cargo run -q -p netloss-cli -- reference > docs/CLI.md -->\n\
         # kubectl netloss\n\n{about}\n\n{INSTALL}\n## Exit codes\n\nA contract: no code is ever given another meaning.\n\n| code | meaning |\n|---|---|\n{codes}\n\
         ## Output\n\n`-o table` and `-o wide` are for people, and may change. `-o json` and `-o yaml` are for programs: each document has `schema` (now {SCHEMA}) and \
         `kind`; fields are added under the same number, and one that changes its meaning or goes makes a new one. `watch -o json` prints one document a line, for \
         each change. Figures that were seen come with the bounds of their 95 % interval (Wilson); `tooFewPackets` says that it is wider than what is predicted. \
         What a command has to say beside its result goes to standard error. Colours are for terminals alone, and never where `NO_COLOR` is set.\n\n\
         ## Connection\n\nThese flags go with each command.\n\n{HEAD}{shared}\n{commands}",
        about = root.get_about().map(ToString::to_string).unwrap_or_default(),
    )
}

const INSTALL: &str = "\
One static binary, `kubectl-netloss`: in a folder of `$PATH`, it is `kubectl netloss`. It asks the API server with your own rights, and needs none on the nodes. To build it,
as `target/x86_64-unknown-linux-musl/release/kubectl-netloss`, takes a C compiler for musl (Debian's `musl-tools`):

<!-- run: build kubectl netloss -->
```console
images/build --binary --only plugin --arch amd64
```

`config/krew/netloss.yaml` is its manifest for krew. `source <(kubectl netloss completion bash)` completes `kubectl-netloss`.
";

const HEAD: &str = "| flag | default | |\n|---|---|---|\n";

fn of_command(command: &Command) -> String {
    let name = command.get_name();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).trim().to_owned();
    let own = || command.get_arguments().filter(|arg| !arg.is_global_set() && !is_builtin(arg));
    let rows: String = own().map(row).collect();
    let flags = if rows.is_empty() { String::new() } else { format!("\n{HEAD}{rows}") };
    let examples = command.get_after_help().map(|text| examples(name, &text.to_string())).unwrap_or_default();
    format!("## {name}\n\n{about}.\n\n```text\n{usage}\n```\n{flags}{examples}\n")
}

fn is_builtin(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
}

/// One flag, or one word, as a row of a table.
fn row(arg: &Arg) -> String {
    if is_builtin(arg) {
        return String::new();
    }
    let names = arg.get_value_names().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).unwrap_or_default();
    let takes_value = arg.get_action().takes_values();
    let value = if takes_value && !names.is_empty() { format!(" {names}") } else { String::new() };
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}{value}"),
        (None, Some(long)) => format!("--{long}{value}"),
        (Some(short), None) => format!("-{short}{value}"),
        (None, None) => names,
    };
    let defaults: Vec<String> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let default = match (defaults.is_empty(), arg.is_required_set()) {
        (_, true) => "required".to_owned(),
        (false, _) if takes_value => format!("`{}`", defaults.join(",")),
        _ => String::new(),
    };
    let possible: Vec<String> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = if possible.is_empty() || !takes_value { help } else { format!("{help}: {}", possible.join(", ")) };
    let variable = arg.get_env().map(|name| format!(" (`{}`)", name.to_string_lossy())).unwrap_or_default();
    format!("| `{name}` | {default} | {}{variable} |\n", help.replace('|', "\\|"))
}

/// The lines below "Examples:": what each does, and the command. The comment is for the test that runs them.
fn examples(name: &str, text: &str) -> String {
    let Some((_, lines)) = text.split_once("Examples:\n") else { return String::new() };
    let line = |line: &str| match line.strip_prefix("      ") {
        Some(command) => format!("{command}\n"),
        None => format!("# {}\n", line.trim().trim_end_matches(':')),
    };
    format!("\n<!-- run: kubectl netloss {name} -->\n```console\n{}```\n", lines.lines().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_reference_is_the_current_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CLI.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == page(), "docs/CLI.md is out of date: run {REGENERATE}");
        assert!(page().contains(REGENERATE));
    }

    #[test]
    fn each_command_and_flag_is_there() {
        let page = page();
        for words in [
            "## run\n",
            "## doctor\n",
            "| `TYPE/NAME` |",
            "| `--loss PERCENT` | required |",
            "| `-n, --namespace NAME` |",
            "| `-o, --output FORMAT` | `table` |",
            "| 5 | loss may remain",
            "(`NETLOSS_NAMESPACE`)",
            "# Everything in a namespace, then everything in all of them\nkubectl netloss stop --all -n shop\nkubectl netloss stop -A\n",
        ] {
            assert!(page.contains(words), "{words}");
        }
    }
}
