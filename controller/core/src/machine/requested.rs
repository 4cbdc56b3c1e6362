//! One more run of an unchanged spec, requested by an annotation.

use super::Experiment;
use crate::sanitize::brief;
use jiff::Timestamp;
use netloss_api::{ChaosExperimentStatus, RUN_REQUESTED_ANNOTATION};

/// The longest value, in bytes. Status keeps it.
const LONGEST: usize = 64;

/// Reads the value of [`RUN_REQUESTED_ANNOTATION`].
///
/// # Errors
/// When it is not an RFC 3339 time of at most 64 bytes; names the annotation and the value.
pub fn run_request(value: &str) -> Result<Timestamp, String> {
    let time = value.parse::<Timestamp>().ok().filter(|_| value.len() <= LONGEST && !value.contains('['));
    time.ok_or_else(|| {
        format!(
            "the annotation {RUN_REQUESTED_ANNOTATION} is \"{}\", which is not an RFC 3339 time: set one, such as 2027-01-15T08:00:00Z, or use \
             kubectl netloss rerun",
            brief(value)
        )
    })
}

/// The value of the annotation, if it is valid.
pub(super) fn valid<'a>(experiment: &Experiment<'a>) -> Option<&'a str> {
    experiment.requested.filter(|value| run_request(value).is_ok())
}

/// Whether the annotation requests a run that has not begun.
pub(super) fn is_new(experiment: &Experiment<'_>, status: &ChaosExperimentStatus) -> bool {
    is_waiting(experiment.requested, status)
}

/// Whether this value of the annotation requests a run that has not begun.
#[must_use]
pub fn is_waiting(value: Option<&str>, status: &ChaosExperimentStatus) -> bool {
    value.is_some_and(|value| run_request(value).is_ok() && status.run_requested_at.as_deref() != Some(value))
}
