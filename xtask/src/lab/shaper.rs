//! Slaves with the rate of a real cable, and what they can carry at most.
//!
//! `AF_XDP` sends past the queueing discipline of its own device, so the shaper stands behind the slave, at the
//! switch's port to the other gateway.

use std::thread;

use anyhow::{Context as _, Result};

use super::{Lab, Netns, Side, switch_port};
use crate::command::Run as _;

/// Bytes that a frame takes on the wire besides those that the kernel counts: FCS, preamble and gap.
const WIRE: u32 = 4 + 8 + 12;
/// Longest time that a frame waits in a shaper, in milliseconds.
const LONGEST_WAIT: u32 = 20;
/// Bytes that a shaper lets through at once: the kernel's timers are not as fine as a wire.
const BURST: u32 = 32 * 1024;

/// Cores that a mask of the kernel's names without a comma.
const MASK_BITS: usize = 32;
/// Share of what the machine carries that shaped slaves have together. With a shaper the two cores of the machine
/// where this was measured were as busy at 0.4 of the rate: what leaves frame by frame costs more than bursts do.
const AFFORDABLE: f64 = 1.0 / 3.0;
/// Rates are multiples of this, in Mbit/s, and no higher than this.
const STEP: u32 = 10;
const FASTEST: u32 = 1000;

/// Inner IP length of the largest packet in bytes: the tunnel's MTU, to which padding is clamped.
const MTU: u32 = 1420;
/// Bytes that a WireGuard message over IPv4 and Ethernet adds: 14 + 20 + 8 + 32.
const OUTER: u32 = 74;
/// IPv4 and TCP headers without options, in bytes.
const HEADERS: u32 = 40;

impl Lab {
    /// Makes the slaves ready to be shaped: what is measured then is what they carry without a shaper.
    ///
    /// # Errors
    /// The lab has no switch, or the kernel refuses.
    pub fn make_shapeable(&self) -> Result<()> {
        let switch = self.shaper()?;
        // A switch takes nothing of a gateway's core. Without this, whoever sends does its work, too.
        let core = thread::available_parallelism()?.get().min(MASK_BITS) - 1;
        for site in self.sites() {
            // The shaper adds a frame's own bytes once per buffer, so buffers must not hold more than a frame.
            for slave in site.slaves(self.options) {
                site.gateway.ip(&format!("link set {slave} gso_max_segs 1"))?;
            }
            for index in 0..self.options.ports {
                let port = switch_port(site.side, index);
                let cores = format!("/sys/class/net/{port}/queues/rx-0/rps_cpus");
                switch.command("tee").arg(cores).feed(&format!("{:x}", 1_u64 << core))?;
            }
        }
        Ok(())
    }

    /// Limits each slave to `mbit` Mbit/s each way, counted as on a wire of Ethernet. They were made shapeable.
    ///
    /// # Errors
    /// The lab has no switch, or the kernel lacks `tbf`.
    pub fn shape(&self, mbit: u32) -> Result<()> {
        let switch = self.shaper()?;
        for side in [Side::A, Side::B] {
            for index in 0..self.options.ports {
                let port = switch_port(side, index);
                switch.run(&format!(
                    "tc qdisc add dev {port} root stab overhead {WIRE} linklayer ethernet \
                     tbf rate {mbit}mbit burst {BURST} latency {LONGEST_WAIT}ms"
                ))?;
            }
        }
        Ok(())
    }

    fn shaper(&self) -> Result<&Netns> {
        self.switch.as_ref().context("a lab without a switch has no place for a shaper")
    }
}

/// Mbit/s of each of `cables` that the machine can carry, and a gigabit at most. `carried` is what it carries over
/// all of them without a shaper: Mbit/s of TCP payload.
pub fn affordable(carried: f64, cables: u8) -> u32 {
    let each = AFFORDABLE * carried / f64::from(cables) / payload_ceiling(1);
    (1..=FASTEST / STEP).rev().map(|steps| steps * STEP).find(|mbit| f64::from(*mbit) <= each).unwrap_or(STEP)
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

    #[test]
    fn cables_have_a_share_of_what_the_machine_carries() {
        assert_eq!(affordable(1400.0, 3), 170);
        assert_eq!(affordable(1400.0, 1), 510);
        assert_eq!((affordable(1.0, 3), affordable(1e5, 3)), (10, 1000));
    }
}
