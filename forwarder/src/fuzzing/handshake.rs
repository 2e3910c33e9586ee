//! Two tunnels, and somebody who reads, repeats, bends and makes up what goes between them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::reader::Reader;
use crate::clock::{Boottime, Wall};
use crate::id::{PeerId, TunnelId};
use crate::wireguard::message::{Handshake, TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE};
use crate::wireguard::{
    Event, PeerConfig, PrivateKey, PublicKey, REKEY_TIMEOUT, Refusal, Role, Shared, Tunnel,
};

/// Length of mac1 and mac2 together.
const MACS: usize = 32;
/// Steps per input; each may cost a few multiplications on the curve.
const STEPS: usize = 40;

/// Runs `data` as a list of steps. Only what the other side sent is accepted, as it was sent and once; the
/// two agree on the keys; initiations keep their distance; no timer is due again at once.
pub fn handshake(data: &[u8]) {
    let mut world = World::new();
    let input = &mut Reader::new(data);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        world.step(input);
    }
}

struct World {
    sides: [Side; 2],
    /// All messages that were sent, with who sent them.
    sent: Vec<(usize, Vec<u8>)>,
    now: Boottime,
    wall: Wall,
    rng: StdRng,
}

struct Side {
    tunnel: Tunnel,
    public: PublicKey,
    address: SocketAddr,
    /// What it took, see [`sealed`].
    taken: HashSet<Vec<u8>>,
    initiated: Option<Boottime>,
}

impl World {
    fn new() -> Self {
        let (now, wall) = (Boottime(Duration::from_secs(1000)), Wall(Duration::from_secs(1_700_000_000)));
        let mut rng = StdRng::seed_from_u64(1);
        let keys = [[1; 32], [2; 32]];
        let addresses = ["192.0.2.1:51820", "[2001:db8::2]:51820"].map(|text| text.parse().unwrap());
        let sides = [0, 1].map(|i| {
            let (own, other) = (PrivateKey(keys[i]), PrivateKey(keys[1 - i]).public());
            let mut tunnel = Tunnel::new(TunnelId(0), &own, Arc::<Shared>::default(), now, &mut rng);
            let peer = PeerConfig {
                id: PeerId(0),
                public_key: other,
                preshared_key: [3; 32],
                endpoint: Some(addresses[1 - i]),
                persistent_keepalive: (i == 0).then_some(Duration::from_secs(25)),
            };
            assert!(tunnel.add_peer(&peer, now));
            let (address, public) = (addresses[i], own.public());
            Side { tunnel, public, address, taken: HashSet::new(), initiated: None }
        });
        Self { sides, sent: Vec::new(), now, wall, rng }
    }

    fn step(&mut self, input: &mut Reader<'_>) {
        let choice = input.byte();
        let side = usize::from(choice >> 7);
        match choice % 8 {
            0 => {
                // From a quarter of a second to more than nine minutes.
                let passed = Duration::from_millis(10 + 250 * u64::from(input.byte() % 64).pow(2) / 4);
                self.now = self.now + passed;
                self.wall.0 += passed;
                self.time_out(side);
            }
            1 => self.time_out(side),
            2 => {
                // The clock is set, to any time since the epoch.
                self.wall = Wall(Duration::from_secs(u64::from(input.word()) << 16));
            }
            3 => {
                let Self { sides, now, wall, rng, .. } = self;
                sides[side].tunnel.want_session(PeerId(0), *now, *wall, rng);
            }
            4 => self.data(side),
            5 => self.bring(side, input, |message, input| input.bend(message)),
            6 => {
                let kind = [TYPE_INITIATION, TYPE_RESPONSE, TYPE_COOKIE_REPLY][input.below(3)];
                self.bring(side, input, |message, input| {
                    *message = vec![kind, 0, 0, 0];
                    let len = usize::from(input.byte());
                    message.extend_from_slice(input.bytes(len));
                });
            }
            _ => self.bring(side, input, |_, _| {}),
        }
        self.collect();
    }

    fn time_out(&mut self, side: usize) {
        let Self { sides, now, wall, rng, .. } = self;
        let tunnel = &mut sides[side].tunnel;
        tunnel.handle_timeout(*now, *wall, rng);
        assert!(tunnel.poll_timeout().is_none_or(|(due, _)| due > *now), "{:?}", tunnel.poll_timeout());
    }

    /// An authentic data message comes in under the newest session, if both have it.
    fn data(&mut self, side: usize) {
        let [here, there] = [side, 1 - side].map(|i| self.sides[i].tunnel.slots(PeerId(0)));
        let Some(session) = here.next.or(here.current) else { return };
        let sessions = [&there.next, &there.current, &there.previous];
        let knows = sessions.into_iter().flatten().any(|other| other.local_index == session.remote_index);
        if knows && session.receivable(self.now) {
            session.replay().accept(session.draw(self.now, 1).start);
            session.note_received(self.now, 1, 32, 1, None);
        }
    }

    /// Brings a message that was sent, after a change, to a side. Its mac1 may be made right again.
    fn bring(&mut self, side: usize, input: &mut Reader<'_>, change: impl Fn(&mut Vec<u8>, &mut Reader<'_>)) {
        let flags = input.byte();
        let at = input.below(self.sent.len());
        let mut message = self.sent.get(at).map(|(_, message)| message.clone()).unwrap_or_default();
        change(&mut message, input);
        if flags & 1 != 0 {
            set_mac1(&self.sides[side].public, &mut message);
        }
        let source = match flags >> 1 & 3 {
            0 => SocketAddr::from(([127, 0, 0, 1], 51820)),
            1 => SocketAddr::from(([198, 51, 100, 7], 4500)),
            _ => self.sides[1 - side].address,
        };
        self.receive(side, source, &message, flags & 8 != 0);
    }

    fn receive(&mut self, side: usize, source: SocketAddr, message: &[u8], under_load: bool) {
        let Self { sides, sent, now, wall, rng } = self;
        let Side { tunnel, taken, .. } = &mut sides[side];
        let (endpoint, before) = (tunnel.status(PeerId(0)).unwrap().endpoint, slots(tunnel));
        let result = tunnel.receive(*now, *wall, rng, source, message, under_load);
        if result.is_err() {
            let unchanged = tunnel.status(PeerId(0)).unwrap().endpoint == endpoint && slots(tunnel) == before;
            assert!(unchanged, "{result:?}");
            let malformed = result == Err(Refusal::Malformed);
            assert_eq!(malformed, Handshake::parse(message).is_none());
            return;
        }
        let genuine = sent.iter().any(|(by, sent)| *by != side && sealed(sent) == sealed(message));
        assert!(genuine, "what nobody sent was accepted");
        assert!(taken.insert(sealed(message)), "a message was accepted twice");
        if message[0] == TYPE_RESPONSE {
            self.assert_same_keys(side);
        }
    }

    /// The initiator's new session is one of the responder's, unless that has moved on or the sender index
    /// was bent.
    fn assert_same_keys(&self, initiator: usize) {
        let current = self.sides[initiator].tunnel.slots(PeerId(0)).current.unwrap();
        let others = self.sides[1 - initiator].tunnel.slots(PeerId(0));
        let others = [others.previous, others.current, others.next].into_iter().flatten();
        assert_eq!(current.role, Role::Initiator);
        for other in others.filter(|other| other.local_index == current.remote_index) {
            assert_eq!((other.remote_index, other.role), (current.local_index, Role::Responder));
            for (from, to) in [(&other, &current), (&current, &other)] {
                let (mut sealed, mut opened) = ([0; 20], [0; 4]);
                let (key, counter) = (&from.keys.send, 7);
                crate::aead::seal(&mut [crate::aead::Seal {
                    key,
                    counter,
                    source: b"data",
                    destination: &mut sealed,
                }]);
                let (key, source, destination) = (&to.keys.receive, &sealed[..], &mut opened[..]);
                let mut job = [crate::aead::Open { key, counter, source, destination, authentic: false }];
                crate::aead::open(&mut job);
                assert!(job[0].authentic, "the two sides have different keys");
            }
        }
    }

    /// Takes what the tunnels want sent.
    fn collect(&mut self) {
        for (i, side) in self.sides.iter_mut().enumerate() {
            while let Some(event) = side.tunnel.poll_event() {
                let (Event::Sessions(peer)
                | Event::Endpoint(peer)
                | Event::Keepalive(peer)
                | Event::GaveUp(peer)) = event;
                assert_eq!(peer, PeerId(0));
            }
            while let Some(transmit) = side.tunnel.poll_transmit() {
                assert!(Handshake::parse(&transmit.payload).is_some());
                assert_eq!(transmit.peer.is_none(), transmit.payload[0] == TYPE_COOKIE_REPLY);
                if transmit.payload[0] == TYPE_INITIATION {
                    let since = side.initiated.map(|before| self.now.since(before));
                    assert!(since.is_none_or(|since| since >= REKEY_TIMEOUT), "{since:?} after another");
                    side.initiated = Some(self.now);
                }
                self.sent.push((i, transmit.payload));
            }
        }
    }
}

/// The message without what no tag covers: a handshake message's sender index and macs (section 5.4.2).
/// Whoever is on the path can change those and spoil a handshake, but take part in none.
fn sealed(message: &[u8]) -> Vec<u8> {
    let (kind, rest) = message.split_at(4);
    let rest = if kind[0] == TYPE_COOKIE_REPLY { rest } else { &rest[4..rest.len() - MACS] };
    [kind, rest].concat()
}

/// The indices of the sessions of a tunnel.
fn slots(tunnel: &Tunnel) -> [Option<u32>; 3] {
    let slots = tunnel.slots(PeerId(0));
    [slots.previous, slots.current, slots.next].map(|session| session.map(|session| session.local_index))
}

/// Makes the message's mac1 right for its receiver (section 5.4.4), if it is long enough to have one.
fn set_mac1(receiver: &PublicKey, message: &mut [u8]) {
    let Some(at) = message.len().checked_sub(MACS) else { return };
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.0).finalize();
    let mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap().chain_update(&message[..at]);
    message[at..at + 16].copy_from_slice(&mac.finalize_fixed());
}
