//! A gateway: its lanes, and the control thread's turn in the order of `control/gateway.rs`:
//!
//! 1. receive handshakes, hear which sessions are wanted, run timers, collect events
//! 2. publish: every lane gets the new sessions, to open with
//! 3. when all have taken them: publish what to seal with, then send

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forwarder::clock::{Boottime, Wall};
use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::{Event, Session, Shared, Slots, Transmit, Tunnel};
use rand::rngs::StdRng;

use crate::lane::{Lane, Path, Snapshot};
use crate::plan::SitePlan;
use crate::{Bug, Time};

/// Lanes of a gateway; any of them may get any message.
pub const LANES: usize = 2;
/// How late a turn may begin after something called for it, and a lane may take what was published.
pub const LATENCY: Duration = Duration::from_millis(50);
/// Handshake messages that may wait for the control thread.
const MAX_MAIL: usize = 4096;

/// A running gateway.
pub struct Gateway {
    bug: Option<Bug>,
    rng: StdRng,
    tunnels: Vec<Tunnel>,
    mail: VecDeque<Mail>,
    wanted: Vec<PeerId>,
    paths: Vec<PathState>,
    generation: u64,
    stale: bool,
    keepalives: Vec<PeerId>,
    hoard: Vec<Arc<Snapshot>>,
    /// The lanes.
    pub lanes: [Lane; LANES],
    /// When the next turn begins.
    pub wakes: Option<Time>,
    /// A turn has begun and waits for the lanes.
    pub in_turn: bool,
}

/// What the control thread knows of a peer.
struct PathState {
    tunnel: TunnelId,
    slots: Slots,
    sealing: Option<Arc<Session>>,
    endpoint: Option<SocketAddr>,
}

/// A handshake message.
#[derive(Clone)]
pub struct Mail {
    /// The tunnel to whose port it came.
    pub tunnel: TunnelId,
    /// Its source.
    pub source: SocketAddr,
    /// The message.
    pub message: Vec<u8>,
    /// The observer sent it.
    pub replayed: bool,
}

/// The readings of a site's clocks.
#[derive(Clone, Copy)]
pub struct Clocks {
    pub boot: Boottime,
    pub wall: Wall,
}

/// What the first half of a turn gives.
pub struct Begun {
    /// Handshake messages that were accepted.
    pub accepted: Vec<Mail>,
    /// For every lane, if anything is new.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// What the second half gives.
pub struct Ended {
    /// For every lane.
    pub snapshot: Arc<Snapshot>,
    /// For the first lane to send with it.
    pub keepalives: Vec<PeerId>,
}

impl Gateway {
    /// A process that has just started; it greets its peers.
    pub fn new(plan: &SitePlan, clocks: Clocks, mut rng: StdRng, bug: Option<Bug>) -> Self {
        let shared = Arc::<Shared>::default();
        let memory =
            || if bug == Some(Bug::TunnelsShareNothing) { Arc::default() } else { Arc::clone(&shared) };
        let mut tunnels: Vec<_> = (0..plan.tunnels)
            .map(|id| Tunnel::new(TunnelId(id), &plan.key, memory(), clocks.boot, &mut rng))
            .collect();
        for peer in &plan.peers {
            let added = tunnels[peer.tunnel.index()].add_peer(&peer.config, clocks.boot);
            assert!(added, "the plan gives every peer a key of its own");
        }
        let path = |tunnel| PathState { tunnel, slots: Slots::default(), sealing: None, endpoint: None };
        let greeted = plan.peers.iter().filter(|peer| peer.config.endpoint.is_some());
        Self {
            bug,
            rng,
            tunnels,
            mail: VecDeque::new(),
            wanted: greeted.map(|peer| peer.config.id).collect(),
            paths: plan.peers.iter().map(|peer| path(peer.tunnel)).collect(),
            generation: 0,
            stale: true,
            keepalives: Vec::new(),
            hoard: Vec::new(),
            lanes: std::array::from_fn(|_| Lane::new(bug)),
            wakes: None,
            in_turn: false,
        }
    }

    /// Leaves a handshake message for the next turn.
    pub fn post(&mut self, mail: Mail) {
        if self.mail.len() < MAX_MAIL {
            self.mail.push_back(mail);
        }
    }

    /// Asks for a session at the next turn.
    pub fn want(&mut self, peers: &[PeerId]) {
        self.wanted.extend(peers);
    }

    /// Whether something waits for the next turn.
    pub fn has_work(&self) -> bool {
        !self.mail.is_empty() || !self.wanted.is_empty()
    }

    /// When the timers want the next turn.
    pub fn deadline(&self) -> Option<Boottime> {
        self.tunnels.iter().filter_map(|tunnel| tunnel.poll_timeout().map(|(at, _)| at)).min()
    }

    /// Steps 1 and 2.
    pub fn begin_turn(&mut self, clocks: Clocks) -> Begun {
        let Clocks { boot, wall } = clocks;
        let mut accepted = Vec::new();
        for mail in std::mem::take(&mut self.mail) {
            let tunnel = &mut self.tunnels[mail.tunnel.index()];
            if tunnel.receive(boot, wall, &mut self.rng, mail.source, &mail.message, false).is_ok() {
                accepted.push(mail);
            }
        }
        for peer in std::mem::take(&mut self.wanted) {
            let tunnel = self.paths[peer.index()].tunnel;
            self.tunnels[tunnel.index()].want_session(peer, boot, wall, &mut self.rng);
        }
        for tunnel in &mut self.tunnels {
            if tunnel.poll_timeout().is_some_and(|(at, _)| at <= boot) {
                tunnel.handle_timeout(boot, wall, &mut self.rng);
            }
        }
        self.collect_events();
        Begun { accepted, snapshot: std::mem::take(&mut self.stale).then(|| self.snapshot()) }
    }

    /// Step 3, without the messages, which [`Self::next_transmit`] has. `None` when the lanes have
    /// nothing to do.
    pub fn end_turn(&mut self) -> Option<Ended> {
        let index = |session: &Option<Arc<Session>>| session.as_ref().map(|session| session.local_index);
        let mut stale = false;
        for path in &mut self.paths {
            stale |= index(&path.sealing) != index(&path.slots.current);
            path.sealing.clone_from(&path.slots.current);
        }
        let keepalives = std::mem::take(&mut self.keepalives);
        (stale || !keepalives.is_empty()).then(|| Ended { snapshot: self.snapshot(), keepalives })
    }

    /// The next handshake message to send, and its tunnel.
    pub fn next_transmit(&mut self) -> Option<(TunnelId, Transmit)> {
        let with_id = |(tunnel, id): (&mut Tunnel, u16)| Some((TunnelId(id), tunnel.poll_transmit()?));
        self.tunnels.iter_mut().zip(0..).find_map(with_id)
    }

    /// The peer's sessions.
    pub fn sessions(&self, peer: PeerId) -> impl Iterator<Item = &Arc<Session>> {
        let Slots { previous, current, next } = &self.paths[peer.index()].slots;
        [previous, current, next].into_iter().flatten()
    }

    /// Where the peer's messages go.
    pub fn endpoint(&self, peer: PeerId) -> Option<SocketAddr> {
        self.paths[peer.index()].endpoint
    }

    fn collect_events(&mut self) {
        for tunnel in &mut self.tunnels {
            while let Some(event) = tunnel.poll_event() {
                match event {
                    Event::Sessions(peer) => self.paths[peer.index()].slots = tunnel.slots(peer),
                    Event::Endpoint(_) => {}
                    Event::Keepalive(peer) => self.keepalives.push(peer),
                    Event::GaveUp(_) => continue,
                }
                self.stale = true;
            }
        }
        for (path, peer) in self.paths.iter_mut().zip(0..) {
            if path.endpoint.is_none() || self.bug != Some(Bug::EndpointsStay) {
                path.endpoint =
                    self.tunnels[path.tunnel.index()].status(PeerId(peer)).and_then(|s| s.endpoint);
            }
        }
    }

    fn snapshot(&mut self) -> Arc<Snapshot> {
        self.generation += 1;
        let path = |path: &PathState| Path {
            tunnel: path.tunnel,
            session: path.sealing.clone(),
            endpoint: path.endpoint,
        };
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            sessions: (0..self.paths.len() as u32)
                .flat_map(|peer| self.sessions(PeerId(peer)))
                .cloned()
                .collect(),
            paths: self.paths.iter().map(path).collect(),
        });
        if self.bug == Some(Bug::HoardsSnapshots) {
            self.hoard.push(Arc::clone(&snapshot));
        }
        snapshot
    }
}
