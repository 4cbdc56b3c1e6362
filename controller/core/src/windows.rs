//! When loss is allowed: `spec.timeWindows` and `spec.maintenanceWindows`.

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};
use netloss_api::{ChaosExperimentSpec, TimeWindow, WindowKind};

/// How far it is looked ahead, in days: a week, so that each weekday is met, and one day more for windows that span midnight.
const AHEAD: i64 = 8;

/// Whether loss is allowed at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Yes, until then at least; without a time, for as long as is looked ahead.
    Open(Option<Timestamp>),
    /// No, until then; without a time, not for as long as is looked ahead.
    Closed(Option<Timestamp>),
}

/// The windows of a spec, read.
#[derive(Debug, Default)]
pub struct Windows {
    allowed: Vec<Span>,
    forbidden: Vec<Span>,
}

#[derive(Debug)]
enum Span {
    Once(Timestamp, Timestamp),
    Weekly { start: Time, end: Time, zone: TimeZone, days: Vec<Weekday> },
}

impl Windows {
    /// Reads the windows of a spec.
    ///
    /// # Errors
    /// Names the field, the value and the way out.
    pub fn of(spec: &ChaosExperimentSpec) -> Result<Self, String> {
        let read = |field: &str, windows: Option<&Vec<TimeWindow>>| {
            let windows = windows.into_iter().flatten().enumerate();
            windows.map(|(n, window)| Span::of(window).map_err(|error| format!("spec.{field}[{n}].{error}"))).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            allowed: read("timeWindows", spec.time_windows.as_ref())?,
            forbidden: read("maintenanceWindows", spec.maintenance_windows.as_ref())?,
        })
    }

    /// Whether loss is allowed now, and for how long that stays so.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Access {
        if self.allowed.is_empty() && self.forbidden.is_empty() {
            return Access::Open(None);
        }
        let near = |spans: &[Span]| spans.iter().flat_map(|span| span.near(now)).collect::<Vec<_>>();
        let (allowed, forbidden) = (near(&self.allowed), near(&self.forbidden));
        let within = |spans: &[(Timestamp, Timestamp)], at| spans.iter().any(|(start, end)| *start <= at && at < *end);
        let is_open = |at| (self.allowed.is_empty() || within(&allowed, at)) && !within(&forbidden, at);
        let open = is_open(now);
        let mut changes: Vec<Timestamp> =
            allowed.iter().chain(&forbidden).flat_map(|(start, end)| [*start, *end]).filter(|at| *at > now).collect();
        changes.sort_unstable();
        let change = changes.into_iter().find(|at| is_open(*at) != open);
        if open { Access::Open(change) } else { Access::Closed(change) }
    }
}

impl Span {
    fn of(window: &TimeWindow) -> Result<Self, String> {
        let TimeWindow { kind, start, end, timezone, days_of_week } = window;
        match kind {
            WindowKind::Absolute => {
                let time = |field: &str, text: &str| {
                    let time = text.parse::<Timestamp>();
                    time.map_err(|_| format!("{field} is \"{text}\", which is no time: give one such as 2026-11-24T09:00:00Z"))
                };
                let (from, to) = (time("start", start)?, time("end", end)?);
                if to <= from {
                    return Err(format!("end is \"{end}\", which is not after the start \"{start}\""));
                }
                if timezone.is_some() || days_of_week.is_some() {
                    return Err("timezone and daysOfWeek are for recurring windows: leave them out".to_owned());
                }
                Ok(Self::Once(from, to))
            }
            WindowKind::Recurring => {
                let name = timezone.as_deref().unwrap_or("UTC");
                let zone = TimeZone::get(name)
                    .map_err(|_| format!("timezone is \"{name}\", which is none: give an IANA name such as Europe/Berlin"))?;
                let (start, end) = (clock("start", start)?, clock("end", end)?);
                if start == end {
                    return Err("start and end are the same: give a window that has a length".to_owned());
                }
                let days = days_of_week.iter().flatten().map(|day| weekday(day)).collect::<Result<_, _>>()?;
                Ok(Self::Weekly { start, end, zone, days })
            }
        }
    }

    /// From yesterday's to those of the days to come.
    fn near(&self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        match self {
            Self::Once(start, end) => vec![(*start, *end)],
            Self::Weekly { start, end, zone, days } => {
                let today = now.to_zoned(zone.clone()).date();
                let dates = (-1..=AHEAD).filter_map(|offset| today.checked_add(offset.days()).ok());
                let dates = dates.filter(|date| days.is_empty() || days.contains(&date.weekday()));
                dates.filter_map(|date| occurrence(date, *start, *end, zone)).collect()
            }
        }
    }
}

fn occurrence(date: Date, start: Time, end: Time, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
    let last = if end > start { date } else { date.tomorrow().ok()? };
    let at = |date: Date, time: Time| date.to_datetime(time).to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp());
    Some((at(date, start)?, at(last, end)?))
}

/// `HH:MM`.
fn clock(field: &str, text: &str) -> Result<Time, String> {
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    let time = text.split_once(':').filter(|(hour, minute)| digits(hour) && digits(minute));
    let time = time.and_then(|(hour, minute)| Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok());
    time.ok_or_else(|| format!("{field} is \"{text}\", which is no time of day: give HH:MM such as 09:00"))
}

fn weekday(text: &str) -> Result<Weekday, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "mon" => Weekday::Monday,
        "tue" => Weekday::Tuesday,
        "wed" => Weekday::Wednesday,
        "thu" => Weekday::Thursday,
        "fri" => Weekday::Friday,
        "sat" => Weekday::Saturday,
        "sun" => Weekday::Sunday,
        _ => return Err(format!("daysOfWeek has \"{text}\", which is none of Mon, Tue, Wed, Thu, Fri, Sat and Sun")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::spec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn windows(allowed: Value, forbidden: Value) -> Result<Windows, String> {
        let mut spec = spec();
        spec.time_windows = serde_json::from_value(allowed).unwrap();
        spec.maintenance_windows = serde_json::from_value(forbidden).unwrap();
        Windows::of(&spec)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn without_windows_it_is_always_allowed() {
        assert_eq!(windows(json!([]), Value::Null).unwrap().at(at("2026-11-24T09:00:00Z")), Access::Open(None));
    }

    #[test]
    fn a_window_opens_and_closes() {
        // 2026-11-24 is a Tuesday.
        let nights = json!([{ "type": "Recurring", "start": "22:00", "end": "02:00", "daysOfWeek": ["Tue"], "timezone": "Europe/Berlin" }]);
        let nights = windows(nights, Value::Null).unwrap();
        let (opens, closes) = (at("2026-11-24T21:00:00Z"), at("2026-11-25T01:00:00Z"));
        assert_eq!(nights.at(at("2026-11-24T12:00:00Z")), Access::Closed(Some(opens)));
        assert_eq!(nights.at(opens), Access::Open(Some(closes)));
        assert_eq!(nights.at(at("2026-11-25T00:30:00Z")), Access::Open(Some(closes)));
        assert_eq!(nights.at(closes), Access::Closed(Some(at("2026-12-01T21:00:00Z"))));
    }

    #[test]
    fn maintenance_takes_from_what_is_allowed() {
        let day = json!([{ "type": "Recurring", "start": "09:00", "end": "17:00" }]);
        let noon = json!([{ "type": "Absolute", "start": "2026-11-24T12:00:00Z", "end": "2026-11-24T13:00:00Z" }]);
        let both = windows(day, noon.clone()).unwrap();
        assert_eq!(both.at(at("2026-11-24T10:00:00Z")), Access::Open(Some(at("2026-11-24T12:00:00Z"))));
        assert_eq!(both.at(at("2026-11-24T12:30:00Z")), Access::Closed(Some(at("2026-11-24T13:00:00Z"))));
        let past = windows(noon.clone(), Value::Null).unwrap();
        assert_eq!(past.at(at("2026-11-24T13:00:00Z")), Access::Closed(None), "it never opens again");
        assert_eq!(windows(Value::Null, noon).unwrap().at(at("2026-11-25T00:00:00Z")), Access::Open(None));
    }

    #[test]
    fn a_clock_that_is_set_forward_skips_nothing_of_the_window() {
        // Berlin has no 02:30 on this day.
        let window = json!([{ "type": "Recurring", "start": "02:30", "end": "04:00", "timezone": "Europe/Berlin" }]);
        let window = windows(window, Value::Null).unwrap();
        assert_eq!(window.at(at("2026-03-29T01:45:00Z")), Access::Open(Some(at("2026-03-29T02:00:00Z"))));
    }

    #[test]
    fn refusals_name_the_field_the_value_and_the_way_out() {
        let refused = |window: Value| windows(json!([window]), Value::Null).unwrap_err();
        let recurring = |start: &str, end: &str| refused(json!({ "type": "Recurring", "start": start, "end": end }));
        assert_eq!(recurring("9:00", "10:00"), "spec.timeWindows[0].start is \"9:00\", which is no time of day: give HH:MM such as 09:00");
        assert!(recurring("09:00", "24:00").starts_with("spec.timeWindows[0].end is \"24:00\""));
        assert!(recurring("09:00", "09:00").contains("start and end are the same"));
        let zone = refused(json!({ "type": "Recurring", "start": "09:00", "end": "10:00", "timezone": "Mars/Base" }));
        assert!(zone.starts_with("spec.timeWindows[0].timezone is \"Mars/Base\""), "{zone}");
        let day = refused(json!({ "type": "Recurring", "start": "09:00", "end": "10:00", "daysOfWeek": ["Funday"] }));
        assert!(day.starts_with("spec.timeWindows[0].daysOfWeek has \"Funday\""), "{day}");
        let once = refused(json!({ "type": "Absolute", "start": "09:00", "end": "10:00" }));
        assert!(once.starts_with("spec.timeWindows[0].start is \"09:00\", which is no time: give one such as"), "{once}");
        let backwards = refused(json!({ "type": "Absolute", "start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z" }));
        assert!(backwards.contains("is not after the start"), "{backwards}");
    }

    proptest! {
        /// What is said of a time holds until the time that is named, and no longer.
        #[test]
        fn an_answer_holds_until_it_changes(start in 0..1440i64, length in 1..1440i64, day in 0..7usize, now in 0..2_000_000i64, percent in 0..100i64) {
            let text = |minutes: i64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
            let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
            let window = json!([{ "type": "Recurring", "start": text(start), "end": text(start + length), "daysOfWeek": [days[day]] }]);
            let windows = windows(window, Value::Null).unwrap();
            let now = Timestamp::from_second(1_800_000_000 + now).unwrap();
            let (is_open, Some(until)) = (match windows.at(now) {
                Access::Open(until) => (true, until),
                Access::Closed(until) => (false, until),
            }) else { panic!("a weekly window changes within a week") };
            let between = now.as_second() + (until.as_second() - 1 - now.as_second()) * percent / 100;
            let between = Timestamp::from_second(between.max(now.as_second())).unwrap();
            prop_assert_eq!(matches!(windows.at(between), Access::Open(_)), is_open);
            prop_assert_eq!(matches!(windows.at(until), Access::Open(_)), !is_open);
        }
    }
}
