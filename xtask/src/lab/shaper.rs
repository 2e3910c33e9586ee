//! Slaves with the rate of a real cable, and what they can carry at most.
//!
//! `AF_XDP` sends past the queueing discipline of its own device, so the shaper stands behind the slave, at the
//! switch's port to the other gateway.

use anyhow::{Context as _, Result};

use super::{Lab, switch_port};

/// Bytes that a frame takes on the wire besides those that the kernel counts: FCS, preamble and gap.
const WIRE: u32 = 4 + 8 + 12;
/// Longest time that a frame waits in a shaper, in milliseconds.
const LONGEST_WAIT: u32 = 20;
/// Bytes that a shaper lets through at once: the kernel's timers are not as fine as a wire.
const BURST: u32 = 32 * 1024;

/// Inner IP length of the largest packet in bytes: the tunnel's MTU, to which padding is clamped.
const MTU: u32 = 1420;
/// Bytes that a WireGuard message over IPv4 and Ethernet adds: 14 + 20 + 8 + 32.
const OUTER: u32 = 74;
/// IPv4 and TCP headers without options, in bytes.
const HEADERS: u32 = 40;

impl Lab {
    /// Limits each slave to `mbit` Mbit/s each way, counted as on a wire of Ethernet. The lab needs a switch.
    ///
    /// # Errors
    /// It has none, or the kernel lacks `tbf`.
    pub fn shape(&self, mbit: u32) -> Result<()> {
        let switch = self.switch.as_ref().context("a lab without a switch has no place for a shaper")?;
        for site in self.sites() {
            // The shaper adds a frame's own bytes once per buffer, so buffers must not hold more than a frame.
            for slave in site.slaves(self.options) {
                site.gateway.ip(&format!("link set {slave} gso_max_segs 1"))?;
            }
            for index in 0..self.options.ports {
                let port = switch_port(site.side, index);
                switch.run(&format!(
                    "tc qdisc add dev {port} root stab overhead {WIRE} linklayer ethernet \
                     tbf rate {mbit}mbit burst {BURST} latency {LONGEST_WAIT}ms"
                ))?;
            }
        }
        Ok(())
    }
}

/// Mbit/s of TCP payload that tunnels over one cable of `mbit` Mbit/s can carry, without TCP timestamps.
pub fn payload_ceiling(mbit: u32) -> f64 {
    f64::from(mbit) * f64::from(MTU - HEADERS) / f64::from(MTU + OUTER + WIRE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigabit_carries_909_megabits_of_payload() {
        assert!((payload_ceiling(1000) - 909.0).abs() < 0.5, "{}", payload_ceiling(1000));
    }
}
