//! The tunnels' UDP sockets: opened once, shared by the control thread and the slow path's port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SetSockOpt, SockFlag, SockType, SockaddrStorage, bind, sendmsg,
    setsockopt, socket, sockopt,
};

use super::uring::{MESSAGE_ROOM, Received, Receiver, Uring, UringError};
use super::{Arena, Destination, Frame, Layer, Port, PortCounters, RxFrame, TxFrame};
use crate::id::TunnelId;

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

/// The sockets of all tunnels, by [`TunnelId`]: one for IPv4 and, where the kernel has it, one for IPv6.
#[derive(Debug)]
pub struct UdpSockets {
    tunnels: Vec<Pair>,
}

#[derive(Debug)]
struct Pair {
    port: u16,
    v4: UdpSocket,
    v6: Option<UdpSocket>,
}

impl UdpSockets {
    /// Binds the sockets of `tunnels` on all addresses.
    ///
    /// # Errors
    /// The file and the port that failed, and the fix.
    pub fn open(tunnels: &[TunnelSocket]) -> Result<Self, UdpError> {
        Ok(Self { tunnels: tunnels.iter().map(Pair::open).collect::<Result<_, _>>()? })
    }

    /// The UDP port on which the tunnel listens.
    pub fn port(&self, tunnel: TunnelId) -> Option<u16> {
        self.tunnels.get(tunnel.index()).map(|t| t.port)
    }

    /// Sends one datagram from the tunnel's socket with this DS byte, without waiting.
    ///
    /// # Errors
    /// What the kernel said; `EAFNOSUPPORT` for IPv6 without IPv6, `ENOENT` for an unknown tunnel.
    pub fn send_to(&self, tunnel: TunnelId, to: SocketAddr, tos: u8, bytes: &[u8]) -> io::Result<()> {
        let pair = self.tunnels.get(tunnel.index()).ok_or(Errno::ENOENT)?;
        let fd = pair.fd(to).ok_or(Errno::EAFNOSUPPORT)?;
        let (v4, v6) = (tos, i32::from(tos));
        let control =
            if to.is_ipv4() { ControlMessage::Ipv4Tos(&v4) } else { ControlMessage::Ipv6TClass(&v6) };
        let iov = [io::IoSlice::new(bytes)];
        sendmsg(fd, &iov, &[control], MsgFlags::MSG_DONTWAIT, Some(&SockaddrStorage::from(to)))?;
        Ok(())
    }
}

impl UdpSockets {
    fn descriptors(&self) -> impl Iterator<Item = (TunnelId, RawFd)> {
        self.tunnels.iter().zip(0..).flat_map(|(pair, id)| {
            let sockets = [Some(&pair.v4), pair.v6.as_ref()];
            sockets.into_iter().flatten().map(move |s| (TunnelId(id), s.as_raw_fd()))
        })
    }
}

impl Pair {
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
    /// The tunnel of each receiver of the ring.
    tunnels: Vec<TunnelId>,
    free: Arena,
    counters: PortCounters,
}

impl UdpPort {
    /// A port with `frames` receive frames (a power of two) and as many send frames, for datagrams of up to
    /// `room` bytes. It takes everything that arrives at the sockets, handshakes included.
    ///
    /// # Errors
    /// `io_uring` is not to be had.
    pub fn new(sockets: Arc<UdpSockets>, frames: u16, room: usize) -> Result<Self, UringError> {
        let bound: Vec<(TunnelId, RawFd)> = sockets.descriptors().collect();
        let receivers = bound.iter().map(|(_, fd)| Receiver::Socket(*fd));
        let uring = Uring::new(receivers, frames, room + MESSAGE_ROOM, frames)?;
        let tunnels = bound.iter().map(|(tunnel, _)| *tunnel).collect();
        let free = Arena::new(usize::from(frames), room);
        Ok(Self { sockets, uring, tunnels, free, counters: PortCounters::default() })
    }

    /// Send frames that are free now.
    pub fn available(&self) -> usize {
        self.free.available()
    }

    fn sent(&mut self, frame: Frame, sent: bool) {
        if sent {
            self.counters.tx_packets += 1;
            self.counters.tx_bytes += frame.len() as u64;
        } else {
            self.counters.tx_failed += 1;
        }
        self.free.give(frame);
    }
}

impl Port for UdpPort {
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        self.uring.turn();
        let before = into.len();
        while into.len() - before < max {
            let Some(Received { receiver, frame, message }) = self.uring.next_received() else { break };
            let Some(message) = message else {
                self.uring.provide(frame);
                continue;
            };
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += frame.len() as u64;
            let tunnel = self.tunnels[usize::from(receiver)];
            let layer = Layer::Datagram { tunnel, source: message.source, ds: message.tos };
            into.push(RxFrame { frame, layer, origin });
        }
        into.len() - before
    }

    fn release(&mut self, frame: RxFrame) {
        self.uring.provide(frame.frame);
    }

    fn reserve(&mut self) -> Option<TxFrame> {
        Some(TxFrame { frame: self.free.take()?, destination: Destination::Headers })
    }

    /// Queues the frame for its [`Destination::Datagram`]; one without, or for a family or tunnel without a
    /// socket, is counted as failed.
    fn transmit(&mut self, frame: TxFrame) {
        let Destination::Datagram { tunnel, to, tos } = frame.destination else {
            return self.sent(frame.frame, false);
        };
        let socket = self.sockets.tunnels.get(tunnel.index()).and_then(|pair| pair.fd(to));
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
        while let Some(done) = self.uring.next_sent() {
            self.sent(done.frame, done.taken);
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.uring.fd())
    }

    fn counters(&self) -> PortCounters {
        PortCounters { rx_lost: self.uring.lost(), ..self.counters }
    }
}
