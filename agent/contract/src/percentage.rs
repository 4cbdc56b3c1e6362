//! Percentages with their ranges.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The share of packets that netem drops, in percent: 0 < p ≤ 100.
///
/// The API allows 40 without `allowHighLoss`; that is the controller's rule, not the agent's.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "f64", into = "f64")]
pub struct LossPercentage(f64);

/// netem's loss correlation, in percent: 0 ≤ c ≤ 100. Zero means that packets are lost independently of each other.
///
/// With the kernel's formula a correlated loss does *not* keep the asked rate (docs/AGENT.md).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "f64", into = "f64")]
pub struct Correlation(f64);

/// A probability, in percent: 0 ≤ p ≤ 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

impl Share {
    /// All.
    pub const ALL: Self = Self(100.0);

    /// In percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        self.0
    }

    /// From 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl LossPercentage {
    /// In percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        self.0
    }
}

impl Correlation {
    /// In percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        self.0
    }

    /// Whether packets are lost independently of each other.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0.0
    }
}

impl TryFrom<f64> for LossPercentage {
    type Error = Invalid;

    fn try_from(percent: f64) -> Result<Self, Invalid> {
        if percent > 0.0 && percent <= 100.0 {
            Ok(Self(percent))
        } else {
            Err(Invalid::new(format!("a loss of {percent} % is out of range: give a percentage above 0 and up to 100, such as 10 or 0.5")))
        }
    }
}

impl TryFrom<f64> for Correlation {
    type Error = Invalid;

    fn try_from(percent: f64) -> Result<Self, Invalid> {
        if (0.0..=100.0).contains(&percent) {
            // Minus zero would print as "-0".
            Ok(Self(percent.abs()))
        } else {
            Err(Invalid::new(format!("a correlation of {percent} % is out of range: give a percentage from 0 to 100, such as 25")))
        }
    }
}

impl TryFrom<f64> for Share {
    type Error = Invalid;

    fn try_from(percent: f64) -> Result<Self, Invalid> {
        if (0.0..=100.0).contains(&percent) {
            // Minus zero would print as "-0".
            Ok(Self(percent.abs()))
        } else {
            Err(Invalid::new(format!("a probability of {percent} % is out of range: give a percentage from 0 to 100, such as 10 or 0.5")))
        }
    }
}

/// A trailing percent sign is understood, as `tc` does.
fn number(text: &str) -> Result<f64, Invalid> {
    let digits = text.trim().trim_end_matches('%').trim_end();
    digits.parse().map_err(|_| Invalid::new(format!("\"{text}\" is not a percentage: give a number such as 10 or 0.5")))
}

macro_rules! percentage {
    ($type:ty) => {
        impl FromStr for $type {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                number(text)?.try_into()
            }
        }

        impl From<$type> for f64 {
            fn from(value: $type) -> f64 {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

percentage!(LossPercentage);
percentage!(Correlation);
percentage!(Share);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_above_zero_and_at_most_everything() {
        for good in ["0.0001", "10", "10%", " 40 % ", "100"] {
            assert!(good.parse::<LossPercentage>().is_ok(), "{good}");
        }
        for bad in ["0", "-1", "100.0001", "NaN", "inf", "-inf", "", "%", "ten", "1e400", "10%%x"] {
            assert!(bad.parse::<LossPercentage>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_correlation_may_be_zero() {
        assert_eq!("0".parse::<Correlation>().unwrap(), Correlation::default());
        assert_eq!("-0".parse::<Correlation>().unwrap().to_string(), "0");
        for bad in ["-1", "101", "NaN"] {
            assert!(bad.parse::<Correlation>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_names_the_value_and_the_way_out() {
        let error = "140".parse::<LossPercentage>().unwrap_err().to_string();
        assert!(error.contains("140") && error.contains("up to 100"), "{error}");
    }
}
