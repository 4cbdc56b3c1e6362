//! How packets are lost: netem's models.

use crate::{Correlation, Invalid, LossPercentage, Share};
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

impl LossModel {
    /// Loss of that rate in bursts of that mean length.
    ///
    /// # Errors
    /// Where the bursts would have to come more often than every packet.
    pub fn gilbert(loss_percentage: LossPercentage, mean_burst: MeanBurst) -> Result<Self, Invalid> {
        let model = Self::Gilbert { loss_percentage, mean_burst };
        model.check().map(|()| model)
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
