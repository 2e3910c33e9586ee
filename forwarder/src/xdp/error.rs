//! What can go wrong with an XDP program, in one line each: device, cause, fix.

use std::{error::Error, io};

use nix::errno::Errno;

use super::query::Attached;

/// An XDP program could not be loaded, attached or configured.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The process may not use BPF.
    #[error("{port}: no permission for XDP: run as root, or with CAP_BPF and CAP_NET_ADMIN")]
    Permission {
        /// The device.
        port: String,
    },
    /// Somebody else's program runs there.
    #[error(
        "{port}: another XDP program is attached ({found}): stop its owner, or run \
         `ip link set dev {port} {} off`", found.mode.ip_keyword()
    )]
    Occupied {
        /// The device.
        port: String,
        /// The other program.
        found: Attached,
    },
    /// A program on the bond keeps programs off its slaves.
    #[error(
        "{port}: its master {master} has an XDP program ({found}), so its slaves can have none: stop its \
         owner, or run `ip link set dev {master} {} off`", found.mode.ip_keyword()
    )]
    OnMaster {
        /// The device.
        port: String,
        /// Its bond.
        master: String,
        /// The program on the bond.
        found: Attached,
    },
    /// The driver does not run XDP programs, or not with the device's present settings (MTU, queues).
    #[error("{port}: its driver refuses native XDP ({cause}): use generic mode")]
    NativeUnsupported {
        /// The device.
        port: String,
        /// The kernel's answer.
        cause: Errno,
    },
    /// The verifier did not accept the program.
    #[error("{port}: the kernel refuses the XDP program ({reason}): Linux 6.1 or later is needed")]
    Rejected {
        /// The device.
        port: String,
        /// The verifier's last words.
        reason: String,
    },
    /// A map has no room.
    #[error("{port}: the XDP program's map {map} is full: configure fewer prefixes, addresses or VLANs")]
    Full {
        /// The device.
        port: String,
        /// The map.
        map: &'static str,
    },
    /// The device has more queues than the program has socket slots.
    #[error(
        "{port}: queue {queue} is beyond the {} supported: run `ethtool -L {port} combined {}`",
        forwarder_contract::MAX_QUEUES,
        forwarder_contract::MAX_QUEUES
    )]
    Queue {
        /// The device.
        port: String,
        /// RX queue.
        queue: u32,
    },
    /// The object in this executable lacks something.
    #[error("{port}: the built-in XDP object has no {missing}: rebuild it with `cargo xtask build-ebpf`")]
    Object {
        /// The device.
        port: String,
        /// Program or map.
        missing: &'static str,
    },
    /// Anything else that the kernel refused.
    #[error("{port}: {step} failed: {reason}")]
    Kernel {
        /// The device.
        port: String,
        /// What we tried.
        step: &'static str,
        /// The kernel's answer.
        reason: String,
    },
}

/// The kernel's error number at the root of a library's error.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    chain(error).find_map(|e| e.downcast_ref::<io::Error>()?.raw_os_error()).map(Errno::from_raw)
}

/// A library's error and its causes on one line.
pub(super) fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for text in chain(error).map(ToString::to_string) {
        // Many libraries repeat the cause in their own text.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ").replace('\n', " ")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |e: &&'a (dyn Error + 'static)| (*e).source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::query::AttachMode;

    #[test]
    fn sentences_name_device_cause_and_fix() {
        let found = Attached { id: 7, name: "filter".into(), mode: AttachMode::Generic };
        let error = XdpError::Occupied { port: "eth0".into(), found };
        assert_eq!(
            error.to_string(),
            "eth0: another XDP program is attached (id 7, filter, generic): stop its owner, or run \
             `ip link set dev eth0 xdpgeneric off`"
        );
    }

    #[test]
    fn the_error_number_is_found_below_other_errors() {
        let inner = io::Error::from_raw_os_error(Errno::EEXIST as i32);
        let outer = aya::maps::MapError::CreateError { name: "m".into(), io_error: inner };
        assert_eq!(errno(&outer), Some(Errno::EEXIST));
        assert_eq!(one_line(&outer), "failed to create map `m`: File exists (os error 17)");
    }
}
