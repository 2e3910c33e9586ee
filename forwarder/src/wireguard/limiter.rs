//! Token buckets: per source address under load (section 5.3), per network of sources, and one for cookie
//! replies.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::Boottime;

/// Sources that are told apart at a time; more are refused until some were quiet.
const MAX_SOURCES: usize = 8192;
const PER_SOURCE: Rate = Rate { every: Duration::from_millis(50), burst: 5 };
/// Who owns one address often owns its network. Ten of its addresses may come at their full rate.
const PER_NETWORK: Rate = Rate { every: Duration::from_millis(5), burst: 50 };
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// One token `every` so often, at most `burst` in stock.
#[derive(Clone, Copy)]
pub(super) struct Rate {
    pub(super) every: Duration,
    pub(super) burst: u32,
}

/// The stock of one source, as the time at which it will be full again.
#[derive(Clone, Copy, Default)]
pub(super) struct Bucket {
    full_at: Boottime,
}

impl Bucket {
    /// Whether there is a token.
    fn has(self, now: Boottime, rate: Rate) -> bool {
        (self.full_at.max(now) + rate.every).since(now) <= rate.every * rate.burst
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Boottime, rate: Rate) -> bool {
        let allowed = self.has(now, rate);
        if allowed {
            self.full_at = self.full_at.max(now) + rate.every;
        }
        allowed
    }
}

/// 20 handshake messages per second, bursts of 5, per IPv4 address or IPv6 /64; 200, bursts of 50, per IPv4 /24
/// or IPv6 /48.
pub(super) struct Limiter {
    sources: Table,
    networks: Table,
}

impl Limiter {
    pub(super) fn new(now: Boottime) -> Self {
        Self { sources: Table::new(now, PER_SOURCE), networks: Table::new(now, PER_NETWORK) }
    }

    /// Whether a message of `source` may be worked on at `now`.
    pub(super) fn allow(&mut self, now: Boottime, source: SocketAddr) -> bool {
        let (host, network) = keys(source.ip());
        // The network first, but without taking: else one network could fill the table of sources, and one source
        // take what its network has.
        self.networks.has(now, network) && self.sources.take(now, host) && self.networks.take(now, network)
    }
}

/// Buckets of one rate, by key.
struct Table {
    rate: Rate,
    buckets: HashMap<u64, Bucket>,
    pruned: Boottime,
}

impl Table {
    fn new(now: Boottime, rate: Rate) -> Self {
        Self { rate, buckets: HashMap::with_capacity(MAX_SOURCES), pruned: now }
    }

    fn has(&self, now: Boottime, key: u64) -> bool {
        self.buckets.get(&key).is_none_or(|bucket| bucket.has(now, self.rate))
    }

    fn take(&mut self, now: Boottime, key: u64) -> bool {
        if self.buckets.len() >= MAX_SOURCES && now.since(self.pruned) >= PRUNE_INTERVAL {
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            self.pruned = now;
        }
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&key) {
            return false;
        }
        self.buckets.entry(key).or_default().take(now, self.rate)
    }
}

/// The address and its /24, or the /64 and the /48 of an IPv6 address. No /64 in use lies in `::/32`, where
/// IPv4 is put.
fn keys(address: IpAddr) -> (u64, u64) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (v4.to_bits().into(), (v4.to_bits() >> 8).into()),
        IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64, (v6.to_bits() >> 80) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boottime {
        Boottime::default() + Duration::from_secs(1000) + Duration::from_millis(millis)
    }

    fn source(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Section 5.3: 20 a second with bursts of 5.
    #[test]
    fn burst_then_rate() {
        let mut limiter = Limiter::new(at(0));
        let a = source("192.0.2.1:1");
        assert_eq!((0..9).filter(|_| limiter.allow(at(0), a)).count(), 5);
        assert!(!limiter.allow(at(49), a));
        assert!(limiter.allow(at(50), a));
        assert!(!limiter.allow(at(51), a));
        assert_eq!((51..2051).filter(|&t| limiter.allow(at(t), a)).count(), 40);
    }

    /// Section 5.3: per source, not global; ports do not matter; IPv6 by /64.
    #[test]
    fn sources_are_apart() {
        let mut limiter = Limiter::new(at(0));
        for _ in 0..9 {
            limiter.allow(at(0), source("192.0.2.1:1"));
            limiter.allow(at(0), source("[2001:db8::1]:1"));
        }
        assert!(!limiter.allow(at(0), source("192.0.2.1:2")));
        assert!(limiter.allow(at(0), source("192.0.2.2:1")));
        assert!(!limiter.allow(at(0), source("[2001:db8::2]:1")));
        assert!(limiter.allow(at(0), source("[2001:db8:0:1::1]:1")));
    }

    /// All addresses of a network together get what ten of them would; other networks do not feel it.
    #[test]
    fn networks_are_bounded() {
        let mut limiter = Limiter::new(at(0));
        let allowed = |limiter: &mut Limiter, network: &str| {
            (0..10_000)
                .map(|i| (i / 5, source(&network.replace('*', &(i % 250).to_string()))))
                .filter(|&(millis, host)| limiter.allow(at(millis), host))
                .count()
        };
        assert_eq!(allowed(&mut limiter, "192.0.2.*:1"), 50 + 399);
        assert_eq!(allowed(&mut limiter, "[2001:db8:0:*::1]:1"), 50 + 399);
        assert!(limiter.allow(at(2000), source("192.0.3.1:1")));
        assert!(limiter.allow(at(2000), source("[2001:db8:1::1]:1")));
    }

    /// A /48 has 65,536 /64s: they take no room that others need.
    #[test]
    fn one_network_does_not_fill_the_table() {
        let mut limiter = Limiter::new(at(0));
        let hosts = (0..2 * MAX_SOURCES).map(|i| source(&format!("[2001:db8:0:{i:x}::1]:1")));
        assert_eq!(hosts.filter(|host| limiter.allow(at(0), *host)).count(), 50);
        assert!(limiter.allow(at(0), source("[2001:db8:1::1]:1")));
    }

    /// Section 5.3: a flood from ever new sources takes no more memory, and is refused (the kernel's
    /// `ratelimiter.c` has 8192 entries, too).
    #[test]
    fn memory_is_bounded() {
        let mut limiter = Limiter::new(at(0));
        let nth = |i: u32| SocketAddr::from((i.to_le_bytes(), 1));
        for i in 0..2 * MAX_SOURCES as u32 {
            assert_eq!(limiter.allow(at(0), nth(i)), i < MAX_SOURCES as u32);
        }
        assert_eq!(limiter.sources.buckets.len(), MAX_SOURCES);
        assert!(limiter.allow(at(1000), nth(u32::MAX)));
        assert_eq!(limiter.sources.buckets.len(), 1);
    }
}
