//! Welch's t-test over two streams of times, whole and cropped.
//!
//! Moments are kept online (Welford). The long tail of times is noise: so the test is also made over the times
//! below each of many percentiles (dudect, section III.B), which the first times have set.

/// The fewest times of each class that say something.
const FEWEST: f64 = 1000.0;
/// How many percentiles.
const CROPS: u32 = 100;

/// Number, mean and sum of squared deviations of a stream.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn push(&mut self, value: f64) {
        self.count += 1.0;
        let deviation = value - self.mean;
        self.mean += deviation / self.count;
        self.squares += deviation * (value - self.mean);
    }

    /// Those of both streams together (Chan, Golub and `LeVeque`).
    fn plus(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let distance = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + distance * other.count / count,
            squares: self.squares + other.squares + distance * distance * self.count * other.count / count,
        }
    }

    /// Squared standard error of the mean.
    fn error(self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// Welch's statistic; zero where there is too little to tell.
fn t([a, b]: [Moments; 2]) -> f64 {
    let error = a.error() + b.error();
    if a.count < FEWEST || b.count < FEWEST || error == 0.0 {
        return 0.0;
    }
    (a.mean - b.mean) / error.sqrt()
}

/// A test that is going on.
pub struct Test {
    /// Ascending.
    limits: Vec<f64>,
    /// Moments of both classes, of times between each limit and the one below; the last are above all limits.
    between: Vec<[Moments; 2]>,
}

impl Test {
    /// Sets the percentiles; `first` times of both classes are not tested themselves.
    pub fn new(mut first: Vec<f64>) -> Self {
        first.sort_by(f64::total_cmp);
        // As dudect's own code has them: dense at the upper end.
        #[allow(clippy::cast_sign_loss)] // a part of a length
        let limit = |i| {
            let part = 1.0 - 0.5_f64.powf(10.0 * f64::from(i) / f64::from(CROPS));
            first[(part * (first.len() - 1) as f64) as usize]
        };
        let mut limits: Vec<_> = (1..=CROPS).map(limit).collect();
        limits.dedup();
        Self { between: vec![Default::default(); limits.len() + 1], limits }
    }

    /// One time of a class, 0 or 1.
    pub fn push(&mut self, class: usize, time: f64) {
        let place = self.limits.partition_point(|limit| *limit < time);
        self.between[place][class].push(time);
    }

    /// The largest |t| of all crops, and without one.
    pub fn t(&self) -> f64 {
        let mut below = [Moments::default(); 2];
        let mut largest = 0.0_f64;
        for [a, b] in &self.between {
            below = [below[0].plus(*a), below[1].plus(*b)];
            largest = largest.max(t(below).abs());
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn moments(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        for value in values {
            moments.push(*value);
        }
        moments
    }

    #[test]
    fn the_statistic_is_the_one_of_the_textbook() {
        let values: Vec<f64> = (0..2000).map(f64::from).collect();
        let [a, b] = [moments(&values[..1000]), moments(&values[500..])];
        assert_eq!((a.mean, b.mean), (499.5, 1249.5));
        // Variances n (n + 1) / 12 of the numbers to n.
        let error: f64 = 1001.0 / 12.0 + 1501.0 / 12.0;
        assert!((t([a, b]) + 750.0 / error.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn parts_add_up() {
        let values: Vec<f64> = (0..3000_u32).map(|i| f64::from(i * i % 1009)).collect();
        let [whole, parts] = [moments(&values), moments(&values[..700]).plus(moments(&values[700..]))];
        assert!((whole.mean - parts.mean).abs() < 1e-9);
        assert!((whole.error() - parts.error()).abs() < 1e-9);
        let count = moments(&values).plus(Moments::default()).count;
        assert!((count - 3000.0).abs() < 1e-9);
    }

    /// Times of about 1000 ns, one in twenty of them far longer; those of class 1 differ by `shift`.
    fn measured(shift: f64) -> f64 {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut time = |class: usize| {
            let noise: f64 = rng.random_range(0.0..100.0);
            let tail = if rng.random_ratio(1, 20) { rng.random_range(0.0..100_000.0) } else { 0.0 };
            1000.0 + noise + tail + if class == 1 { shift } else { 0.0 }
        };
        let mut test = Test::new((0..10_000).map(|i| time(i % 2)).collect());
        for i in 0..200_000 {
            test.push(i % 2, time(i % 2));
        }
        test.t()
    }

    #[test]
    fn a_small_difference_shows_below_a_long_tail() {
        assert!(measured(0.0) < 4.5);
        assert!(measured(2.0) > 4.5);
    }
}
