//! The sink: takes the packets of a benchmark off one interface before the kernel sees them.

use forwarder::clock::Boottime;
use forwarder::id::PortId;
use forwarder::port::xsk::{RING, XskPort};
use forwarder::port::{BURST, Port as _, RxFrame};
use forwarder::topology::Mode;

use crate::host::Interface;
use crate::packet::{self, Stamp};
use crate::program::{Arrival, Program};

const CHUNK: u32 = 2048;

/// A sink on all queues of one interface.
#[derive(Debug)]
pub struct Sink {
    /// Taken off first, so that no packet goes to a socket that is closed.
    _program: Program,
    ports: Vec<XskPort>,
    burst: Vec<RxFrame>,
}

impl Sink {
    /// Opens the sockets and attaches the program in this thread's namespace.
    ///
    /// # Errors
    /// Device, queue, cause and fix.
    pub fn open(interface: &Interface) -> anyhow::Result<Self> {
        // Twice the ring: a sink that waits for its core must not lose packets.
        let open = |queue| XskPort::open(PortId(0), &interface.name, queue, Mode::Copy, CHUNK, 2 * RING);
        let ports: Vec<_> = (0..interface.rx_queues).map(open).collect::<Result<_, _>>()?;
        let sockets: Vec<_> = ports.iter().map(XskPort::fd).collect();
        let program = Program::attach(interface.ifindex, &sockets, Arrival::Told)?;
        Ok(Self { _program: program, ports, burst: Vec::with_capacity(BURST) })
    }

    /// Takes all packets that have arrived; returns how many there were. `arrived` gets each stamp and
    /// the time of arrival: how late the packet is taken does not matter.
    pub fn drain(&mut self, mut arrived: impl FnMut(&Stamp, Boottime)) -> usize {
        let mut packets = 0;
        for port in &mut self.ports {
            while port.receive(0, BURST, &mut self.burst) > 0 {
                for frame in self.burst.drain(..) {
                    let bytes = frame.frame.bytes();
                    if let (Some(stamp), Some(at)) = (packet::parse(bytes), packet::arrival(bytes)) {
                        arrived(&stamp, at);
                        packets += 1;
                    }
                    port.release(frame.frame);
                }
                port.flush();
            }
        }
        packets
    }

    /// Packets that this machine's kernel had no ring slot for: they are the sink's loss, not the gateway's.
    pub fn lost(&self) -> u64 {
        self.ports.iter().map(|port| port.counters().rx_lost).sum()
    }
}
