//! What workers know of a peer's traffic: counts and times, left for the control thread to sweep.
//!
//! One value per peer, shared by its sessions, so that totals and timers outlive each of them. All of
//! it is level-triggered: a reader that comes late sees the latest state and has lost nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::DerefMut;
use std::sync::PoisonError;

use crossbeam::utils::CachePadded;

use super::Endpoint;
use crate::clock::Boottime;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A peer's traffic. Each direction has a cache line of its own, which only that direction writes.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Messages to the peer.
    pub sent: CachePadded<Direction>,
    /// Fresh, authentic messages from the peer.
    pub received: CachePadded<Direction>,
    /// Where they come from.
    pub(super) source: CachePadded<Source>,
}

/// One direction of a peer's traffic.
#[derive(Debug, Default)]
pub struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
    last: AtomicU64,
    last_data: AtomicU64,
}

impl Direction {
    /// Messages so far, empty ones included.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// Bytes of UDP payload so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// When the latest message passed.
    pub fn last(&self) -> Option<Boottime> {
        time(&self.last)
    }

    /// When the latest message that was not empty passed.
    pub fn last_data(&self) -> Option<Boottime> {
        time(&self.last_data)
    }

    pub(super) fn count(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Notes that authenticated messages passed at `now`, of which some were `data`.
    pub(super) fn mark(&self, now: Boottime, data: bool) {
        advance(&self.last, now);
        if data {
            advance(&self.last_data, now);
        }
    }
}

/// The outer source of a peer's messages. Unchanged, it costs three loads a batch.
#[derive(Debug, Default)]
pub(super) struct Source {
    known: [AtomicU64; 3],
    candidate: Mutex<Option<Endpoint>>,
}

impl Source {
    /// Notes where an authentic, fresh message came from.
    pub(super) fn note(&self, endpoint: Endpoint) {
        if self.known_is(endpoint.remote) {
            return;
        }
        let mut candidate = self.candidate();
        *candidate = Some(endpoint);
        self.know(endpoint.remote);
    }

    /// Takes the source that was noted since the last call, if it changed.
    pub(super) fn take(&self) -> Option<Endpoint> {
        self.candidate().take()
    }

    /// Sets the address that is not news, forgetting what was noted.
    pub(super) fn reset(&self, remote: SocketAddr) {
        let mut candidate = self.candidate();
        *candidate = None;
        self.know(remote);
    }

    fn candidate(&self) -> impl DerefMut<Target = Option<Endpoint>> {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn know(&self, remote: SocketAddr) {
        for (cell, word) in self.known.iter().zip(words(remote)) {
            cell.store(word, Relaxed);
        }
    }

    pub(super) fn known_is(&self, remote: SocketAddr) -> bool {
        self.known.iter().zip(words(remote)).all(|(cell, word)| cell.load(Relaxed) == word)
    }
}

/// An address as three words; no address gives three zeros.
fn words(remote: SocketAddr) -> [u64; 3] {
    let (address, scope) = match remote {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
    };
    let bits = Ipv6Addr::to_bits(address);
    let family = 1 + u64::from(matches!(remote.ip(), IpAddr::V6(_)));
    [(bits >> 64) as u64, bits as u64, family << 48 | u64::from(scope) << 16 | u64::from(remote.port())]
}

/// Times are nanoseconds; 0 stands for never.
fn time(cell: &AtomicU64) -> Option<Boottime> {
    Some(cell.load(Relaxed)).filter(|&t| t != 0).map(Boottime::from_nanos)
}

/// Moves a time forward. Two threads may race here: what is lost is the difference between their
/// clocks' readings, a few microseconds.
fn advance(cell: &AtomicU64, now: Boottime) {
    let now = now.nanos().max(1);
    if cell.load(Relaxed) < now {
        cell.store(now, Relaxed);
    }
}
