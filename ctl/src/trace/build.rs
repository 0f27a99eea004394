//! Frames for `trace frame`: given in bytes, from a file, or put together from what is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use switch_core::wire::MacAddr;
use vswitch_api::{ApiError, Code, hex};

use crate::pcap;

/// The sender of frames of which nobody says who sent them: locally administered.
const SENDER: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
/// Addresses of documentation (RFC 5737, RFC 3849).
const SENDER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SENDER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const WINDOW: u16 = 64_000;
const TTL: u8 = 64;
const SOURCE_PORT: u16 = 49_152;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("what").required(true)
    .args(["hex", "pcap", "arp", "icmp", "tcp", "udp"])))]
pub(crate) struct Args {
    /// The port or VTEP that the frame is taken to come in on
    #[arg(long = "in", value_name = "PORT")]
    pub(super) in_port: String,
    /// The frame's bytes, two hex digits each; for a VTEP, those of an IP packet
    #[arg(long)]
    hex: Option<String>,
    /// Every frame of this capture file, each as if it were the only one
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// An ARP request for this address
    #[arg(long, value_name = "IP")]
    arp: Option<Ipv4Addr>,
    /// An ICMP or ICMPv6 echo request to this address
    #[arg(long, value_name = "IP")]
    icmp: Option<IpAddr>,
    /// A TCP segment that opens a connection to this address
    #[arg(long, value_name = "IP:PORT")]
    tcp: Option<SocketAddr>,
    /// A UDP datagram to this address
    #[arg(long, value_name = "IP:PORT")]
    udp: Option<SocketAddr>,
    /// Source address of the frame; 02:00:00:00:00:01 by default
    #[arg(long, value_name = "MAC", default_value_t = SENDER, hide_default_value = true)]
    src_mac: MacAddr,
    /// Destination address of the frame; broadcast by default for --arp
    #[arg(long, value_name = "MAC")]
    dst_mac: Option<MacAddr>,
    /// Source address of the packet; an address of documentation by default
    #[arg(long, value_name = "IP")]
    src_ip: Option<IpAddr>,
    /// The frame carries a tag of this VLAN
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(0..4096))]
    vlan: Option<u16>,
    /// The frame is so many bytes long
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,
}

/// The frames that are asked for.
pub(super) fn frames(args: &Args) -> Result<Vec<Vec<u8>>, ApiError> {
    if let Some(hex) = &args.hex {
        return Ok(vec![bytes_of(hex)?]);
    }
    if let Some(path) = &args.pcap {
        return Ok(pcap::read(path)?.packets.into_iter().map(|packet| packet.bytes).collect());
    }
    let mut frame = built(args).map_err(|what| {
        ApiError::new(Code::Usage, format!("cannot put the frame together: {what}"))
    })?;
    if let Some(vid) = args.vlan {
        let [hi, lo] = vid.to_be_bytes();
        frame.splice(12..12, [0x81, 0, hi, lo]);
    }
    Ok(vec![frame])
}

/// Bytes from hex digits; white space, and colons between bytes, count for nothing.
fn bytes_of(text: &str) -> Result<Vec<u8>, ApiError> {
    hex::bytes(&hex::digits(text)).ok_or_else(|| {
        ApiError::new(Code::Usage, "--hex is not a row of bytes")
            .with_hint("two hex digits a byte, from the destination address on")
    })
}

/// A frame without a tag.
fn built(args: &Args) -> Result<Vec<u8>, String> {
    let ethernet = |dst: MacAddr| PacketBuilder::ethernet2(args.src_mac.octets(), dst.octets());
    if let Some(target) = args.arp {
        let sender = match args.src_ip.unwrap_or(IpAddr::V4(SENDER_V4)) {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(ip) => return Err(format!("--src-ip {ip} cannot ask for {target}")),
        };
        let (kind, question) = (ArpHardwareId::ETHERNET, ArpOperation::REQUEST);
        let (mac, sender) = (args.src_mac.octets(), sender.octets());
        let target = target.octets();
        let packet =
            ArpPacket::new(kind, EtherType::IPV4, question, &mac, &sender, &[0; 6], &target);
        let packet = packet.map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        let frame = ethernet(args.dst_mac.unwrap_or(MacAddr::BROADCAST)).arp(packet);
        frame.write(&mut out).map_err(|error| error.to_string())?;
        out.resize(out.len().max(args.size.unwrap_or_default()), 0);
        return Ok(out);
    }
    let to = args.icmp.or_else(|| args.tcp.or(args.udp).map(|to| to.ip()));
    let to = to.ok_or("nothing is asked for")?;
    let dst = args.dst_mac.ok_or(
        "--dst-mac is missing: name the address of the receiver or of the router to it; \
         vswitch-ctl fdb shows those that are known",
    )?;
    let ip = match (args.src_ip.unwrap_or_else(|| sender(to)), to) {
        (IpAddr::V4(src), IpAddr::V4(to)) => ethernet(dst).ipv4(src.octets(), to.octets(), TTL),
        (IpAddr::V6(src), IpAddr::V6(to)) => ethernet(dst).ipv6(src.octets(), to.octets(), TTL),
        (src, _) => return Err(format!("--src-ip {src} and {to} are of two families")),
    };
    let mut out = Vec::new();
    // The payload is what is left of the size.
    let padding = |headers: usize| vec![0; args.size.unwrap_or_default().saturating_sub(headers)];
    let written = if let Some(to) = args.tcp {
        let frame = ip.tcp(SOURCE_PORT, to.port(), 0, WINDOW).syn();
        let payload = padding(frame.size(0));
        frame.write(&mut out, &payload)
    } else if let Some(to) = args.udp {
        let frame = ip.udp(SOURCE_PORT, to.port());
        let payload = padding(frame.size(0));
        frame.write(&mut out, &payload)
    } else if to.is_ipv4() {
        let frame = ip.icmpv4_echo_request(1, 1);
        let payload = padding(frame.size(0));
        frame.write(&mut out, &payload)
    } else {
        let frame = ip.icmpv6_echo_request(1, 1);
        let payload = padding(frame.size(0));
        frame.write(&mut out, &payload)
    };
    written.map_err(|error| error.to_string())?;
    Ok(out)
}

/// The sender of packets to an address of that family.
const fn sender(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => IpAddr::V4(SENDER_V4),
        IpAddr::V6(_) => IpAddr::V6(SENDER_V6),
    }
}
