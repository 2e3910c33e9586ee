//! The control socket's protocol: requests as `wg` writes them, and what they make of a configuration.

use std::collections::HashSet;

use nix::errno::Errno;

use crate::config::{Table, TunnelConfig};
use crate::uapi::{Device, Parser, Request, apply, describe};
use crate::wireguard::PrivateKey;

/// What `get=1` tells and `set=1` does not know.
const STATUS: [&str; 4] = ["last_handshake_time_sec", "last_handshake_time_nsec", "tx_bytes", "rx_bytes"];

/// Reads `data` as requests to one tunnel. It does not matter in what pieces they come; a configuration
/// stays one that is right; and what `get=1` answers makes the same configuration again.
pub fn uapi(data: &[u8]) {
    let mut tunnel = without_peers();
    let (mut parser, mut rest) = (Parser::default(), data);
    let mut outcomes = Vec::new();
    while let Some(request) = parser.read(&mut rest) {
        outcomes.push(outcome(&request));
        match request {
            Ok(Request::Set(set)) => {
                apply(&set, &mut tunnel);
                assert_is_right(&tunnel);
            }
            Err(Errno::EMSGSIZE) => return,
            Ok(Request::Get) | Err(_) => {}
        }
    }
    assert!(rest.is_empty());
    assert_eq!(outcomes, byte_by_byte(data));
    assert_describes_itself(&tunnel);
}

fn without_peers() -> TunnelConfig {
    TunnelConfig {
        name: "wg0".to_owned(),
        file: "wg0.conf".into(),
        private_key: PrivateKey([0x48; 32]),
        listen_port: 51820,
        listen_port_line: 3,
        fwmark: 0,
        addresses: Vec::new(),
        mtu: None,
        table: Table::Auto,
        peers: Vec::new(),
        ignored: Vec::new(),
    }
}

fn outcome(request: &Result<Request, Errno>) -> String {
    format!("{request:?}")
}

fn byte_by_byte(data: &[u8]) -> Vec<String> {
    let mut parser = Parser::default();
    data.iter().filter_map(|byte| parser.read(&mut std::slice::from_ref(byte))).map(|r| outcome(&r)).collect()
}

/// Every peer once and none of our own key, every prefix once and without host bits.
fn assert_is_right(tunnel: &TunnelConfig) {
    let keys: HashSet<_> = tunnel.peers.iter().map(|peer| peer.public_key).collect();
    assert_eq!(keys.len(), tunnel.peers.len());
    assert!(tunnel.private_key.0 == [0; 32] || !keys.contains(&tunnel.private_key.public()));
    let prefixes: Vec<_> = tunnel.peers.iter().flat_map(|peer| &peer.allowed_ips).collect();
    assert_eq!(prefixes.iter().collect::<HashSet<_>>().len(), prefixes.len());
    assert!(prefixes.iter().all(|prefix| **prefix == prefix.trunc()));
}

fn assert_describes_itself(tunnel: &TunnelConfig) {
    let text = described(tunnel);
    let lines = text.lines().filter(|line| !STATUS.iter().any(|status| line.starts_with(status)));
    let request = format!("set=1\n{}\n\n", lines.collect::<Vec<_>>().join("\n"));
    let request = Parser::default().read(&mut request.as_bytes());
    let Some(Ok(Request::Set(set))) = request else { panic!("{request:?} of {text}") };
    let mut again = without_peers();
    again.private_key = PrivateKey([0; 32]);
    apply(&set, &mut again);
    assert_eq!(described(&again), text);
}

fn described(tunnel: &TunnelConfig) -> String {
    let peers = tunnel.peers.iter().map(|_| None).collect();
    let device = Device { config: tunnel, listen_port: tunnel.listen_port, fwmark: tunnel.fwmark, peers };
    describe(&device).to_string()
}
