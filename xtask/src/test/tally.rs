//! Counting tests.

use std::fmt;

/// Numbers of tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that ran and passed.
    pub passed: u64,
    /// Tests that ran and failed.
    pub failed: u64,
    /// Tests that did not run.
    pub skipped: u64,
    /// Why some of them did not: one line each.
    pub not_run: Vec<String>,
}

impl Tally {
    /// One test, passed.
    pub const SUCCESS: Self = Self { passed: 1, failed: 0, skipped: 0, not_run: Vec::new() };
    /// One test, failed.
    pub const FAILURE: Self = Self { passed: 0, failed: 1, skipped: 0, not_run: Vec::new() };

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_run.extend(other.not_run);
        self
    }

    /// What a test runner's closing lines say: libtest has one for each program, nextest has one.
    pub fn read(output: &str) -> Self {
        output.lines().filter_map(counts).map(read_counts).fold(Self::default(), Self::plus)
    }

    /// Takes the tests that passed only because they found that they cannot run, and said so, for skipped.
    #[must_use]
    pub fn without(mut self, not_run: Vec<String>) -> Self {
        let count = not_run.len() as u64;
        self.passed = self.passed.saturating_sub(count);
        self.skipped += count;
        self.not_run.extend(not_run);
        self
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The part of a closing line that has the counts.
fn counts(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if let Some(rest) = line.strip_prefix("test result: ") {
        return rest.split_once(". ").map(|(_, counts)| counts);
    }
    line.strip_prefix("Summary [")?.split_once(" run: ").map(|(_, counts)| counts)
}

fn read_counts(counts: &str) -> Tally {
    let mut tally = Tally::default();
    for part in counts.split([',', ';']) {
        let mut words = part.split_whitespace();
        let Some(count) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        match words.next() {
            Some("passed") => tally.passed += count,
            // nextest: "timed out"; "exec failed".
            Some("failed" | "timed" | "exec") => tally.failed += count,
            Some("skipped" | "ignored") => tally.skipped += count,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped, not_run: Vec::new() }
    }

    #[test]
    fn libtest_programs_are_added_up() {
        let output = "test a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Tally::read(output), tally(4, 2, 1));
    }

    #[test]
    fn nextest_has_one_line() {
        let output =
            "     Summary [   0.123s] 45 tests run: 42 passed (1 slow), 2 failed, 1 timed out, 5 skipped";
        assert_eq!(Tally::read(output), tally(42, 3, 5));
    }

    #[test]
    fn output_without_a_closing_line_counts_nothing() {
        assert_eq!(Tally::read("error: could not compile\n3 passed"), Tally::default());
    }

    #[test]
    fn a_test_that_could_not_run_has_not_passed() {
        let without = tally(3, 0, 0).without(vec!["x: no driver".to_owned()]);
        assert_eq!(without.to_string(), "2 passed, 0 failed, 1 skipped");
    }
}
