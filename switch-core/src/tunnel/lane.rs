//! The plain case of encapsulation: frames that all get the same outer headers but for four fields.
//!
//! Most frames of a burst go through one tunnel to one peer, and most are IP in untagged Ethernet.
//! For these the headers are made once, by [`encap`](super::encap) itself, and every frame costs a
//! copy of known length. What does not fit here takes the general way: there is nothing that this
//! one does differently.

use std::net::IpAddr;

use super::outer::{ENTROPY_FIRST, OuterFields};
use super::plain::Plain;
use super::{HeaderKind, PeerConf, TunnelConf, VtepConf};
use crate::config::{Dscp, Ttl};
use crate::frame::{Csum, Frame, Offload};

/// IPv4, UDP, and a header of eight bytes: VXLAN, or GENEVE without options.
const LEN: usize = 36;
/// Longest frame that an IPv4 packet holds behind them.
const INNER_MAX: usize = u16::MAX as usize - LEN;

/// The outer headers of plain frames that go through one tunnel to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// As they are in front of a frame of no bytes that is not IP.
    bytes: [u8; LEN],
    /// The sum of the IPv4 header's words, without the checksum.
    sum: u32,
    /// Longest frame that fits the path.
    max: usize,
    /// The addresses of VTEP and peer, as they follow one another in a header.
    pair: u64,
}

impl Lane {
    /// The lane from `vtep` through `tunnel` to `peer`, or `None` where frames differ in more than
    /// the length, the flow and the ECN field.
    pub fn new(vtep: &VtepConf, tunnel: &TunnelConf, peer: &PeerConf) -> Option<Self> {
        let (IpAddr::V4(local), IpAddr::V4(remote)) = (vtep.local, peer.addr) else { return None };
        let (Ttl::Set(ttl), Dscp::Set(dscp)) = (tunnel.ttl, tunnel.dscp) else { return None };
        if !matches!(tunnel.header.kind, HeaderKind::Vxlan | HeaderKind::Geneve)
            || !tunnel.df
            || tunnel.udp_checksum
            || tunnel.mss_clamp
        {
            return None;
        }
        let Some((header, [])) = tunnel.header.bytes.split_first_chunk::<8>() else { return None };
        let fields = OuterFields {
            payload: header.len() as u16,
            traffic_class: dscp << 2,
            ttl,
            df: true,
            id: 0,
            hash: 0,
            udp_checksum: false,
        };
        let mut bytes = [0; LEN];
        let (outer, room) = bytes.split_at_mut_checked(peer.outer.len())?;
        *room.first_chunk_mut()? = *header;
        if room.len() != header.len() || !peer.outer.write(outer, &fields) {
            return None;
        }
        let checksum = u16::from_be_bytes([*bytes.get(10)?, *bytes.get(11)?]);
        let path = peer.state.path_mtu() as usize;
        Some(Self {
            bytes,
            sum: u32::from(!checksum),
            max: path.saturating_sub(LEN).min(INNER_MAX),
            pair: u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()),
        })
    }

    /// Encapsulates a frame that is to leave without a tag, if it is a plain one that fits. False,
    /// with the frame unchanged, for any other.
    #[inline(always)]
    pub fn encap<F: Frame>(&self, frame: &mut F) -> bool {
        let (len, offload) = (frame.len(), frame.offload());
        if len > self.max || !offload.is_finished() {
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
        if offload.csum != Csum::Unknown {
            frame.set_offload(Offload::NONE);
        }
        true
    }

    #[inline(always)]
    fn write(&self, out: &mut [u8; LEN], len: u16, inner: &Plain) {
        let total = len.wrapping_add(LEN as u16).to_be_bytes();
        let udp = len.wrapping_add(16).to_be_bytes();
        let port = (ENTROPY_FIRST | inner.hash as u16).to_be_bytes();
        let sum = self.sum.wrapping_add(len.into()).wrapping_add(inner.ecn.into());
        let sum = (sum & 0xffff).wrapping_add(sum >> 16);
        let checksum = !((sum & 0xffff).wrapping_add(sum >> 16) as u16);
        *out = self.bytes;
        out[1] |= inner.ecn;
        [out[2], out[3]] = total;
        [out[10], out[11]] = checksum.to_be_bytes();
        [out[20], out[21]] = port;
        [out[24], out[25]] = udp;
    }
}
