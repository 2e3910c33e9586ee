//! The generator: packets of many flows in turn, at a steady rate, in short bursts.

use std::time::Duration;

use forwarder::clock::Boottime;
use forwarder::id::PortId;
use forwarder::port::Port as _;
use forwarder::port::xsk::{RING, XskPort};
use forwarder::topology::Mode;

use crate::host::Interface;
use crate::packet::{Stamp, Template};

const CHUNK: u32 = 2048;
/// A generator that was late does not catch up all at once: such a burst would test the queues of the
/// gateway and not its rate.
const LONGEST_BURST: u64 = 1024;

/// A generator on all queues of one interface: flow f leaves by queue f modulo their number, as a
/// NIC would spread them.
#[derive(Debug)]
pub struct Sender {
    ports: Vec<XskPort>,
    template: Template,
    trial: u16,
    next_flow: u16,
    /// Next sequence number of each flow.
    sequences: Vec<u32>,
    sent: u64,
}

impl Sender {
    /// Opens the sockets in this thread's namespace.
    ///
    /// # Errors
    /// Device, queue, cause and fix.
    pub fn open(interface: &Interface, template: Template) -> anyhow::Result<Self> {
        let open = |queue| XskPort::open(PortId(0), &interface.name, queue, Mode::Copy, CHUNK, RING);
        let ports = (0..interface.tx_queues).map(open).collect::<Result<_, _>>()?;
        let sequences = vec![0; usize::from(template.flows())];
        Ok(Self { ports, template, trial: 0, next_flow: 0, sequences, sent: 0 })
    }

    /// Begins a trial: all flows start at sequence number 0.
    pub fn start(&mut self, trial: u16) {
        self.trial = trial;
        self.next_flow = 0;
        self.sequences.fill(0);
        self.sent = 0;
    }

    /// Packets sent in this trial.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of flows.
    pub fn flows(&self) -> u16 {
        self.template.flows()
    }

    /// Sends what is due `elapsed` after the start at `rate` packets a second, as far as there is room.
    pub fn send_due(&mut self, elapsed: Duration, rate: u64, now: Boottime) {
        let due = (elapsed.as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        for _ in 0..due.saturating_sub(self.sent).min(LONGEST_BURST) {
            if !self.send_one(now) {
                break;
            }
        }
        self.ports.iter_mut().for_each(XskPort::flush);
    }

    fn send_one(&mut self, now: Boottime) -> bool {
        let flow = usize::from(self.next_flow);
        let queue = flow % self.ports.len();
        let port = &mut self.ports[queue];
        let Some(mut frame) = port.reserve() else { return false };
        frame.frame.set_range(0, self.template.frame_len());
        let stamp =
            Stamp { trial: self.trial, flow: self.next_flow, sequence: self.sequences[flow], sent: now };
        self.template.write(&stamp, frame.frame.bytes_mut());
        port.transmit(frame);

        self.sequences[flow] += 1;
        self.next_flow = (self.next_flow + 1) % self.template.flows();
        self.sent += 1;
        true
    }
}
