//! An observer on the path: sees what arrives, and sends it again, whenever and to whomever it likes.

use std::net::{Ipv4Addr, SocketAddr};

use forwarder::id::TunnelId;
use forwarder::wireguard::message::TYPE_INITIATION;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::network::{Datagram, Network};
use crate::plan::Plan;

/// Where the observer sends from.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 4);
/// Messages that it remembers of each kind: handshakes, and data.
const MEMORY: usize = 256;

/// A message that a site accepted.
pub struct Seen {
    /// Who accepted it.
    pub site: usize,
    /// The tunnel that did.
    pub tunnel: TunnelId,
    /// Which of the site's lives that was.
    pub life: u32,
    /// Where it came from.
    pub source: SocketAddr,
    /// The message.
    pub message: Vec<u8>,
}

/// What it has seen.
#[derive(Default)]
pub struct Observer {
    handshakes: Vec<Seen>,
    data: Vec<Seen>,
}

impl Observer {
    /// Sees an accepted message; forgets one at random when it has seen many.
    pub fn see(&mut self, seen: Seen, rng: &mut StdRng) {
        let memory = if forwarder::wireguard::message::DataHeader::parse(&seen.message).is_some() {
            &mut self.data
        } else {
            &mut self.handshakes
        };
        if memory.len() < MEMORY {
            memory.push(seen);
        } else {
            memory[rng.random_range(0..MEMORY)] = seen;
        }
    }

    /// A datagram made of something seen, to any tunnel of any site, mostly the one that it was for.
    /// `lives` are the sites' present ones: a process that has forgotten an initiation with all else takes
    /// it again, once, so that this is no news.
    pub fn replay(
        &self,
        plan: &Plan,
        network: &Network,
        lives: &[u32],
        rng: &mut StdRng,
    ) -> Option<Datagram> {
        let memory = if rng.random() { &self.handshakes } else { &self.data };
        if memory.is_empty() {
            return None;
        }
        let Seen { site, tunnel, life, source, message } = &memory[rng.random_range(0..memory.len())];
        if message[0] == TYPE_INITIATION && lives[*site] != *life {
            return None;
        }
        let (mut site, mut tunnel) = (*site, *tunnel);
        if rng.random_bool(0.1) {
            site = rng.random_range(0..plan.sites.len());
        }
        if rng.random_bool(0.5) {
            tunnel = TunnelId(rng.random_range(0..plan.sites[site].tunnels.max(1)));
        }
        let from = if rng.random_bool(0.8) { ADDRESS } else { *source };
        Some(Datagram { from, to: network.outside(site, tunnel), message: message.clone(), replayed: true })
    }
}
