//! Every prefix of every golden frame goes through every parser: the answer is an error or a view
//! inside the prefix, never a panic. The frames are in `golden/`, as hex digits.

use std::fs;
use std::path::Path;

use switch_core::testing::fuzz::TARGETS;
use switch_core::wire::checksum::checksum;
use switch_core::wire::ipv6::MAX_EXTENSIONS;
use switch_core::wire::{
    ArpPacket, EtherType, Fragment, Geneve, GeneveError, GeneveHeader, Gre, IpProtocol, Layers,
    LayersError, MAX_TAGS, Network, TagStack, Transport, Vxlan, VxlanHeader,
};

struct Golden {
    name: String,
    bytes: Vec<u8>,
}

fn golden_frames() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut frames: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let digits: Vec<u32> =
                lines.flat_map(str::chars).filter_map(|c| c.to_digit(16)).collect();
            assert_eq!(digits.len() % 2, 0, "{}", path.display());
            let bytes = digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
            Golden { name: path.file_stem().unwrap().to_string_lossy().into_owned(), bytes }
        })
        .collect();
    frames.sort_by(|a, b| a.name.cmp(&b.name));
    frames
}

#[test]
fn every_prefix_of_every_frame_through_every_parser() {
    let frames = golden_frames();
    assert!(frames.len() >= 30, "only {} golden frames were found", frames.len());
    for frame in &frames {
        for len in 0..=frame.bytes.len() {
            // An own allocation of exactly this length, so that nothing lies behind the prefix.
            let prefix = frame.bytes[..len].to_vec();
            for (_, body) in TARGETS {
                body(&prefix);
                // Also from layer 3, layer 4 and behind UDP, where the bodies expect their header
                // first.
                for start in [14, 18, 22, 34, 42, 54, 62, 94] {
                    body(prefix.get(start..).unwrap_or_default());
                }
            }
        }
    }
}

#[test]
fn a_cut_frame_is_never_taken_for_the_whole() {
    for frame in golden_frames() {
        let whole = Layers::parse(&frame.bytes, frame.bytes.len());
        let Ok(whole) = whole.inspect_err(|error| assert_malformed(&frame.name, error)) else {
            continue;
        };
        if whole.network() == Network::Other {
            continue;
        }
        for len in 0..whole.end() {
            let cut = Layers::parse(&frame.bytes[..len], len);
            // A prefix that ends before its EtherType's payload is too short for IP.
            assert!(cut.is_err(), "{} cut to {len} of {} bytes", frame.name, whole.end());
            // With the rest behind the head it is the same frame, or its headers are cut.
            if let Ok(cut) = Layers::parse(&frame.bytes[..len], frame.bytes.len()) {
                assert_eq!(
                    (cut.l4(), cut.payload(), cut.end()),
                    (whole.l4(), whole.payload(), whole.end())
                );
                assert!(len >= whole.payload(), "{} cut to {len}", frame.name);
            }
        }
    }
}

/// The two frames that are no frames.
fn assert_malformed(name: &str, error: &LayersError) {
    assert!(["runt", "header-only"].contains(&name), "{name}: {error}");
}

#[test]
fn golden_frames_are_what_their_names_say() {
    let layers = |name: &str| {
        let frame = golden_frames().into_iter().find(|frame| frame.name == name);
        let bytes = frame.unwrap_or_else(|| panic!("no golden frame {name}")).bytes;
        (Layers::parse(&bytes, bytes.len()).unwrap(), bytes)
    };
    use {Network as N, Transport as T};
    for (name, network, transport, tags) in [
        ("arp-request", N::Other, T::Other, 0),
        ("ipv4-udp", N::V4, T::Udp, 0),
        ("ipv4-tcp", N::V4, T::Tcp, 0),
        ("ipv4-icmp-echo", N::V4, T::Other, 0),
        ("ipv4-first-fragment", N::V4, T::Udp, 0),
        ("ipv4-later-fragment", N::V4, T::Other, 0),
        ("ipv6-tcp", N::V6, T::Tcp, 0),
        ("ipv6-extensions-udp", N::V6, T::Udp, 0),
        ("ipv6-later-fragment", N::V6, T::Other, 0),
        ("vlan-ipv4-tcp", N::V4, T::Tcp, 1),
        ("priority-tag-arp", N::Other, T::Other, 1),
        ("qinq-ipv6-udp", N::V6, T::Udp, 2),
        ("five-tags-ipv4", N::Other, T::Other, MAX_TAGS),
        ("llc-stp", N::Other, T::Other, 0),
        ("snap-ipv4", N::Other, T::Other, 0),
        ("vxlan", N::V4, T::Udp, 0),
        ("vxlan-ipv6", N::V6, T::Udp, 0),
        ("geneve-options", N::V4, T::Udp, 0),
        ("geneve-bad-option", N::V4, T::Udp, 0),
        ("gre-teb", N::V4, T::Other, 0),
        ("gre-all-fields", N::V4, T::Other, 0),
        ("nvgre", N::V4, T::Other, 0),
        ("mpls", N::Other, T::Other, 0),
    ] {
        let (layers, _) = layers(name);
        assert_eq!((layers.network(), layers.transport()), (network, transport), "{name}");
        assert_eq!(layers.tags().tags().len(), tags, "{name}");
    }
    let (arp, bytes) = layers("arp-reply-padded");
    assert_eq!(arp.tags().ethertype(), EtherType::ARP);
    assert_eq!(ArpPacket::parse(&bytes[14..]).unwrap().1, [0; 18]);
    let (ns, bytes) = layers("ipv6-neighbour-solicitation");
    assert_eq!(ns.icmp(&bytes).unwrap().kind(), 135);
    let (first, _) = layers("ipv4-first-fragment");
    assert_eq!(first.fragment(), Fragment::First);
}

/// The bytes behind IP and UDP of a golden tunnel frame, IP's checksum and lengths looked at.
fn tunnel_packet(name: &str, port: Option<u16>) -> Vec<u8> {
    let frame = golden_frames().into_iter().find(|frame| frame.name == name);
    let bytes = frame.unwrap_or_else(|| panic!("no golden frame {name}")).bytes;
    let layers = Layers::parse(&bytes, bytes.len()).unwrap();
    assert_eq!(layers.end(), bytes.len(), "{name}");
    assert_eq!(layers.ports(&bytes).map(|(_, dst)| dst), port, "{name}");
    bytes[layers.payload()..].to_vec()
}

#[test]
fn golden_tunnel_packets_are_what_their_names_say() {
    let is_echo = |inner: &[u8]| {
        let layers = Layers::parse(inner, inner.len()).unwrap();
        assert_eq!((layers.protocol(), layers.end()), (IpProtocol::ICMP, inner.len()));
    };
    for name in ["vxlan", "vxlan-ipv6"] {
        let bytes = tunnel_packet(name, Some(VxlanHeader::UDP_PORT));
        let vxlan = Vxlan::parse(&bytes).unwrap();
        assert_eq!(vxlan.header().vni().get(), 10_010);
        assert!(!vxlan.header().reserved_bits_set());
        is_echo(vxlan.payload());
    }
    let bytes = tunnel_packet("geneve-options", Some(GeneveHeader::UDP_PORT));
    let geneve = Geneve::parse(&bytes).unwrap();
    assert_eq!(geneve.header().vni().get(), 10_010);
    assert!(geneve.header().has_critical());
    let lens = geneve.options().unwrap().iter().map(|option| option.data.len());
    assert_eq!(lens.collect::<Vec<_>>(), [4, 0, 12]);
    is_echo(geneve.payload());
    let bytes = tunnel_packet("geneve-bad-option", Some(GeneveHeader::UDP_PORT));
    let error = Geneve::parse(&bytes).unwrap().options().unwrap_err();
    assert_eq!(error, GeneveError::OptionBeyondOptions { claimed: 8, have: 0 });
    for (name, key, sequence, len) in [
        ("gre-teb", 10_010, None, 8),
        ("gre-all-fields", 10_010, Some(7), 16),
        ("nvgre", 0x0027_1aa5, None, 8),
    ] {
        let bytes = tunnel_packet(name, None);
        let gre = Gre::parse(&bytes).unwrap();
        assert_eq!((gre.key(), gre.sequence(), gre.header_len()), (Some(key), sequence, len));
        assert!(gre.checksum().is_none() || checksum(&bytes) == 0, "{name}");
        assert_eq!(gre.header().protocol(), EtherType::TEB);
        is_echo(gre.payload());
    }
}

/// A tunnel header is read from all of its bytes or not at all, whatever lies behind the head.
#[test]
fn a_cut_tunnel_header_is_never_taken_for_the_whole() {
    type HeaderLen = fn(&[u8], usize) -> Option<usize>;
    let vxlan: HeaderLen = |head, _| Vxlan::parse(head).ok().map(|_| VxlanHeader::LEN);
    let geneve: HeaderLen = |head, wire_len| {
        let geneve = Geneve::parse_head(head, wire_len).ok()?;
        geneve.options().ok().map(|_| geneve.header_len())
    };
    let gre: HeaderLen =
        |head, wire_len| Gre::parse_head(head, wire_len).ok().map(|gre| gre.header_len());
    for (name, port, header_len, len) in [
        ("vxlan", Some(4789), vxlan, 8),
        ("vxlan-ipv6", Some(4789), vxlan, 8),
        ("geneve-options", Some(6081), geneve, 36),
        ("gre-teb", None, gre, 8),
        ("gre-all-fields", None, gre, 16),
        ("nvgre", None, gre, 8),
    ] {
        let bytes = tunnel_packet(name, port);
        for cut in 0..=bytes.len() {
            let expected = (cut >= len).then_some(len);
            let head = bytes[..cut].to_vec();
            assert_eq!(header_len(&head, cut), expected, "{name} cut to {cut}");
            assert_eq!(header_len(&head, bytes.len()), expected, "{name}, head of {cut}");
        }
    }
}

/// Loops end after a number of steps that no frame can raise: what is read does not grow with the
/// length of a stack or a chain.
#[test]
fn stacks_and_chains_of_any_length_are_read_to_a_fixed_depth() {
    for count in 0..=500 {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&[0x81, 0, 0, 1].repeat(count));
        frame.extend_from_slice(&[0x08, 0x06]);
        let stack = TagStack::parse(&frame).unwrap();
        assert!(stack.l3_offset() <= 14 + 4 * MAX_TAGS);
        TARGETS.iter().for_each(|(_, body)| body(&frame));
    }
    for count in 0..=500u16 {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend_from_slice(&(8 * count).to_be_bytes());
        frame.extend_from_slice(&[if count == 0 { 59 } else { 60 }, 64]);
        frame.extend_from_slice(&[0xfd; 32]);
        for i in 1..=count {
            let next = if i == count { 59 } else { 60 };
            frame.extend_from_slice(&[next, 0, 1, 4, 0, 0, 0, 0]);
        }
        let followed = Layers::parse(&frame, frame.len()).is_ok();
        assert_eq!(followed, usize::from(count) <= MAX_EXTENSIONS, "{count} extensions");
        TARGETS.iter().for_each(|(_, body)| body(&frame));
    }
}
