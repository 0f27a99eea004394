//! The number of a virtual network, as VXLAN, GENEVE and NVGRE carry it.

use std::fmt;
use std::str::FromStr;

/// A virtual network identifier: 24 bits, 0 included. NVGRE calls it VSID (RFC 7637 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The highest number, 16,777,215.
    pub const MAX: u32 = 0x00ff_ffff;

    /// The network with this number; none above [`MAX`](Self::MAX).
    #[inline]
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX { Some(Self(number)) } else { None }
    }

    /// Its number, 0 to [`MAX`](Self::MAX).
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// From the three bytes of a header.
    #[inline]
    #[must_use]
    pub const fn from_be_bytes([high, middle, low]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, high, middle, low]))
    }

    /// The three bytes of a header.
    #[inline]
    #[must_use]
    pub const fn to_be_bytes(self) -> [u8; 3] {
        let [_, high, middle, low] = self.0.to_be_bytes();
        [high, middle, low]
    }
}

/// Why something is not a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadVni {
    /// A number, but more than 24 bits of it.
    #[error("VNI {0} does not exist: VNIs are 0 to 16777215")]
    OutOfRange(u64),
    /// Not a number.
    #[error("a VNI is a number from 0 to 16777215")]
    NotANumber,
}

impl TryFrom<u32> for Vni {
    type Error = BadVni;

    fn try_from(number: u32) -> Result<Self, BadVni> {
        Self::new(number).ok_or_else(|| BadVni::OutOfRange(number.into()))
    }
}

impl FromStr for Vni {
    type Err = BadVni;

    fn from_str(s: &str) -> Result<Self, BadVni> {
        let number: u64 = s.parse().map_err(|_| BadVni::NotANumber)?;
        u32::try_from(number).map_err(|_| BadVni::OutOfRange(number)).and_then(Self::try_from)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_limits_of_a_vni() {
        assert_eq!(Vni::new(0).map(Vni::get), Some(0));
        assert_eq!(Vni::new(0x00ff_ffff).map(Vni::get), Some(16_777_215));
        assert_eq!(Vni::new(0x0100_0000), None);
        assert_eq!(Vni::try_from(u32::MAX), Err(BadVni::OutOfRange(0xffff_ffff)));
        assert_eq!("16777215".parse(), Vni::try_from(Vni::MAX));
        assert_eq!("16777216".parse::<Vni>(), Err(BadVni::OutOfRange(16_777_216)));
        assert_eq!("4294967296".parse::<Vni>(), Err(BadVni::OutOfRange(1 << 32)));
        assert_eq!("-1".parse::<Vni>(), Err(BadVni::NotANumber));
        assert_eq!("".parse::<Vni>(), Err(BadVni::NotANumber));
    }

    proptest! {
        #[test]
        fn bytes_and_text_round_trip(number in 0..=Vni::MAX) {
            let vni = Vni::new(number).unwrap();
            prop_assert_eq!(Vni::from_be_bytes(vni.to_be_bytes()), vni);
            prop_assert_eq!(&vni.to_be_bytes(), &number.to_be_bytes()[1..]);
            prop_assert_eq!(vni.to_string().parse(), Ok(vni));
        }
    }
}
