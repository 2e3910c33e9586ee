//! A gateway that seals nothing: the ceiling of a lab.
//!
//! Inner packets are copied behind the headers of a WireGuard message, with room for its tag, and at the far end
//! they are copied out again. Ports, bursts, rests and wakeups are `forwarder`'s, so what it lacks to this rate is
//! the price of its pipeline and of the AEAD.
//!
//! ```text
//!  0     14     34    42        58               .. 16 bytes
//!  | Eth | IPv4 | UDP | header | inner IP packet, padded | tag |
//! ```

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use forwarder::clock::boottime;
use forwarder::id::PortId;
use forwarder::pace::{Next, Pace};
use forwarder::port::xsk::{RING, XskPort};
use forwarder::port::{BURST, Destination, Port as _, RxFrame, TxFrame};
use forwarder::topology::Mode;
use nix::poll::{PollFd, PollFlags};

use crate::host::Interface;
use crate::packet::{self, DESTINATION_PORT, ETHERNET, HEADERS, Route};
use crate::program::{Arrival, Program};

const CHUNK: u32 = 2048;
/// Bytes of a data message before its packet, and behind it.
const MESSAGE_HEADER: usize = 16;
const TAG: usize = 16;
/// Where the inner packet stands in a frame of the underlay.
const INNER_AT: usize = HEADERS + MESSAGE_HEADER;
/// Padding ends here: the tunnel's MTU.
const MTU: usize = 1420;
/// Longest wait in milliseconds.
const MAX_WAIT: u8 = 100;

/// Options of `bench null`.
#[derive(Args, Debug)]
pub struct Options {
    /// The interface to the LAN
    #[arg(long)]
    lan: String,
    /// Address of the host there
    #[arg(long)]
    host: Ipv4Addr,
    /// An interface of the underlay and the far gateway's address there; repeatable
    #[arg(long = "slave", value_name = "IFACE=ADDRESS", required = true, value_parser = parse_slave)]
    slaves: Vec<(String, Ipv4Addr)>,
    /// Frames that are taken from a port at once
    #[arg(long, default_value_t = BURST, value_parser = parse_burst)]
    burst: usize,
    /// Microseconds of rest, where there are many packets, after a turn that was no full burst
    #[arg(long, default_value_t = 50)]
    rest: u64,
    /// Frames that may be on their way out of one port
    #[arg(long, default_value_t = 512)]
    unsent: usize,
}

fn parse_slave(text: &str) -> Result<(String, Ipv4Addr), String> {
    let (name, address) = text.split_once('=').ok_or("it is written IFACE=ADDRESS")?;
    Ok((name.to_owned(), address.parse().map_err(|_| format!("{address} is no IPv4 address"))?))
}

fn parse_burst(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=BURST).contains(n)).ok_or_else(|| format!("it is 1 to {BURST}"))
}

/// Carries packets until a signal ends the process.
///
/// # Errors
/// An interface is missing, a neighbour does not answer, or the privileges are missing.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut gateway = Gateway::open(options)?;
    println!("ready");
    let rest = Duration::from_micros(options.rest);
    let mut pace = Pace::default();
    loop {
        let received = gateway.turn();
        match pace.after(received, boottime()) {
            _ if received >= options.burst => thread::yield_now(),
            Next::Wait if !gateway.unsent() => gateway.wait(),
            _ if rest.is_zero() => thread::yield_now(),
            _ => thread::sleep(rest),
        }
    }
}

struct Gateway {
    lan: Leg,
    slaves: Vec<Leg>,
    most: usize,
    burst: Vec<RxFrame>,
}

/// One interface: a socket for each of its queues, of which the first one sends.
struct Leg {
    /// Taken off first, so that no packet goes to a socket that is closed.
    _program: Program,
    ports: Vec<XskPort>,
    headers: [u8; HEADERS],
}

impl Gateway {
    fn open(options: &Options) -> anyhow::Result<Self> {
        let lan = Leg::open(&options.lan, options.host, options.unsent)?;
        let slaves = options.slaves.iter().map(|(name, far)| Leg::open(name, *far, options.unsent));
        let slaves = slaves.collect::<anyhow::Result<_>>()?;
        Ok(Self { lan, slaves, most: options.burst, burst: Vec::with_capacity(BURST) })
    }

    /// Takes a burst from each port and sends it on; returns how many frames there were.
    fn turn(&mut self) -> usize {
        let Self { lan, slaves, most, burst } = self;
        let mut received = 0;
        for port in &mut lan.ports {
            received += port.receive(0, *most, burst);
            for frame in burst.drain(..) {
                if let Some(packet) = ip_packet(frame.frame.bytes(), ETHERNET) {
                    let slave = flow(packet) % slaves.len();
                    slaves[slave].send(|headers, tx| wrap(headers, packet, tx));
                }
                port.release(frame.frame);
            }
        }
        for port in slaves.iter_mut().flat_map(|slave| &mut slave.ports) {
            received += port.receive(0, *most, burst);
            for frame in burst.drain(..) {
                if let Some(packet) = ip_packet(frame.frame.bytes(), INNER_AT) {
                    lan.send(|headers, tx| unwrap(headers, packet, tx));
                }
                port.release(frame.frame);
            }
        }
        self.legs().flat_map(|leg| &mut leg.ports).for_each(XskPort::flush);
        received
    }

    fn unsent(&mut self) -> bool {
        self.legs().flat_map(|leg| &leg.ports).any(XskPort::unsent)
    }

    fn wait(&mut self) {
        let ports = self.legs().flat_map(|leg| &leg.ports);
        let mut fds: Vec<PollFd<'_>> =
            ports.filter_map(|port| Some(PollFd::new(port.poll_fd()?, PollFlags::POLLIN))).collect();
        // A signal (EINTR) ends the wait early, which is harmless.
        let _ = nix::poll::poll(&mut fds, MAX_WAIT);
    }

    fn legs(&mut self) -> impl Iterator<Item = &mut Leg> {
        std::iter::once(&mut self.lan).chain(&mut self.slaves)
    }
}

impl Leg {
    /// An interface of this namespace, towards `next_hop`.
    fn open(name: &str, next_hop: Ipv4Addr, unsent: usize) -> anyhow::Result<Self> {
        let interface = Interface::find(name)?;
        let next_hop_mac =
            interface.next_hop_mac(next_hop).with_context(|| format!("the way to {next_hop}"))?;
        let open = |queue| {
            let mut port = XskPort::open(PortId(0), name, queue, Mode::Copy, CHUNK, RING)?;
            port.limit_transmit(unsent);
            anyhow::Ok(port)
        };
        let ports = (0..interface.rx_queues).map(open).collect::<anyhow::Result<Vec<_>>>()?;
        let sockets: Vec<_> = ports.iter().map(XskPort::fd).collect();
        let program = Program::attach(interface.ifindex, &sockets, Arrival::Untold)?;
        let route = Route {
            source_mac: interface.mac,
            next_hop_mac,
            source: Ipv4Addr::UNSPECIFIED,
            destination: next_hop,
        };
        // The port by which the program at the far end knows what is ours.
        let headers = packet::headers(&route, (DESTINATION_PORT, DESTINATION_PORT), HEADERS as u16);
        Ok(Self { _program: program, ports, headers })
    }

    /// Sends what `write` makes of a frame; drops it when all frames are on their way.
    fn send(&mut self, write: impl FnOnce(&[u8; HEADERS], &mut TxFrame)) {
        let port = &mut self.ports[0];
        let Some(mut frame) = port.reserve() else { return };
        write(&self.headers, &mut frame);
        port.transmit(frame, &Destination::Headers);
    }
}

/// The IPv4 packet at `at`, without what pads its frame.
fn ip_packet(frame: &[u8], at: usize) -> Option<&[u8]> {
    let packet = frame.get(at..)?;
    let length = u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]);
    packet.get(..usize::from(length)).filter(|packet| packet.len() >= HEADERS - ETHERNET)
}

/// A number that packets of one flow have in common: the benchmark's flows differ in their source ports.
fn flow(packet: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([packet[20], packet[21]]))
}

fn wrap(headers: &[u8; HEADERS], packet: &[u8], tx: &mut TxFrame) {
    let padded = packet.len().next_multiple_of(16).min(packet.len().max(MTU));
    let len = INNER_AT + padded + TAG;
    let memory = tx.frame.memory_mut();
    memory[..HEADERS].copy_from_slice(headers);
    packet::set_length(&mut memory[..HEADERS], (len - ETHERNET) as u16);
    memory[INNER_AT..][..packet.len()].copy_from_slice(packet);
    tx.frame.set_range(0, len);
}

fn unwrap(headers: &[u8; HEADERS], packet: &[u8], tx: &mut TxFrame) {
    let memory = tx.frame.memory_mut();
    memory[..ETHERNET].copy_from_slice(&headers[..ETHERNET]);
    memory[ETHERNET..][..packet.len()].copy_from_slice(packet);
    tx.frame.set_range(0, ETHERNET + packet.len());
}

#[cfg(test)]
mod tests {
    use forwarder::port::Frame;

    use super::*;

    const ROUTE: Route = Route {
        source_mac: [2, 0, 0, 0, 0, 1],
        next_hop_mac: [2, 0, 0, 0, 0, 2],
        source: Ipv4Addr::new(10, 1, 0, 2),
        destination: Ipv4Addr::new(10, 2, 0, 2),
    };

    fn frame() -> TxFrame {
        TxFrame { frame: Frame::new(vec![0; 2048].leak(), 0) }
    }

    #[test]
    fn an_outer_frame_is_as_long_as_wireguards() {
        // Inner IP length, and outer frame without FCS.
        for (inner, outer) in [(46, 122), (110, 186), (494, 570), (1420, 1494)] {
            let headers = packet::headers(&ROUTE, (10_000, DESTINATION_PORT), inner);
            let mut packet = headers[ETHERNET..].to_vec();
            packet.resize(usize::from(inner), 7);
            let (mut far, mut near) = (frame(), frame());
            wrap(&headers, &packet, &mut far);
            assert_eq!(far.frame.len(), outer);
            let carried = ip_packet(far.frame.bytes(), INNER_AT).expect("it is there");
            assert_eq!(carried, packet);
            let outer = ip_packet(far.frame.bytes(), ETHERNET).expect("the length is right");
            assert_eq!(packet::checksum(&outer[..20]), 0);
            unwrap(&headers, carried, &mut near);
            assert_eq!(&near.frame.bytes()[ETHERNET..], packet);
        }
    }

    #[test]
    fn what_is_cut_short_is_not_carried() {
        let headers = packet::headers(&ROUTE, (10_000, DESTINATION_PORT), 46);
        assert_eq!(ip_packet(&headers, ETHERNET), None);
        assert_eq!(ip_packet(&headers[..ETHERNET + 3], ETHERNET), None);
    }

    #[test]
    fn slaves_are_written_with_the_far_address() {
        assert_eq!(parse_slave("wan1=10.0.0.2"), Ok(("wan1".to_owned(), Ipv4Addr::new(10, 0, 0, 2))));
        assert!(parse_slave("wan1").is_err() && parse_slave("wan1=x").is_err());
        assert!(parse_burst("0").is_err() && parse_burst("65").is_err());
    }
}
