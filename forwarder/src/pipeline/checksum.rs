//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// A one's complement sum that is not folded yet, of at most 65,536 words or pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u32);

impl Sum {
    /// Adds bytes as big-endian 16-bit words; an odd last byte is padded with zero, so only the last
    /// piece of a packet may be odd.
    #[inline]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // 32-bit words in native order: the sum is independent of byte order up to one final swap.
        let mut words = bytes.chunks_exact(4);
        let mut sum = 0u64;
        for word in &mut words {
            sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
        let rest = words.remainder();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
        // To 33 bits, then 18.
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        self.0 += u32::from(u16::from_be(fold(sum as u32)));
        self
    }

    /// Adds one 16-bit word.
    #[inline]
    pub fn word(mut self, word: u16) -> Self {
        self.0 += u32::from(word);
        self
    }

    /// The sum's complement: what stands in a header. A packet with its right checksum gives 0.
    #[inline]
    pub fn checksum(self) -> u16 {
        !fold(self.0)
    }
}

/// Whether an IPv4 header, options included, has its right checksum.
#[inline]
pub fn is_right(header: &[u8]) -> bool {
    // The sum of all words, as numbers of either byte order, is a multiple of 0xffff; a version is no zero.
    let (words, _) = header.as_chunks::<4>();
    words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>() % 0xffff == 0
}

/// Brings `checksum` up to date after one 16-bit word that it covers went from `old` to `new`
/// (RFC 1624, equation 3).
pub fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default().word(!checksum).word(!old).word(new).checksum()
}

/// To 17 bits, then 16: a loop would end here sooner and there later, which no processor foresees.
#[inline]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1071_example() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.checksum(), !0xddf2);
    }

    #[test]
    fn a_right_header_has_one_checksum() {
        let mut header = [0x45, 0, 0, 20, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6];
        let right = Sum::default().bytes(&header).checksum();
        for checksum in 0..=u16::MAX {
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            assert_eq!(is_right(&header), checksum == right, "{checksum:#x}");
        }
    }

    #[test]
    fn odd_lengths_are_padded_with_zero() {
        assert_eq!(
            Sum::default().bytes(&[1, 2, 3, 4, 5]).checksum(),
            Sum::default().bytes(&[1, 2, 3, 4, 5, 0]).checksum()
        );
    }

    /// RFC 1624, section 4: the case that equation 2 of RFC 1141 gets wrong.
    #[test]
    fn rfc1624_example() {
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
