//! Addresses that no forwarded packet may carry (RFC 1812, section 5.3.7; RFC 4291).

use std::net::{IpAddr, Ipv6Addr};

/// Whether no packet may come from `address`: "this network", loopback, multicast, reserved.
pub fn source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => matches!(a.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(a) => a.is_multicast() || never_on_a_link(a),
    }
}

/// Whether no packet may go to `address`. Multicast may: routing protocols speak it through tunnels.
pub fn destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => matches!(a.octets()[0], 0 | 127),
        IpAddr::V6(a) => never_on_a_link(a),
    }
}

/// `::`, `::1` and the IPv4-mapped addresses.
fn never_on_a_link(a: Ipv6Addr) -> bool {
    a.is_unspecified() || a.is_loopback() || a.to_ipv4_mapped().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        // address, martian as source, martian as destination
        for (address, from, to) in [
            ("0.1.2.3", true, true),
            ("127.0.0.1", true, true),
            ("224.0.0.5", true, false),
            ("240.0.0.1", true, false),
            ("255.255.255.255", true, false),
            ("10.0.0.1", false, false),
            ("223.255.255.255", false, false),
            ("::", true, true),
            ("::1", true, true),
            ("::ffff:10.0.0.1", true, true),
            ("ff02::5", true, false),
            ("2001:db8::1", false, false),
        ] {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!((source(parsed), destination(parsed)), (from, to), "{address}");
        }
    }
}
