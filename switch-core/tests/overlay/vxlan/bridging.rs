//! RFC 7348 §4 and §6.1: tags, learning, BUM traffic, nesting, and whose packets are taken.

use switch_core::config::{InnerTags, PeerPolicy, PortVlans, TunnelSpec};
use switch_core::event::WorkerEvent;
use switch_core::fdb::{Dest, Flags, Key, Tick};
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;
use switch_core::wire::vlan::VlanId;
use switch_core::{Domain, DropReason as R};

use super::{HEADER, behind, in_vxlan};
use crate::lab::overlay::{geneve, gre, spec, vxlan};
use crate::lab::underlay::{self, Outer, decode};
use crate::lab::{Lab, Port, small};
use crate::site::{FAMILIES, Family, Site, VNI};

/// A bridge with a port of these VLANs and a tunnel.
fn vlan_site(vlans: PortVlans, set: impl FnOnce(&mut TunnelSpec)) -> (Lab, Port, Port) {
    let mut lab = Lab::new();
    let bridge = lab.bridge(0);
    let port = lab.vlan_port(bridge, vlans);
    let vtep = lab.vtep(Family::V4.local());
    let mut spec = spec(vxlan(VNI), &Family::V4.remotes()[..1]);
    set(&mut spec);
    lab.tunnel(vtep, bridge, &spec);
    (lab, port, vtep)
}

#[track_caller]
fn sends_inner(lab: &mut Lab, port: Port, vtep: Port, frame: Vec<u8>, inner: &[u8]) {
    lab.send(port, frame);
    let sent = lab.received(vtep);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes[36..], *inner);
    lab.expect(&[]);
}

pub(super) fn tags_kept_and_stripped() {
    let plain = small(MacAddr::BROADCAST, mac(1));
    let ten = tagged(&plain, 0x8100, 10);
    let keep = |spec: &mut TunnelSpec| spec.tags = InnerTags::Keep;
    let of_ten = |spec: &mut TunnelSpec| spec.vlan = Some(VlanId::new(10).unwrap());
    // Kept, both ways, whatever there is.
    let (mut lab, port, vtep) = vlan_site(PortVlans::transparent(), keep);
    let prio = tagged(&plain, 0x8100, 0xa000);
    let service = tagged(&ten, 0x88a8, 10);
    for frame in [&plain, &ten, &prio, &service, &tagged(&ten, 0x8100, 20)] {
        sends_inner(&mut lab, port, vtep, frame.clone(), frame);
    }
    for frame in [&plain, &ten, &prio, &service, &tagged(&ten, 0x8100, 20)] {
        lab.send(vtep, in_vxlan(VNI, frame));
        lab.expect(&[(port, frame)]);
    }
    // Stripped where the frame goes in, put on again where it comes out.
    let (mut lab, port, vtep) = vlan_site(PortVlans::trunk([10, 20], None), of_ten);
    sends_inner(&mut lab, port, vtep, ten.clone(), &plain);
    sends_inner(&mut lab, port, vtep, tagged(&plain, 0x8100, 0x600a), &plain);
    lab.send(vtep, in_vxlan(VNI, &plain));
    lab.expect(&[(port, &ten)]);
    // A priority tag is a tag, too.
    let (mut lab, port, vtep) = vlan_site(PortVlans::transparent(), |_| {});
    sends_inner(&mut lab, port, vtep, prio.clone(), &plain);
    let (mut lab, port, vtep) = vlan_site(PortVlans::access(10), of_ten);
    sends_inner(&mut lab, port, vtep, prio, &plain);
    // 802.1ad is payload, stripped of nothing.
    let (mut lab, port, vtep) = vlan_site(PortVlans::access(10), of_ten);
    sends_inner(&mut lab, port, vtep, service.clone(), &service);
    lab.send(vtep, in_vxlan(VNI, &service));
    lab.expect(&[(port, &service)]);
    // Kept of one VLAN only.
    let (mut lab, port, vtep) = vlan_site(PortVlans::trunk([10, 20], None), |spec| {
        keep(spec);
        of_ten(spec);
    });
    sends_inner(&mut lab, port, vtep, ten.clone(), &ten);
    lab.send(vtep, in_vxlan(VNI, &ten));
    lab.expect(&[(port, &ten)]);
}

pub(super) fn tags_that_are_dropped() {
    let mut site = Site::new(Family::V4, vxlan(VNI));
    for tci in [0, 0xa000, 1, 10, 4094, 4095] {
        let frame = tagged(&site.call(), 0x8100, tci);
        let packet = site.packet(&frame);
        site.refuses(packet, R::InnerTag);
    }
    let ten = |spec: &mut TunnelSpec| spec.vlan = Some(VlanId::new(10).unwrap());
    let plain = small(MacAddr::BROADCAST, mac(1));
    // Also the tag of its own VLAN.
    let (mut lab, _, vtep) = vlan_site(PortVlans::access(10), ten);
    lab.dropped(vtep, in_vxlan(VNI, &tagged(&plain, 0x8100, 10)), vtep, R::InnerTag);
    // A tunnel that keeps the tags of VLAN 10 takes no others, and none without.
    let (mut lab, port, vtep) = vlan_site(PortVlans::trunk([10, 20], None), |spec| {
        spec.tags = InnerTags::Keep;
        ten(spec);
    });
    lab.dropped(vtep, in_vxlan(VNI, &tagged(&plain, 0x8100, 20)), vtep, R::VlanNotMember);
    lab.dropped(vtep, in_vxlan(VNI, &plain), vtep, R::VlanUntagged);
    lab.dropped(port, tagged(&plain, 0x8100, 20), port, R::NoDestination);
}

pub(super) fn learns_where_a_station_is() {
    for family in FAMILIES {
        let [first, second, _] = family.remotes();
        let both = |spec: &mut TunnelSpec| {
            spec.remotes = Some(vec![first.parse().unwrap(), second.parse().unwrap()]);
        };
        let mut site = Site::with(family, vxlan(VNI), both);
        for remote in [second, first, second] {
            let call = small(MacAddr::BROADCAST, mac(9));
            let packet = site.packet_by(Outer::new(remote, family.local()), &call);
            site.takes(packet, &call);
            let entry = site.lab.entry(site.bridge, 0, mac(9)).unwrap();
            let peer = site.lab.peer(site.vtep, remote);
            assert_eq!(entry.dest, Dest::Remote(peer.id.get()));
            // Unicast from then on, to that one.
            let frame = small(mac(9), mac(1));
            let sent = site.sent(frame.clone());
            let out = Outer::new(family.local(), remote);
            site.is_exactly(&sent, out, family.sum(), &behind(&HEADER, &frame));
        }
    }
}

pub(super) fn learns_nothing_if_told() {
    let family = Family::V4;
    let remotes = family.remotes().map(|addr| addr.parse().unwrap()).to_vec();
    let mut site = Site::with(family, vxlan(VNI), |spec| {
        (spec.learning, spec.remotes) = (false, Some(remotes));
    });
    site.is_well();
    assert_eq!(site.lab.switch.fdb().len(), 0);
    let call = small(MacAddr::BROADCAST, mac(9));
    let packet = site.packet(&call);
    site.takes(packet, &call);
    site.lab.send(site.tenant, small(mac(9), mac(1)));
    assert_eq!(site.lab.received(site.vtep).len(), 3, "an unknown station: a copy a remote");
    // A static address at one of them: unicast goes there, and packets do not move it.
    let third = site.lab.peer(site.vtep, family.remotes()[2]);
    let key = Key::new(mac(9), Domain::new(site.bridge, 0));
    let (at, tick) = (Dest::Remote(third.id.get()), Tick::from(site.lab.now));
    site.lab.switch.fdb().set(key, at, Flags::STATIC, tick).unwrap();
    let packet = site.packet(&call);
    site.takes(packet, &call);
    let sent = site.sent(small(mac(9), mac(1)));
    assert_eq!(decode(&sent).0.dst.to_string(), family.remotes()[2]);
    // A bridge that does not learn does not for its tunnels, either.
    let mut site = Site::new(family, vxlan(VNI));
    site.lab.set_bridge(site.bridge, false);
    site.is_well();
    assert_eq!(site.lab.switch.fdb().len(), 0);
}

fn destinations(lab: &mut Lab, vtep: Port) -> Vec<String> {
    lab.received(vtep).iter().map(|p| decode(&p.bytes).0.dst.to_string()).collect()
}

pub(super) fn one_copy_a_remote() {
    for family in FAMILIES {
        let remotes = family.remotes().map(|addr| addr.parse().unwrap()).to_vec();
        let mut site = Site::with(family, vxlan(VNI), |spec| spec.remotes = Some(remotes.clone()));
        let other = site.lab.port(site.bridge);
        // Broadcast, multicast, unknown unicast.
        for dst in [MacAddr::BROADCAST, MacAddr::new([1, 0, 0x5e, 0, 0, 1]), mac(99)] {
            let frame = small(dst, mac(1));
            site.lab.send(site.tenant, frame.clone());
            assert_eq!(destinations(&mut site.lab, site.vtep), family.remotes());
            site.lab.expect(&[(other, &frame)]);
        }
        // One copy to the group instead.
        let group = if family == Family::V4 { "239.1.1.1" } else { "ff05::1" };
        let mut site = Site::with(family, vxlan(VNI), |spec| {
            (spec.remotes, spec.group) = (Some(remotes), Some(group.parse().unwrap()));
        });
        let frame = site.call();
        let packet = site.sent(frame.clone());
        let out = Outer::new(family.local(), group);
        site.is_exactly(&packet, out, family.sum(), &behind(&HEADER, &frame));
        // What a remote sends to the group is taken, and teaches the remote's own address.
        let call = small(MacAddr::BROADCAST, mac(9));
        let packet = site.packet_by(Outer::new(family.remotes()[1], group), &call);
        site.takes(packet, &call);
        let sent = site.sent(small(mac(9), mac(1)));
        assert_eq!(decode(&sent).0.dst.to_string(), family.remotes()[1]);
    }
}

pub(super) fn no_copy_back() {
    for family in FAMILIES {
        let remotes = family.remotes().map(|addr| addr.parse().unwrap()).to_vec();
        let mut site = Site::with(family, vxlan(VNI), |spec| spec.remotes = Some(remotes));
        for (n, remote) in family.remotes().into_iter().enumerate() {
            // To the tenant only: not back, not to the two others.
            for dst in [MacAddr::BROADCAST, MacAddr::new([1, 0, 0x5e, 0, 0, 1]), mac(99)] {
                let frame = small(dst, mac(n as u32));
                let packet = site.packet_by(Outer::new(remote, family.local()), &frame);
                site.takes(packet, &frame);
            }
        }
        // Unicast from one remote for another.
        let frame = small(mac(1), mac(0));
        let packet = site.packet(&frame);
        site.lab.dropped(site.vtep, packet, site.vtep, R::SplitHorizon);
        // Nor into another tunnel of the same bridge.
        let vtep = site.lab.vtep("198.51.100.1");
        site.lab.tunnel(vtep, site.bridge, &spec(geneve(VNI), &["198.51.100.2"]));
        site.is_well();
    }
}

pub(super) fn nested_packets_are_payload() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        // A packet of the remote to our own VTEP, in a frame in such a packet: the tenant gets it.
        let inner = site.call();
        let nested = underlay::in_ethernet(MacAddr::BROADCAST, mac(1), &[], &site.packet(&inner));
        let packet = site.packet(&nested);
        site.takes(packet, &nested);
        // The same at a tenant's port is a frame like any other, there and in the tunnel.
        let other = site.lab.port_with(|setup| {
            setup.conf.bridge = Some(site.bridge);
            setup.conf.mtu = 9000;
        });
        site.lab.send(other, nested.clone());
        let sent = site.lab.received(site.vtep);
        site.lab.expect(&[(site.tenant, &nested)]);
        site.is_exactly(&sent[0].bytes, site.out(), family.sum(), &behind(&HEADER, &nested));
        // A tenant may use the addresses of the underlay for his own stations.
        for (protocol, payload) in
            [(1, &[8, 0, 0, 0, 0, 0, 0, 0][..]), (6, &[0x12; 20]), (17, &[0, 1, 0, 53, 0, 8, 0, 0])]
        {
            let packet = site.out().packet(protocol, payload);
            let frame = underlay::in_ethernet(MacAddr::BROADCAST, mac(1), &[], &packet);
            site.lab.send(other, frame.clone());
            let sent = site.lab.received(site.vtep);
            site.lab.expect(&[(site.tenant, &frame)]);
            site.is_exactly(&sent[0].bytes, site.out(), family.sum(), &behind(&HEADER, &frame));
        }
    }
}

pub(super) fn the_own_packets_come_back() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        let call = site.call();
        let own = site.sent(call);
        let wrapped = underlay::in_ethernet(mac(9), mac(8), &[], &own);
        site.does_not_send(wrapped, R::TunnelLoop);
        // Behind tags as well.
        let mut keep = Site::with(family, vxlan(VNI), |spec| spec.tags = InnerTags::Keep);
        for tags in [&[(0x8100, 5)][..], &[(0x88a8, 5), (0x8100, 6)]] {
            let wrapped = underlay::in_ethernet(mac(9), mac(8), tags, &own);
            keep.does_not_send(wrapped, R::TunnelLoop);
        }
        // So are those of another tunnel of the VTEP, of whatever protocol.
        let [remote, ..] = family.remotes();
        for kind in [geneve(7), gre(None)] {
            let bridge = site.lab.bridge(1);
            let port = site.lab.port(bridge);
            let tunnel = site.lab.tunnel(site.vtep, bridge, &spec(kind, &[remote]));
            site.lab.send(port, small(MacAddr::BROADCAST, mac(4)));
            let own = site.lab.received(site.vtep).remove(0).bytes;
            let wrapped = underlay::in_ethernet(mac(9), mac(8), &[], &own);
            site.does_not_send(wrapped, R::TunnelLoop);
            site.lab.remove_tunnel(tunnel);
            site.lab.close(port);
        }
        // And in large: nothing grows, every packet is dropped once.
        for _ in 0..100 {
            let wrapped = underlay::in_ethernet(mac(9), mac(8), &[], &own);
            site.does_not_send(wrapped, R::TunnelLoop);
        }
        site.is_well();
    }
}

pub(super) fn known_peers() {
    for family in FAMILIES {
        let remotes = family.remotes().map(|addr| addr.parse().unwrap()).to_vec();
        let mut site = Site::with(family, vxlan(VNI), |spec| spec.remotes = Some(remotes));
        for remote in family.remotes() {
            let call = site.call();
            let packet = site.packet_by(Outer::new(remote, family.local()), &call);
            site.takes(packet, &call);
        }
        let mut site = Site::with(family, vxlan(VNI), |spec| {
            spec.peers = PeerPolicy::Any;
        });
        let call = site.call();
        let stranger = Outer::new(family.stranger(), family.local());
        let packet = site.packet_by(stranger, &call);
        site.takes(packet, &call);
        // The control side is told who it was.
        site.lab.housekeep();
        let seen = site.lab.events.iter().any(|event| {
            matches!(event, WorkerEvent::PeerSeen { addr, .. }
                if addr.to_string() == family.stranger())
        });
        assert!(seen, "{:?}", site.lab.events);
    }
}

pub(super) fn strangers() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        let stranger = Outer::new(family.stranger(), family.local());
        let frame = site.call();
        let packet = site.packet_by(stranger, &frame);
        site.refuses(packet, R::TunnelPeer);
        // A remote of another tunnel of the VTEP is no peer of this one.
        let other = site.lab.bridge(1);
        site.lab.tunnel(site.vtep, other, &spec(vxlan(VNI + 1), &[family.stranger()]));
        let packet = site.packet_by(stranger, &frame);
        site.refuses(packet, R::TunnelPeer);
    }
}
