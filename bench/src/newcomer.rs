//! A peer that comes while a gateway is busy: it completes a handshake, sends pings through the tunnel,
//! renews its session on the way, and counts what comes back.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use forwarder::aead;
use forwarder::clock::{self, Boottime};
use forwarder::config::key;
use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::message::{DATA_HEADER_LEN, DATA_MIN_LEN, DataHeader, TYPE_DATA};
use forwarder::wireguard::{
    Event, PeerConfig, PrivateKey, PublicKey, REKEY_AFTER_TIME, Session, Shared, Tunnel,
};
use serde::Serialize;

use crate::flood::parse_public;

const PEER: PeerId = PeerId(0);
/// How long to ping before the rekey, and after it.
const PINGING: Duration = Duration::from_secs(1);
/// Between two pings, and between two looks at the timers.
const TICK: Duration = Duration::from_millis(5);
/// How long the answer to the last ping may take.
const PATIENCE: Duration = Duration::from_secs(1);
const PING_LEN: usize = 32;

/// Options of `bench newcomer`.
#[derive(Args, Debug)]
pub struct Options {
    /// The gateway's address and UDP port
    #[arg(long)]
    to: SocketAddr,
    /// The gateway's public key
    #[arg(long, value_parser = parse_public)]
    public_key: PublicKey,
    /// File with the peer's private key
    #[arg(long)]
    key_file: PathBuf,
    /// The peer's address inside the tunnel
    #[arg(long)]
    src: Ipv4Addr,
    /// The address to ping
    #[arg(long)]
    dst: Ipv4Addr,
    /// Longest time to complete the first handshake, and the second
    #[arg(long, default_value_t = 15.0)]
    patience: f64,
}

/// How it went.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Time from the first initiation to the session; none when it did not come about.
    pub handshake_seconds: Option<f64>,
    /// Initiations sent until then.
    pub initiations: u32,
    /// Whether a second session took over from the first one.
    pub rekeyed: bool,
    /// Pings sent.
    pub pings: u32,
    /// Pings answered.
    pub answered: u32,
    /// Data messages that no session of ours opens.
    pub unopened: u32,
}

/// Joins, pings and renews.
///
/// # Errors
/// The key file or the socket. A gateway that does not answer is no error.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let mut peer = Peer::new(options)?;
    let mut report = Report::default();
    let start = clock::boottime();
    while clock::boottime().since(start).as_secs_f64() < options.patience
        && report.handshake_seconds.is_none()
    {
        report.initiations += peer.turn(|_| ())?;
        if peer.session().is_some() {
            report.handshake_seconds = Some(clock::boottime().since(start).as_secs_f64());
        }
    }
    if report.handshake_seconds.is_some() {
        peer.ping(options, &mut report)?;
    }
    Ok(report)
}

struct Peer {
    tunnel: Tunnel,
    socket: UdpSocket,
    /// How far the peer's clock runs ahead: that makes its session old.
    ahead: Duration,
    unopened: u32,
}

impl Peer {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let file = &options.key_file;
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let private = PrivateKey(*key::decode(text.trim())?);
        let (now, wall, rng) = (clock::boottime(), clock::wall(), &mut rand::rng());
        let mut tunnel = Tunnel::new(TunnelId(0), &private, Arc::<Shared>::default(), now, rng);
        let config = PeerConfig {
            id: PEER,
            public_key: options.public_key,
            preshared_key: [0; 32],
            endpoint: Some(options.to),
            persistent_keepalive: None,
        };
        ensure!(tunnel.add_peer(&config, now), "the gateway's public key is unusable");
        tunnel.want_session(PEER, now, wall, rng);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(options.to)?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        Ok(Self { tunnel, socket, ahead: Duration::ZERO, unopened: 0 })
    }

    fn now(&self) -> Boottime {
        clock::boottime() + self.ahead
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.tunnel.slots(PEER).current
    }

    /// Sends what is due and takes what comes for one tick; gives opened packets away, and returns how many
    /// initiations were sent.
    fn turn(&mut self, mut opened: impl FnMut(&[u8])) -> anyhow::Result<u32> {
        let (end, mut initiations) = (self.now() + TICK, 0);
        while self.now() < end {
            let (now, wall, rng) = (self.now(), clock::wall(), &mut rand::rng());
            if self.tunnel.poll_timeout().is_some_and(|(at, _)| at <= now) {
                self.tunnel.handle_timeout(now, wall, rng);
            }
            while let Some(event) = self.tunnel.poll_event() {
                if let Event::Keepalive(_) = event {
                    self.send(&[])?;
                }
            }
            while let Some(transmit) = self.tunnel.poll_transmit() {
                initiations += 1;
                self.socket.send(&transmit.payload)?;
            }
            let mut buffer = [0; 2048];
            let Ok(len) = self.socket.recv(&mut buffer) else { continue };
            let message = &buffer[..len];
            if message[0] == TYPE_DATA {
                match self.open(message) {
                    Some(packet) => opened(&packet),
                    None => self.unopened += 1,
                }
            } else {
                let from = self.socket.peer_addr()?;
                // What is refused is not for us, or comes too late.
                let _ = self.tunnel.receive(now, wall, rng, from, message, false);
            }
        }
        Ok(initiations)
    }

    fn send(&mut self, packet: &[u8]) -> anyhow::Result<()> {
        let session = self.session().context("no session")?;
        let now = self.now();
        let counter = session.draw(now, 1).next().context("the session has expired")?;
        let mut message = vec![0; DATA_MIN_LEN + packet.len()];
        let (header, destination) = message.split_at_mut(DATA_HEADER_LEN);
        header.copy_from_slice(&DataHeader { receiver: session.remote_index, counter }.to_bytes());
        aead::seal(&mut [aead::Seal { key: &session.keys.send, counter, source: packet, destination }]);
        session.note_sent(now, 1, message.len() as u64, u64::from(!packet.is_empty()));
        self.socket.send(&message)?;
        Ok(())
    }

    /// The packet in a message of one of our sessions.
    fn open(&self, message: &[u8]) -> Option<Vec<u8>> {
        let header = DataHeader::parse(message)?;
        let slots = self.tunnel.slots(PEER);
        let mut sessions = [slots.current, slots.previous, slots.next].into_iter().flatten();
        let session = sessions.find(|session| session.local_index == header.receiver)?;
        let mut packet = vec![0; message.len() - DATA_MIN_LEN];
        let (key, source) = (&session.keys.receive, &message[DATA_HEADER_LEN..]);
        let counter = header.counter;
        let mut jobs = [aead::Open { key, counter, source, destination: &mut packet, authentic: false }];
        aead::open(&mut jobs);
        let [aead::Open { authentic, .. }] = jobs;
        if !authentic {
            return None;
        }
        session.note_received(self.now(), 1, message.len() as u64, u64::from(!packet.is_empty()), None);
        Some(packet)
    }

    fn ping(&mut self, options: &Options, report: &mut Report) -> anyhow::Result<()> {
        let first = self.session().context("no session")?.local_index;
        let mut answered = HashSet::new();
        self.ping_for(PINGING, options, report, &mut answered)?;
        self.ahead = REKEY_AFTER_TIME;
        let start = self.now();
        while self.now().since(start).as_secs_f64() < options.patience
            && self.session().is_some_and(|session| session.local_index == first)
        {
            self.ping_for(TICK, options, report, &mut answered)?;
        }
        self.ping_for(PINGING, options, report, &mut answered)?;
        let end = self.now() + PATIENCE;
        while self.now() < end {
            self.turn(|packet| answered.extend(answer(packet)))?;
        }
        report.rekeyed = self.session().is_some_and(|session| session.local_index != first);
        report.answered = answered.len() as u32;
        report.unopened = self.unopened;
        Ok(())
    }

    fn ping_for(
        &mut self,
        time: Duration,
        options: &Options,
        report: &mut Report,
        answered: &mut HashSet<u16>,
    ) -> anyhow::Result<()> {
        let end = self.now() + time;
        while self.now() < end {
            self.send(&ping(options, report.pings as u16))?;
            report.pings += 1;
            self.turn(|packet| answered.extend(answer(packet)))?;
        }
        Ok(())
    }
}

/// An ICMP echo request in an IPv4 packet.
fn ping(options: &Options, sequence: u16) -> [u8; PING_LEN] {
    let mut packet = [0; PING_LEN];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PING_LEN as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 1;
    packet[12..16].copy_from_slice(&options.src.octets());
    packet[16..20].copy_from_slice(&options.dst.octets());
    let checksum = crate::packet::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet[20] = 8;
    packet[26..28].copy_from_slice(&sequence.to_be_bytes());
    let checksum = crate::packet::checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The sequence number of an echo reply.
fn answer(packet: &[u8]) -> Option<u16> {
    let reply = packet.len() >= PING_LEN && packet[9] == 1 && packet[20] == 0;
    reply.then(|| u16::from_be_bytes([packet[26], packet[27]]))
}
