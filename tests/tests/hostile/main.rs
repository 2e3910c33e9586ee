//! A running gateway under hostile frames, on every port at once: it lives on, accounts for each frame, and
//! keeps its sessions. Needs root and the debug build of `forwarder`.
#![allow(clippy::unwrap_used)]

mod cables;
mod storm;
mod stranger;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cables::{Cables, kind};
use storm::Storm;
use tests::frames::{IPV4, IPV6, UDP, ethernet, ipv4, ipv6, mend, udp};
use tests::lab::{able, run_inside, start};
use xtask::lab::address::{lan4, lan6, listen_port};
use xtask::lab::gateway::{Counters, Gateway};
use xtask::lab::traffic::{ping, wait_reachable};
use xtask::lab::{Family, Lab, Options, Side, Site, Wire};

/// Frames that anyone could send.
const FRAMES: usize = 40_000;
/// Messages of types 1 to 3 with the right length.
const HANDSHAKES: usize = 6_000;
/// Frames in one go, and the rest after it: an attack within what the sockets' rings hold.
const BURST: usize = 32;
const REST: Duration = Duration::from_millis(2);
const SEED: u64 = 0x5eed;

/// Frames that the books may be off by: keepalives come and go while the counters are read.
const SLACK: u64 = 8;

#[test]
fn a_storm_on_an_ipv4_underlay() {
    if able("a_storm_on_an_ipv4_underlay") {
        under_storm(Family::V4).unwrap();
    }
}

#[test]
fn a_storm_on_an_ipv6_underlay() {
    if able("a_storm_on_an_ipv6_underlay") {
        under_storm(Family::V6).unwrap();
    }
}

#[test]
fn a_wrong_key_gets_no_session() {
    if able("a_wrong_key_gets_no_session") {
        stranger::knocks().unwrap();
    }
}

fn under_storm(underlay: Family) -> Result<()> {
    let options = Options { ports: 2, queues: 2, underlay, wire: Wire::Switch, bond: false };
    let lab = Lab::build(options)?;
    lab.offload(false)?;
    let cables = Cables::open(&lab)?;
    introduce(&lab)?;
    let mut a = start(&lab, &lab.a, &[])?;
    // What came to A before it listened would be no replay to it later.
    a.wait_ready(Duration::from_secs(15))?;
    let mut b = start(&lab, &lab.b, &[])?;
    for gateway in [&mut a, &mut b] {
        gateway.wait_tunnels(Duration::from_secs(15))?;
    }
    ensure!(all_answered(&lab, 5)?, "no ping passed before the storm");
    let genuine = Genuine::collect(&lab, &cables)?;
    let mut storm = Storm::new(SEED);

    let before = settled(&mut a)?;
    let during = std::thread::scope(|scope| {
        let pings = scope.spawn(|| ping(&lab.a.host, far_host(), 10));
        blow(&cables, FRAMES, |port| storm.frame(&genuine.data[port]))?;
        pings.join().expect("no panic")
    })?;
    ensure!(during.received * 2 >= during.sent, "the storm stopped the pings: {during:?}");
    let after = settled(&mut a)?;
    balanced(&before, &after)?;
    every_reason(&before, &after)?;

    blow(&cables, HANDSHAKES, |port| storm.handshake(&genuine.handshakes[port]))?;
    // As they were, for whoever wrote them down.
    blow(&cables, HANDSHAKES, |port| {
        let replayed = &genuine.handshakes[port];
        replayed[storm.pick(replayed.len())].clone()
    })?;
    settled(&mut a)?;
    ensure!(all_answered(&lab, 5)?, "no ping passed after the storm");
    let renewed = cables.overheard().concat().iter().filter(|f| kind(f).is_some_and(|k| k < 3)).count();
    ensure!(renewed == 0, "{renewed} handshake messages: a session was lost, or a replay was answered");

    for gateway in [&mut a, &mut b] {
        let status = gateway.daemon.stop()?;
        let log = gateway.daemon.output()?;
        ensure!(status.success(), "it ended with {status}: {log}");
        ensure!(!log.contains("panicked"), "a thread panicked: {log}");
        ensure!(gateway.last_counters().is_ok(), "no counters at the end");
    }
    Ok(())
}

/// Has the gateways learn each other's MAC addresses. A lost solicitation would hold both initiations back
/// for a second, so that they cross and cancel each other.
fn introduce(lab: &Lab) -> Result<()> {
    (0..lab.options.ports).try_for_each(|i| {
        let far = lab.b.endpoint(lab.options, i);
        wait_reachable(&lab.a.gateway, far, Duration::from_secs(5))
    })
}

fn far_host() -> IpAddr {
    lan4(Side::B, 10).into()
}

fn all_answered(lab: &Lab, count: u32) -> Result<bool> {
    Ok(ping(&lab.a.host, far_host(), count)?.received == count)
}

/// Sends `count` frames to A's ports in turn.
fn blow(cables: &Cables, count: usize, mut frame: impl FnMut(usize) -> Vec<u8>) -> Result<()> {
    let mut refused = 0;
    for i in 0..count {
        let port = i % cables.attack.len();
        refused += usize::from(cables.attack[port].try_send(&frame(port)).is_err());
        if i % BURST == 0 {
            std::thread::sleep(REST);
        }
    }
    ensure!(refused < count / 20, "{refused} of {count} frames did not leave the attacker's sockets");
    Ok(())
}

/// What an attacker at A's ports knows: frames by port, the WAN ports first.
struct Genuine {
    data: Vec<Vec<Vec<u8>>>,
    /// Of A's LAN port: those of a WAN port, sent to A from inside.
    handshakes: Vec<Vec<Vec<u8>>>,
}

impl Genuine {
    fn collect(lab: &Lab, cables: &Cables) -> Result<Self> {
        many_flows(&lab.b)?;
        let (mut data, mut handshakes) = (Vec::new(), Vec::new());
        for (frames, mac) in cables.overheard().into_iter().zip(&cables.macs) {
            let to_a: Vec<_> = frames.into_iter().filter(|frame| frame.starts_with(mac)).collect();
            let (of_data, of_handshakes): (Vec<_>, _) = to_a.into_iter().partition(|f| kind(f) == Some(4));
            ensure!(of_data.len() > 1, "no data message was overheard");
            ensure!(!of_handshakes.is_empty(), "no handshake message was overheard");
            data.push(of_data);
            handshakes.push(of_handshakes);
        }
        let mut inside: Vec<_> = handshakes[0].clone();
        for frame in &mut inside {
            frame[..6].copy_from_slice(&cables.lan_mac());
        }
        handshakes.push(inside);
        data.push(lan_frames(cables.lan_mac()));
        Ok(Self { data, handshakes })
    }
}

/// Sends in so many flows that each tunnel carries some.
fn many_flows(from: &Site) -> Result<()> {
    run_inside(&from.host, || {
        for _ in 0..32 {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.send_to(b"a datagram for nobody", (lan4(Side::A, 10), 9))?;
        }
        Ok(())
    })?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// Packets of a LAN host for the far site, and WireGuard messages of one: for the gateway and for others.
fn lan_frames(mac: [u8; 6]) -> Vec<Vec<u8>> {
    let message = [[4, 0, 0, 0].as_slice(), &[7; 76]].concat();
    let (host4, host6) = (lan4(Side::A, 10), lan6(Side::A, 10));
    let mut frames = Vec::new();
    for payload in [&message[..], &[0; 18], &[0; 1300]] {
        let datagram = udp(listen_port(0), listen_port(0), payload);
        for to in [lan4(Side::B, 10), lan4(Side::B, 99), lan4(Side::A, 1)] {
            frames.push(ethernet(&[], mac, IPV4, &ipv4(host4, to, UDP, &datagram)));
        }
        for to in [lan6(Side::B, 10), lan6(Side::B, 99), lan6(Side::A, 1)] {
            frames.push(ethernet(&[], mac, IPV6, &ipv6(host6, to, UDP, &datagram)));
        }
    }
    for frame in &mut frames {
        mend(frame);
    }
    frames
}

/// The counters, when nothing moves any more.
fn settled(gateway: &mut Gateway) -> Result<Counters> {
    let mut last = gateway.counters()?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let next = gateway.counters()?;
        if received(&next) == received(&last) {
            return Ok(next);
        }
        last = next;
    }
    ensure!(gateway.daemon.ended()?.is_none(), "it has ended: {}", gateway.daemon.output()?);
    Ok(last)
}

/// Every frame that XDP redirected reached a socket or is counted as lost before it; and all that reached a
/// socket, a TUN or a UDP socket was dropped for a reason, sealed or opened.
fn balanced(before: &Counters, after: &Counters) -> Result<()> {
    let grown = |count: fn(&Counters) -> u64| count(after) - count(before);
    let (redirected, queued) = (grown(redirected), grown(queued));
    ensure!(redirected.abs_diff(queued) <= SLACK, "{redirected} frames redirected, {queued} in the queues");
    ensure!(queued > FRAMES as u64 / 10, "only {queued} frames reached the sockets: this proves nothing");
    let (received, dropped, carried) = (grown(received), grown(dropped), grown(carried));
    ensure!(
        received.abs_diff(dropped + carried) <= SLACK,
        "{received} frames received, {dropped} dropped, {carried} carried: {:?}",
        after.drops
    );
    Ok(())
}

fn redirected(counters: &Counters) -> u64 {
    counters.verdicts.iter().filter(|(name, _)| name.starts_with("redirect_")).map(|(_, n)| n).sum()
}

/// What came to the AF_XDP sockets, lost or not.
fn queued(counters: &Counters) -> u64 {
    let sockets = counters.ports.iter().filter(|port| port.queue.is_some());
    sockets.map(|port| port.counts["rx_packets"] + port.counts["rx_lost"]).sum()
}

/// What the lanes received on all their ports.
fn received(counters: &Counters) -> u64 {
    counters.ports.iter().map(|port| port.counts["rx_packets"]).sum()
}

fn dropped(counters: &Counters) -> u64 {
    counters.drops.values().sum()
}

/// What was sealed, or opened and not refused for what it held: that is in the drops, too.
fn carried(counters: &Counters) -> u64 {
    let messages: u64 = counters.tunnels.iter().map(|tunnel| tunnel.tx_packets + tunnel.rx_packets).sum();
    messages - counters.drops.get("source_not_allowed").copied().unwrap_or(0)
}

/// The storm reached every check that stands between a frame and the far side.
fn every_reason(before: &Counters, after: &Counters) -> Result<()> {
    for reason in ["malformed", "martian", "source_spoofed", "unknown_index", "auth_failed", "replayed"] {
        let count = |counters: &Counters| counters.drops.get(reason).copied().unwrap_or(0);
        let grown = count(after).checked_sub(count(before)).context("a counter went back")?;
        ensure!(grown > 0, "no frame was dropped as {reason}: {:?}", after.drops);
    }
    Ok(())
}
