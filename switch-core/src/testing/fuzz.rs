//! Bodies of the fuzz targets: any bytes in, a panic if something promised does not hold.
//!
//! They live here and not in the fuzz crate, so that a stable compiler replays the corpus
//! (`tests/corpus_replay.rs`) and every prefix of the golden frames (`tests/truncate.rs`).

mod decap;

use zerocopy::IntoBytes;

use crate::frame::{Csum, Frame, FramePool, HeapFrame, Offload, PoolConfig};
use crate::segment::vnet::{F_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4};
use crate::segment::{self, VnetHeader, VnetLayout};
use crate::wire::geneve::{OwnedOption, encode_options};
use crate::wire::gre::{nvgre_key, split_nvgre_key};
use crate::wire::ipv6::MAX_EXTENSIONS;
use crate::wire::{
    ArpPacket, Checksum, EthernetHeader, Fragment, Geneve, GeneveHeader, GeneveOption,
    GeneveOptions, Gre, GreFields, GreHeader, Header, IcmpHeader, IpProtocol, Ipv4, Ipv4Header,
    Ipv6, Ipv6Header, Layers, MAX_TAGS, Network, TagStack, Tcp, TcpHeader, Transport, Udp,
    UdpHeader, Vxlan, VxlanHeader, checksum, icmp,
};

pub use decap::{decap_geneve, decap_gre, decap_vxlan};

/// A fuzz target's body.
pub type Body = fn(&[u8]);

/// All targets of this crate by name, which is also the name of the corpus' folder.
pub const TARGETS: [(&str, Body); 12] = [
    ("eth_vlan", eth_vlan),
    ("arp", arp),
    ("ipv4", ipv4),
    ("ipv6_l4", ipv6_l4),
    ("vxlan", vxlan),
    ("geneve", geneve),
    ("gre", gre),
    ("decap_vxlan", decap_vxlan),
    ("decap_geneve", decap_geneve),
    ("decap_gre", decap_gre),
    ("vnet_hdr", vnet_hdr),
    ("segment", segment),
];

/// `part` lies within `whole`. An empty part may lie anywhere: it has no bytes.
fn assert_inside(whole: &[u8], part: &[u8]) {
    let (outer, inner) = (whole.as_ptr_range(), part.as_ptr_range());
    assert!(part.is_empty() || (outer.start <= inner.start && inner.end <= outer.end));
}

/// Ethernet, VLAN tags, and the walk over all layers of a frame.
pub fn eth_vlan(data: &[u8]) {
    match TagStack::parse(data) {
        Ok(stack) => {
            assert!(stack.tags().len() <= MAX_TAGS && stack.l3_offset() <= data.len());
            assert_eq!(stack.is_deeper(), stack.ethertype().is_vlan());
            // The stack rests on the bytes up to layer 3 and on no others.
            let again = TagStack::parse(&data[..stack.l3_offset()]).unwrap();
            assert_eq!(again.tags(), stack.tags());
            assert_eq!(again.ethertype(), stack.ethertype());
            assert!(TagStack::parse(&data[..stack.l3_offset() - 1]).is_err());

            let (eth, rest) = EthernetHeader::split(data).unwrap();
            assert_eq!((eth.dst(), eth.src()), (stack.dst(), stack.src()));
            assert_inside(data, rest);
            let rebuilt = EthernetHeader::new(eth.dst(), eth.src(), eth.ethertype());
            assert_eq!(rebuilt.as_bytes(), &data[..EthernetHeader::LEN]);
        }
        Err(error) => assert!(error.need > error.have),
    }
    // The rest of the frame may lie behind the head.
    for frame_len in [data.len(), data.len() + 1, 65_549] {
        if let Ok(layers) = Layers::parse(data, frame_len) {
            layers_hold(data, frame_len, &layers);
        }
    }
}

fn layers_hold(head: &[u8], frame_len: usize, layers: &Layers) {
    assert!(layers.l3() <= layers.l4() && layers.l4() <= layers.payload());
    assert!(layers.payload() <= layers.end() && layers.payload() <= head.len());
    assert!(layers.end() <= frame_len.max(head.len()));
    assert_eq!(layers.addresses(head).is_some(), layers.network() != Network::Other);
    assert_eq!(layers.ports(head).is_some(), layers.transport() != Transport::Other);
    if let Some(icmp) = layers.icmp(head) {
        assert_inside(head, icmp.as_bytes());
    }
    if layers.fragment() == Fragment::Later {
        assert_eq!(layers.transport(), Transport::Other);
    }
}

/// ARP.
pub fn arp(data: &[u8]) {
    let Ok((arp, rest)) = ArpPacket::parse(data) else { return };
    assert_inside(data, rest);
    assert_eq!(rest.len(), data.len() - ArpPacket::LEN);
    let sender = (arp.sender_mac(), arp.sender_ip());
    let rebuilt = ArpPacket::new(arp.operation(), sender, (arp.target_mac(), arp.target_ip()));
    assert_eq!(rebuilt.as_bytes(), arp.as_bytes());
    let reply = ArpPacket::reply_to(arp, arp.target_mac());
    assert_eq!((reply.target_mac(), reply.target_ip()), sender);
    assert!(ArpPacket::parse(reply.as_bytes()).is_ok());
}

/// IPv4, and what may be in it.
pub fn ipv4(data: &[u8]) {
    let Ok(packet) = Ipv4::parse(data) else { return };
    assert_inside(data, packet.options());
    assert_inside(data, packet.payload());
    let header = packet.header();
    assert_eq!(packet.payload().len(), packet.payload_len());
    assert_eq!(header.header_len() + packet.payload_len(), usize::from(header.total_len()));
    assert_eq!(header.header_len(), Ipv4Header::LEN + packet.options().len());
    // Padding is no part of it, and a byte less is too few.
    let total = usize::from(header.total_len());
    assert_eq!(Ipv4::parse(&data[..total]).unwrap().payload(), packet.payload());
    assert!(Ipv4::parse(&data[..total - 1]).is_err());
    if packet.checksum_ok() {
        let mut changed = *header;
        changed.set_id(header.id().wrapping_add(1));
        changed.set_ttl(header.ttl().wrapping_sub(1));
        changed.set_traffic_class(!header.traffic_class());
        let mut sum = Checksum::new();
        sum.add_bytes(changed.as_bytes());
        sum.add_bytes(packet.options());
        assert_eq!(sum.finish(), 0, "setters keep a right checksum right");
    }
    transport(packet.payload());
    let _ = icmp::checksum_v4(packet.payload());
}

/// IPv6 with its extension headers, and what may be in it.
pub fn ipv6_l4(data: &[u8]) {
    transport(data);
    let Ok(packet) = Ipv6::parse(data) else { return };
    assert_inside(data, packet.extensions());
    assert_inside(data, packet.payload());
    assert_eq!(packet.payload().len(), packet.payload_len());
    // A header is at most 8 bytes and 255 units of 8 long.
    assert!(packet.extensions().len() <= MAX_EXTENSIONS * (8 + 255 * 8));
    let used = Ipv6Header::LEN + packet.extensions().len() + packet.payload().len();
    assert_eq!(used, Ipv6Header::LEN + usize::from(packet.header().payload_len()));
    assert!(Ipv6::parse(&data[..used - 1]).is_err());
    let again = Ipv6::parse(&data[..used]).unwrap();
    assert_eq!((again.protocol(), again.fragment()), (packet.protocol(), packet.fragment()));
    let header = packet.header();
    let _ = icmp::checksum_v6(header.src(), header.dst(), packet.payload());
    transport(packet.payload());
}

fn transport(data: &[u8]) {
    if let Ok(udp) = Udp::parse(data) {
        assert_inside(data, udp.payload());
        assert_eq!(udp.payload().len(), udp.payload_len());
        assert!(usize::from(udp.header().datagram_len()) <= data.len());
    }
    if let Ok(tcp) = Tcp::parse(data) {
        assert_inside(data, tcp.options());
        assert_inside(data, tcp.payload());
        let len = TcpHeader::LEN + tcp.options().len();
        assert_eq!(len, tcp.header().header_len());
        assert_eq!(len + tcp.payload().len(), data.len());
        assert!(Tcp::parse(&data[..len - 1]).is_err());
    }
    if let Ok((icmp, rest)) = IcmpHeader::split(data) {
        assert_eq!(IcmpHeader::LEN + rest.len(), data.len());
        assert_eq!(icmp.rest()[..2], icmp.echo().0.to_be_bytes());
    }
}

/// VXLAN, and the frame in it.
pub fn vxlan(data: &[u8]) {
    let Ok(vxlan) = Vxlan::parse(data) else { return };
    assert_inside(data, vxlan.payload());
    assert_eq!(VxlanHeader::LEN + vxlan.payload().len(), data.len());
    let header = vxlan.header();
    // Sent by us, it differs in the reserved bits and in nothing else.
    let rebuilt = VxlanHeader::new(header.vni());
    assert_eq!(rebuilt.as_bytes() != &data[..VxlanHeader::LEN], header.reserved_bits_set());
    assert_eq!(Vxlan::parse(rebuilt.as_bytes()).unwrap().header().vni(), header.vni());
    assert!(Vxlan::parse(&data[..VxlanHeader::LEN - 1]).is_err());
    eth_vlan(vxlan.payload());
}

/// GENEVE, its options, and the frame in it.
pub fn geneve(data: &[u8]) {
    let Ok(geneve) = Geneve::parse(data) else { return };
    assert_inside(data, geneve.payload());
    let header_len = geneve.header_len();
    assert_eq!(header_len + geneve.payload().len(), data.len());
    assert!(Geneve::parse(&data[..header_len - 1]).is_err());
    assert!(Geneve::parse_head(&data[..header_len - 1], data.len()).is_err());
    eth_vlan(geneve.payload());

    let bytes = &data[GeneveHeader::LEN..header_len];
    let mut end = 0;
    while let Some([_, _, _, words]) = bytes.get(end..).and_then(<[u8]>::first_chunk) {
        end += 4 + 4 * usize::from(words & 0x1f);
    }
    let options = geneve.options();
    assert_eq!(options.is_ok(), end == bytes.len());
    let Ok(options) = options else { return };
    let mut owned = Vec::new();
    for GeneveOption { class, typ, data } in options.iter() {
        assert_inside(bytes, data);
        owned.push(OwnedOption { class, typ, data: data.to_vec() });
    }
    let sent = encode_options(&owned).unwrap();
    // The reserved bits are the only ones that are not sent on.
    assert_eq!(sent.len(), bytes.len());
    let sent = GeneveOptions::parse(&sent).unwrap();
    assert!(sent.iter().eq(options.iter()));
    let rebuilt = GeneveHeader::new(geneve.header().vni(), geneve.header().protocol(), sent);
    let packet = [rebuilt.as_bytes(), sent.as_bytes(), geneve.payload()].concat();
    let again = Geneve::parse(&packet).unwrap();
    assert_eq!(again.header().vni(), geneve.header().vni());
    assert_eq!(again.header().protocol(), geneve.header().protocol());
    assert_eq!(again.header().has_critical(), options.any_critical());
    assert_eq!((again.header_len(), again.payload()), (header_len, geneve.payload()));
}

/// GRE, its checksum, and the frame in it.
pub fn gre(data: &[u8]) {
    let Ok(gre) = Gre::parse(data) else { return };
    assert_inside(data, gre.payload());
    let header_len = gre.header_len();
    assert_eq!(header_len + gre.payload().len(), data.len());
    assert!(Gre::parse(&data[..header_len - 1]).is_err());
    assert!(Gre::parse_head(&data[..header_len - 1], data.len()).is_err());
    eth_vlan(gre.payload());

    let fields = GreFields {
        protocol: gre.header().protocol(),
        checksum: gre.checksum().is_some(),
        key: gre.key(),
        sequence: gre.sequence(),
    };
    assert_eq!(fields.header_len(), header_len);
    let mut packet = vec![0xff; header_len];
    fields.write(&mut packet).unwrap();
    packet.extend_from_slice(gre.payload());
    if fields.checksum {
        let sum = checksum::checksum(&packet);
        let field = GreHeader::CHECKSUM_OFFSET..GreHeader::CHECKSUM_OFFSET + 2;
        packet[field].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum::checksum(&packet), 0);
    }
    let again = Gre::parse(&packet).unwrap();
    assert_eq!(again.header().protocol(), fields.protocol);
    assert_eq!((again.key(), again.sequence()), (fields.key, fields.sequence));
    assert_eq!((again.header_len(), again.payload()), (header_len, gre.payload()));
    if let Some(key) = gre.key() {
        let (vsid, flow_id) = split_nvgre_key(key);
        assert_eq!(nvgre_key(vsid, flow_id), key);
    }
}

/// A virtio-net header (its layout chosen by the first byte) and a frame: what is not refused can
/// be carried out.
pub fn vnet_hdr(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let layout = VnetLayout { num_buffers: choice & 1 != 0, big_endian: choice & 2 != 0 };
    let Ok((claim, bytes)) = layout.decode(data) else { return };
    assert_inside(data, bytes);
    assert_eq!(layout.encode(&claim)[..10], data[..10]);
    let pool = pool();
    let Some(mut frame) = pool.frame(bytes) else { return };
    let Ok(offload) = segment::validate(frame.head(), frame.len(), &claim) else { return };
    frame.set_offload(offload);
    // Handed on and received again, it is the same.
    let handed_on = VnetHeader::of(&frame).unwrap();
    assert_eq!(segment::validate(frame.head(), frame.len(), &handed_on), Ok(offload));
    carry_out(&pool, frame, bytes);
}

/// A frame about which the right claim is made: it can be cut, and the segments hold.
pub fn segment(data: &[u8]) {
    let Some(([hi, lo], bytes)) = data.split_first_chunk() else { return };
    let Ok(layers) = Layers::parse(bytes, bytes.len()) else { return };
    let (gso_type, csum_offset) = match (layers.network(), layers.transport()) {
        (Network::V4, Transport::Tcp) => (GSO_TCPV4, TcpHeader::CHECKSUM_OFFSET),
        (Network::V6, Transport::Tcp) => (GSO_TCPV6, TcpHeader::CHECKSUM_OFFSET),
        (_, Transport::Udp) => (GSO_UDP_L4, UdpHeader::CHECKSUM_OFFSET),
        _ => return,
    };
    let claim = VnetHeader {
        flags: F_NEEDS_CSUM,
        gso_type,
        gso_size: u16::from_be_bytes([*hi, *lo]),
        csum_start: layers.l4() as u16,
        csum_offset,
        hdr_len: 0,
    };
    let pool = pool();
    let Some(mut frame) = pool.frame(bytes) else { return };
    let Ok(offload) = segment::validate(frame.head(), frame.len(), &claim) else { return };
    frame.set_offload(offload);
    carry_out(&pool, frame, bytes);
}

fn pool() -> FramePool {
    FramePool::new(PoolConfig { heads: 8, tails: 2, max_heads: 1 + segment::MAX_SEGMENTS })
}

/// Finishes or cuts a frame whose metadata was validated.
fn carry_out(pool: &FramePool, mut frame: HeapFrame, bytes: &[u8]) {
    let Some(gso) = frame.offload().gso else {
        segment::finish_checksum(&mut frame).unwrap();
        assert!(frame.offload().is_finished());
        assert_eq!(frame.len(), bytes.len());
        return;
    };
    let Csum::Partial { .. } = frame.offload().csum else {
        panic!("a super-frame has an unfinished checksum");
    };
    let layers = Layers::parse(bytes, bytes.len()).unwrap();
    let headers = segment::header_len(frame.head(), &frame.offload()).unwrap();
    assert_eq!(headers, layers.payload());
    let payload = &bytes[layers.payload()..layers.end()];
    let mut expected = payload.chunks(gso.size.into());
    let count = segment::segment(
        &frame,
        || pool.alloc(),
        |cut| {
            let mut bytes = Vec::new();
            cut.copy_to(&mut bytes);
            assert_eq!(cut.offload(), Offload::NONE);
            assert_eq!(bytes[headers..], *expected.next().expect("no more segments than payload"));
            segment_holds(&bytes, &layers);
        },
    );
    assert_eq!(count, Ok(payload.len().div_ceil(gso.size.into())));
    assert_eq!(expected.next(), None);
    assert_eq!(pool.in_use(), 1, "nothing is kept");
}

/// Lengths and checksums of a segment are right, its layers those of the super-frame.
fn segment_holds(bytes: &[u8], super_frame: &Layers) {
    let layers = Layers::parse(bytes, bytes.len()).unwrap();
    assert_eq!(layers.end(), bytes.len());
    assert_eq!(layers.l4(), super_frame.l4());
    assert_eq!(layers.transport(), super_frame.transport());
    let protocol = match layers.transport() {
        Transport::Tcp => IpProtocol::TCP,
        _ => IpProtocol::UDP,
    };
    let mut sum = Checksum::new();
    let len = bytes.len() - layers.l4();
    if let Ok(ip) = Ipv4::parse(&bytes[layers.l3()..]) {
        assert!(ip.checksum_ok());
        sum.add_pseudo_v4(ip.header().src(), ip.header().dst(), protocol, len as u16);
    } else {
        let ip = Ipv6::parse(&bytes[layers.l3()..]).unwrap();
        sum.add_pseudo_v6(ip.header().src(), ip.header().dst(), protocol, len as u32);
    }
    sum.add_bytes(&bytes[layers.l4()..]);
    assert_eq!(sum.finish(), 0);
}
