//! What was measured, in the form in which it is kept: one JSON file for each benchmark.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What one benchmark measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its name on the command line, and that of its files.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// What is compared with what, and how, in a paragraph.
    pub about: String,
    /// The command that measures it again.
    pub command: String,
    /// What it was measured on.
    pub machine: String,
    /// The figures.
    pub comparisons: Vec<Comparison>,
}

/// One thing that is measured of several variants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// What is measured.
    pub what: String,
    /// Its unit.
    pub unit: String,
    /// Of which variants, ours and those it is held against.
    pub variants: Vec<Variant>,
    /// What they are to reach.
    pub goals: Vec<Goal>,
    /// Whether it is drawn. Where there are very many, a table is enough.
    pub drawn: bool,
}

/// One of those that are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// The middle of the samples.
    pub median: f64,
    /// A quarter of the samples is below the first, and a quarter above the second.
    pub quartiles: [f64; 2],
    /// Every single measurement, in the order in which they were made.
    pub samples: Vec<f64>,
}

/// What a variant is to reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Goal {
    /// Which variant.
    pub of: String,
    /// The variant that it is divided by; none where the figure itself is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What is wanted.
    pub wanted: Bound,
    /// What would be a regression and no noise: checked by continuous integration, on few samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Bound>,
    /// The figure or ratio that was reached.
    pub reached: f64,
    /// Whether that is what is wanted.
    pub met: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A limit of a figure or of a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Neither less than the first nor more than the second.
    Within(f64, f64),
}

impl Comparison {
    /// A comparison without variants.
    #[must_use]
    pub fn new(what: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { what: what.into(), unit: unit.into(), variants: Vec::new(), goals: Vec::new(), drawn: true }
    }

    /// Adds a variant with what was measured of it. One that has no samples is left out.
    #[must_use]
    pub fn variant(mut self, name: impl Into<String>, samples: Vec<f64>) -> Self {
        self.variants.extend(Variant::of(name.into(), samples));
        self
    }

    /// Adds a goal of the ratio of two variants: the median of the ratios of samples that were taken one after the other, as a machine
    /// that is now slower and now faster then is to both. Where one of them is not there, there is none.
    #[must_use]
    pub fn ratio(mut self, of: &str, to: &str, wanted: Bound, guard: Option<Bound>) -> Self {
        let samples = |name: &str| self.variant_of(name).map(|variant| variant.samples.as_slice()).unwrap_or_default();
        let ratios = samples(of).iter().zip(samples(to)).map(|(ours, theirs)| ours / theirs).collect();
        if let Some(ratios) = Variant::of(String::new(), ratios) {
            self.goals.push(Goal::new(of, Some(to), wanted, guard, ratios.median));
        }
        self
    }

    /// Adds a goal of a variant's median itself.
    #[must_use]
    pub fn value(mut self, of: &str, wanted: Bound, guard: Option<Bound>) -> Self {
        if let Some(reached) = self.variant_of(of).map(|variant| variant.median) {
            self.goals.push(Goal::new(of, None, wanted, guard, reached));
        }
        self
    }

    /// Adds a goal of the value that so many percent of a variant's samples stay below.
    #[must_use]
    pub fn percentile(mut self, of: &str, percent: u8, wanted: Bound) -> Self {
        let sorted = self.variant_of(of).map(|variant| sorted(&variant.samples));
        if let Some(reached) = sorted.and_then(|sorted| quantile(&sorted, f64::from(percent) / 100.0)) {
            self.goals.push(Goal::new(&format!("p{percent} of {of}"), None, wanted, None, reached));
        }
        self
    }

    /// Says why the last goal is not met, if it is not.
    #[must_use]
    pub fn because(mut self, why: &str) -> Self {
        if let Some(goal) = self.goals.last_mut().filter(|goal| !goal.met) {
            goal.because = Some(why.to_owned());
        }
        self
    }

    /// Leaves it out of the plot.
    #[must_use]
    pub fn undrawn(mut self) -> Self {
        self.drawn = false;
        self
    }

    fn variant_of(&self, name: &str) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.name == name)
    }
}

impl Variant {
    fn of(name: String, samples: Vec<f64>) -> Option<Self> {
        let sorted = sorted(&samples);
        Some(Self { name, median: quantile(&sorted, 0.5)?, quartiles: [quantile(&sorted, 0.25)?, quantile(&sorted, 0.75)?], samples })
    }
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value below which that share of sorted samples lies, linear between two of them.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[low] + (sorted[high] - sorted[low]) * place.fract())
}

impl Goal {
    fn new(of: &str, to: Option<&str>, wanted: Bound, guard: Option<Bound>, reached: f64) -> Self {
        let met = wanted.holds(reached);
        Self { of: of.to_owned(), to: to.map(str::to_owned), wanted, guard, reached, met, because: None }
    }

    /// Whether what was reached is a regression.
    #[must_use]
    pub fn is_regression(&self) -> bool {
        self.guard.is_some_and(|guard| !guard.holds(self.reached))
    }
}

impl Bound {
    /// Whether a figure is as wanted.
    #[must_use]
    pub fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
            Self::Within(least, most) => (least..=most).contains(&figure),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {}", figure(*most)),
            Self::AtLeast(least) => write!(f, "≥ {}", figure(*least)),
            Self::Within(least, most) => write!(f, "{} to {}", figure(*least), figure(*most)),
        }
    }
}

/// A number with three digits that count, thousands set apart.
#[must_use]
pub fn figure(number: f64) -> String {
    let size = number.abs();
    if size >= 9_999.5 {
        let digits = format!("{size:.0}");
        let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect::<Vec<_>>();
        return format!("{}{}", if number < 0.0 { "-" } else { "" }, groups.join(" "));
    }
    let decimals = [99.95, 9.995, 0.9995, 0.09995, 0.009_995].iter().position(|limit| size >= *limit).unwrap_or(5);
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_quarters_of_samples() {
        let variant = Variant::of("x".into(), vec![4.0, 1.0, 2.0, 3.0, 10.0]).unwrap();
        assert_eq!((variant.median, variant.quartiles), (3.0, [2.0, 4.0]));
        assert_eq!(figure(Variant::of("x".into(), vec![1.0, 2.0]).unwrap().median), "1.5");
        assert_eq!(Variant::of("x".into(), Vec::new()), None);
    }

    #[test]
    fn a_goal_is_met_or_not_and_only_a_guard_makes_it_a_regression() {
        let both = Comparison::new("time", "ms").variant("ours", vec![6.0]).variant("theirs", vec![10.0]);
        let both = both.ratio("ours", "theirs", Bound::AtMost(0.5), Some(Bound::AtMost(0.8))).because("it is hard");
        let goal = &both.goals[0];
        assert!(!goal.met && !goal.is_regression() && goal.because.is_some(), "{goal:?}");
        let strict = both.ratio("ours", "theirs", Bound::AtMost(0.7), Some(Bound::AtMost(0.55))).because("unused");
        assert!(strict.goals[1].met && strict.goals[1].is_regression() && strict.goals[1].because.is_none());
        assert!(strict.value("nobody", Bound::AtLeast(1.0), None).goals.len() == 2);
    }

    #[test]
    fn a_machine_that_slows_down_is_slower_for_both() {
        let both = Comparison::new("time", "ms").variant("ours", vec![1.0, 4.0, 4.0]).variant("theirs", vec![2.0, 2.5, 8.0]);
        assert!(both.ratio("ours", "theirs", Bound::AtMost(0.5), None).goals[0].met);
    }

    #[test]
    fn a_percentile_is_a_goal_of_its_own() {
        let one = Comparison::new("time", "ms").variant("ours", (0..=100).rev().map(f64::from).collect());
        let one = one.percentile("ours", 95, Bound::AtMost(95.0)).percentile("ours", 95, Bound::AtMost(94.0));
        assert_eq!(
            one.goals.iter().map(|goal| (goal.of.as_str(), goal.met)).collect::<Vec<_>>(),
            [("p95 of ours", true), ("p95 of ours", false)]
        );
    }

    #[test]
    fn numbers_are_written_with_three_digits() {
        let written = [0.0, 0.021_34, 0.5, 1.234, 12.34, 123.4, 1234.0, 12_345.6, 1_234_567.0].map(figure);
        assert_eq!(written, ["0", "0.0213", "0.5", "1.23", "12.3", "123", "1234", "12 346", "1 234 567"]);
    }

    #[test]
    fn a_report_survives_its_file() {
        let comparison = Comparison::new("time", "ms").variant("ours", vec![6.0]).value("ours", Bound::Within(1.0, 2.0), None);
        let text = serde_json::to_string(&comparison).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison);
    }
}
