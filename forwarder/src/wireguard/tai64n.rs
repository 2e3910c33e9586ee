//! TAI64N timestamps (section 5.4.2): a handshake's protection against replay.

use crate::clock::Wall;

/// TAI64 label of the Unix epoch.
const EPOCH: u64 = (1 << 62) + 10;
/// Timestamps are rounded down to this many nanoseconds, so that they tell little about our clock.
const GRAIN: u32 = 1 << 24;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Seconds and nanoseconds, big endian, so that bytes compare as times do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tai64n(pub [u8; 12]);

impl Tai64n {
    /// The timestamp of `wall`, or the least one after `last` when the clock did not get there.
    pub fn after(last: Option<Self>, wall: Wall) -> Self {
        let nanos = wall.0.subsec_nanos();
        let now = Self::new(EPOCH.wrapping_add(wall.0.as_secs()), nanos - nanos % GRAIN);
        match last {
            Some(last) if last >= now => last.next(),
            _ => now,
        }
    }

    fn new(seconds: u64, nanos: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(bytes)
    }

    fn next(self) -> Self {
        // Both as one number, most significant first.
        let bits = self.0.iter().fold(0_u128, |bits, &byte| bits << 8 | u128::from(byte));
        let (seconds, nanos) = ((bits >> 32) as u64, bits as u32 + GRAIN);
        if nanos < NANOS_PER_SECOND { Self::new(seconds, nanos) } else { Self::new(seconds + 1, 0) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Section 5.4.2: TAI64N, big endian; the kernel rounds down to 2^24 ns.
    #[test]
    fn known_time() {
        let stamp = Tai64n::after(None, Wall(Duration::new(0x1234_5678, 0x0100_0001)));
        assert_eq!(hex::encode(stamp.0), "400000001234568201000000");
    }

    /// Section 5.1: strictly increasing, even when the clock stands still or goes back.
    #[test]
    fn always_greater() {
        let mut last = None;
        for step in 0..1000_u64 {
            let wall = Wall(Duration::from_millis(1_700_000_000_000 - 20 * (step % 90)));
            let next = Tai64n::after(last, wall);
            assert!(Some(next) > last);
            assert!(u32::from_be_bytes([next.0[8], next.0[9], next.0[10], next.0[11]]) < NANOS_PER_SECOND);
            last = Some(next);
        }
    }
}
