//! Counting test results, as cargo's test harness prints them.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// The names of those that failed, as far as a harness printed them.
    pub names: Vec<String>,
}

impl Tally {
    /// One check that passed.
    #[must_use]
    pub fn one_passed() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// What a line of a harness's output says: the numbers of its closing line, the name of a test that failed.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.names.push(name.to_owned());
        }
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else { return };
        let count = |what: &str| {
            let words = counts.split(';').find_map(|part| part.trim().strip_suffix(what));
            words.and_then(|number| number.trim().parse::<u32>().ok()).unwrap_or_default()
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.names.extend(other.names);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.names.is_empty() { Ok(()) } else { write!(f, ": {}", self.names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted_failures_are_named_and_other_lines_are_nothing() {
        let mut tally = Tally::default();
        tally.read("test guarded::a_lease ... FAILED");
        tally.read("test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.01s");
        tally.read("test loss ... ok");
        assert_eq!(tally.to_string(), "12 passed, 3 failed: guarded::a_lease");
    }
}
