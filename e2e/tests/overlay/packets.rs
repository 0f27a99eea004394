//! Packets made by hand: what a hostile or broken host on the underlay sends.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use etherparse::{Icmpv4Type, PacketBuilder};
use vswitch_e2e::Host;
use vswitch_e2e::overlay::{Protocol, Site};
use vswitch_e2e::raw::{Sender, ethernet, mac};

/// An address of the tenants' network that nobody has.
pub(crate) const NOWHERE: &str = "198.51.100.250";

/// A local experimental EtherType (IEEE 802): nobody answers.
pub(crate) const EXPERIMENT: u16 = 0x88b5;

/// A frame to everybody from station `n`, which carries `mark`; 60 bytes.
pub(crate) fn call(n: u32, mark: &[u8]) -> Vec<u8> {
    ethernet([0xff; 6], mac(n), &[], EXPERIMENT, mark)
}

/// What comes before the inner frame.
pub(crate) fn header(protocol: Protocol, id: u32) -> Vec<u8> {
    let [_, a, b, c] = id.to_be_bytes();
    match protocol {
        Protocol::Vxlan => vec![0x08, 0, 0, 0, a, b, c, 0],
        Protocol::Geneve => vec![0, 0, 0x65, 0x58, a, b, c, 0],
        Protocol::Gre => [&[0x20, 0, 0x65, 0x58][..], &id.to_be_bytes()].concat(),
        Protocol::GreKeyless => vec![0, 0, 0x65, 0x58],
        Protocol::Nvgre => vec![0x20, 0, 0x65, 0x58, a, b, c, 0],
    }
}

/// Sends packets of any content from a host of the underlay to another, from any address.
#[derive(Debug)]
pub(crate) struct Wire {
    sender: Sender,
    source: [u8; 6],
    to: [u8; 6],
    /// The outer addresses of the packets.
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
}

impl Wire {
    pub(crate) fn new(from: &Site, src: IpAddr, to: &Site, dst: IpAddr) -> Result<Self> {
        let sender = Sender::open(from.space.netns()?, &from.device)?;
        Ok(Self { sender, source: address(from)?, to: address(to)?, src, dst })
    }

    /// The frame on the cable that carries a UDP datagram with a right checksum.
    pub(crate) fn udp(&self, port: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.source, self.to);
        let builder = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 9),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 9),
            _ => bail!("addresses of two families"),
        };
        let mut frame = Vec::new();
        builder.udp(50_000, port).write(&mut frame, payload)?;
        Ok(frame)
    }

    /// The same for a GRE packet.
    pub(crate) fn gre(&self, packet: &[u8]) -> Result<Vec<u8>> {
        const GRE: etherparse::IpNumber = etherparse::IpNumber::GRE;
        let ethernet = PacketBuilder::ethernet2(self.source, self.to);
        let builder = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 9),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 9),
            _ => bail!("addresses of two families"),
        };
        let mut frame = Vec::new();
        builder.write(&mut frame, GRE, packet)?;
        Ok(frame)
    }

    /// Sends an ICMP message about a packet that is quoted.
    pub(crate) fn icmp(&self, message: Icmpv4Type, quoted: &[u8]) -> Result<()> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (self.src, self.dst) else {
            bail!("ICMP is for IPv4")
        };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.source, self.to)
            .ipv4(src.octets(), dst.octets(), 64)
            .icmpv4(message)
            .write(&mut frame, quoted)?;
        self.send(&frame)
    }

    /// The frame on the cable that carries `payload` in a tunnel of that protocol.
    pub(crate) fn packet(&self, protocol: Protocol, payload: &[u8]) -> Result<Vec<u8>> {
        match protocol {
            Protocol::Vxlan => self.udp(4789, payload),
            Protocol::Geneve => self.udp(6081, payload),
            Protocol::Gre | Protocol::GreKeyless | Protocol::Nvgre => self.gre(payload),
        }
    }

    /// Sends a frame as it is.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        self.sender.send(frame)
    }

    /// Sends an inner frame in a tunnel.
    pub(crate) fn tunnel(&self, protocol: Protocol, id: u32, inner: &[u8]) -> Result<()> {
        self.send(&self.packet(protocol, &[&header(protocol, id), inner].concat())?)
    }
}

/// Where the outer IP header begins in a frame on the cable.
pub(crate) const IP: usize = 14;

/// Sets the ECN field of the outer packet to "congestion experienced", and mends the checksum.
pub(crate) fn congested(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[IP] >> 4 == 6 {
        frame[IP + 1] |= 0x30;
    } else {
        frame[IP + 1] |= 0x03;
        mend(&mut frame);
    }
    frame
}

/// Writes the outer IPv4 header's checksum anew.
pub(crate) fn mend(frame: &mut [u8]) {
    if let Ok((mut header, _)) = etherparse::Ipv4Header::from_slice(&frame[IP..]) {
        header.header_checksum = header.calc_header_checksum();
        frame[IP + 10..IP + 12].copy_from_slice(&header.header_checksum.to_be_bytes());
    }
}

/// The MAC address of a host's device.
fn address(site: &Site) -> Result<[u8; 6]> {
    let path = format!("cat /sys/class/net/{}/address", site.device);
    let text = site.space.sh(&path)?.ok()?.stdout;
    let bytes: Vec<u8> =
        text.trim().split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes.try_into().ok().context("no MAC address")
}
