//! When a lane looks for packets again: at once, after a rest, or when the kernel wakes it.
//!
//! A wakeup costs about as much as a packet, and a rest costs delay. So few packets wake the lane as they come,
//! and of many each rest gathers a burst: `docs/decisions/0003-few-packets-wake-many-gather.md`.

use std::mem;
use std::time::Duration;

use crate::clock::Boottime;
use crate::port::BURST;

/// How long a lane with many packets rests before it looks again. It is far below the latency of a WAN.
pub const REST: Duration = Duration::from_micros(50);
/// Packets in a second that are many.
const MANY: u32 = 128_000;
/// How long packets are counted to tell. A sender's own bursts are shorter.
const WINDOW: Duration = Duration::from_millis(1);

/// What to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is certainly more. But a sender that shares the core must not find a full ring only because nobody
    /// else ran: yield.
    Again,
    /// There will be more: let it gather. One turn without a packet proves nothing.
    Rest,
    /// Wait until something comes.
    Wait,
}

/// What a lane received of late.
#[derive(Debug, Default)]
pub struct Pace {
    /// Since when `received` counts.
    since: Boottime,
    received: u64,
    /// There were many in the window before.
    many: bool,
    /// The last turn received nothing.
    empty: bool,
}

impl Pace {
    /// After a turn at `now` that received so many packets.
    pub fn after(&mut self, received: usize, now: Boottime) -> Next {
        self.count(received as u64, now);
        let empty_before = mem::replace(&mut self.empty, received == 0);
        if received >= BURST {
            Next::Again
        } else if self.many && !(self.empty && empty_before) {
            Next::Rest
        } else {
            Next::Wait
        }
    }

    fn count(&mut self, received: u64, now: Boottime) {
        self.received += received;
        let window = now.since(self.since);
        if window >= WINDOW {
            self.many = window <= Duration::from_secs(self.received) / MANY;
            (self.since, self.received) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns that each receive so many, so many microseconds apart; what the last one says.
    fn last(pace: &mut Pace, start: u64, turns: u64, apart: u64, received: usize) -> Next {
        let at = |turn: u64| Boottime(Duration::from_micros(start + turn * apart));
        (1..=turns).map(|turn| pace.after(received, at(turn))).last().expect("a turn")
    }

    #[test]
    fn few_packets_wake_it_and_many_gather() {
        let mut pace = Pace::default();
        assert_eq!(last(&mut pace, 0, 100, 50, 6), Next::Wait, "120,000 a second");
        assert_eq!(last(&mut pace, 5_000, 19, 50, 7), Next::Wait, "not known yet");
        assert_eq!(last(&mut pace, 5_950, 21, 50, 7), Next::Rest, "140,000 a second");
        assert_eq!(last(&mut pace, 7_000, 41, 50, 1), Next::Wait, "20,000 a second");
    }

    /// A sender that sends every half millisecond what became due meanwhile.
    #[test]
    fn bursts_are_as_many_as_their_packets() {
        for burst in [60, 63] {
            assert_eq!(last(&mut Pace::default(), 0, 100, 500, burst), Next::Wait, "{burst}");
        }
        let mut pace = Pace::default();
        for tick in 0..100 {
            for turn in 0..3 {
                pace.after(40, Boottime(Duration::from_micros(500 * tick + 20 * turn)));
            }
        }
        assert!(pace.many, "240,000 a second");
    }

    #[test]
    fn a_full_burst_is_followed_at_once() {
        assert_eq!(last(&mut Pace::default(), 0, 1, 50, BURST), Next::Again);
    }

    /// The last packets of many do not leave it resting, which would be for nothing.
    #[test]
    fn it_rests_once_without_a_packet() {
        let mut pace = Pace::default();
        assert_eq!(last(&mut pace, 0, 100, 50, 20), Next::Rest);
        assert_eq!(last(&mut pace, 5_000, 1, 50, 0), Next::Rest);
        assert_eq!(last(&mut pace, 5_050, 1, 50, 0), Next::Wait);
    }

    #[test]
    fn after_a_silence_a_packet_is_one_of_few() {
        let mut pace = Pace::default();
        assert_eq!(last(&mut pace, 0, 100, 50, 20), Next::Rest);
        assert_eq!(last(&mut pace, 1_000_000, 1, 50, 20), Next::Wait);
    }
}
