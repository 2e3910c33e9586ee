//! The far ends of gateway A's cables, where an attacker sits, and taps at the near ends of gateway B's.
//!
//! ```text
//!  host --eth0--- lan0 [A] wan0 ---a0 [switch] b0--- wan0 [B]
//!       ^ attack                   ^ attack    ^ tap
//! ```
//!
//! What is injected towards A never passes a tap: a tap sees what the gateways say to each other.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::frames::udp_payload;
use tests::lab::{mac, run_inside};
use tests::packet_socket::{EVERYTHING, EXPERIMENTAL, PacketSocket};
use xtask::lab::{Lab, Netns};

/// Sockets at a lab's cables.
pub struct Cables {
    /// Towards A: its WAN ports, then its LAN port.
    pub attack: Vec<PacketSocket>,
    /// The MAC addresses of those ports.
    pub macs: Vec<[u8; 6]>,
    taps: Vec<PacketSocket>,
}

impl Cables {
    pub fn open(lab: &Lab) -> Result<Self> {
        let switch = lab.switch.as_ref().context("a lab without a switch")?;
        let (mut attack, mut taps) = (Vec::new(), Vec::new());
        for port in 0..lab.options.ports {
            attack.push(open(switch, &format!("a{port}"), EXPERIMENTAL)?);
            taps.push(open(switch, &format!("b{port}"), EVERYTHING)?);
        }
        attack.push(open(&lab.a.host, "eth0", EXPERIMENTAL)?);
        let ports = lab.a.ports(lab.options);
        let macs = ports.iter().map(|port| mac(&lab.a.gateway, port)).collect::<Result<_>>()?;
        Ok(Self { attack, macs, taps })
    }

    /// The WireGuard frames that passed since the last call, by WAN port.
    pub fn overheard(&self) -> Vec<Vec<Vec<u8>>> {
        self.taps.iter().map(overheard).collect()
    }

    /// The MAC address of A's LAN port.
    pub fn lan_mac(&self) -> [u8; 6] {
        self.macs[self.macs.len() - 1]
    }
}

fn open(namespace: &Netns, port: &str, ethertype: u16) -> Result<PacketSocket> {
    run_inside(namespace, || Ok(PacketSocket::open(port, ethertype)?))
}

fn overheard(tap: &PacketSocket) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2048];
    let frames = std::iter::from_fn(|| tap.receive(&mut buffer, Duration::ZERO).map(<[u8]>::to_vec));
    frames.filter(|frame| kind(frame).is_some()).collect()
}

/// The type of a WireGuard message in a frame. The length tells it from bent LAN packets, which the gateways
/// forward outside of all tunnels where a flipped bit made their destination another.
pub fn kind(frame: &[u8]) -> Option<u8> {
    let message = udp_payload(frame)?;
    let &[kind, 0, 0, 0, ..] = message else { return None };
    let right = match kind {
        1 => message.len() == 148,
        2 => message.len() == 92,
        3 => message.len() == 64,
        4 => message.len() >= 32,
        _ => false,
    };
    right.then_some(kind)
}
