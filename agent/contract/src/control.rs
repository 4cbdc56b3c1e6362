//! What is asked of a running agent, over the abstract unix socket that is also its lock.
//!
//! One request a connection: a line of JSON. The answer is one [`crate::Record`] a line: to `status` one with the event `status`; to
//! `stop` at once one with the event `status`, and when the agent has ended its final one. An agent of another run than the one that is
//! to be stopped answers with the event `failed` and the exit `otherRun`.

use crate::RunId;
use serde::{Deserialize, Serialize};

/// The longest request that is read, in bytes. The longest that this version writes names a run of 128 characters and has 160; the rest is for
/// fields of later versions.
pub const REQUEST_LIMIT: usize = 1024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Who works here, and how it goes.
    Status,
    /// To take the loss away and end.
    Stop {
        /// Only if this is the run; none means whichever it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<RunId>,
    },
}

impl Request {
    /// The request as one line, without its end.
    #[must_use]
    pub fn to_line(&self) -> String {
        // No map with other keys than strings, no failing Serialize: there always is a form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the agent of this run is to end.
    #[must_use]
    pub fn stops(&self, of: Option<&RunId>) -> bool {
        matches!(self, Self::Stop { run } if run.is_none() || run.as_ref() == of)
    }

    /// Reads a line; none where it is no request that this version understands.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        if line.len() > REQUEST_LIMIT { None } else { serde_json::from_str(line).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_form_is_the_documented_one() {
        assert_eq!(Request::Status.to_line(), r#"{"request":"status"}"#);
        assert_eq!(Request::Stop { run: None }.to_line(), r#"{"request":"stop"}"#);
        let stop = Request::Stop { run: Some("uid/1".parse().unwrap()) };
        assert_eq!(stop.to_line(), r#"{"request":"stop","run":"uid/1"}"#);
        assert_eq!(Request::from_line(&stop.to_line()), Some(stop));
    }

    #[test]
    fn a_stop_ends_the_run_that_it_names_or_whichever_it_is() {
        let run = |name: &str| Some(name.parse::<RunId>().unwrap());
        for (meant, of, stops) in [
            (None, None, true),
            (None, run("a/1"), true),
            (run("a/1"), run("a/1"), true),
            (run("a/1"), run("a/2"), false),
            (run("a/1"), None, false),
        ] {
            assert_eq!(Request::Stop { run: meant.clone() }.stops(of.as_ref()), stops, "{meant:?} {of:?}");
        }
        assert!(!Request::Status.stops(None));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_panic(text in ".{0,2000}") {
            let _ = Request::from_line(&text);
        }
    }
}
