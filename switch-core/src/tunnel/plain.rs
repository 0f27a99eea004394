//! Plain inner frames: IP without options or extensions, whole, in Ethernet without tags. Nearly all
//! are, and what the two directions want to know of one is at fixed places then.

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::inner::{HASH_START, finish, has_ports, mix};
use crate::wire::checksum::fold;
use crate::wire::{EtherType, IpProtocol};

/// The start of a frame with IPv4.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct V4 {
    macs: [u8; 12],
    ethertype: U16,
    version_class: U16,
    total_len: U16,
    id: U16,
    fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    src: U32,
    dst: U32,
    ports: U32,
}

/// The start of a frame with IPv6.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct V6 {
    macs: [u8; 12],
    ethertype: U16,
    version_class: U16,
    flow: U16,
    payload_len: U16,
    next: u8,
    ttl: u8,
    addresses: [U64; 4],
    ports: U32,
}

/// Where the ports are, and so the layer-4 header begins.
const V4_L4: usize = 34;
const V6_L4: usize = 54;

const _: () = assert!(size_of::<V4>() == V4_L4 + 4 && size_of::<V6>() == V6_L4 + 4);

impl V4 {
    #[inline(always)]
    fn of(head: &[u8]) -> Option<&Self> {
        let (v4, _) = Self::ref_from_prefix(head).ok()?;
        let holds = v4.ethertype.get() == EtherType::IPV4.0
            && v4.version_class.get() >> 8 == 0x45
            && v4.fragment.get() & 0x3fff == 0;
        holds.then_some(v4)
    }
}

impl V6 {
    #[inline(always)]
    fn of(head: &[u8]) -> Option<&Self> {
        let (v6, _) = Self::ref_from_prefix(head).ok()?;
        let holds = v6.ethertype.get() == EtherType::IPV6.0 && v6.version_class.get() >> 12 == 6;
        holds.then_some(v6)
    }
}

/// What an outer header takes over from a plain frame. All is as [`Inner`](super::Inner) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) ecn: u8,
    pub(super) hash: u32,
    /// Source and destination of IPv4, one behind the other; of IPv6, nobody's.
    pub(super) pair: u64,
}

impl Plain {
    /// `None` if the frame is no plain one.
    #[inline(always)]
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        if let Some(v4) = V4::of(head) {
            let pair = u64::from(v4.src.get()) << 32 | u64::from(v4.dst.get());
            let hash = mix(HASH_START.wrapping_add(v4.protocol.into()), pair);
            let hash = with_ports(hash, v4.protocol, v4.ports);
            return Some(Self { ecn: v4.version_class.get() as u8 & 3, hash, pair });
        }
        let v6 = V6::of(head)?;
        let start = HASH_START.wrapping_add(v6.next.into());
        let hash = v6.addresses.iter().fold(start, |hash, word| mix(hash, word.get()));
        let ecn = (v6.version_class.get() >> 4) as u8 & 3;
        Some(Self { ecn, hash: with_ports(hash, v6.next, v6.ports), pair: 0 })
    }
}

#[inline(always)]
fn with_ports(hash: u64, protocol: u8, ports: U32) -> u32 {
    let ports = if has_ports(protocol) { ports.get() } else { 0 };
    finish(mix(hash, ports.into()))
}

/// Whether a frame's checksum is certainly not one that [`unfinished`](super::unfinished) knows: its
/// field does not hold the sum of the pseudo-header.
#[inline(always)]
pub(super) fn is_finished(head: &[u8]) -> bool {
    let (protocol, l4, sum);
    if let Some(v4) = V4::of(head) {
        (protocol, l4) = (v4.protocol, V4_L4);
        // A length that is less than the header's is nobody's checksum.
        let l4_len = u64::from(v4.total_len.get()).wrapping_sub(20) & 0xffff;
        sum = u64::from(v4.src.get()).wrapping_add(v4.dst.get().into()).wrapping_add(l4_len);
    } else if let Some(v6) = V6::of(head) {
        (protocol, l4) = (v6.next, V6_L4);
        let len = u64::from(v6.payload_len.get());
        sum = v6.addresses.iter().fold(len, |sum, word| {
            sum.wrapping_add(word.get() >> 32).wrapping_add(word.get() & 0xffff_ffff)
        });
    } else {
        return false;
    }
    let field = match IpProtocol(protocol) {
        IpProtocol::TCP => l4.wrapping_add(16),
        IpProtocol::UDP => l4.wrapping_add(6),
        _ => return true,
    };
    let field = head.get(field..).and_then(|rest| rest.first_chunk()).copied();
    let field = field.map_or(0, u16::from_be_bytes);
    let sum = fold(sum.wrapping_add(protocol.into()));
    // Zero is no checksum, in UDP.
    field != sum || field == 0
}
