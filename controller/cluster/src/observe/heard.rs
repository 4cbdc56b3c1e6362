//! When agents were last listened to.

use jiff::{SignedDuration, Timestamp};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Between two looks at what an agent says while its loss is in place: two of its heartbeats. Of a hundred pods, each change of one
/// would have the logs of all of them read.
const EVERY: SignedDuration = SignedDuration::from_secs(10);

/// When each agent's log was last read. The key is the pod's uid and the container's name: all pods of an attempt share the name.
#[derive(Debug, Default)]
pub struct Heard(Mutex<HashMap<(String, String), Timestamp>>);

impl Heard {
    /// Whether this agent was not listened to lately. If so, it counts as listened to now.
    pub fn is_due(&self, pod: &str, container: &str, now: Timestamp) -> bool {
        let key = (pod.to_owned(), container.to_owned());
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back hides nobody.
        let lately = |at: &Timestamp| (*at..*at + EVERY).contains(&now);
        if times.get(&key).is_some_and(lately) {
            return false;
        }
        times.retain(|_, at| lately(at));
        times.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::at;

    #[test]
    fn each_agent_is_listened_to_now_and_then() {
        let heard = Heard::default();
        assert!(heard.is_due("p", "a", at(0)) && heard.is_due("p", "b", at(1)));
        assert!(!heard.is_due("p", "a", at(9)));
        assert!(heard.is_due("p", "a", at(10)) && !heard.is_due("p", "b", at(10)));
        assert!(heard.is_due("p", "b", at(-50)), "after the clock was set back");
    }

    #[test]
    fn pods_that_share_a_container_name_are_read_independently() {
        let heard = Heard::default();
        assert!(heard.is_due("first", "agent", at(0)) && heard.is_due("second", "agent", at(0)));
        assert!(!heard.is_due("first", "agent", at(1)) && !heard.is_due("second", "agent", at(1)));
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let heard = Heard::default();
        assert!((0..1000).all(|number| heard.is_due("p", &number.to_string(), at(0))));
        assert!(heard.is_due("p", "another", at(20)));
        assert_eq!(heard.0.lock().unwrap().len(), 1);
    }
}
