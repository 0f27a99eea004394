//! The plain case of decapsulation: packets with bare headers, whose sender and network are those of
//! the packet before or can be looked up at once.
//!
//! A bare packet differs from others of its kind in a few fields; all the rest of its headers is
//! compared as five words. What does not fit here goes to [`open`](super::open), which alone says
//! why a packet is not taken.

use std::net::{IpAddr, Ipv4Addr};

use super::decap::is_a_hosts;
use super::{NetworkKey, Opened, Overlay, Proto, VtepConf};
use crate::config::TunnelType;
use crate::wire::checksum::fold;
use crate::wire::ecn::Ecn;
use crate::wire::{EtherType, IpProtocol, UdpHeader, Vni};

/// IPv4, UDP, and a header of eight bytes: VXLAN, or GENEVE without options.
const LEN: usize = 36;
const IPV4: usize = 20;
const ETHERNET: usize = 14;

const _: () = assert!(LEN == IPV4 + UdpHeader::LEN + 8);

/// Of the first 32 bytes what may not differ: not DSCP, lengths, identification, DF, TTL, the header's
/// checksum, the source's address and port. The network follows.
const MASK: Words = Words(
    u64::from_ne_bytes([0xff, 0x03, 0, 0, 0, 0, 0x3f, 0xff]),
    u64::from_ne_bytes([0, 0xff, 0, 0, 0, 0, 0, 0]),
    u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff]),
    u64::from_ne_bytes([0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
);

/// The first 32 bytes of a packet. Not an array: that was written to memory and read back in other
/// pieces, for which the processor waits.
#[derive(Clone, Copy, Debug, Default)]
struct Words(u64, u64, u64, u64);

impl Words {
    #[inline(always)]
    const fn of(outer: &[u8; LEN]) -> Self {
        let (words, _) = outer.as_chunks::<8>();
        let [a, b, c, d] = words else { return Self(0, 0, 0, 0) };
        Self(
            u64::from_ne_bytes(*a),
            u64::from_ne_bytes(*b),
            u64::from_ne_bytes(*c),
            u64::from_ne_bytes(*d),
        )
    }

    /// Without what may differ.
    #[inline(always)]
    const fn masked(self) -> Self {
        Self(self.0 & MASK.0, self.1 & MASK.1, self.2 & MASK.2, self.3 & MASK.3)
    }

    /// Not 0 if any word is another.
    #[inline(always)]
    const fn differs(self, other: Self) -> u64 {
        (self.0 ^ other.0) | (self.1 ^ other.1) | (self.2 ^ other.2) | (self.3 ^ other.3)
    }
}

/// Knows bare packets to one VTEP, and what the last one of them was taken for.
#[derive(Debug)]
pub struct Known<'a> {
    overlay: &'a Overlay,
    vtep: &'a VtepConf,
    local: Ipv4Addr,
    /// What packets to the UDP port of the last one have in common.
    words: Words,
    /// Its source address and the last word of its tunnel header, as they are on the wire.
    from: (u32, u32),
    /// What it was taken for; `None` at the start, and if it was for [`open`](super::open).
    opened: Option<Opened<'a>>,
}

impl<'a> Known<'a> {
    /// Knows nothing yet. `None` for a VTEP that no packet is bare to.
    pub fn new(overlay: &'a Overlay, vtep: &'a VtepConf) -> Option<Self> {
        let IpAddr::V4(local) = vtep.local else { return None };
        let known =
            Self { overlay, vtep, local, words: Words::default(), from: (0, 0), opened: None };
        (!vtep.udp.is_empty()).then_some(known)
    }

    /// What a packet of `len` bytes is taken for that begins with `head`; `None` if that cannot be
    /// told here.
    #[inline(always)]
    pub fn open(&mut self, head: &[u8], len: usize) -> Option<&Opened<'a>> {
        // The inner Ethernet header has to be there, too.
        let outer: &[u8; LEN] = head.first_chunk::<{ LEN + ETHERNET }>()?.first_chunk()?;
        let (words, from) = (Words::of(outer), from(outer));
        let another = u64::from(from.0 ^ self.from.0) | u64::from(from.1 ^ self.from.1);
        if another | words.masked().differs(self.words) != 0 {
            self.look_up(outer);
        }
        let opened = self.opened.as_mut()?;
        let total = u16::from_be_bytes([outer[2], outer[3]]);
        let datagram = u16::from_be_bytes([outer[24], outer[25]]);
        let end = usize::from(total);
        let holds = outer[8] != 0
            && header_sum(words, outer) == 0xffff
            && datagram == total.wrapping_sub(IPV4 as u16)
            && (LEN + ETHERNET..=len).contains(&end);
        opened.set_end(end);
        holds.then_some(&*opened)
    }

    /// Looks for the sender and the network of a packet that has another than the last one.
    #[inline(never)]
    fn look_up(&mut self, outer: &[u8; LEN]) {
        self.words = Words::of(outer).masked();
        self.from = from(outer);
        self.opened = self.opened(outer);
    }

    /// What such a packet is taken for, if the rest of it is right.
    fn opened(&self, outer: &[u8; LEN]) -> Option<Opened<'a>> {
        let [version, class, _, _, _, _, f0, f1, _, protocol, _, _, ref rest @ ..] = *outer;
        let [s0, s1, s2, s3, d0, d1, d2, d3, _, _, p0, p1, ref rest @ ..] = *rest;
        let [_, _, c0, c1, t0, t1, t2, t3, v0, v1, v2, reserved] = *rest;
        let bare = version == 0x45
            && class & 3 == 0
            && [f0 & 0x3f, f1, c0, c1, reserved] == [0; 5]
            && protocol == IpProtocol::UDP.0
            && [d0, d1, d2, d3] == self.local.octets();
        if !bare {
            return None;
        }
        let port = u16::from_be_bytes([p0, p1]);
        let (_, kind) = self.vtep.udp.iter().find(|(listens, _)| *listens == port)?;
        let [e0, e1] = EtherType::TEB.0.to_be_bytes();
        let header = match kind {
            TunnelType::Vxlan => [0x08, 0, 0, 0],
            TunnelType::Geneve => [0, 0, e0, e1],
            TunnelType::Gre | TunnelType::Nvgre | TunnelType::Erspan => return None,
        };
        let src = IpAddr::from([s0, s1, s2, s3]);
        if [t0, t1, t2, t3] != header || !is_a_hosts(src, self.vtep.local) {
            return None;
        }
        let vni = Vni::from_be_bytes([v0, v1, v2]);
        let tunnel = self.overlay.network(NetworkKey::udp(self.vtep.port, port, vni))?;
        let peer = self.overlay.peer_at(self.vtep.port, Proto::Udp(port), src)?;
        let accepted = tunnel.accepts.peer(Some(peer.id));
        accepted.then(|| Opened::bare(tunnel, peer, src, LEN, Ecn::NotEct))
    }
}

/// The source address and the word with the network.
#[inline(always)]
fn from(outer: &[u8; LEN]) -> (u32, u32) {
    let word = |bytes: Option<&[u8; 4]>| u32::from_ne_bytes(bytes.copied().unwrap_or_default());
    let src = outer.get(12..).and_then(|rest| rest.first_chunk());
    (word(src), word(outer.last_chunk()))
}

/// The ones' complement sum of the IPv4 header: 0xffff if its checksum is right.
#[inline(always)]
fn header_sum(Words(first, second, ..): Words, outer: &[u8; LEN]) -> u16 {
    let dst = outer.get(16..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    let halves = [first >> 32, first & 0xffff_ffff, second >> 32, second & 0xffff_ffff];
    let sum =
        halves.iter().fold(u64::from(u32::from_ne_bytes(dst)), |sum, half| sum.wrapping_add(*half));
    fold(sum)
}
