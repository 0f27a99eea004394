//! Decapsulation: what a packet from the underlay carries, and for whom.
//!
//! Everything is checked before anything is changed: [`open`] looks, [`Opened::take_out`] cuts the
//! outer headers off. What an endpoint must drop it drops for a reason of its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{
    HeaderKind, InnerIp, NetworkKey, Overlay, PeerConf, Proto, TunnelConf, VtepConf, plain,
    unfinished, unfinished::Segments,
};
use crate::config::TunnelType;
use crate::drop::DropReason;
use crate::frame::{Csum, Frame, Offload};
use crate::segment::sum_range;
use crate::wire::ecn::{self, Ecn};
use crate::wire::{
    EtherType, Fragment, Geneve, GeneveHeader, Gre, Header, IpProtocol, Ipv4, Ipv4Header, Ipv6,
    Ipv6Header, Udp, UdpHeader, Vni, Vxlan, VxlanHeader, gre,
};

const ETH_HEADER: usize = 14;

/// A packet that was recognised as one of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// The tunnel it belongs to.
    pub tunnel: &'a Arc<TunnelConf>,
    /// Who sent it; `None` for somebody who is no peer, where the tunnel accepts anybody.
    pub peer: Option<&'a Arc<PeerConf>>,
    /// The outer source address.
    pub src: IpAddr,
    /// Where the GENEVE options are in the packet: from, to.
    pub options: (usize, usize),
    /// Where the inner frame begins.
    inner: usize,
    /// Where it ends.
    end: usize,
    ecn: Ecn,
}

/// Why a packet is not taken in, and whose it was as far as that was known.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Why.
    pub reason: DropReason,
    /// The tunnel it was for.
    pub tunnel: Option<&'a Arc<TunnelConf>>,
    /// The peer it was from.
    pub peer: Option<&'a Arc<PeerConf>>,
}

impl From<DropReason> for Refused<'_> {
    fn from(reason: DropReason) -> Self {
        Self { reason, tunnel: None, peer: None }
    }
}

/// The outer IP header, checked.
struct OuterIp<'f> {
    src: IpAddr,
    dst: IpAddr,
    traffic_class: u8,
    protocol: IpProtocol,
    payload: &'f [u8],
    /// Where the payload begins and ends in the packet.
    at: usize,
    end: usize,
}

impl OuterIp<'_> {
    fn payload_len(&self) -> usize {
        self.end.saturating_sub(self.at)
    }
}

/// Says what a packet carries that a VTEP received.
///
/// Looks at the state of a GRE sequence and changes it; nothing else.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn open<'a, F: Frame>(
    overlay: &'a Overlay,
    vtep: &VtepConf,
    frame: &F,
) -> Result<Opened<'a>, Refused<'a>> {
    let ip = outer_ip(frame.head(), frame.len())?;
    let accepted = ip.dst == vtep.local || vtep.groups.contains(&ip.dst);
    if !accepted || !is_a_hosts(ip.src, vtep.local) {
        return Err(DropReason::OuterAddress.into());
    }
    match ip.protocol {
        IpProtocol::UDP => open_udp(overlay, vtep, frame, &ip),
        IpProtocol::GRE => open_gre(overlay, vtep, frame, &ip),
        _ => Err(DropReason::TunnelUnknown.into()),
    }
}

/// The tunnel that a packet seems to be for, so that it can be fetched before it is needed. Nothing
/// is checked, and a packet with IP options is not understood.
#[inline]
pub fn guess<'a>(
    overlay: &'a Overlay,
    vtep: &VtepConf,
    head: &[u8],
) -> Option<&'a Arc<TunnelConf>> {
    let (protocol, payload) = match head.first()? >> 4 {
        4 => (head.get(9)?, head.get(Ipv4Header::LEN..)?),
        6 => (head.get(6)?, head.get(Ipv6Header::LEN..)?),
        _ => return None,
    };
    let network = match IpProtocol(*protocol) {
        // VXLAN and GENEVE have the VNI at the same place.
        IpProtocol::UDP => {
            let &[_, _, p0, p1, _, _, _, _, _, _, _, _, v0, v1, v2, _] = payload.first_chunk()?;
            let vni = Vni::new(u32::from_be_bytes([0, v0, v1, v2]))?;
            NetworkKey::udp(vtep.port, u16::from_be_bytes([p0, p1]), vni)
        }
        _ => {
            let &[_, _, _, _, k0, k1, k2, k3] = payload.first_chunk()?;
            NetworkKey::gre(vtep.port, Some(u32::from_be_bytes([k0, k1, k2, k3])))
        }
    };
    overlay.network(network)
}

/// Whether packets can come from there: from another host, and only from one.
#[inline]
pub(super) fn is_a_hosts(src: IpAddr, local: IpAddr) -> bool {
    let martian = match src {
        IpAddr::V4(src) => src.is_multicast() || src.is_broadcast(),
        IpAddr::V6(src) => src.is_multicast(),
    };
    // Two VTEPs on one host may talk over its loopback device.
    let loopback = src.is_loopback() && !local.is_loopback();
    !martian && !loopback && !src.is_unspecified() && src != local
}

#[inline(always)]
fn outer_ip(head: &[u8], len: usize) -> Result<OuterIp<'_>, DropReason> {
    const INVALID: DropReason = DropReason::OuterInvalid;
    match head.first().map(|byte| byte >> 4) {
        Some(4) => {
            let ip = Ipv4::parse_head(head, len).map_err(|_| INVALID)?;
            let header = ip.header();
            if header.ttl() == 0 || !ip.checksum_ok() {
                return Err(INVALID);
            }
            if header.fragment() != Fragment::Whole {
                return Err(DropReason::OuterFragment);
            }
            Ok(OuterIp {
                src: header.src().into(),
                dst: header.dst().into(),
                traffic_class: header.traffic_class(),
                protocol: header.protocol(),
                payload: ip.payload(),
                at: Ipv4Header::LEN.saturating_add(ip.options().len()),
                end: header.total_len().into(),
            })
        }
        Some(6) => {
            let ip = Ipv6::parse_head(head, len).map_err(|_| INVALID)?;
            let header = ip.header();
            if header.hop_limit() == 0 {
                return Err(INVALID);
            }
            if ip.fragment() != Fragment::Whole {
                return Err(DropReason::OuterFragment);
            }
            let at = Ipv6Header::LEN.saturating_add(ip.extensions().len());
            Ok(OuterIp {
                src: header.src().into(),
                dst: header.dst().into(),
                traffic_class: header.traffic_class(),
                protocol: ip.protocol(),
                payload: ip.payload(),
                at,
                end: at.saturating_add(ip.payload_len()),
            })
        }
        _ => Err(INVALID),
    }
}

#[inline]
fn open_udp<'a, F: Frame>(
    overlay: &'a Overlay,
    vtep: &VtepConf,
    frame: &F,
    ip: &OuterIp<'_>,
) -> Result<Opened<'a>, Refused<'a>> {
    let udp =
        Udp::parse_head(ip.payload, ip.payload_len()).map_err(|_| DropReason::OuterInvalid)?;
    let port = udp.header().dst();
    let kind = vtep.udp.iter().find(|(listens, _)| *listens == port).map(|(_, kind)| *kind);
    let at = ip.at.saturating_add(UdpHeader::LEN);
    let end = at.saturating_add(udp.payload_len());
    let has_checksum = udp.header().checksum() != 0;
    if has_checksum && frame.offload().csum == Csum::Unknown && !udp_checksum_ok(frame, ip, end) {
        return Err(DropReason::OuterInvalid.into());
    }
    let (vni, header_len, options, reserved, geneve) = match kind {
        Some(TunnelType::Vxlan) => {
            let vxlan = Vxlan::parse(udp.payload()).map_err(|_| DropReason::TunnelHeader)?;
            let header = vxlan.header();
            (header.vni(), VxlanHeader::LEN, 0_usize, header.reserved_bits_set(), None)
        }
        Some(TunnelType::Geneve) => {
            let geneve = Geneve::parse_head(udp.payload(), udp.payload_len())
                .map_err(|_| DropReason::TunnelHeader)?;
            let len = geneve.header_len();
            (geneve.header().vni(), len, len.saturating_sub(GeneveHeader::LEN), false, Some(geneve))
        }
        _ => return Err(DropReason::TunnelUnknown.into()),
    };
    let (proto, network) = (Proto::Udp(port), NetworkKey::udp(vtep.port, port, vni));
    let Some(tunnel) = overlay.network(network) else {
        return Err(DropReason::TunnelUnknown.into());
    };
    let peer = overlay.peer_at(vtep.port, proto, ip.src);
    let refuse = |reason| Err(Refused { reason, tunnel: Some(tunnel), peer });
    // RFC 6935 permits datagrams without a checksum over IPv6 only where both ends agree on it. A
    // backend whose kernel looked says that it is fine.
    let unsummed = !has_checksum && ip.src.is_ipv6() && frame.offload().csum != Csum::Verified;
    if unsummed && tunnel.udp_checksum {
        return refuse(DropReason::OuterInvalid);
    }
    if !tunnel.accepts.peer(peer.map(|peer| peer.id)) {
        return refuse(DropReason::TunnelPeer);
    }
    if reserved && tunnel.strict_reserved {
        return refuse(DropReason::TunnelReserved);
    }
    if let Some(geneve) = geneve
        && let Err(reason) = check_geneve(&geneve, tunnel)
    {
        return refuse(reason);
    }
    let inner = at.saturating_add(header_len);
    let opened = Opened {
        tunnel,
        peer,
        src: ip.src,
        options: (inner.saturating_sub(options), inner),
        inner,
        end,
        ecn: Ecn::of(ip.traffic_class),
    };
    opened.long_enough()
}

/// RFC 8926 §3.4 and §3.5, for an endpoint.
fn check_geneve(geneve: &Geneve<'_>, tunnel: &TunnelConf) -> Result<(), DropReason> {
    let header = geneve.header();
    if header.is_control() {
        return Err(DropReason::GeneveControl);
    }
    let options = geneve.options().map_err(|_| DropReason::GeneveOptions)?;
    // The option's own bit decides; the header's C flag is a summary for those who skip options.
    let unknown = |class, typ| !tunnel.known_options.contains(&(class, typ));
    if options.any_critical()
        && options.iter().any(|option| option.is_critical() && unknown(option.class, option.typ))
    {
        return Err(DropReason::GeneveCritical);
    }
    if header.protocol() == EtherType::TEB { Ok(()) } else { Err(DropReason::TunnelProtocol) }
}

fn open_gre<'a, F: Frame>(
    overlay: &'a Overlay,
    vtep: &VtepConf,
    frame: &F,
    ip: &OuterIp<'_>,
) -> Result<Opened<'a>, Refused<'a>> {
    let packet =
        Gre::parse_head(ip.payload, ip.payload_len()).map_err(|_| DropReason::TunnelHeader)?;
    if packet.header().protocol() != EtherType::TEB {
        return Err(DropReason::TunnelProtocol.into());
    }
    let key = packet.key();
    let exact = overlay.network(NetworkKey::gre(vtep.port, key));
    let by_vsid = || {
        let (vsid, _) = gre::split_nvgre_key(key?);
        overlay.network(NetworkKey::nvgre(vtep.port, vsid))
    };
    let Some(tunnel) = exact.or_else(by_vsid) else {
        return Err(DropReason::TunnelUnknown.into());
    };
    let peer = overlay.peer_at(vtep.port, Proto::Gre, ip.src);
    let refuse = |reason| Err(Refused { reason, tunnel: Some(tunnel), peer });
    if !tunnel.accepts.peer(peer.map(|peer| peer.id)) {
        return refuse(DropReason::TunnelPeer);
    }
    // NVGRE has neither (RFC 7637 §3.2).
    let nvgre = tunnel.header.kind == HeaderKind::Nvgre;
    if nvgre && (packet.checksum().is_some() || packet.sequence().is_some()) {
        return refuse(DropReason::TunnelHeader);
    }
    if packet.checksum().is_some() && sum_range(frame, ip.at..ip.end).finish() != 0 {
        return refuse(DropReason::GreChecksum);
    }
    if let (Some(number), Some(peer)) = (packet.sequence(), peer)
        && !in_order(tunnel, peer, number)
    {
        return refuse(DropReason::GreSequence);
    }
    let inner = ip.at.saturating_add(packet.header_len());
    let opened = Opened {
        tunnel,
        peer,
        src: ip.src,
        options: (inner, inner),
        inner,
        end: ip.end,
        ecn: Ecn::of(ip.traffic_class),
    };
    opened.long_enough()
}

/// Whether a packet comes after all that were accepted (RFC 2890 §2.2). A tunnel that does not
/// number its packets does not look at the others' numbers.
fn in_order(tunnel: &TunnelConf, peer: &PeerConf, number: u32) -> bool {
    const ANY_YET: u64 = 1 << 32;
    let Some(sequence) = tunnel.sequence(peer.id) else { return true };
    let last = sequence.rx.load(Ordering::Relaxed);
    // Ahead by less than half of the range; 0 is where a peer that was restarted begins, and after a
    // 0 it is the same packet once more.
    let ahead = number.wrapping_sub(last as u32);
    let restarted = number == 0 && ahead != 0;
    let fits = last & ANY_YET == 0 || restarted || (1..1 << 31).contains(&ahead);
    if fits {
        sequence.rx.store(ANY_YET | u64::from(number), Ordering::Relaxed);
    }
    fits
}

/// Whether a UDP checksum that is there is right.
fn udp_checksum_ok<F: Frame>(frame: &F, ip: &OuterIp<'_>, end: usize) -> bool {
    let mut sum = sum_range(frame, ip.at..end);
    let len = end.saturating_sub(ip.at);
    // Behind an even number of bytes, or a last one that a zero is thought to follow.
    if len % 2 == 1 {
        sum.add_bytes(&[0]);
    }
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            sum.add_pseudo_v4(src, dst, IpProtocol::UDP, len as u16);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            sum.add_pseudo_v6(src, dst, IpProtocol::UDP, len as u32);
        }
        _ => return false,
    }
    sum.finish() == 0
}

impl<'a> Opened<'a> {
    #[inline]
    fn long_enough(self) -> Result<Self, Refused<'a>> {
        if self.end.saturating_sub(self.inner) < ETH_HEADER {
            return Err(self.refused(DropReason::InnerRunt));
        }
        Ok(self)
    }

    /// A packet of a peer whose inner frame begins at `inner`, and that has no options.
    #[inline]
    pub(super) const fn bare(
        tunnel: &'a Arc<TunnelConf>,
        peer: &'a Arc<PeerConf>,
        src: IpAddr,
        inner: usize,
        ecn: Ecn,
    ) -> Self {
        Self { tunnel, peer: Some(peer), src, options: (inner, inner), inner, end: inner, ecn }
    }

    /// Another packet ends there, and is the same otherwise.
    #[inline(always)]
    pub(super) const fn set_end(&mut self, end: usize) {
        self.end = end;
    }

    /// The same packet, refused after all.
    #[must_use]
    pub fn refused(&self, reason: DropReason) -> Refused<'a> {
        Refused { reason, tunnel: Some(self.tunnel), peer: self.peer }
    }

    /// Leaves the inner frame alone: outer headers and padding go, congestion that the underlay met
    /// is marked (RFC 6040 §4.2), and an inner checksum that nobody finished is known as such. A packet
    /// that a backend joined of several says of what size (`Gso`), of what is inside.
    ///
    /// # Errors
    /// [`DropReason::EcnDropped`]; the frame is to be dropped.
    #[inline(always)]
    pub fn take_out<F: Frame>(&self, frame: &mut F) -> Result<(), Refused<'a>> {
        if self.end < frame.len() {
            frame.truncate(self.end);
        }
        let size = frame.offload().gso.map(|gso| gso.size);
        // The outer checksum's state says nothing about the inner one's.
        frame.set_offload(Offload::NONE);
        if frame.trim_front(self.inner).is_err() {
            return Err(self.refused(DropReason::TunnelHeader));
        }
        if self.ecn == Ecn::NotEct && plain::is_finished(frame.head()) {
            return Ok(());
        }
        self.carry_over(frame, size)
    }

    /// What is left of [`Self::take_out`] where the outer header, or a sender in a hurry, has
    /// something to say about the inner packet.
    #[inline(never)]
    fn carry_over<F: Frame>(&self, frame: &mut F, size: Option<u16>) -> Result<(), Refused<'a>> {
        let Some(ip) = InnerIp::of(frame.head()) else { return Ok(()) };
        let csum = unfinished::state(frame.head(), frame.len(), ip);
        if let Csum::Partial { start, offset } = csum {
            let (head, len, left) = (frame.head(), frame.len(), (start, offset));
            let uncut = match (size, self.room()) {
                (Some(size), _) => Some(Segments::Of(size)),
                (None, Some(room)) if len > room => Some(Segments::Within(room)),
                _ => None,
            };
            let uncut = uncut.and_then(|cut| unfinished::uncut(head, len, cut, ip.v4, left));
            frame.set_offload(uncut.unwrap_or(Offload { csum, gso: None }));
        }
        if self.ecn == Ecn::NotEct { Ok(()) } else { self.mark(frame, ip) }
    }

    /// Longest inner frame that a packet of the path's MTU has room for behind these outer headers.
    fn room(&self) -> Option<usize> {
        let path = self.peer?.state.path_mtu() as usize;
        path.checked_sub(self.inner)
    }

    /// Carries the outer ECN field over to the inner packet.
    #[inline(never)]
    fn mark<F: Frame>(&self, frame: &mut F, ip: InnerIp) -> Result<(), Refused<'a>> {
        let inner = Ecn::of(ip.traffic_class);
        let Ok(ecn) = ecn::decap(inner, self.ecn) else {
            return Err(self.refused(DropReason::EcnDropped));
        };
        if ecn != inner {
            let class = ecn.in_traffic_class(ip.traffic_class);
            let head = frame.head_mut();
            if ip.v4 {
                if let Ok(header) = Ipv4Header::at_mut(head, ip.at) {
                    header.set_traffic_class(class);
                }
            } else if let Ok(header) = Ipv6Header::at_mut(head, ip.at) {
                header.set_traffic_class(class);
            }
        }
        Ok(())
    }
}
