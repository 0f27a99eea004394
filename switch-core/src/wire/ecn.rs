//! Explicit congestion notification through a tunnel (RFC 6040, which RFC 9601 extends to VXLAN,
//! GENEVE and GRE).

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

/// What an encapsulator does with the ECN field (RFC 6040 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcnMode {
    /// The outer field is a copy of the inner one.
    #[default]
    Normal,
    /// The outer field is Not-ECT, for a decapsulator that would lose a congestion mark.
    Compatibility,
}

impl EcnMode {
    /// The outer field of a packet whose inner field is `inner`. What is not IP goes in as
    /// [`Ecn::NotEct`].
    #[inline]
    #[must_use]
    pub const fn encap(self, inner: Ecn) -> Ecn {
        match self {
            Self::Normal => inner,
            Self::Compatibility => Ecn::NotEct,
        }
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

/// A combination that no encapsulator and no router on the way makes today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EcnAnomaly {
    /// Marked "(!)" in figure 4: unused, and harmless so far.
    Unused,
    /// Marked "(!!!)": unused, and a sign of a fault or an attack on the way.
    Dangerous,
}

/// Whether fields that arrived together are a combination worth counting (RFC 6040 §4.2 figure 4).
#[inline]
#[must_use]
pub const fn anomaly(inner: Ecn, outer: Ecn) -> Option<EcnAnomaly> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ect0 | Ecn::Ect1 | Ecn::Ce) | (Ecn::Ce, Ecn::Ect1) => {
            Some(EcnAnomaly::Dangerous)
        }
        (Ecn::Ect1, Ecn::Ect0) => Some(EcnAnomaly::Unused),
        _ => None,
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

    #[test]
    fn both_modes_of_encapsulation() {
        for inner in [NotEct, Ect0, Ect1, Ce] {
            assert_eq!(EcnMode::Normal.encap(inner), inner);
            assert_eq!(EcnMode::Compatibility.encap(inner), NotEct);
        }
        assert_eq!(EcnMode::default(), EcnMode::Normal);
    }

    /// RFC 6040 §4.2 figure 4, row by row.
    #[test]
    fn all_sixteen_combinations_of_decapsulation() {
        use EcnAnomaly::{Dangerous, Unused};
        const DROP: Result<Ecn, CeOverNotEct> = Err(CeOverNotEct);
        let outers = [NotEct, Ect0, Ect1, Ce];
        let (odd, bad) = (Some(Unused), Some(Dangerous));
        let table = [
            (NotEct, [(Ok(NotEct), None), (Ok(NotEct), bad), (Ok(NotEct), bad), (DROP, bad)]),
            (Ect0, [(Ok(Ect0), None), (Ok(Ect0), None), (Ok(Ect1), None), (Ok(Ce), None)]),
            (Ect1, [(Ok(Ect1), None), (Ok(Ect1), odd), (Ok(Ect1), None), (Ok(Ce), None)]),
            (Ce, [(Ok(Ce), None), (Ok(Ce), None), (Ok(Ce), bad), (Ok(Ce), None)]),
        ];
        for (inner, row) in table {
            for (outer, (arrives, flagged)) in outers.into_iter().zip(row) {
                assert_eq!(decap(inner, outer), arrives, "{inner:?} in {outer:?}");
                assert_eq!(anomaly(inner, outer), flagged, "{inner:?} in {outer:?}");
            }
        }
    }
}
