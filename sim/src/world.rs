//! One simulation: a queue of events in virtual time, and what happens at each.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::message::{COOKIE_REPLY_LEN, INITIATION_LEN, RESPONSE_LEN, TYPE_DATA};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::gateway::{LANES, LATENCY, Mail};
use crate::judge::{Judge, Violation};
use crate::lane::{Output, Snapshot};
use crate::network::{Datagram, Network, Weather};
use crate::observer::{Observer, Seen};
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
    Repeat {
        site: usize,
        life: u32,
        peer: PeerId,
        tunnel: TunnelId,
        to: std::net::SocketAddr,
        message: Vec<u8>,
    },
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
                self.transmit(site, tunnel, to, message);
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

    // Control threads.

    /// Has the site's control thread begin a turn as soon as it can.
    fn wake_soon(&mut self, site: usize) {
        let at = self.judge.now + LATENCY.mul_f64(self.rng.random());
        self.wake(site, at);
    }

    fn wake(&mut self, site: usize, at: Time) {
        let life = self.sites[site].life;
        let Some(gateway) = &mut self.sites[site].gateway else { return };
        if !gateway.in_turn && gateway.wakes.is_none_or(|wakes| at < wakes) {
            gateway.wakes = Some(at);
            self.schedule_at(at, Event::Turn { site, life });
        }
    }

    fn turn(&mut self, site: usize, life: u32) {
        let now = self.judge.now;
        let Site { gateway: Some(gateway), asleep_until, life: present, .. } = &mut self.sites[site] else {
            return;
        };
        if *present != life || gateway.in_turn || gateway.wakes != Some(now) {
            return;
        }
        if now < *asleep_until {
            gateway.wakes = None;
            let at = *asleep_until;
            return self.wake(site, at);
        }
        let clocks = self.sites[site].clocks(now);
        let Some(gateway) = &mut self.sites[site].gateway else { return };
        gateway.wakes = None;
        gateway.in_turn = true;
        let begun = gateway.begin_turn(clocks);
        for peer in &self.plan.sites[site].peers {
            gateway.sessions(peer.config.id).for_each(|session| self.judge.session(site, life, session));
            self.judge.endpoint(site, gateway.endpoint(peer.config.id));
        }
        for mail in begun.accepted {
            self.accepted_handshake(site, life, mail);
        }
        if self.bug == Some(Bug::SendsBeforePublished) {
            self.send_handshakes(site, life, now);
        }
        let latest = begun.snapshot.map(|snapshot| self.publish(site, life, &snapshot, Vec::new()));
        self.schedule_at(latest.unwrap_or(now), Event::Settled { site, life, begun: now });
    }

    /// Has every lane take the snapshot; returns when the last one does.
    fn publish(&mut self, site: usize, life: u32, snapshot: &Arc<Snapshot>, keepalives: Vec<PeerId>) -> Time {
        let mut keepalives = Some(keepalives);
        let mut latest = self.judge.now;
        for lane in 0..LANES {
            let at = self.judge.now + LATENCY.mul_f64(self.rng.random());
            let (snapshot, keepalives) = (Arc::clone(snapshot), keepalives.take().unwrap_or_default());
            self.schedule_at(at, Event::Take { site, life, lane, snapshot, keepalives });
            latest = latest.max(at);
        }
        latest
    }

    fn settled(&mut self, site: usize, life: u32, begun: Time) {
        let now = self.judge.now;
        if let Some(at) = self.asleep(site) {
            return self.schedule_at(at, Event::Settled { site, life, begun });
        }
        let Some(gateway) = self.living(site, life) else { return };
        let ended = gateway.end_turn();
        self.send_handshakes(site, life, begun);
        if let Some(ended) = ended {
            self.publish(site, life, &ended.snapshot, ended.keepalives);
        }
        let Some(gateway) = self.living(site, life) else { return };
        gateway.in_turn = false;
        if gateway.has_work() {
            self.wake_soon(site);
        } else if let Some(boot) = gateway.deadline() {
            let at = self.sites[site].when(boot).max(now);
            self.wake(site, at);
        }
    }

    fn send_handshakes(&mut self, site: usize, life: u32, decided: Time) {
        while let Some((tunnel, transmit)) =
            self.living(site, life).and_then(|gateway| gateway.next_transmit())
        {
            let Some(peer) = transmit.peer else { continue };
            let message = transmit.payload;
            self.judge.handshake(site, life, peer, decided, &message);
            if self.bug == Some(Bug::RepeatedInitiations) && message.len() == INITIATION_LEN {
                let (to, message) = (transmit.to, message.clone());
                self.after(1.0..1.1, Event::Repeat { site, life, peer, tunnel, to, message });
            }
            self.transmit(site, tunnel, transmit.to, message);
        }
    }

    fn accepted_handshake(&mut self, site: usize, life: u32, mail: Mail) {
        self.judge.note(format_args!("site {site}: accepts handshake message {}", mail.message[0]));
        if mail.replayed {
            self.judge.replay_accepted(site, "a handshake message");
        }
        let Mail { tunnel, source, message, .. } = mail;
        self.observer.see(Seen { site, tunnel, life, source, message }, &mut self.rng);
    }

    // Lanes.

    fn take(
        &mut self,
        site: usize,
        life: u32,
        lane: usize,
        snapshot: Arc<Snapshot>,
        keepalives: Vec<PeerId>,
    ) {
        if let Some(at) = self.asleep(site) {
            return self.schedule_at(at, Event::Take { site, life, lane, snapshot, keepalives });
        }
        let boot = self.sites[site].clocks(self.judge.now).boot;
        let Some(gateway) = self.living(site, life) else { return };
        let output = gateway.lanes[lane].take(boot, snapshot, &keepalives);
        self.output(site, life, output);
    }

    fn offer(&mut self, link: usize, side: Side, phase: u32) {
        let now = self.judge.now;
        if self.talks[link].phase != phase {
            return;
        }
        let pause = Talk::pause(self.judge.is_proving(link), &mut self.rng);
        self.schedule_at(now + pause, Event::Offer { link, side, phase });
        let (site, peer) = self.plan.links[link].ends[side];
        let (boot, life) = (self.sites[site].clocks(now).boot, self.sites[site].life);
        if self.sites[site].is_asleep(now) {
            return;
        }
        let lane = self.rng.random_range(0..LANES);
        let Some(gateway) = &mut self.sites[site].gateway else { return };
        let packet = self.judge.offer(link, side);
        let output = gateway.lanes[lane].offer(boot, peer, packet);
        self.output(site, life, output);
    }

    fn output(&mut self, site: usize, life: u32, output: Output) {
        for sent in output.sent {
            self.judge.sent(site, life, &sent);
            self.transmit(site, sent.tunnel, sent.to, sent.message);
        }
        if let Some(gateway) = self.living(site, life).filter(|_| !output.wanted.is_empty()) {
            gateway.want(&output.wanted);
            self.wake_soon(site);
        }
    }

    // The network.

    fn transmit(&mut self, site: usize, tunnel: TunnelId, to: std::net::SocketAddr, message: Vec<u8>) {
        for (time, datagram) in self.network.carry(site, tunnel, to, message, &mut self.rng) {
            let straggler = time > self.plan.longest_delay();
            self.schedule(time, Event::Arrive { datagram, straggler });
        }
    }

    fn arrive(&mut self, datagram: Datagram, straggler: bool) {
        if straggler {
            (0..self.plan.links.len()).for_each(|link| self.judge.trouble(link));
        }
        let Some((site, tunnel)) = self.network.receiver(datagram.to) else { return };
        let now = self.judge.now;
        if self.sites[site].is_asleep(now) || tunnel.0 >= self.plan.sites[site].tunnels {
            return;
        }
        let boot = self.sites[site].clocks(now).boot;
        let Datagram { from: source, message, replayed, .. } = datagram;
        let Some(gateway) = &mut self.sites[site].gateway else { return };
        if [INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN].contains(&message.len())
            && message[0] != TYPE_DATA
        {
            gateway.post(Mail { tunnel, source, message, replayed });
            return self.wake_soon(site);
        }
        let lane = self.rng.random_range(0..LANES);
        let Some(accepted) = gateway.lanes[lane].receive(boot, tunnel, source, &message) else { return };
        let life = self.sites[site].life;
        self.judge.accepted(site, life, accepted.session.local_index);
        let peer = &self.plan.sites[site].peers[accepted.session.peer.index()];
        if !accepted.packet.is_empty() {
            self.judge.deliver(peer.link, peer.side, &accepted.packet);
        }
        if replayed && self.bug != Some(Bug::NoReplayWindow) {
            self.judge.replay_accepted(site, "a data message");
        }
        self.observer.see(Seen { site, tunnel, life, source, message }, &mut self.rng);
    }

    fn replay(&mut self) {
        let lives: Vec<u32> = self.sites.iter().map(|site| site.life).collect();
        if let Some(datagram) = self.observer.replay(&self.plan, &self.network, &lives, &mut self.rng) {
            self.summary.replays += 1;
            self.schedule(Time::ZERO, Event::Arrive { datagram, straggler: false });
        }
        self.after(0.0..40.0, Event::Replay);
    }

    fn storm(&mut self) {
        (0..self.plan.links.len()).for_each(|link| self.judge.trouble_begins(link));
        let cut = self.rng.random_bool(0.4);
        self.network.weather = Weather {
            loss: if cut { 1.0 } else { self.rng.random_range(0.0..0.7) },
            reordered: self.rng.random_range(0.0..0.3),
            straggling: if self.rng.random_bool(0.3) { 0.02 } else { 0.0 },
            mute: None,
        };
        if cut && self.rng.random() {
            // Nobody is heard, or one site only.
            let mute = Some(self.rng.random_range(0..self.sites.len()));
            self.network.weather = Weather { mute, ..Weather::default() };
        }
        self.judge.note(format_args!("{:?}", self.network.weather));
        self.after(2.0..200.0, Event::Calm);
    }

    fn calm(&mut self) {
        self.judge.note("calm");
        self.network.weather = Weather::default();
        (0..self.plan.links.len()).for_each(|link| self.judge.trouble_ends(link));
        self.after(60.0..600.0, Event::Storm);
    }

    // Sites and those who use them.

    fn talk(&mut self, link: usize) {
        let (talk, length) = self.talks[link].next(&self.plan, &mut self.rng);
        self.talks[link] = talk;
        self.judge.note(format_args!("link {link}: sides speak {:?}", talk.speaks));
        self.judge.talking(link, talk.speaks != [false; 2]);
        for side in 0..2 {
            if talk.speaks[side] {
                self.after(0.0..0.5, Event::Offer { link, side, phase: talk.phase });
            }
        }
        self.schedule(length, Event::Talk { link });
    }

    fn mishap(&mut self) {
        self.after(60.0..600.0, Event::Mishap);
        let now = self.judge.now;
        let site = self.rng.random_range(0..self.sites.len());
        if self.sites[site].gateway.is_none() || self.sites[site].is_asleep(now) {
            return;
        }
        match self.rng.random_range(0..3) {
            0 => {
                links_of(&self.plan, site).for_each(|link| self.judge.trouble_begins(link));
                self.sites[site].stop();
                self.judge.note(format_args!("site {site} stops"));
                self.summary.restarts += 1;
                let down = self.random(0.0..30.0);
                self.schedule(down, Event::Start { site });
                self.schedule(down, Event::Wake { site });
            }
            1 => {
                links_of(&self.plan, site).for_each(|link| self.judge.trouble_begins(link));
                let length = self.random(1.0..400.0);
                self.sites[site].sleep(now, length);
                self.judge.note(format_args!("site {site} sleeps {:.3} s", length.as_secs_f64()));
                self.summary.sleeps += 1;
                self.schedule(length, Event::Wake { site });
            }
            _ if self.plan.nat => {
                (0..self.plan.links.len()).for_each(|link| self.judge.trouble(link));
                self.network.rebind(&mut self.rng);
                self.judge.note("the NAT forgets");
                self.summary.rebindings += 1;
            }
            _ => {}
        }
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

    // Helpers.

    /// The gateway, if it is still the same process.
    fn living(&mut self, site: usize, life: u32) -> Option<&mut crate::gateway::Gateway> {
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
