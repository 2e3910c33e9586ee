//! The one place that reads a clock. Everything else takes time as an argument.

use std::time::Duration;

/// Time since boot, suspend included (`CLOCK_BOOTTIME`). Sessions age in it, so that a machine that
/// slept does not go on with old keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boottime(pub Duration);

impl Boottime {
    /// Nanoseconds since boot.
    pub fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time that many nanoseconds after boot.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Boottime {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

/// Wall time since the Unix epoch: for TAI64N timestamps, and to notice that the machine was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(pub Duration);

/// Reads `CLOCK_BOOTTIME`.
pub fn boottime() -> Boottime {
    Boottime(read(nix::time::ClockId::CLOCK_BOOTTIME))
}

/// Reads `CLOCK_REALTIME`.
pub fn wall() -> Wall {
    Wall(read(nix::time::ClockId::CLOCK_REALTIME))
}

/// Reads `CLOCK_MONOTONIC`, which stands still while the machine is suspended, and begins nowhere in particular.
pub fn awake() -> Duration {
    read(nix::time::ClockId::CLOCK_MONOTONIC)
}

fn read(clock: nix::time::ClockId) -> Duration {
    // These clocks exist on every kernel that has AF_XDP, so the call cannot fail.
    clock.now().map_or(Duration::ZERO, Duration::from)
}
