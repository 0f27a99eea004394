//! RFC 7348 §4.3 and §5: sizes, fragments, and what is cut short or in between.

use switch_core::DropReason as R;
use switch_core::config::Ttl;
use switch_core::testing::frames::mac;
use switch_core::wire::MacAddr;

use super::{HEADER, behind};
use crate::lab::frame;
use crate::lab::overlay::vxlan;
use crate::lab::underlay::{Outer, Sum, decode, fix_sum, udp_frame, with_extensions, with_options};
use crate::site::{FAMILIES, Family, SRC_PORT, Site, VNI};

pub(super) fn up_to_the_path_mtu() {
    for family in FAMILIES {
        for df in [true, false] {
            let mut site = Site::with(family, vxlan(VNI), |spec| spec.df = df);
            // 1,500 less IP, 8 of UDP and 8 of VXLAN.
            let frame = frame(MacAddr::BROADCAST, mac(1), 1484 - family.ip_len());
            let packet = site.sent(frame.clone());
            assert_eq!(packet.len(), 1500);
            let df = df || family == Family::V6;
            let out = Outer { df, ..site.out() };
            site.is_exactly(&packet, out, family.sum(), &behind(&HEADER, &frame));
        }
    }
    // Packets that may be fragmented have identifications of their own (RFC 6864 §4.3).
    let mut site = Site::with(Family::V4, vxlan(VNI), |spec| spec.df = false);
    let ids: Vec<u16> = (0..100)
        .map(|_| {
            let call = site.call();
            decode(&site.sent(call)).0.id
        })
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
}

pub(super) fn beyond_the_path_mtu() {
    for family in FAMILIES {
        for df in [true, false] {
            let mut site = Site::with(family, vxlan(VNI), |spec| spec.df = df);
            let frame = frame(MacAddr::BROADCAST, mac(1), 1485 - family.ip_len());
            site.does_not_send(frame, R::TunnelMtu);
            let next = site.call();
            site.sent(next);
        }
    }
}

pub(super) fn not_a_fragment() {
    // Of a header that says "don't fragment", or has an identification, nothing is thought.
    for (df, id) in [(true, 0), (false, 0), (false, 7), (true, 0xffff)] {
        let mut site = Site::new(Family::V4, vxlan(VNI));
        let frame = site.call();
        let outer = Outer { df, id, ..site.from() };
        let packet = site.packet_by(outer, &frame);
        site.takes(packet, &frame);
    }
    // An atomic fragment is a whole packet (RFC 6946).
    let mut site = Site::new(Family::V6, vxlan(VNI));
    let frame = site.call();
    let packet = v6_fragment(&site, &frame, 0);
    site.takes(packet, &frame);
}

/// A packet with a fragment header of that offset and flag.
fn v6_fragment(site: &Site, frame: &[u8], field: u16) -> Vec<u8> {
    let udp = site.from().udp((SRC_PORT, 4789), Sum::Right, &behind(&HEADER, frame));
    let [hi, lo] = field.to_be_bytes();
    let header = [17, 0, hi, lo, 0, 0, 0, 9];
    site.from().packet(44, &[&header, &udp[40..]].concat())
}

pub(super) fn fragments() {
    let mut site = Site::new(Family::V4, vxlan(VNI));
    // First, middle, last.
    for field in [0x2000u16, 0x2001, 0x0001, 0x1fff] {
        let frame = site.call();
        let mut packet = site.packet(&frame);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        fix_sum(&mut packet);
        site.refuses(packet, R::OuterFragment);
    }
    let mut site = Site::new(Family::V6, vxlan(VNI));
    for field in [1u16, 8, 9, 0xfff8] {
        let frame = site.call();
        let packet = v6_fragment(&site, &frame, field);
        site.refuses(packet, R::OuterFragment);
    }
}

pub(super) fn short_frames() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        let whole = udp_frame(
            MacAddr::BROADCAST,
            mac(1),
            &[],
            &Outer::new("10.0.0.1", "10.0.0.2"),
            (1, 2),
            0,
        );
        // 14 bytes are a frame; 33 end within the IPv4 header that they announce.
        for len in [14, 15, 33] {
            for traffic_class in [0, 1, 2, 3] {
                let outer = Outer { traffic_class, ..site.from() };
                let packet = site.packet_by(outer, &whole[..len]);
                site.takes(packet, &whole[..len]);
            }
            site.sends(whole[..len].to_vec(), &behind(&HEADER, &whole[..len]));
        }
    }
}

pub(super) fn cut_frames() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        let frame = site.call();
        for len in 0..14 {
            let packet = site.packet(&frame[..len]);
            site.refuses(packet, R::InnerRunt);
        }
        // UDP that ends within the VXLAN header.
        for len in 0..8 {
            let packet = site.with_payload(&HEADER[..len]);
            site.refuses(packet, R::TunnelHeader);
        }
        // A UDP length that is no datagram's, or longer than the packet. What is behind a shorter
        // one is no part of the frame.
        let whole = site.packet(&frame);
        let udp = family.ip_len();
        for len in [0u16, 1, 7, (whole.len() - udp + 1) as u16, 0xffff] {
            let mut packet = whole.clone();
            packet[udp + 4..udp + 6].copy_from_slice(&len.to_be_bytes());
            site.refuses(packet, R::OuterInvalid);
        }
        if family == Family::V4 {
            for (len, reason) in
                [(8u16, R::TunnelHeader), (15, R::TunnelHeader), (29, R::InnerRunt)]
            {
                let mut packet = whole.clone();
                packet[udp + 4..udp + 6].copy_from_slice(&len.to_be_bytes());
                site.refuses(packet, reason);
            }
        }
    }
}

pub(super) fn ttls_and_headers_before_udp() {
    for family in FAMILIES {
        for (ttl, inner, outer) in [
            (Ttl::Set(64), 5, 64),
            (Ttl::Set(1), 5, 1),
            (Ttl::Set(255), 5, 255),
            (Ttl::Copy, 5, 5),
            (Ttl::Copy, 255, 255),
            // Of 0 it would not leave the host.
            (Ttl::Copy, 0, 1),
        ] {
            for inner_ip in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
                let mut site = Site::with(family, vxlan(VNI), |spec| spec.ttl = ttl);
                let ip = Outer { ttl: inner, ..Outer::new(inner_ip.0, inner_ip.1) };
                let frame = udp_frame(MacAddr::BROADCAST, mac(1), &[], &ip, (1, 2), 20);
                let packet = site.sent(frame.clone());
                let out = Outer { ttl: outer, ..site.out() };
                site.is_exactly(&packet, out, family.sum(), &behind(&HEADER, &frame));
                // Nor does the outer one change the inner one on the way in.
                let from = Outer { ttl: 1, ..site.from() };
                let packet = site.packet_by(from, &frame);
                site.takes(packet, &frame);
            }
        }
        // A frame that is not IP has none to copy.
        let mut site = Site::with(family, vxlan(VNI), |spec| spec.ttl = Ttl::Copy);
        let frame = site.call();
        site.sends(frame.clone(), &behind(&HEADER, &frame));
    }
    // IPv4 options, from one word to ten.
    let mut site = Site::new(Family::V4, vxlan(VNI));
    for words in 1..=10 {
        let frame = site.call();
        let packet = site.packet(&frame);
        site.takes(with_options(&packet, words), &frame);
    }
    // IPv6 extension headers.
    let mut site = Site::new(Family::V6, vxlan(VNI));
    for chain in [&[0u8][..], &[60], &[43], &[0, 60, 43, 60]] {
        let frame = site.call();
        let packet = site.packet(&frame);
        site.takes(with_extensions(&packet, chain), &frame);
    }
}

pub(super) fn lying_headers_before_udp() {
    let mut site = Site::new(Family::V4, vxlan(VNI));
    let frame = site.call();
    let packet = site.packet(&frame);
    // A header length that covers the UDP header, or less than a header, or more than the packet.
    for ihl in [0x40, 0x44, 0x4f] {
        let mut packet = packet.clone();
        packet[0] = ihl;
        // The sum is over as many bytes as are claimed: only the claim is wrong, if there are so many.
        fix_sum(&mut packet);
        let reason = if ihl == 0x4f { None } else { Some(R::OuterInvalid) };
        match reason {
            Some(reason) => site.refuses(packet, reason),
            // What is then taken for UDP is the middle of a frame: never for one of the tunnel.
            None => {
                let drops = site.lab.all_drops();
                site.lab.send(site.vtep, packet);
                site.lab.expect(&[]);
                assert_eq!(site.lab.all_drops(), drops + 1);
                site.is_well();
            }
        }
    }
    let mut site = Site::new(Family::V6, vxlan(VNI));
    let packet = site.packet(&frame);
    // An extension that ends behind the packet, a chain that never ends, a jumbogram, nothing next.
    let mut beyond = with_extensions(&packet, &[60]);
    beyond[41] = 255;
    let mut jumbo = with_extensions(&packet, &[0]);
    jumbo[4..6].fill(0);
    site.refuses(beyond, R::OuterInvalid);
    site.refuses(jumbo, R::OuterInvalid);
    site.refuses(with_extensions(&packet, &[60; 30]), R::OuterInvalid);
    site.refuses(with_extensions(&packet, &[60, 0]), R::OuterInvalid);
    let mut none = packet.clone();
    none[6] = 59;
    site.refuses(none, R::TunnelUnknown);
}
