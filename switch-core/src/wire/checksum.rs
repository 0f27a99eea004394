//! The Internet checksum (RFC 1071) and changing one in place (RFC 1624).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::IpProtocol;

/// A ones' complement sum under way. Add the parts in their order, then [`finish`](Self::finish).
///
/// Sums native-endian 32-bit words into 64 bits and swaps once at the end: the sum is the same
/// whatever the byte order (RFC 1071 §2 (B)), and this is what compilers turn into vector code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum {
    sum: u64,
    /// An odd number of bytes was added so far: the next byte is the low one of its word.
    odd: bool,
}

impl Checksum {
    /// Nothing added yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// Adds bytes, which continue those added before, also after an odd number of them.
    #[inline]
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.add_sum(sum_words(bytes));
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a sum of native-endian words that begin where the bytes so far end.
    #[inline]
    fn add_sum(&mut self, part: u64) {
        // 2^31 words of 32 bits fit the sum; a longer slice cannot come from a frame, yet costs
        // only this fold.
        let sum = fold_once(self.sum);
        let part = if self.odd { u64::from(fold(part).swap_bytes()) } else { part };
        self.sum = fold_once(sum.wrapping_add(part));
    }

    /// Adds one 16-bit field. The bytes before it must be even in number.
    #[inline]
    pub fn add_u16(&mut self, value: u16) {
        self.add_bytes(&value.to_be_bytes());
    }

    /// Adds the pseudo-header of TCP or UDP over IPv4 (RFC 9293 §3.1). `len` counts the layer-4
    /// header and payload, in bytes.
    #[inline]
    pub fn add_pseudo_v4(&mut self, src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, len: u16) {
        let [l0, l1] = len.to_be_bytes();
        let words = [src.octets(), dst.octets(), [0, protocol.0, l0, l1]];
        self.add_sum(words.map(|word| u64::from(u32::from_ne_bytes(word))).iter().sum());
    }

    /// Adds the pseudo-header of an upper-layer protocol over IPv6 (RFC 8200 §8.1). `len` counts
    /// the upper-layer header and payload, in bytes.
    #[inline]
    pub fn add_pseudo_v6(&mut self, src: Ipv6Addr, dst: Ipv6Addr, protocol: IpProtocol, len: u32) {
        self.add_bytes(&src.octets());
        self.add_bytes(&dst.octets());
        let words = [len.to_be_bytes(), [0, 0, 0, protocol.0]];
        self.add_sum(words.map(|word| u64::from(u32::from_ne_bytes(word))).iter().sum());
    }

    /// The sum so far, not complemented: what a sender that leaves the checksum to a NIC writes
    /// into the field.
    #[inline]
    #[must_use]
    pub fn partial(self) -> u16 {
        u16::from_be_bytes(fold(self.sum).to_ne_bytes())
    }

    /// The checksum: the complement of the sum. Summing the bytes with the checksum in place gives
    /// 0 here.
    #[inline]
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.partial()
    }

    /// The checksum as UDP sends it, where 0 means "none" and a sum of 0 is sent as 0xffff
    /// (RFC 768). TCP may use it too: both stand for zero.
    #[inline]
    #[must_use]
    pub fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// The checksum of `bytes`; 0 if they contain a valid one.
#[inline]
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = Checksum::new();
    sum.add_bytes(bytes);
    sum.finish()
}

/// The checksum after a 16-bit field it covers changed from `old` to `new` (RFC 1624 eqn. 3).
#[inline]
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = [!checksum, !old, new].into_iter().map(u64::from).fold(0, u64::wrapping_add);
    !fold(sum)
}

#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = 0u64;
    for word in words {
        sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    }
    let mut last = [0; 4];
    // Zeroes after the end do not change the sum.
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum.wrapping_add(u64::from(u32::from_ne_bytes(last)))
}

/// Folds to at most 33 bits, so that additions may go on.
#[inline]
const fn fold_once(sum: u64) -> u64 {
    (sum >> 32).wrapping_add(sum & 0xffff_ffff)
}

/// Folds a sum to 16 bits: 0 only if it is 0.
#[inline]
pub(crate) const fn fold(sum: u64) -> u16 {
    // To 32 bits, to 17 and to 16.
    let sum = fold_once(fold_once(sum));
    let sum = (sum >> 16).wrapping_add(sum & 0xffff);
    (sum >> 16).wrapping_add(sum & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071's definition, word for word.
    fn by_definition(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        let mut sum = Checksum::new();
        sum.add_bytes(&bytes);
        assert_eq!(sum.partial(), 0xddf2);
        assert_eq!(checksum(&bytes), 0x220d);
    }

    #[test]
    fn an_ipv4_header() {
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(checksum(&header), 0xb861);
        header[10..12].copy_from_slice(&[0xb8, 0x61]);
        assert_eq!(checksum(&header), 0);
    }

    #[test]
    fn extremes() {
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff; 65_536]), 0);
        assert_eq!(checksum(&[0; 65_536]), 0xffff);
        let mut sum = Checksum::new();
        sum.add_bytes(&[0xff, 0xff]);
        assert_eq!((sum.finish(), sum.finish_udp()), (0, 0xffff));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(checksum(&bytes), by_definition(&bytes));
        }

        #[test]
        fn parts_of_any_length_make_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            let mut sum = Checksum::new();
            parts.iter().for_each(|part| sum.add_bytes(part));
            prop_assert_eq!(sum.finish(), checksum(&parts.concat()));
        }

        #[test]
        fn an_update_is_a_new_sum(
            mut bytes in prop::collection::vec(any::<u8>(), 20..60), new: u16,
        ) {
            // An all-zero packet is the one case where the two forms of zero differ.
            bytes[0] = 0x45;
            let old = u16::from_be_bytes([bytes[4], bytes[5]]);
            let before = checksum(&bytes);
            bytes[4..6].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes));
        }
    }
}
