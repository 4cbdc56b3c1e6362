//! How long to wait before trying again, for each experiment on its own.

use netloss_api::stable_hash;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The first wait. A judgement: a conflict or a restarted API server's first refusal is over by then.
const FIRST: Duration = Duration::from_millis(500);
/// The longest: shorter than any grace, so that an end is not missed over a backoff.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failures in a row, by the experiment's uid.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// Forgets the failures of an experiment.
    pub(crate) fn succeeded(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// The wait after one more failure: doubled each time, and up to half of it taken off, so that experiments that failed together
    /// do not come back together.
    pub(crate) fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        let full = FIRST.saturating_mul(2_u32.saturating_pow(*count - 1)).min(LONGEST);
        let share = (stable_hash(&[uid, &count.to_string()]) % 1024) as f64 / 1024.0;
        full.mul_f64(1.0 - share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again_after_a_success() {
        let backoff = Backoff::default();
        let waits: Vec<Duration> = (0..100).map(|_| backoff.failed("uid")).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits[99] <= LONGEST && waits[99] >= LONGEST / 2);
        assert_ne!(backoff.failed("a"), backoff.failed("b"));
        backoff.succeeded("uid");
        assert!(backoff.failed("uid") <= FIRST);
    }
}
