//! When runs of a schedule are due.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::Timestamp;

/// `spec.schedule`, read: crontab(5), with a time zone behind it if it is not UTC.
#[derive(Debug, Clone)]
pub struct Schedule(Crontab);

/// The short names that cron(8) has.
const NAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl Schedule {
    /// Reads it.
    ///
    /// # Errors
    /// Names the field, the value and the way out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expression = NAMES.iter().find(|(name, _)| *name == text.trim()).map_or(text, |(_, expression)| expression);
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let no_schedule = |why: &str| {
            let text = text.escape_debug();
            format!(
                "spec.schedule is \"{text}\", which {why}: give minute, hour, day of month, month and day of week, such as 30 9 * * 1-5, or @daily"
            )
        };
        let schedule = Self(parse_crontab_with(expression, options).map_err(|_| no_schedule("is no schedule"))?);
        // Such as the 30th of February.
        if schedule.next(Timestamp::UNIX_EPOCH).is_none() {
            return Err(no_schedule("never comes"));
        }
        Ok(schedule)
    }

    /// The first time after this one.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = MakeTimestamp::from_second(after.as_second()).ok()?;
        self.0.find_next(after).ok().map(|next| next.timestamp())
    }

    /// Whether this is one of its times.
    #[must_use]
    pub fn has(&self, at: Timestamp) -> bool {
        at.checked_sub(jiff::SignedDuration::from_secs(1))
            .ok()
            .and_then(|before| self.next(before))
            .is_some_and(|next| next.as_second() == at.as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        Schedule::parse(schedule).unwrap().next(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn times_follow_each_other() {
        assert_eq!(next("30 9 * * 1-5", "2026-11-27T09:30:00Z"), "2026-11-30T09:30:00Z");
        assert_eq!(next("30 9 * * 1-5 Europe/Berlin", "2026-11-27T08:29:59Z"), "2026-11-27T08:30:00Z");
        assert_eq!(next("@hourly", "2026-11-27T09:30:00Z"), "2026-11-27T10:00:00Z");
        assert_eq!(next("*/15 * * * *", "2026-11-27T09:30:01.5Z"), "2026-11-27T09:45:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in
            ["", "not a schedule", "@every-minute", "60 * * * *", "0 0 1 13 *", "0 0 * * 8", "0 0 * *", "0 0 30 2 *", "* * * * * Mars/Base"]
        {
            let error = Schedule::parse(text).unwrap_err();
            assert!(
                error.starts_with(&format!("spec.schedule is \"{text}\", which ")) && error.contains("such as 30 9 * * 1-5"),
                "{error}"
            );
        }
    }
}
