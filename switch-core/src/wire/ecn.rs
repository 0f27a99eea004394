//! Explicit congestion notification through a tunnel (RFC 6040, which RFC 9601 extends to VXLAN,
//! GENEVE and GRE). An encapsulator copies the inner field ("normal mode", §4.1); what is not IP goes
//! in as [`Ecn::NotEct`].

/// The ECN field: the lower two bits of the traffic class (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not know ECN.
    NotEct = 0b00,
    /// The transport knows ECN; the second codepoint for that.
    Ect1 = 0b01,
    /// The transport knows ECN.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    const MASK: u8 = 0b11;

    /// The ECN field of a traffic class byte.
    #[inline]
    #[must_use]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & Self::MASK {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// `traffic_class` with this ECN field and its own DSCP.
    #[inline]
    #[must_use]
    pub const fn in_traffic_class(self, traffic_class: u8) -> u8 {
        traffic_class & !Self::MASK | self as u8
    }
}

/// The packet must be dropped: congestion was marked on a packet whose transport cannot see marks,
/// for which a loss is the only signal (RFC 6040 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("outer ECN field CE over an inner Not-ECT")]
pub struct CeOverNotEct;

/// The inner field after decapsulation, by RFC 6040 §4.2 figure 4.
///
/// # Errors
/// [`CeOverNotEct`]: drop the packet.
#[inline]
pub const fn decap(inner: Ecn, outer: Ecn) -> Result<Ecn, CeOverNotEct> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => Err(CeOverNotEct),
        (Ecn::NotEct, _) => Ok(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Ok(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Ok(Ecn::Ect1),
        (Ecn::Ect0 | Ecn::Ect1, _) => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::Ecn::{Ce, Ect0, Ect1, NotEct};
    use super::*;

    #[test]
    fn codepoints_in_every_traffic_class() {
        for class in 0..=u8::MAX {
            let ecn = Ecn::of(class);
            assert_eq!(ecn as u8, class & 3);
            assert_eq!(ecn.in_traffic_class(class), class);
            for other in [NotEct, Ect0, Ect1, Ce] {
                let changed = other.in_traffic_class(class);
                assert_eq!((changed >> 2, Ecn::of(changed)), (class >> 2, other));
            }
        }
    }

    /// RFC 6040 §4.2 figure 4, row by row.
    #[test]
    fn all_sixteen_combinations_of_decapsulation() {
        const DROP: Result<Ecn, CeOverNotEct> = Err(CeOverNotEct);
        let outers = [NotEct, Ect0, Ect1, Ce];
        let table = [
            (NotEct, [Ok(NotEct), Ok(NotEct), Ok(NotEct), DROP]),
            (Ect0, [Ok(Ect0), Ok(Ect0), Ok(Ect1), Ok(Ce)]),
            (Ect1, [Ok(Ect1), Ok(Ect1), Ok(Ect1), Ok(Ce)]),
            (Ce, [Ok(Ce), Ok(Ce), Ok(Ce), Ok(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, arrives) in outers.into_iter().zip(row) {
                assert_eq!(decap(inner, outer), arrives, "{inner:?} in {outer:?}");
            }
        }
    }
}
