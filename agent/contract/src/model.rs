//! How packets are lost: netem's models, and what each of them loses.

use crate::{Correlation, Expectation, Invalid, LossPercentage, NetemLoss, Share};
use clap::{ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How many packets are lost in a row, on average: 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "f64", into = "f64")]
pub struct MeanBurst(f64);

impl MeanBurst {
    /// The longest, in packets. A judgement: it is a second of a pod that sends 1000 packets a second, and a loss of all packets for longer is a
    /// partition. The window of `Chain::worst_window` is sixteen times as long.
    pub const MAX: f64 = 1000.0;

    /// In packets.
    #[must_use]
    pub fn packets(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for MeanBurst {
    type Error = Invalid;

    fn try_from(packets: f64) -> Result<Self, Invalid> {
        if (1.0..=Self::MAX).contains(&packets) {
            Ok(Self(packets))
        } else {
            Err(Invalid::new(format!(
                "a mean burst of {packets} packets is out of range: give a number from 1 to {}, such as 4",
                Self::MAX
            )))
        }
    }
}

impl FromStr for MeanBurst {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let number = text.trim().parse::<f64>();
        number.map_err(|_| Invalid::new(format!("\"{text}\" is not a number of packets: give one such as 4 or 2.5")))?.try_into()
    }
}

impl From<MeanBurst> for f64 {
    fn from(burst: MeanBurst) -> f64 {
        burst.0
    }
}

impl fmt::Display for MeanBurst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The least loss that is not rounded to none, in percent: half of 2⁻³², rounded up.
const LEAST_PERCENTAGE: &str = "0.00000002";

/// How netem chooses the packets that it drops (tc-netem(8), `net/sched/sch_netem.c`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "model", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum LossModel {
    /// Each packet by itself, or with netem's correlation, which lowers the rate.
    Random {
        /// In percent.
        loss_percentage: LossPercentage,
        /// In percent.
        #[serde(default)]
        correlation: Correlation,
    },
    /// In bursts: the mean loss is kept, and so is the mean length of a burst.
    Gilbert {
        /// In percent.
        loss_percentage: LossPercentage,
        /// In packets.
        mean_burst: MeanBurst,
    },
    /// Gilbert-Elliott: a good and a bad state, each with a loss of its own.
    Gemodel {
        /// From the good state to the bad one, in percent.
        p: Share,
        /// From the bad state to the good one, in percent.
        r: Share,
        /// Loss in the bad state, in percent.
        #[serde(rename = "1-h")]
        h: Share,
        /// Loss in the good state, in percent.
        #[serde(rename = "1-k")]
        k: Share,
    },
    /// Four states: 1 received in a gap, 2 received in a burst, 3 lost in a burst, 4 lost alone.
    State {
        /// From 1 to 3, in percent.
        p13: Share,
        /// From 3 to 1, in percent.
        p31: Share,
        /// From 3 to 2, in percent.
        p32: Share,
        /// From 2 to 3, in percent.
        p23: Share,
        /// From 1 to 4, in percent.
        p14: Share,
    },
}

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
    /// Loss of that rate in bursts of that mean length.
    ///
    /// # Errors
    /// Where the bursts would have to come more often than every packet.
    pub fn gilbert(loss_percentage: LossPercentage, mean_burst: MeanBurst) -> Result<Self, Invalid> {
        let model = Self::Gilbert { loss_percentage, mean_burst };
        model.check().map(|()| model)
    }

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

    /// The arguments that [`clap`] reads back to the same model.
    #[must_use]
    pub fn to_argv(&self) -> Vec<String> {
        match self {
            Self::Random { loss_percentage, correlation } => {
                vec!["--model=random".to_owned(), format!("--loss={loss_percentage}"), format!("--correlation={correlation}")]
            }
            Self::Gilbert { loss_percentage, mean_burst } => {
                vec!["--model=gilbert".to_owned(), format!("--loss={loss_percentage}"), format!("--burst={mean_burst}")]
            }
            Self::Gemodel { p, r, h, k } => vec![format!("--model=gemodel,{p},{r},{h},{k}")],
            Self::State { p13, p31, p32, p23, p14 } => vec![format!("--model=state,{p13},{p31},{p32},{p23},{p14}")],
        }
    }
}

impl fmt::Display for LossModel {
    /// In words that go on after "loses".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random { loss_percentage, correlation } if correlation.is_none() => write!(f, "{loss_percentage} %"),
            Self::Random { loss_percentage, correlation } => write!(f, "{loss_percentage} %, correlation {correlation} %"),
            Self::Gilbert { loss_percentage, mean_burst } => write!(f, "{loss_percentage} % in bursts of {mean_burst}"),
            Self::Gemodel { p, r, h, k } => write!(f, "gemodel p {p} % r {r} % 1-h {h} % 1-k {k} %"),
            Self::State { p13, p31, p32, p23, p14 } => write!(f, "state p13 {p13} % p31 {p31} % p32 {p32} % p23 {p23} % p14 {p14} %"),
        }
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

/// The arguments as they are typed, which have to fit together.
#[derive(Debug, Args)]
struct LossArgs {
    /// Share of packets to lose, in percent: above 0, up to 100. Needed by the models random and gilbert
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    loss: Option<LossPercentage>,

    /// Correlation of losses, in percent: how much one packet's fate depends on the last one's (model random; lowers the effective loss)
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    correlation: Option<Correlation>,

    /// How packets are chosen: "random"; "gilbert" in bursts, with --burst; "gemodel P R 1-H 1-K" and "state P13 P31 P32 P23 P14"
    /// as tc-netem(8) has them, in percent
    #[arg(long, value_name = "MODEL", num_args = 1..=6, value_delimiter = ',', default_value = "random", allow_negative_numbers = true)]
    model: Vec<String>,

    /// How many packets are lost in a row on average: 1 to 1000 (model gilbert)
    #[arg(long, value_name = "PACKETS", allow_negative_numbers = true)]
    burst: Option<MeanBurst>,
}

impl TryFrom<LossArgs> for LossModel {
    type Error = Invalid;

    fn try_from(args: LossArgs) -> Result<Self, Invalid> {
        let (name, numbers) =
            args.model.split_first().ok_or_else(|| Invalid::new("--model has no value: give random, gilbert, gemodel or state"))?;
        let model = match name.as_str() {
            "random" | "gilbert" => {
                if let Some(number) = numbers.first() {
                    return Err(Invalid::new(format!("the model {name} takes no probabilities, but --model was given \"{number}\"")));
                }
                let missing = || Invalid::new(format!("--loss is missing: the model {name} needs a percentage, such as --loss 10"));
                let loss_percentage = args.loss.ok_or_else(missing)?;
                if name == "random" {
                    refuse("--burst", args.burst.is_some(), name, "ask for --model gilbert")?;
                    Self::Random { loss_percentage, correlation: args.correlation.unwrap_or_default() }
                } else {
                    refuse("--correlation", args.correlation.is_some(), name, "leave it out: bursts are what --burst says")?;
                    let missing =
                        || Invalid::new("--burst is missing: the model gilbert needs the mean length of a burst, such as --burst 4");
                    Self::Gilbert { loss_percentage, mean_burst: args.burst.ok_or_else(missing)? }
                }
            }
            "gemodel" | "state" => {
                let remedy = "leave it out: the probabilities say all";
                refuse("--loss", args.loss.is_some(), name, remedy)?;
                refuse("--correlation", args.correlation.is_some(), name, remedy)?;
                refuse("--burst", args.burst.is_some(), name, remedy)?;
                let shares = numbers.iter().map(|number| number.parse()).collect::<Result<Vec<Share>, _>>();
                let shares = shares.map_err(|error| Invalid::new(format!("--model {name}: {error}")))?;
                match (name.as_str(), shares.as_slice()) {
                    ("gemodel", &[p, r]) => Self::Gemodel { p, r, h: Share::ALL, k: Share::default() },
                    ("gemodel", &[p, r, h]) => Self::Gemodel { p, r, h, k: Share::default() },
                    ("gemodel", &[p, r, h, k]) => Self::Gemodel { p, r, h, k },
                    ("state", &[p13, p31, p32, p23, p14]) => Self::State { p13, p31, p32, p23, p14 },
                    ("gemodel", other) => {
                        let given = other.len();
                        return Err(Invalid::new(format!(
                            "the model gemodel takes 2 to 4 probabilities (P R [1-H [1-K]]), but --model was given {given}"
                        )));
                    }
                    (_, other) => {
                        let given = other.len();
                        return Err(Invalid::new(format!(
                            "the model state takes 5 probabilities (P13 P31 P32 P23 P14), but --model was given {given}"
                        )));
                    }
                }
            }
            other => {
                return Err(Invalid::new(format!("--model \"{other}\" is none of the models random, gilbert, gemodel and state")));
            }
        };
        model.check().map(|()| model)
    }
}

fn refuse(argument: &str, given: bool, model: &str, remedy: &str) -> Result<(), Invalid> {
    if given { Err(Invalid::new(format!("{argument} is not for the model {model}: {remedy}"))) } else { Ok(()) }
}

impl Args for LossModel {
    fn augment_args(command: Command) -> Command {
        LossArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        LossArgs::augment_args_for_update(command)
    }
}

impl FromArgMatches for LossModel {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let model = LossArgs::from_arg_matches(matches)?.try_into();
        model.map_err(|error: Invalid| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(crate) mod tests;
