//! What this process is permitted, by capability (capabilities(7)).

use std::fmt;
use std::io;

/// A capability that we need, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Routes, addresses, devices, XDP.
    NetAdmin = 12,
    /// AF_XDP sockets.
    NetRaw = 13,
    /// Packet memory beyond the limit of locked memory.
    IpcLock = 14,
    /// The verifier's leave to compare pointers in XDP programs.
    Perfmon = 38,
    /// Loading XDP programs and making their maps.
    Bpf = 39,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        })
    }
}

/// A set of capabilities, as the kernel's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those that this process can use now.
    ///
    /// # Errors
    /// /proc is not mounted, or not the kernel's.
    pub fn effective() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        Self::parse(&status).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no CapEff"))
    }

    /// Whether `capability` may be used.
    pub fn has(self, capability: Capability) -> bool {
        // BPF and performance monitoring were split off CAP_SYS_ADMIN, which still permits both.
        const SYS_ADMIN: u64 = 1 << 21;
        let implied = matches!(capability, Capability::Bpf | Capability::Perfmon);
        self.0 & 1 << capability as u8 != 0 || implied && self.0 & SYS_ADMIN != 0
    }

    /// Reads the text of /proc/PID/status.
    fn parse(status: &str) -> Option<Self> {
        let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(bits.trim(), 16).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bits: &str) -> Capabilities {
        let status = format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{bits}\nCapBnd:\t0\n");
        Capabilities::parse(&status).expect("well-formed")
    }

    #[test]
    fn the_effective_set_is_read() {
        use Capability::{Bpf, IpcLock, NetAdmin, NetRaw, Perfmon};
        let has = |bits| [NetAdmin, NetRaw, IpcLock, Perfmon, Bpf].map(|c| parse(bits).has(c));
        assert_eq!(has("000001ffffffffff"), [true; 5]);
        assert_eq!(has("0000000000000000"), [false; 5]);
        assert_eq!(has("0000000000003000"), [true, true, false, false, false]);
        assert_eq!(has("000000c000000000"), [false, false, false, true, true]);
        assert_eq!(has("0000000000200000"), [false, false, false, true, true], "CAP_SYS_ADMIN");
    }

    #[test]
    fn what_is_no_status_is_refused() {
        assert_eq!(Capabilities::parse("Name:\tx\n"), None);
        assert_eq!(Capabilities::parse("CapEff:\tnone\n"), None);
    }
}
