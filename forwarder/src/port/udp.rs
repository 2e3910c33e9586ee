//! The tunnels' UDP sockets, shared by the control thread, which opens and closes them, and the slow path's
//! port.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SetSockOpt, SockFlag, SockType, SockaddrStorage, bind, sendmsg,
    setsockopt, socket, sockopt,
};

use super::uring::{MESSAGE_ROOM, Received, Receiver, Uring, UringError};
use super::{Arena, Destination, Frame, Layer, Port, PortCounters, RxFrame, TxFrame};
use crate::id::TunnelId;
use crate::sync::lock;

/// Bytes that each socket may hold until the port reads them: some 20 ms of a gigabit.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What a tunnel's sockets need.
#[derive(Clone, Debug)]
pub struct TunnelSocket {
    /// The tunnel's file, for messages.
    pub file: String,
    /// UDP port to listen on; 0 lets the kernel choose.
    pub port: u16,
    /// Firewall mark of what is sent.
    pub fwmark: Option<u32>,
}

/// Why a tunnel has no sockets.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Someone else has the port.
    #[error(
        "{file}: UDP port {port} is in use: `ss -lunp sport = :{port}` shows by whom; stop that, or change ListenPort"
    )]
    InUse {
        /// The tunnel's file.
        file: String,
        /// The port.
        port: u16,
    },
    /// Marks need a capability.
    #[error("{file}: FwMark {mark:#x} needs CAP_NET_ADMIN (or CAP_NET_RAW): grant it, or remove FwMark")]
    Mark {
        /// The tunnel's file.
        file: String,
        /// The mark.
        mark: u32,
    },
    /// Anything else.
    #[error("{file}: UDP port {port}: {source}")]
    Io {
        /// The tunnel's file.
        file: String,
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The sockets of all tunnels: one for IPv4 and, where the kernel has it, one for IPv6.
#[derive(Debug, Default)]
pub struct UdpSockets {
    tunnels: Mutex<Bound>,
    /// Counts changes, so that the port need not lock to see that there was none.
    generation: AtomicU64,
}

/// Which tunnel has which sockets.
type Bound = BTreeMap<TunnelId, Arc<Pair>>;

/// A tunnel's sockets.
#[derive(Debug)]
pub struct Pair {
    port: u16,
    v4: UdpSocket,
    v6: Option<UdpSocket>,
}

impl UdpSockets {
    /// Binds the sockets of `tunnels` on all addresses; [`TunnelId`] is the position.
    ///
    /// # Errors
    /// The file and the port that failed, and the fix.
    pub fn open(tunnels: &[TunnelSocket]) -> Result<Self, UdpError> {
        let this = Self::default();
        let ids = (0..).map(TunnelId);
        let bound: Result<Bound, UdpError> =
            ids.zip(tunnels).map(|(id, t)| Ok((id, this.bind(t)?))).collect();
        this.replace(bound?);
        Ok(this)
    }

    /// The sockets for a tunnel: those of a tunnel that has the port now, else new ones.
    ///
    /// # Errors
    /// The file and the port that failed, and the fix.
    pub fn bind(&self, tunnel: &TunnelSocket) -> Result<Arc<Pair>, UdpError> {
        let ours = self.lock().values().find(|pair| pair.port == tunnel.port).cloned();
        ours.map_or_else(|| Pair::open(tunnel).map(Arc::new), Ok)
    }

    /// Makes these the tunnels' sockets. The port closes those that are no more when it turns.
    pub fn replace(&self, tunnels: BTreeMap<TunnelId, Arc<Pair>>) {
        *self.lock() = tunnels;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Which tunnel has which sockets now.
    pub fn bound(&self) -> BTreeMap<TunnelId, Arc<Pair>> {
        self.lock().clone()
    }

    /// The UDP port on which the tunnel listens.
    pub fn port(&self, tunnel: TunnelId) -> Option<u16> {
        self.lock().get(&tunnel).map(|pair| pair.port)
    }

    /// Sends one datagram from the tunnel's socket with this DS byte, without waiting.
    ///
    /// # Errors
    /// What the kernel said; `EAFNOSUPPORT` for IPv6 without IPv6, `ENOENT` for an unknown tunnel.
    pub fn send_to(&self, tunnel: TunnelId, to: SocketAddr, tos: u8, bytes: &[u8]) -> io::Result<()> {
        let pair = self.lock().get(&tunnel).cloned().ok_or(Errno::ENOENT)?;
        let fd = pair.fd(to).ok_or(Errno::EAFNOSUPPORT)?;
        let (v4, v6) = (tos, i32::from(tos));
        let control =
            if to.is_ipv4() { ControlMessage::Ipv4Tos(&v4) } else { ControlMessage::Ipv6TClass(&v6) };
        let iov = [io::IoSlice::new(bytes)];
        sendmsg(fd, &iov, &[control], MsgFlags::MSG_DONTWAIT, Some(&SockaddrStorage::from(to)))?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Bound> {
        lock(&self.tunnels)
    }
}

impl Pair {
    /// The port that they are bound to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the firewall mark of what is sent from now on, 0 for none.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        let sockets = [Some(&self.v4), self.v6.as_ref()];
        sockets.into_iter().flatten().try_for_each(|s| Ok(setsockopt(s, sockopt::Mark, &mark)?))
    }

    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten().map(AsRawFd::as_raw_fd)
    }

    fn open(tunnel: &TunnelSocket) -> Result<Self, UdpError> {
        let v4 = Self::open_v4(tunnel)?;
        let port = v4.local_addr().map_err(|e| tunnel.fail(e))?.port();
        let v6 = Self::open_v6(tunnel, port)?;
        Ok(Self { port, v4, v6 })
    }

    fn open_v4(tunnel: &TunnelSocket) -> Result<UdpSocket, UdpError> {
        let fd = open_socket(AddressFamily::Inet).map_err(|e| tunnel.fail(e))?;
        tunnel.set(&fd, sockopt::IpRecvTos, &true)?;
        let dont = libc::IP_PMTUDISC_DONT;
        super::sockopt::set(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, dont)
            .map_err(|e| tunnel.fail(e))?;
        tunnel.finish(fd, (Ipv4Addr::UNSPECIFIED, tunnel.port).into())
    }

    fn open_v6(tunnel: &TunnelSocket, port: u16) -> Result<Option<UdpSocket>, UdpError> {
        let fd = match open_socket(AddressFamily::Inet6) {
            Err(Errno::EAFNOSUPPORT) => return Ok(None),
            other => other.map_err(|e| tunnel.fail(e))?,
        };
        tunnel.set(&fd, sockopt::Ipv6V6Only, &true)?;
        tunnel.set(&fd, sockopt::Ipv6RecvTClass, &true)?;
        let dont = libc::IPV6_PMTUDISC_DONT;
        super::sockopt::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, dont)
            .map_err(|e| tunnel.fail(e))?;
        tunnel.finish(fd, (Ipv6Addr::UNSPECIFIED, port).into()).map(Some)
    }

    /// The socket that reaches `to`.
    fn fd(&self, to: SocketAddr) -> Option<RawFd> {
        if to.is_ipv4() { Some(self.v4.as_raw_fd()) } else { self.v6.as_ref().map(AsRawFd::as_raw_fd) }
    }
}

fn open_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

impl TunnelSocket {
    /// Sets what both families have in common, and binds.
    fn finish(&self, fd: OwnedFd, address: SocketAddr) -> Result<UdpSocket, UdpError> {
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN; without, as much as may be.
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            self.set(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        if let Some(mark) = self.fwmark {
            setsockopt(&fd, sockopt::Mark, &mark)
                .map_err(|_| UdpError::Mark { file: self.file.clone(), mark })?;
        }
        match bind(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) => Ok(UdpSocket::from(fd)),
            Err(Errno::EADDRINUSE) => Err(UdpError::InUse { file: self.file.clone(), port: address.port() }),
            Err(e) => Err(self.fail(e)),
        }
    }

    fn set<O: SetSockOpt>(&self, fd: &OwnedFd, option: O, value: &O::Val) -> Result<(), UdpError> {
        setsockopt(fd, option, value).map_err(|e| self.fail(e))
    }

    fn fail(&self, error: impl Into<io::Error>) -> UdpError {
        UdpError::Io { file: self.file.clone(), port: self.port, source: error.into() }
    }
}

/// All tunnels' sockets as one port, for one thread.
pub struct UdpPort {
    sockets: Arc<UdpSockets>,
    uring: Uring,
    /// What is bound, as the port last saw it.
    bound: Bound,
    generation: u64,
    /// The sockets that the ring reads, by the number of the receiver. They stay open until the ring has let
    /// go of them.
    receivers: BTreeMap<u16, (TunnelId, Arc<Pair>)>,
    free: Arena,
    counters: PortCounters,
}

impl UdpPort {
    /// A port with `frames` receive frames (a power of two) and as many send frames, for datagrams of up to
    /// `room` bytes. It takes everything that arrives at the sockets, handshakes included.
    ///
    /// # Errors
    /// `io_uring` is not to be had, or memory for the frames.
    pub fn new(sockets: Arc<UdpSockets>, frames: u16, room: usize) -> Result<Self, UringError> {
        let uring = Uring::new([], frames, room + MESSAGE_ROOM, frames)?;
        let free = Arena::new(usize::from(frames), room).map_err(UringError::Memory)?;
        let counters = PortCounters::default();
        let (bound, receivers) = (Bound::new(), BTreeMap::new());
        let mut this = Self { sockets, uring, bound, generation: 0, receivers, free, counters };
        this.follow();
        Ok(this)
    }

    /// Takes in which sockets there are: reads the new ones, lets the others go.
    fn follow(&mut self) {
        // First, for a new receiver may get the number of one that went.
        self.close_removed();
        let generation = self.sockets.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            let bound = self.sockets.bound();
            let is = |bound: &Bound, pair| bound.values().any(|other| Arc::ptr_eq(other, pair));
            for (tunnel, pair) in &bound {
                if is(&self.bound, pair) {
                    let mine = self.receivers.values_mut().filter(|(_, other)| Arc::ptr_eq(other, pair));
                    mine.for_each(|(owner, _)| *owner = *tunnel);
                    continue;
                }
                for fd in pair.descriptors() {
                    let receiver = self.uring.add(Receiver::Socket(fd));
                    self.receivers.insert(receiver, (*tunnel, Arc::clone(pair)));
                }
            }
            for (receiver, (_, pair)) in &self.receivers {
                if !is(&bound, pair) {
                    self.uring.remove(*receiver);
                }
            }
            self.bound = bound;
        }
    }

    /// Closes the sockets that the ring has let go of.
    fn close_removed(&mut self) {
        while let Some(receiver) = self.uring.next_removed() {
            self.receivers.remove(&receiver);
        }
    }

    /// Send frames that are free now.
    pub fn available(&self) -> usize {
        self.free.available()
    }

    fn sent(&mut self, frame: Frame, sent: bool) {
        self.counters.sent(frame.len(), sent);
        self.free.give(frame);
    }
}

impl Port for UdpPort {
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        self.follow();
        self.uring.turn();
        let before = into.len();
        while into.len() - before < max {
            let Some(Received { receiver, frame, message }) = self.uring.next_received() else { break };
            // Sockets give messages, and none goes before what it received has left the ring.
            let (Some(message), Some(&(tunnel, _))) = (message, self.receivers.get(&receiver)) else {
                self.counters.rx_lost += 1;
                self.uring.provide(frame);
                continue;
            };
            self.counters.received(frame.len());
            let layer = Layer::Datagram { tunnel, source: message.source, ds: message.tos };
            into.push(RxFrame { frame, layer, origin });
        }
        into.len() - before
    }

    fn release(&mut self, frame: Frame) {
        self.uring.provide(frame);
    }

    fn reserve(&mut self) -> Option<TxFrame> {
        Some(TxFrame { frame: self.free.take()? })
    }

    /// Queues the frame for a [`Destination::Datagram`]; one without, or for a family or tunnel without a
    /// socket, is counted as failed.
    fn transmit(&mut self, frame: TxFrame, to: &Destination) {
        let &Destination::Datagram { tunnel, to, tos } = to else {
            return self.sent(frame.frame, false);
        };
        let socket = self.bound.get(&tunnel).and_then(|pair| pair.fd(to));
        let unsent = match socket {
            Some(fd) => self.uring.send_to(fd, frame.frame, to, tos),
            None => Err(frame.frame),
        };
        if let Err(frame) = unsent {
            self.sent(frame, false);
        }
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.free.give(frame.frame);
    }

    fn flush(&mut self) {
        self.uring.turn();
        self.close_removed();
        while let Some(done) = self.uring.next_sent() {
            self.sent(done.frame, done.taken);
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.uring.fd())
    }

    fn counters(&self) -> PortCounters {
        PortCounters { rx_lost: self.counters.rx_lost + self.uring.lost(), ..self.counters }
    }
}
