//! A third party at the far gateway's address, which knows all public keys.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use forwarder::clock;
use forwarder::config::key;
use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::{PeerConfig, PrivateKey, PublicKey, Shared, Tunnel};
use tests::lab::{run_inside, start};
use xtask::lab::address::listen_port;
use xtask::lab::{Lab, Options, Site};

const PEER: PeerId = PeerId(0);

/// A handshake with the far gateway's key succeeds, and with any other nothing comes back.
pub fn knocks() -> Result<()> {
    let lab = Lab::build(Options { ports: 1, ..Options::default() })?;
    lab.offload(false)?;
    let mut gateway = start(&lab, &lab.a, &[])?;
    gateway.wait_ready(Duration::from_secs(15))?;

    let far = SocketAddr::new(lab.b.endpoint(lab.options, 0), listen_port(0));
    let near = SocketAddr::new(lab.a.endpoint(lab.options, 0), listen_port(0));
    let socket = run_inside(&lab.b.gateway, || Ok(UdpSocket::bind(far)?))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let public = PublicKey(*key::decode(lab.a.public_key())?);

    let stranger = key::generate_private(&mut rand::rng());
    ensure!(!handshake(&socket, near, &stranger, public)?, "a stranger's key got a session");
    let own = private_key(&lab.b)?;
    ensure!(handshake(&socket, near, &own, public)?, "the right key got none: this proves nothing");
    ensure!(!handshake(&socket, near, &stranger, public)?, "a stranger's key got a session beside another");

    ensure!(gateway.daemon.stop()?.success(), "it failed: {}", gateway.daemon.output()?);
    Ok(())
}

fn private_key(site: &Site) -> Result<PrivateKey> {
    let file = std::fs::read_to_string(site.tunnels.join("wg0.conf"))?;
    let line = file.lines().find_map(|line| line.strip_prefix("PrivateKey = "));
    Ok(PrivateKey(*key::decode(line.context("no private key in wg0.conf")?)?))
}

/// Whether an initiation with this key yields a session within a second.
fn handshake(socket: &UdpSocket, to: SocketAddr, private: &PrivateKey, public: PublicKey) -> Result<bool> {
    let rng = &mut rand::rng();
    let now = clock::boottime();
    let mut tunnel = Tunnel::new(TunnelId(0), private, Arc::<Shared>::default(), now, rng);
    let config = PeerConfig {
        id: PEER,
        public_key: public,
        preshared_key: [0; 32],
        endpoint: Some(to),
        persistent_keepalive: None,
    };
    ensure!(tunnel.add_peer(&config, now), "the gateway's key is unusable");
    tunnel.want_session(PEER, now, clock::wall(), rng);
    let initiation = tunnel.poll_transmit().context("no initiation")?;
    socket.send_to(&initiation.payload, to)?;

    let mut buffer = [0; 2048];
    for _ in 0..5 {
        // The gateway greets, too: only what answers the initiation makes a session.
        let Ok((len, source)) = socket.recv_from(&mut buffer) else { continue };
        let _ = tunnel.receive(clock::boottime(), clock::wall(), rng, source, &buffer[..len], false);
        if tunnel.slots(PEER).current.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
