//! The pictures of a report: lines of SVG whose places are in percent, so that they take the width that there is, and whose letters and lines
//! keep their size. What they show stands beside them in words, so they are hidden from who has the page read aloud.

/// Of a line, in pixels.
const HEIGHT: u32 = 24;

/// What lies between the left and the right end of all lines of a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    most: f64,
    ticks: Vec<(f64, String)>,
}

impl Scale {
    /// From 0 to at least so many percent.
    pub(super) fn percent(least: f64) -> Self {
        let least = least.clamp(0.01, 100.0);
        let step = step(least / 4.0);
        let count = (least / step).ceil();
        let most = (step * count).min(100.0);
        Self { most, ticks: ticks(step, most, |at| format!("{}%", short(at))) }
    }

    /// From 0 to so many seconds.
    pub(super) fn seconds(most: f64) -> Self {
        /// What a person counts time in.
        const STEPS: [u32; 17] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400];
        let most = most.max(1.0);
        let step = STEPS.into_iter().map(f64::from).find(|step| most / step <= 5.0).unwrap_or(86_400.0 * (most / 432_000.0).ceil());
        #[allow(clippy::cast_possible_truncation)] // of whole seconds, seven days at most
        Self { most, ticks: ticks(step, most, |at| crate::view::span(at as i64)) }
    }

    /// A place on it, as SVG has it.
    fn at(&self, value: f64) -> String {
        format!("{:.2}%", 100.0 * (value / self.most).clamp(0.0, 1.0))
    }

    fn grid(&self) -> String {
        let line = |(at, _): &(f64, String)| {
            let x = self.at(*at);
            format!("<line class=\"grid\" x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"{HEIGHT}\"/>")
        };
        self.ticks.iter().map(line).collect()
    }

    /// The line of figures below a picture.
    pub(super) fn labels(&self) -> String {
        let text = |(at, words): &(f64, String)| {
            let anchor = match at / self.most {
                place if place < 0.04 => "start",
                place if place > 0.94 => "end",
                _ => "middle",
            };
            format!("<text x=\"{}\" y=\"13\" text-anchor=\"{anchor}\">{words}</text>", self.at(*at))
        };
        let texts: String = self.ticks.iter().map(text).collect();
        format!("<svg height=\"18\" aria-hidden=\"true\"><line class=\"base\" x1=\"0\" x2=\"100%\" y1=\"0\" y2=\"0\"/>{texts}</svg>")
    }

    fn line(&self, inside: &str) -> String {
        format!("<svg height=\"{HEIGHT}\" aria-hidden=\"true\">{}{inside}</svg>", self.grid())
    }

    /// From when to when a loss was in place, and until when it was asked for.
    pub(super) fn time(&self, from: f64, until: f64, planned: Option<f64>) -> String {
        let rect = |class: &str, until: f64| {
            let width = (until.min(self.most) - from).max(0.0);
            format!("<rect class=\"{class}\" x=\"{}\" width=\"{}\" y=\"5\" height=\"14\" rx=\"3\"/>", self.at(from), self.at(width))
        };
        let planned = planned.map(|until| rect("plan", until)).unwrap_or_default();
        self.line(&format!("{}{planned}", rect("bar", until)))
    }

    /// A line without a figure.
    pub(super) fn nothing(&self) -> String {
        self.line("")
    }

    /// What was asked for, what is predicted where that is something else, and what was seen: the share and the bounds of its interval.
    pub(super) fn share(&self, asked: f64, predicted: Option<f64>, seen: Option<(f64, f64, f64)>) -> String {
        let mark = |class: &str, value: f64| {
            let x = self.at(value);
            format!("<line class=\"{class}\" x1=\"{x}\" x2=\"{x}\" y1=\"1\" y2=\"23\"/>")
        };
        let seen = seen.map(|(share, low, high)| {
            let (share, low, high) = (self.at(share), self.at(low), self.at(high));
            format!(
                "<line class=\"interval\" x1=\"{low}\" x2=\"{high}\" y1=\"12\" y2=\"12\"/><circle class=\"dot\" cx=\"{share}\" cy=\"12\" r=\"4.5\"/>"
            )
        });
        let predicted = predicted.map(|value| mark("predicted", value)).unwrap_or_default();
        self.line(&format!("{}{predicted}{}", mark("asked", asked), seen.unwrap_or_default()))
    }
}

/// What the signs mean: each with its words.
pub(super) fn key(signs: &[(&str, &str)]) -> String {
    let sign = |(sign, words): &(&str, &str)| {
        let drawn = match *sign {
            "bar" => "<rect class=\"bar\" width=\"26\" height=\"10\" y=\"1\" rx=\"3\"/>".to_owned(),
            "plan" => "<rect class=\"plan\" x=\"1\" width=\"24\" height=\"10\" y=\"1\" rx=\"3\"/>".to_owned(),
            "seen" => "<line class=\"interval\" x1=\"0\" x2=\"26\" y1=\"6\" y2=\"6\"/><circle class=\"dot\" cx=\"13\" cy=\"6\" r=\"4.5\"/>"
                .to_owned(),
            class => format!("<line class=\"{class}\" x1=\"13\" x2=\"13\" y1=\"0\" y2=\"12\"/>"),
        };
        format!("<svg aria-hidden=\"true\">{drawn}</svg>{words}")
    };
    format!("<p class=\"key soft small\">{}</p>", signs.iter().map(sign).collect::<String>())
}

/// The next larger of 1, 2, 2.5 and 5 times a power of ten.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0].map(|step| step * power).into_iter().find(|step| *step >= least * 0.999).unwrap_or(10.0 * power)
}

fn ticks(step: f64, most: f64, words: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    (0..=8_u32).map(|n| f64::from(n) * step).take_while(|at| *at <= most * 1.001).map(|at| (at, words(at))).collect()
}

/// Without noughts at its end.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, words)| words.as_str()).collect()
    }

    #[test]
    fn scales_have_figures_that_a_person_would_choose() {
        assert_eq!(words(&Scale::percent(11.8)), ["0%", "5%", "10%", "15%"]);
        assert_eq!(words(&Scale::percent(0.13)), ["0%", "0.05%", "0.1%", "0.15%"]);
        assert_eq!(words(&Scale::percent(100.0)), ["0%", "25%", "50%", "75%", "100%"]);
        assert_eq!(words(&Scale::seconds(41.0)), ["0s", "10s", "20s", "30s", "40s"]);
        assert_eq!(words(&Scale::seconds(0.0)), ["0s", "1s"]);
        assert_eq!(words(&Scale::seconds(7.0 * 86_400.0)).last(), Some(&"6d"));
        assert_eq!(words(&Scale::seconds(140.0)), ["0s", "30s", "1m", "1m30s", "2m"]);
    }

    #[test]
    fn nothing_leaves_the_picture() {
        let scale = Scale::percent(10.0);
        let line = scale.share(200.0, None, Some((3.0, -1.0, 300.0)));
        assert!(line.contains("x1=\"100.00%\"") && line.contains("x1=\"0.00%\" x2=\"100.00%\""), "{line}");
        let line = Scale::seconds(40.0).time(30.0, 90.0, None);
        assert!(line.contains("x=\"75.00%\" width=\"25.00%\""), "{line}");
    }
}
