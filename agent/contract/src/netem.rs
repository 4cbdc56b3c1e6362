//! The integers that netem is given for a loss model, and what the kernel's code makes of them. No netlink.
//!
//! netem compares uniform random numbers of 32 bits with its parameters and adds parameters in 32 bits (`net/sched/sch_netem.c`). What is sent and
//! what is predicted both come from [`NetemLoss`], so they cannot differ. The kernel's code is the same from 3.14 on, but for one thing: before 7.1
//! `loss_4state` lets a packet pass and stays in its state where the random number *equals* a threshold, which happens once in 2³².

use crate::{
    LossModel, MeanBurst, Share,
    estimate::LOG_IMPROBABLE,
    predict::{self, Chain, LongRun, WINDOW},
};

/// Values of a random number of 32 bits.
const RANGE: f64 = 4_294_967_296.0;

/// A probability as netem has it: 0 is never, `u32::MAX` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Probability(pub u32);

impl Probability {
    /// Of a percentage from 0 to 100, rounded as iproute2 does (`get_percent_rand` in tc/tc_util.c, `rint`).
    #[must_use]
    pub fn from_percent(percent: f64) -> Self {
        // In range for every percentage that this crate's types can hold; `as` saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Self((percent / 100.0 * f64::from(u32::MAX)).round_ties_even() as u32)
    }

    /// In percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        100.0 * f64::from(self.0) / f64::from(u32::MAX)
    }
}

impl From<Share> for Probability {
    fn from(share: Share) -> Self {
        Self::from_percent(share.percent())
    }
}

/// What netem's loss generator is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetemLoss {
    /// A threshold for each packet's random number (`loss` in `struct tc_netem_qopt`), and that number's correlation (`loss_corr` in `struct tc_netem_corr`).
    Random {
        /// Packets up to this number are lost; none where it is 0.
        loss: Probability,
        /// Weight of the last number.
        correlation: Probability,
    },
    /// `struct tc_netem_gemodel`: Gilbert-Elliott.
    GilbertElliott {
        /// From the good state to the bad one.
        p: Probability,
        /// From the bad state to the good one.
        r: Probability,
        /// That a packet passes in the bad state; tc and its users have 1-h.
        h: Probability,
        /// That a packet is lost in the good state (1-k).
        k1: Probability,
    },
    /// `struct tc_netem_gimodel`: four states. 1 received in a gap, 2 received in a burst, 3 lost in a burst, 4 lost alone.
    FourState {
        /// From 1 to 3.
        p13: Probability,
        /// From 3 to 1.
        p31: Probability,
        /// From 3 to 2.
        p32: Probability,
        /// From 1 to 4.
        p14: Probability,
        /// From 2 to 3.
        p23: Probability,
    },
}

impl NetemLoss {
    /// Of a model that has passed its check. Sums that the kernel adds in 32 bits fit.
    #[must_use]
    pub fn of(model: &LossModel) -> Self {
        match *model {
            LossModel::Random { loss_percentage, correlation } => Self::Random {
                loss: Probability::from_percent(loss_percentage.percent()),
                correlation: Probability::from_percent(correlation.percent()),
            },
            LossModel::Gilbert { loss_percentage, mean_burst } => {
                let loss = loss_percentage.percent() / 100.0;
                let r = 1.0 / mean_burst.packets();
                let p = r * loss / (1.0 - loss);
                let [p, r] = [p, r].map(|fraction| Probability::from_percent(100.0 * fraction));
                Self::GilbertElliott { p, r, h: Probability(0), k1: Probability(0) }
            }
            LossModel::Gemodel { p, r, h, k } => {
                Self::GilbertElliott { p: p.into(), r: r.into(), h: Probability(u32::MAX - Probability::from(h).0), k1: k.into() }
            }
            LossModel::State { p13, p31, p32, p23, p14 } => {
                let [p13, p14] = within_range([p13.into(), p14.into()]);
                let [p31, p32] = within_range([p31.into(), p32.into()]);
                Self::FourState { p13, p31, p32, p14, p23: p23.into() }
            }
        }
    }

    /// Share of the packets that are lost and mean number of packets that are lost in a row, after many packets.
    pub(crate) fn long_run(&self) -> LongRun {
        match *self {
            Self::Random { loss: Probability(0), .. } => LongRun { loss: 0.0, mean_burst: 0.0 },
            Self::Random { loss, correlation: Probability(0) } => LongRun::independent(up_to(loss)),
            Self::Random { loss, correlation } => LongRun::independent(predict::correlated(up_to(loss), up_to(correlation))),
            Self::GilbertElliott { p, r, h, k1 } => gilbert_elliott(p, r, h, k1).long_run(),
            Self::FourState { p13, p31, p32, p14, p23 } => four_state(p13, p31, p32, p14, p23).long_run(),
        }
    }

    /// The factor between the variance of the share of lost packets and that of as many independent losses, for many packets.
    pub(crate) fn variance_inflation(&self) -> f64 {
        match *self {
            Self::Random { loss: Probability(0), .. } | Self::Random { correlation: Probability(0), .. } => 1.0,
            Self::Random { loss, correlation } => predict::correlated_inflation(up_to(loss), up_to(correlation)),
            Self::GilbertElliott { p, r, h, k1 } => gilbert_elliott(p, r, h, k1).variance_inflation(),
            Self::FourState { p13, p31, p32, p14, p23 } => four_state(p13, p31, p32, p14, p23).variance_inflation(),
        }
    }

    /// The share that may be lost for thousands of packets in a row, 0 to 1, where that is another than in the long run.
    ///
    /// The models gemodel and state can stay in a state, the first one too, for longer than any run. As much as the longest bursts of the model gilbert
    /// lose, [`MeanBurst::MAX`] packets more than on average, is not counted. A first random number that the later ones hardly leave may lose all.
    pub(crate) fn worst_window(&self) -> Option<f64> {
        let window = match *self {
            Self::Random { .. } => return (self.longest_start() > MeanBurst::MAX).then_some(1.0),
            Self::GilbertElliott { p, r, h, k1 } => gilbert_elliott(p, r, h, k1).worst_window(),
            Self::FourState { p13, p31, p32, p14, p23 } => four_state(p13, p31, p32, p14, p23).worst_window(),
        };
        ((window - self.long_run().loss) * f64::from(WINDOW) > MeanBurst::MAX).then_some(window)
    }

    /// How many packets in a row may be lost at the start of correlated loss whose threshold is below a half: the first number is any, and the later
    /// ones leave it slowly (`init_crandom`). Infinite where they never do.
    fn longest_start(&self) -> f64 {
        match *self {
            Self::Random { loss, correlation } if correlation.0 > 0 && loss.0 > 0 => {
                let (loss, weight) = (up_to(loss), up_to(correlation));
                if loss >= 0.5 || weight >= 1.0 { f64::INFINITY } else { (0.5 / (0.5 - loss)).ln() / -weight.ln() }
            }
            _ => 0.0,
        }
    }

    /// How many packets more, or fewer where this is negative, may be lost than in the long run because of where the kernel starts: more is less probable than
    /// 10⁻⁶.
    ///
    /// A chain starts in its first state (`state = 1` in `get_loss_clg`), and the time until it has forgotten that is distributed as e⁻ᵗ, where it is long.
    pub(crate) fn start(&self) -> f64 {
        match *self {
            Self::Random { .. } => match self.longest_start() {
                0.0 => 0.0,
                // By how many steps the later numbers leave the first one is a matter of chance, too.
                packets => 3.0 * packets + 12.0,
            },
            Self::GilbertElliott { p, r, h, k1 } => -LOG_IMPROBABLE * gilbert_elliott(p, r, h, k1).start(),
            Self::FourState { p13, p31, p32, p14, p23 } => -LOG_IMPROBABLE * four_state(p13, p31, p32, p14, p23).start(),
        }
    }
}

/// The probability that a random number is less.
fn below(threshold: u32) -> f64 {
    f64::from(threshold) / RANGE
}

/// The probability that a random number is not more.
fn up_to(threshold: Probability) -> f64 {
    (f64::from(threshold.0) + 1.0) / RANGE
}

/// Two ways out of one state, whose sum is a threshold of 32 bits: more than that would wrap, and the state would never be left, or never kept.
/// 90 and 10 % are rounded up to 2³² together, so the larger one gives way by what is too much, which is 2⁻³² here.
fn within_range([a, b]: [Probability; 2]) -> [Probability; 2] {
    let excess = (a.0.checked_add(b.0)).map_or_else(|| a.0.wrapping_add(b.0).saturating_add(1), |_| 0);
    if a >= b { [Probability(a.0.saturating_sub(excess)), b] } else { [a, Probability(b.0.saturating_sub(excess))] }
}

/// `loss_gilb_ell`: each packet's fate is its state's, then the state may change.
fn gilbert_elliott(p: Probability, r: Probability, h: Probability, k1: Probability) -> Chain<2> {
    let [p, r, k1, lost] = [p.0, r.0, k1.0, u32::MAX - h.0].map(below);
    Chain { next: [[1.0 - p, p], [r, 1.0 - r]], loss: [k1, lost] }
}

/// `loss_4state`: the state may change, then each packet's fate is its state's. The thresholds are sums of 32 bits.
fn four_state(p13: Probability, p31: Probability, p32: Probability, p14: Probability, p23: Probability) -> Chain<4> {
    // The ways out of a state: by numbers below `first`, and from there below the sum.
    let ways = |first: Probability, second: Probability| {
        let sum = first.0.wrapping_add(second.0);
        (below(first.0), below(sum.saturating_sub(first.0)), 1.0 - below(sum.max(first.0)))
    };
    let (to4, to3, stay1) = ways(p14, p13);
    let (to2, to1, stay3) = ways(p32, p31);
    let back = below(p23.0);
    Chain {
        next: [[stay1, 0.0, to3, to4], [0.0, 1.0 - back, back, 0.0], [to1, to2, stay3, 0.0], [1.0, 0.0, 0.0, 0.0]],
        loss: [0.0, 0.0, 1.0, 1.0],
    }
}

#[cfg(test)]
#[path = "netem_tests.rs"]
mod tests;
