use std::time::Duration;

use super::super::apply::tests::tunnel;
use super::super::{Parser, Request, apply};
use super::*;
use crate::clock::{Boottime, Wall};
use crate::wireguard::PublicKey;

fn status(endpoint: &str) -> PeerStatus {
    PeerStatus {
        endpoint: Some(endpoint.parse().unwrap()),
        last_handshake: Some((Boottime::default(), Wall(Duration::new(1_700_000_000, 42)))),
        rx_packets: 1,
        rx_bytes: 2224,
        tx_packets: 2,
        tx_bytes: 38333,
        silent_since: None,
    }
}

fn peer(byte: u8, prefixes: &[&str]) -> PeerSection {
    PeerSection {
        line: 0,
        friendly_name: Some("not for wg".to_owned()),
        public_key: PublicKey([byte; 32]),
        preshared_key: Zeroizing::new([byte + 1; 32]),
        allowed_ips: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        endpoint: Some("192.0.2.1:1".parse().unwrap()),
        endpoint_name: None,
        persistent_keepalive: Some(Duration::from_secs(111)),
    }
}

fn of(config: &TunnelConfig, peers: Vec<Option<PeerStatus>>) -> Zeroizing<String> {
    describe(&Device { config, listen_port: 40000, fwmark: 51820, peers })
}

/// The configuration and the present state, as the protocol's page has it.
#[test]
fn a_tunnel_is_described() {
    let mut config = tunnel([0xff; 32]);
    config.peers = vec![peer(0x10, &["10.0.0.0/8", "fd00::/64"]), peer(0x20, &[])];
    config.peers[1].persistent_keepalive = None;
    let expected = [
        // Clamped, as the kernel does.
        format!("private_key=f8{}7f", "ff".repeat(30)),
        "listen_port=40000\nfwmark=51820".to_owned(),
        format!("public_key={}\npreshared_key={}", "10".repeat(32), "11".repeat(32)),
        "protocol_version=1\nendpoint=[2001:db8::1]:5".to_owned(),
        "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=42".to_owned(),
        "tx_bytes=38333\nrx_bytes=2224\npersistent_keepalive_interval=111".to_owned(),
        "allowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64".to_owned(),
        format!("public_key={}\npreshared_key={}", "20".repeat(32), "21".repeat(32)),
        "protocol_version=1\nendpoint=192.0.2.1:1".to_owned(),
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0".to_owned(),
        "tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n".to_owned(),
    ];
    assert_eq!(*of(&config, vec![Some(status("[2001:db8::1]:5")), None]), expected.join("\n"));
}

#[test]
fn without_a_private_key_there_is_no_line_of_it() {
    assert_eq!(*of(&tunnel([0; 32]), Vec::new()), "listen_port=40000\nfwmark=51820\n");
}

/// What we say is what we would have to be told; a long text loses nothing when it grows.
#[test]
fn a_description_makes_the_same_tunnel() {
    let mut config = tunnel([0x48; 32]);
    config.peers = (1..200).map(|byte| peer(byte, &[&format!("10.{byte}.0.0/16")])).collect();
    let text = of(&config, vec![None; config.peers.len()]);
    let news = ["last_handshake", "tx_bytes", "rx_bytes"];
    let told: Vec<_> = text.lines().filter(|line| !news.iter().any(|key| line.starts_with(key))).collect();
    let request = format!("set=1\n{}\n\n", told.join("\n"));
    let Some(Ok(Request::Set(set))) = Parser::default().read(&mut request.as_bytes()) else {
        panic!("a set")
    };

    let mut copy = tunnel([0; 32]);
    apply(&set, &mut copy);
    assert_eq!(of(&copy, vec![None; config.peers.len()]), text);
}
