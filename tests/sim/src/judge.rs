//! The judge: sees everything that the simulation does, and knows what must hold.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use forwarder::aead::{self, Seal, TAG_LEN};
use forwarder::id::PeerId;
use forwarder::wireguard::message::{TYPE_INITIATION, TYPE_RESPONSE};
use forwarder::wireguard::{REJECT_AFTER_TIME, REKEY_TIMEOUT, Session};

use crate::lane::Sent;
use crate::observer;
use crate::plan::Plan;
use crate::{Side, Time};

/// How long after the network healed data must flow.
pub const HEALING: Duration = Duration::from_secs(25);
/// How long a packet takes at most where data flows: travel, and latencies of threads.
const PROMPT: Duration = Duration::from_millis(1500);
/// How long after their last handshake a peer's keys are gone.
const KEYS_GONE: Duration = REJECT_AFTER_TIME.saturating_mul(3);
/// Wiping may be late by as much: the control thread's turn, and the lanes'.
const WIPE_SLACK: Duration = Duration::from_secs(1);
/// Lines of history that a violation comes with.
const HISTORY: usize = 60;
/// Every packet begins with this.
const MARKER: [u8; 16] = *b"in clear: never!";

/// What must hold on any network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// What is delivered was sent, and is delivered once.
    DeliveredOnce,
    /// Data flows at most 25 s after the network healed.
    FlowsAfterHealing,
    /// At most one initiation per 5 s and side, counted from a response, too.
    InitiationsAreRare,
    /// No two messages with the same key and nonce.
    NonceOnce,
    /// No session is used 180 s after its handshake.
    ExpiresAt180,
    /// No keys 540 s after the last handshake.
    WipedAt540,
    /// A network that loses nothing loses nothing, rekeys included.
    NoLoss,
    /// What was accepted once is not accepted again, and no endpoint moves to who replays it.
    ReplayMovesNothing,
    /// No plaintext and no long-lived key on the wire.
    NothingInClear,
}

/// What did not hold, and when.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The property.
    pub property: Property,
    /// When it was noticed.
    pub at: Time,
    /// What happened.
    pub what: String,
    /// What happened before, latest last.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.history {
            writeln!(f, "{line}")?;
        }
        write!(f, "{:?} at {:.3} s: {}", self.property, self.at.as_secs_f64(), self.what)
    }
}

/// A process of a site, or one of its sessions: site, life, and the peer or the session's index.
type Of<T> = (usize, u32, T);

/// The judge.
pub struct Judge {
    /// The present.
    pub now: Time,
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    /// Packets that were delivered.
    pub delivered: u64,
    history: VecDeque<String>,
    lossless: bool,
    secrets: Vec<[u8; 32]>,
    links: Vec<Health>,
    packets: Vec<Packet>,
    /// Packets that are due, by the time until which they are.
    due: VecDeque<(Time, usize)>,
    due_later: VecDeque<(Time, usize)>,
    sessions: HashMap<Of<u32>, Known>,
    keys: Vec<(Of<PeerId>, Weak<Session>)>,
    derived: HashMap<Of<PeerId>, Time>,
    nonces: HashSet<([u8; TAG_LEN], u64)>,
    handshake_sent: HashMap<Of<PeerId>, Time>,
}

/// What is to be expected of a link.
#[derive(Clone, Copy, Default)]
struct Health {
    /// Something is wrong now, so many times over.
    troubles: u32,
    /// When something was last wrong.
    trouble: Time,
    /// Since when both sides, or the only one that has something to say, have been sending.
    talking: Option<Time>,
    /// Data has flowed since the last trouble.
    proven: bool,
}

/// A packet that was offered.
struct Packet {
    link: usize,
    from: Side,
    at: Time,
    delivered: bool,
}

/// A session as the judge knows it.
struct Known {
    session: Weak<Session>,
    born: Time,
    /// Names the key that it seals with.
    seal_key: [u8; TAG_LEN],
}

impl Judge {
    pub fn new(plan: &Plan) -> Self {
        let health = Health { proven: plan.lossless, ..Health::default() };
        Self {
            now: Time::ZERO,
            violation: None,
            delivered: 0,
            history: VecDeque::new(),
            lossless: plan.lossless,
            secrets: plan.secrets(),
            links: vec![health; plan.links.len()],
            packets: Vec::new(),
            due: VecDeque::new(),
            due_later: VecDeque::new(),
            sessions: HashMap::new(),
            keys: Vec::new(),
            derived: HashMap::new(),
            nonces: HashSet::new(),
            handshake_sent: HashMap::new(),
        }
    }

    /// Notes what happened, for whoever must find out why something did not hold.
    pub fn note(&mut self, what: impl fmt::Display) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(format!("{:10.3} s: {what}", self.now.as_secs_f64()));
    }

    /// Something that keeps the link from carrying data begins.
    pub fn trouble_begins(&mut self, link: usize) {
        self.links[link].troubles += 1;
        self.trouble(link);
    }

    /// It ends.
    pub fn trouble_ends(&mut self, link: usize) {
        self.links[link].troubles -= 1;
        self.trouble(link);
    }

    /// It has no length.
    pub fn trouble(&mut self, link: usize) {
        self.links[link].trouble = self.now;
        self.links[link].proven = false;
    }

    /// The link's sides begin or end to send.
    pub fn talking(&mut self, link: usize, talking: bool) {
        self.links[link].talking = talking.then_some(self.now);
    }

    /// Whether the link's sides still have to prove that data flows.
    pub fn is_proving(&self, link: usize) -> bool {
        let Health { talking, trouble, .. } = self.links[link];
        self.now < talking.unwrap_or(self.now).max(trouble) + HEALING
    }

    /// A packet that `from` offers to the link; returns its bytes.
    pub fn offer(&mut self, link: usize, from: Side) -> Vec<u8> {
        let number = self.packets.len();
        let flows = self.links[link].talking.is_some() && !self.is_proving(link);
        let health = &mut self.links[link];
        if health.troubles == 0 {
            health.proven |= flows;
            if flows {
                self.due.push_back((self.now + PROMPT, number));
            } else if health.proven {
                self.due_later.push_back((self.now + HEALING, number));
            }
        }
        self.packets.push(Packet { link, from, at: self.now, delivered: false });
        [&MARKER[..], &number.to_le_bytes()].concat()
    }

    /// A packet that came out at side `to` of a link.
    pub fn deliver(&mut self, link: usize, to: Side, packet: &[u8]) {
        let number = packet.strip_prefix(&MARKER).and_then(|rest| rest.first_chunk());
        let number = number.map(|bytes| usize::from_le_bytes(*bytes));
        let Some(packet) = number.and_then(|number| self.packets.get_mut(number)) else {
            return self.violated(Property::DeliveredOnce, format!("link {link} delivers what nobody sent"));
        };
        let right = packet.link == link && packet.from != to;
        let again = std::mem::replace(&mut packet.delivered, true);
        self.delivered += 1;
        if !right {
            self.violated(Property::DeliveredOnce, format!("a packet comes out at link {link}, side {to}"));
        } else if again {
            self.violated(Property::DeliveredOnce, format!("link {link} delivers a packet twice"));
        }
    }

    /// Looks for packets that should have been delivered.
    pub fn look_for_losses(&mut self) {
        let mut lost = None;
        for queue in [&mut self.due, &mut self.due_later] {
            while let Some((_, number)) = queue.pop_front_if(|(until, _)| *until < self.now) {
                let Packet { link, from, at, delivered } = self.packets[number];
                let forgiven = self.links[link].trouble >= at || self.links[link].troubles > 0;
                if !delivered && !forgiven {
                    lost = lost.or(Some((link, from, at)));
                }
            }
        }
        if let Some((link, from, at)) = lost {
            let property = if self.lossless { Property::NoLoss } else { Property::FlowsAfterHealing };
            let what = format!("link {link} loses what side {from} sent at {:.3} s", at.as_secs_f64());
            self.violated(property, what);
        }
    }

    /// A session in a gateway's slots.
    pub fn session(&mut self, site: usize, life: u32, session: &Arc<Session>) {
        let of = (site, life, session.local_index);
        if self.sessions.get(&of).is_some_and(|known| known.session.as_ptr() == Arc::as_ptr(session)) {
            return;
        }
        let (peer, seal_key) = (session.peer, fingerprint(session));
        self.note(format_args!("site {site} peer {peer}: session as {:?}", session.role));
        let session = Arc::downgrade(session);
        self.keys.push(((site, life, peer), session.clone()));
        self.derived.insert((site, life, peer), self.now);
        self.sessions.insert(of, Known { session, born: self.now, seal_key });
    }

    /// A message that leaves a lane.
    pub fn sent(&mut self, site: usize, life: u32, sent: &Sent) {
        self.on_the_wire(&sent.message);
        let Some((index, counter)) = sent.sealed else { return };
        let seal_key = self.sessions[&(site, life, index)].seal_key;
        if !self.nonces.insert((seal_key, counter)) {
            self.violated(Property::NonceOnce, format!("site {site} seals twice with counter {counter}"));
        }
        self.expiry(site, life, index, "seals");
    }

    /// A data message that a lane accepted.
    pub fn accepted(&mut self, site: usize, life: u32, index: u32) {
        self.expiry(site, life, index, "accepts");
    }

    /// A handshake message that leaves a gateway's turn, which began at `decided`.
    pub fn handshake(&mut self, site: usize, life: u32, peer: PeerId, decided: Time, message: &[u8]) {
        self.on_the_wire(message);
        let kind = message[0];
        if kind != TYPE_INITIATION && kind != TYPE_RESPONSE {
            return;
        }
        self.note(format_args!("site {site} peer {peer}: sends handshake message {kind}"));
        let last = self.handshake_sent.insert((site, life, peer), decided);
        let early = last.is_some_and(|last| decided < last + REKEY_TIMEOUT);
        if early && kind == TYPE_INITIATION {
            let what = format!("site {site} sends peer {peer} initiations less than 5 s apart");
            self.violated(Property::InitiationsAreRare, what);
        }
    }

    /// A peer's endpoint.
    pub fn endpoint(&mut self, site: usize, endpoint: Option<SocketAddr>) {
        if endpoint == Some(observer::ADDRESS) {
            self.violated(Property::ReplayMovesNothing, format!("site {site} sends to the observer"));
        }
    }

    /// A message that the observer sent was accepted.
    pub fn replay_accepted(&mut self, site: usize, what: &str) {
        self.violated(Property::ReplayMovesNothing, format!("site {site} accepts {what} again"));
    }

    /// Looks for keys that should be gone. `lives` are the sites' present ones, none while they sleep and a
    /// little longer.
    pub fn look_for_keys(&mut self, lives: &[Option<u32>]) {
        self.keys.retain(|(_, session)| session.strong_count() > 0);
        let overdue = |(of, _): &&(Of<PeerId>, _)| {
            lives[of.0] == Some(of.1) && self.now > self.derived[of] + KEYS_GONE + WIPE_SLACK
        };
        if let Some(((site, _, peer), _)) = self.keys.iter().find(overdue) {
            self.violated(Property::WipedAt540, format!("site {site} still has keys of peer {peer}"));
        }
    }

    /// Handshakes that gave a session, over all sites.
    pub fn sessions_derived(&self) -> usize {
        self.sessions.len()
    }

    fn expiry(&mut self, site: usize, life: u32, index: u32, does: &str) {
        let age = self.now.saturating_sub(self.sessions[&(site, life, index)].born);
        if age >= REJECT_AFTER_TIME {
            let what = format!("site {site} {does} with a session of {:.3} s", age.as_secs_f64());
            self.violated(Property::ExpiresAt180, what);
        }
    }

    fn on_the_wire(&mut self, message: &[u8]) {
        let has = |secret: &[u8]| message.windows(secret.len()).any(|window| window == secret);
        if has(&MARKER) {
            self.violated(Property::NothingInClear, "a packet is on the wire".into());
        } else if message[0] != forwarder::wireguard::message::TYPE_DATA
            && self.secrets.iter().any(|secret| has(secret))
        {
            self.violated(Property::NothingInClear, "a key is on the wire".into());
        }
    }

    /// Something does not hold; the first one counts.
    pub fn violated(&mut self, property: Property, what: String) {
        if self.violation.is_none() {
            let history = self.history.drain(..).collect();
            self.violation = Some(Violation { property, at: self.now, what, history });
        }
    }
}

/// Two sessions have the same one exactly if they seal with the same key. The counter is none that a
/// session may use.
fn fingerprint(session: &Session) -> [u8; TAG_LEN] {
    let mut tag = [0; TAG_LEN];
    let key = &session.keys.send;
    aead::seal(&mut [Seal { key, counter: u64::MAX, source: &[], destination: &mut tag }]);
    tag
}
