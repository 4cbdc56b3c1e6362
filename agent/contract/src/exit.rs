//! Exit codes of the agent.

use serde::{Deserialize, Serialize};

/// What the agent's exit code means. Codes are never given a new meaning; 128 + n is a death by signal n, as everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum ExitCode {
    /// What was asked for is done: the loss was applied, has ended, and was verified to be gone; or there was nothing to stop or clean up.
    Done = 0,
    /// Something failed; what had been done was undone. The final report says at which stage and why.
    Failed = 1,
    /// The arguments are wrong; nothing was touched.
    Usage = 2,
    /// Another agent works in this network namespace; nothing was touched.
    AlreadyRunning = 3,
    /// Refused for safety: a foreign qdisc or filter, a host's namespace, no clear interface. Nothing was touched.
    Refused = 4,
    /// The deadline had passed before anything was done; nothing was touched.
    DeadlinePassed = 5,
    /// The kernel or the container lacks what is needed: `CAP_NET_ADMIN`, `sch_netem`, ifb. What had been done was undone.
    Unsupported = 6,
    /// Removal could not be completed or verified: **loss may remain**. The final report lists what is left.
    Incomplete = 7,
    /// An agent of another run works in this network namespace than the one that was named; nothing was touched.
    OtherRun = 8,
    /// An agent works in this network namespace, but does not answer or end: it hangs. A guard ends its loss by itself.
    Unresponsive = 9,
}

impl ExitCode {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::AlreadyRunning,
        Self::Refused,
        Self::DeadlinePassed,
        Self::Unsupported,
        Self::Incomplete,
        Self::OtherRun,
        Self::Unresponsive,
    ];

    /// The number that the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of a number, if it is one of the agent's.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(exit: ExitCode) -> Self {
        exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, fs, path::Path};

    fn document(name: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).unwrap()
    }

    /// The lines of a document that follow a heading, up to the next one.
    fn section<'a>(document: &'a str, heading: &str) -> impl Iterator<Item = &'a str> {
        document
            .lines()
            .skip_while(move |line| *line != heading)
            .skip(1)
            .take_while(|line| !line.starts_with("## ") && !line.starts_with(".SH"))
    }

    /// Numbers and names of the enum: numbers from the type, names as reports have them.
    fn codes() -> BTreeMap<u8, String> {
        let name = |exit: ExitCode| serde_json::to_value(exit).unwrap().as_str().unwrap().to_owned();
        ExitCode::ALL.into_iter().map(|exit| (exit.code(), name(exit))).collect()
    }

    /// The schema is derived from the enum, so that [`ExitCode::ALL`] cannot miss a variant.
    #[test]
    fn all_holds_each_variant_once() {
        let schema = serde_json::to_value(schemars::schema_for!(ExitCode)).unwrap();
        let variants = schema["oneOf"].as_array().unwrap().iter().map(|variant| variant["const"].as_str().unwrap().to_owned());
        assert_eq!(codes().into_values().collect::<Vec<_>>(), variants.collect::<Vec<_>>());
        for exit in ExitCode::ALL {
            assert_eq!(ExitCode::from_code(i32::from(exit.code())), Some(exit));
        }
        assert_eq!(ExitCode::from_code(137), None);
        assert_eq!(ExitCode::from_code(-1), None);
    }

    /// A code that is documented with another name, documented and not there, or there and not documented fails.
    #[test]
    fn documents_list_each_code_with_its_name() {
        let text = document("AGENT.md");
        let row = |line: &str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            Some((cells.get(1)?.parse::<u8>().ok()?, cells.get(2)?.trim_matches('`').to_owned()))
        };
        let listed: Vec<(u8, String)> = section(&text, "## Exit codes").filter_map(row).collect();
        assert_eq!(listed, codes().into_iter().collect::<Vec<_>>());
    }

    /// The page is made from the command line's own help (agent/tests/pages.rs), which has the codes without their names.
    #[test]
    fn the_man_page_lists_each_code() {
        let page = document("man/netloss-agent.1");
        let number = |line: &str| line.strip_prefix("  ")?.split_once("  ")?.0.parse::<u8>().ok();
        let listed: Vec<u8> = section(&page, "Exit codes:").filter_map(number).collect();
        assert_eq!(listed, codes().into_keys().collect::<Vec<_>>());
    }
}
