//! UDP flows from LAN host to LAN host, of which every datagram is accounted for.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use tests::lab::{PATIENCE, inside};
use xtask::lab::Site;
use xtask::progress::wait_until;

const PORT: u16 = 7000;
/// Enough for each of three tunnels to have some.
pub const FLOWS: usize = 24;
/// Between a datagram of each flow and the next of each.
const INTERVAL: Duration = Duration::from_millis(10);
/// Bytes for what comes while the receiver does not run, with the kernel's own of each datagram: seconds.
const RECEIVE_BUFFER: usize = 16 << 20;
/// How long the last one may be on its way.
const LAST: Duration = Duration::from_secs(1);

/// Running flows.
pub struct Flows {
    stop: Arc<AtomicBool>,
    /// Datagrams of each flow so far.
    sent: Arc<AtomicU32>,
    sender: JoinHandle<Result<()>>,
    receiver: JoinHandle<Result<BTreeSet<(u16, u32)>>>,
}

/// What became of them.
#[derive(Debug)]
pub struct Outcome {
    /// Datagrams of each flow that were sent.
    pub sent: u32,
    /// Flow and number of those that did not arrive.
    pub lost: Vec<(u16, u32)>,
}

impl Flows {
    /// Starts them.
    pub fn start(from: &Site, to: &Site) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (source, target) = (from.host_address(), to.host_address());
        let (bound, is_bound) = mpsc::channel();
        let receiver = inside(&to.host, move || {
            let socket = UdpSocket::bind((target, PORT))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            let _ = bound.send(());
            receive(&socket)
        })?;
        is_bound.recv().context("the receiver cannot bind its socket")?;
        let sent = Arc::new(AtomicU32::new(0));
        let (stopped, number) = (Arc::clone(&stop), Arc::clone(&sent));
        let sender = inside(&from.host, move || {
            let bind = |_| UdpSocket::bind((source, 0));
            let sockets = (0..FLOWS).map(bind).collect::<std::io::Result<Vec<_>>>()?;
            while !stopped.load(Ordering::Relaxed) {
                for (flow, socket) in (0_u16..).zip(&sockets) {
                    let mut datagram = [0; 6];
                    datagram[..2].copy_from_slice(&flow.to_be_bytes());
                    datagram[2..].copy_from_slice(&number.load(Ordering::Relaxed).to_be_bytes());
                    socket.send_to(&datagram, (target, PORT))?;
                }
                number.fetch_add(1, Ordering::Relaxed);
                thread::sleep(INTERVAL);
            }
            Ok(())
        })?;
        Ok(Self { stop, sent, sender, receiver })
    }

    /// Waits until each flow has sent `count` more.
    pub fn more(&self, count: u32) -> Result<()> {
        let goal = self.sent.load(Ordering::Relaxed) + count;
        let reached = wait_until(PATIENCE, || Ok(self.sent.load(Ordering::Relaxed) >= goal))?;
        ensure!(reached, "the flows have stopped");
        Ok(())
    }

    /// Ends them and says what arrived.
    pub fn finish(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |panic| -> ! { std::panic::resume_unwind(panic) };
        self.sender.join().unwrap_or_else(|panic| join(panic))?;
        let sent = self.sent.load(Ordering::Relaxed);
        let arrived = self.receiver.join().unwrap_or_else(|panic| join(panic))?;
        let all = (0..FLOWS as u16).flat_map(|flow| (0..sent).map(move |number| (flow, number)));
        Ok(Outcome { sent, lost: all.filter(|datagram| !arrived.contains(datagram)).collect() })
    }
}

/// Receives until nothing has come for a while.
fn receive(socket: &UdpSocket) -> Result<BTreeSet<(u16, u32)>> {
    let mut arrived = BTreeSet::new();
    // The first ones may be late: their sender is being started.
    socket.set_read_timeout(Some(10 * LAST))?;
    let mut datagram = [0; 6];
    while let Ok(6) = socket.recv(&mut datagram) {
        let [a, b, c, d, e, f] = datagram;
        arrived.insert((u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])));
        socket.set_read_timeout(Some(LAST))?;
    }
    Ok(arrived)
}
