//! The MAC addresses of hosts on our links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::snapshot::Map;
use crate::id::InterfaceId;

/// A MAC address.
pub type Mac = [u8; 6];

/// MAC addresses by interface and IP address, a map for each family: the keys are short and quickly hashed.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    v4: Map<u64, Mac>,
    v6: Map<(u128, InterfaceId), Mac>,
}

impl Neighbours {
    /// The MAC address of the host with that address on the link of `interface`; `None` while it is not known.
    #[inline]
    pub fn get(&self, interface: InterfaceId, address: IpAddr) -> Option<&Mac> {
        match address {
            IpAddr::V4(address) => self.v4.get(&key(interface, address)),
            IpAddr::V6(address) => self.v6.get(&(Ipv6Addr::to_bits(address), interface)),
        }
    }
}

/// Of equal hosts the last one counts.
impl FromIterator<(InterfaceId, IpAddr, Mac)> for Neighbours {
    fn from_iter<I: IntoIterator<Item = (InterfaceId, IpAddr, Mac)>>(hosts: I) -> Self {
        let mut neighbours = Self::default();
        for (interface, address, mac) in hosts {
            match address {
                IpAddr::V4(address) => neighbours.v4.insert(key(interface, address), mac),
                IpAddr::V6(address) => neighbours.v6.insert((address.to_bits(), interface), mac),
            };
        }
        neighbours
    }
}

#[inline]
fn key(interface: InterfaceId, address: Ipv4Addr) -> u64 {
    u64::from(interface.0) << 32 | u64::from(address.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same address may stand on two links, and both families on one.
    #[test]
    fn a_host_is_an_address_on_a_link() {
        let [v4, v6] = ["10.0.0.1", "fe80::1"].map(|address| address.parse().unwrap());
        let [one, two, three] = [1, 2, 3].map(InterfaceId);
        let hosts = [(one, v4, [1; 6]), (two, v4, [2; 6]), (one, v6, [3; 6]), (two, v6, [4; 6])];
        let neighbours: Neighbours = hosts.into_iter().collect();
        for (interface, address, mac) in hosts {
            assert_eq!(neighbours.get(interface, address), Some(&mac));
        }
        assert_eq!((neighbours.get(three, v4), neighbours.get(three, v6)), (None, None));
        assert_eq!(neighbours.get(one, "10.0.0.2".parse().unwrap()), None);
    }
}
