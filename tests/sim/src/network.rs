//! The network between the sites: loss, delay, duplicates, and a NAT before one site.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use forwarder::id::TunnelId;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::plan::{FIRST_PORT, NATTED, Plan, port};

/// A UDP datagram under way.
#[derive(Clone)]
pub struct Datagram {
    /// Its source as the receiver sees it.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// The payload.
    pub message: Vec<u8>,
    /// The observer sent it.
    pub replayed: bool,
}

/// What happens to packets now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Share of packets that are lost.
    pub loss: f64,
    /// Share of packets that take up to two seconds longer.
    pub reordered: f64,
    /// Share of packets that take up to ten minutes longer.
    pub straggling: f64,
    /// Nothing leaves this site.
    pub mute: Option<usize>,
}

/// The network.
pub struct Network {
    /// The weather.
    pub weather: Weather,
    delay: Duration,
    jitter: Duration,
    duplicates: f64,
    sites: Vec<IpAddr>,
    nat: Option<Nat>,
}

/// What the NAT makes of its site's address.
struct Nat {
    address: IpAddr,
    /// Its site's first tunnel has this port; the next ones follow.
    first_port: u16,
}

impl Network {
    pub fn new(plan: &Plan, rng: &mut StdRng) -> Self {
        Self {
            weather: Weather::default(),
            delay: plan.delay,
            jitter: plan.jitter,
            duplicates: plan.duplicates,
            sites: plan.sites.iter().map(|site| site.address).collect(),
            nat: plan.nat.then(|| Nat::new(rng)),
        }
    }

    /// Gives the NAT's site another address, or only other ports.
    pub fn rebind(&mut self, rng: &mut StdRng) {
        if let Some(nat) = &mut self.nat {
            let new = Nat::new(rng);
            nat.first_port = new.first_port;
            if rng.random() {
                nat.address = new.address;
            }
        }
    }

    /// The copies of a site's datagram that will arrive, and how long they travel.
    pub fn carry(
        &self,
        site: usize,
        tunnel: TunnelId,
        to: SocketAddr,
        message: &[u8],
        rng: &mut StdRng,
    ) -> Vec<(Duration, Datagram)> {
        let from = self.outside(site, tunnel);
        let copies = 1 + usize::from(rng.random_bool(self.duplicates));
        let mut arriving = Vec::with_capacity(copies);
        for _ in 0..copies {
            if self.weather.mute != Some(site) && !rng.random_bool(self.weather.loss) {
                let datagram = Datagram { from, to, message: message.to_owned(), replayed: false };
                arriving.push((self.travel(rng), datagram));
            }
        }
        arriving
    }

    /// The site and tunnel that a datagram for this address reaches now.
    pub fn receiver(&self, to: SocketAddr) -> Option<(usize, TunnelId)> {
        if let Some(nat) = self.nat.as_ref().filter(|nat| nat.address == to.ip()) {
            return Some((NATTED, TunnelId(to.port().checked_sub(nat.first_port)?)));
        }
        let site = self.sites.iter().position(|address| *address == to.ip())?;
        let reachable = self.nat.is_none() || site != NATTED;
        reachable.then_some((site, TunnelId(to.port().checked_sub(FIRST_PORT)?)))
    }

    /// A tunnel's address as others see it.
    pub fn outside(&self, site: usize, tunnel: TunnelId) -> SocketAddr {
        match &self.nat {
            Some(nat) if site == NATTED => SocketAddr::new(nat.address, nat.first_port + tunnel.0),
            _ => SocketAddr::new(self.sites[site], port(tunnel)),
        }
    }

    fn travel(&self, rng: &mut StdRng) -> Duration {
        let mut time = self.delay + self.jitter.mul_f64(rng.random());
        if rng.random_bool(self.weather.reordered) {
            time += Duration::from_secs(2).mul_f64(rng.random());
        }
        if rng.random_bool(self.weather.straggling) {
            time += Duration::from_mins(10).mul_f64(rng.random());
        }
        time
    }
}

impl Nat {
    fn new(rng: &mut StdRng) -> Self {
        let address = Ipv4Addr::new(198, 51, 100, rng.random_range(1..255)).into();
        Self { address, first_port: rng.random_range(1024..60_000) }
    }
}
