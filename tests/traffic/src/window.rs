//! Which of the last packets have been seen, so that a duplicate is counted once and a late one still counts.

/// How far behind the highest number a packet may be and still be told from a duplicate.
const SPAN: u64 = 1024;
const WORDS: usize = (SPAN / 64) as usize;

/// What has arrived from the other side.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    highest: u64,
    arrived: u64,
    /// One bit for each of the last [`SPAN`] numbers, at the number modulo the span.
    bits: [u64; WORDS],
}

impl Window {
    /// The highest number seen, 0 before the first.
    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// How many different numbers have been seen.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Counts a packet. Returns whether it is new: a duplicate is not, nor is one from before the span.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if number == 0 || number.saturating_add(SPAN) <= self.highest {
            return false;
        }
        // The bits of the numbers that the window moves over still hold what was a whole span earlier.
        for passed in self.highest.saturating_add(1).max(number.saturating_sub(SPAN - 1))..=number {
            self.set(passed, false);
        }
        self.highest = self.highest.max(number);
        if self.bit(number) {
            return false;
        }
        self.set(number, true);
        self.arrived += 1;
        true
    }

    fn bit(&self, number: u64) -> bool {
        let (word, mask) = place(number);
        self.bits[word] & mask != 0
    }

    fn set(&mut self, number: u64, seen: bool) {
        let (word, mask) = place(number);
        if seen { self.bits[word] |= mask } else { self.bits[word] &= !mask }
    }
}

fn place(number: u64) -> (usize, u64) {
    let place = number % SPAN;
    // Below 16, whatever the platform's word is.
    #[allow(clippy::cast_possible_truncation)]
    let word = (place / 64) as usize;
    (word, 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn duplicates_count_once_and_late_packets_count() {
        let mut window = Window::default();
        for number in [1, 2, 5, 5, 3, 2, 4] {
            window.insert(number);
        }
        assert_eq!((window.highest(), window.arrived()), (5, 5));
    }

    #[test]
    fn what_is_older_than_the_span_does_not_count() {
        let mut window = Window::default();
        assert!(window.insert(SPAN + 10));
        assert!(!window.insert(10));
        assert!(window.insert(11));
        assert!(!window.insert(11));
    }

    #[test]
    fn a_jump_forgets_the_span_before_it() {
        let mut window = Window::default();
        (1..=SPAN).for_each(|number| assert!(window.insert(number)));
        assert!(window.insert(SPAN * 10));
        assert!(window.insert(SPAN * 10 - 5));
        assert_eq!(window.arrived(), SPAN + 2);
    }

    #[test]
    fn agrees_with_a_set_on_shuffled_numbers() {
        let mut window = Window::default();
        let mut set = HashSet::new();
        let mut random = 1_u64;
        for step in 0..20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = 1 + step + (random >> 33) % 200;
            assert_eq!(window.insert(number), set.insert(number), "number {number} at step {step}");
        }
        assert_eq!(window.arrived(), set.len() as u64);
    }
}
