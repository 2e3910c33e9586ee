//! A gateway without ports and TUN: its configuration changes, and nobody may be sent another one's packets.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::gateway::{Gateway, Plan};
use super::handle::Handle;
use super::{plan, snapshots};
use crate::clock;
use crate::config::{Settings, TunnelConfig, wg_quick};
use crate::drops::Drop;
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::kernel::netlink::{Changed, Kernel};
use crate::kernel::{Address, Route, TABLE_MAIN, View};
use crate::pipeline::snapshot;
use crate::pipeline::{Control as _, Snapshot};
use crate::port::udp::UdpSockets;
use crate::publish::{Publisher, Subscriber};
use crate::topology::Topology;

/// No device has this number: nothing of the machine is changed.
const TUN: InterfaceId = InterfaceId(0x7fff_fff0);
const KEYS: [&str; 2] =
    ["xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="];

/// A tunnel without a listen port of its own, and its peers' further lines.
pub(super) fn tunnel(name: &str, peers: &[&str]) -> TunnelConfig {
    let mut text = "[Interface]\nPrivateKey = 6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=\n".to_owned();
    let sections = peers.iter().zip(KEYS).map(|(lines, key)| format!("[Peer]\nPublicKey = {key}\n{lines}\n"));
    text.extend(sections);
    wg_quick::parse(name, Path::new("wg.conf"), text.as_bytes()).expect("a configuration")
}

/// A gateway and its two lanes, one worker's and the slow path's. The kernel routes 10.0.0.0/8 to the TUN; its
/// tables are not read again.
pub(super) fn gateway(configs: Vec<TunnelConfig>) -> (Gateway, [Subscriber; 2]) {
    gateway_with(Settings::default(), configs)
}

pub(super) fn gateway_with(settings: Settings, configs: Vec<TunnelConfig>) -> (Gateway, [Subscriber; 2]) {
    let routes = vec![Route::through("10.0.0.0/8".parse().unwrap(), TUN, 0, TABLE_MAIN)];
    let view = View { routes, ..View::default() };
    let machine = Topology { cores: vec![0], ..Topology::default() };
    let topology = machine.with_tunnels(&[], &configs, &settings, &view).expect("a topology");
    let sockets = Arc::new(UdpSockets::open(&plan::sockets(&configs)).expect("sockets"));
    let plan = Plan {
        tunnels: snapshots::tunnels(&topology, &configs, |tunnel| sockets.port(tunnel).unwrap_or(0)),
        topology,
        configs,
        settings,
        tun: TUN,
        shared: Arc::default(),
    };
    let places = plan.topology.tunnels.iter().zip(&plan.configs);
    let tunnels =
        places.map(|(p, config)| (p.id, plan::tunnel(p, config, &plan.shared, &mut rng()))).collect();
    let mut publisher = Publisher::new();
    let lanes = [(); 2].map(|()| publisher.subscribe(&Arc::new(Snapshot::default())).expect("a lane"));
    let handle = Arc::new(Handle::default());
    let kernel = Kernel::connect().expect("netlink");
    let mut gateway = Gateway::new(plan, kernel, view, tunnels, vec![], sockets, handle, publisher);
    gateway.view_due = clock::boottime() + Duration::from_hours(1);
    (gateway, lanes)
}

pub(super) fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

/// Has both lanes take their snapshots, so that nobody waits for them.
pub(super) fn settle(lanes: &mut [Subscriber; 2]) {
    for lane in lanes {
        lane.current();
    }
}

/// The peers to whom a lane would seal a packet for `destination`.
fn receivers(lane: &mut Subscriber, destination: &str) -> Vec<PeerId> {
    let snapshot = lane.current();
    let Some(snapshot::Route::Tunnel(group)) = snapshot.routes.lookup(destination.parse().unwrap()) else {
        return vec![];
    };
    let mut peers = snapshot.groups[group.index()].buckets.to_vec();
    peers.sort_unstable();
    peers.dedup();
    peers
}

/// Groups are numbered by their first prefix, so a prefix that moves may swap two of them.
#[tokio::test]
async fn new_groups_come_with_their_routes_even_when_the_tables_cannot_be_read() {
    let before = ["AllowedIPs = 10.1.0.0/16, 10.3.0.0/16", "AllowedIPs = 10.2.0.0/16"];
    let (mut gateway, mut lanes) = gateway(vec![tunnel("wg0", &before)]);
    gateway.take_routes();
    gateway.turn(&mut rng()).await;
    settle(&mut lanes);
    let [anna, bert] = [0, 1].map(|section| gateway.plan.topology.tunnels[0].peers[section]);
    for lane in &mut lanes {
        assert_eq!((receivers(lane, "10.1.0.9"), receivers(lane, "10.2.0.9")), (vec![anna], vec![bert]));
    }

    let after = ["AllowedIPs = 10.3.0.0/16", "AllowedIPs = 10.1.0.0/16, 10.2.0.0/16"];
    gateway.reconfigure(vec![tunnel("wg0", &after)], &mut rng()).await.expect("a change");
    for lane in &mut lanes {
        for (destination, peer) in [("10.1.0.9", bert), ("10.2.0.9", bert), ("10.3.0.9", anna)] {
            assert_eq!(receivers(lane, destination), [peer], "{destination}");
        }
    }
}

/// What was read of the tables before the failure is not told as news a second time.
#[tokio::test]
async fn a_failure_forgets_no_news() {
    let (mut gateway, _lanes) = gateway(vec![tunnel("wg0", &[])]);
    let dead = thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Kernel::connect().unwrap() })
    });
    gateway.kernel = dead.join().unwrap();
    gateway.view_due = clock::boottime();
    (gateway.stale.maps, gateway.stale.paths, gateway.stale.snapshots) = (false, false, false);
    gateway.note(Changed::LINKS);
    gateway.refresh_view().await;
    let stale = &gateway.stale;
    assert_eq!(stale.view, Changed::LINKS);
    assert!(stale.maps && stale.paths && stale.snapshots, "{stale:?}");
}

/// The operator's word counts at once, not when the peer has been silent for long.
#[tokio::test]
async fn another_name_is_looked_up_at_once() {
    let (mut gateway, mut lanes) = gateway(vec![tunnel("wg0", &["Endpoint = 127.0.0.1:1"])]);
    let named = |name| tunnel(name, &["Endpoint = localhost:9"]);
    gateway.reconfigure(vec![named("wg0")], &mut rng()).await.expect("a change");
    found(&mut gateway, &mut lanes).await;
    // Nor is the pause between two lookups for who is new.
    let mut both = [gateway.configs(), &[named("wg1")]].concat();
    both[1].private_key = crate::wireguard::PrivateKey([7; 32]);
    gateway.reconfigure(both, &mut rng()).await.expect("a change");
    found(&mut gateway, &mut lanes).await;
}

/// Takes turns until the endpoints of all peers have port 9.
async fn found(gateway: &mut Gateway, lanes: &mut [Subscriber; 2]) {
    let endpoints = |gateway: &Gateway| -> Vec<_> {
        gateway.peers().map(|peer| gateway.status(peer).and_then(|status| status.endpoint)).collect()
    };
    for _ in 0..100 {
        gateway.turn(&mut rng()).await;
        settle(lanes);
        if endpoints(gateway).iter().all(|endpoint| endpoint.is_some_and(|endpoint| endpoint.port() == 9)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still {:?}", endpoints(gateway));
}

/// Whoever reads a new socket finds its tunnel's door open: the peer repeats its initiation only after 5 s.
#[tokio::test]
async fn a_new_tunnels_door_is_open_when_its_socket_is_read() {
    // The keys of many tunnels take a while, and that is when the slow path may look.
    let tunnels: Vec<TunnelConfig> = (0..64)
        .map(|i| {
            let private_key = crate::wireguard::PrivateKey([i + 1; 32]);
            TunnelConfig { private_key, ..tunnel(&format!("wg{i}"), &["", ""]) }
        })
        .collect();
    let (mut gateway, _lanes) = gateway(tunnels[..1].to_vec());
    let (sockets, handle) = (Arc::clone(&gateway.sockets), Arc::clone(&gateway.handle));
    let slow_path = thread::spawn(move || {
        while sockets.port(TunnelId(1)).is_none() {
            thread::yield_now();
        }
        handle.handshake(TunnelId(1), "192.0.2.1:1".parse().unwrap(), &[]).map_err(|refused| refused.reason)
    });
    gateway.reconfigure(tunnels, &mut rng()).await.expect("a change");
    assert_eq!(slow_path.join().unwrap(), Err(Drop::Malformed));
}

/// Ids have holes when a tunnel is gone, and nobody listens on port 0.
#[tokio::test]
async fn a_tunnel_that_is_gone_leaves_no_listener() {
    let (mut gateway, _lanes) = gateway(vec![tunnel("wg0", &[]), tunnel("wg1", &[])]);
    gateway.view.addresses = vec![Address { interface: TUN, address: "10.0.0.1/24".parse().unwrap() }];
    gateway.reconfigure(vec![tunnel("wg1", &[])], &mut rng()).await.expect("a change");
    let ports: Vec<u16> = gateway.listeners().iter().map(|at| u16::from_be(at.port_be)).collect();
    assert_eq!(ports, [gateway.sockets.port(gateway.plan.topology.tunnels[0].id).unwrap()]);
}

/// A message names the peer, and claims nothing of other tunnels where there are none.
#[tokio::test]
async fn a_silent_peer_is_named() {
    let named = "# friendly_name = berlin\nAllowedIPs = 10.1.0.0/16";
    let (mut gateway, _lanes) = gateway(vec![tunnel("wg0", &[named, "AllowedIPs = 10.2.0.0/16"]), {
        TunnelConfig {
            private_key: crate::wireguard::PrivateKey([7; 32]),
            ..tunnel("wg1", &["AllowedIPs = 10.1.0.0/16"])
        }
    }]);
    let [berlin, other] = [0, 1].map(|section| gateway.plan.topology.tunnels[0].peers[section]);
    let advice = "answers no handshake: check its Endpoint, the keys, and UDP in between";
    assert_eq!(gateway.silence(berlin), format!("wg0/berlin {advice}"));
    assert_eq!(gateway.silence(other), format!("wg0/TrMvSoP4... {advice}"));
    let sibling = gateway.plan.topology.tunnels[1].peers[0];
    gateway.healthy[sibling.index()] = true;
    assert_eq!(gateway.silence(berlin), format!("wg0/berlin {advice}; its flows go by other tunnels"));
}
