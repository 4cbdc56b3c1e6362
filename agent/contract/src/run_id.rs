//! The name of a run.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Names a run, so that a late or restarted agent, `stop` or `cleanup` acts on no other: 1 to 128 of `A-Z a-z 0-9 . _ / -`.
///
/// The controller makes it of the experiment's uid and the number of the run; for a person any word will do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// In bytes. The controller's have 47 at most: a uid of 36, `/`, and a number of 10 digits. The rest is for names that people give, and a report
    /// still has room for everything else ([`crate::LINE_LIMIT`]).
    const MAX_LENGTH: usize = 128;

    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RunId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-');
        if !text.is_empty() && text.len() <= Self::MAX_LENGTH && text.chars().all(fits) {
            Ok(Self(text))
        } else {
            Err(Invalid::new(format!(
                "\"{}\" is not a run's name: give 1 to 128 of the characters A-Z a-z 0-9 . _ / -",
                text.escape_debug()
            )))
        }
    }
}

impl FromStr for RunId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.to_owned().try_into()
    }
}

impl From<RunId> for String {
    fn from(run: RunId) -> String {
        run.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_carries_nothing_that_could_break_a_log_line() {
        assert!("1b4e28ba-2fa1-11d2-883f-0016d3cca427/3".parse::<RunId>().is_ok());
        for bad in ["", "a b", "a\nb", "a\"b", "ü", &"a".repeat(129)] {
            assert!(bad.parse::<RunId>().is_err(), "{bad:?}");
        }
    }
}
