//! The DS byte across the tunnel: ECN, its low two bits, by RFC 6040; DSCP, the other six, by RFC 2983.

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// The bits of ECN.
const ECN: u8 = 0b11;

/// The outer DS byte for a packet with this inner one: its ECN (RFC 6040, section 4.1, normal mode), and its
/// DSCP if that is copied (RFC 2983, uniform model), else none.
#[inline]
pub fn encapsulate(inner: u8, copy_dscp: bool) -> u8 {
    if copy_dscp { inner } else { inner & ECN }
}

/// The DS byte with which an opened packet goes on; `None` when it must be dropped (RFC 6040, section 4.2).
/// The DSCP is the outer one if it is copied (RFC 2983, uniform model), else its own (pipe model).
#[inline]
pub fn decapsulate(inner: u8, outer: u8, copy_dscp: bool) -> Option<u8> {
    let dscp = if copy_dscp { outer } else { inner };
    Some(dscp & !ECN | ecn(inner & ECN, outer & ECN)?)
}

/// RFC 6040, figure 4.
fn ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040, figure 4; columns are the outer Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn figure_4() {
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(decapsulate(inner, outer, false), expected, "inner {inner:02b} outer {outer:02b}");
            }
        }
    }

    /// RFC 2983: DSCP crosses in both directions if it is copied, and else in neither.
    #[test]
    fn dscp_is_copied_or_not() {
        let [inner, outer] = [0xb8 | ECT_0, 0x28 | CE];
        assert_eq!((encapsulate(inner, false), encapsulate(inner, true)), (ECT_0, inner));
        assert_eq!(decapsulate(inner, outer, false), Some(0xb8 | CE));
        assert_eq!(decapsulate(inner, outer, true), Some(0x28 | CE));
        assert_eq!(decapsulate(0xb8, outer, true), None, "ECN decides first");
    }
}
