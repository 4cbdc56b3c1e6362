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

    #[test]
    fn codes_are_their_places() {
        for (place, exit) in ExitCode::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), place);
            assert_eq!(ExitCode::from_code(i32::from(exit.code())), Some(exit));
        }
        assert_eq!(ExitCode::from_code(137), None);
    }
}
