//! A lane's ports and what names them.

use crate::id::PortId;
use crate::port::{Destination, Frame, Port, TxFrame};

/// The ports of one lane, by position.
pub struct Ports {
    /// The ports; [`RxFrame::origin`](crate::port::RxFrame::origin) is a position in this list.
    pub all: Vec<Box<dyn Port>>,
    /// Position of the port that transmits for a device, by [`PortId`].
    pub egress: Vec<Option<u16>>,
    /// Position of the port that takes IP packets to the kernel: the TUN or a queue to it.
    pub kernel: Option<u16>,
    /// Position of the port that sends datagrams from the tunnels' UDP sockets.
    pub datagrams: Option<u16>,
}

impl Ports {
    /// Position of the port that transmits for `port`; `None` when it has no socket here.
    pub(super) fn egress(&self, port: PortId) -> Option<u16> {
        *self.egress.get(port.index())?
    }

    pub(super) fn reserve(&mut self, at: u16) -> Option<TxFrame> {
        self.all.get_mut(usize::from(at))?.reserve()
    }

    pub(super) fn transmit(&mut self, at: u16, frame: TxFrame, to: &Destination) {
        self.all[usize::from(at)].transmit(frame, to);
    }

    pub(super) fn cancel(&mut self, at: u16, frame: TxFrame) {
        self.all[usize::from(at)].cancel(frame);
    }

    pub(super) fn release(&mut self, at: u16, frame: Frame) {
        self.all[usize::from(at)].release(frame);
    }

    pub(super) fn flush(&mut self) {
        self.all.iter_mut().for_each(|port| port.flush());
    }
}
