//! A session: the two keys of a finished handshake, the send counter, the replay window, and the facts
//! that workers leave for the control thread.

use std::net::SocketAddr;
use std::ops::Range;

use crate::aead;
use crate::clock::Boottime;
use crate::id::{PeerId, TunnelId};

/// What a handshake yields.
#[derive(Debug)]
pub struct SessionKeys {
    /// Key for packets to the peer.
    pub send: aead::Key,
    /// Key for packets from the peer.
    pub receive: aead::Key,
}

/// Where authentic packets of a peer come from: the outer source and the local address they came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and UDP port.
    pub remote: SocketAddr,
}

/// One session with one peer; shared by all threads.
#[derive(Debug)]
pub struct Session {
    /// The tunnel that it belongs to.
    pub tunnel: TunnelId,
    /// The peer that it belongs to.
    pub peer: PeerId,
    /// Index by which the peer addresses us.
    pub local_index: u32,
    /// Index by which we address the peer.
    pub remote_index: u32,
    /// Keys.
    pub keys: SessionKeys,
}

impl Session {
    /// Draws up to `n` consecutive counters for packets that will be sent at `now`. Shorter than `n`
    /// near the message limit; empty when the session is too old or spent. A drawn counter is used
    /// once or never.
    pub fn draw(&self, _now: Boottime, _n: u64) -> Range<u64> {
        unimplemented!()
    }

    /// Whether packets may still be opened with this session at `now`.
    pub fn receivable(&self, _now: Boottime) -> bool {
        unimplemented!()
    }

    /// Runs authentic counters through the replay window, under its lock, in order; `fresh(i)` is
    /// called with whether counter `i` is new. Notes that authentic messages arrived.
    pub fn commit(&self, _now: Boottime, _counters: &[u64], _fresh: &mut [bool]) {
        unimplemented!()
    }

    /// Notes that `packets` messages with `bytes` bytes of UDP payload were sent, `data` of which were
    /// not empty.
    pub fn note_sent(&self, _now: Boottime, _packets: u64, _bytes: u64, _data: u64) {
        unimplemented!()
    }

    /// Notes that `bytes` bytes of UDP payload of fresh, authentic messages came in, `data` of which
    /// were not empty, the latest from `endpoint`.
    pub fn note_received(&self, _now: Boottime, _bytes: u64, _data: u64, _endpoint: Endpoint) {
        unimplemented!()
    }
}
