//! An `io_uring` that receives into and sends from frames, under the UDP and TUN ports.
#![allow(unsafe_code)]

mod buffers;
mod error;
mod message;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};

use io_uring::types::Fd;
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Arena, Frame};
use buffers::BufferRing;
pub use error::UringError;
pub(super) use message::{MESSAGE_ROOM, Message};
use message::{OutMessage, parse, template};

/// The one group of receive buffers of a ring.
const GROUP: u16 = 0;
/// Tag of a request's `user_data` that is a send; without a tag, it is a request to receive.
const SEND: u64 = 1 << 32;
/// Tag of one that cancels another.
const CANCEL: u64 = 1 << 33;
/// Room in the queue for requests to receive and to cancel; when it is full the rest waits for the next turn.
const RECEIVER_SLOTS: usize = 64;

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
/// The ring serves the thread of its first turn; build it anywhere. What arrives waits for the next turn: it
/// does not wake the thread from its rest, one packet at a time.
pub(super) struct Uring {
    ring: IoUring,
    /// The ring has its thread.
    enabled: bool,
    /// Signalled when there is something to do. The ring's own descriptor wakes nobody while that waits to be
    /// done by this thread.
    wake: EventFd,
    /// The last turn had nothing to do, so somebody may have waited since, and been woken.
    quiet: bool,
    buffers: BufferRing,
    /// Frames that the kernel receives into, by frame index.
    provided: Box<[Option<Frame>]>,
    provided_count: usize,
    /// Frames that the kernel sends, with the sender's token.
    sending: Box<[Option<(Frame, u16)>]>,
    free_slots: Vec<u16>,
    messages: Box<[OutMessage]>,
    /// By number; `None` is a number that is free.
    receivers: Vec<Option<Armed>>,
    removed: VecDeque<u16>,
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

/// Whether a port's ring could be had, by making a small one.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), UringError> {
    Uring::new([], 1, 4096, 1).map(drop)
}

#[derive(Clone, Copy)]
struct Armed {
    receiver: Receiver,
    /// The kernel has a request to read it.
    armed: bool,
    /// It shall be let go of.
    leaving: bool,
    /// The kernel was told to cancel the request.
    cancelled: bool,
}

impl Uring {
    /// A ring that receives from `receivers` into `frames` frames (a power of two) of `room` bytes, and sends
    /// up to `send_frames` frames at once. The descriptors must stay open as long as the ring, or
    /// until they are removed.
    pub(super) fn new(
        receivers: impl IntoIterator<Item = Receiver>,
        frames: u16,
        room: usize,
        send_frames: u16,
    ) -> Result<Self, UringError> {
        let slots = usize::from(send_frames) + RECEIVER_SLOTS;
        let ring = IoUring::builder()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_r_disabled()
            .setup_cqsize((slots + usize::from(frames)).next_power_of_two() as u32)
            .build(slots.next_power_of_two() as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let wake =
            EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(io::Error::from)?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        let mut this = Self {
            buffers: BufferRing::register(&ring, GROUP, frames, room)?,
            ring,
            enabled: false,
            wake,
            quiet: true,
            provided: (0..frames).map(|_| None).collect(),
            provided_count: 0,
            sending: (0..send_frames).map(|_| None).collect(),
            free_slots: (0..send_frames).rev().collect(),
            messages: (0..send_frames).map(|_| OutMessage::new()).collect(),
            receivers: Vec::new(),
            removed: VecDeque::new(),
            template: Box::new(template()),
            multishot_read: probe.is_supported(opcode::ReadMulti::CODE),
            received: VecDeque::with_capacity(usize::from(frames)),
            sent: VecDeque::with_capacity(usize::from(send_frames)),
            lost: 0,
        };
        let mut arena = Arena::new(usize::from(frames), room).map_err(UringError::Memory)?;
        while let Some(frame) = arena.take() {
            this.provide(frame);
        }
        receivers.into_iter().for_each(|receiver| _ = this.add(receiver));
        Ok(this)
    }

    /// Receives from one more descriptor, which must stay open until [`Self::next_removed`] yields the number
    /// that this returns.
    pub(super) fn add(&mut self, receiver: Receiver) -> u16 {
        let armed = Some(Armed { receiver, armed: false, leaving: false, cancelled: false });
        let free = self.receivers.iter().position(Option::is_none);
        let number = free.unwrap_or(self.receivers.len());
        match free {
            Some(number) => self.receivers[number] = armed,
            None => self.receivers.push(armed),
        }
        number as u16
    }

    /// Stops receiving from a descriptor.
    pub(super) fn remove(&mut self, number: u16) {
        if let Some(Some(receiver)) = self.receivers.get_mut(usize::from(number)) {
            receiver.leaving = true;
        }
    }

    /// The number of a receiver that the kernel has let go of, and whose data has been taken. [`Self::add`] may
    /// give it out again: ask before.
    pub(super) fn next_removed(&mut self) -> Option<u16> {
        self.removed.pop_front()
    }

    /// Gives a receive frame to the kernel.
    pub(super) fn provide(&mut self, mut frame: Frame) {
        let index = frame.index();
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
        self.start_sending(slot, entry, frame, token)
    }

    /// Queues a datagram; gives the frame back when there is no room. A full socket buffer loses it: waiting
    /// would let later datagrams overtake.
    pub(super) fn send_to(&mut self, fd: RawFd, frame: Frame, to: SocketAddr, tos: u8) -> Result<(), Frame> {
        let Some(slot) = self.free_slots.pop() else { return Err(frame) };
        let message = &mut self.messages[usize::from(slot)];
        message.set(frame.bytes(), to, tos);
        let entry = opcode::SendMsg::new(Fd(fd), message.header()).flags(libc::MSG_DONTWAIT as u32).build();
        self.start_sending(slot, entry, frame, 0)
    }

    /// Submits what is queued, asks again for data where the kernel stopped, and collects completions.
    pub(super) fn turn(&mut self) {
        if !self.enabled {
            self.enabled = self.ring.submitter().register_enable_rings().is_ok();
        }
        if self.quiet {
            // Before the look at what there is: what comes later signals again.
            let _ = self.wake.read();
        }
        self.quiet = true;
        loop {
            self.arm();
            let enter = {
                let queue = self.ring.submission();
                !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
            };
            if enter {
                self.quiet = false;
                // Failure (a signal, or completions to be collected first) leaves the requests queued.
                let _ = self.ring.submit();
            }
            let again = self.reap();
            let mut receivers = self.receivers.iter().flatten();
            let leaving = receivers.clone().any(|receiver| receiver.leaving);
            let stopped = receivers.any(|receiver| !receiver.armed && !receiver.leaving);
            // Who sleeps with a stopped receiver and frames for it would never wake; and one that leaves holds
            // its socket until the kernel has let go of it.
            if !(again && stopped && self.provided_count > 0 || enter && leaving) {
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

    /// Readable when a turn has something to do.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn start_sending(
        &mut self,
        slot: u16,
        entry: squeue::Entry,
        frame: Frame,
        token: u16,
    ) -> Result<(), Frame> {
        if !self.push(&entry.user_data(SEND | u64::from(slot))) {
            self.free_slots.push(slot);
            return Err(frame);
        }
        self.sending[usize::from(slot)] = Some((frame, token));
        Ok(())
    }

    /// Queues a request; `false` when the kernel has not taken the earlier ones, which fill the queue.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: a request's buffers are parked frames, provided buffers, or boxed headers of `self`; see
        // the type.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Starts the receivers that the kernel has stopped, or that never ran, and stops those that shall go.
    fn arm(&mut self) {
        for number in 0..self.receivers.len() {
            let Some(Armed { receiver, armed, leaving, cancelled }) = self.receivers[number] else {
                continue;
            };
            let user_data = number as u64;
            let waits = |received: &Received| usize::from(received.receiver) == number;
            if leaving && !armed && !self.received.iter().any(waits) {
                self.receivers[number] = None;
                self.removed.push_back(number as u16);
            } else if leaving && armed && !cancelled {
                let entry = opcode::AsyncCancel::new(user_data).build().user_data(CANCEL);
                let cancelled = self.push(&entry);
                self.receivers[number] = Some(Armed { receiver, armed, leaving, cancelled });
            } else if !leaving && !armed && self.provided_count > 0 {
                let entry = self.request(receiver).user_data(user_data);
                let armed = self.push(&entry);
                self.receivers[number] = Some(Armed { receiver, armed, leaving, cancelled });
            }
        }
    }

    /// A request to receive.
    fn request(&self, receiver: Receiver) -> squeue::Entry {
        match receiver {
            Receiver::Socket(fd) => {
                opcode::RecvMsgMulti::new(Fd(fd), &raw const *self.template, GROUP).build()
            }
            Receiver::Device(fd) if self.multishot_read => opcode::ReadMulti::new(Fd(fd), 0, GROUP).build(),
            // Before Linux 6.7 one read is outstanding at a time: several could finish out of order.
            Receiver::Device(fd) => opcode::Read::new(Fd(fd), std::ptr::null_mut(), self.buffers.room())
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        }
    }

    /// Collects completions; whether a receiver may go on where it stopped.
    fn reap(&mut self) -> bool {
        let mut again = false;
        while let Some(entry) = { self.ring.completion().next() } {
            if entry.user_data() & SEND != 0 {
                self.finish_sending(&entry);
            } else if entry.user_data() & CANCEL == 0 {
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
        let Some(Some(state)) = self.receivers.get_mut(usize::from(receiver)) else { return };
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
