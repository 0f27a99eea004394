//! The virtio-net header before each frame on a TAP, an AF_PACKET socket with `PACKET_VNET_HDR` and
//! a virtqueue (virtio 1.2 §5.1.6, Linux `include/uapi/linux/virtio_net.h`).

use super::BeyondHead;
use crate::frame::{Csum, Frame, Gso, GsoKind};
use crate::wire::TooShort;

/// Flag: [`VnetHeader::csum_start`] and [`VnetHeader::csum_offset`] count.
pub const F_NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was found to be right.
pub const F_DATA_VALID: u8 = 2;
/// No super-frame.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// IP fragmentation of one large datagram ("UFO"), which this switch never offers.
pub const GSO_UDP: u8 = 3;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP datagrams of equal size ("USO").
pub const GSO_UDP_L4: u8 = 5;
/// Added to a TCP type: only the first segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// A header's fields, as claimed; [`super::validate`] makes something reliable of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`F_NEEDS_CSUM`], [`F_DATA_VALID`]; others are ignored, as the specification says.
    pub flags: u8,
    /// One of the `GSO_` types.
    pub gso_type: u8,
    /// Bytes up to the payload. Only a hint, never used on receipt.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// First byte of the frame that is summed.
    pub csum_start: u16,
    /// Where the checksum goes, from there.
    pub csum_offset: u16,
}

/// How a device lays the header out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetLayout {
    /// Whether `num_buffers` follows, which makes it 12 bytes and not 10 (`TUNSETVNETHDRSZ`).
    pub num_buffers: bool,
    /// Whether fields are big-endian: the machine's order, unless the device was told otherwise
    /// (`TUNSETVNETLE`, virtio 1.0).
    pub big_endian: bool,
}

impl VnetLayout {
    /// 10 bytes in the machine's order: AF_PACKET, and a TAP unless told otherwise.
    pub const LEGACY: Self = Self { num_buffers: false, big_endian: cfg!(target_endian = "big") };
    /// 12 bytes in little-endian order: virtio 1.0.
    pub const MODERN: Self = Self { num_buffers: true, big_endian: false };
    /// Length of the longest header.
    pub const MAX_LEN: usize = 12;

    /// Length of the header in bytes, 10 or 12.
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        if self.num_buffers { Self::MAX_LEN } else { 10 }
    }

    /// Reads the header at the start of `bytes`, and gives the frame after it.
    ///
    /// # Errors
    /// [`TooShort`] if `bytes` ends before the header does.
    #[inline]
    pub fn decode(self, bytes: &[u8]) -> Result<(VnetHeader, &[u8]), TooShort> {
        let short =
            TooShort { header: "virtio-net header", need: self.header_len(), have: bytes.len() };
        let (header, frame) = bytes.split_at_checked(self.header_len()).ok_or(short)?;
        let Some(&[flags, gso_type, a, b, c, d, e, f, g, h]) = header.first_chunk() else {
            return Err(short);
        };
        let word = |x, y| {
            if self.big_endian { u16::from_be_bytes([x, y]) } else { u16::from_le_bytes([x, y]) }
        };
        let decoded = VnetHeader {
            flags,
            gso_type,
            hdr_len: word(a, b),
            gso_size: word(c, d),
            csum_start: word(e, f),
            csum_offset: word(g, h),
        };
        Ok((decoded, frame))
    }

    /// Writes a header; the first [`header_len`](Self::header_len) bytes are it. `num_buffers` is
    /// 1, as a device without mergeable buffers must say (virtio 1.2 §5.1.6.4.1).
    #[inline]
    #[must_use]
    pub const fn encode(self, header: &VnetHeader) -> [u8; Self::MAX_LEN] {
        let [a, b] = self.word(header.hdr_len);
        let [c, d] = self.word(header.gso_size);
        let [e, f] = self.word(header.csum_start);
        let [g, h] = self.word(header.csum_offset);
        let [i, j] = self.word(1);
        [header.flags, header.gso_type, a, b, c, d, e, f, g, h, i, j]
    }

    const fn word(self, value: u16) -> [u8; 2] {
        if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    }
}

impl VnetHeader {
    /// Says nothing about the frame.
    pub const NONE: Self = Self {
        flags: 0,
        gso_type: GSO_NONE,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// The header to send a frame with. All zero where there is nothing to say.
    ///
    /// # Errors
    /// [`BeyondHead`] if the head does not hold the layer-4 header of a super-frame, which validated
    /// metadata rules out.
    pub fn of<F: Frame>(frame: &F) -> Result<Self, BeyondHead> {
        let offload = frame.offload();
        let mut header = Self::NONE;
        match offload.csum {
            Csum::Unknown => {}
            Csum::Verified => header.flags = F_DATA_VALID,
            Csum::Partial { start, offset } => {
                header.flags = F_NEEDS_CSUM;
                header.csum_start = start;
                header.csum_offset = offset;
            }
        }
        if let Some(Gso { kind, size, ecn }) = offload.gso {
            let gso_type = match kind {
                GsoKind::TcpV4 => GSO_TCPV4,
                GsoKind::TcpV6 => GSO_TCPV6,
                GsoKind::Udp => GSO_UDP_L4,
            };
            let hdr_len = super::header_len(frame.head(), &offload).ok_or(BeyondHead)?;
            header.gso_type = gso_type | if ecn { GSO_ECN } else { 0 };
            header.gso_size = size;
            header.hdr_len = u16::try_from(hdr_len).map_err(|_| BeyondHead)?;
        }
        Ok(header)
    }

    /// The header after `n` bytes were put into the frame before what is summed, as when a VLAN tag
    /// is put back that the kernel had taken out.
    #[must_use]
    pub const fn pushed(mut self, n: u16) -> Self {
        if self.flags & F_NEEDS_CSUM != 0 {
            // A claim beyond 64 KiB stays one, and is refused by validation.
            self.csum_start = self.csum_start.saturating_add(n);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TSO: VnetHeader = VnetHeader {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4 | GSO_ECN,
        hdr_len: 66,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };

    #[test]
    fn little_and_big_endian_in_ten_and_twelve_bytes() {
        let little = [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0];
        let big = [1, 0x81, 0, 66, 5, 0xa8, 0, 34, 0, 16, 0, 1];
        for num_buffers in [false, true] {
            for (big_endian, bytes) in [(false, little), (true, big)] {
                let layout = VnetLayout { num_buffers, big_endian };
                assert_eq!(layout.encode(&TSO), bytes);
                let input = [&bytes[..layout.header_len()], b"frame"].concat();
                assert_eq!(layout.decode(&input), Ok((TSO, &b"frame"[..])));
                assert!(layout.decode(&bytes[..layout.header_len() - 1]).is_err());
            }
        }
        assert_eq!(VnetLayout::MODERN.encode(&VnetHeader::NONE)[..10], [0; 10]);
    }

    #[test]
    fn a_tag_put_back_moves_only_what_counts() {
        assert_eq!(TSO.pushed(4).csum_start, 38);
        assert_eq!(VnetHeader::NONE.pushed(4), VnetHeader::NONE);
    }

    proptest! {
        #[test]
        fn round_trips(bytes: [u8; 12], num_buffers: bool, big_endian: bool) {
            let layout = VnetLayout { num_buffers, big_endian };
            let (header, rest) = layout.decode(&bytes).unwrap();
            prop_assert_eq!(rest.len(), 12 - layout.header_len());
            prop_assert_eq!(&layout.encode(&header)[..10], &bytes[..10]);
        }
    }
}
