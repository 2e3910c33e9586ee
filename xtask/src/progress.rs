//! What a person sees while things take their time.

use std::time::{Duration, Instant};

/// Seconds since something began.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[allow(clippy::disallowed_methods)] // Nothing here is packet processing: xtask's one clock.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Seconds since the start.
    pub fn seconds(self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

/// Prints steps with the time since the program's start.
#[derive(Clone, Copy, Debug)]
pub struct Progress(Stopwatch);

impl Progress {
    /// Starts at 0 s.
    pub fn start() -> Self {
        Self(Stopwatch::start())
    }

    /// Prints one step, on stderr: stdout is for results.
    pub fn step(&self, text: impl AsRef<str>) {
        eprintln!("[{:6.1} s] {}", self.0.seconds(), text.as_ref());
    }
}

/// Calls `ready` every 50 ms until it is true or `limit` is over; returns whether it became true.
///
/// # Errors
/// The first error of `ready`.
pub fn wait_until(limit: Duration, mut ready: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let watch = Stopwatch::start();
    while watch.elapsed() < limit {
        if ready()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ready()
}
