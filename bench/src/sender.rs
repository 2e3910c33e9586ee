//! The generator: packets of many flows in turn, at a constant mean rate.

use std::time::Duration;

use forwarder::clock::{Boottime, boottime};
use forwarder::id::PortId;
use forwarder::port::xsk::{RING, XskPort};
use forwarder::port::{Destination, Port as _};
use forwarder::topology::Mode;
use hdrhistogram::Histogram;

use crate::host::Interface;
use crate::packet::{Stamp, Template};

const CHUNK: u32 = 2048;
/// A generator that was late does not catch up all at once: such a burst would test the queues of the
/// gateway and not its rate.
const LONGEST_BURST: u64 = 1024;
/// Lateness above this is counted as this, in nanoseconds.
const LATEST: u64 = 10_000_000_000;

/// When packets are to be sent at a given mean rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Time from one burst to the next one, where there is something to send: what has become due meanwhile is
    /// sent together, since waking up for each packet would cost more than the packet.
    pub tick: Duration,
    /// Packets that become due at once.
    pub burst: u64,
}

impl Shape {
    /// Packets due in that time at `rate` packets a second.
    pub fn due(&self, elapsed: Duration, rate: u64) -> u64 {
        due(elapsed, rate) / self.burst * self.burst
    }
}

/// Packets due in that time at `rate` packets a second, one by one.
pub fn due(elapsed: Duration, rate: u64) -> u64 {
    (elapsed.as_nanos() * u128::from(rate) / 1_000_000_000) as u64
}

/// A generator on all queues of one interface: flow f leaves by queue f modulo their number, as a
/// NIC would spread them.
#[derive(Debug)]
pub struct Sender {
    ports: Vec<XskPort>,
    template: Template,
    shape: Shape,
    trial: u16,
    start: Boottime,
    /// The tick whose packets are sent now.
    tick: u32,
    next_flow: u16,
    /// Next sequence number of each flow.
    sequences: Vec<u32>,
    sent: u64,
    lateness: Histogram<u64>,
}

impl Sender {
    /// Opens the sockets in this thread's namespace.
    ///
    /// # Errors
    /// Device, queue, cause and fix.
    pub fn open(interface: &Interface, template: Template, shape: Shape) -> anyhow::Result<Self> {
        let open = |queue| XskPort::open(PortId(0), &interface.name, queue, Mode::Copy, CHUNK, RING);
        let ports = (0..interface.tx_queues).map(open).collect::<Result<_, _>>()?;
        let sequences = vec![0; usize::from(template.flows())];
        let lateness = Histogram::new_with_bounds(1, LATEST, 3)?;
        let start = Boottime::default();
        Ok(Self {
            ports,
            template,
            shape,
            trial: 0,
            start,
            tick: 0,
            next_flow: 0,
            sequences,
            sent: 0,
            lateness,
        })
    }

    /// Begins a trial: all flows start at sequence number 0.
    pub fn start(&mut self, trial: u16, start: Boottime) {
        self.trial = trial;
        self.start = start;
        self.tick = 0;
        self.next_flow = 0;
        self.sequences.fill(0);
        self.sent = 0;
        self.lateness.reset();
    }

    /// Packets sent in this trial.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of flows.
    pub fn flows(&self) -> u16 {
        self.template.flows()
    }

    /// When packets are to be sent.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How much later than scheduled packets were sent, in nanoseconds.
    pub fn lateness(&self) -> &Histogram<u64> {
        &self.lateness
    }

    /// Sends what is due `elapsed` after the start at `rate` packets a second, as far as there is room. Each packet
    /// has the time of its tick as its stamp, however late it is: what waits for a generator that lost its core,
    /// or for a gateway that takes nothing, has waited from then on.
    pub fn send_due(&mut self, elapsed: Duration, rate: u64) {
        let mut room = LONGEST_BURST.max(self.shape.burst);
        while room > 0 {
            let scheduled = self.shape.tick * self.tick;
            if scheduled > elapsed {
                break;
            }
            let wanted = self.shape.due(scheduled, rate).saturating_sub(self.sent);
            let sent = self.send(wanted.min(room), self.start + scheduled);
            room -= sent;
            if sent < wanted {
                break;
            }
            self.tick += 1;
        }
        self.ports.iter_mut().for_each(XskPort::flush);
    }

    /// Sends up to `count` packets; returns how many there was room for.
    fn send(&mut self, count: u64, scheduled: Boottime) -> u64 {
        let sent = (0..count).take_while(|_| self.send_one(scheduled)).count() as u64;
        if sent > 0 {
            self.lateness.saturating_record_n(boottime().since(scheduled).as_nanos() as u64, sent);
        }
        sent
    }

    fn send_one(&mut self, scheduled: Boottime) -> bool {
        let flow = usize::from(self.next_flow);
        let queue = flow % self.ports.len();
        let port = &mut self.ports[queue];
        let Some(mut frame) = port.reserve() else { return false };
        let sequence = self.sequences[flow];
        frame.frame.set_range(0, self.template.frame_len(self.next_flow, sequence));
        let stamp = Stamp { trial: self.trial, flow: self.next_flow, sequence, sent: scheduled };
        self.template.write(&stamp, frame.frame.bytes_mut());
        port.transmit(frame, &Destination::Headers);

        self.sequences[flow] += 1;
        self.next_flow = (self.next_flow + 1) % self.template.flows();
        self.sent += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_keep_the_mean_rate() {
        let shape = |burst| Shape { tick: Duration::from_micros(500), burst };
        let second = Duration::from_secs(1);
        assert_eq!(shape(1).due(second / 1000, 100_000), 100);
        assert_eq!(shape(32).due(second / 1000, 100_000), 96);
        assert_eq!(shape(32).due(second, 100_000), 100_000);
        assert_eq!(shape(64).due(second / 10_000, 100_000), 0);
    }
}
