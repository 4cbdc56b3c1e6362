//! netem's `TCA_OPTIONS`, as the kernel and iproute2 write them. No I/O.
//!
//! The options are `struct tc_netem_qopt` followed by attributes (`include/uapi/linux/pkt_sched.h`, `net/sched/sch_netem.c`). Numbers
//! are in host byte order, as everywhere in rtnetlink.

use netlink_packet_core::{NLA_ALIGNTO, NLA_F_NESTED, NLA_HEADER_SIZE, NlasIterator};
use netloss_contract::{LossModel as Asked, NetemLoss};

pub use netloss_contract::Probability;

/// `struct tc_netem_qopt` in bytes.
const QOPT_LENGTH: usize = 24;

/// `TCA_NETEM_*` (include/uapi/linux/pkt_sched.h).
const TCA_NETEM_CORR: u16 = 1;
const TCA_NETEM_LOSS: u16 = 5;
const TCA_NETEM_PRNG_SEED: u16 = 14;

/// Nested in [`TCA_NETEM_LOSS`]: `struct tc_netem_gimodel` and `struct tc_netem_gemodel`.
const NETEM_LOSS_GI: u16 = 1;
const NETEM_LOSS_GE: u16 = 2;

/// `struct tc_netem_corr`: how much one packet's fate depends on the last one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Correlations {
    /// Of delays.
    pub delay: Probability,
    /// Of losses.
    pub loss: Probability,
    /// Of duplications.
    pub duplicate: Probability,
}

/// A loss model with a memory, in place of the plain probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossModel {
    /// `struct tc_netem_gimodel`, four states: p13, p31, p32, p14, p23.
    GilbertIntuitive([Probability; 5]),
    /// `struct tc_netem_gemodel`, Gilbert-Elliot: p, r, h, 1-k.
    GilbertElliot([Probability; 4]),
}

/// The options of one netem qdisc.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Netem {
    /// Delay, in ticks of the packet scheduler's clock.
    pub latency: u32,
    /// Packets that the queue holds; one more is dropped.
    pub limit: u32,
    /// Probability that a packet is lost.
    pub loss: Probability,
    /// Every n-th packet is sent at once (reordering).
    pub gap: u32,
    /// Probability that a packet is duplicated.
    pub duplicate: Probability,
    /// Variation of the delay, in ticks of the packet scheduler's clock.
    pub jitter: u32,
    /// None leaves what the qdisc has: a change that means "uncorrelated" must say so with zeros.
    pub correlations: Option<Correlations>,
    /// None is the plain probability.
    pub model: Option<LossModel>,
    /// Seed of the random numbers, of kernels that have one (about 6.7 on).
    pub seed: Option<u64>,
    /// Attributes that this agent has no use for, as they came.
    pub others: Vec<(u16, Vec<u8>)>,
}

/// Bytes that are no netem options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netem options: {0}")]
pub struct Malformed(&'static str);

impl Netem {
    /// Length of the queue, in packets. Ten times iproute2's default of 1000, as what a full queue drops would count as loss. Without a delay a packet
    /// leaves the queue at once, so it holds memory only where the interface below is slower than the pod.
    pub const LIMIT: u32 = 10_000;

    /// Loss of that model, complete: every part that a change could otherwise leave as it was is said.
    #[must_use]
    pub fn of(model: &Asked, seed: Option<u64>) -> Self {
        let mut netem = Self { limit: Self::LIMIT, correlations: Some(Correlations::default()), seed, ..Self::default() };
        match NetemLoss::of(model) {
            NetemLoss::Random { loss, correlation } => {
                netem.loss = loss;
                netem.correlations = Some(Correlations { loss: correlation, ..Correlations::default() });
            }
            NetemLoss::GilbertElliott { p, r, h, k1 } => netem.model = Some(LossModel::GilbertElliot([p, r, h, k1])),
            NetemLoss::FourState { p13, p31, p32, p14, p23 } => {
                netem.model = Some(LossModel::GilbertIntuitive([p13, p31, p32, p14, p23]));
            }
        }
        netem
    }

    /// The same, with other random numbers where they are seeded: two directions are not to lose in step.
    #[must_use]
    pub fn reseeded(&self) -> Self {
        Self { seed: self.seed.map(|seed| seed.wrapping_add(1)), ..self.clone() }
    }

    /// Whether both lose packets in the same way and do nothing else to them.
    ///
    /// The kernel answers with more than it was told: attributes that are all zero, and a seed of its own where `other` has none.
    #[must_use]
    pub fn has_the_effect_of(&self, other: &Self) -> bool {
        let effect = |netem: &Self| {
            let mut others: Vec<_> = netem.others.iter().filter(|(_, value)| value.iter().any(|byte| *byte != 0)).cloned().collect();
            others.sort();
            let correlations = Some(netem.correlations.unwrap_or_default());
            Self { correlations, seed: netem.seed.filter(|_| other.seed.is_some()), others, ..netem.clone() }
        };
        effect(self) == effect(other)
    }

    /// The value of `TCA_OPTIONS`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let qopt = [self.latency, self.limit, self.loss.0, self.gap, self.duplicate.0, self.jitter];
        let mut bytes: Vec<u8> = qopt.into_iter().flat_map(u32::to_ne_bytes).collect();
        if let Some(Correlations { delay, loss, duplicate }) = self.correlations {
            push(&mut bytes, TCA_NETEM_CORR, &words(&[delay, loss, duplicate]));
        }
        if let Some(model) = self.model {
            let mut nested = Vec::new();
            match model {
                LossModel::GilbertIntuitive(values) => push(&mut nested, NETEM_LOSS_GI, &words(&values)),
                LossModel::GilbertElliot(values) => push(&mut nested, NETEM_LOSS_GE, &words(&values)),
            }
            push(&mut bytes, TCA_NETEM_LOSS | NLA_F_NESTED, &nested);
        }
        if let Some(seed) = self.seed {
            push(&mut bytes, TCA_NETEM_PRNG_SEED, &seed.to_ne_bytes());
        }
        for (kind, value) in &self.others {
            push(&mut bytes, *kind, value);
        }
        bytes
    }

    /// Reads the value of `TCA_OPTIONS`.
    ///
    /// # Errors
    /// Where the bytes are too short, or an attribute that loss depends on has another length than the kernel's.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (qopt, attributes) = bytes.split_at_checked(QOPT_LENGTH).ok_or(Malformed("shorter than tc_netem_qopt"))?;
        let [latency, limit, loss, gap, duplicate, jitter] = array(qopt)?;
        let mut netem = Self { latency, limit, loss: Probability(loss), gap, duplicate: Probability(duplicate), jitter, ..Self::default() };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute.map_err(|_| Malformed("an attribute is cut off"))?;
            let (kind, value) = (attribute.kind(), attribute.value());
            match kind {
                TCA_NETEM_CORR => {
                    let [delay, loss, duplicate] = array(value)?.map(Probability);
                    netem.correlations = Some(Correlations { delay, loss, duplicate });
                }
                TCA_NETEM_LOSS => netem.model = Some(decode_model(value)?),
                TCA_NETEM_PRNG_SEED => {
                    let seed = value.try_into().map_err(|_| Malformed("the seed is not 64 bits long"))?;
                    netem.seed = Some(u64::from_ne_bytes(seed));
                }
                _ => netem.others.push((kind, value.to_vec())),
            }
        }
        Ok(netem)
    }
}

fn decode_model(nested: &[u8]) -> Result<LossModel, Malformed> {
    for attribute in NlasIterator::new(nested) {
        let attribute = attribute.map_err(|_| Malformed("the loss model is cut off"))?;
        match attribute.kind() {
            NETEM_LOSS_GI => return Ok(LossModel::GilbertIntuitive(array(attribute.value())?.map(Probability))),
            NETEM_LOSS_GE => return Ok(LossModel::GilbertElliot(array(attribute.value())?.map(Probability))),
            _ => {}
        }
    }
    Err(Malformed("an unknown loss model"))
}

fn words(values: &[Probability]) -> Vec<u8> {
    values.iter().flat_map(|value| value.0.to_ne_bytes()).collect()
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u32; N], Malformed> {
    let (words, []) = bytes.as_chunks::<4>() else { return Err(Malformed("a length that is no multiple of 4")) };
    let words: &[[u8; 4]; N] = words.try_into().map_err(|_| Malformed("an attribute of another length than the kernel's"))?;
    Ok(words.map(u32::from_ne_bytes))
}

/// Appends an attribute: `struct nlattr`, the value, and padding to four bytes.
fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // netem's attributes are a few words long.
    #[allow(clippy::cast_possible_truncation)]
    let length = (NLA_HEADER_SIZE + value.len()) as u16;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(NLA_ALIGNTO), 0);
}

#[cfg(test)]
#[path = "netem_tests.rs"]
mod tests;
