//! What netem's formulas lose in the long run. Pure.

/// Cells of the distribution that [`correlated`] works on: the error is far below the fourth digit for every loss that is seen at all.
const CELLS: usize = 4096;

/// From here on the distribution is narrower than a few cells, and the normal one is exact enough.
const NARROW: f64 = 0.98;

/// Loss of netem's correlated random numbers, as fractions: the stationary probability that `x` is not above `loss`, where each `x` is
/// `(1 - correlation)·u + correlation·x'` of a uniform `u` and the last `x'` (`get_crandom` in net/sched/sch_netem.c).
///
/// The mix spreads less than `u` alone, so a loss below a half gets rarer, and one above it more frequent.
pub(crate) fn correlated(loss: f64, correlation: f64) -> f64 {
    if loss >= 1.0 || correlation <= 0.0 {
        return loss;
    }
    if correlation >= NARROW {
        // A sum of many independent parts of little weight.
        let deviation = ((1.0 - correlation) / (1.0 + correlation) / 12.0).sqrt();
        return if deviation > 0.0 { normal((loss - 0.5) / deviation) } else { loss };
    }
    let width = 1.0 / CELLS as f64;
    let mut distribution: Vec<f64> = (0..=CELLS).map(|cell| cell as f64 * width).collect();
    let mut integral = vec![0.0; CELLS + 1];
    loop {
        for cell in 0..CELLS {
            integral[cell + 1] = integral[cell] + distribution[cell].midpoint(distribution[cell + 1]) * width;
        }
        // P(x ≤ t) is the mean of P(x' ≤ (t - (1 - c)·u) / c) over all u.
        let scale = correlation / (1.0 - correlation);
        let mut change: f64 = 0.0;
        for (cell, value) in distribution.iter_mut().enumerate() {
            let t = cell as f64 * width;
            let next = scale * (area(&integral, t / correlation) - area(&integral, (t - (1.0 - correlation)) / correlation));
            change = change.max((next - *value).abs());
            *value = next;
        }
        if change < 1e-12 {
            return interpolate(&distribution, loss).clamp(0.0, 1.0);
        }
    }
}

/// The integral from 0 to `x` of a distribution function, which is 0 below 0 and 1 above 1.
fn area(integral: &[f64], x: f64) -> f64 {
    if x <= 0.0 {
        0.0
    } else if x >= 1.0 {
        integral[CELLS] + (x - 1.0)
    } else {
        interpolate(integral, x)
    }
}

fn interpolate(values: &[f64], x: f64) -> f64 {
    let place = x * CELLS as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to CELLS
    let cell = (place as usize).min(CELLS - 1);
    values[cell] + (values[cell + 1] - values[cell]) * (place - cell as f64)
}

/// The standard normal distribution function (Abramowitz and Stegun 26.2.17, error below 1e-7).
fn normal(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let polynomial = t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt() * polynomial;
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// A Markov chain that starts in its first state, and loses a packet in each state with a probability of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<const N: usize> {
    /// Probability of going from the state of the row to that of the column.
    pub(crate) next: [[f64; N]; N],
    /// Probability of losing a packet.
    pub(crate) loss: [f64; N],
}

impl<const N: usize> Chain<N> {
    /// The share of packets lost and the mean number of packets lost in a row, in the long run.
    pub(crate) fn long_run(&self) -> (f64, f64) {
        // Half of the steps stay: that changes nothing in the long run, and no chain swings for ever. Squaring 60 times is 2^60 steps.
        let mut far = [[0.0; N]; N];
        for (row, (far, next)) in far.iter_mut().zip(&self.next).enumerate() {
            for (column, (far, next)) in far.iter_mut().zip(next).enumerate() {
                *far = next / 2.0 + if row == column { 0.5 } else { 0.0 };
            }
        }
        for _ in 0..60 {
            let mut squared = [[0.0; N]; N];
            for row in 0..N {
                for column in 0..N {
                    squared[row][column] = (0..N).map(|via| far[row][via] * far[via][column]).sum();
                }
                // Without this, rounding would take the rows away from 1 a little more with each squaring.
                let sum: f64 = squared[row].iter().sum();
                squared[row].iter_mut().for_each(|value| *value /= sum);
            }
            far = squared;
        }
        let states = far[0];
        let loss: f64 = (0..N).map(|state| states[state] * self.loss[state]).sum();
        let twice: f64 =
            (0..N).map(|from| states[from] * self.loss[from] * (0..N).map(|to| self.next[from][to] * self.loss[to]).sum::<f64>()).sum();
        // A burst begins where a lost packet follows one that was not.
        let begins = loss - twice;
        (loss, if begins > 0.0 { loss / begins } else { f64::INFINITY })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10⁶ draws with the kernel's own integer arithmetic.
    fn draw(loss: f64, correlation: f64) -> f64 {
        let unit = f64::from(u32::MAX);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let (threshold, weight) = ((loss * unit) as u32, (correlation * unit) as u64 + 1);
        let (mut random, mut last, mut hits) = (0x9e37_79b9_7f4a_7c15_u64, u64::from(u32::MAX / 2), 0u32);
        for _ in 0..1_000_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            last = ((random >> 32) * ((1 << 32) - weight) + last * weight) >> 32;
            hits += u32::from(last <= u64::from(threshold));
        }
        f64::from(hits) / 1e6
    }

    #[test]
    fn correlated_loss_is_what_the_kernels_formula_loses() {
        for (loss, correlation) in [(0.05, 0.1), (0.1, 0.25), (0.2, 0.5), (0.4, 0.5), (0.3, 0.75), (0.45, 0.95), (0.7, 0.5)] {
            let (predicted, drawn) = (correlated(loss, correlation), draw(loss, correlation));
            assert!((predicted - drawn).abs() < 0.003, "{loss} {correlation}: {predicted} but {drawn}");
        }
    }

    /// The table that was measured before this was written, in percent.
    #[test]
    fn correlated_loss_is_as_the_tables_have_it() {
        for (loss, correlation, expected) in
            [(1.0, 10.0, 0.02), (5.0, 10.0, 1.25), (10.0, 10.0, 5.6), (10.0, 25.0, 1.75), (40.0, 50.0, 30.2)]
        {
            let predicted = 100.0 * correlated(loss / 100.0, correlation / 100.0);
            assert!((predicted - expected).abs() < 0.05_f64.max(expected / 50.0), "{loss} {correlation}: {predicted} but {expected}");
        }
    }

    #[test]
    fn the_ends_are_exact() {
        assert!((correlated(0.1, 0.0) - 0.1).abs() < 1e-12);
        assert!((correlated(1.0, 0.5) - 1.0).abs() < 1e-12);
        assert!((correlated(0.5, 0.5) - 0.5).abs() < 1e-6);
        assert!((correlated(0.5, 0.99) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_chain_of_two_states_is_the_gilbert_model() {
        // 5 % in bursts of 4: r = 1/4, p = r·L/(1 − L).
        let (r, p) = (0.25, 0.25 * 0.05 / 0.95);
        let (loss, burst) = Chain { next: [[1.0 - p, p], [r, 1.0 - r]], loss: [0.0, 1.0] }.long_run();
        assert!((loss - 0.05).abs() < 1e-9 && (burst - 4.0).abs() < 1e-9, "{loss} {burst}");
    }

    #[test]
    fn a_state_that_is_never_left_is_where_it_ends() {
        let (loss, burst) = Chain { next: [[0.9, 0.1], [0.0, 1.0]], loss: [0.0, 1.0] }.long_run();
        assert!((loss - 1.0).abs() < 1e-9 && burst > 1e6, "{loss} {burst}");
        let (loss, _) = Chain { next: [[1.0, 0.0], [0.5, 0.5]], loss: [0.0, 1.0] }.long_run();
        assert!(loss.abs() < 1e-12, "{loss}");
    }
}
