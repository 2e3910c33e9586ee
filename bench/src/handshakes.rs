//! Genuine initiations of many peers, a fixed number of them unanswered at any time: so a responder is as
//! busy as it can be, and yet not under load.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use forwarder::clock::{Boottime, boottime};
use forwarder::config::key;
use forwarder::wireguard::message::{Handshake, TYPE_COOKIE_REPLY};
use forwarder::wireguard::{PrivateKey, PublicKey};
use nix::poll::{PollFd, PollFlags, poll};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::Serialize;
use std::os::fd::AsFd as _;

use crate::flood::parse_public;
use crate::forge::Initiator;

/// Responders refuse a peer's initiation less than 20 ms after the one before.
const PEER_INTERVAL: Duration = Duration::from_millis(30);
/// An initiation that has no answer by then was lost.
const LOST: Duration = Duration::from_millis(200);
/// Peers whose last response is authenticated.
const CHECKED: usize = 16;
/// Longest wait for a datagram, in milliseconds.
const WAIT: u8 = 1;

/// Options of `bench handshakes`.
#[derive(Args, Debug)]
pub struct Options {
    /// The responder's address and UDP port
    #[arg(long)]
    to: SocketAddr,
    /// Its public key
    #[arg(long, value_parser = parse_public)]
    public_key: PublicKey,
    /// Number of peers, whose keys `bench peers` prints
    #[arg(long, default_value_t = 512)]
    peers: u64,
    /// Initiations that are unanswered at a time
    #[arg(long, default_value_t = 32)]
    window: usize,
    /// How long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Initiations sent.
    pub initiations: u64,
    /// Responses to a peer's last initiation.
    pub responses: u64,
    /// Cookie replies.
    pub cookie_replies: u64,
    /// Whether the sampled responses were authentic.
    pub authentic: bool,
}

/// The public keys of the peers, in base64. Their private keys are known to everyone.
pub fn public_keys(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|i| key::encode(&private_key(i).public().0).to_string())
}

fn private_key(i: u64) -> PrivateKey {
    PrivateKey::generate(&mut StdRng::seed_from_u64(i))
}

/// Asks for handshakes.
///
/// # Errors
/// The socket, or a key that the peers cannot use.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let initiator = |i| Initiator::new(&private_key(i), options.to, options.public_key);
    let peers = (0..options.peers).map(initiator).collect::<anyhow::Result<Vec<_>>>()?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(options.to)?;
    socket.set_nonblocking(true)?;
    let sent = vec![None; peers.len()];
    let mut crowd =
        Crowd { peers, socket, sent, waiting: HashMap::new(), next: 0, report: Report::default() };
    let start = boottime();
    while boottime().since(start).as_secs_f64() < options.seconds {
        crowd.ask(options.window)?;
        crowd.listen()?;
    }
    crowd.check()
}

struct Crowd {
    peers: Vec<Initiator>,
    socket: UdpSocket,
    /// When each peer sent its last initiation.
    sent: Vec<Option<Boottime>>,
    /// Unanswered initiations: the peer, by the index that the answer goes to.
    waiting: HashMap<u32, usize>,
    next: usize,
    report: Report,
}

impl Crowd {
    /// Sends initiations of the next peers until `window` are unanswered.
    fn ask(&mut self, window: usize) -> anyhow::Result<()> {
        let now = boottime();
        let sent = &self.sent;
        self.waiting.retain(|_, peer| sent[*peer].is_some_and(|at| now.since(at) < LOST));
        while self.waiting.len() < window {
            let peer = self.next;
            if self.sent[peer].is_some_and(|at| boottime().since(at) < PEER_INTERVAL) {
                break;
            }
            self.send(peer)?;
            self.next = (peer + 1) % self.peers.len();
        }
        Ok(())
    }

    fn send(&mut self, peer: usize) -> anyhow::Result<()> {
        let message = self.peers[peer].initiation()?;
        let Some(Handshake::Initiation(initiation)) = Handshake::parse(&message) else {
            anyhow::bail!("the initiator sent something else")
        };
        // What the kernel does not take now was lost.
        let _ = self.socket.send(&message);
        self.sent[peer] = Some(boottime());
        self.waiting.insert(initiation.sender, peer);
        self.report.initiations += 1;
        Ok(())
    }

    /// Takes all answers that are there, after a short wait for the first.
    fn listen(&mut self) -> anyhow::Result<()> {
        poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], WAIT)?;
        let mut buffer = [0; 2048];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            match Handshake::parse(&buffer[..len]) {
                Some(Handshake::Response(response)) => {
                    let awaited = self.waiting.remove(&response.receiver).is_some();
                    self.report.responses += u64::from(awaited);
                }
                Some(Handshake::CookieReply(reply)) => {
                    self.report.cookie_replies += 1;
                    if let Some(peer) = self.waiting.remove(&reply.receiver) {
                        self.peers[peer].answer(&buffer[..len]);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One more handshake of some peers, all the way.
    fn check(mut self) -> anyhow::Result<Report> {
        self.report.authentic = true;
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(LOST))?;
        for peer in 0..CHECKED.min(self.peers.len()) {
            std::thread::sleep(PEER_INTERVAL);
            self.report.authentic &= self.finish(peer)?;
        }
        ensure!(self.report.responses > 0, "the responder is silent");
        Ok(self.report)
    }

    fn finish(&mut self, peer: usize) -> anyhow::Result<bool> {
        let mut buffer = [0; 2048];
        // The first may be answered by a cookie.
        for _ in 0..3 {
            let message = self.peers[peer].initiation()?;
            self.socket.send(&message)?;
            while let Ok(len) = self.socket.recv(&mut buffer) {
                if self.peers[peer].answer(&buffer[..len]) {
                    if buffer[0] == TYPE_COOKIE_REPLY {
                        break;
                    }
                    return Ok(true);
                }
            }
            std::thread::sleep(PEER_INTERVAL);
        }
        Ok(false)
    }
}
