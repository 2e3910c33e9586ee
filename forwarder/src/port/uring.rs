//! An `io_uring` that receives into and sends from frames, under the UDP and TUN ports.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, RecvMsgOut};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::libc;

use super::{Arena, Frame};

/// Bytes that a received message's name and control data take in front of its payload, at most.
pub(super) const MESSAGE_ROOM: usize = 16 + NAME_LEN + CONTROL_LEN;

const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// One `cmsghdr` with an `int`.
const CONTROL_LEN: usize = 24;
/// The one group of receive buffers of a ring.
const GROUP: u16 = 0;
/// Tag of a request's `user_data` that is a send; without it, it is a request to receive.
const SEND: u64 = 1 << 32;

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// Switched off by sysctl, or hidden by a seccomp filter.
    #[error(
        "io_uring is switched off: `sysctl kernel.io_uring_disabled=0`, or allow it in the container's seccomp profile"
    )]
    Disabled,
    /// The locked-memory limit.
    #[error(
        "the rings of io_uring exceed the limit of locked memory: grant CAP_IPC_LOCK or raise `ulimit -l`"
    )]
    LockedMemory,
    /// Anything else.
    #[error("io_uring: {0}")]
    Io(io::Error),
}

impl From<io::Error> for UringError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::ENOSYS) => Self::Disabled,
            Some(Errno::ENOMEM) => Self::LockedMemory,
            _ => Self::Io(error),
        }
    }
}

/// Received data.
#[derive(Debug)]
pub(super) struct Received {
    /// The receiver's number.
    pub receiver: u16,
    /// The frame, its range set to the data.
    pub frame: Frame,
    /// Sender and DS byte of a datagram; `None` from a device.
    pub message: Option<Message>,
}

/// A frame that the kernel is done with.
#[derive(Debug)]
pub(super) struct Sent {
    /// The frame.
    pub frame: Frame,
    /// What the sender said of it.
    pub token: u16,
    /// Whether the kernel took it.
    pub taken: bool,
}

/// What a datagram carries beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Who sent it.
    pub source: SocketAddr,
    /// DS byte of the IP header.
    pub tos: u8,
}

/// What a receiver reads from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Receiver {
    /// A datagram socket.
    Socket(RawFd),
    /// A TUN.
    Device(RawFd),
}

/// A ring with its receive frames.
///
/// # Who owns which frame
/// A frame is with the pipeline, or parked here. While the kernel may touch its bytes it stands in
/// `provided` (receive) or `sending` (send), and leaves them only by the completion that says that the
/// kernel is done; nothing here reads or writes a parked frame. Frames are never freed, so a request that
/// outlives the ring harms nobody. Headers and control data of messages to send lie in `messages`, one for
/// each slot of `sending`, and stay as they are until the completion.
///
/// The ring serves the thread that first submits; build it anywhere.
pub(super) struct Uring {
    ring: IoUring,
    buffers: BufferRing,
    /// Frames that the kernel receives into, by frame index.
    provided: Box<[Option<Frame>]>,
    provided_count: usize,
    /// Frames that the kernel sends, with the sender's token.
    sending: Box<[Option<(Frame, u16)>]>,
    free_slots: Vec<u16>,
    messages: Box<[OutMessage]>,
    receivers: Vec<Armed>,
    /// Which fields of a received message the kernel shall fill in; only lengths matter.
    template: Box<libc::msghdr>,
    multishot_read: bool,
    received: VecDeque<Received>,
    sent: VecDeque<Sent>,
    lost: u64,
}

// SAFETY: the raw pointers in `messages` and `template` point into this struct's own heap memory or
// nowhere, and the ring's memory belongs to it alone.
unsafe impl Send for Uring {}

struct Armed {
    receiver: Receiver,
    armed: bool,
}

impl Uring {
    /// A ring that receives from `receivers` into `frames` frames (a power of two) of `room` bytes, and sends
    /// up to `send_frames` frames at once. The descriptors must stay open as long as the ring.
    pub(super) fn new(
        receivers: impl IntoIterator<Item = Receiver>,
        frames: u16,
        room: usize,
        send_frames: u16,
    ) -> Result<Self, UringError> {
        let receivers: Vec<Armed> =
            receivers.into_iter().map(|receiver| Armed { receiver, armed: false }).collect();
        let slots = usize::from(send_frames) + receivers.len();
        let ring = IoUring::builder()
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize((slots + usize::from(frames)).next_power_of_two() as u32)
            .build(slots.next_power_of_two() as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let mut this = Self {
            buffers: BufferRing::register(&ring, frames, room)?,
            ring,
            provided: (0..frames).map(|_| None).collect(),
            provided_count: 0,
            sending: (0..send_frames).map(|_| None).collect(),
            free_slots: (0..send_frames).rev().collect(),
            messages: (0..send_frames).map(|_| OutMessage::new()).collect(),
            receivers,
            template: template(),
            multishot_read: probe.is_supported(opcode::ReadMulti::CODE),
            received: VecDeque::with_capacity(usize::from(frames)),
            sent: VecDeque::with_capacity(usize::from(send_frames)),
            lost: 0,
        };
        let mut arena = Arena::new(usize::from(frames), room);
        while let Some(frame) = arena.take() {
            this.provide(frame);
        }
        Ok(this)
    }

    /// Gives a receive frame to the kernel.
    pub(super) fn provide(&mut self, mut frame: Frame) {
        let index = frame.index() as u16;
        let memory = frame.memory_mut();
        self.buffers.push(memory.as_mut_ptr(), memory.len(), index);
        self.provided[usize::from(index)] = Some(frame);
        self.provided_count += 1;
    }

    /// Frames that may be sent before one completes.
    pub(super) fn send_room(&self) -> usize {
        self.free_slots.len()
    }

    /// Queues a write of the frame to a TUN; gives the frame back when there is no room. Writes happen in
    /// the order of this call: the kernel issues requests in order, and a TUN takes a packet at once.
    pub(super) fn write(&mut self, fd: RawFd, frame: Frame, token: u16) -> Result<(), Frame> {
        let Some(slot) = self.free_slots.pop() else { return Err(frame) };
        let bytes = frame.bytes();
        let entry = opcode::Write::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32).build();
        self.start_sending(slot, entry, frame, token);
        Ok(())
    }

    /// Queues a datagram; gives the frame back when there is no room. A full socket buffer loses it: waiting
    /// would let later datagrams overtake.
    pub(super) fn send_to(&mut self, fd: RawFd, frame: Frame, to: SocketAddr, tos: u8) -> Result<(), Frame> {
        let Some(slot) = self.free_slots.pop() else { return Err(frame) };
        let message = &mut self.messages[usize::from(slot)];
        message.set(frame.bytes(), to, tos);
        let entry =
            opcode::SendMsg::new(Fd(fd), &raw const message.header).flags(libc::MSG_DONTWAIT as u32).build();
        self.start_sending(slot, entry, frame, 0);
        Ok(())
    }

    /// Submits what is queued, asks again for data where the kernel stopped, and collects completions.
    pub(super) fn turn(&mut self) {
        loop {
            self.arm();
            let enter = {
                let queue = self.ring.submission();
                !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
            };
            if enter {
                // Failure (a signal, or completions to be collected first) leaves the requests queued.
                let _ = self.ring.submit();
            }
            // Who sleeps with a stopped receiver and frames for it would never wake.
            if !self.reap() || self.provided_count == 0 || self.receivers.iter().all(|r| r.armed) {
                return;
            }
        }
    }

    /// The next received data that [`Self::turn`] collected.
    pub(super) fn next_received(&mut self) -> Option<Received> {
        self.received.pop_front()
    }

    /// The next sent frame that [`Self::turn`] collected.
    pub(super) fn next_sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    /// Datagrams lost because they were larger than a frame.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Readable when there are completions.
    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    fn start_sending(&mut self, slot: u16, entry: squeue::Entry, frame: Frame, token: u16) {
        self.sending[usize::from(slot)] = Some((frame, token));
        self.push(&entry.user_data(SEND | u64::from(slot)));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: a request's buffers are parked frames, provided buffers, or boxed headers of `self`; see
        // the type.
        let pushed = unsafe { self.ring.submission().push(entry) };
        debug_assert!(pushed.is_ok(), "the queue has a slot for every frame and receiver");
    }

    /// Starts the receivers that the kernel has stopped, or that never ran.
    fn arm(&mut self) {
        if self.provided_count == 0 {
            return;
        }
        for i in 0..self.receivers.len() {
            if std::mem::replace(&mut self.receivers[i].armed, true) {
                continue;
            }
            let entry = match self.receivers[i].receiver {
                Receiver::Socket(fd) => {
                    opcode::RecvMsgMulti::new(Fd(fd), &raw const *self.template, GROUP).build()
                }
                Receiver::Device(fd) if self.multishot_read => {
                    opcode::ReadMulti::new(Fd(fd), 0, GROUP).build()
                }
                // Before Linux 6.7 one read is outstanding at a time: several could finish out of order.
                Receiver::Device(fd) => opcode::Read::new(Fd(fd), std::ptr::null_mut(), self.buffers.room)
                    .buf_group(GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT),
            };
            self.push(&entry.user_data(i as u64));
        }
    }

    /// Collects completions; whether a receiver may go on where it stopped.
    fn reap(&mut self) -> bool {
        let mut again = false;
        while let Some(entry) = { self.ring.completion().next() } {
            if entry.user_data() & SEND != 0 {
                self.finish_sending(&entry);
            } else {
                again |= entry.result() >= 0 || entry.result() == -libc::ENOBUFS;
                self.finish_receiving(&entry);
            }
        }
        again
    }

    fn finish_sending(&mut self, entry: &cqueue::Entry) {
        let slot = entry.user_data() as u16;
        let parked = self.sending.get_mut(usize::from(slot)).and_then(Option::take);
        if let Some((frame, token)) = parked {
            self.free_slots.push(slot);
            self.sent.push_back(Sent { frame, token, taken: entry.result() >= 0 });
        }
    }

    fn finish_receiving(&mut self, entry: &cqueue::Entry) {
        let receiver = entry.user_data() as u16;
        let Some(state) = self.receivers.get_mut(usize::from(receiver)) else { return };
        state.armed &= cqueue::more(entry.flags());
        let is_socket = matches!(state.receiver, Receiver::Socket(_));
        let parked = cqueue::buffer_select(entry.flags())
            .and_then(|index| self.provided.get_mut(usize::from(index)))
            .and_then(Option::take);
        let Some(mut frame) = parked else { return };
        self.provided_count -= 1;
        frame.set_range(0, usize::try_from(entry.result()).unwrap_or(0));
        if !is_socket {
            return self.received.push_back(Received { receiver, frame, message: None });
        }
        if let Some((message, offset, len)) = parse(frame.bytes(), &self.template) {
            frame.set_range(offset, len);
            self.received.push_back(Received { receiver, frame, message: Some(message) });
        } else {
            self.lost += 1;
            self.provide(frame);
        }
    }
}

/// Which fields of a message the kernel shall fill in: only the lengths matter.
fn template() -> Box<libc::msghdr> {
    // SAFETY: all zero is a valid `msghdr`.
    let mut template: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
    template.msg_namelen = NAME_LEN as u32;
    template.msg_controllen = CONTROL_LEN;
    template
}

/// The ring of receive buffers that the kernel takes from.
struct BufferRing {
    entries: &'static mut [Page],
    mask: u16,
    tail: u16,
    /// Bytes of one buffer.
    room: u32,
}

#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl BufferRing {
    /// Registers an empty ring. Its memory is never freed, as the kernel may use it a little longer than
    /// the ring lives.
    fn register(ring: &IoUring, count: u16, room: usize) -> Result<Self, UringError> {
        let pages = (usize::from(count) * size_of::<BufRingEntry>()).div_ceil(4096);
        let entries: &'static mut [Page] = (0..pages).map(|_| Page([0; 4096])).collect::<Vec<_>>().leak();
        // SAFETY: page-aligned memory that lives for ever and holds `count` entries.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_mut_ptr() as u64, count, GROUP, 0)
        }?;
        Ok(Self { entries, mask: count - 1, tail: 0, room: room as u32 })
    }

    fn push(&mut self, memory: *mut u8, len: usize, index: u16) {
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the masked position lies in the ring; the kernel does not read the entry before the tail
        // has passed it. The tail is the first entry's last field, which the setters leave alone.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & self.mask));
            entry.set_addr(memory as u64);
            entry.set_len(len as u32);
            entry.set_bid(index);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Header, address and control data of a datagram on its way out.
struct OutMessage {
    header: libc::msghdr,
    bytes: libc::iovec,
    name: libc::sockaddr_storage,
    control: Control,
}

/// A control message with one `int`.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    value: libc::c_int,
    padding: [u8; 4],
}

impl OutMessage {
    fn new() -> Self {
        // SAFETY: all zero is a valid value of each of these C structs.
        unsafe { std::mem::zeroed() }
    }

    /// Points the header at `bytes` and at the fields of `self`, which must not move afterwards.
    fn set(&mut self, bytes: &[u8], to: SocketAddr, tos: u8) {
        let (level, kind, name_len) = match to {
            SocketAddr::V4(to) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: `sockaddr_storage` is large enough and aligned for every address.
                unsafe { (&raw mut self.name).cast::<libc::sockaddr_in>().write(name) };
                (libc::IPPROTO_IP, libc::IP_TOS, size_of_val(&name))
            }
            SocketAddr::V6(to) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                    sin6_scope_id: to.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut self.name).cast::<libc::sockaddr_in6>().write(name) };
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, size_of_val(&name))
            }
        };
        self.control.header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<libc::c_int>();
        self.control.header.cmsg_level = level;
        self.control.header.cmsg_type = kind;
        self.control.value = tos.into();
        self.bytes = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = name_len as u32;
        self.header.msg_iov = &raw mut self.bytes;
        self.header.msg_iovlen = 1;
        self.header.msg_control = (&raw mut self.control).cast();
        self.header.msg_controllen = size_of::<Control>();
    }
}

/// A received message, and where its payload lies in the buffer. `None` when it was cut off.
fn parse(buffer: &[u8], template: &libc::msghdr) -> Option<(Message, usize, usize)> {
    let out = RecvMsgOut::parse(buffer, template).ok()?;
    if out.is_payload_truncated() {
        return None;
    }
    let message = Message { source: address(out.name_data())?, tos: ds_byte(out.control_data()) };
    Some((message, MESSAGE_ROOM, out.payload_data().len()))
}

/// The address in a `sockaddr_in` or `sockaddr_in6`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => Some(SocketAddr::new((*name.get(4..)?.first_chunk::<4>()?).into(), port)),
        libc::AF_INET6 => {
            let ip = (*name.get(8..)?.first_chunk::<16>()?).into();
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(std::net::SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

/// The DS byte in the one control message that our sockets ask for; 0 when it is not there. IPv4 gives a
/// byte, IPv6 an `int`.
fn ds_byte(control: &[u8]) -> u8 {
    let data = size_of::<libc::cmsghdr>();
    let kind = control.get(8..data).and_then(|k| k.first_chunk::<8>());
    let is = |level: i32, name: i32| {
        kind.is_some_and(|k| k[..4] == level.to_ne_bytes() && k[4..] == name.to_ne_bytes())
    };
    let value = control.get(data..).unwrap_or_default();
    if is(libc::IPPROTO_IP, libc::IP_TOS) {
        value.first().copied().unwrap_or(0)
    } else if is(libc::IPPROTO_IPV6, libc::IPV6_TCLASS) {
        value.first_chunk().map_or(0, |v| i32::from_ne_bytes(*v) as u8)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        for text in ["192.0.2.7:51820", "[2001:db8::7]:51820", "[fe80::1%3]:1"] {
            let mut message = OutMessage::new();
            let to: SocketAddr = text.parse().unwrap();
            message.set(b"x", to, 0);
            // SAFETY: reads the bytes of an initialised C struct.
            let name =
                unsafe { std::slice::from_raw_parts((&raw const message.name).cast::<u8>(), NAME_LEN) };
            assert_eq!(address(name), Some(to));
        }
        assert_eq!(address(&[0; 28]), None);
        assert_eq!(address(&[2, 0, 1]), None);
    }

    #[test]
    fn the_ds_byte_is_found_only_in_its_own_control_message() {
        let control = |level: i32, kind: i32, data: &[u8]| {
            let mut c = (16 + data.len() as u64).to_ne_bytes().to_vec();
            c.extend(level.to_ne_bytes().iter().chain(&kind.to_ne_bytes()).chain(data));
            c
        };
        assert_eq!(ds_byte(&control(libc::IPPROTO_IP, libc::IP_TOS, &[0x8b])), 0x8b);
        assert_eq!(ds_byte(&control(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0x8b_i32.to_ne_bytes())), 0x8b);
        assert_eq!(ds_byte(&control(libc::IPPROTO_IP, libc::IP_TTL, &[64])), 0);
        assert_eq!(ds_byte(&[]), 0);
    }
}
