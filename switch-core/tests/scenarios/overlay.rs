//! Tenants' frames between bridges and the underlay. What each RFC says in detail is in
//! `tests/overlay`.

use switch_core::config::{InnerTags, TunnelKind, TunnelSpec};
use switch_core::datapath::Caps;
use switch_core::fdb::Flags;
use switch_core::frame::{Csum, GsoKind, Offload};
use switch_core::testing::Packet;
use switch_core::testing::frames::{finished, gso, mac, pattern, tagged, tcp4, tcp6, udp4};
use switch_core::wire::MacAddr;
use switch_core::{BridgeId, DropReason};

use crate::lab::overlay::{Tunnel, dropped, every_kind, geneve, gre, spec, vxlan};
use crate::lab::underlay::{self, Outer, Sum};
use crate::lab::{Lab, LabConfig, Port, frame, small};

const LOCAL: &str = "192.0.2.1";
const REMOTES: [&str; 3] = ["192.0.2.2", "192.0.2.3", "192.0.2.4"];
const VNI: u32 = 10_010;
const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;

/// A packet from a remote.
fn from(remote: &str) -> Outer {
    Outer::new(remote, LOCAL)
}

fn vxlan_from(remote: &str, vni: u32, frame: &[u8]) -> Vec<u8> {
    from(remote).udp((50_000, VXLAN), Sum::None, &underlay::vxlan(vni, frame))
}

fn geneve_from(remote: &str, payload: &[u8]) -> Vec<u8> {
    from(remote).udp((50_000, GENEVE), Sum::None, payload)
}

/// A bridge with a port and a tunnel.
struct Site {
    lab: Lab,
    vtep: Port,
    tenant: Port,
    tunnel: Tunnel,
}

fn site(spec: &TunnelSpec) -> Site {
    let mut lab = Lab::new();
    let bridge = lab.bridge(0);
    let tenant = lab.port(bridge);
    let vtep = lab.vtep(LOCAL);
    let tunnel = lab.tunnel(vtep, bridge, spec);
    Site { lab, vtep, tenant, tunnel }
}

/// Broadcasts go to every remote, answers to the one that was learned, whatever is spoken and
/// however many workers there are.
pub(crate) fn a_network_of_four_hosts() {
    for (kind, workers) in
        every_kind(VNI).into_iter().flat_map(|kind| [(kind.clone(), 1), (kind, 3)])
    {
        let mut lab = Lab::with(LabConfig { workers, ..LabConfig::default() });
        let bridge = lab.bridge(0);
        let (a, b) = (lab.port(bridge), lab.port(bridge));
        let vtep = lab.vtep(LOCAL);
        let tunnel = lab.tunnel(vtep, bridge, &spec(kind.clone(), &REMOTES));
        let call = small(MacAddr::BROADCAST, mac(1));
        lab.send(a, call.clone());
        let sent: Vec<_> = lab.received(vtep).into_iter().map(|p| p.bytes).collect();
        let to: Vec<_> = sent.iter().map(|p| underlay::decode(p).0.dst.to_string()).collect();
        assert_eq!(to, REMOTES, "{kind:?}");
        lab.expect(&[(b, &call)]);
        // The packet that went to the second remote comes back from there, around another frame.
        let answer = small(mac(1), mac(2));
        let (outer, protocol, payload) = underlay::decode(&sent[1]);
        let headers = payload.len() - call.len();
        let back = outer.back().packet(protocol, &[&payload[..headers], &answer].concat());
        let back = with_udp_len(back, protocol);
        lab.send(vtep, back);
        lab.expect(&[(a, &answer)]);
        // From now on it is unicast.
        lab.send(a, small(mac(2), mac(1)));
        let sent = lab.received(vtep);
        assert_eq!(sent.len(), 1, "{kind:?}");
        assert_eq!(underlay::decode(&sent[0].bytes).0.dst.to_string(), REMOTES[1]);
        let totals = lab.tunnel_totals(tunnel);
        assert_eq!((totals.rx_frames, totals.tx_frames), (1, 4));
        assert_eq!(lab.peer_totals(vtep, REMOTES[1]).tx_frames, 2);
        lab.expect(&[]);
    }
}

/// The length of a frame of another size in a datagram that was decoded.
fn with_udp_len(mut packet: Vec<u8>, protocol: u8) -> Vec<u8> {
    if protocol == 17 {
        let len = (packet.len() - 20) as u16;
        packet[24..26].copy_from_slice(&len.to_be_bytes());
    }
    packet
}

/// What is no packet of a tunnel ends as what it is, and the next good one passes.
pub(crate) fn packets_that_are_refused() {
    use DropReason as R;
    let good = small(MacAddr::BROADCAST, mac(2));
    let mut site = site(&TunnelSpec { strict_reserved: true, ..spec(vxlan(VNI), &REMOTES) });
    let packet = vxlan_from(REMOTES[0], VNI, &good);
    let changed = |at: usize, to: u8| {
        let mut packet = packet.clone();
        packet[at] = to;
        packet
    };
    let mut fragment = from(REMOTES[0]).udp((1, VXLAN), Sum::None, &underlay::vxlan(VNI, &good));
    fragment[6] = 0x20;
    let header_sum =
        !switch_core::testing::frames::sum(&[&fragment[..10], &fragment[12..20]].concat());
    fragment[10..12].copy_from_slice(&header_sum.to_be_bytes());
    for (packet, reason) in [
        (changed(8, 0), R::OuterInvalid),
        (fragment, R::OuterFragment),
        (Outer::new(REMOTES[0], "192.0.2.9").packet(17, &packet[20..]), R::OuterAddress),
        (changed(28, 0), R::TunnelHeader),
        (changed(29, 1), R::TunnelReserved),
        (vxlan_from(REMOTES[0], VNI + 1, &good), R::TunnelUnknown),
        (vxlan_from("192.0.2.99", VNI, &good), R::TunnelPeer),
        (vxlan_from(REMOTES[0], VNI, &good[..13]), R::InnerRunt),
        (vxlan_from(REMOTES[0], VNI, &tagged(&good, 0x8100, 5)), R::InnerTag),
    ] {
        site.refuses(packet, reason, &good);
    }
}

impl Site {
    fn refuses(&mut self, packet: Vec<u8>, reason: DropReason, good: &[u8]) {
        self.lab.dropped(self.vtep, packet, self.vtep, reason);
        let expected = u64::from(DropReason::OVERLAY.contains(&reason));
        let counted = dropped(&self.lab.tunnel_totals(self.tunnel), reason);
        assert_eq!(counted, expected, "{reason}");
        let known = self.lab.tunnel_totals(self.tunnel).rx_frames;
        self.lab.send(self.vtep, vxlan_from(REMOTES[0], VNI, good));
        self.lab.expect(&[(self.tenant, good)]);
        assert_eq!(self.lab.tunnel_totals(self.tunnel).rx_frames, known + 1);
    }
}

/// GENEVE and GRE have ways of their own to be wrong.
pub(crate) fn options_checksums_and_numbers() {
    use DropReason as R;
    let good = small(MacAddr::BROADCAST, mac(2));
    let mut a = site(&spec(geneve(VNI), &REMOTES));
    let mut layer3 = underlay::geneve(VNI, false, &[], &good);
    layer3[2..4].copy_from_slice(&[0x08, 0]);
    let mut control = underlay::geneve(VNI, false, &[], &good);
    control[1] = 0x80;
    for (payload, reason) in [
        (layer3, R::TunnelProtocol),
        (control, R::GeneveControl),
        (underlay::geneve(VNI, false, &[0, 0, 0, 3], &good), R::GeneveOptions),
        (underlay::geneve(VNI, true, &[0, 0, 0x80, 0], &good), R::GeneveCritical),
    ] {
        a.lab.dropped(a.vtep, geneve_from(REMOTES[0], &payload), a.vtep, reason);
    }
    let kind = TunnelKind::Gre { key: Some(VNI), checksum: true, sequence: true };
    let mut b = site(&spec(kind, &REMOTES));
    let numbered = |n| from(REMOTES[0]).packet(47, &underlay::gre(true, Some(VNI), Some(n), &good));
    b.lab.send(b.vtep, numbered(7));
    b.lab.expect(&[(b.tenant, &good)]);
    b.lab.dropped(b.vtep, numbered(7), b.vtep, R::GreSequence);
    let mut damaged = numbered(8);
    *damaged.last_mut().unwrap() ^= 1;
    b.lab.dropped(b.vtep, damaged, b.vtep, R::GreChecksum);
}

/// What one remote sends here for another goes no further, known or unknown.
pub(crate) fn split_horizon() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES));
    for (n, remote) in REMOTES.iter().enumerate() {
        let call = small(MacAddr::BROADCAST, mac(n as u32));
        site.lab.send(site.vtep, vxlan_from(remote, VNI, &call));
        site.lab.expect(&[(site.tenant, &call)]);
    }
    let between = vxlan_from(REMOTES[0], VNI, &small(mac(1), mac(0)));
    site.lab.dropped(site.vtep, between, site.vtep, DropReason::SplitHorizon);
    assert_eq!(dropped(&site.lab.tunnel_totals(site.tunnel), DropReason::SplitHorizon), 1);
}

/// A route to the remote that leads into the overlay: each packet would be wrapped again, for ever.
pub(crate) fn a_route_into_the_overlay() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES[..1]));
    site.lab.send(site.tenant, small(MacAddr::BROADCAST, mac(1)));
    let out = site.lab.received(site.vtep);
    let wrapped = underlay::in_ethernet(mac(9), mac(8), &[], &out[0].bytes);
    site.lab.dropped(site.tenant, wrapped, site.vtep, DropReason::TunnelLoop);
}

/// A congestion mark on a packet whose transport cannot see marks.
pub(crate) fn congestion_that_cannot_be_marked() {
    let mut site = site(&spec(gre(Some(VNI)), &REMOTES));
    let inner =
        underlay::udp_frame(mac(1), mac(2), &[], &Outer::new("10.0.0.1", "10.0.0.2"), (1, 2), 9);
    let marked = Outer { traffic_class: 3, ..from(REMOTES[0]) };
    let packet = marked.packet(47, &underlay::gre(false, Some(VNI), None, &inner));
    site.lab.dropped(site.vtep, packet, site.vtep, DropReason::EcnDropped);
}

/// A frame that the path to the remote does not carry. Of the remotes of one tunnel each has a path
/// of its own.
pub(crate) fn frames_that_do_not_fit_the_path() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES[..2]));
    site.lab.peer(site.vtep, REMOTES[1]).state.set_path_mtu(1400);
    // 1,400 less 20 of IP, 8 of UDP and 8 of VXLAN.
    let mut dropped = 0;
    for (len, copies) in [(1364, 2), (1365, 1), (1464, 1), (1465, 0)] {
        site.lab.send(site.tenant, frame(MacAddr::BROADCAST, mac(1), len));
        assert_eq!(site.lab.received(site.vtep).len(), copies, "{len} bytes");
        dropped += 2 - copies as u64;
        assert_eq!(site.lab.drops(site.vtep, DropReason::TunnelMtu), dropped);
    }
}

/// A tunnel of one VLAN is in that VLAN and in no other; with tags kept it carries all.
pub(crate) fn vlans_and_tunnels() {
    use switch_core::config::PortVlans;
    use switch_core::wire::vlan::VlanId;
    let mut lab = Lab::new();
    let bridge = lab.bridge(0);
    let ten = lab.vlan_port(bridge, PortVlans::access(10));
    let twenty = lab.vlan_port(bridge, PortVlans::access(20));
    let vtep = lab.vtep(LOCAL);
    let of_ten =
        TunnelSpec { vlan: Some(VlanId::new(10).unwrap()), ..spec(vxlan(10), &REMOTES[..1]) };
    lab.tunnel(vtep, bridge, &of_ten);
    let all = TunnelSpec { tags: InnerTags::Keep, ..spec(geneve(1), &REMOTES[..1]) };
    lab.tunnel(vtep, bridge, &all);
    let call = small(MacAddr::BROADCAST, mac(1));
    for (port, vid, expected) in [(ten, 10, 2), (twenty, 20, 1)] {
        lab.send(port, call.clone());
        let sent = lab.received(vtep);
        assert_eq!(sent.len(), expected, "from VLAN {vid}");
        let kept = sent.last().map(|p| &p.bytes[36..]).unwrap();
        assert_eq!(kept, tagged(&call, 0x8100, vid), "GENEVE");
    }
    lab.send(vtep, vxlan_from(REMOTES[0], 10, &call));
    lab.expect(&[(ten, &call)]);
    lab.send(
        vtep,
        geneve_from(REMOTES[0], &underlay::geneve(1, false, &[], &tagged(&call, 0x8100, 20))),
    );
    lab.expect(&[(twenty, &call)]);
}

/// Entries outlive their tunnel by a moment: frames to them are flooded, and packets from its
/// remotes are nobody's.
pub(crate) fn a_tunnel_goes() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES));
    let call = small(MacAddr::BROADCAST, mac(2));
    site.lab.send(site.vtep, vxlan_from(REMOTES[0], VNI, &call));
    site.lab.expect(&[(site.tenant, &call)]);
    site.lab.remove_tunnel(site.tunnel);
    let to_it = small(mac(2), mac(1));
    site.lab.dropped(site.tenant, to_it, site.tenant, DropReason::NoDestination);
    let late = vxlan_from(REMOTES[0], VNI, &call);
    site.lab.dropped(site.vtep, late, site.vtep, DropReason::TunnelUnknown);
}

/// An address that keeps moving between two remotes is held at one of them for a while; its frames
/// pass all the same, and the events end.
pub(crate) fn an_address_in_two_places() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES));
    let call = small(MacAddr::BROADCAST, mac(9));
    let seen_at = |site: &mut Site, n: usize| {
        site.lab.send(site.vtep, vxlan_from(REMOTES[n % 2], VNI, &call));
        site.lab.expect(&[(site.tenant, &call)]);
        site.lab.housekeep();
        site.lab.entry(BridgeId::new(0), 0, mac(9)).unwrap()
    };
    for n in 0..6 {
        assert!(seen_at(&mut site, n).flags.is_learned());
        assert_eq!(site.lab.held(), 0, "after {n} moves");
    }
    let held = seen_at(&mut site, 6);
    assert_eq!(site.lab.held(), 1);
    let events = site.lab.events.len();
    for n in 7..50 {
        assert_eq!(seen_at(&mut site, n).dest, held.dest);
    }
    assert_eq!(site.lab.events.len(), events);
    site.lab.advance(31);
    assert_eq!(site.lab.held(), 0);
    assert_ne!(seen_at(&mut site, 7).dest, held.dest);
}

/// What is static, sticky or of another network a remote does not move.
pub(crate) fn addresses_that_no_remote_takes() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES));
    let bridge = BridgeId::new(0);
    for (n, flags) in [(1, Flags::STATIC), (2, Flags::STICKY), (3, Flags::LOCAL)] {
        site.lab.set_entry(bridge, 0, mac(n), site.tenant, flags);
        let call = small(MacAddr::BROADCAST, mac(n));
        site.lab.send(site.vtep, vxlan_from(REMOTES[0], VNI, &call));
        site.lab.expect(&[(site.tenant, &call)]);
        assert_eq!(site.lab.learned(bridge, 0, mac(n)), Some(site.tenant));
    }
    let other = site.lab.bridge(1);
    let port = site.lab.port(other);
    site.lab.tunnel(site.vtep, other, &spec(vxlan(VNI + 1), &REMOTES));
    let call = small(MacAddr::BROADCAST, mac(7));
    site.lab.send(port, call.clone());
    assert_eq!(site.lab.received(site.vtep).len(), REMOTES.len());
    site.lab.send(site.vtep, vxlan_from(REMOTES[0], VNI, &call));
    site.lab.expect(&[(site.tenant, &call)]);
    assert_eq!(site.lab.learned(other, 0, mac(7)), Some(port));
}

type Build = fn(MacAddr, MacAddr, &[u8]) -> Packet;

/// A kernel that encapsulates leaves the inner checksum to its NIC. Where no NIC was on the way it is
/// finished here, unless the port takes it as it is.
pub(crate) fn checksums_that_nobody_finished() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES));
    for (inner, len) in [(tcp4 as Build, 0), (tcp4, 1), (tcp4, 1300), (tcp6, 99), (udp4, 7)] {
        let inner = inner(MacAddr::BROADCAST, mac(2), &pattern(1, len));
        let whole = finished(&inner);
        assert_ne!(whole, inner.bytes);
        for bytes in [&inner.bytes, &whole] {
            site.lab.change(site.tenant, |conf| conf.caps.csum = false);
            site.lab.send(site.vtep, vxlan_from(REMOTES[0], VNI, bytes));
            site.lab.expect(&[(site.tenant, &whole)]);
            site.lab.change(site.tenant, |conf| conf.caps.csum = true);
            site.lab.send(site.vtep, vxlan_from(REMOTES[0], VNI, bytes));
            let got = site.lab.received(site.tenant).remove(0);
            assert_eq!((finished(&got), &got.bytes), (whole.clone(), bytes));
        }
    }
}

/// What a backend joined of several packets comes out as one super-frame of their size, and is cut again
/// for a port that has to have it so or wants it.
pub(crate) fn a_packet_that_stands_for_several() {
    let mut site = site(&spec(vxlan(VNI), &REMOTES));
    for (inner, kind) in [(tcp4 as Build, GsoKind::TcpV4), (tcp6, GsoKind::TcpV6)] {
        let whole = gso(inner(MacAddr::BROADCAST, mac(2), &pattern(1, 3000)), kind, 1000);
        let bytes = vxlan_from(REMOTES[0], VNI, &whole.bytes);
        let offload = Offload { csum: Csum::Verified, gso: whole.offload.gso };
        for (caps, gro, frames) in
            [(Caps::ALL, true, 1), (Caps::ALL, false, 3), (Caps::default(), true, 3)]
        {
            site.lab.change(site.tenant, |conf| (conf.caps, conf.gro) = (caps, gro));
            site.lab.send(site.vtep, Packet { bytes: bytes.clone(), offload });
            let got = site.lab.received(site.tenant);
            assert_eq!(got.len(), frames);
            if frames == 1 {
                assert_eq!(got, std::slice::from_ref(&whole));
            } else {
                assert!(got.iter().all(|part| part.offload.is_finished()));
                let len: usize = got.iter().map(|part| part.bytes.len()).sum();
                assert_eq!(len, whole.bytes.len() + 2 * (whole.bytes.len() - 3000));
            }
        }
    }
    assert_eq!(site.lab.all_drops(), 0);
}
