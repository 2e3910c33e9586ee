//! Control threads and lanes: when they run, and what becomes of what they send.

use std::net::SocketAddr;
use std::sync::Arc;

use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::message::{COOKIE_REPLY_LEN, INITIATION_LEN, RESPONSE_LEN, TYPE_DATA};
use rand::RngExt as _;

use super::{Event, World};
use crate::gateway::{Gateway, LANES, LATENCY, Mail};
use crate::lane::{Output, Snapshot};
use crate::network::Datagram;
use crate::observer::Seen;
use crate::site::Site;
use crate::talk::Talk;
use crate::{Bug, Side, Time};

impl World {
    // Control threads.

    /// Has the site's control thread begin a turn as soon as it can.
    pub(super) fn wake_soon(&mut self, site: usize) {
        let at = self.judge.now + LATENCY.mul_f64(self.rng.random());
        self.wake(site, at);
    }

    pub(super) fn wake(&mut self, site: usize, at: Time) {
        let life = self.sites[site].life;
        let Some(gateway) = &mut self.sites[site].gateway else { return };
        if !gateway.in_turn && gateway.wakes.is_none_or(|wakes| at < wakes) {
            gateway.wakes = Some(at);
            self.schedule_at(at, Event::Turn { site, life });
        }
    }

    pub(super) fn turn(&mut self, site: usize, life: u32) {
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
    pub(super) fn publish(
        &mut self,
        site: usize,
        life: u32,
        snapshot: &Arc<Snapshot>,
        keepalives: Vec<PeerId>,
    ) -> Time {
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

    pub(super) fn settled(&mut self, site: usize, life: u32, begun: Time) {
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

    pub(super) fn send_handshakes(&mut self, site: usize, life: u32, decided: Time) {
        while let Some((tunnel, transmit)) = self.living(site, life).and_then(Gateway::next_transmit) {
            let Some(peer) = transmit.peer else { continue };
            let message = transmit.payload;
            self.judge.handshake(site, life, peer, decided, &message);
            if self.bug == Some(Bug::RepeatedInitiations) && message.len() == INITIATION_LEN {
                let (to, message) = (transmit.to, message.clone());
                self.after(1.0..1.1, Event::Repeat { site, life, peer, tunnel, to, message });
            }
            self.transmit(site, tunnel, transmit.to, &message);
        }
    }

    pub(super) fn accepted_handshake(&mut self, site: usize, life: u32, mail: Mail) {
        self.judge.note(format_args!("site {site}: accepts handshake message {}", mail.message[0]));
        if mail.replayed {
            self.judge.replay_accepted(site, "a handshake message");
        }
        let Mail { tunnel, source, message, .. } = mail;
        self.observer.see(Seen { site, tunnel, life, source, message }, &mut self.rng);
    }

    // Lanes.

    pub(super) fn take(
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

    pub(super) fn offer(&mut self, link: usize, side: Side, phase: u32) {
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

    pub(super) fn output(&mut self, site: usize, life: u32, output: Output) {
        for sent in output.sent {
            self.judge.sent(site, life, &sent);
            self.transmit(site, sent.tunnel, sent.to, &sent.message);
        }
        if let Some(gateway) = self.living(site, life).filter(|_| !output.wanted.is_empty()) {
            gateway.want(&output.wanted);
            self.wake_soon(site);
        }
    }

    // The network.

    pub(super) fn transmit(&mut self, site: usize, tunnel: TunnelId, to: SocketAddr, message: &[u8]) {
        for (time, datagram) in self.network.carry(site, tunnel, to, message, &mut self.rng) {
            let straggler = time > self.plan.longest_delay();
            self.schedule(time, Event::Arrive { datagram, straggler });
        }
    }

    pub(super) fn arrive(&mut self, datagram: Datagram, straggler: bool) {
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
}
