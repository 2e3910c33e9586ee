//! `handshake-flood DEVICE MAC SOURCE DESTINATION PUBLIC-KEY`: bursts of handshake initiations with a good
//! mac1, from the 65,536 addresses that begin as SOURCE does. Each burst is larger than the queue from which
//! on a receiver counts as under load, and the next comes before it forgets that. Ends with its process.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result};
use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use forwarder::config::key;
use rand::Rng as _;
use tests::frames::{IPV4, UDP, ethernet, ipv4, udp};
use tests::packet_socket::{EXPERIMENTAL, PacketSocket};

const BURST: u16 = 1500;
const REST: Duration = Duration::from_millis(250);

/// The type, the sender's index, an ephemeral key, two sealed fields, mac1, mac2.
const INITIATION: usize = 148;
const MAC1_AT: usize = 116;
const MAC2_AT: usize = 132;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, mac, source, destination, public_key] = &arguments[..] else {
        anyhow::bail!("five arguments: DEVICE MAC SOURCE DESTINATION PUBLIC-KEY");
    };
    let mac = parse_mac(mac).context("not a MAC address")?;
    let [high, low, ..] = source.parse::<Ipv4Addr>()?.octets();
    let destination: SocketAddrV4 = destination.parse()?;
    let mac1_key = Blake2s256::new().chain_update(b"mac1----").chain_update(*key::decode(public_key)?);
    let mac1_key = mac1_key.finalize();

    let socket = PacketSocket::open(device, EXPERIMENTAL).context("cannot send by the device")?;
    let mut next: u16 = 0;
    println!("flooding");
    loop {
        // All of a burst is made before any of it is sent: one by one the receiver could keep up.
        let burst: Vec<_> = (0..BURST)
            .map(|_| {
                next = next.wrapping_add(1);
                let [third, fourth] = next.to_be_bytes();
                let source = Ipv4Addr::new(high, low, third, fourth);
                let datagram = udp(1024 + next % 60_000, destination.port(), &initiation(&mac1_key));
                ethernet(&[], mac, IPV4, &ipv4(source, *destination.ip(), UDP, &datagram))
            })
            .collect();
        for frame in &burst {
            socket.send(frame);
        }
        std::thread::sleep(REST);
    }
}

/// An initiation of nobody: only its mac1 is right.
fn initiation(mac1_key: &[u8]) -> [u8; INITIATION] {
    let mut message = [0; INITIATION];
    rand::rng().fill_bytes(&mut message[4..MAC1_AT]);
    message[0] = 1;
    let mac1 = Blake2sMac::<U16>::new_from_slice(mac1_key).expect("BLAKE2s takes keys of 32 bytes");
    let mac1 = mac1.chain_update(&message[..MAC1_AT]).finalize().into_bytes();
    message[MAC1_AT..MAC2_AT].copy_from_slice(&mac1);
    message
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes.ok()?.try_into().ok()
}
