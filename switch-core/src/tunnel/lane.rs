//! The plain case of encapsulation: frames that all get the same outer headers but for four fields.
//!
//! Most frames of a burst go through one tunnel to one peer, and most are IP in untagged Ethernet.
//! For these all that may vary is decided once, and every frame costs copies of known length and a
//! few words. What does not fit here takes the general way: there is nothing that this
//! one does differently.

use super::outer::{ENTROPY_FIRST, V4_UDP};
use super::plain::Plain;
use super::{HeaderKind, PeerConf, TunnelConf};
use crate::config::{Dscp, Ttl};
use crate::frame::{Frame, Offload};

/// What follows IPv4 and UDP: VXLAN, or GENEVE without options.
const HEADER: usize = 8;
const LEN: usize = V4_UDP + HEADER;
/// Longest frame that an IPv4 packet holds behind all that.
const INNER_MAX: usize = u16::MAX as usize - LEN;
const IPV4: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;

/// What a tunnel puts into the outer headers of all plain frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneHeader {
    header: [u8; HEADER],
    traffic_class: u8,
    ttl: u8,
}

impl LaneHeader {
    /// `None` where frames differ in more than the length, the flow and the ECN field.
    pub(super) fn new(tunnel: &TunnelConf) -> Option<Self> {
        let (Ttl::Set(ttl), Dscp::Set(dscp)) = (tunnel.ttl, tunnel.dscp) else { return None };
        let (header, []) = tunnel.header.bytes.split_first_chunk()? else { return None };
        let constant = matches!(tunnel.header.kind, HeaderKind::Vxlan | HeaderKind::Geneve)
            && tunnel.df
            && !tunnel.udp_checksum
            && !tunnel.mss_clamp;
        constant.then_some(Self { header: *header, traffic_class: dscp << 2, ttl })
    }
}

/// The outer headers of plain frames that go through one tunnel to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    outer: &'a [u8; V4_UDP],
    tunnel: LaneHeader,
    /// The sum of the IPv4 header's words, without the length of the frame and its ECN field.
    sum: u32,
    /// Longest frame that fits the path.
    max: usize,
    /// The addresses of VTEP and peer, as they follow one another in a header.
    pair: u64,
}

impl<'a> Lane<'a> {
    /// The lane through `tunnel` to `peer`, if there is one.
    #[inline]
    pub fn new(tunnel: &TunnelConf, peer: &'a PeerConf) -> Option<Self> {
        let (header, (outer, sum)) = (tunnel.lane?, peer.outer.v4_udp()?);
        let constant = u32::from(header.traffic_class)
            .wrapping_add(u32::from(header.ttl) << 8)
            .wrapping_add(u32::from(DONT_FRAGMENT))
            .wrapping_add(LEN as u32);
        let path = peer.state.path_mtu() as usize;
        Some(Self {
            outer,
            tunnel: header,
            sum: sum.wrapping_add(constant),
            max: path.saturating_sub(LEN).min(INNER_MAX),
            pair: u64::from_be_bytes(*outer.get(12..)?.first_chunk()?),
        })
    }

    /// Encapsulates a frame that is to leave without a tag, if it is a plain one that fits. False,
    /// with the frame unchanged, for any other.
    #[inline(always)]
    pub fn encap<F: Frame>(&self, frame: &mut F) -> bool {
        let len = frame.len();
        if len > self.max || !frame.is_finished() {
            return false;
        }
        let Some(inner) = Plain::of(frame.head()) else { return false };
        // Perhaps it was encapsulated here before.
        if inner.pair == self.pair {
            return false;
        }
        let Some(front) = frame.prepend(LEN).ok().and_then(|front| front.first_chunk_mut()) else {
            return false;
        };
        self.write(front, len as u16, &inner);
        // What is known of the inner checksum says nothing about the outer one.
        frame.set_offload(Offload::NONE);
        true
    }

    #[inline(always)]
    fn write(&self, out: &mut [u8; LEN], len: u16, inner: &Plain) {
        let total = len.wrapping_add(LEN as u16).to_be_bytes();
        let udp = len.wrapping_add((LEN - IPV4) as u16).to_be_bytes();
        let port = (ENTROPY_FIRST | inner.hash as u16).to_be_bytes();
        let sum = self.sum.wrapping_add(len.into()).wrapping_add(inner.ecn.into());
        let sum = (sum & 0xffff).wrapping_add(sum >> 16);
        let checksum = !((sum & 0xffff).wrapping_add(sum >> 16) as u16);
        let (outer, header) = out.split_at_mut(V4_UDP);
        outer.copy_from_slice(self.outer);
        header.copy_from_slice(&self.tunnel.header);
        out[1] = self.tunnel.traffic_class | inner.ecn;
        [out[2], out[3]] = total;
        [out[6], out[7]] = DONT_FRAGMENT.to_be_bytes();
        out[8] = self.tunnel.ttl;
        [out[10], out[11]] = checksum.to_be_bytes();
        [out[20], out[21]] = port;
        [out[24], out[25]] = udp;
    }
}
