//! The systems that the demo can run as gateways.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::report::Carried;
use crate::lab::gateway::Gateway;
use crate::lab::peer::{Implementation, Peer, Program};
use crate::lab::{Lab, Site, counters};
use crate::progress::Progress;
use crate::workspace;

/// Time for the first handshakes.
const HANDSHAKES: Duration = Duration::from_secs(15);

/// A system, not running.
#[derive(Clone, Debug)]
pub enum System {
    /// This project's gateway.
    Forwarder { program: PathBuf },
    /// wireguard-go with one tunnel: it has no way to use more.
    WireguardGo { program: Program },
}

impl System {
    /// The release build of `forwarder`.
    pub fn forwarder() -> Result<Self> {
        Ok(Self::Forwarder { program: workspace::program("release", "forwarder")? })
    }

    /// wireguard-go, fetched if need be.
    pub fn wireguard_go(progress: Progress) -> Result<Self> {
        Ok(Self::WireguardGo { program: Implementation::WireguardGo.install(progress)? })
    }

    /// Its name in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Forwarder { .. } => "forwarder",
            Self::WireguardGo { .. } => "wireguard-go",
        }
    }

    /// Starts it at both sites. Each system gets the offloads that suit it: see [`Lab::offload`].
    pub fn start(&self, lab: &Lab) -> Result<Running> {
        match self {
            Self::Forwarder { program } => {
                lab.offload(false)?;
                let start = |site: &Site| Gateway::start(program, site, lab.options, site.side.core(), &[]);
                let mut gateways = [start(&lab.a)?, start(&lab.b)?];
                for gateway in &mut gateways {
                    gateway.wait_tunnels(HANDSHAKES)?;
                }
                Ok(Running::Forwarder(gateways))
            }
            Self::WireguardGo { program } => {
                lab.offload(true)?;
                let start = |site| program.start(site, 0);
                Ok(Running::WireguardGo([start(&lab.a)?, start(&lab.b)?]))
            }
        }
    }
}

/// A system running at both sites, A first.
#[derive(Debug)]
pub enum Running {
    Forwarder([Gateway; 2]),
    WireguardGo([Peer; 2]),
}

impl Running {
    /// What site A's tunnels have carried so far.
    pub fn tunnels(&mut self, lab: &Lab) -> Result<Vec<Carried>> {
        match self {
            Self::Forwarder([a, _]) => {
                let bytes = |tunnel: crate::lab::gateway::Tunnel| Carried {
                    name: tunnel.name,
                    tx_bytes: tunnel.tx_bytes,
                    rx_bytes: tunnel.rx_bytes,
                };
                Ok(a.counters()?.tunnels.into_iter().map(bytes).collect())
            }
            Self::WireguardGo([a, _]) => {
                let link = counters::link(&lab.a.gateway, &a.interface)?;
                Ok(vec![Carried { name: "wg0".to_owned(), tx_bytes: link.tx_bytes, rx_bytes: link.rx_bytes }])
            }
        }
    }

    /// Packets that the gateways themselves dropped so far, by reason.
    pub fn drops(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut drops = BTreeMap::new();
        if let Self::Forwarder(gateways) = self {
            for gateway in gateways {
                for (reason, count) in gateway.counters()?.drops {
                    *drops.entry(reason).or_default() += count;
                }
            }
        }
        Ok(drops)
    }

    /// Leaves it running when this value goes.
    pub fn keep(&mut self) {
        match self {
            Self::Forwarder(gateways) => gateways.iter_mut().for_each(|gateway| gateway.daemon.keep()),
            Self::WireguardGo(gateways) => gateways.iter_mut().for_each(Peer::keep),
        }
    }
}
