//! What netem's formulas lose in the long run. Pure.

/// Cells of the distribution that [`correlated`] works on: the error is far below the fourth digit for every loss that is seen at all.
const CELLS: usize = 4096;

/// Correlation from which on the distribution is narrower than a few cells, and the normal one is exact enough. Tests compare both with
/// the kernel's code.
const NARROW: f64 = 0.98;

/// Packets that [`Chain::worst_window`] looks at, a power of two: several times the longest burst that the model gilbert has, and seconds of a busy pod.
pub(crate) const WINDOW: u32 = 1 << 14;

/// Loss of netem's correlated random numbers, as fractions: the stationary probability that `x` is not above `loss`, where each `x` is
/// `(1 - correlation)·u + correlation·x'` of a uniform `u` and the last `x'`, rounded down to 32 bits (`get_crandom` in net/sched/sch_netem.c).
///
/// The mix spreads less than `u` alone, so a loss below a half gets rarer, and one above it more frequent.
pub(crate) fn correlated(loss: f64, correlation: f64) -> f64 {
    // A number that never changes is any number.
    if loss >= 1.0 || correlation <= 0.0 || correlation >= 1.0 {
        return loss;
    }
    if correlation >= NARROW {
        return normal(narrow(loss, correlation));
    }
    interpolate(&stationary(correlation), loss).clamp(0.0, 1.0)
}

/// By how many standard deviations `loss` is above the mean of correlated numbers, which are sums of many independent parts of little weight.
fn narrow(loss: f64, correlation: f64) -> f64 {
    let deviation = ((1.0 - correlation) / (1.0 + correlation) / 12.0).sqrt();
    // Rounding down takes half a unit away each time.
    let mean = 0.5 - (0.5 / (4_294_967_296.0 * (1.0 - correlation))).min(0.5);
    (loss - mean) / deviation
}

/// The stationary distribution function of correlated numbers, at the borders of the cells.
fn stationary(correlation: f64) -> Vec<f64> {
    let width = 1.0 / CELLS as f64;
    let mut distribution: Vec<f64> = (0..=CELLS).map(|cell| cell as f64 * width).collect();
    loop {
        let integral = integral(&distribution);
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
            return distribution;
        }
    }
}

/// The factor between the variance of the share of losses below `loss` and that of independent ones, for correlated numbers as [`correlated`] has them:
/// 1 + 2·Σ cov(k) / var over all distances k.
pub(crate) fn correlated_inflation(loss: f64, correlation: f64) -> f64 {
    if loss >= 1.0 || correlation <= 0.0 {
        return 1.0;
    }
    if correlation >= 1.0 {
        return f64::INFINITY;
    }
    if correlation >= NARROW { normal_inflation(narrow(loss, correlation), correlation) } else { cell_inflation(loss, correlation) }
}

/// The same for narrow distributions: the numbers are normal, and their correlation at the distance k is the k-th power. With r = sin φ, the covariance of two
/// indicators is ∫ exp(−z²/(1 + sin φ)) dφ / 2π from 0 to asin r.
fn normal_inflation(z: f64, correlation: f64) -> f64 {
    let share = normal(z);
    let variance = share * (1.0 - share);
    if variance < 1e-12 {
        return 1.0;
    }
    let step = std::f64::consts::FRAC_PI_2 / CELLS as f64;
    let density = |phi: f64| (-z * z / (1.0 + phi.sin())).exp() / std::f64::consts::TAU;
    let (mut covariance, mut sum) = (0.0, 0.0);
    for cell in 0..CELLS {
        let middle = (cell as f64 + 0.5) * step;
        // The sum over k is an integral over dr/r, which is cot φ dφ.
        sum += (covariance + 0.5 * step * density(middle)) / middle.tan() * step;
        covariance += step * density(middle);
    }
    (2.0 * sum / (-correlation.ln() * variance)).max(1.0)
}

/// The same by cells: E(k) is the mean of P(x(k) ≤ loss | x) over all x ≤ loss.
fn cell_inflation(loss: f64, correlation: f64) -> f64 {
    let width = 1.0 / CELLS as f64;
    let distribution = stationary(correlation);
    let share = interpolate(&distribution, loss);
    let variance = share * (1.0 - share);
    // The cells tell no less, and losses that rare are hardly ever near each other.
    if variance < 1e-6 {
        return 1.0;
    }
    // P(x ≤ loss) of the next number, by this one; then of those after it.
    let mut hit: Vec<f64> =
        (0..=CELLS).map(|cell| ((loss - correlation * cell as f64 * width) / (1.0 - correlation)).clamp(0.0, 1.0)).collect();
    let (mut sum, mut left) = (0.0, 1.0);
    loop {
        let mut joint = 0.0;
        for cell in 0..CELLS {
            let (from, to) = (cell as f64 * width, (cell + 1) as f64 * width);
            if from >= loss {
                break;
            }
            let part = ((loss - from) / width).min(1.0);
            let until = distribution[cell] + (distribution[cell + 1] - distribution[cell]) * part;
            let mean = if to <= loss { hit[cell].midpoint(hit[cell + 1]) } else { hit[cell].midpoint(interpolate(&hit, loss)) };
            joint += (until - distribution[cell]) * mean;
        }
        let covariance = joint - share * share;
        sum += covariance;
        left *= correlation;
        if covariance.abs() < 1e-4 * variance || left < 1e-5 {
            // The rest falls like the powers of the correlation.
            sum += covariance * correlation / (1.0 - correlation);
            return (1.0 + 2.0 * sum / variance).max(1.0);
        }
        let integral = integral(&hit);
        for (cell, value) in hit.iter_mut().enumerate() {
            let from = correlation * cell as f64 * width;
            *value = (interpolate(&integral, (from + 1.0 - correlation).min(1.0)) - interpolate(&integral, from)) / (1.0 - correlation);
        }
    }
}

/// The integral from 0 to the border of each cell.
fn integral(values: &[f64]) -> Vec<f64> {
    let mut sum = 0.0;
    let steps = values.windows(2).map(|pair| {
        sum += pair[0].midpoint(pair[1]) / CELLS as f64;
        sum
    });
    std::iter::once(0.0).chain(steps).collect()
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

/// What is lost of many packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LongRun {
    /// The share that is lost, 0 to 1.
    pub(crate) loss: f64,
    /// Packets that are lost in a row, on average: infinite where a burst never ends, 0 where there is none.
    pub(crate) mean_burst: f64,
}

impl LongRun {
    /// Of packets whose losses hardly depend on each other.
    pub(crate) fn independent(loss: f64) -> Self {
        Self { loss, mean_burst: if loss > 0.0 { 1.0 / (1.0 - loss) } else { 0.0 } }
    }
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
    pub(crate) fn long_run(&self) -> LongRun {
        let states = self.stationary();
        let loss = self.mean(&states);
        let twice: f64 =
            (0..N).map(|from| states[from] * self.loss[from] * (0..N).map(|to| self.next[from][to] * self.loss[to]).sum::<f64>()).sum();
        // A burst begins where a lost packet follows one that was not.
        let begins = loss - twice;
        let mean_burst = if loss == 0.0 {
            0.0
        } else if begins > loss * f64::EPSILON * 4.0 {
            loss / begins
        } else {
            f64::INFINITY
        };
        LongRun { loss, mean_burst }
    }

    /// 1 + 2·Σ cov(k) / var over all distances k, where cov(k) is the covariance of the losses of two packets at that distance: the factor between the
    /// variance of the share of lost packets and that of independent losses. Infinite where the chain hardly ever leaves a state, so that this cannot be computed.
    pub(crate) fn variance_inflation(&self) -> f64 {
        if !self.recurrent()[0] {
            // The chain starts in the first state, and how long it takes to leave that for good is not a matter of the long run.
            return f64::INFINITY;
        }
        let states = self.stationary();
        let loss = self.mean(&states);
        let variance = loss * (1.0 - loss);
        if variance < 1e-15 {
            return 1.0;
        }
        let Some(total) = self.excess(&states) else { return f64::INFINITY };
        let covariances: f64 = (0..N).map(|state| states[state] * self.loss[state] * (total[state] - (self.loss[state] - loss))).sum();
        1.0 + 2.0 * covariances / variance
    }

    /// How many packets more are lost, on average, than in the long run because the chain starts in its first state: fewer where this is negative. Not a
    /// number that could be computed, and so 0, where the chain hardly ever leaves a state: its [`Self::variance_inflation`] is infinite.
    pub(crate) fn start(&self) -> f64 {
        if self.recurrent()[0] { self.excess(&self.stationary()).map_or(0.0, |total| total[0]) } else { 0.0 }
    }

    /// By how much the expected number of lost packets exceeds that of the long run when the chain starts in each state: the sum over all k of the expected
    /// excess, g, solves (1 − P + 1π)·g = f − L (the fundamental matrix; Kemeny and Snell, 1960).
    #[allow(clippy::needless_range_loop)] // rows and columns of several matrices
    fn excess(&self, states: &[f64; N]) -> Option<[f64; N]> {
        let class = self.recurrent();
        let loss = self.mean(states);
        let mut equations = [[0.0; N]; N];
        let mut excess = [0.0; N];
        for row in 0..N {
            // States that are left for ever, or never reached, have no part in it, and two of them that are never left would have no solution.
            if !class[row] {
                equations[row][row] = 1.0;
                continue;
            }
            excess[row] = self.loss[row] - loss;
            for column in 0..N {
                let one = if row == column { 1.0 } else { 0.0 };
                equations[row][column] = one - self.next[row][column] + states[column];
            }
        }
        solve(equations, excess)
    }

    /// The share lost, on average, of the first [`WINDOW`] packets after the chain has come to that one of its states from which it is largest.
    pub(crate) fn worst_window(&self) -> f64 {
        let (mut steps, mut lost) = (self.next, self.loss);
        // What n packets lose from each state, and where the chain is after them, give the same for twice as many.
        for _ in 0..WINDOW.ilog2() {
            lost = std::array::from_fn(|from| lost[from] + (0..N).map(|to| steps[from][to] * lost[to]).sum::<f64>());
            steps =
                std::array::from_fn(|from| std::array::from_fn(|to| (0..N).map(|between| steps[from][between] * steps[between][to]).sum()));
        }
        let reached = self.reached_from(0);
        (0..N).filter(|state| reached[*state]).map(|state| lost[state] / f64::from(WINDOW)).fold(0.0, f64::max)
    }

    fn mean(&self, states: &[f64; N]) -> f64 {
        (0..N).map(|state| states[state] * self.loss[state]).sum()
    }

    /// The share of the time in each state, after a long time. By elimination of states (Grassmann, Taksar and Heyman, 1985), which subtracts nothing and so is exact
    /// for the rarest of transitions, among the states that are not left for ever.
    fn stationary(&self) -> [f64; N] {
        let class = self.recurrent();
        let mut next = self.next;
        let members: Vec<usize> = (0..N).filter(|state| class[*state]).collect();
        for (place, &last) in members.iter().enumerate().skip(1).rev() {
            let left = &members[..place];
            let out: f64 = left.iter().map(|&to| next[last][to]).sum();
            for &from in left {
                next[from][last] /= out;
                for &to in left {
                    next[from][to] += next[from][last] * next[last][to];
                }
            }
        }
        let mut states = [0.0; N];
        for (place, &state) in members.iter().enumerate() {
            states[state] = if place == 0 { 1.0 } else { members[..place].iter().map(|&from| states[from] * next[from][state]).sum() };
        }
        let sum: f64 = states.iter().sum();
        states.map(|share| share / sum)
    }

    /// The states among which a chain that started in the first one stays in the end: those that are reached from it and from which the fewest can be reached.
    fn recurrent(&self) -> [bool; N] {
        let first = self.reached_from(0);
        let classes = (0..N).filter(|state| first[*state]).map(|state| self.reached_from(state));
        classes.min_by_key(|class| class.iter().filter(|member| **member).count()).unwrap_or(first)
    }

    fn reached_from(&self, start: usize) -> [bool; N] {
        let mut seen = [false; N];
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            if !std::mem::replace(&mut seen[state], true) {
                open.extend((0..N).filter(|to| self.next[state][*to] > 0.0));
            }
        }
        seen
    }
}

/// Gaussian elimination with pivots; none where there is no solution that could be trusted.
#[allow(clippy::needless_range_loop)] // rows and columns
fn solve<const N: usize>(mut matrix: [[f64; N]; N], mut right: [f64; N]) -> Option<[f64; N]> {
    for column in 0..N {
        let pivot = (column..N).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        if matrix[column][column].abs() < 1e-13 {
            return None;
        }
        for row in column + 1..N {
            let factor = matrix[row][column] / matrix[column][column];
            for place in column..N {
                matrix[row][place] -= factor * matrix[column][place];
            }
            right[row] -= factor * right[column];
        }
    }
    for row in (0..N).rev() {
        let known: f64 = (row + 1..N).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    Some(right)
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
        assert!((correlated(0.1, 1.0) - 0.1).abs() < 1e-12);
        assert!((correlated(0.5, 0.5) - 0.5).abs() < 1e-6);
        assert!((correlated(0.5, 0.99) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_chain_of_two_states_is_the_gilbert_model() {
        // 5 % in bursts of 4: r = 1/4, p = r·L/(1 − L).
        let (r, p) = (0.25, 0.25 * 0.05 / 0.95);
        let chain = Chain { next: [[1.0 - p, p], [r, 1.0 - r]], loss: [0.0, 1.0] };
        let LongRun { loss, mean_burst } = chain.long_run();
        assert!((loss - 0.05).abs() < 1e-9 && (mean_burst - 4.0).abs() < 1e-9, "{loss} {mean_burst}");
        let rho = 1.0 - p - r;
        let inflation = chain.variance_inflation();
        assert!((inflation - (1.0 + rho) / (1.0 - rho)).abs() < 1e-9, "{inflation}");
    }

    #[test]
    fn states_that_are_never_reached_change_nothing() {
        let chain = Chain { next: [[0.9, 0.1], [1.0, 0.0]], loss: [0.0, 1.0] };
        let among = Chain {
            next: [[0.9, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]],
            loss: [0.0, 0.0, 1.0, 1.0],
        };
        assert!((chain.variance_inflation() - among.variance_inflation()).abs() < 1e-9, "{}", among.variance_inflation());
    }

    #[test]
    fn a_state_that_is_never_left_is_where_it_ends() {
        let LongRun { loss, mean_burst } = Chain { next: [[0.9, 0.1], [0.0, 1.0]], loss: [0.0, 1.0] }.long_run();
        assert!((loss - 1.0).abs() < 1e-9 && mean_burst > 1e6, "{loss} {mean_burst}");
        let LongRun { loss, .. } = Chain { next: [[1.0, 0.0], [0.5, 0.5]], loss: [0.0, 1.0] }.long_run();
        assert!(loss.abs() < 1e-12, "{loss}");
    }
}
