//! What shall run: configuration, kernel state and NIC facts, and the topology computed from them.

use anyhow::{Context as _, anyhow};

use crate::config::{self, RunOptions, Settings, TunnelConfig, wg_quick};
use crate::kernel::netlink::Kernel;
use crate::kernel::{View, nic};
use crate::topology::{self, Inputs, NicFacts, Topology};
use crate::xdp::query;

/// The plan and what it was made from.
pub struct Planned {
    /// The plan.
    pub topology: Topology,
    /// The tunnels' files.
    pub configs: Vec<TunnelConfig>,
    /// forwarder.toml.
    pub settings: Settings,
    /// The kernel's state.
    pub view: View,
}

/// Reads everything and computes the topology. Changes nothing.
///
/// # Errors
/// Every mistake that was found, one a line.
pub async fn plan(options: &RunOptions, kernel: &Kernel) -> anyhow::Result<Planned> {
    let settings = Settings::load(options.settings.as_deref())?;
    let loaded = config::load(&options.configs, &wg_quick::resolve).map_err(|errors| lines(&errors))?;
    let view = kernel.view().await?;
    let ports = topology::port_devices(&options.interfaces, &view).map_err(|errors| lines(&errors))?;
    let mut nics = Vec::<NicFacts>::new();
    for port in ports {
        let link = view.link(port).context("a device vanished while it was looked at")?;
        let can = query::features(port.0)
            .with_context(|| format!("{}: cannot ask for its XDP features", link.name))?;
        nics.push(nic::facts(kernel, link, can.native, can.zero_copy).await?);
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let cores: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    let inputs = Inputs {
        interfaces: &options.interfaces,
        tunnels: &loaded.tunnels,
        settings: &settings,
        view: &view,
        nics: &nics,
        cores: &cores,
        workers: options.workers,
    };
    let mut topology = topology::compute(&inputs).map_err(|errors| lines(&errors))?;
    topology.remarks.extend(loaded.remarks);
    Ok(Planned { topology, configs: loaded.tunnels, settings, view })
}

/// All mistakes at once: an operator mends them in one go.
fn lines(errors: &[impl std::fmt::Display]) -> anyhow::Error {
    anyhow!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}
