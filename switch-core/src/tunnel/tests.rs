//! The plain case does what the general one does, or leaves the frame to it.

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::plain::{self, Plain};
use super::{
    Accepts, EncapFields, Inner, InnerIp, Known, Lane, OuterHeader, Overlay, OverlayCounters,
    PeerConf, Proto, TunnelConf, TunnelParts, VtepConf, encap, open, unfinished,
};
use crate::config::{Dscp, Ttl, TunnelKind, TunnelSpec, TunnelType};
use crate::frame::{Csum, Frame, FramePool, Gso, GsoKind, HeapFrame, Offload, PoolConfig};
use crate::ids::{BridgeId, PeerId, PortId, TunnelId};
use crate::wire::Vni;
use crate::wire::geneve::OwnedOption;

const LOCAL: &str = "192.0.2.1";
const REMOTE: &str = "192.0.2.2";
const VNI: u32 = 0x00_1234;
const VTEP: PortId = PortId::new(3).unwrap();

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn peer(kind: &TunnelKind, from: &str, to: &str) -> PeerConf {
    let proto = Proto::of(kind);
    PeerConf {
        id: PeerId::new(1).unwrap(),
        vtep: VTEP,
        proto,
        addr: addr(to),
        outer: OuterHeader::new(proto, addr(from), addr(to)),
        state: Arc::default(),
        counters: OverlayCounters::each(1),
    }
}

fn tunnel(spec: &TunnelSpec) -> TunnelConf {
    let listed: Arc<[PeerId]> = [PeerId::new(1).unwrap()].into();
    let parts = TunnelParts {
        id: TunnelId::new(0).unwrap(),
        vtep: VTEP,
        local: addr(LOCAL),
        bridge: BridgeId::new(0),
        flood: Arc::clone(&listed),
        accepts: Accepts::Listed(listed),
        seen: &[],
        workers: 1,
        earlier: None,
    };
    TunnelConf::new(spec, parts).unwrap()
}

fn vtep(kind: &TunnelKind) -> VtepConf {
    let port = match Proto::of(kind) {
        Proto::Udp(port) => port,
        Proto::Gre => 0,
    };
    let udp: Arc<[(u16, TunnelType)]> = [(port, kind.tunnel_type())].into();
    VtepConf { port: VTEP, name: "v".into(), local: addr(LOCAL), groups: Arc::default(), udp }
}

fn vxlan() -> TunnelKind {
    TunnelKind::Vxlan { vni: Vni::new(VNI).unwrap(), udp_port: 4789 }
}

fn geneve(options: Vec<OwnedOption>) -> TunnelKind {
    TunnelKind::Geneve { vni: Vni::new(VNI).unwrap(), udp_port: 6081, options }
}

fn spec(kind: TunnelKind) -> TunnelSpec {
    TunnelSpec::new("t", kind, "br")
}

/// An inner frame, now and then with an unfinished checksum or damage.
fn inner() -> impl Strategy<Value = Vec<u8>> {
    let shape = (any::<bool>(), any::<bool>(), any::<[u8; 3]>(), any::<(u16, u16)>(), 0usize..200);
    let damage = proptest::collection::vec((12usize..70, any::<u8>()), 0..3);
    let cut = prop_oneof![4 => Just(None), 1 => (0usize..80).prop_map(Some)];
    // Addresses of the underlay, too.
    let own = proptest::bool::weighted(0.1);
    (shape, damage, cut, own, any::<bool>()).prop_map(
        |((v6, tcp, [class, ttl, host], ports, len), damage, cut, own, unfinished)| {
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let ip = if v6 {
                ethernet.ipv6([0xfd; 16], [host; 16], ttl)
            } else if own {
                ethernet.ipv4([192, 0, 2, 1], [192, 0, 2, 2], ttl)
            } else {
                ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, host], ttl)
            };
            let mut bytes = Vec::new();
            let payload = vec![host; len];
            if tcp {
                ip.tcp(ports.0, ports.1, 1, 1).write(&mut bytes, &payload).unwrap();
            } else {
                let port = if own { 4789 } else { ports.1 };
                ip.udp(ports.0, port).write(&mut bytes, &payload).unwrap();
            }
            if v6 {
                bytes[14] |= class >> 4;
                bytes[15] |= class << 4;
            } else {
                bytes[15] = class;
            }
            if unfinished {
                leave_unfinished(&mut bytes, v6, tcp);
            }
            for (at, byte) in damage {
                if let Some(old) = bytes.get_mut(at) {
                    *old = byte;
                }
            }
            bytes.truncate(cut.unwrap_or(usize::MAX));
            bytes
        },
    )
}

/// Puts the sum of the pseudo-header where the checksum belongs.
fn leave_unfinished(bytes: &mut [u8], v6: bool, tcp: bool) {
    let l4 = if v6 { 54 } else { 34 };
    let addresses = if v6 { 22..54 } else { 26..34 };
    let protocol = if tcp { 6 } else { 17 };
    let len = (bytes.len() - l4) as u16;
    let [l0, l1] = len.to_be_bytes();
    let pseudo = [&bytes[addresses], &[0, protocol, l0, l1]].concat();
    let sum = crate::testing::frames::sum(&pseudo);
    let at = l4 + if tcp { 16 } else { 6 };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn in_frame(pool: &FramePool, bytes: &[u8], offload: Offload) -> HeapFrame {
    let mut frame = pool.frame(bytes).unwrap();
    frame.set_offload(offload);
    frame
}

/// A tunnel that has a lane, or not.
fn any_spec() -> impl Strategy<Value = TunnelSpec> {
    let option = OwnedOption { class: 0x0102, typ: 3, data: vec![9; 4] };
    let kind = prop_oneof![
        4 => Just(vxlan()),
        3 => Just(geneve(vec![])),
        1 => Just(geneve(vec![option])),
        1 => Just(TunnelKind::Gre { key: Some(VNI), checksum: false, sequence: false }),
    ];
    let ttl = prop_oneof![5 => (1u8..).prop_map(Ttl::Set), 1 => Just(Ttl::Copy)];
    let dscp = prop_oneof![5 => (0u8..64).prop_map(Dscp::Set), 1 => Just(Dscp::Copy)];
    let often = || proptest::bool::weighted(0.9);
    (kind, ttl, dscp, (often(), often(), often())).prop_map(
        |(kind, ttl, dscp, (df, unsummed, unclamped))| TunnelSpec {
            ttl,
            dscp,
            df,
            udp_checksum: Some(!unsummed),
            mss_clamp: !unclamped,
            ..spec(kind)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn a_plain_frame_is_what_inner_says(bytes in inner()) {
        if let Some(plain) = Plain::of(&bytes) {
            let inner = Inner::of(&bytes);
            prop_assert_eq!(plain.hash, inner.hash);
            let ip = inner.ip.unwrap();
            prop_assert_eq!(plain.ecn, ip.traffic_class & 3);
            let (vtep, kind) = (vtep(&vxlan()), vxlan());
            if inner.was_sent_by(&vtep, peer(&kind, LOCAL, REMOTE).addr) {
                prop_assert_eq!(plain.pair, 0xc000_0201_c000_0202);
            }
        }
    }

    #[test]
    fn what_is_finished_at_first_sight_is_so_at_the_second(bytes in inner(), more in 0usize..8) {
        let mut bytes = bytes;
        bytes.extend(std::iter::repeat_n(0, more));
        if plain::is_finished(&bytes)
            && let Some(ip) = InnerIp::of(&bytes)
        {
            prop_assert_eq!(unfinished::state(&bytes, bytes.len(), ip), Csum::Unknown);
        }
    }

    #[test]
    fn a_lane_writes_what_encap_does(
        bytes in inner(), spec in any_spec(), verified: bool, path in 60u32..400,
    ) {
        let pool = FramePool::new(PoolConfig::default());
        let (tunnel, peer, vtep) = (tunnel(&spec), peer(&spec.kind, LOCAL, REMOTE), vtep(&spec.kind));
        peer.state.set_path_mtu(path);
        let Some(lane) = Lane::new(&tunnel, &peer) else { return Ok(()) };
        let csum = if verified { Csum::Verified } else { Csum::Unknown };
        let offload = Offload { csum, gso: None };
        let mut frame = in_frame(&pool, &bytes, offload);
        if !lane.encap(&mut frame) {
            prop_assert_eq!((frame.head(), frame.offload()), (&bytes[..], offload));
            return Ok(());
        }
        let inner = Inner::of(&bytes);
        prop_assert!(!inner.was_sent_by(&vtep, peer.addr));
        prop_assert!(bytes.len() + 36 <= path as usize);
        let fields = EncapFields::new(&tunnel, &inner);
        let mut other = in_frame(&pool, &bytes, offload);
        encap(&mut other, &tunnel, &peer, &fields).unwrap();
        prop_assert_eq!((frame.head(), frame.offload()), (other.head(), other.offload()));
    }

    #[test]
    fn what_is_known_is_what_open_says(
        of_geneve: bool, bytes in proptest::collection::vec(inner(), 1..6),
        damage in proptest::collection::vec((0usize..50, any::<u8>()), 0..3),
        cut in 0usize..120, hash: u32, class: u8,
    ) {
        let pool = FramePool::new(PoolConfig::default());
        let spec = spec(if of_geneve { geneve(vec![]) } else { vxlan() });
        let (tunnel, vtep) = (tunnel(&spec), vtep(&spec.kind));
        let mut overlay = Overlay::default();
        overlay.set_peer(peer(&spec.kind, LOCAL, REMOTE));
        overlay.set_tunnel(tunnel.clone());
        let sender = peer(&spec.kind, REMOTE, LOCAL);
        let mut known = Known::new(&overlay, &vtep).unwrap();
        for (n, bytes) in bytes.iter().enumerate() {
            let mut frame = in_frame(&pool, bytes, Offload::NONE);
            let (traffic_class, hash) = (class, hash ^ n as u32);
            let fields = EncapFields { traffic_class, ttl: 3, hash, ..EncapFields::default() };
            encap(&mut frame, &tunnel, &sender, &fields).unwrap();
            if n % 2 == 1 {
                let head = frame.head_mut();
                for (at, byte) in &damage {
                    if let Some(old) = head.get_mut(*at) {
                        *old = *byte;
                    }
                }
                // Right again, so that more than the header's checksum is looked at.
                if cut % 3 == 0 && let Some(header) = head.first_chunk_mut::<20>() {
                    [header[10], header[11]] = [0, 0];
                    let sum = !crate::testing::frames::sum(header);
                    [header[10], header[11]] = sum.to_be_bytes();
                }
                if cut < 90 {
                    frame.truncate(cut);
                }
            }
            let opened = open(&overlay, &vtep, &frame);
            let quick = known.open(frame.head(), frame.len());
            if let Some(quick) = quick {
                prop_assert_eq!(format!("{quick:?}"), format!("{:?}", opened.unwrap()));
            } else if n % 2 == 0 && bytes.len() >= 14 {
                prop_assert!(class & 3 != 0, "an undamaged packet was not known");
            }
        }
    }
}

/// What a packet carries that stands for several is a super-frame of their size; of one that nobody cut
/// the size is what the path holds.
#[test]
fn a_packet_that_was_joined_says_of_what() {
    let pool = FramePool::new(PoolConfig::default());
    let (tunnel, vtep) = (tunnel(&spec(vxlan())), vtep(&vxlan()));
    let mut overlay = Overlay::default();
    let known = peer(&vxlan(), LOCAL, REMOTE);
    known.state.set_path_mtu(500);
    overlay.set_peer(known);
    overlay.set_tunnel(tunnel.clone());
    let mut bytes = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let tcp = ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4).ack(5);
    tcp.write(&mut bytes, &[7; 1000]).unwrap();
    leave_unfinished(&mut bytes, false, true);
    // Behind the outer headers of 36 bytes and those of the inner frame.
    let room = 500 - 36 - 50 - 4;
    for (class, joined_of, size) in [(0, Some(300), 300), (1, Some(300), 300), (0, None, room)] {
        let mut frame = in_frame(&pool, &bytes, Offload::NONE);
        let fields = EncapFields { traffic_class: class, ttl: 3, ..EncapFields::default() };
        encap(&mut frame, &tunnel, &peer(&vxlan(), REMOTE, LOCAL), &fields).unwrap();
        let gso = joined_of.map(|size| Gso { kind: GsoKind::TcpV4, size, ecn: false });
        frame.set_offload(Offload { csum: Csum::Verified, gso });
        open(&overlay, &vtep, &frame).unwrap().take_out(&mut frame).unwrap();
        let csum = Csum::Partial { start: 34, offset: 16 };
        let gso = Some(Gso { kind: GsoKind::TcpV4, size, ecn: false });
        assert_eq!(frame.offload(), Offload { csum, gso }, "{joined_of:?}");
        assert_eq!(frame.len(), bytes.len());
    }
}

#[test]
fn plain_frames_are_taken_and_others_are_not() {
    let build = |v6: bool| {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            ethernet.ipv6([0xfd; 16], [0xfc; 16], 64)
        } else {
            ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let mut bytes = Vec::new();
        ip.udp(1, 2).write(&mut bytes, &[7; 20]).unwrap();
        bytes
    };
    for (at, byte, v6, plain) in [
        (0, 2, false, true),
        (0, 2, true, true),
        (14, 0x46, false, false),
        (20, 0x20, false, false),
        (20, 0x40, false, true),
        (12, 0x81, false, false),
        (14, 0x50, true, false),
    ] {
        let mut bytes = build(v6);
        bytes[at] = byte;
        assert_eq!(Plain::of(&bytes).is_some(), plain, "{at}: {byte:#x}, IPv6: {v6}");
        assert_eq!(plain::is_finished(&bytes), plain, "{at}: {byte:#x}, IPv6: {v6}");
    }
    for kind in [vxlan(), geneve(vec![])] {
        let (spec, peer) = (spec(kind.clone()), peer(&kind, LOCAL, REMOTE));
        assert!(Lane::new(&tunnel(&spec), &peer).is_some());
        let other = |change: fn(&mut TunnelSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            Lane::new(&tunnel(&spec), &peer).is_some()
        };
        assert!(!other(|spec| spec.ttl = Ttl::Copy));
        assert!(!other(|spec| spec.dscp = Dscp::Copy));
        assert!(!other(|spec| spec.df = false));
        assert!(!other(|spec| spec.udp_checksum = Some(true)));
        assert!(!other(|spec| spec.mss_clamp = true));
    }
}
