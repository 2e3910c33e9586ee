//! Endpoints by name: looked up at start, and again while their peers are silent. The system's resolver
//! blocks, so it runs on threads of its own; the control thread only collects the answers.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use super::gateway::Gateway;
use crate::clock::{self, Boottime};
use crate::config::TunnelConfig;
use crate::id::PeerId;

/// How long a start waits for answers; what comes later is taken in while the gateway runs.
const START: Duration = Duration::from_secs(5);
/// A peer that answers nothing for this long may have moved: three initiations.
const SILENCE: Duration = Duration::from_secs(15);
/// Pause between two lookups of one name.
const PAUSE: Duration = Duration::from_secs(15);

/// Host and UDP port.
type Name = (String, u16);

/// Lookups that are under way, and the time of the last one of each name.
#[derive(Debug, Default)]
pub struct Names {
    lookups: JoinSet<(Name, io::Result<Vec<SocketAddr>>)>,
    asked: HashMap<Name, Boottime>,
    failing: HashMap<Name, String>,
}

impl Names {
    fn ask(&mut self, name: Name, now: Boottime) {
        self.asked.insert(name.clone(), now);
        self.lookups.spawn(async move {
            let addresses = tokio::net::lookup_host((name.0.as_str(), name.1)).await;
            let addresses = addresses.map(Iterator::collect);
            (name, addresses)
        });
    }

    fn is_due(&self, name: &Name, now: Boottime) -> bool {
        self.asked.get(name).is_none_or(|asked| now.since(*asked) >= PAUSE)
    }

    /// The addresses of a name, when a lookup has ended well. Failure is told once.
    fn next(&mut self) -> Option<(Name, Vec<SocketAddr>)> {
        while let Some(ended) = self.lookups.try_join_next() {
            // A lookup that panicked is repeated like one that failed.
            let Ok((name, outcome)) = ended else { continue };
            let why = match outcome {
                Ok(addresses) if !addresses.is_empty() => {
                    self.failing.remove(&name);
                    return Some((name, addresses));
                }
                Ok(_) => "no address".to_owned(),
                Err(error) => error.to_string(),
            };
            if self.failing.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                tracing::warn!("{}", unresolved(&name, &why));
            }
        }
        None
    }
}

/// Looks up all names, at once, and waits for the answers; returns what the operator should know.
pub async fn resolve(configs: &mut [TunnelConfig]) -> Vec<String> {
    let mut names = Names::default();
    let sections = || configs.iter().flat_map(|config| &config.peers);
    for name in sections().filter_map(|section| section.endpoint_name.clone()) {
        if !names.asked.contains_key(&name) {
            names.ask(name, clock::boottime());
        }
    }
    let mut answers: HashMap<Name, Result<SocketAddr, String>> = HashMap::new();
    let collect = async {
        while let Some(ended) = names.lookups.join_next().await {
            let Ok((name, outcome)) = ended else { continue };
            let first = outcome.map_err(|error| error.to_string());
            let first = first.and_then(|all| all.first().copied().ok_or_else(|| "no address".to_owned()));
            answers.insert(name, first);
        }
    };
    let _ = tokio::time::timeout(START, collect).await;
    let mut remarks = Vec::new();
    for section in configs.iter_mut().flat_map(|config| &mut config.peers) {
        let Some(name) = &section.endpoint_name else { continue };
        match answers.get(name) {
            Some(Ok(address)) => section.endpoint = Some(*address),
            Some(Err(why)) => remarks.push(unresolved(name, why)),
            None => remarks.push(unresolved(name, "no answer yet")),
        }
    }
    // A resolver that hangs must not hold up the start: its thread is left behind.
    names.lookups.detach_all();
    remarks
}

/// Where the names of `new` are those of `old`, goes on with the addresses that were found.
pub fn carry_over(old: &[TunnelConfig], new: &mut [TunnelConfig]) {
    for config in new {
        let Some(old) = old.iter().find(|old| old.name == config.name) else { continue };
        for section in config.peers.iter_mut().filter(|section| section.endpoint_name.is_some()) {
            let known = old.peers.iter().find(|old| old.public_key == section.public_key);
            let known = known.filter(|old| old.endpoint_name == section.endpoint_name);
            section.endpoint = known.and_then(|old| old.endpoint);
        }
    }
}

impl Gateway {
    /// Asks for the addresses of peers that have none or are silent, and goes on with what was found. A peer
    /// that answers keeps the address from which it does.
    pub(super) fn look_up_names(&mut self) {
        let now = clock::boottime();
        for (_, name) in self.named_peers(now) {
            if self.names.is_due(&name, now) {
                self.names.ask(name, now);
            }
        }
        while let Some((name, addresses)) = self.names.next() {
            for (peer, _) in self.named_peers(now).into_iter().filter(|(_, of)| *of == name) {
                self.set_found(peer, &addresses);
            }
        }
    }

    /// The peers whose endpoint is a name that shall be looked up.
    fn named_peers(&self, now: Boottime) -> Vec<(PeerId, Name)> {
        let tunnels = self.plan.topology.tunnels.iter().zip(&self.plan.configs);
        let places = tunnels.flat_map(|(plan, config)| plan.peers.iter().copied().zip(&config.peers));
        let named = places.filter_map(|(peer, section)| Some((peer, section.endpoint_name.clone()?)));
        let is_lost = |peer| {
            let status = self.status(peer)?;
            let silent = status.silent_since.is_some_and(|since| now.since(since) >= SILENCE);
            Some(status.endpoint.is_none() || silent)
        };
        named.filter(|(peer, _)| is_lost(*peer).unwrap_or(false)).collect()
    }

    fn set_found(&mut self, peer: PeerId, addresses: &[SocketAddr]) {
        let current = self.status(peer).and_then(|status| status.endpoint);
        let Some(next) = next_address(current, addresses).filter(|next| Some(*next) != current) else {
            return;
        };
        tracing::info!("{}: the endpoint is {next} now", self.plan.topology.tunnel_name(peer));
        let tunnels = self.plan.topology.tunnels.iter().zip(&mut self.plan.configs);
        for (plan, config) in tunnels {
            let place = plan.peers.iter().zip(&mut config.peers).find(|(id, _)| **id == peer);
            if let Some((_, section)) = place {
                section.endpoint = Some(next);
            }
        }
        if let Some(tunnel) = self.tunnel(peer) {
            tunnel.set_endpoint(peer, next);
        }
        self.handle.want(peer);
    }
}

/// The address to try after `current`: the next of them, round, so that one that is dead is left.
fn next_address(current: Option<SocketAddr>, addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let at = addresses.iter().position(|address| Some(*address) == current);
    let next = at.map_or(0, |at| (at + 1) % addresses.len());
    addresses.get(next).copied()
}

fn unresolved((host, port): &Name, why: &str) -> String {
    format!(
        "Endpoint {host}:{port} cannot be resolved ({why}): check the name and DNS, or write an address; \
         `run` tries again every {PAUSE:?}"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::wg_quick;

    fn config(endpoint: &str) -> TunnelConfig {
        let text = format!(
            "[Interface]\nPrivateKey = 6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=\n\
             [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nEndpoint = {endpoint}\n"
        );
        wg_quick::parse("wg0", Path::new("wg0.conf"), text.as_bytes()).unwrap()
    }

    #[test]
    fn dead_addresses_are_left_for_the_next_one() {
        let all: [SocketAddr; 2] = ["[2001:db8::1]:1", "192.0.2.1:1"].map(|a| a.parse().unwrap());
        assert_eq!(next_address(None, &all), Some(all[0]));
        assert_eq!(next_address(Some(all[0]), &all), Some(all[1]));
        assert_eq!(next_address(Some(all[1]), &all), Some(all[0]));
        assert_eq!(next_address(Some("192.0.2.9:1".parse().unwrap()), &all), Some(all[0]));
        assert_eq!(next_address(None, &[]), None);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_stops_nothing() {
        let mut configs = [config("localhost:5000"), config("nowhere.invalid:5000")];
        let remarks = resolve(&mut configs).await;
        let [found, missing] = configs.map(|config| config.peers[0].endpoint);
        assert!(
            found.is_some_and(|address| address.ip().is_loopback() && address.port() == 5000),
            "{found:?}"
        );
        assert_eq!((missing, remarks.len()), (None, 1), "{remarks:?}");
        assert!(remarks[0].starts_with("Endpoint nowhere.invalid:5000 cannot be resolved ("), "{remarks:?}");
    }

    #[test]
    fn addresses_that_were_found_are_kept_for_the_same_name_only() {
        let mut old = [config("a.example:1")];
        old[0].peers[0].endpoint = Some("192.0.2.1:1".parse().unwrap());
        for (endpoint, kept) in [("a.example:1", true), ("a.example:2", false), ("192.0.2.2:1", false)] {
            let mut new = [config(endpoint)];
            carry_over(&old, &mut new);
            assert_eq!(new[0].peers[0].endpoint == old[0].peers[0].endpoint, kept, "{endpoint}");
        }
    }
}
