//! One peer of a tunnel: its handshakes and endpoint, and when its sessions must be renewed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::cookie::Jar;
use super::crypto::PublicKey;
use super::mac::Mac1Key;
use super::message::{CookieReply, Initiation, Response};
use super::noise::{self, Identity, Initiated, Opened, PeerKeys};
use super::outbox::{Event, Outbox, Transmit};
use super::session::{Role, Session, SessionId, SessionKeys};
use super::shared::Index;
use super::slots::{Held, HeldSlots, Slots};
use super::tai64n::Tai64n;
use super::timers::{Due, Timers};
use super::traffic::Traffic;
use super::tunnel::{PeerConfig, PeerStatus, Refusal};
use super::{REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT};
use crate::clock::{Boottime, Wall};
use crate::id::PeerId;

/// Initiations of one peer that come faster than this are refused.
const MIN_INITIATION_INTERVAL: Duration = Duration::from_millis(20);
/// Age at which the initiator renews a session when it receives: before the peer may lose it.
const REKEY_ON_RECEIVE: Duration = Duration::from_secs(
    REJECT_AFTER_TIME.as_secs() - super::KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs(),
);
/// How often facts are swept while there is a session.
const SWEEP: Duration = Duration::from_secs(1);
/// How often they are swept while the peer's first data would let waiting packets go.
const SWEEP_UNCONFIRMED: Duration = Duration::from_millis(10);

pub(super) struct Peer {
    id: PeerId,
    keys: PeerKeys,
    mac1: Mac1Key,
    jar: Jar,
    endpoint: Option<SocketAddr>,
    /// The endpoint is the configured one, whatever authentic messages say.
    pinned: bool,
    traffic: Arc<Traffic>,
    /// Our initiation that waits for its response.
    pending: Option<Pending>,
    sessions: HeldSlots,
    timers: Timers,
    /// The peer's greatest timestamp, for as long as the tunnel lives.
    greatest: Option<Tai64n>,
    initiation_accepted: Option<Boottime>,
    last_handshake: Option<(Boottime, Wall)>,
    /// Messages sent by this time were checked for the age of their session.
    rekey_checked: Option<Boottime>,
    /// The current session was old when data came, and a handshake was asked for.
    rekeyed_on_receive: bool,
    swept: Boottime,
}

struct Pending {
    index: Index,
    handshake: Initiated,
}

impl Peer {
    pub(super) fn new(keys: PeerKeys, config: &PeerConfig, now: Boottime) -> Self {
        let traffic = Arc::<Traffic>::default();
        if let Some(endpoint) = config.endpoint {
            traffic.source.reset(endpoint);
        }
        let mut timers = Timers::new(config.persistent_keepalive);
        timers.sweep(now, &traffic, Duration::ZERO);
        Self {
            id: config.id,
            mac1: Mac1Key::new(&keys.public),
            jar: Jar::new(&keys.public),
            keys,
            endpoint: config.endpoint,
            pinned: false,
            traffic,
            pending: None,
            sessions: HeldSlots::default(),
            timers,
            greatest: None,
            initiation_accepted: None,
            last_handshake: None,
            rekey_checked: None,
            rekeyed_on_receive: false,
            swept: now,
        }
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.keys.public
    }

    /// The tunnel has another key: what was agreed with the old one ends.
    pub(super) fn set_identity(&mut self, identity: &Identity, outbox: &mut Outbox) {
        self.keys.set_identity(identity);
        self.end_sessions(outbox);
    }

    /// Sessions and handshakes end, and nothing of them is sent any more.
    pub(super) fn end_sessions(&mut self, outbox: &mut Outbox) {
        self.forget_sessions();
        outbox.transmits.retain(|transmit| transmit.peer != Some(self.id));
        outbox.events.push_back(Event::Sessions(self.id));
    }

    pub(super) fn set_preshared_key(&mut self, key: &[u8; 32]) {
        self.keys.set_preshared(key);
    }

    pub(super) fn set_endpoint(&mut self, endpoint: SocketAddr, outbox: &mut Outbox) {
        self.traffic.source.reset(endpoint);
        self.endpoint = Some(endpoint);
        outbox.events.push_back(Event::Endpoint(self.id));
    }

    pub(super) fn set_persistent_keepalive(&mut self, interval: Option<Duration>, now: Boottime) {
        self.timers.set_persistent(interval, now);
    }

    pub(super) fn set_roaming(&mut self, roaming: bool) {
        self.pinned = !roaming;
    }

    /// Takes an initiation and answers it, if it is known where to.
    pub(super) fn initiation(
        &mut self,
        cx: &mut Context<'_>,
        source: SocketAddr,
        opened: Opened,
        message: &Initiation,
    ) -> Result<(), Refusal> {
        let (received, timestamp) = opened.identify(&self.keys, message).ok_or(Refusal::Unauthenticated)?;
        if Some(timestamp) <= self.greatest {
            return Err(Refusal::Replayed);
        }
        if self.initiation_accepted.is_some_and(|t| cx.now.since(t) < MIN_INITIATION_INTERVAL) {
            return Err(Refusal::TooSoon);
        }
        if !cx.shared.accept(cx.identity.public, self.keys.public, timestamp, message.ephemeral) {
            return Err(Refusal::Replayed);
        }
        self.greatest = Some(timestamp);
        self.initiation_accepted = Some(cx.now);

        let index = cx.shared.allocate((cx.tunnel, self.id), cx.rng);
        let remote_index = received.sender;
        let (response, keys) = received
            .respond(&self.keys, index.value(), &cx.ephemeral(&self.keys))
            .ok_or(Refusal::Unauthenticated)?;
        self.promote_confirmed(cx);
        // Simultaneous initiations cancel each other: ours may not be answered any more.
        let crossed = self.pending.take().is_some();
        let session = self.derive(cx, index, remote_index, keys, Role::Responder);
        self.sessions.put_next(session);
        cx.event(Event::Sessions(self.id));
        self.heard_from(cx, source);
        self.timers.response_sent(cx.now);
        if crossed && cx.identity.public < self.keys.public {
            self.timers.give_way(cx.now);
        }
        if let Some(endpoint) = self.endpoint {
            self.send(cx, endpoint, &mut response.to_bytes());
        }
        Ok(())
    }

    /// Takes the response to our initiation.
    pub(super) fn response(
        &mut self,
        cx: &mut Context<'_>,
        source: SocketAddr,
        message: &Response,
    ) -> Result<(), Refusal> {
        let expected = |pending: &mut Pending| pending.index.value() == message.receiver;
        let pending = self.pending.take_if(expected).ok_or(Refusal::Unexpected)?;
        let Some(keys) = pending.handshake.finish(cx.identity, &self.keys, message) else {
            self.pending = Some(pending);
            return Err(Refusal::Unauthenticated);
        };
        let session = self.derive(cx, pending.index, message.sender, keys, Role::Initiator);
        self.promote_confirmed(cx);
        self.sessions.put_current(session, cx.now);
        self.complete(cx);
        self.heard_from(cx, source);
        // The responder may send only when it has seen that we have the keys.
        cx.event(Event::Keepalive(self.id));
        Ok(())
    }

    /// Takes a cookie for the next message; it is no reason to send one now.
    pub(super) fn cookie(&mut self, now: Boottime, reply: &CookieReply) -> Result<(), Refusal> {
        if self.jar.take(now, reply) { Ok(()) } else { Err(Refusal::Unexpected) }
    }

    /// Asks for a handshake, unless the current session will do.
    pub(super) fn want_session(&mut self, cx: &mut Context<'_>) {
        self.sweep(cx);
        if !self.sessions.sendable(cx.now) {
            self.start_handshake(cx);
        }
    }

    /// Reads the facts that workers left and runs the timers that are due.
    pub(super) fn sweep(&mut self, cx: &mut Context<'_>) {
        self.swept = cx.now;
        if let Some(candidate) = self.traffic.source.take() {
            self.roam(cx, candidate.remote);
        }
        self.promote_confirmed(cx);
        if self.must_rekey(cx.now) {
            self.start_handshake(cx);
        }
        let jitter = cx.jitter();
        self.timers.sweep(cx.now, &self.traffic, jitter);
        while let Some(due) = self.timers.pop(cx.now) {
            self.run(cx, due);
        }
    }

    /// When to sweep next, and why.
    pub(super) fn next_timeout(&self) -> Option<(Boottime, &'static str)> {
        self.timers.next().into_iter().chain(self.next_sweep()).min()
    }

    pub(super) fn slots(&self) -> Slots {
        self.sessions.slots()
    }

    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            endpoint: self.endpoint,
            last_handshake: self.last_handshake,
            rx_packets: self.traffic.received.packets(),
            rx_bytes: self.traffic.received.bytes(),
            tx_packets: self.traffic.sent.packets(),
            tx_bytes: self.traffic.sent.bytes(),
            silent_since: self
                .timers
                .unanswered_since()
                .map(|t| self.traffic.received.last().unwrap_or(t).max(t)),
        }
    }

    fn run(&mut self, cx: &mut Context<'_>, due: Due) {
        match due {
            Due::Retry => self.initiate(cx),
            Due::Keepalive if self.sessions.sendable(cx.now) => cx.event(Event::Keepalive(self.id)),
            Due::Keepalive | Due::Handshake => self.start_handshake(cx),
            Due::GiveUp => {
                self.pending = None;
                cx.event(Event::GaveUp(self.id));
            }
            Due::Wipe => {
                self.forget_sessions();
                cx.event(Event::Sessions(self.id));
            }
        }
    }

    fn forget_sessions(&mut self) {
        self.pending = None;
        self.sessions.clear();
    }

    fn start_handshake(&mut self, cx: &mut Context<'_>) {
        self.timers.restart_retries();
        self.initiate(cx);
    }

    fn initiate(&mut self, cx: &mut Context<'_>) {
        let jitter = cx.jitter();
        if !self.timers.may_initiate(cx.now, jitter) {
            return;
        }
        self.timers.initiation_sent(cx.now, jitter);
        let Some(endpoint) = self.endpoint else { return };
        let index = cx.shared.allocate((cx.tunnel, self.id), cx.rng);
        let timestamp = cx.shared.timestamp(cx.identity.public, self.keys.public, cx.wall);
        let ephemeral = cx.ephemeral(&self.keys);
        let Some((message, handshake)) =
            noise::initiate(cx.identity, &self.keys, index.value(), timestamp, ephemeral)
        else {
            return;
        };
        self.pending = Some(Pending { index, handshake });
        self.send(cx, endpoint, &mut message.to_bytes());
    }

    fn send(&mut self, cx: &mut Context<'_>, to: SocketAddr, message: &mut [u8]) {
        let mac1 = self.mac1.fill(message, self.jar.cookie(cx.now));
        self.jar.sent(mac1);
        cx.outbox.transmits.push_back(Transmit { peer: Some(self.id), to, payload: message.to_vec() });
    }

    fn derive(
        &mut self,
        cx: &Context<'_>,
        index: Index,
        remote_index: u32,
        keys: SessionKeys,
        role: Role,
    ) -> Held {
        self.timers.session_derived(cx.now);
        let id = SessionId { tunnel: cx.tunnel, peer: self.id, local_index: index.value(), remote_index };
        let session = Session::new(id, keys, role, cx.now, Arc::clone(&self.traffic));
        Held { session: Arc::new(session), _index: index }
    }

    /// The responder's next session becomes current when the peer has used it.
    fn promote_confirmed(&mut self, cx: &mut Context<'_>) {
        if self.sessions.promote_confirmed() {
            self.complete(cx);
        }
    }

    fn complete(&mut self, cx: &mut Context<'_>) {
        self.timers.handshake_complete();
        self.last_handshake = Some((cx.now, cx.wall));
        self.rekeyed_on_receive = false;
        cx.event(Event::Sessions(self.id));
    }

    fn heard_from(&mut self, cx: &mut Context<'_>, source: SocketAddr) {
        self.timers.handshake_heard(cx.now);
        self.traffic.source.reset(source);
        self.roam(cx, source);
        // A pinned one that is elsewhere is heard, and has to be found.
        if self.endpoint == Some(source) {
            self.timers.reached();
        }
    }

    fn roam(&mut self, cx: &mut Context<'_>, source: SocketAddr) {
        if self.endpoint == Some(source) || self.pinned && self.endpoint.is_some() {
            return;
        }
        if may_be_endpoint(source) && !cx.shared.is_own(source.ip()) {
            self.endpoint = Some(source);
            cx.event(Event::Endpoint(self.id));
        }
    }

    /// Whether traffic since the last call calls for a new session (section 6.2).
    fn must_rekey(&mut self, now: Boottime) -> bool {
        let Some(session) = self.sessions.current() else { return false };
        let initiator = session.role == Role::Initiator;
        let older = |at: Option<Boottime>, age| at.is_some_and(|at| at.since(session.created) >= age);

        let sent = self.traffic.sent.last();
        let on_send =
            sent > self.rekey_checked && (session.spent() || initiator && older(sent, REKEY_AFTER_TIME));
        self.rekey_checked = sent;

        let on_receive = initiator
            && !self.rekeyed_on_receive
            && session.receivable(now)
            && older(self.traffic.received.last(), REKEY_ON_RECEIVE);
        self.rekeyed_on_receive |= on_receive;
        on_send || on_receive
    }

    fn next_sweep(&self) -> Option<(Boottime, &'static str)> {
        if self.sessions.unconfirmed(self.swept, REKEY_TIMEOUT) {
            return Some((self.swept + SWEEP_UNCONFIRMED, "first data"));
        }
        self.sessions.any().then_some((self.swept + SWEEP, "sweep"))
    }
}

/// Whether an authentic message's source may be sent to.
fn may_be_endpoint(source: SocketAddr) -> bool {
    let address = source.ip().to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    source.port() != 0
        && !(broadcast || address.is_multicast() || address.is_loopback() || address.is_unspecified())
}
