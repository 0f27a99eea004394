//! VXLAN (RFC 7348).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, TooShort, Vni};

/// The VXLAN header (RFC 7348 §5). An Ethernet frame without FCS follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VxlanHeader {
    flags: u8,
    reserved: [u8; 3],
    vni: [u8; 3],
    reserved_last: u8,
}

impl Header for VxlanHeader {
    const NAME: &'static str = "VXLAN header";
}

impl VxlanHeader {
    /// Length in bytes.
    pub const LEN: usize = 8;
    /// The UDP port that IANA assigned.
    pub const UDP_PORT: u16 = 4789;

    /// The I flag: the VNI is valid.
    const VNI_VALID: u8 = 0x08;

    /// A header to be sent.
    #[must_use]
    pub const fn new(vni: Vni) -> Self {
        Self { flags: Self::VNI_VALID, reserved: [0; 3], vni: vni.to_be_bytes(), reserved_last: 0 }
    }

    /// The network; meaningful only with [`vni_valid`](Self::vni_valid).
    #[inline]
    #[must_use]
    pub const fn vni(&self) -> Vni {
        Vni::from_be_bytes(self.vni)
    }

    /// The I flag: set in anything that parsed.
    #[inline]
    #[must_use]
    pub const fn vni_valid(&self) -> bool {
        self.flags & Self::VNI_VALID != 0
    }

    /// Whether any of the 39 reserved bits is set. RFC 7348 has them ignored; a strict receiver
    /// drops such frames, as Linux does, because an extension gave the bits a meaning.
    #[inline]
    #[must_use]
    pub const fn reserved_bits_set(&self) -> bool {
        let [a, b, c] = self.reserved;
        (self.flags & !Self::VNI_VALID) | a | b | c | self.reserved_last != 0
    }
}

/// Why bytes are not a VXLAN frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VxlanError {
    /// They end within the header.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// The I flag is clear: there is no VNI.
    #[error("VXLAN flags {flags:#04x} without the I flag")]
    NoVni {
        /// The flags byte.
        flags: u8,
    },
}

/// A VXLAN frame that has a VNI.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    header: &'a VxlanHeader,
    payload: &'a [u8],
}

impl<'a> Vxlan<'a> {
    /// Reads the frame at the start of a UDP payload. The header claims no length, so a head of
    /// the payload will do.
    ///
    /// # Errors
    /// [`VxlanError`], one variant a rule.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, VxlanError> {
        let (header, payload) = VxlanHeader::split(bytes)?;
        if !header.vni_valid() {
            return Err(VxlanError::NoVni { flags: header.flags });
        }
        Ok(Self { header, payload })
    }

    /// The header.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a VxlanHeader {
        self.header
    }

    /// The inner frame; the part of it that lies in the head. It begins
    /// [`VxlanHeader::LEN`] bytes into the UDP payload.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: [u8; 8] = [0x08, 0, 0, 0, 0x00, 0x27, 0x1a, 0];

    #[test]
    fn reads_a_frame() {
        let bytes = [&HEADER[..], b"inner"].concat();
        let vxlan = Vxlan::parse(&bytes).unwrap();
        assert_eq!(vxlan.header().vni(), Vni::new(10_010).unwrap());
        assert!(!vxlan.header().reserved_bits_set());
        assert_eq!(vxlan.payload(), b"inner");
        assert_eq!(VxlanHeader::new(vxlan.header().vni()).as_bytes(), HEADER);
    }

    #[test]
    fn a_header_cut_at_every_byte() {
        for len in 0..8 {
            let cut = Vxlan::parse(&HEADER[..len]).unwrap_err();
            assert_eq!(
                cut,
                VxlanError::TooShort(TooShort { header: "VXLAN header", need: 8, have: len })
            );
        }
        assert!(Vxlan::parse(&HEADER).unwrap().payload().is_empty());
    }

    #[test]
    fn each_of_the_64_bits() {
        for bit in 0..64u32 {
            let flipped = (u64::from_be_bytes(HEADER) ^ 1 << (63 - bit)).to_be_bytes();
            let parsed = Vxlan::parse(&flipped).map(|vxlan| *vxlan.header());
            if bit == 4 {
                assert_eq!(parsed.unwrap_err(), VxlanError::NoVni { flags: 0 });
                continue;
            }
            let header = parsed.unwrap();
            let is_vni = (32..56).contains(&bit);
            assert_eq!(header.reserved_bits_set(), !is_vni, "bit {bit}");
            assert_eq!(header.vni().get() != 10_010, is_vni, "bit {bit}");
        }
    }

    #[test]
    fn every_flags_byte() {
        for flags in 0..=u8::MAX {
            let bytes = [flags, 0, 0, 0, 0, 0, 0, 0];
            match Vxlan::parse(&bytes) {
                Ok(vxlan) => assert_eq!(vxlan.header().reserved_bits_set(), flags != 0x08),
                Err(error) => assert_eq!(error, VxlanError::NoVni { flags }),
            }
            assert_eq!(Vxlan::parse(&bytes).is_ok(), flags & 0x08 != 0);
        }
    }

    proptest! {
        #[test]
        fn headers_built_are_headers_read(vni in 0..=Vni::MAX) {
            let header = VxlanHeader::new(Vni::new(vni).unwrap());
            let read = Vxlan::parse(header.as_bytes()).unwrap();
            prop_assert_eq!(read.header().vni().get(), vni);
            prop_assert!(!read.header().reserved_bits_set());
        }

        #[test]
        fn noise_stays_inside(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(vxlan) = Vxlan::parse(&bytes) {
                prop_assert_eq!(vxlan.payload(), &bytes[8..]);
            }
        }
    }
}
