//! Stand-ins for the control thread and for ports, which note what they see.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::drops::Drop;
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::pipeline::Control;
use crate::pipeline::control::Refused;
use crate::port::memory::MemoryPort;
use crate::port::{Destination, Frame, Port, PortCounters, RxFrame, TxFrame};
use crate::wireguard::message::{CookieReply, Handshake};

/// Notes what lanes ask for.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) sessions: Mutex<Vec<PeerId>>,
    pub(super) neighbours: Mutex<Vec<(InterfaceId, IpAddr)>>,
    pub(super) handshakes: Mutex<Vec<(TunnelId, SocketAddr, Vec<u8>)>>,
    pub(super) full: AtomicBool,
    /// Answers all handshake messages.
    pub(super) cookies: Mutex<Option<CookieReply>>,
}

impl Control for Recorder {
    fn want_session(&self, peer: PeerId) {
        self.sessions.lock().unwrap().push(peer);
    }
    fn want_neighbour(&self, interface: InterfaceId, address: IpAddr) {
        self.neighbours.lock().unwrap().push((interface, address));
    }
    fn handshake(&self, tunnel: TunnelId, source: SocketAddr, message: &[u8]) -> Result<(), Refused> {
        Handshake::parse(message).ok_or(Drop::Malformed)?;
        if self.full.load(Ordering::Relaxed) {
            return Err(Drop::ControlQueueFull.into());
        }
        if let Some(reply) = *self.cookies.lock().unwrap() {
            return Err(Refused { reason: Drop::CookieRequired, reply: Some(reply) });
        }
        self.handshakes.lock().unwrap().push((tunnel, source, message.to_vec()));
        Ok(())
    }
}

/// The whole memory of the transmit frame that was cancelled last.
pub(super) type Cancelled = Arc<Mutex<Vec<u8>>>;

/// A port that shows what stands in cancelled frames.
pub(super) struct Watched {
    pub(super) port: MemoryPort,
    pub(super) cancelled: Cancelled,
}

impl Port for Watched {
    fn cancel(&mut self, mut frame: TxFrame) {
        let mut cancelled = self.cancelled.lock().unwrap();
        cancelled.clear();
        cancelled.extend_from_slice(frame.frame.memory_mut());
        self.port.cancel(frame);
    }
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        self.port.receive(origin, max, into)
    }
    fn release(&mut self, frame: Frame) {
        self.port.release(frame);
    }
    fn reserve(&mut self) -> Option<TxFrame> {
        self.port.reserve()
    }
    fn transmit(&mut self, frame: TxFrame, to: &Destination) {
        self.port.transmit(frame, to);
    }
    fn flush(&mut self) {
        self.port.flush();
    }
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.poll_fd()
    }
    fn counters(&self) -> PortCounters {
        self.port.counters()
    }
}
