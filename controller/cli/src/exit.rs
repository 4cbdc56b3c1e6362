//! Exit codes: a contract with scripts.

/// How a command ended. Codes are never given a new meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It failed, or the cluster refused it.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The run is over, and it did not go as asked.
    NotAsAsked = 3,
    /// It was not over in time.
    TimedOut = 4,
    /// Loss may be left in a pod.
    LossMayRemain = 5,
    /// The run is over, and the loss that was measured is not the requested one.
    LossDiffers = 6,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::NotAsAsked,
        Self::TimedOut,
        Self::LossMayRemain,
        Self::LossDiffers,
        Self::Interrupted,
    ];

    /// The number that the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it means, as help and documentation say it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Done => "done; a run that was waited for went as asked",
            Self::Failed => "failed, or refused by the cluster; standard error says why and what to do",
            Self::Usage => "the command line is wrong; nothing was done",
            Self::NotAsAsked => "the run is over, but it failed, was cut short, or did not go as asked in every pod",
            Self::TimedOut => "not over within --timeout; what is under way goes on",
            Self::LossMayRemain => "loss may remain in a pod: kubectl netloss doctor --fix -n NAMESPACE",
            Self::LossDiffers => "the run is over, but the measured loss is not the requested one, or no packet matched (idle pods)",
            Self::Interrupted => "interrupted by Ctrl-C; what is under way goes on",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// The paragraph that help ends with.
pub(super) const HELP: &str = "\
Exit codes:
    0  done; a run that was waited for went as asked
    1  failed, or refused by the cluster; standard error says why and what to do
    2  the command line is wrong; nothing was done
    3  the run is over, but it failed, was cut short, or did not go as asked in every pod
    4  not over within --timeout; what is under way goes on
    5  loss may remain in a pod: kubectl netloss doctor --fix -n NAMESPACE
    6  the run is over, but the measured loss is not the requested one, or no packet matched (idle pods)
  130  interrupted by Ctrl-C; what is under way goes on";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_each_code() {
        for exit in Exit::ALL {
            assert!(HELP.contains(&format!("{:>5}  {}", exit.code(), exit.words())), "{exit:?}");
        }
        assert_eq!(HELP.lines().count(), Exit::ALL.len() + 1);
    }
}
