//! Explicit congestion notification across the tunnel (RFC 6040). ECN is the low two bits of the
//! DS byte.

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// The outer ECN bits for a packet with these inner ones (section 4.1, normal mode).
pub fn encapsulate(inner: u8) -> u8 {
    inner & CE
}

/// The ECN bits with which an opened packet goes on (section 4.2, figure 4); `None` when it must be
/// dropped.
pub fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    match (inner & CE, outer & CE) {
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
                assert_eq!(decapsulate(inner, outer), expected, "inner {inner:02b} outer {outer:02b}");
            }
        }
    }
}
