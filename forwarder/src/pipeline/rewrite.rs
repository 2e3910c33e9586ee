//! Changes to an IP header on its way through, with IPv4's header checksum kept right.

use super::checksum;
use super::parse::IPV4_LEN;

/// Takes one off the TTL or hop limit, which must not be 0. `packet` starts with an IP header.
pub fn decrement_ttl(packet: &mut [u8]) {
    if let Some(header) = packet.first_chunk_mut::<IPV4_LEN>()
        && header[0] >> 4 == 4
    {
        header[8] = header[8].wrapping_sub(1);
        // The word with the TTL lost 0x0100, so the checksum gains it; 0xffff becomes 0 (RFC 1624, section 3).
        let sum = u32::from(u16::from_be_bytes([header[10], header[11]])) + 0x0100;
        let sum = (sum + u32::from(sum >= 0xffff)) as u16;
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[7] = packet[7].wrapping_sub(1);
    }
}

/// Sets the DS byte. `packet` starts with an IP header.
pub fn set_ds(packet: &mut [u8], ds: u8) {
    if packet[0] >> 4 == 4 {
        replace_word(packet, 0, |word| word & 0xff00 | u16::from(ds));
    } else {
        packet[0] = packet[0] & 0xf0 | ds >> 4;
        packet[1] = packet[1] & 0x0f | ds << 4;
    }
}

/// Changes the 16-bit word at `at` of an IPv4 header.
fn replace_word(header: &mut [u8], at: usize, change: impl Fn(u16) -> u16) {
    let old = u16::from_be_bytes([header[at], header[at + 1]]);
    let new = change(old);
    let checksum = u16::from_be_bytes([header[10], header[11]]);
    header[at..at + 2].copy_from_slice(&new.to_be_bytes());
    header[10..12].copy_from_slice(&checksum::replace(checksum, old, new).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::checksum::Sum;
    use crate::pipeline::parse;

    /// Every TTL with every pair of ECN bits and another DSCP, checked against a full recomputation.
    #[test]
    fn ipv4_checksums_stay_right() {
        for ttl in 1..=255 {
            for (before, after) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
                let mut packet =
                    [0x45, 0xb8 | before, 0, 20, 0x12, 0x34, 0, 0, ttl, 17, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6];
                let sum = Sum::default().bytes(&packet).checksum();
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                decrement_ttl(&mut packet);
                set_ds(&mut packet, 0x28 | after);
                let ip = parse::ip(&packet).expect("a right checksum");
                assert_eq!((ip.ttl, ip.ds), (ttl - 1, 0x28 | after));
            }
        }
    }

    /// What comes out is what a computation from the start gives, bit by bit: of the two zeros of one's complement
    /// the right one (RFC 1624, section 3).
    #[test]
    fn every_checksum_is_as_computed() {
        let computed = |packet: &[u8; 20]| {
            let mut blank = *packet;
            blank[10..12].fill(0);
            Sum::default().bytes(&blank).checksum().to_be_bytes()
        };
        for id in 0..=u16::MAX {
            let [high, low] = id.to_be_bytes();
            let mut packet = [0x45, 0, 0, 20, high, low, 0, 0, 64, 17, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6];
            let checksum = computed(&packet);
            packet[10..12].copy_from_slice(&checksum);
            decrement_ttl(&mut packet);
            assert_eq!(packet[10..12], computed(&packet), "after TTL, id {id}");
            set_ds(&mut packet, 0xb8);
            assert_eq!(packet[10..12], computed(&packet), "after DS, id {id}");
        }
    }

    #[test]
    fn ipv6_fields() {
        let mut packet = [0; 40];
        packet[0] = 0x6b;
        packet[1] = 0x9f;
        packet[7] = 2;
        decrement_ttl(&mut packet);
        set_ds(&mut packet, 0x2b);
        assert_eq!((packet[0], packet[1], packet[7]), (0x62, 0xbf, 1));
    }
}
