//! A gateway's turns with a peer: what the lanes know when a message leaves, and what the settings reach.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::gateway::Gateway;
use super::gateway_tests::{gateway, gateway_with, rng, settle, tunnel};
use super::turn::PUBLISHED_WITHIN;
use crate::clock::{self, Boottime};
use crate::config::{Settings, TunnelConfig, TunnelSettings};
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::kernel::Address;
use crate::pipeline::Control as _;
use crate::wireguard::{PeerConfig, PrivateKey, Tunnel};

const PEER: PeerId = PeerId(0);
const TUNNEL: TunnelId = TunnelId(0);
const PATIENCE: Duration = Duration::from_secs(10);

/// The other end: it has a socket on loopback.
struct Far {
    tunnel: Tunnel,
    socket: UdpSocket,
    handshakes: u32,
}

impl Far {
    /// And the configuration of a gateway that knows it.
    async fn new() -> (Self, TunnelConfig) {
        let mut config = tunnel("wg0", &["AllowedIPs = 10.1.0.0/16"]);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let key = PrivateKey([7; 32]);
        config.peers[0].public_key = key.public();
        config.peers[0].endpoint = Some(socket.local_addr().unwrap());
        let now = clock::boottime();
        let mut tunnel = Tunnel::new(TUNNEL, &key, Arc::default(), now, &mut rng());
        let gateway = PeerConfig {
            id: PEER,
            public_key: config.private_key.public(),
            preshared_key: [0; 32],
            endpoint: Some(([127, 0, 0, 1], 1).into()),
            persistent_keepalive: None,
        };
        assert!(tunnel.add_peer(&gateway, now));
        (Self { tunnel, socket, handshakes: 0 }, config)
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Its next initiation reaches the gateway from that source.
    fn initiates(&mut self, gateway: &Gateway, source: SocketAddr) {
        self.handshakes += 1;
        let later = Duration::from_secs(10) * self.handshakes;
        let wall = clock::Wall(clock::wall().0 + later);
        self.tunnel.want_session(PEER, clock::boottime() + later, wall, &mut rng());
        let message = self.tunnel.poll_transmit().expect("an initiation").payload;
        assert!(gateway.handle.handshake(TUNNEL, source, &message).is_ok());
    }

    /// What the gateway sends it, and when it comes.
    async fn hears(&self) -> (Vec<u8>, Boottime) {
        let mut message = vec![0; 2048];
        let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut message)).await;
        let length = received.expect("nothing came").unwrap();
        message.truncate(length);
        (message, clock::boottime())
    }
}

/// The sender's index of a handshake message.
fn index(message: &[u8]) -> u32 {
    u32::from_le_bytes(message[4..8].try_into().unwrap())
}

/// Whoever hears of an index may use it at once. A lane that does not take its snapshot is waited for, but not for ever.
#[tokio::test]
async fn a_message_leaves_when_every_lane_may_know_its_index() {
    let (mut far, config) = Far::new().await;
    let (mut gateway, mut lanes) = gateway(vec![config]);
    gateway.turn(&mut rng()).await;
    settle(&mut lanes);
    far.initiates(&gateway, far.address());
    let begun = clock::boottime();
    let ((), (response, heard)) = tokio::join!(async { gateway.turn(&mut rng()).await }, far.hears());
    let waited = heard.since(begun);
    assert!(waited >= PUBLISHED_WITHIN, "it was sent after {waited:?}");
    for lane in &mut lanes {
        assert!(lane.current().sessions.contains_key(&index(&response)));
    }
}

/// Section 6.3: here because their peer is gone.
#[tokio::test]
async fn keys_are_wiped_when_no_lane_has_them_any_more() {
    let (mut far, config) = Far::new().await;
    let nobody = TunnelConfig { peers: vec![], ..config.clone() };
    let (mut gateway, mut lanes) = gateway(vec![config]);
    far.initiates(&gateway, far.address());
    gateway.turn(&mut rng()).await;
    settle(&mut lanes);
    let session = gateway.paths[PEER.index()].slots.next.as_ref().map(Arc::downgrade).expect("a session");
    gateway.reconfigure(vec![nobody], &mut rng()).await.expect("a change");
    assert!(session.upgrade().is_some(), "a lane may be using it");
    settle(&mut lanes);
    gateway.turn(&mut rng()).await;
    assert!(session.upgrade().is_none());
}

/// Lanes are told at once, and by snapshots.
#[tokio::test]
async fn sessions_that_are_ended_leave_the_snapshots() {
    let (mut far, config) = Far::new().await;
    let (mut gateway, mut lanes) = gateway(vec![config]);
    far.initiates(&gateway, far.address());
    gateway.turn(&mut rng()).await;
    let (response, _) = far.hears().await;
    settle(&mut lanes);
    let session = Arc::clone(&lanes[0].current().sessions[&index(&response)]);
    assert!(session.sendable(clock::boottime()));
    gateway.end_sessions(&mut rng());
    assert!(!session.sendable(clock::boottime()));
    gateway.turn(&mut rng()).await;
    assert!(lanes.iter_mut().all(|lane| lane.current().sessions.is_empty()));
}

/// `[tunnel.wg0]` of forwarder.toml, as it is at the start and after a change.
#[tokio::test]
async fn settings_reach_the_protocol_and_the_lanes() {
    let settings = |roaming, copy_dscp| Settings {
        tunnels: [("wg0".to_owned(), TunnelSettings { roaming, copy_dscp })].into(),
        ..Settings::default()
    };
    let (mut far, config) = Far::new().await;
    let (mut gateway, mut lanes) = gateway_with(settings(false, true), vec![config.clone()]);
    for (host, (roaming, copy_dscp)) in (1..).zip([(false, true), (true, false), (false, true)]) {
        gateway
            .reconfigure_with(settings(roaming, copy_dscp), vec![config.clone()], &mut rng())
            .await
            .unwrap();
        let source = SocketAddr::from(([192, 0, 2, host], 1));
        assert_eq!(follows(&mut gateway, &mut far, source).await, roaming, "{source}");
        assert!(lanes.iter_mut().all(|lane| lane.current().tunnels[0].copy_dscp == copy_dscp));
    }
}

/// The kernel's addresses, and the last one of a subnet: nobody is to be sent there.
#[tokio::test]
async fn no_peer_roams_to_an_address_of_ours() {
    let (mut far, config) = Far::new().await;
    let (mut gateway, _lanes) = gateway(vec![config]);
    let ours = Address { interface: InterfaceId(1), address: "192.0.2.1/24".parse().unwrap() };
    gateway.view.addresses = vec![ours];
    gateway.view_due = clock::boottime();
    gateway.turn(&mut rng()).await;
    for (host, follows_there) in [(1, false), (255, false), (2, true)] {
        let source = SocketAddr::from(([192, 0, 2, host], 1));
        assert_eq!(follows(&mut gateway, &mut far, source).await, follows_there, "{source}");
    }
}

/// Whether the gateway sends to where an initiation of the peer came from.
async fn follows(gateway: &mut Gateway, far: &mut Far, source: SocketAddr) -> bool {
    // Initiations that come faster are refused.
    tokio::time::sleep(Duration::from_millis(25)).await;
    let next = |gateway: &Gateway| gateway.paths[PEER.index()].slots.next.as_ref().map(|s| s.local_index);
    let before = next(gateway);
    far.initiates(gateway, source);
    gateway.turn(&mut rng()).await;
    assert_ne!(next(gateway), before, "the initiation was refused");
    gateway.status(PEER).unwrap().endpoint == Some(source)
}
