//! Lengths of time, written as the API's `duration` is: `90s`, `2m`, `1h30m`.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// How long the loss lasts, counted from the moment it is applied: one second to seven days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ttl(Duration);

/// How often the agent reports that it lives: one second to one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeartbeatInterval(Duration);

impl Ttl {
    /// The longest loss that one agent brings: seven days.
    pub const MAX: Duration = Duration::from_secs(7 * 24 * HOUR);

    /// How long `stop` waits unless it is told otherwise.
    pub const STOP: Self = Self(Duration::from_secs(30));
}

impl HeartbeatInterval {
    /// The longest silence between two heartbeats: one hour.
    pub const MAX: Duration = Duration::from_secs(HOUR);
}

/// Reads `^([0-9]+(s|m|h))+$`, the form that spec.duration has, of any length: [`Ttl`] and [`HeartbeatInterval`] have ranges.
///
/// # Errors
/// Where the text has another form, or is longer than 2⁶⁴ seconds.
pub fn parse_duration(text: &str) -> Result<Duration, Invalid> {
    let malformed =
        || Invalid::new(format!("\"{text}\" is not a duration: give whole numbers with the units h, m or s, such as 90s, 2m or 1h30m"));
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(digits);
        let unit = match tail.as_bytes().first() {
            Some(b's') => 1,
            Some(b'm') => MINUTE,
            Some(b'h') => HOUR,
            _ => return Err(malformed()),
        };
        if number.is_empty() {
            return Err(malformed());
        }
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit))
            .and_then(|seconds| total.checked_add(seconds))
            .ok_or_else(|| Invalid::new(format!("\"{text}\" is longer than can be counted")))?;
        rest = &tail[1..];
    }
    if text.is_empty() { Err(malformed()) } else { Ok(Duration::from_secs(total)) }
}

/// The shortest form that [`parse_duration`] reads back to the same length.
fn write(duration: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / HOUR, seconds % HOUR / MINUTE, seconds % MINUTE);
    if hours > 0 {
        write!(f, "{hours}h")?;
    }
    if minutes > 0 {
        write!(f, "{minutes}m")?;
    }
    if rest > 0 || seconds == 0 { write!(f, "{rest}s") } else { Ok(()) }
}

macro_rules! span {
    ($type:ty, $what:literal) => {
        impl $type {
            /// The shortest: one second.
            pub const MIN: Duration = Duration::from_secs(1);

            /// As the standard library has it.
            #[must_use]
            pub fn duration(self) -> Duration {
                self.0
            }
        }

        impl TryFrom<Duration> for $type {
            type Error = Invalid;

            fn try_from(duration: Duration) -> Result<Self, Invalid> {
                let duration = Duration::from_secs(duration.as_secs());
                if (Self::MIN..=Self::MAX).contains(&duration) {
                    Ok(Self(duration))
                } else {
                    let max = Self(Self::MAX);
                    let given = Self(duration);
                    Err(Invalid::new(format!(concat!("a ", $what, " of {} is out of range: give 1s to {}"), given, max)))
                }
            }
        }

        impl FromStr for $type {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                parse_duration(text)?.try_into()
            }
        }

        impl TryFrom<String> for $type {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(self.0, f)
            }
        }
    };
}

span!(Ttl, "ttl");
span!(HeartbeatInterval, "heartbeat");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_the_api_writes_them() {
        for (text, seconds) in [("90s", 90), ("2m", 120), ("1h30m", 5400), ("1m1m", 120), ("0h5s", 5), ("168h", 7 * 24 * HOUR)] {
            assert_eq!(text.parse::<Ttl>().unwrap().duration().as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn bad_durations_are_refused_with_the_value_and_the_way_out() {
        for bad in ["", "5", "m", "-5s", "1.5h", "5 s", "5d", "s5"] {
            let error = bad.parse::<Ttl>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("\"{bad}\" is not a duration: give whole numbers with the units h, m or s, such as 90s, 2m or 1h30m")
            );
        }
        for long in ["99999999999999999999s", "9999999999999999999h", "18446744073709551615s1s"] {
            assert_eq!(long.parse::<Ttl>().unwrap_err().to_string(), format!("\"{long}\" is longer than can be counted"));
        }
        for (out, shown) in [("0s", "0s"), ("169h", "169h"), ("168h1s", "168h1s")] {
            assert_eq!(out.parse::<Ttl>().unwrap_err().to_string(), format!("a ttl of {shown} is out of range: give 1s to 168h"));
        }
        assert_eq!("61m".parse::<HeartbeatInterval>().unwrap_err().to_string(), "a heartbeat of 1h1m is out of range: give 1s to 1h");
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(seconds in 1..=Ttl::MAX.as_secs()) {
            let ttl = Ttl::try_from(Duration::from_secs(seconds)).unwrap();
            prop_assert_eq!(ttl.to_string().parse::<Ttl>().unwrap(), ttl);
        }
    }
}
