//! UDP datagrams that run from LAN host to LAN host while things happen to the gateways.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::lab::address::{lan4, lan6};
use xtask::lab::{Side, Site};
use xtask::progress::wait_until;

use crate::lab::{PATIENCE, inside};

const INTERVAL: Duration = Duration::from_micros(500);

/// Datagrams of both IP versions, without end. Their destination port tells in which phase of a test each
/// was sent, so that a capture tells when a frame that it holds set out, whatever held it up.
#[derive(Debug)]
pub struct Datagrams {
    phase: Arc<AtomicU16>,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Datagrams {
    /// Datagrams from the LAN host of `from` to that of `to`, to the port `phase`.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn start(from: &Site, to: Side, phase: u16) -> Result<Self> {
        let phase = Arc::new(AtomicU16::new(phase));
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (current, count, stopped) = (Arc::clone(&phase), Arc::clone(&sent), Arc::clone(&stop));
        let from_side = from.side;
        let send = move || {
            let v4 = UdpSocket::bind((lan4(from_side, 10), 0))?;
            let v6 = UdpSocket::bind((lan6(from_side, 10), 0))?;
            while !stopped.load(Ordering::Relaxed) {
                let port = current.load(Ordering::SeqCst);
                // While nobody takes them, the kernel may say so: the next is sent all the same.
                let _ = v4.send_to(&[0; 64], (lan4(to, 10), port));
                let _ = v6.send_to(&[0; 64], (lan6(to, 10), port));
                count.fetch_add(1, Ordering::SeqCst);
                thread::sleep(INTERVAL);
            }
            Ok(())
        };
        let thread = Some(inside(&from.host, send)?);
        Ok(Self { phase, sent, stop, thread })
    }

    /// From now on datagrams go to the port `phase`.
    pub fn phase(&self, phase: u16) {
        self.phase.store(phase, Ordering::SeqCst);
    }

    /// Waits until `count` more datagrams of each IP version were sent.
    ///
    /// # Errors
    /// They are not.
    pub fn more(&self, count: u64) -> Result<()> {
        let goal = self.sent.load(Ordering::SeqCst) + count;
        let reached = wait_until(PATIENCE, || Ok(self.sent.load(Ordering::SeqCst) >= goal))?;
        ensure!(reached, "the datagrams have stopped");
        Ok(())
    }

    /// Stops.
    ///
    /// # Errors
    /// The addresses could not be had.
    pub fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        thread.map_or(Ok(()), |ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if thread::panicking() {
            self.stop.store(true, Ordering::Relaxed);
        } else {
            // Who wants to know how it went has called `finish`.
            let _ = self.end();
        }
    }
}
