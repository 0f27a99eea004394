//! Protocol headers: one file a header, views over bytes somebody else owns.
//!
//! # The promise
//!
//! Nothing in this module panics, whatever the bytes. The length is checked once, by the `split` or
//! `parse` that makes a view; the getters of a view cannot fail afterwards. Every view lies inside
//! the slice it was made from. Every loop is bounded by a constant ([`MAX_TAGS`],
//! [`ipv6::MAX_EXTENSIONS`], [`geneve::MAX_OPTIONS_LEN`]), never by a length an attacker wrote. The lints below keep it so: no
//! indexing, no unwrapping, no arithmetic that can overflow.
//!
//! # Head and whole
//!
//! A frame shows parsers only its contiguous head; the rest may lie in further segments. So what
//! checks a length *claimed by* a header takes two things: the bytes at hand, and `wire_len`, how
//! many bytes the frame has from there on in all. A view's payload is the part of it that lies in
//! the head.
//!
//! # Layout
//!
//! Headers are `#[repr(C)]` structs of byte arrays and network-endian fields, so that reading one
//! is a cast and building one is filling in a struct and asking for its bytes.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod erspan;
pub mod ethernet;
pub mod geneve;
pub mod gre;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod layers;
pub mod mac;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vni;
pub mod vxlan;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use arp::{ArpError, ArpOperation, ArpPacket};
pub use checksum::Checksum;
pub use ecn::Ecn;
pub use erspan::{ErspanHeader, Mirrored};
pub use ethernet::{EtherType, EthernetHeader};
pub use geneve::{Geneve, GeneveError, GeneveHeader, GeneveOption, GeneveOptions};
pub use gre::{Gre, GreError, GreFields, GreHeader};
pub use icmp::IcmpHeader;
pub use ip::{Fragment, IpProtocol};
pub use ipv4::{Ipv4, Ipv4Error, Ipv4Header};
pub use ipv6::{Ipv6, Ipv6Error, Ipv6Header};
pub use layers::{Layers, LayersError, Network, Transport};
pub use mac::{MacAddr, ParseMacError};
pub use tcp::{Tcp, TcpError, TcpFlags, TcpHeader};
pub use udp::{Udp, UdpError, UdpHeader};
pub use vlan::{BadVlanId, MAX_TAGS, TagStack, Tci, VlanHeader, VlanId, VlanTag};
pub use vni::{BadVni, Vni};
pub use vxlan::{Vxlan, VxlanError, VxlanHeader};

/// A slice that ends before the header it should hold does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{header} needs {need} bytes, {have} are there")]
pub struct TooShort {
    /// The header that was looked for.
    pub header: &'static str,
    /// Bytes it needs.
    pub need: usize,
    /// Bytes there were.
    pub have: usize,
}

/// A header (or the fixed part of one) with a fixed layout.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// The header's name in errors.
    const NAME: &'static str;
    /// Its length in bytes.
    const LEN: usize = size_of::<Self>();

    /// The header at the start of `bytes`, and what follows it.
    ///
    /// # Errors
    /// [`TooShort`] if `bytes` ends before the header does.
    #[inline]
    fn split(bytes: &[u8]) -> Result<(&Self, &[u8]), TooShort> {
        let have = bytes.len();
        Self::ref_from_prefix(bytes).map_err(|_| too_short::<Self>(have))
    }

    /// Like [`split`](Self::split), for rewriting in place.
    ///
    /// # Errors
    /// [`TooShort`] if `bytes` ends before the header does.
    #[inline]
    fn split_mut(bytes: &mut [u8]) -> Result<(&mut Self, &mut [u8]), TooShort> {
        let have = bytes.len();
        Self::mut_from_prefix(bytes).map_err(|_| too_short::<Self>(have))
    }

    /// The header `offset` bytes into `bytes`.
    ///
    /// # Errors
    /// [`TooShort`] if `bytes` ends before the header does.
    #[inline]
    fn at(bytes: &[u8], offset: usize) -> Result<&Self, TooShort> {
        Self::split(bytes.get(offset..).unwrap_or_default()).map(|(header, _)| header)
    }

    /// Like [`at`](Self::at), for rewriting in place.
    ///
    /// # Errors
    /// [`TooShort`] if `bytes` ends before the header does.
    #[inline]
    fn at_mut(bytes: &mut [u8], offset: usize) -> Result<&mut Self, TooShort> {
        Self::split_mut(bytes.get_mut(offset..).unwrap_or_default()).map(|(header, _)| header)
    }
}

#[cold]
fn too_short<H: Header>(have: usize) -> TooShort {
    TooShort { header: H::NAME, need: H::LEN, have }
}
