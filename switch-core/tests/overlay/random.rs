//! Random tunnels and random frames between two switches: what one encapsulates the other makes the
//! same frame of, but for tags that the tunnel does not carry.

use std::cell::RefCell;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use switch_core::BridgeId;
use switch_core::config::{Dscp, InnerTags, Ttl, TunnelKind, TunnelSpec};
use switch_core::frame::GsoKind;
use switch_core::testing::Packet;
use switch_core::testing::frames::{
    TCP4_HEADERS, TCP6_HEADERS, finished, gso, mac, pattern, tagged, tcp4, tcp6, udp4,
};
use switch_core::wire::MacAddr;
use switch_core::wire::geneve::OwnedOption;

use crate::lab::overlay::{Tunnel, spec, vni};
use crate::lab::underlay::{self, Outer, decode};
use crate::lab::{Lab, LabConfig, Port, frame};
use crate::site::Family;

/// A tunnel as both ends have it.
#[derive(Clone, Debug)]
struct Setup {
    family: Family,
    spec: TunnelSpec,
    workers: usize,
    path_mtu: u32,
}

/// A frame, as far as it is not drawn from the tunnel.
#[derive(Clone, Debug)]
enum Probe {
    Plain { len: usize },
    Ip { v6: bool, traffic_class: u8, ttl: u8, ports: (u16, u16), len: usize },
    Unfinished { len: usize },
    Super { v6: bool, size: u16, len: usize },
}

/// Which way, to whom, and with which tag.
#[derive(Clone, Debug)]
struct Sent {
    back: bool,
    group: bool,
    tag: Option<(u16, u16)>,
    probe: Probe,
}

fn option() -> impl Strategy<Value = OwnedOption> {
    (any::<u16>(), any::<u8>(), 0usize..=31).prop_map(|(class, typ, words)| OwnedOption {
        class,
        typ,
        data: vec![typ; words * 4],
    })
}

fn kind() -> impl Strategy<Value = TunnelKind> {
    let number = prop_oneof![Just(0), Just(0xff_ffff), 0u32..0x100_0000].prop_map(vni);
    let udp_port = prop_oneof![Just(4789), Just(6081), Just(8472), 1024u16..];
    // At most 252 bytes: of longer ones as many as fit.
    let options = proptest::collection::vec(option(), 0..5).prop_map(|mut options| {
        while options.iter().map(|option| option.data.len() + 4).sum::<usize>() > 252 {
            options.pop();
        }
        options
    });
    let key = proptest::option::of(prop_oneof![Just(0), any::<u32>()]);
    prop_oneof![
        (number.clone(), udp_port.clone())
            .prop_map(|(vni, udp_port)| TunnelKind::Vxlan { vni, udp_port }),
        (number.clone(), udp_port, options)
            .prop_map(|(vni, udp_port, options)| TunnelKind::Geneve { vni, udp_port, options }),
        (key, any::<bool>(), any::<bool>())
            .prop_map(|(key, checksum, sequence)| { TunnelKind::Gre { key, checksum, sequence } }),
        number.prop_map(|vsid| TunnelKind::Nvgre { vsid }),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let ttl = prop_oneof![Just(Ttl::Copy), (1u8..).prop_map(Ttl::Set)];
    let dscp = prop_oneof![Just(Dscp::Copy), (0u8..64).prop_map(Dscp::Set)];
    let flags = (any::<bool>(), proptest::option::of(any::<bool>()), any::<bool>(), any::<bool>());
    let path_mtu = prop_oneof![Just(1500), Just(9000), Just(65_535), 600u32..3000];
    (family, kind(), ttl, dscp, flags, (1usize..4, path_mtu)).prop_map(
        |(family, kind, ttl, dscp, (keep, udp_checksum, df, strict), (workers, path_mtu))| {
            let nvgre = matches!(kind, TunnelKind::Nvgre { .. });
            let tags = if keep && !nvgre { InnerTags::Keep } else { InnerTags::Strip };
            let strict_reserved = strict;
            let spec = TunnelSpec {
                tags,
                ttl,
                dscp,
                df,
                udp_checksum,
                strict_reserved,
                ..spec(kind, &[])
            };
            Setup { family, spec, workers, path_mtu }
        },
    )
}

fn sent() -> impl Strategy<Value = Sent> {
    let probe = prop_oneof![
        3 => (14usize..3000).prop_map(|len| Probe::Plain { len }),
        3 => (any::<bool>(), any::<u8>(), any::<u8>(), any::<(u16, u16)>(), 0usize..3000).prop_map(
            |(v6, traffic_class, ttl, ports, len)| Probe::Ip { v6, traffic_class, ttl, ports, len }
        ),
        1 => (0usize..2000).prop_map(|len| Probe::Unfinished { len }),
        1 => (any::<bool>(), 100u16..2000, 1usize..40_000)
            .prop_map(|(v6, size, len)| Probe::Super { v6, size, len }),
    ];
    let tpid = prop_oneof![3 => Just(0x8100u16), 1 => Just(0x88a8u16)];
    let tci = prop_oneof![Just(0u16), Just(0xe000u16), 1u16..4095];
    let tag = proptest::option::weighted(0.3, (tpid, tci));
    (any::<bool>(), any::<bool>(), tag, probe).prop_map(|(back, group, tag, probe)| {
        // Metadata says where a header is, so what has some is sent untagged.
        let whole = matches!(probe, Probe::Plain { .. } | Probe::Ip { .. });
        Sent { back, group, tag: tag.filter(|_| whole), probe }
    })
}

/// A switch with a tunnel to the other one.
struct End {
    lab: Lab,
    tenant: Port,
    vtep: Port,
    tunnel: Tunnel,
    remote: &'static str,
}

impl End {
    fn new(setup: &Setup, here: &'static str, there: &'static str) -> Self {
        let mut lab = Lab::with(LabConfig { workers: setup.workers, ..LabConfig::default() });
        let bridge: BridgeId = lab.bridge(0);
        let tenant = lab.port_with(|port| {
            (port.conf.bridge, port.conf.mtu) = (Some(bridge), u16::MAX.into());
        });
        let vtep = lab.vtep(here);
        let there_addr: IpAddr = there.parse().unwrap();
        let spec = TunnelSpec { remotes: Some(vec![there_addr]), ..setup.spec.clone() };
        let tunnel = lab.tunnel(vtep, bridge, &spec);
        lab.peer(vtep, there).state.set_path_mtu(setup.path_mtu);
        Self { lab, tenant, vtep, tunnel, remote: there }
    }
}

/// What the tenant sends, and what has to arrive of it.
struct Built {
    packet: Packet,
    /// Frames, or of a super-frame the payloads of its segments.
    parts: Vec<Vec<u8>>,
    /// Bytes in front of these payloads.
    headers: usize,
}

/// `tag` is what the frame has behind the tunnel.
fn build(sent: &Sent, number: u32, tag: Option<(u16, u16)>) -> Built {
    let (src, dst) = if sent.back { (mac(2), mac(1)) } else { (mac(1), mac(2)) };
    let dst = if sent.group { MacAddr::BROADCAST } else { dst };
    let with = |bytes: &[u8], tag: Option<(u16, u16)>| match tag {
        Some((tpid, tci)) => tagged(bytes, tpid, tci),
        None => bytes.to_vec(),
    };
    let whole = |bytes: Vec<u8>| Built {
        packet: with(&bytes, sent.tag).into(),
        parts: vec![with(&bytes, tag)],
        headers: 0,
    };
    match sent.probe {
        Probe::Plain { len } => whole(frame(dst, src, len)),
        Probe::Ip { v6, traffic_class, ttl, ports, len } => {
            let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
            let ip = Outer { traffic_class, ttl, ..Outer::new(a, b) };
            whole(underlay::udp_frame(dst, src, &[], &ip, ports, len))
        }
        Probe::Unfinished { len } => {
            let packet = udp4(dst, src, &pattern(number, len));
            Built { parts: vec![finished(&packet)], packet, headers: 0 }
        }
        Probe::Super { v6, size, len } => {
            let data = pattern(number, len.max(usize::from(size) + 1));
            let (packet, kind, headers) = if v6 {
                (tcp6(dst, src, &data), GsoKind::TcpV6, TCP6_HEADERS)
            } else {
                (tcp4(dst, src, &data), GsoKind::TcpV4, TCP4_HEADERS)
            };
            let parts = data.chunks(size.into()).map(<[u8]>::to_vec).collect();
            Built { packet: gso(packet, kind, size), parts, headers }
        }
    }
}

/// The tag that a frame has behind the tunnel; `None` if the tunnel does not carry the frame.
fn behind(spec: &TunnelSpec, sent: &Sent) -> Option<Option<(u16, u16)>> {
    match (sent.tag, spec.tags) {
        // Of no VLAN, so only the tag goes; a frame of a VLAN is not the tunnel's.
        (Some((0x8100, tci)), InnerTags::Strip) => (tci & 0xfff == 0).then_some(None),
        (tag, _) => Some(tag),
    }
}

/// Bytes in front of a frame in the tunnel, counted by hand.
fn overhead(setup: &Setup) -> usize {
    let word = |there: bool| if there { 4 } else { 0 };
    let header = match &setup.spec.kind {
        TunnelKind::Vxlan { .. } => 16,
        TunnelKind::Geneve { options, .. } => {
            16 + options.iter().map(|option| 4 + option.data.len()).sum::<usize>()
        }
        TunnelKind::Gre { key, checksum, sequence } => {
            4 + word(key.is_some()) + word(*checksum) + word(*sequence)
        }
        TunnelKind::Nvgre { .. } => 8,
        TunnelKind::Erspan { .. } => unreachable!("for mirrors alone"),
    };
    setup.family.ip_len() + header
}

/// How many frames were carried and how many were not.
#[derive(Debug, Default)]
struct Tally {
    carried: u64,
    too_large: u64,
    of_other_vlans: u64,
    segments: u64,
}

fn check(setup: &Setup, frames: &[Sent], tally: &mut Tally) -> Result<(), TestCaseError> {
    let (here, [there, ..]) = (setup.family.local(), setup.family.remotes());
    let mut ends = [End::new(setup, here, there), End::new(setup, there, here)];
    let mut carried = [0u64; 2];
    for (number, sent) in frames.iter().enumerate() {
        let (from, to) = if sent.back { (1, 0) } else { (0, 1) };
        let tag = behind(&setup.spec, sent);
        let Built { packet, parts, headers } = build(sent, number as u32, tag.flatten());
        let fits = headers + parts[0].len() + overhead(setup) <= setup.path_mtu as usize;
        let passes = tag.is_some() && fits;
        let end = &mut ends[from];
        end.lab.send(end.tenant, packet);
        // One that is too large may be answered with what would fit.
        let answers = end.lab.received(end.tenant).len();
        prop_assert!(answers <= usize::from(!fits), "{:?}: {} answers", sent, answers);
        let outer = end.lab.received(end.vtep);
        let expected = if passes { parts.len() } else { 0 };
        prop_assert_eq!(outer.len(), expected, "{:?}", sent);
        let other = &mut ends[to];
        for packet in outer {
            prop_assert!(packet.bytes.len() <= setup.path_mtu as usize);
            decode(&packet.bytes);
            other.lab.inject(other.vtep, packet);
        }
        other.lab.run();
        let got = other.lab.received(other.tenant);
        prop_assert_eq!(got.len(), expected, "{:?}", sent);
        for (got, want) in got.iter().zip(&parts) {
            prop_assert_eq!(&got.bytes[headers..], &want[..], "{:?}", sent);
        }
        prop_assert!(other.lab.received(other.vtep).is_empty(), "nothing comes back");
        carried[from] += expected as u64;
        tally.carried += u64::from(passes);
        tally.too_large += u64::from(!fits);
        tally.of_other_vlans += u64::from(tag.is_none());
        tally.segments += if headers > 0 { expected as u64 } else { 0 };
    }
    let totals = ends.each_ref().map(|end| end.lab.tunnel_totals(end.tunnel));
    for (n, end) in ends.iter().enumerate() {
        let (mine, others) = (&totals[n], &totals[1 - n]);
        prop_assert_eq!((mine.tx_frames, mine.rx_frames), (carried[n], carried[1 - n]));
        prop_assert_eq!(mine.tx_bytes, others.rx_bytes);
        let peer = end.lab.peer_totals(end.vtep, end.remote);
        prop_assert_eq!((peer.tx_bytes, peer.rx_bytes), (mine.tx_bytes, mine.rx_bytes));
        prop_assert_eq!(end.lab.in_use(), 0);
    }
    Ok(())
}

#[test]
fn what_one_switch_encapsulates_another_decapsulates() {
    let mut runner =
        TestRunner::new(Config { cases: 512, failure_persistence: None, ..Config::default() });
    let case = (setup(), proptest::collection::vec(sent(), 1..20));
    let tally = RefCell::new(Tally::default());
    runner.run(&case, |(setup, frames)| check(&setup, &frames, &mut tally.borrow_mut())).unwrap();
    let tally = tally.into_inner();
    println!("{tally:?}");
    let Tally { carried, too_large, of_other_vlans, segments } = tally;
    assert!([carried, too_large, of_other_vlans, segments].iter().all(|n| *n > 100));
}
