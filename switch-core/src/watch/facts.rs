//! What a filter asks of a frame: addresses, VLAN, protocols and ports, of it and of what it carries
//! through a tunnel.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use crate::config::{Snapshot, TunnelType};
use crate::ids::PortId;
use crate::tunnel::VtepConf;
use crate::wire::{
    ArpPacket, EtherType, Geneve, Gre, IpProtocol, Ipv4, Ipv6, MacAddr, TagStack, Tcp, Udp, Vxlan,
};

/// One packet in another: the frame itself, or outer and inner.
const LEVELS: usize = 2;

/// What is known of a frame: outer and inner headers, the outer ones first.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub(super) levels: ArrayVec<Level, LEVELS>,
    /// VNI or GRE key; of NVGRE, the VSID with the flow's number behind it.
    pub(super) vni: Option<u32>,
}

/// Headers from Ethernet, where there is one, to TCP or UDP.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Level {
    pub(super) len: usize,
    /// Source and destination.
    pub(super) macs: Option<(MacAddr, MacAddr)>,
    pub(super) ethertype: Option<EtherType>,
    /// Of the tag, or that which the port gives an untagged frame; none for 0.
    pub(super) vlan: Option<u16>,
    /// Source and destination; of ARP, those that it speaks of.
    pub(super) hosts: Option<(IpAddr, IpAddr)>,
    pub(super) protocol: Option<IpProtocol>,
    /// Source and destination.
    pub(super) ports: Option<(u16, u16)>,
}

impl Facts {
    /// Of a frame of `len` bytes that begins with `head`, as it is on that port.
    pub fn of(snapshot: &Snapshot, port: PortId, head: &[u8], len: usize) -> Self {
        let mut facts = Self::default();
        if let Some(vtep) = snapshot.overlay().vtep(port) {
            let mut outer = Level { len, ..Level::default() };
            let ethertype = match head.first().map(|byte| byte >> 4) {
                Some(6) => EtherType::IPV6,
                _ => EtherType::IPV4,
            };
            outer.ethertype = Some(ethertype);
            let payload = outer.read_packet(ethertype, head, len);
            let inner = payload.and_then(|(payload, len)| facts.open(vtep, &outer, payload, len));
            facts.levels.push(outer);
            facts.levels.extend(inner.map(|(head, len)| Level::of_frame(head, len, None)));
        } else {
            let pvid = snapshot.port(port).and_then(|port| port.vlans.pvid);
            return Self::of_frame(head, len, pvid);
        }
        facts
    }

    /// Of a frame of a bridge of `len` bytes that begins with `head`. `pvid` is the VLAN of frames
    /// without a tag where it is.
    pub(crate) fn of_frame(head: &[u8], len: usize, pvid: Option<u16>) -> Self {
        let mut facts = Self::default();
        facts.levels.push(Level::of_frame(head, len, pvid));
        facts
    }

    /// The VLAN that the frame itself is in, if it is in one.
    pub(crate) fn vlan(&self) -> Option<u16> {
        self.levels.first()?.vlan
    }

    /// What a tunnel's packet carries, with its length.
    fn open<'a>(
        &mut self,
        vtep: &VtepConf,
        outer: &Level,
        payload: &'a [u8],
        len: usize,
    ) -> Option<(&'a [u8], usize)> {
        let (inner, network) = if outer.protocol == Some(IpProtocol::UDP) {
            let port = outer.ports?.1;
            match vtep.udp.iter().find(|(udp, _)| *udp == port)?.1 {
                TunnelType::Geneve => {
                    let geneve = Geneve::parse_head(payload, len).ok()?;
                    (geneve.payload(), geneve.header().vni().get())
                }
                _ => {
                    let vxlan = Vxlan::parse(payload).ok()?;
                    (vxlan.payload(), vxlan.header().vni().get())
                }
            }
        } else {
            let gre = Gre::parse_head(payload, len).ok()?;
            (gre.payload(), gre.key()?)
        };
        self.vni = Some(network);
        Some((inner, len.saturating_sub(payload.len().saturating_sub(inner.len()))))
    }
}

impl Level {
    fn of_frame(head: &[u8], len: usize, pvid: Option<u16>) -> Self {
        let mut level = Self { len, ..Self::default() };
        let Ok(tags) = TagStack::parse(head) else { return level };
        level.macs = Some((tags.src(), tags.dst()));
        level.ethertype = Some(tags.ethertype());
        let tagged = tags.outer().map(|tag| tag.tci().vid()).filter(|vid| *vid != 0);
        level.vlan = tagged.or(pvid).filter(|vid| *vid != 0);
        let l3 = tags.l3_offset();
        let packet = head.get(l3..).unwrap_or_default();
        level.read_packet(tags.ethertype(), packet, len.saturating_sub(l3));
        level
    }

    /// Reads layers 3 and 4. Answers with what UDP or GRE carries, and its length.
    fn read_packet<'a>(
        &mut self,
        ethertype: EtherType,
        packet: &'a [u8],
        len: usize,
    ) -> Option<(&'a [u8], usize)> {
        let (body, body_len) = match ethertype {
            EtherType::IPV4 => {
                let ip = Ipv4::parse_head(packet, len).ok()?;
                let header = ip.header();
                self.hosts = Some((header.src().into(), header.dst().into()));
                self.protocol = Some(header.protocol());
                header.fragment().has_transport().then(|| (ip.payload(), ip.payload_len()))?
            }
            EtherType::IPV6 => {
                let ip = Ipv6::parse_head(packet, len).ok()?;
                self.hosts = Some((ip.header().src().into(), ip.header().dst().into()));
                self.protocol = Some(ip.protocol());
                ip.fragment().has_transport().then(|| (ip.payload(), ip.payload_len()))?
            }
            EtherType::ARP => {
                let (arp, _) = ArpPacket::parse(packet).ok()?;
                self.hosts = Some((arp.sender_ip().into(), arp.target_ip().into()));
                return None;
            }
            _ => return None,
        };
        match self.protocol? {
            IpProtocol::TCP => {
                let tcp = Tcp::parse_head(body, body_len).ok()?;
                self.ports = Some((tcp.header().src(), tcp.header().dst()));
                None
            }
            IpProtocol::UDP => {
                let udp = Udp::parse_head(body, usize::from(u16::MAX)).ok()?;
                self.ports = Some((udp.header().src(), udp.header().dst()));
                Some((udp.payload(), udp.payload_len()))
            }
            IpProtocol::GRE => Some((body, body_len)),
            _ => None,
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, level) in self.levels.iter().enumerate() {
            match self.vni {
                Some(vni) if at > 0 => write!(f, " with network {vni}: ")?,
                _ => {}
            }
            level.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((src, dst)) = self.macs {
            write!(f, "{src} > {dst} ")?;
        }
        match (self.ethertype, self.protocol) {
            (Some(EtherType::ARP), _) => f.write_str("arp")?,
            (_, Some(IpProtocol::TCP)) => f.write_str("tcp")?,
            (_, Some(IpProtocol::UDP)) => f.write_str("udp")?,
            (_, Some(IpProtocol::ICMP)) => f.write_str("icmp")?,
            (_, Some(IpProtocol::ICMPV6)) => f.write_str("icmp6")?,
            (_, Some(IpProtocol::GRE)) => f.write_str("gre")?,
            (_, Some(protocol)) => write!(f, "ip protocol {}", protocol.0)?,
            (Some(ethertype), None) => write!(f, "type {:#06x}", ethertype.0)?,
            (None, None) => f.write_str("no Ethernet")?,
        }
        match (self.hosts, self.ports) {
            (Some((src, dst)), Some((from, to))) => {
                write!(f, " {} > {}", SocketAddr::new(src, from), SocketAddr::new(dst, to))?
            }
            (Some((src, dst)), None) => write!(f, " {src} > {dst}")?,
            (None, _) => {}
        }
        write!(f, ", {} bytes", self.len)
    }
}
