//! A tunnel whose peers, keys and settings change while it runs.

use super::*;
use crate::wireguard::Session;
use crate::wireguard::message::INITIATION_LEN;

const PEER: PeerId = PeerId(3);

/// Two tunnels and the time.
struct Pair {
    ends: [Tunnel; 2],
    keys: [PrivateKey; 2],
    seconds: u64,
    /// All messages that were carried, with their receivers.
    seen: Vec<(usize, Vec<u8>)>,
}

impl Pair {
    fn new() -> Self {
        let keys = [PrivateKey::generate(&mut rand::rng()), PrivateKey::generate(&mut rand::rng())];
        let end = |own: usize| {
            let (shared, now) = (Arc::default(), Boottime::from_nanos(1));
            let mut tunnel = Tunnel::new(TunnelId(0), &keys[own], shared, now, &mut rand::rng());
            assert!(tunnel.add_peer(&config(&keys[1 - own], 1 - own), now));
            tunnel
        };
        Self { ends: [end(0), end(1)], keys, seconds: 0, seen: Vec::new() }
    }

    fn now(&self) -> (Boottime, Wall) {
        let time = Duration::from_secs(self.seconds);
        (Boottime::from_nanos(1) + time, Wall(Duration::from_secs(1_700_000_000) + time))
    }

    /// Asks for a session at one end; six seconds pass, so that it may initiate.
    fn want(&mut self, end: usize) {
        self.seconds += 6;
        let (now, wall) = self.now();
        self.ends[end].want_session(PEER, now, wall, &mut rand::rng());
    }

    /// Carries all messages there and back; returns the refusals.
    fn carry(&mut self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for from in [0, 1, 0, 1] {
            while let Some(transmit) = self.ends[from].poll_transmit() {
                refusals.extend(self.deliver(1 - from, &transmit.payload).err());
                self.seen.push((1 - from, transmit.payload));
            }
        }
        refusals
    }

    fn deliver(&mut self, to: usize, message: &[u8]) -> Result<(), Refusal> {
        let (now, wall) = self.now();
        self.ends[to].receive(now, wall, &mut rand::rng(), address(1 - to), message, false)
    }

    fn session(&self, end: usize) -> Option<Arc<Session>> {
        let slots = self.ends[end].slots(PEER);
        slots.next.or(slots.current)
    }

    /// Whether both ends have a session with the other's index.
    fn agree(&self) -> bool {
        let ends = self.session(0).zip(self.session(1));
        ends.is_some_and(|(a, b)| a.local_index == b.remote_index && a.remote_index == b.local_index)
    }
}

fn address(of: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, of as u8], 5000))
}

fn config(key: &PrivateKey, of: usize) -> PeerConfig {
    PeerConfig {
        id: PEER,
        public_key: key.public(),
        preshared_key: [0; 32],
        endpoint: Some(address(of)),
        persistent_keepalive: None,
    }
}

fn connected() -> Pair {
    let mut pair = Pair::new();
    pair.want(0);
    assert!(pair.carry().is_empty() && pair.agree());
    pair
}

#[test]
fn a_removed_peer_takes_its_sessions_along() {
    let mut pair = connected();
    let session = pair.session(1).map(|session| Arc::downgrade(&session)).unwrap();
    pair.want(1);
    assert!(pair.ends[1].remove_peer(PEER) && !pair.ends[1].remove_peer(PEER));
    assert!(session.upgrade().is_none(), "the keys are wiped");
    assert!(pair.session(1).is_none() && pair.ends[1].status(PEER).is_none());
    let nothing = (pair.ends[1].poll_transmit().is_none(), pair.ends[1].poll_event().is_none());
    assert_eq!(nothing, (true, true), "for a peer that is no more");
    assert_eq!(pair.ends[1].poll_timeout(), None);
    let (now, _) = pair.now();
    pair.ends[0].remove_peer(PEER);
    assert!(pair.ends[0].add_peer(&config(&pair.keys[1], 1), now));
    pair.want(0);
    assert_eq!(pair.carry(), [Refusal::Unauthenticated]);
}

#[test]
fn a_preshared_key_holds_from_the_next_handshake() {
    let mut pair = connected();
    let index = |pair: &Pair| pair.session(0).map(|session| session.local_index);
    let before = index(&pair);
    pair.ends[0].set_preshared_key(PEER, &[7; 32]);
    assert_eq!(index(&pair), before, "the session goes on");
    assert!(pair.ends[0].poll_timeout().is_some());
    // Old enough for a new one.
    pair.seconds += 200;
    pair.want(0);
    assert_eq!(pair.carry(), [Refusal::Unauthenticated], "the response to another key");
    pair.ends[1].set_preshared_key(PEER, &[7; 32]);
    pair.want(0);
    assert!(pair.carry().is_empty() && pair.agree());
    assert_ne!(index(&pair), before);
}

/// Section 5.1: the greatest timestamp is kept for the life of the peer's configuration, `wg set` included.
#[test]
fn another_private_key_ends_the_sessions_and_keeps_the_greatest_timestamp() {
    let mut pair = connected();
    let (_, initiation) = pair.seen.iter().find(|(_, m)| m.len() == INITIATION_LEN).cloned().unwrap();
    let (now, other) = (pair.now().0, PrivateKey::generate(&mut rand::rng()));
    pair.ends[1].set_private_key(&other, now, &mut rand::rng());
    assert!(pair.session(1).is_none());
    assert!(std::iter::from_fn(|| pair.ends[1].poll_event()).any(|event| event == Event::Sessions(PEER)));
    pair.seconds += 1;
    assert_eq!(pair.deliver(1, &initiation), Err(Refusal::Mac1), "for the old key");

    let before = pair.ends[0].status(PEER).unwrap();
    pair.ends[0].remove_peer(PEER);
    pair.ends[0].add_peer(&config(&other, 1), now);
    pair.want(0);
    assert!(pair.carry().is_empty() && pair.agree(), "{before:?}");

    pair.ends[1].set_private_key(&pair.keys[1], now, &mut rand::rng());
    pair.ends[1].set_preshared_key(PEER, &[0; 32]);
    pair.ends[1].set_endpoint(PEER, address(0));
    pair.ends[1].set_persistent_keepalive(PEER, None, now);
    pair.seconds += 1;
    assert_eq!(pair.deliver(1, &initiation), Err(Refusal::Replayed));
}

/// A machine that was restored from a snapshot may have used its nonces since then.
#[test]
fn sessions_that_are_ended_end_for_lanes_that_still_have_them() {
    let mut pair = connected();
    let sessions = [0, 1].map(|end| pair.session(end).unwrap());
    assert!(sessions.iter().all(|session| session.draw(session.created, 1).count() == 1));
    // So late that A asks for another session.
    pair.seconds += 200;
    pair.want(0);
    pair.ends.iter_mut().for_each(Tunnel::end_sessions);
    assert!(sessions.iter().all(|session| session.draw(session.created, 1).is_empty()));
    assert!(pair.session(0).is_none() && pair.session(1).is_none());
    for end in &mut pair.ends {
        assert!(end.poll_transmit().is_none(), "the initiation that A has not sent yet");
        assert!(std::iter::from_fn(|| end.poll_event()).any(|event| event == Event::Sessions(PEER)));
    }
    pair.want(1);
    assert!(pair.carry().is_empty() && pair.agree());
}

/// Whoever took a tunnel's door before its key changed lets pass what is for the new key, and nothing else.
#[test]
fn a_door_follows_the_private_key() {
    let mut pair = connected();
    let (now, rng) = (pair.now().0, &mut rand::rng());
    let (_, old) = pair.seen.iter().find(|(_, m)| m.len() == INITIATION_LEN).cloned().unwrap();
    let door = pair.ends[1].door();
    let mut admit =
        |message: &[u8]| door.lock().unwrap().admit(now, rng, address(0), message, false).map(drop);
    assert_eq!(admit(&old), Ok(()));

    let key = PrivateKey::generate(&mut rand::rng());
    pair.ends[1].set_private_key(&key, now, &mut rand::rng());
    pair.ends[0].remove_peer(PEER);
    pair.ends[0].add_peer(&config(&key, 1), now);
    pair.want(0);
    assert_eq!(admit(&pair.ends[0].poll_transmit().unwrap().payload), Ok(()));
    assert_eq!(admit(&old), Err(Stopped::Mac1));
}

/// All zero is a key that everybody knows.
#[test]
fn without_a_private_key_nobody_is_met() {
    let mut pair = connected();
    let (now, none) = (pair.now().0, PrivateKey([0; 32]));
    pair.ends[0].set_private_key(&none, now, &mut rand::rng());
    pair.ends[1].remove_peer(PEER);
    assert!(pair.ends[1].add_peer(&config(&none, 0), now));
    for end in [0, 1] {
        pair.want(end);
        assert_eq!(pair.carry().len(), 1);
    }
    assert!(pair.session(0).is_none() && pair.session(1).is_none());
}

#[test]
fn endpoint_and_keepalive_change_at_once() {
    let mut pair = connected();
    while pair.ends[0].poll_event().is_some() {}
    pair.ends[0].set_endpoint(PEER, address(9));
    assert_eq!(pair.ends[0].poll_event(), Some(Event::Endpoint(PEER)));
    assert_eq!(pair.ends[0].status(PEER).unwrap().endpoint, Some(address(9)));
    pair.seconds += 200;
    pair.want(0);
    assert_eq!(pair.ends[0].poll_transmit().unwrap().to, address(9));

    let mut pair = connected();
    let (now, wall) = pair.now();
    let due = |tunnel: &mut Tunnel| {
        tunnel.handle_timeout(now, wall, &mut rand::rng());
        tunnel.poll_timeout().filter(|(_, why)| *why == "persistent keepalive")
    };
    assert_eq!(due(&mut pair.ends[0]), None);
    pair.ends[0].set_persistent_keepalive(PEER, Some(Duration::from_millis(500)), now);
    assert!(due(&mut pair.ends[0]).is_some());
    pair.ends[0].set_persistent_keepalive(PEER, None, now);
    assert_eq!(due(&mut pair.ends[0]), None);
}

#[test]
fn silence_lasts_from_the_first_unanswered_initiation_until_something_is_heard() {
    let mut pair = Pair::new();
    let silent = |pair: &Pair| pair.ends[0].status(PEER).unwrap().silent_since;
    assert_eq!(silent(&pair), None);
    pair.want(0);
    let first = pair.now().0;
    assert_eq!(silent(&pair), Some(first));
    pair.want(0);
    assert_eq!(silent(&pair), Some(first));
    assert!(pair.ends[0].poll_transmit().is_some(), "the first is lost");
    pair.carry();
    assert!(pair.agree());
    assert_eq!(silent(&pair), None);
}
