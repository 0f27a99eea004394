//! What encapsulation wants to know of the inner frame: its flow, and fields that are copied out.

use std::net::IpAddr;

use super::VtepConf;
use crate::wire::{EtherType, IpProtocol};

const ETH_HEADER: usize = 14;
const TAG: usize = 4;
const TAGS_MAX: usize = 2;

/// The IP header of an inner frame, as far as it concerns the outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerIp {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Where the header is in the frame.
    pub at: usize,
    /// IPv4, or else IPv6.
    pub v4: bool,
}

impl InnerIp {
    /// The IP header of a frame, behind at most two tags; `None` if there is none or it is cut
    /// short.
    #[inline]
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        let (ethertype, at) = network(head);
        let packet = head.get(at..)?;
        match ethertype {
            EtherType::IPV4 => Self::v4(packet, at),
            EtherType::IPV6 => Self::v6(packet, at),
            _ => None,
        }
    }

    #[inline]
    fn v4(packet: &[u8], at: usize) -> Option<Self> {
        let &[version_ihl, traffic_class, _, _, _, _, _, _, ttl, ..] =
            packet.first_chunk::<20>()?;
        let holds = version_ihl >> 4 == 4 && version_ihl & 0xf >= 5;
        holds.then_some(Self { traffic_class, ttl, at, v4: true })
    }

    #[inline]
    fn v6(packet: &[u8], at: usize) -> Option<Self> {
        let &[b0, b1, _, _, _, _, _, ttl, ..] = packet.first_chunk::<40>()?;
        let traffic_class = b0 << 4 | b1 >> 4;
        (b0 >> 4 == 6).then_some(Self { traffic_class, ttl, at, v4: false })
    }
}

/// The type of what a frame carries behind at most two tags, and where that is.
#[inline]
fn network(head: &[u8]) -> (EtherType, usize) {
    let mut at = ETH_HEADER;
    let mut ethertype = EtherType(word(head, at.wrapping_sub(2)));
    for _ in 0..TAGS_MAX {
        if !ethertype.is_vlan() {
            break;
        }
        at = at.wrapping_add(TAG);
        ethertype = EtherType(word(head, at.wrapping_sub(2)));
    }
    (ethertype, at)
}

/// An inner frame as encapsulation sees it.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    /// Its IP header, behind at most two tags; `None` if it is not IP or cut short.
    pub ip: Option<InnerIp>,
    /// A hash of its flow: addresses, protocol and ports of IP; addresses of anything else.
    ///
    /// The same for every frame of a flow, also for each fragment of a datagram: those have no
    /// ports in the hash. Not keyed: whoever picks his flows so that they share a source port only
    /// crowds his own path.
    pub hash: u32,
    /// Source and destination address of the IP packet.
    addresses: &'a [u8],
    /// Its protocol, and both ports if it has some.
    protocol: u8,
    ports: u32,
}

impl<'a> Inner<'a> {
    /// Reads the head of a frame.
    #[inline]
    #[must_use]
    pub fn of(head: &'a [u8]) -> Self {
        let (ethertype, at) = network(head);
        let packet = head.get(at..).unwrap_or_default();
        let found = match ethertype {
            EtherType::IPV4 => Self::v4(packet, at),
            EtherType::IPV6 => Self::v6(packet, at),
            _ => None,
        };
        found.unwrap_or_else(|| {
            // Both addresses of the frame.
            let macs = head.get(..12).unwrap_or_default();
            Self {
                ip: None,
                hash: finish(mix_bytes(0, macs)),
                addresses: &[],
                protocol: 0,
                ports: 0,
            }
        })
    }

    #[inline]
    fn v4(packet: &'a [u8], at: usize) -> Option<Self> {
        let ip = InnerIp::v4(packet, at)?;
        let &[version_ihl, _, _, _, _, _, f0, f1, _, protocol, ..] = packet.first_chunk::<20>()?;
        let header_len = usize::from(version_ihl & 0xf) << 2;
        // More fragments, or not the first one.
        let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff != 0;
        let addresses = packet.get(12..20)?;
        let ports = if fragment { 0 } else { ports(packet, protocol, header_len) };
        let hash = mix(mix_bytes(u64::from(protocol), addresses), u64::from(ports));
        Some(Self { ip: Some(ip), hash: finish(hash), addresses, protocol, ports })
    }

    #[inline]
    fn v6(packet: &'a [u8], at: usize) -> Option<Self> {
        let ip = InnerIp::v6(packet, at)?;
        let next = *packet.get(6)?;
        let addresses = packet.get(8..40)?;
        // Behind extension headers, fragments included, the addresses have to do.
        let ports = ports(packet, next, 40);
        let hash = mix(mix_bytes(u64::from(next), addresses), u64::from(ports));
        Some(Self { ip: Some(ip), hash: finish(hash), addresses, protocol: next, ports })
    }

    /// Whether the packet is one that `vtep` sent to `remote`: then it was encapsulated here already,
    /// and the route to the remote leads back into the overlay. Tenants may have the addresses of
    /// the underlay for their own; what they send is seldom a tunnel's.
    #[inline]
    #[must_use]
    pub fn was_sent_by(&self, vtep: &VtepConf, remote: IpAddr) -> bool {
        self.is_between(vtep.local, remote)
            && match IpProtocol(self.protocol) {
                IpProtocol::GRE => true,
                IpProtocol::UDP => vtep.udp.iter().any(|(port, _)| *port == self.ports as u16),
                _ => false,
            }
    }

    #[inline]
    fn is_between(&self, local: IpAddr, remote: IpAddr) -> bool {
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                self.addresses.split_first_chunk()
                    == Some((&local.octets(), remote.octets().as_slice()))
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                self.addresses.split_first_chunk()
                    == Some((&local.octets(), remote.octets().as_slice()))
            }
            _ => false,
        }
    }
}

#[inline]
fn word(head: &[u8], at: usize) -> u16 {
    let bytes = head.get(at..).and_then(|bytes| bytes.first_chunk()).copied();
    u16::from_be_bytes(bytes.unwrap_or_default())
}

/// Both ports of TCP, UDP or SCTP, which are at the same place; 0 for anything else.
#[inline]
fn ports(packet: &[u8], protocol: u8, at: usize) -> u32 {
    let bytes = packet.get(at..).and_then(|bytes| bytes.first_chunk()).copied();
    if has_ports(protocol) { u32::from_be_bytes(bytes.unwrap_or_default()) } else { 0 }
}

/// Whether it is TCP, UDP or SCTP.
#[inline]
pub(super) fn has_ports(protocol: u8) -> bool {
    const SCTP: u8 = 132;
    [IpProtocol::TCP.0, IpProtocol::UDP.0, SCTP].contains(&protocol)
}

/// One step of a multiply-and-fold hash.
#[inline]
pub(super) fn mix(hash: u64, value: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(hash ^ value).wrapping_mul(u128::from(ODD));
    (product >> 64) as u64 ^ product as u64
}

/// What a hash starts with, beside the protocol's number.
pub(super) const HASH_START: u64 = 0x517c_c1b7_2722_0a95;

/// The same for bytes: all that comes here is a multiple of 4.
#[inline]
fn mix_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = hash.wrapping_add(HASH_START);
    let (words, rest) = bytes.as_chunks();
    for word in words {
        hash = mix(hash, u64::from_be_bytes(*word));
    }
    match rest.first_chunk() {
        Some(half) => mix(hash, u64::from(u32::from_be_bytes(*half))),
        None => hash,
    }
}

#[inline]
pub(super) fn finish(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}
