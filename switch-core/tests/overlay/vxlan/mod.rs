//! RFC 7348.

mod bridging;
mod packets;
mod udp;

use switch_core::config::TunnelKind;
use switch_core::testing::frames::mac;
use switch_core::wire::MacAddr;
use switch_core::{BridgeId, DropReason as R};

use crate::By::{Core, Kernel};
use crate::Check;
use crate::Level::{Must, Should};
use crate::lab::overlay::{geneve, spec, vxlan};
use crate::lab::underlay::{self, Outer, Sum, decode, decode_udp};
use crate::lab::{Lab, Port, frame, small};
use crate::site::{FAMILIES, Family, SRC_PORT, Site, VNI};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "V7348-5-1",
        "RFC 7348 §5",
        Must,
        Core,
        "the I flag is 1; a packet without it is dropped",
        the_header_sent,
        no_i_flag,
    ),
    Check::new(
        "V7348-5-2",
        "RFC 7348 §5",
        Must,
        Core,
        "39 reserved bits are 0 when sent and ignored on receipt; a strict tunnel drops them",
        reserved_bits_are_ignored,
        reserved_bits_when_strict,
    ),
    Check::new(
        "V7348-5-3",
        "RFC 7348 §5",
        Must,
        Core,
        "networks are apart: of an unknown VNI nothing is taken, one never reaches another",
        vnis_of_any_number,
        vnis_are_apart,
    ),
    Check::new(
        "V7348-5-3b",
        "RFC 7348 §5",
        Must,
        Core,
        "the same VNI in VXLAN and in GENEVE is two networks",
        one_number_two_protocols,
        what_one_protocol_teaches,
    ),
    Check::new(
        "V7348-5-4",
        "RFC 7348 §5",
        Should,
        Core,
        "the destination port is 4789 and configurable",
        udp::ports_of_the_operators_choice,
        udp::other_ports,
    ),
    Check::new(
        "V7348-5-5",
        "RFC 7348 §5",
        Should,
        Core,
        "the source port is a hash of the inner flow, 49152 to 65535",
        udp::a_thousand_flows,
        udp::one_flow_one_port,
    ),
    Check::new(
        "V7348-5-6",
        "RFC 7348 §5",
        Should,
        Core,
        "the UDP checksum is sent as 0 over IPv4, and 0 is accepted",
        udp::no_checksum,
        udp::a_checksum_if_asked_for,
    ),
    Check::new(
        "V7348-5-7",
        "RFC 7348 §5",
        Must,
        Kernel,
        "a checksum that is there is right over the whole packet, or the packet is dropped",
        udp::right_checksums,
        udp::wrong_checksums,
    ),
    Check::new(
        "V7348-5-7b",
        "RFC 6935 §5",
        Must,
        Kernel,
        "over IPv6 none only where that is configured",
        udp::no_checksum_over_v6,
        udp::no_checksum_over_v6_unasked,
    ),
    Check::new(
        "V7348-4.3-8",
        "RFC 7348 §4.3",
        Must,
        Core,
        "nothing is fragmented: what is too large is dropped, outer DF is set",
        packets::up_to_the_path_mtu,
        packets::beyond_the_path_mtu,
    ),
    Check::new(
        "V7348-4.3-8b",
        "RFC 7348 §4.3",
        Must,
        Kernel,
        "outer fragments are dropped",
        packets::not_a_fragment,
        packets::fragments,
    )
    .note("RFC 7348 lets a VTEP drop them silently; the kernel reassembles, the core does not"),
    Check::new(
        "V7348-6.1-9",
        "RFC 7348 §6.1",
        Should,
        Core,
        "no inner tag is sent, and a tagged frame is dropped, unless tags are kept",
        bridging::tags_kept_and_stripped,
        bridging::tags_that_are_dropped,
    ),
    Check::new(
        "V7348-4.1-10",
        "RFC 7348 §4.1",
        Must,
        Core,
        "the inner source is learned at the outer source, unless learning is off",
        bridging::learns_where_a_station_is,
        bridging::learns_nothing_if_told,
    ),
    Check::new(
        "V7348-4.2-11",
        "RFC 7348 §4.2",
        Must,
        Core,
        "BUM goes to the group or once to each remote; none back, none to another remote",
        bridging::one_copy_a_remote,
        bridging::no_copy_back,
    ),
    Check::new(
        "V7348-5-12",
        "RFC 7348 §5",
        Must,
        Core,
        "what is cut short is dropped: UDP below 16 bytes, frames below 14",
        packets::short_frames,
        packets::cut_frames,
    ),
    Check::new(
        "V7348-5-13",
        "RFC 7348 §5",
        Must,
        Core,
        "the outer TTL is as configured, the inner one untouched; IP options do not mislead",
        packets::ttls_and_headers_before_udp,
        packets::lying_headers_before_udp,
    ),
    Check::new(
        "V7348-3-14",
        "RFC 7348 §3",
        Must,
        Core,
        "encapsulation is one deep: a tunnel packet in a frame is payload",
        bridging::nested_packets_are_payload,
        bridging::the_own_packets_come_back,
    ),
    Check::new(
        "V7348-7-15",
        "RFC 7348 §7",
        Must,
        Core,
        "packets are accepted of configured peers only, unless peers = \"any\"",
        bridging::known_peers,
        bridging::strangers,
    ),
];

/// The hand-written header of [`VNI`].
const HEADER: [u8; 8] = [0x08, 0, 0, 0, 0x00, 0x12, 0x34, 0];

fn behind(header: &[u8], frame: &[u8]) -> Vec<u8> {
    [header, frame].concat()
}

fn the_header_sent() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        for len in [14, 15, 60, 63, 64, 1400] {
            let frame = frame(MacAddr::BROADCAST, mac(1), len);
            site.sends(frame.clone(), &behind(&HEADER, &frame));
        }
    }
}

fn no_i_flag() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        for flags in (0..=255).filter(|flags| flags & 8 == 0) {
            let mut payload = behind(&HEADER, &site.call());
            payload[0] = flags;
            site.refuses(site.with_payload(&payload), R::TunnelHeader);
        }
    }
}

/// Each reserved bit as byte and mask: 39 of 64.
fn reserved_bits() -> Vec<(usize, u8)> {
    let bits = (0..64).map(|bit| (bit / 8, 0x80 >> (bit % 8)));
    let bits: Vec<_> =
        bits.filter(|(byte, mask)| !(4..7).contains(byte) && (*byte, *mask) != (0, 8)).collect();
    assert_eq!(bits.len(), 39);
    bits
}

fn reserved_bits_are_ignored() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        let mut all = HEADER;
        for (byte, mask) in reserved_bits() {
            let mut header = HEADER;
            header[byte] |= mask;
            all[byte] |= mask;
            let frame = site.call();
            site.takes(site.with_payload(&behind(&header, &frame)), &frame);
        }
        let frame = site.call();
        site.takes(site.with_payload(&behind(&all, &frame)), &frame);
    }
}

fn reserved_bits_when_strict() {
    let mut site = Site::with(Family::V4, vxlan(VNI), |spec| spec.strict_reserved = true);
    for (byte, mask) in reserved_bits() {
        let mut payload = behind(&HEADER, &site.call());
        payload[byte] |= mask;
        site.refuses(site.with_payload(&payload), R::TunnelReserved);
    }
}

/// One VTEP and a bridge with a port for each tunnel.
fn networks(kinds: &[TunnelKind]) -> (Lab, Port, Vec<Port>) {
    let mut lab = Lab::new();
    let vtep = lab.vtep(Family::V4.local());
    let ports = kinds.iter().enumerate().map(|(n, kind)| {
        let bridge = lab.bridge(n as u16);
        lab.tunnel(vtep, bridge, &spec(kind.clone(), &Family::V4.remotes()[..1]));
        lab.port(bridge)
    });
    let ports = ports.collect();
    (lab, vtep, ports)
}

fn from_remote() -> Outer {
    Outer::new(Family::V4.remotes()[0], Family::V4.local())
}

fn in_vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    from_remote().udp((SRC_PORT, 4789), Sum::None, &underlay::vxlan(vni, frame))
}

fn vnis_of_any_number() {
    let numbers = [0, 1, 0x0000_0100, 0x0001_0000, 0x00ff_ffff];
    let (mut lab, vtep, ports) = networks(&numbers.map(vxlan));
    for (number, port) in numbers.into_iter().zip(&ports) {
        let call = small(MacAddr::BROADCAST, mac(number));
        lab.send(vtep, in_vxlan(number, &call));
        lab.expect(&[(*port, &call)]);
        lab.send(*port, small(MacAddr::BROADCAST, mac(7)));
        let sent = lab.received(vtep);
        assert_eq!(sent.len(), 1);
        let [_, a, b, c] = number.to_be_bytes();
        assert_eq!(sent[0].bytes[28..36], [8, 0, 0, 0, a, b, c, 0]);
    }
}

fn vnis_are_apart() {
    let (mut lab, vtep, ports) = networks(&[vxlan(1), vxlan(2)]);
    let taught = |lab: &Lab| lab.switch.fdb().len();
    for unknown in [0, 3, 0x00_0100, 0x01_0001, 0xff_fffe] {
        let packet = in_vxlan(unknown, &small(MacAddr::BROADCAST, mac(9)));
        lab.dropped(vtep, packet, vtep, R::TunnelUnknown);
        assert_eq!(taught(&lab), 0);
    }
    // A station of the first network is unknown in the second: a frame to it is flooded there.
    let call = small(MacAddr::BROADCAST, mac(9));
    lab.send(vtep, in_vxlan(1, &call));
    lab.expect(&[(ports[0], &call)]);
    let to_it = small(mac(9), mac(8));
    lab.send(vtep, in_vxlan(2, &to_it));
    lab.expect(&[(ports[1], &to_it)]);
    lab.send(ports[1], small(mac(8), mac(7)));
    lab.received(vtep);
    assert_eq!(lab.learned(BridgeId::new(0), 0, mac(8)), None);
    assert!(lab.entry(BridgeId::new(0), 0, mac(8)).is_none());
}

fn one_number_two_protocols() {
    let (mut lab, vtep, ports) = networks(&[vxlan(5), geneve(5)]);
    let call = small(MacAddr::BROADCAST, mac(1));
    lab.send(vtep, in_vxlan(5, &call));
    lab.expect(&[(ports[0], &call)]);
    let packet = underlay::geneve(5, false, &[], &call);
    lab.send(vtep, from_remote().udp((SRC_PORT, 6081), Sum::None, &packet));
    lab.expect(&[(ports[1], &call)]);
}

fn what_one_protocol_teaches() {
    // The same remote speaks both: two peers, so what is learned of one is not used for the other.
    let (mut lab, vtep, ports) = networks(&[vxlan(5), geneve(5)]);
    let call = small(MacAddr::BROADCAST, mac(1));
    lab.send(vtep, in_vxlan(5, &call));
    lab.expect(&[(ports[0], &call)]);
    for (port, udp_port) in [(ports[0], 4789), (ports[1], 6081)] {
        lab.send(port, small(mac(1), mac(2)));
        let sent = lab.received(vtep);
        assert_eq!(decode_udp(decode(&sent[0].bytes).2).0.1, udp_port);
    }
    assert!(lab.entry(BridgeId::new(1), 0, mac(1)).is_none());
    // A VXLAN packet at GENEVE's port is not taken for VXLAN.
    let packet = from_remote().udp((SRC_PORT, 6081), Sum::None, &underlay::vxlan(5, &call));
    lab.dropped(vtep, packet, vtep, R::GeneveOptions);
}
