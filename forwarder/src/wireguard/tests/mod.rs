//! The protocol's rules, one test each; `docs/protocol.md` lists them.
//!
//! Two peers, A and B, and a network without delay between them, in virtual time.

mod cookies;
mod endpoints;
mod handshakes;
mod memory;
#[cfg(feature = "model")]
mod models;
mod slots;
mod timers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::message::{DATA_HEADER_LEN, DATA_MIN_LEN, DataHeader};
use super::*;
use crate::aead::{self, TAG_LEN};
use crate::clock::{Boottime, Wall};
use crate::id::{PeerId, TunnelId};

const A: usize = 0;
const B: usize = 1;
const PEER: PeerId = PeerId(0);
const START: Boottime = Boottime(Duration::from_secs(1000));
/// Wall time at [`START`].
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// One end: a tunnel with one peer, [`PEER`].
struct Node {
    tunnel: Tunnel,
    rng: StdRng,
    /// The wall clock is this much ahead of the true one.
    ahead: Duration,
    events: Vec<Event>,
}

/// Both ends and what is between them.
struct Net {
    nodes: [Node; 2],
    now: Boottime,
    /// Whether what a node sends arrives.
    up: [bool; 2],
    log: Vec<Sent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Initiation,
    Response,
    CookieReply,
    Keepalive,
    Data,
}

/// A message that a node sent.
#[derive(Clone, Debug)]
struct Sent {
    at: Boottime,
    from: usize,
    kind: Kind,
    message: Vec<u8>,
}

fn private_key(node: usize) -> PrivateKey {
    PrivateKey::generate(&mut StdRng::seed_from_u64(100 + node as u64))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// What each end knows of the other.
fn config(of: usize) -> PeerConfig {
    PeerConfig {
        id: PEER,
        public_key: private_key(of).public(),
        preshared_key: [0; 32],
        endpoint: Some(Node::address(of)),
        persistent_keepalive: None,
    }
}

impl Node {
    fn address(node: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1 + node as u8], 51820))
    }

    /// Node `number` as it is at start, with this peer.
    fn new(number: usize, peer: &PeerConfig, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (key, shared) = (private_key(number), Arc::default());
        let mut tunnel = Tunnel::new(TunnelId(0), &key, shared, START, &mut rng);
        assert!(tunnel.add_peer(peer, START));
        Self { tunnel, rng, ahead: Duration::ZERO, events: Vec::new() }
    }

    fn wall(&self, now: Boottime) -> Wall {
        Wall(EPOCH + now.since(START) + self.ahead)
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.tunnel.slots(PEER).current
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        self.tunnel.status(PEER).unwrap().endpoint
    }

    fn want(&mut self, now: Boottime) {
        let wall = self.wall(now);
        self.tunnel.want_session(PEER, now, wall, &mut self.rng);
    }

    fn receive(&mut self, now: Boottime, source: SocketAddr, message: &[u8]) -> Result<(), Refusal> {
        let wall = self.wall(now);
        self.tunnel.receive(now, wall, &mut self.rng, source, message, false)
    }

    fn receive_under_load(
        &mut self,
        now: Boottime,
        source: SocketAddr,
        message: &[u8],
    ) -> Result<(), Refusal> {
        let wall = self.wall(now);
        self.tunnel.receive(now, wall, &mut self.rng, source, message, true)
    }

    /// What a worker does with a packet.
    fn seal(&self, now: Boottime, packet: &[u8]) -> Option<Vec<u8>> {
        let session = self.current()?;
        let counter = session.draw(now, 1).next()?;
        let mut message = vec![0; DATA_HEADER_LEN + packet.len() + TAG_LEN];
        let (header, destination) = message.split_at_mut(DATA_HEADER_LEN);
        header.copy_from_slice(&DataHeader { receiver: session.remote_index, counter }.to_bytes());
        aead::seal(&mut [aead::Seal { key: &session.keys.send, counter, source: packet, destination }]);
        session.note_sent(now, 1, message.len() as u64, u64::from(!packet.is_empty()));
        Some(message)
    }

    /// What a worker does with a data message; `None` when it drops it.
    fn open(&self, now: Boottime, source: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
        let DataHeader { receiver, counter } = DataHeader::parse(message)?;
        let Slots { previous, current, next } = self.tunnel.slots(PEER);
        let mut sessions = [previous, current, next].into_iter().flatten();
        let session = sessions.find(|s| s.local_index == receiver && s.receivable(now))?;
        let mut packet = vec![0; message.len() - DATA_MIN_LEN];
        let mut jobs = [aead::Open {
            key: &session.keys.receive,
            counter,
            source: &message[DATA_HEADER_LEN..],
            destination: &mut packet,
            authentic: false,
        }];
        aead::open(&mut jobs);
        if !jobs[0].authentic || !session.replay().accept(counter) {
            return None;
        }
        let endpoint = (!session.comes_from(source)).then_some(Endpoint { remote: source });
        session.note_received(now, 1, message.len() as u64, u64::from(!packet.is_empty()), endpoint);
        Some(packet)
    }
}

impl Net {
    fn new() -> Self {
        Self::with(|_, _| ())
    }

    /// With other configurations: what A knows of its peer, and what B knows.
    fn with(change: impl FnOnce(&mut PeerConfig, &mut PeerConfig)) -> Self {
        let (mut at_a, mut at_b) = (config(B), config(A));
        change(&mut at_a, &mut at_b);
        Self {
            nodes: [Node::new(A, &at_a, 1), Node::new(B, &at_b, 2)],
            now: START,
            up: [true; 2],
            log: Vec::new(),
        }
    }

    /// A has initiated, B is confirmed, and nobody has sent data.
    fn connected() -> Self {
        let mut net = Self::new();
        net.connect();
        net
    }

    fn connect(&mut self) {
        self.want(A);
        self.advance(Duration::from_millis(20));
        assert!(self.nodes.iter().all(|node| node.current().is_some()));
        self.log.clear();
    }

    fn want(&mut self, node: usize) {
        self.nodes[node].want(self.now);
        self.settle();
    }

    /// A packet of that node; whether the other end got it.
    fn data(&mut self, from: usize) -> bool {
        self.packet(from, &[7; 64])
    }

    fn packet(&mut self, from: usize, packet: &[u8]) -> bool {
        let Some(message) = self.nodes[from].seal(self.now, packet) else {
            self.want(from);
            return false;
        };
        let arrived = self.carry(from, message);
        self.settle();
        arrived
    }

    /// Has time pass, with all that is due meanwhile.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        self.settle();
        loop {
            let due = |node: &Node| node.tunnel.poll_timeout().map(|(at, _)| at);
            let Some(next) = self.nodes.iter().filter_map(due).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            for node in &mut self.nodes {
                let wall = node.wall(self.now);
                node.tunnel.handle_timeout(self.now, wall, &mut node.rng);
            }
            self.settle();
        }
        self.now = end;
    }

    /// Has time pass until the session of `node` has that age.
    fn age(&mut self, node: usize, age: Duration) {
        let created = self.nodes[node].current().unwrap().created;
        self.advance((created + age).since(self.now));
    }

    /// Lets messages travel until nobody has anything more to say.
    fn settle(&mut self) {
        loop {
            let before = self.log.len();
            for node in [A, B] {
                self.flush(node);
            }
            if self.log.len() == before {
                break;
            }
        }
    }

    /// Events, then messages, then keepalives, in the control thread's order.
    fn flush(&mut self, from: usize) {
        let mut keepalives = 0;
        while let Some(event) = self.nodes[from].tunnel.poll_event() {
            keepalives += usize::from(event == Event::Keepalive(PEER));
            self.nodes[from].events.push(event);
        }
        while let Some(transmit) = self.nodes[from].tunnel.poll_transmit() {
            self.carry(from, transmit.payload);
        }
        for _ in 0..keepalives {
            if let Some(message) = self.nodes[from].seal(self.now, &[]) {
                self.carry(from, message);
            }
        }
    }

    /// Logs a message and delivers it if the way is up; whether the other end took it.
    fn carry(&mut self, from: usize, message: Vec<u8>) -> bool {
        let kind = match (message[0], message.len()) {
            (message::TYPE_INITIATION, _) => Kind::Initiation,
            (message::TYPE_RESPONSE, _) => Kind::Response,
            (message::TYPE_COOKIE_REPLY, _) => Kind::CookieReply,
            (_, DATA_MIN_LEN) => Kind::Keepalive,
            _ => Kind::Data,
        };
        let taken = self.up[from] && self.deliver(from, Node::address(from), &message);
        self.log.push(Sent { at: self.now, from, kind, message });
        taken
    }

    /// Delivers a message of `from` as if it came from `source`; whether it was taken.
    fn deliver(&mut self, from: usize, source: SocketAddr, message: &[u8]) -> bool {
        let to = &mut self.nodes[1 - from];
        if message[0] == message::TYPE_DATA {
            to.open(self.now, source, message).is_some()
        } else {
            to.receive(self.now, source, message).is_ok()
        }
    }

    /// When `from` sent messages of that kind.
    fn times(&self, from: usize, kind: Kind) -> Vec<Boottime> {
        self.log.iter().filter(|s| (s.from, s.kind) == (from, kind)).map(|s| s.at).collect()
    }

    fn count(&self, from: usize, kind: Kind) -> usize {
        self.times(from, kind).len()
    }

    /// The latest message of that kind.
    fn last(&self, from: usize, kind: Kind) -> Vec<u8> {
        self.log.iter().rfind(|s| (s.from, s.kind) == (from, kind)).unwrap().message.clone()
    }
}

/// A response whose macs are right and whose content is not.
fn forged_response(response: &[u8], receiver: usize) -> Vec<u8> {
    let mut forged = response.to_vec();
    forged[50] ^= 1;
    mac::Mac1Key::new(&private_key(receiver).public()).fill(&mut forged, None);
    forged
}

/// An initiation of A as it is at start, whose wall clock is that much ahead; A's own state is left alone.
fn initiation(now: Boottime, ahead: Duration) -> Vec<u8> {
    let mut twin = Node::new(A, &config(B), ahead.as_nanos() as u64);
    twin.ahead = ahead;
    twin.want(now);
    twin.tunnel.poll_transmit().unwrap().payload
}
