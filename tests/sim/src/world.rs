//! One simulation: a queue of events in virtual time, and what happens at each.

mod fate;
mod threads;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forwarder::id::{PeerId, TunnelId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::gateway::Gateway;
use crate::judge::{Judge, Violation};
use crate::lane::Snapshot;
use crate::network::{Datagram, Network};
use crate::observer::Observer;
use crate::plan::Plan;
use crate::site::{Site, links_of};
use crate::talk::Talk;
use crate::{Bug, Property, Side, Time};

/// The least virtual time of a run.
const LENGTH: Time = Time::from_hours(1);
/// The least number of rekeys of a run.
const REKEYS: usize = 10;
/// A run that has not seen them by then is stuck.
const LIMIT: Time = Time::from_hours(12);
/// How often the judge looks for what did not happen.
const INSPECTION: Duration = Duration::from_millis(500);
/// What a site may need after its sleep to find out that it is late.
const WAKING: Duration = Duration::from_secs(2);

/// What a run was about, so that nobody takes a run without events for a good one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Virtual time.
    pub time: Time,
    /// Events.
    pub events: u64,
    /// Sessions after the first of each side and link.
    pub rekeys: u64,
    /// Packets that were delivered.
    pub delivered: u64,
    /// Datagrams of the observer.
    pub replays: u64,
    /// Restarts of a gateway.
    pub restarts: u64,
    /// Machines that slept.
    pub sleeps: u64,
    /// New addresses by the NAT.
    pub rebindings: u64,
    /// Wall clocks that were set.
    pub clock_steps: u64,
}

impl Summary {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            time: self.time + other.time,
            events: self.events + other.events,
            rekeys: self.rekeys + other.rekeys,
            delivered: self.delivered + other.delivered,
            replays: self.replays + other.replays,
            restarts: self.restarts + other.restarts,
            sleeps: self.sleeps + other.sleeps,
            rebindings: self.rebindings + other.rebindings,
            clock_steps: self.clock_steps + other.clock_steps,
        }
    }
}

/// Runs the simulation of a seed, with a bug if one is to be planted.
///
/// # Errors
/// The first thing that did not hold.
pub fn run(seed: u64, bug: Option<Bug>) -> Result<Summary, Violation> {
    let mut world = World::new(seed, bug);
    world.begin();
    while let Some(Entry { at, event, .. }) = world.queue.pop() {
        world.judge.now = at;
        world.summary.events += 1;
        world.handle(event);
        if let Some(violation) = world.judge.violation {
            return Err(violation);
        }
        if world.is_over() {
            break;
        }
    }
    Ok(world.summary())
}

struct World {
    bug: Option<Bug>,
    plan: Plan,
    rng: StdRng,
    queue: BinaryHeap<Entry>,
    scheduled: u64,
    sites: Vec<Site>,
    network: Network,
    observer: Observer,
    talks: Vec<Talk>,
    judge: Judge,
    summary: Summary,
}

enum Event {
    /// A gateway starts.
    Start { site: usize },
    /// A datagram arrives; a straggler was sent when the network was ill.
    Arrive { datagram: Datagram, straggler: bool },
    /// A control thread begins a turn.
    Turn { site: usize, life: u32 },
    /// All lanes have taken what a turn has published.
    Settled { site: usize, life: u32, begun: Time },
    /// A lane takes a snapshot.
    Take { site: usize, life: u32, lane: usize, snapshot: Arc<Snapshot>, keepalives: Vec<PeerId> },
    /// With [`Bug::RepeatedInitiations`].
    Repeat { site: usize, life: u32, peer: PeerId, tunnel: TunnelId, to: SocketAddr, message: Vec<u8> },
    /// A link's next phase begins.
    Talk { link: usize },
    /// A side sends a packet.
    Offer { link: usize, side: Side, phase: u32 },
    /// The observer sends something.
    Replay,
    /// The network falls ill.
    Storm,
    /// It is well again.
    Calm,
    /// Something happens to a site.
    Mishap,
    /// A site wakes up.
    Wake { site: usize },
    /// A wall clock is set.
    ClockStep,
    /// The judge looks around.
    Inspect,
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = Plan::new(&mut rng);
        Self {
            bug,
            queue: BinaryHeap::new(),
            scheduled: 0,
            sites: plan.sites.iter().map(|_| Site::new(bug, &mut rng)).collect(),
            network: Network::new(&plan, &mut rng),
            observer: Observer::default(),
            talks: vec![Talk::default(); plan.links.len()],
            judge: Judge::new(&plan),
            summary: Summary::default(),
            plan,
            rng,
        }
    }

    fn begin(&mut self) {
        for site in 0..self.sites.len() {
            let at = self.random(0.0..3.0);
            self.schedule(at, Event::Start { site });
        }
        for link in 0..self.plan.links.len() {
            let at = self.random(0.0..10.0);
            self.schedule(at, Event::Talk { link });
        }
        self.schedule(INSPECTION, Event::Inspect);
        self.after(1.0..60.0, Event::Replay);
        self.after(10.0..1000.0, Event::ClockStep);
        if !self.plan.lossless {
            self.after(10.0..300.0, Event::Storm);
            self.after(60.0..600.0, Event::Mishap);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start { site } => self.start(site),
            Event::Arrive { datagram, straggler } => self.arrive(datagram, straggler),
            Event::Turn { site, life } => self.turn(site, life),
            Event::Settled { site, life, begun } => self.settled(site, life, begun),
            Event::Take { site, life, lane, snapshot, keepalives } => {
                self.take(site, life, lane, snapshot, keepalives);
            }
            Event::Repeat { site, life, peer, tunnel, to, message } => {
                let now = self.judge.now;
                self.judge.handshake(site, life, peer, now, &message);
                self.transmit(site, tunnel, to, &message);
            }
            Event::Talk { link } => self.talk(link),
            Event::Offer { link, side, phase } => self.offer(link, side, phase),
            Event::Replay => self.replay(),
            Event::Storm => self.storm(),
            Event::Calm => self.calm(),
            Event::Mishap => self.mishap(),
            Event::Wake { site } => links_of(&self.plan, site).for_each(|link| self.judge.trouble_ends(link)),
            Event::ClockStep => {
                let site = self.rng.random_range(0..self.sites.len());
                self.sites[site].set_clock(&mut self.rng);
                self.summary.clock_steps += 1;
                self.after(10.0..1000.0, Event::ClockStep);
            }
            Event::Inspect => self.inspect(),
        }
    }

    fn is_over(&self) -> bool {
        self.judge.now >= LENGTH && self.rekeys() >= REKEYS
    }

    /// Every side of every link has a first session; all others are rekeys, each of which gives two.
    fn rekeys(&self) -> usize {
        self.judge.sessions_derived().saturating_sub(2 * self.plan.links.len()) / 2
    }

    fn summary(&self) -> Summary {
        let (rekeys, delivered) = (self.rekeys() as u64, self.judge.delivered);
        Summary { time: self.judge.now, rekeys, delivered, ..self.summary }
    }

    fn start(&mut self, site: usize) {
        let now = self.judge.now;
        self.judge.note(format_args!("site {site} starts"));
        let back = self.plan.clocks_go_back;
        self.sites[site].start(&self.plan.sites[site], now, back, &mut self.rng);
        self.wake_soon(site);
    }

    fn inspect(&mut self) {
        self.schedule(INSPECTION, Event::Inspect);
        self.judge.look_for_losses();
        let now = self.judge.now;
        let awake = |site: &Site| (now >= site.asleep_until + WAKING).then_some(site.life);
        let lives: Vec<_> = self.sites.iter().map(awake).collect();
        self.judge.look_for_keys(&lives);
        if now >= LIMIT {
            self.judge.violated(Property::FlowsAfterHealing, format!("only {} rekeys", self.rekeys()));
        }
    }

    /// The gateway, if it is still the same process.
    fn living(&mut self, site: usize, life: u32) -> Option<&mut Gateway> {
        let site = &mut self.sites[site];
        site.gateway.as_mut().filter(|_| site.life == life)
    }

    /// Until when the site sleeps, if it does.
    fn asleep(&self, site: usize) -> Option<Time> {
        Some(self.sites[site].asleep_until).filter(|until| self.judge.now < *until)
    }

    fn random(&mut self, seconds: std::ops::Range<f64>) -> Duration {
        Duration::from_secs_f64(self.rng.random_range(seconds))
    }

    fn after(&mut self, seconds: std::ops::Range<f64>, event: Event) {
        let delay = self.random(seconds);
        self.schedule(delay, event);
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.schedule_at(self.judge.now + delay, event);
    }

    fn schedule_at(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Entry { at, number: self.scheduled, event });
    }
}

/// A place in the queue: by time, then in the order of scheduling.
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl Ord for Entry {
    /// The heap gives the greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}
