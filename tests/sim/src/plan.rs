//! What a seed decides before anything happens: sites, links, and how bad the network will be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::{PeerConfig, PrivateKey};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

use crate::{Side, Time};

/// Listen port of each site's first tunnel; the next ones follow.
pub const FIRST_PORT: u16 = 51820;
/// Behind the NAT, if there is one.
pub const NATTED: usize = 0;
/// The site that every link leads to.
const HUB: usize = 1;

/// The whole of it.
pub struct Plan {
    /// Nothing but clock steps, duplicates and replays happens.
    pub lossless: bool,
    /// Site [`NATTED`] is behind a NAT.
    pub nat: bool,
    /// A site's wall clock may go back while it restarts.
    pub clocks_go_back: bool,
    /// The least one-way delay.
    pub delay: Duration,
    /// Up to this much is added to it; zero keeps packets in order.
    pub jitter: Duration,
    /// Share of packets that arrive twice.
    pub duplicates: f64,
    /// The sites.
    pub sites: Vec<SitePlan>,
    /// The links between them.
    pub links: Vec<Link>,
}

/// A site: one gateway with one key pair.
pub struct SitePlan {
    /// Its private key, which all its tunnels use.
    pub key: PrivateKey,
    /// Its own address.
    pub address: IpAddr,
    /// The number of its tunnels.
    pub tunnels: u16,
    /// Its peers, by [`PeerId`].
    pub peers: Vec<PeerPlan>,
}

/// A peer of a site.
pub struct PeerPlan {
    /// The tunnel it belongs to.
    pub tunnel: TunnelId,
    /// What the tunnel knows of it.
    pub config: PeerConfig,
    /// The link that leads to it.
    pub link: usize,
    /// Which end of the link the site is.
    pub side: Side,
}

/// Two peers of each other.
pub struct Link {
    /// Both ends: site and peer.
    pub ends: [(usize, PeerId); 2],
}

impl Plan {
    /// The plan of a seed.
    pub fn new(rng: &mut StdRng) -> Self {
        let lossless = rng.random_bool(0.4);
        let nat = !lossless && rng.random_bool(0.4);
        let clocks_go_back = !lossless && !nat && rng.random_bool(0.3);
        let delay = Duration::from_micros(1 << rng.random_range(8..17));
        let jitter = if rng.random() { Duration::ZERO } else { delay.mul_f64(rng.random()) };
        let mut plan = Self {
            lossless,
            nat,
            clocks_go_back,
            delay,
            jitter,
            duplicates: if rng.random() { 0.0 } else { rng.random_range(0.0..0.3) },
            sites: (0..3).map(|i| SitePlan::new(i, rng)).collect(),
            links: Vec::new(),
        };
        plan.link(0, TunnelId(0), TunnelId(0), rng);
        match rng.random_range(0..3) {
            // Two tunnels of one key pair at both ends, as in the recipe that forwarder replaces.
            0 => plan.link(0, TunnelId(1), TunnelId(1), rng),
            // Another site, and its peer in the same tunnel.
            1 => plan.link(2, TunnelId(0), TunnelId(0), rng),
            _ => {}
        }
        plan
    }

    /// Links a site's tunnel to one of the hub.
    fn link(&mut self, site: usize, tunnel: TunnelId, hub_tunnel: TunnelId, rng: &mut StdRng) {
        let mut preshared = [0; 32];
        if rng.random() {
            rng.fill_bytes(&mut preshared);
        }
        let persistent = rng.random_bool(0.2).then(|| Duration::from_secs(rng.random_range(10..30)));
        let link = self.links.len();
        let known = !self.nat || site != NATTED;
        let here = self.peer(link, (site, tunnel), (HUB, hub_tunnel), true, persistent, preshared);
        let there = self.peer(link, (HUB, hub_tunnel), (site, tunnel), known, None, preshared);
        self.links.push(Link { ends: [(site, here), (HUB, there)] });
    }

    fn peer(
        &mut self,
        link: usize,
        (site, tunnel): (usize, TunnelId),
        (far, far_tunnel): (usize, TunnelId),
        known: bool,
        persistent_keepalive: Option<Duration>,
        preshared_key: [u8; 32],
    ) -> PeerId {
        let endpoint = SocketAddr::new(self.sites[far].address, port(far_tunnel));
        let public_key = self.sites[far].key.public();
        let site = &mut self.sites[site];
        let id = PeerId(site.peers.len() as u32);
        let config = PeerConfig {
            id,
            public_key,
            preshared_key,
            endpoint: known.then_some(endpoint),
            persistent_keepalive,
        };
        site.tunnels = site.tunnels.max(tunnel.0 + 1);
        site.peers.push(PeerPlan { tunnel, config, link, side: usize::from(far != HUB) });
        id
    }

    /// Whether links may carry data in one direction only: a peer that a NAT or its own clock hides is only
    /// found again when both sides speak.
    pub fn one_way(&self) -> bool {
        !self.nat && !self.clocks_go_back
    }

    /// Secrets that must never be seen on the wire, whole.
    pub fn secrets(&self) -> Vec<[u8; 32]> {
        let keys = self.sites.iter().flat_map(|site| [site.key.0, site.key.public().0]);
        let preshared = self.sites.iter().flat_map(|site| &site.peers).map(|p| p.config.preshared_key);
        keys.chain(preshared.filter(|key| *key != [0; 32])).collect()
    }

    /// The longest that a packet travels while the network is well.
    pub fn longest_delay(&self) -> Time {
        self.delay + self.jitter
    }
}

impl SitePlan {
    fn new(number: u8, rng: &mut StdRng) -> Self {
        let address = Ipv4Addr::new(192, 0, 2, 1 + number).into();
        Self { key: PrivateKey::generate(rng), address, tunnels: 0, peers: Vec::new() }
    }
}

/// The listen port of a tunnel.
pub fn port(tunnel: TunnelId) -> u16 {
    FIRST_PORT + tunnel.0
}
