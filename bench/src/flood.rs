//! A flood of WireGuard messages from spoofed sources, out of an interface that the gateway hangs on.
//!
//! Every datagram has the length of an initiation and [`DESTINATION_PORT`] as its source port, so that the
//! sink's XDP program catches what the gateway answers.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use forwarder::clock;
use forwarder::config::key;
use forwarder::id::PortId;
use forwarder::port::xsk::{RING, XskPort};
use forwarder::port::{BURST, Destination, Port as _};
use forwarder::topology::Mode;
use forwarder::wireguard::message::{
    INITIATION_LEN, TYPE_COOKIE_REPLY, TYPE_DATA, TYPE_INITIATION, TYPE_RESPONSE,
};
use forwarder::wireguard::{PrivateKey, PublicKey};
use rand::Rng as _;
use serde::Serialize;

use crate::forge::Initiator;
use crate::host::{self, Interface};
use crate::packet::{self, DESTINATION_PORT, HEADERS, Route};
use crate::program::{Arrival, Program};
use crate::sender::due;
use crate::trial::{TURN, turns};

const CHUNK: u32 = 2048;
/// Different messages of a flood.
const MESSAGES: usize = 4096;
/// The spoofed sources, for benchmarks by RFC 2544: 198.18.0.0/15.
const SOURCES: (u32, u32) = (0xc612_0000, 0x0001_ffff);
/// The sources whose owner asks for cookies: 198.18.7.0/24.
const OWNED: u32 = 0xc612_0700;
/// How long cookies are asked for, and answers; a gateway is under load for a second after another flood.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two initiations of one peer, longer than the 20 ms below which they are refused.
const PEER_INTERVAL: Duration = Duration::from_millis(30);
/// How long an answer may be under way.
const QUIET: Duration = Duration::from_millis(500);
/// A generator that was late does not catch up all at once.
const LONGEST_BURST: u64 = 512;

/// What the datagrams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Initiations whose mac1 is noise; with a port that nobody owns, the flood to compare with.
    BadMac1,
    /// Initiations with a good mac1 and no mac2.
    NoCookie,
    /// Initiations of strangers with valid cookies, from all addresses of one /24.
    Cookies,
    /// Initiations of a peer that were accepted before.
    Replay,
    /// Data messages of as many bytes that belong to no session.
    StrayData,
}

/// Options of `bench flood`.
#[derive(Args, Debug)]
pub struct Options {
    /// What to send
    #[arg(long)]
    kind: Kind,
    /// The interface to send from
    #[arg(long)]
    iface: String,
    /// The gateway's address, UDP port, and MAC address
    #[arg(long)]
    to: SocketAddr,
    /// MAC address of the gateway's interface
    #[arg(long, value_parser = host::parse_mac)]
    dst_mac: [u8; 6],
    /// The gateway's public key
    #[arg(long, value_parser = parse_public)]
    public_key: PublicKey,
    /// File with the private key of one of its peers, whose initiations are replayed
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Packets per second
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// How long
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// What was sent, and what came back to the spoofed sources.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Datagrams sent in the given time.
    pub sent: u64,
    /// Cookie replies that came back meanwhile.
    pub cookie_replies: u64,
    /// Handshake responses that came back meanwhile.
    pub responses: u64,
    /// Sources that had a cookie.
    pub cookies: usize,
}

/// Floods; says `flooding` on standard error when the flood proper begins.
///
/// # Errors
/// The interface, the key file, or a gateway that does not answer where the kind of flood needs it.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let mut wire = Wire::open(options)?;
    let owned = options.kind == Kind::Cookies;
    let mut strangers = Vec::new();
    let mut pool = match options.kind {
        Kind::BadMac1 => (0..MESSAGES).map(|_| noise(TYPE_INITIATION)).collect(),
        Kind::StrayData => (0..MESSAGES).map(|_| noise(TYPE_DATA)).collect(),
        Kind::NoCookie => (0..MESSAGES).map(|_| stranger(options)?.initiation()).collect::<Result<_, _>>()?,
        Kind::Cookies => {
            strangers = (0..256).map(|_| stranger(options)).collect::<Result<_, _>>()?;
            with_cookies(&mut wire, options, &mut strangers)?
        }
        Kind::Replay => accepted(&mut wire, options)?,
    };
    let mut report = Report { cookies: if owned { pool.len() } else { 0 }, ..Report::default() };
    eprintln!("flooding");
    let mut next = 0;
    turns(clock::boottime(), Duration::from_secs_f64(options.seconds), TURN, |elapsed| {
        for _ in 0..due(elapsed, options.rate).saturating_sub(report.sent).min(LONGEST_BURST) {
            // Message i of the cookies' flood belongs to address i.
            let source = if owned { OWNED + next as u32 } else { spoofed() };
            if !wire.send(source.into(), &pool[next]) {
                break;
            }
            next = (next + 1) % pool.len();
            report.sent += 1;
        }
        wire.flush(|to, answer| match answer[0] {
            TYPE_COOKIE_REPLY => {
                report.cookie_replies += 1;
                renew(&mut strangers, &mut pool, to, answer);
            }
            TYPE_RESPONSE => report.responses += 1,
            _ => {}
        });
    });
    Ok(report)
}

/// A message of that type, with noise for all that comes behind it.
fn noise(kind: u8) -> Vec<u8> {
    let mut message = vec![0; INITIATION_LEN];
    rand::rng().fill_bytes(&mut message[4..]);
    message[0] = kind;
    message
}

/// An initiator that the gateway does not know.
fn stranger(options: &Options) -> anyhow::Result<Initiator> {
    Initiator::new(&key::generate_private(&mut rand::rng()), options.to, options.public_key)
}

/// One message with a valid cookie for each address of the /24. The gateway gives cookies only under load,
/// so all of them ask as fast as the flood is to be.
fn with_cookies(
    wire: &mut Wire,
    options: &Options,
    strangers: &mut [Initiator],
) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut messages = strangers.iter_mut().map(Initiator::initiation).collect::<anyhow::Result<Vec<_>>>()?;
    let mut holders = BTreeSet::new();
    let mut sent = 0;
    turns(clock::boottime(), PATIENCE, TURN, |elapsed| {
        for _ in 0..due(elapsed, options.rate).saturating_sub(sent).min(LONGEST_BURST) {
            let i = sent as usize % messages.len();
            if holders.len() == messages.len() || !wire.send((OWNED + i as u32).into(), &messages[i]) {
                break;
            }
            sent += 1;
        }
        wire.flush(|to, answer| {
            let i = to.to_bits().wrapping_sub(OWNED) as usize;
            if let Some(stranger) = strangers.get_mut(i)
                && answer[0] == TYPE_COOKIE_REPLY
                && stranger.answer(answer)
            {
                holders.insert(i);
            }
        });
    });
    ensure!(
        holders.len() == messages.len(),
        "only {} of 256 sources got a cookie: {} messages a second may be no load for this gateway; raise --rate",
        holders.len(),
        options.rate
    );
    for (message, stranger) in messages.iter_mut().zip(strangers) {
        *message = stranger.initiation()?;
    }
    Ok(messages)
}

/// Uses the cookie that one of the /24 got: the gateway's secret has changed.
fn renew(strangers: &mut [Initiator], messages: &mut [Vec<u8>], to: Ipv4Addr, answer: &[u8]) {
    let i = to.to_bits().wrapping_sub(OWNED) as usize;
    if let Some(stranger) = strangers.get_mut(i)
        && stranger.answer(answer)
        && let Ok(message) = stranger.initiation()
    {
        messages[i] = message;
    }
}

/// Initiations of a peer that the gateway has answered.
fn accepted(wire: &mut Wire, options: &Options) -> anyhow::Result<Vec<Vec<u8>>> {
    const COUNT: usize = 32;
    let file = options.key_file.as_deref().context("--kind replay needs --key-file")?;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut peer = Initiator::new(&PrivateKey(*key::decode(text.trim())?), options.to, options.public_key)?;
    let start = clock::boottime();
    let (mut sent, mut answered): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut listen = |wire: &mut Wire, sent: &mut Vec<Vec<u8>>, time| {
        turns(clock::boottime(), time, TURN, |_| {
            wire.flush(|_, answer| answered.extend(sent.extract_if(.., |m| answers(answer, m))));
        });
        answered.len()
    };
    while listen(wire, &mut sent, PEER_INTERVAL) < COUNT {
        ensure!(
            clock::boottime().since(start) < PATIENCE,
            "too few of {COUNT} genuine initiations were answered: is {} a peer's key?",
            file.display()
        );
        let message = peer.initiation()?;
        ensure!(wire.send(OWNED.into(), &message), "the interface {} takes no frame", options.iface);
        sent.push(message);
    }
    // The last answers are none to the flood.
    listen(wire, &mut sent, QUIET);
    Ok(answered)
}

/// Whether `answer` is the response to the initiation.
fn answers(answer: &[u8], initiation: &[u8]) -> bool {
    answer[0] == TYPE_RESPONSE && answer.get(8..12) == initiation.get(4..8)
}

fn spoofed() -> u32 {
    let (network, hosts) = SOURCES;
    network | rand::rng().next_u32() & hosts
}

/// Reads a public key.
///
/// # Errors
/// It is no key.
pub fn parse_public(text: &str) -> Result<PublicKey, key::KeyError> {
    Ok(PublicKey(*key::decode(text)?))
}

/// The attacker's end of the cable to the gateway.
struct Wire {
    /// Taken off first, so that no packet goes to a socket that is closed.
    _program: Program,
    port: XskPort,
    headers: [u8; HEADERS],
    burst: Vec<forwarder::port::RxFrame>,
}

impl Wire {
    fn open(options: &Options) -> anyhow::Result<Self> {
        let SocketAddr::V4(to) = options.to else { anyhow::bail!("{}: no IPv4 address", options.to) };
        let interface = Interface::find(&options.iface)?;
        let route = Route {
            source_mac: interface.mac,
            next_hop_mac: options.dst_mac,
            source: Ipv4Addr::UNSPECIFIED,
            destination: *to.ip(),
        };
        let ip_len = HEADERS - packet::ETHERNET + INITIATION_LEN;
        let headers = packet::headers(&route, (DESTINATION_PORT, to.port()), ip_len as u16);
        let port = XskPort::open(PortId(0), &interface.name, 0, Mode::Copy, CHUNK, RING)?;
        let program = Program::attach(interface.ifindex, &[port.fd()], Arrival::Untold)?;
        Ok(Self { _program: program, port, headers, burst: Vec::with_capacity(BURST) })
    }

    /// Queues one datagram; `false` when there is no room.
    fn send(&mut self, source: Ipv4Addr, message: &[u8]) -> bool {
        let Some(mut frame) = self.port.reserve() else { return false };
        packet::set_source(&mut self.headers, source);
        frame.frame.set_range(0, HEADERS + message.len());
        let (headers, payload) = frame.frame.bytes_mut().split_at_mut(HEADERS);
        headers.copy_from_slice(&self.headers);
        payload.copy_from_slice(message);
        self.port.transmit(frame, &Destination::Headers);
        true
    }

    /// Sends what is queued, and takes what the gateway sent to the spoofed sources.
    fn flush(&mut self, mut answered: impl FnMut(Ipv4Addr, &[u8])) {
        while self.port.receive(0, BURST, &mut self.burst) > 0 {
            for frame in self.burst.drain(..) {
                if let Some((to, message)) = packet::datagram(frame.frame.bytes())
                    && !message.is_empty()
                {
                    answered(to, message);
                }
                self.port.release(frame.frame);
            }
        }
        self.port.flush();
    }
}
