//! Endpoints by name: looked up at start, and again while their peers are silent. The system's resolver
//! blocks, so it runs on threads of its own; the control thread only collects the answers.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::gateway::Gateway;
use crate::clock::{self, Boottime};
use crate::config::TunnelConfig;
use crate::id::PeerId;
use crate::pipeline::Control as _;

/// How long a start waits for answers; what comes later is taken in while the gateway runs.
const START: Duration = Duration::from_secs(5);
/// A peer that answers nothing for this long may have moved: three initiations.
const SILENCE: Duration = Duration::from_secs(15);
/// Pause between the answer for a name and its next lookup.
const PAUSE: Duration = Duration::from_secs(15);

/// Host and UDP port.
type Name = (String, u16);

/// What became of a lookup: addresses, or why there is none.
type Outcome = Result<Vec<SocketAddr>, String>;

/// Lookups that are under way, one a name, and the time of the last answer for each name.
#[derive(Debug, Default)]
pub struct Names {
    /// Each ends once, whatever becomes of it.
    lookups: HashMap<Name, oneshot::Receiver<Outcome>>,
    answered: HashMap<Name, Boottime>,
    failing: HashMap<Name, String>,
    /// Peers to whom the operator gave a name that has not been found yet.
    renamed: HashSet<PeerId>,
}

impl Names {
    /// Has a name looked up, unless it is being looked up: lookups without answers must not pile up.
    fn ask(&mut self, name: Name) {
        self.lookups.entry(name).or_insert_with_key(|name| {
            let (answer, answered) = oneshot::channel();
            let (host, port) = name.clone();
            tokio::spawn(async move {
                let found = tokio::net::lookup_host((host.as_str(), port)).await;
                let found = found.map(Iterator::collect::<Vec<_>>).map_err(|error| error.to_string());
                let found =
                    found.and_then(|all| if all.is_empty() { Err("no address".to_owned()) } else { Ok(all) });
                // Who does not wait any more needs no answer.
                let _ = answer.send(found);
            });
            answered
        });
    }

    fn is_due(&self, name: &Name, now: Boottime) -> bool {
        let rests = self.answered.get(name).is_some_and(|answered| now.since(*answered) < PAUSE);
        !rests && !self.lookups.contains_key(name)
    }

    /// The addresses of a name, when a lookup has ended well. Failure is told once.
    fn next(&mut self, now: Boottime) -> Option<(Name, Vec<SocketAddr>)> {
        while let Some((name, outcome)) = self.ended() {
            self.lookups.remove(&name);
            self.answered.insert(name.clone(), now);
            let why = match outcome {
                Ok(addresses) => {
                    self.failing.remove(&name);
                    return Some((name, addresses));
                }
                Err(why) => why,
            };
            if self.failing.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                tracing::warn!("{}", unresolved(&name, &why));
            }
        }
        None
    }

    fn ended(&mut self) -> Option<(Name, Outcome)> {
        self.lookups.iter_mut().find_map(|(name, lookup)| match lookup.try_recv() {
            Ok(outcome) => Some((name.clone(), outcome)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some((name.clone(), Err("the lookup broke off".to_owned()))),
        })
    }

    /// Takes a peer's `Endpoint` from a changed configuration: another name is looked up in the next turn.
    pub(super) fn follow(&mut self, peer: PeerId, name: Option<&Name>) {
        match name {
            Some(name) => {
                self.renamed.insert(peer);
                self.answered.remove(name);
            }
            None => _ = self.renamed.remove(&peer),
        }
    }

    /// Forgets the names that stand in none of these configurations.
    pub(super) fn forget_others(&mut self, configs: &[TunnelConfig]) {
        let sections = configs.iter().flat_map(|config| &config.peers);
        let named: HashSet<&Name> = sections.filter_map(|section| section.endpoint_name.as_ref()).collect();
        self.answered.retain(|name, _| named.contains(name));
        self.failing.retain(|name, _| named.contains(name));
        self.lookups.retain(|name, _| named.contains(name));
    }

    /// Forgets a peer that is no more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.renamed.remove(&peer);
    }
}

/// Looks up all names, at once, and waits for the answers; returns what the operator should know.
pub async fn resolve(configs: &mut [TunnelConfig]) -> Vec<String> {
    let mut names = Names::default();
    let sections = configs.iter().flat_map(|config| &config.peers);
    sections.filter_map(|section| section.endpoint_name.clone()).for_each(|name| names.ask(name));
    // A resolver that hangs must not hold up the start: its thread is left behind.
    let answers = names.lookups.into_iter().map(async |(name, lookup)| {
        let outcome = tokio::time::timeout(START, lookup).await;
        (name, outcome.ok().and_then(Result::ok))
    });
    let answers: HashMap<Name, _> = join_all(answers).await.into_iter().collect();
    let mut remarks = Vec::new();
    for section in configs.iter_mut().flat_map(|config| &mut config.peers) {
        let Some(name) = &section.endpoint_name else { continue };
        match answers.get(name) {
            Some(Some(Ok(addresses))) => section.endpoint = addresses.first().copied(),
            Some(Some(Err(why))) => remarks.push(unresolved(name, why)),
            _ => remarks.push(unresolved(name, "no answer yet")),
        }
    }
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
    /// that answers keeps the address from which it does, unless the operator gives it another name.
    pub(super) fn look_up_names(&mut self) {
        let now = clock::boottime();
        let named = self.named_peers().filter(|(_, name)| self.names.is_due(name, now));
        let due = named.filter(|(peer, _)| self.is_lost(*peer, now)).map(|(_, name)| name.clone());
        for name in due.collect::<Vec<_>>() {
            self.names.ask(name);
        }
        while let Some((name, addresses)) = self.names.next(now) {
            let of_that_name = self.named_peers().filter(|(_, of)| **of == name).map(|(peer, _)| peer);
            let lost: Vec<PeerId> = of_that_name.filter(|peer| self.is_lost(*peer, now)).collect();
            for peer in lost {
                self.set_found(peer, &addresses);
            }
        }
    }

    /// The peers whose endpoint is a name.
    fn named_peers(&self) -> impl Iterator<Item = (PeerId, &Name)> {
        let tunnels = self.plan.topology.tunnels.iter().zip(&self.plan.configs);
        let places = tunnels.flat_map(|(plan, config)| plan.peers.iter().copied().zip(&config.peers));
        places.filter_map(|(peer, section)| Some((peer, section.endpoint_name.as_ref()?)))
    }

    /// Whether a peer's name shall be looked up.
    fn is_lost(&self, peer: PeerId, now: Boottime) -> bool {
        let Some(status) = self.status(peer) else { return false };
        let silent = status.silent_since.is_some_and(|since| now.since(since) >= SILENCE);
        status.endpoint.is_none() || silent || self.names.renamed.contains(&peer)
    }

    fn set_found(&mut self, peer: PeerId, addresses: &[SocketAddr]) {
        let current = self.status(peer).and_then(|status| status.endpoint);
        // Under its new name a peer may be where it was.
        let stays = self.names.renamed.remove(&peer) && current.is_some_and(|at| addresses.contains(&at));
        let next = if stays { current } else { next_address(current, addresses) };
        let (Some(next), Some((tunnel, section))) = (next, self.plan.section(peer)) else { return };
        self.plan.configs[tunnel].peers[section].endpoint = Some(next);
        if Some(next) == current {
            return;
        }
        tracing::info!("{}: the endpoint is {next} now", self.plan.label(peer));
        if let Some(tunnel) = self.tunnel(peer) {
            tunnel.set_endpoint(peer, next);
        }
        self.handle.want_session(peer);
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

    /// However long an answer takes, there is one lookup, and the pause begins with the answer.
    #[tokio::test]
    async fn a_name_is_looked_up_once_at_a_time() {
        let mut names = Names::default();
        let name = ("slow.example".to_owned(), 1);
        let (answer, lookup) = oneshot::channel();
        names.lookups.insert(name.clone(), lookup);
        let at = |seconds| Boottime(Duration::from_secs(seconds));
        assert!(!names.is_due(&name, at(1000)));
        assert!(names.next(at(1000)).is_none());
        let found: Vec<SocketAddr> = vec!["192.0.2.1:1".parse().unwrap()];
        answer.send(Ok(found.clone())).unwrap();
        assert_eq!(names.next(at(1001)), Some((name.clone(), found)));
        assert!(!names.is_due(&name, at(1000) + PAUSE));
        assert!(names.is_due(&name, at(1001) + PAUSE));
    }

    #[test]
    fn names_that_nobody_has_are_forgotten() {
        let mut names = Names::default();
        for host in ["a.example", "b.example"] {
            names.answered.insert((host.to_owned(), 1), Boottime::default());
            names.failing.insert((host.to_owned(), 1), String::new());
            names.lookups.insert((host.to_owned(), 1), oneshot::channel().1);
        }
        names.forget_others(&[config("a.example:1")]);
        let left = names.answered.keys().chain(names.failing.keys()).chain(names.lookups.keys());
        assert_eq!(left.map(|(host, _)| host.as_str()).collect::<Vec<_>>(), ["a.example"; 3]);
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
