//! The replay window (RFC 6479): which counters of a session were seen.

use super::REJECT_AFTER_MESSAGES;

const WORDS: usize = 128;
const WORD_BITS: u64 = u64::BITS as u64;

/// Counters that lie this far or less behind the greatest are told apart; older ones are refused. One
/// word of the bitmap is always being cleared and does not count.
pub const WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// A sliding window over a session's counters: a ring of words, so that sliding clears whole words and
/// shifts nothing.
#[derive(Debug)]
pub struct ReplayWindow {
    /// One more than the greatest counter accepted; 0 = none yet.
    end: u64,
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self { end: 0, seen: [0; WORDS] }
    }

    /// Whether `counter` is new, within the window and below [`REJECT_AFTER_MESSAGES`]; it is not new
    /// the next time. Call it for authentic messages only.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        let position = counter + 1;
        if position + WINDOW < self.end {
            return false;
        }
        if position > self.end {
            self.slide(position);
        }
        let word = &mut self.seen[(position / WORD_BITS) as usize % WORDS];
        let bit = 1 << (position % WORD_BITS);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn slide(&mut self, position: u64) {
        let (from, to) = (self.end / WORD_BITS, position / WORD_BITS);
        for word in (from + 1..=to).take(WORDS) {
            self.seen[word as usize % WORDS] = 0;
        }
        self.end = position;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Runs (counter, expected) pairs through a new window.
    fn check(steps: impl IntoIterator<Item = (u64, bool)>) {
        let mut window = ReplayWindow::new();
        for (counter, expected) in steps {
            assert_eq!(window.accept(counter), expected, "counter {counter}");
        }
    }

    /// The kernel's window (RFC 6479): 8192 bits, one word of them in change. A bug that peers had: 1024 are too few
    /// for the reordering of real networks.
    #[test]
    fn window_is_8128() {
        assert_eq!(WINDOW, 8128);
    }

    /// Section 5.4.6, and the first steps of the kernel's `selftest/counter.c`.
    #[test]
    fn order_and_repetition() {
        check([(0, true), (1, true), (1, false), (9, true), (8, true), (7, true), (7, false), (0, false)]);
    }

    /// The kernel's `selftest/counter.c`: the last counter inside the window and the first outside.
    #[test]
    fn edges_of_the_window() {
        check([(WINDOW, true), (0, true), (0, false), (WINDOW + 1, true), (0, false), (1, true), (1, false)]);
        check([(2 * WINDOW, true), (WINDOW - 1, false), (WINDOW, true), (WINDOW + 1, true)]);
        check([(WINDOW * 4, true), (WINDOW * 3, true), (WINDOW * 3 - 1, false), (WINDOW * 3, false)]);
    }

    /// RFC 6479: a jump over the whole window leaves no old bits behind.
    #[test]
    fn far_jump_clears_everything() {
        check([(5, true), (1 << 40, true), (5, false), ((1 << 40) - 5, true), ((1 << 40) - WINDOW, true)]);
    }

    /// Section 6.1, Reject-After-Messages. The kernel's `selftest/counter.c` gives these at its own limit
    /// (2^64 - 8130).
    #[test]
    fn message_limit() {
        const LAST: u64 = REJECT_AFTER_MESSAGES - 1;
        check([(REJECT_AFTER_MESSAGES, false), (u64::MAX, false), (0, true)]);
        check([
            (LAST, true),
            (LAST, false),
            (LAST - 1, true),
            (LAST - WINDOW, true),
            (LAST - WINDOW - 1, false),
            (0, false),
            (REJECT_AFTER_MESSAGES, false),
            (LAST - 1, false),
        ]);
    }

    /// The kernel's `selftest/counter.c`: the whole window in reverse order.
    #[test]
    fn whole_window_backwards_then_again() {
        check((0..=WINDOW).rev().map(|c| (c, true)));
        check((1..=WINDOW).chain([0]).map(|c| (c, true)));
        check((0..=WINDOW).rev().map(|c| (c, true)).chain((0..=WINDOW).map(|c| (c, false))));
    }

    proptest! {
        /// Against the definition: new, and not more than the window behind the greatest.
        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec((0_u64..3, 0_u64..20_000), 1..400)) {
            let (mut window, mut seen, mut greatest) = (ReplayWindow::new(), HashSet::new(), None);
            for (stride, offset) in steps {
                let counter = stride * 50_000 + offset;
                let recent = greatest.is_none_or(|g: u64| g.saturating_sub(counter) <= WINDOW);
                prop_assert_eq!(window.accept(counter), recent && seen.insert(counter), "counter {}", counter);
                greatest = greatest.max(Some(counter));
            }
        }
    }
}
