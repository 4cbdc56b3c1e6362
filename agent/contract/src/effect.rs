//! What a loss model really does, by the integers that netem is given: whether it loses anything, how much, and what to say of that.

use crate::{Correlation, Expectation, Invalid, LossModel, NetemLoss};
use serde::{Deserialize, Serialize};

/// The least loss that is not rounded to none, in percent: half of 2⁻³², rounded up.
const LEAST_PERCENTAGE: &str = "0.00000002";

/// What a loss model does to many packets, by the kernel's formula.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Predicted {
    /// Share of the packets that are lost, in percent.
    pub loss_percentage: f64,
    /// Packets that are lost in a row, on average; none for correlated random loss, whose bursts hardly grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_burst: Option<f64>,
}

impl LossModel {
    /// Whether its numbers fit together.
    ///
    /// # Errors
    /// Where they do not, with what is wrong and the way out.
    pub fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Gilbert { loss_percentage, mean_burst } => {
                let loss = loss_percentage.percent() / 100.0;
                if loss >= 1.0 || loss / (1.0 - loss) > mean_burst.packets() {
                    return Err(Invalid::new(format!(
                        "a loss of {loss_percentage} % cannot come in bursts of {mean_burst} packets: between two bursts there is at least \
                         one packet, so give longer bursts (--burst) or less loss (--loss)"
                    )));
                }
            }
            Self::State { p13, p31, p32, p14, .. } => {
                for (names, sum) in [("P13 and P14", p13.percent() + p14.percent()), ("P31 and P32", p31.percent() + p32.percent())] {
                    // Two decimal fractions that are 100 together may be a little more in binary.
                    if sum > 100.0 + 1e-9 {
                        return Err(Invalid::new(format!(
                            "the probabilities {names} of the model state leave the same state, and together they are {sum} %: give at most 100 %"
                        )));
                    }
                }
            }
            Self::Random { .. } | Self::Gemodel { .. } => {}
        }
        match (self, NetemLoss::of(self)) {
            (Self::Random { loss_percentage, .. }, NetemLoss::Random { loss, .. }) if loss.0 == 0 => {
                return Err(Invalid::new(format!(
                    "a loss of {loss_percentage} % is less than netem can tell from none: give at least {LEAST_PERCENTAGE} %"
                )));
            }
            // That correlation leaves next to nothing of it is a warning.
            (Self::Random { .. }, _) => {}
            (Self::Gilbert { loss_percentage, mean_burst }, netem) if netem.long_run().loss == 0.0 => {
                return Err(Invalid::new(format!(
                    "a loss of {loss_percentage} % in bursts of {mean_burst} packets begins less often than netem can tell from never: give more loss \
                     (--loss) or shorter bursts (--burst)"
                )));
            }
            (_, netem) if netem.long_run().loss == 0.0 => {
                return Err(Invalid::new(
                    "with these probabilities no packet is ever lost: raise the one that leads to loss (P, 1-K, P13 or P14)",
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// What was asked for, in percent: the rate that the model was given, or the mean that its probabilities make.
    #[must_use]
    pub fn asked_percentage(&self) -> f64 {
        match self {
            Self::Random { loss_percentage, .. } | Self::Gilbert { loss_percentage, .. } => loss_percentage.percent(),
            Self::Gemodel { .. } | Self::State { .. } => self.predicted().map_or(0.0, |predicted| predicted.loss_percentage),
        }
    }

    /// What it will really lose, by the integers that netem is given; none for independent random loss that loses what it was asked to.
    #[must_use]
    pub fn predicted(&self) -> Option<Predicted> {
        let run = NetemLoss::of(self).long_run();
        match *self {
            Self::Random { loss_percentage, correlation } if correlation.is_none() => {
                let (asked, loss) = (loss_percentage.percent(), 100.0 * run.loss);
                // Where the integers are fine enough.
                ((loss - asked).abs() > asked / 1000.0).then(|| Predicted { loss_percentage: percent(run.loss), mean_burst: None })
            }
            Self::Random { .. } => {
                // Far below the threshold the cells of the distribution say nothing any more.
                let ten_thousandths = (percent(run.loss) * 1e4).round() / 1e4;
                Some(Predicted { loss_percentage: ten_thousandths, mean_burst: None })
            }
            // A burst that never ends has no mean. Where all is lost in the bad state, the kernel lets one packet of 2³² pass.
            Self::Gilbert { .. } | Self::Gemodel { .. } | Self::State { .. } => Some(Predicted {
                loss_percentage: percent(run.loss),
                mean_burst: (run.mean_burst < 1e9).then(|| significant(run.mean_burst)),
            }),
        }
    }

    /// What counters are held against: the rate and its scatter, by the integers that netem is given.
    #[must_use]
    pub fn expectation(&self) -> Expectation {
        let netem = NetemLoss::of(self);
        Expectation::new(100.0 * netem.long_run().loss, netem.variance_inflation()).with_start(netem.start())
    }

    /// The loss that somebody has to agree to, in percent: what is asked for, or what will be lost where that is more, be it for some thousand packets in a row
    /// alone. So it is where a model hardly ever leaves a state in which it loses more, or where correlation is so near to 100 % that the first random number may
    /// lose over a thousand packets in a row.
    #[must_use]
    pub fn highest_percentage(&self) -> f64 {
        let netem = NetemLoss::of(self);
        let worst = netem.worst_window().unwrap_or(0.0).max(netem.long_run().loss);
        self.asked_percentage().max(percent(worst))
    }

    /// That the loss will be another than the asked one, in words; none where it is within a tenth, for some thousand packets in a row too.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let worst = NetemLoss::of(self).worst_window();
        let (Self::Random { loss_percentage, .. } | Self::Gilbert { loss_percentage, .. }) = self else {
            return worst.map(|worst| {
                format!(
                    "these probabilities hardly ever let netem leave one of its states, in which it loses about {} % of thousands of packets in a row: \
                     {} % is the mean over very many",
                    percent(worst),
                    self.asked_percentage()
                )
            });
        };
        let asked = loss_percentage.percent();
        let correlation = if let Self::Random { correlation, .. } = self { *correlation } else { Correlation::default() };
        if worst.is_some() {
            return Some(format!(
                "a correlation of {correlation} % hardly lets netem leave its first random number: in one of {:.0} runs every packet is lost from the start, \
                 and in the others hardly any; for bursts ask for the model gilbert",
                (100.0 / asked).max(1.0)
            ));
        }
        let predicted = self.predicted()?.loss_percentage;
        ((predicted - asked).abs() > asked / 10.0).then(|| {
            if correlation.is_none() {
                format!("netem's probabilities are multiples of 2⁻³²: {asked} % asked will be about {predicted} %")
            } else {
                let direction = if predicted < asked { "lowers" } else { "raises" };
                format!(
                    "netem's correlation {direction} the loss: {asked} % asked with a correlation of {correlation} % will be about {predicted} %; \
                     for bursts that keep the rate ask for the model gilbert"
                )
            }
        })
    }
}

/// In percent.
fn percent(fraction: f64) -> f64 {
    significant(fraction * 100.0)
}

/// Rounded to four significant digits: what a formula promises is not more exact than that.
fn significant(value: f64) -> f64 {
    if value > 0.0 { format!("{value:.3e}").parse().unwrap_or(value) } else { 0.0 }
}
