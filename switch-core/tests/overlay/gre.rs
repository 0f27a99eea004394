//! RFC 2784, RFC 2890 and RFC 7676.

use switch_core::DropReason as R;
use switch_core::config::{PeerPolicy, TunnelKind};
use switch_core::testing::frames::mac;
use switch_core::wire::MacAddr;

use crate::By::Core;
use crate::Check;
use crate::Level::{May, Must, Should};
use crate::lab::overlay::{gre, spec};
use crate::lab::underlay::{self, Outer, Sum, decode};
use crate::lab::{Lab, frame, small};
use crate::site::{FAMILIES, Family, SRC_PORT, Site};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "R2784-2.2-1",
        "RFC 2784 §2.2",
        Must,
        Core,
        "a checksum is taken in by every tunnel; a wrong one drops the packet",
        right_checksums,
        wrong_checksums,
    ),
    Check::new(
        "R2784-2.3-2",
        "RFC 2784 §2.3",
        Must,
        Core,
        "bits 1 to 5 drop the packet (but for K and S), bits 6 to 12 are ignored; all are sent as 0",
        ignored_bits,
        bits_that_must_be_zero,
    ),
    Check::new(
        "R2784-2.3.1-3",
        "RFC 2784 §2.3.1",
        Must,
        Core,
        "the version is 0",
        version_0,
        other_versions,
    ),
    Check::new(
        "R2784-2.4-4",
        "RFC 2784 §2.4",
        Should,
        Core,
        "protocol 0x6558 is Ethernet; others are dropped",
        ethernet_is_carried,
        other_protocols,
    ),
    Check::new(
        "R2784-3.1-5",
        "RFC 2784 §3.1",
        Must,
        Core,
        "a packet of ours for the remote is not wrapped again",
        packets_to_the_remotes_address,
        packets_of_ours,
    ),
    Check::new(
        "R2890-2.1-6",
        "RFC 2890 §2.1",
        Must,
        Core,
        "the key is there if it is configured; a key of 0 is not the same as none",
        keys,
        wrong_keys,
    ),
    Check::new(
        "R2890-2.2-7",
        "RFC 2890 §2.2",
        Should,
        Core,
        "numbers begin at 0 and wrap around; what comes late or twice is dropped",
        numbers,
        late_and_doubled,
    )
    .note("a number of 0 begins anew, so that a peer that was restarted is heard"),
    Check::new(
        "R2890-2.2-7b",
        "RFC 2890 §2.2",
        May,
        Core,
        "not: packets that come early wait for those before them",
        early_packets_pass,
        nothing_waits,
    )
    .note("a buffer would delay and reorder; the RFC lets a receiver do without"),
    Check::new(
        "R7676-3-9",
        "RFC 7676 §3",
        Must,
        Core,
        "GRE goes over IPv6; GRE in UDP (RFC 8086) is not spoken",
        over_v6,
        gre_in_udp,
    ),
];

const KEY: u32 = 0x0102_0304;

fn with(checksum: bool, sequence: bool) -> TunnelKind {
    TunnelKind::Gre { key: Some(KEY), checksum, sequence }
}

/// What is between the outer header and the frame, by hand.
fn plain(frame: &[u8]) -> Vec<u8> {
    [&[0x20, 0, 0x65, 0x58, 1, 2, 3, 4], frame].concat()
}

fn right_checksums() {
    for family in FAMILIES {
        for sends in [false, true] {
            let mut site = Site::new(family, with(sends, false));
            site.lab.peer(site.vtep, family.remotes()[0]).state.set_path_mtu(9000);
            for len in [14, 15, 60, 61, 1400, 1663, 1664, 1665, 4001] {
                let frame = frame(MacAddr::BROADCAST, mac(1), len);
                site.sends(frame.clone(), &underlay::gre(sends, Some(KEY), None, &frame));
                // With and without one, whatever we send.
                let frame = crate::lab::frame(MacAddr::BROADCAST, mac(2), len);
                for has in [false, true] {
                    let payload = underlay::gre(has, Some(KEY), None, &frame);
                    site.takes(site.with_payload(&payload), &frame);
                }
            }
            // The two bytes behind it are reserved, and part of the sum.
            let frame = site.call();
            let mut payload = underlay::gre(true, Some(KEY), None, &frame);
            payload[6..8].copy_from_slice(&[0x12, 0x34]);
            payload[4..6].fill(0);
            let sum = !switch_core::testing::frames::sum(&payload);
            payload[4..6].copy_from_slice(&sum.to_be_bytes());
            site.takes(site.with_payload(&payload), &frame);
        }
    }
}

fn wrong_checksums() {
    for family in FAMILIES {
        for sends in [false, true] {
            let mut site = Site::new(family, with(sends, false));
            for len in [14, 61, 1400, 3001] {
                let frame = frame(MacAddr::BROADCAST, mac(1), len);
                let payload = underlay::gre(true, Some(KEY), None, &frame);
                // A bit of the sum itself, of the first byte of the frame and of the last.
                for at in [4, 5, 6, 12, payload.len() - 1] {
                    let mut payload = payload.clone();
                    payload[at] ^= 1;
                    site.refuses(site.with_payload(&payload), R::GreChecksum);
                }
                let mut none = payload.clone();
                none[4..6].fill(0);
                site.refuses(site.with_payload(&none), R::GreChecksum);
            }
        }
    }
}

fn ignored_bits() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        // Bits 6 and 7 of the first byte, 8 to 12 of the second.
        for (byte, mask) in
            [(0, 2), (0, 1), (1, 0x80), (1, 0x40), (1, 0x20), (1, 0x10), (1, 0x08), (1, 0xf8)]
        {
            let frame = site.call();
            let mut payload = plain(&frame);
            payload[byte] |= mask;
            site.takes(site.with_payload(&payload), &frame);
        }
        let frame = site.call();
        site.sends(frame.clone(), &plain(&frame));
    }
}

fn bits_that_must_be_zero() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        for mask in [0x40, 0x08, 0x04, 0x4c, 0x48] {
            let mut payload = plain(&site.call());
            payload[0] |= mask;
            site.refuses(site.with_payload(&payload), R::TunnelHeader);
        }
    }
}

fn version_0() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        let frame = site.call();
        let packet = site.sent(frame.clone());
        assert_eq!(decode(&packet).2[1] & 7, 0);
        site.takes(site.with_payload(&plain(&frame)), &frame);
    }
}

fn other_versions() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        for version in 1..8 {
            let mut payload = plain(&site.call());
            payload[1] |= version;
            site.refuses(site.with_payload(&payload), R::TunnelHeader);
        }
        // PPTP: version 1 with its own protocol and a key that is length and call.
        let pptp = [&[0x30, 0x81, 0x88, 0x0b, 0, 40, 0, 1, 0, 0, 0, 0], &site.call()[..]].concat();
        site.refuses(site.with_payload(&pptp), R::TunnelHeader);
    }
}

fn ethernet_is_carried() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        for len in [14, 15, 33, 60, 1400] {
            let frame = frame(MacAddr::BROADCAST, mac(1), len);
            site.sends(frame.clone(), &plain(&frame));
            let frame = crate::lab::frame(MacAddr::BROADCAST, mac(2), len);
            site.takes(site.with_payload(&plain(&frame)), &frame);
        }
    }
}

fn other_protocols() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        // IPv4, IPv6, WCCP, keepalives, ERSPAN.
        for [hi, lo] in [[8, 0], [0x86, 0xdd], [0x88, 0x3e], [0, 0], [0x88, 0xbe]] {
            let mut payload = plain(&site.call());
            payload[2..4].copy_from_slice(&[hi, lo]);
            site.refuses(site.with_payload(&payload), R::TunnelProtocol);
        }
        let frame = site.call();
        for len in 0..14 {
            site.refuses(site.with_payload(&plain(&frame[..len])), R::InnerRunt);
        }
        for len in 0..8 {
            site.refuses(site.with_payload(&plain(&frame)[..len]), R::TunnelHeader);
        }
    }
}

fn packets_to_the_remotes_address() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        // From anybody but us to the remote, and from us to anybody else.
        for (src, dst) in [
            (family.stranger(), family.remotes()[0]),
            (family.local(), family.remotes()[1]),
            (family.remotes()[0], family.local()),
        ] {
            let frame = small(mac(1), mac(2));
            let packet = Outer::new(src, dst).packet(47, &plain(&frame));
            let wrapped = underlay::in_ethernet(MacAddr::BROADCAST, mac(1), &[], &packet);
            site.sends(wrapped.clone(), &plain(&wrapped));
        }
    }
}

fn packets_of_ours() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        let call = site.call();
        let own = site.sent(call);
        let wrapped = underlay::in_ethernet(MacAddr::BROADCAST, mac(1), &[], &own);
        site.does_not_send(wrapped, R::TunnelLoop);
        // What the remote sent us, and a tenant there wrapped around it: not for ever, either.
        let frame = site.call();
        let nested = underlay::in_ethernet(MacAddr::BROADCAST, mac(3), &[], &site.packet(&frame));
        let packet = site.packet(&nested);
        site.takes(packet, &nested);
    }
}

/// A VTEP with a bridge and a port for each key.
fn by_key(keys: &[Option<u32>]) -> (Lab, crate::lab::Port, Vec<crate::lab::Port>) {
    let mut lab = Lab::new();
    let vtep = lab.vtep(Family::V4.local());
    let ports = keys.iter().enumerate().map(|(n, key)| {
        let bridge = lab.bridge(n as u16);
        lab.tunnel(vtep, bridge, &spec(gre(*key), &Family::V4.remotes()[..1]));
        lab.port(bridge)
    });
    let ports = ports.collect();
    (lab, vtep, ports)
}

fn keyed(key: Option<u32>, frame: &[u8]) -> Vec<u8> {
    let from = Outer::new(Family::V4.remotes()[0], Family::V4.local());
    from.packet(47, &underlay::gre(false, key, None, frame))
}

fn keys() {
    let keys = [None, Some(0), Some(1), Some(u32::MAX)];
    let (mut lab, vtep, ports) = by_key(&keys);
    let call = small(MacAddr::BROADCAST, mac(1));
    for (key, port) in keys.into_iter().zip(ports) {
        lab.send(vtep, keyed(key, &call));
        lab.expect(&[(port, &call)]);
        lab.send(port, small(MacAddr::BROADCAST, mac(2)));
        let sent = lab.received(vtep);
        assert_eq!(sent.len(), 1);
        let header: Vec<u8> = match key {
            None => vec![0, 0, 0x65, 0x58],
            Some(key) => [&[0x20, 0, 0x65, 0x58], &key.to_be_bytes()[..]].concat(),
        };
        assert_eq!(sent[0].bytes[20..20 + header.len()], header);
    }
}

fn wrong_keys() {
    let call = small(MacAddr::BROADCAST, mac(1));
    for (configured, others) in [
        (None, &[Some(0), Some(1), Some(u32::MAX)][..]),
        (Some(0), &[None, Some(1)]),
        (Some(1), &[None, Some(0), Some(2), Some(0x0100_0000), Some(0x101)]),
    ] {
        let (mut lab, vtep, _) = by_key(&[configured]);
        for key in others {
            lab.dropped(vtep, keyed(*key, &call), vtep, R::TunnelUnknown);
            assert!(lab.switch.fdb().is_empty());
        }
    }
}

fn numbered(site: &Site, number: u32, frame: &[u8]) -> Vec<u8> {
    site.with_payload(&underlay::gre(false, Some(KEY), Some(number), frame))
}

fn numbers() {
    for family in FAMILIES {
        for checksum in [false, true] {
            let mut site = Site::new(family, with(checksum, true));
            for number in 0..5 {
                let frame = site.call();
                let payload = underlay::gre(checksum, Some(KEY), Some(number), &frame);
                site.sends(frame, &payload);
            }
        }
        // Accepted: in order, with gaps, around the wrap and from 0 again.
        let mut site = Site::new(family, with(false, true));
        for number in
            [5, 6, 7, 100, 0x7fff_ffff, 0xffff_fff0, 0xffff_ffff, 0, 1, 2, 50, 0, 1, 0x7fff_ffff]
        {
            let frame = site.call();
            site.takes(numbered(&site, number, &frame), &frame);
        }
        // Around the wrap with a gap.
        let mut site = Site::new(family, with(false, true));
        for number in [0xffff_ffff, 3] {
            let frame = site.call();
            site.takes(numbered(&site, number, &frame), &frame);
        }
        // Each remote counts for itself.
        let remotes = family.remotes().map(|addr| addr.parse().unwrap()).to_vec();
        let mut site = Site::with(family, with(false, true), |spec| spec.remotes = Some(remotes));
        for remote in family.remotes() {
            let frame = site.call();
            let payload = underlay::gre(false, Some(KEY), Some(9), &frame);
            let packet = Outer::new(remote, family.local()).packet(47, &payload);
            site.takes(packet, &frame);
        }
        let call = site.call();
        site.lab.send(site.tenant, call);
        for packet in site.lab.received(site.vtep) {
            assert_eq!(decode(&packet.bytes).2[8..12], [0; 4], "the first to each is 0");
        }
        // A tunnel that does not number looks at no numbers.
        let mut site = Site::new(family, with(false, false));
        for number in [9, 9, 8, 0] {
            let frame = site.call();
            site.takes(numbered(&site, number, &frame), &frame);
        }
    }
}

fn late_and_doubled() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, true));
        let drop = |site: &mut Site, number| {
            let frame = small(MacAddr::BROADCAST, mac(77));
            let packet = numbered(site, number, &frame);
            let before = site.lab.switch.fdb().len();
            site.lab.dropped(site.vtep, packet, site.vtep, R::GreSequence);
            assert_eq!(site.lab.switch.fdb().len(), before);
        };
        let take = |site: &mut Site, number| {
            let frame = small(MacAddr::BROADCAST, mac(1));
            site.takes(numbered(site, number, &frame), &frame);
        };
        take(&mut site, 0);
        drop(&mut site, 0);
        take(&mut site, 1);
        drop(&mut site, 1);
        take(&mut site, 10);
        for late in [10, 9, 5, 1, 10u32.wrapping_sub(1 << 31), u32::MAX] {
            drop(&mut site, late);
        }
        take(&mut site, 11);
        // Around the wrap: what was before it is late.
        take(&mut site, 0x7fff_0000);
        take(&mut site, 0xf000_0000);
        take(&mut site, 0xffff_ffff);
        take(&mut site, 3);
        drop(&mut site, 0xffff_ffff);
        drop(&mut site, 3);
        // Half of the range ahead is behind.
        drop(&mut site, 3 + (1 << 31));
        take(&mut site, 4);
        // A packet without a number is not late.
        let frame = site.call();
        site.takes(site.with_payload(&plain(&frame)), &frame);
    }
}

fn early_packets_pass() {
    let mut site = Site::new(Family::V4, with(false, true));
    for number in [0, 9] {
        let frame = site.call();
        site.takes(numbered(&site, number, &frame), &frame);
    }
}

fn nothing_waits() {
    let mut site = Site::new(Family::V4, with(false, true));
    for number in [1, 3] {
        let frame = site.call();
        site.takes(numbered(&site, number, &frame), &frame);
    }
    // The one between them is late when it comes, and no buffer is held meanwhile.
    let frame = site.call();
    let late = numbered(&site, 2, &frame);
    site.lab.dropped(site.vtep, late, site.vtep, R::GreSequence);
    assert_eq!(site.lab.in_use(), 0);
}

fn over_v6() {
    let mut site = Site::new(Family::V6, with(true, true));
    let frame = site.call();
    site.sends(frame.clone(), &underlay::gre(true, Some(KEY), Some(0), &frame));
    let frame = site.call();
    let payload = underlay::gre(true, Some(KEY), Some(7), &frame);
    site.takes(site.with_payload(&payload), &frame);
    let mut site = Site::with(Family::V6, with(false, false), |spec| spec.peers = PeerPolicy::Any);
    let frame = site.call();
    let stranger = Outer::new(Family::V6.stranger(), Family::V6.local());
    site.takes(stranger.packet(47, &plain(&frame)), &frame);
}

fn gre_in_udp() {
    for family in FAMILIES {
        let mut site = Site::new(family, with(false, false));
        let payload = plain(&site.call());
        for port in [4754, 4755] {
            let packet = site.from().udp((SRC_PORT, port), Sum::Right, &payload);
            site.refuses(packet, R::TunnelUnknown);
        }
        let stranger = Outer::new(family.stranger(), family.local());
        site.refuses(stranger.packet(47, &payload), R::TunnelPeer);
    }
}
