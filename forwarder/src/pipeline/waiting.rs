//! Packets that wait for a session or a neighbour: copies in one bounded store, in order of arrival.
//!
//! Within one snapshot a path either has a session or has none, and a next hop either has a MAC address
//! or has none. So a lane that lets the waiting packets try again at each new snapshot, before it reads
//! newer ones, keeps every flow in order.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use crate::clock::Boottime;
use crate::drops::Drop;
use crate::id::{InterfaceId, PeerId};
use crate::port::{Arena, Frame};

/// Packets that wait in one lane, at most (the kernel's limit per peer).
pub const WAITING: usize = 128;

/// What a packet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A session with the peer and an egress to it; the packet is a plain one to be sealed.
    Session(PeerId),
    /// The next hop's MAC address; the packet was opened in the tunnel at this position.
    Neighbour(InterfaceId, IpAddr, usize),
}

impl For {
    /// The reason under which a packet that waited in vain is counted.
    pub fn drop(self) -> Drop {
        match self {
            For::Session(_) => Drop::NoSession,
            For::Neighbour(..) => Drop::NoNeighbour,
        }
    }
}

/// A packet that waits: the frame's range is an IP packet.
#[derive(Debug)]
pub(super) struct Waiter {
    pub what: For,
    pub frame: Frame,
    /// When it arrived.
    pub since: Boottime,
}

/// The store.
#[derive(Debug)]
pub(super) struct Waiting {
    arena: Arena,
    queue: VecDeque<Waiter>,
}

impl Waiting {
    /// Takes memory for [`WAITING`] packets of at most `room` bytes, and for the one that tries again.
    pub fn new(room: usize) -> io::Result<Self> {
        Ok(Self { arena: Arena::new(WAITING + 1, room)?, queue: VecDeque::with_capacity(WAITING) })
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Copies a packet in that arrived at `since`. Returns the reason of the drop that this cost, if it cost one: the packet
    /// itself when it is too large, else the oldest one of what most packets wait for, so that a dead
    /// peer's traffic cannot push out another's.
    pub fn push(&mut self, what: For, packet: &[u8], since: Boottime) -> Option<Drop> {
        let mut dropped = None;
        if self.queue.len() == WAITING {
            dropped = self.evict();
        }
        let Some(mut frame) = self.arena.take() else { return Some(what.drop()) };
        if packet.len() > frame.room() {
            self.arena.give(frame);
            return Some(Drop::TooBig);
        }
        frame.set_range(0, packet.len());
        frame.bytes_mut().copy_from_slice(packet);
        self.queue.push_back(Waiter { what, frame, since });
        dropped
    }

    /// The one that waited longest; its frame comes back by [`Self::give`].
    pub fn pop(&mut self) -> Option<Waiter> {
        self.queue.pop_front()
    }

    /// Takes a frame back.
    pub fn give(&mut self, frame: Frame) {
        self.arena.give(frame);
    }

    fn evict(&mut self) -> Option<Drop> {
        let count = |what| self.queue.iter().filter(|w| w.what == what).count();
        // A scan of dead addresses is a crowd, too, though each of them is another next hop.
        let for_session = |w: &Waiter| matches!(w.what, For::Session(_));
        let sessions = self.queue.iter().filter(|w| for_session(w)).count();
        let crowded_kind = |w: &&Waiter| for_session(w) == (2 * sessions >= self.queue.len());
        // The one at the front is the fullest's oldest unless something else takes more than half.
        let front = self.queue.iter().find(crowded_kind)?.what;
        let back = self.queue.iter().rfind(crowded_kind)?.what;
        let crowded = if count(back) > count(front) { back } else { front };
        let oldest = self.queue.iter().position(|w| w.what == crowded)?;
        let waiter = self.queue.remove(oldest)?;
        self.arena.give(waiter.frame);
        Some(crowded.drop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: For = For::Session(PeerId(1));
    const B: For = For::Session(PeerId(2));

    #[test]
    fn the_oldest_goes_first_and_a_crowd_pushes_out_only_itself() {
        let mut waiting = Waiting::new(64).unwrap();
        assert_eq!(waiting.push(B, &[0xb], Boottime::default()), None);
        for i in 0..127 {
            assert_eq!(waiting.push(A, &[i], Boottime::default()), None);
        }
        assert_eq!(waiting.push(A, &[127], Boottime::default()), Some(Drop::NoSession));
        let all: Vec<_> =
            std::iter::from_fn(|| waiting.pop()).map(|w| (w.what, w.frame.bytes().to_vec())).collect();
        assert_eq!(all.len(), WAITING);
        assert_eq!(all[0], (B, vec![0xb]));
        assert_eq!(all[1], (A, vec![1]));
        assert_eq!(all[127], (A, vec![127]));
    }

    #[test]
    fn a_scan_of_dead_addresses_pushes_out_no_packet_that_waits_for_a_session() {
        let mut waiting = Waiting::new(64).unwrap();
        assert_eq!(waiting.push(A, &[0], Boottime::default()), None);
        for host in 0..200 {
            let next_hop = For::Neighbour(InterfaceId(1), [10, 0, 0, host].into(), 0);
            let dropped = waiting.push(next_hop, &[1], Boottime::default());
            assert_eq!(dropped, (host >= 127).then_some(Drop::NoNeighbour));
        }
        assert_eq!(waiting.pop().map(|w| w.what), Some(A));
    }

    #[test]
    fn a_packet_without_room_is_refused() {
        let mut waiting = Waiting::new(64).unwrap();
        assert_eq!(waiting.push(A, &[0; 65], Boottime::default()), Some(Drop::TooBig));
        assert_eq!(waiting.len(), 0);
    }
}
