//! RFC 6040, and DSCP by RFC 2983.

use switch_core::DropReason as R;
use switch_core::config::{Dscp, InnerTags, TunnelKind};
use switch_core::testing::frames::mac;

use crate::By::Core;
use crate::Check;
use crate::Level::{May, Must, Should};
use crate::lab::frame;
use crate::lab::overlay::{dropped, every_kind, vxlan};
use crate::lab::underlay::{self, Outer, decode, udp_frame};
use crate::site::{FAMILIES, Family, Site};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "E6040-4.1-1",
        "RFC 6040 §4.1",
        Must,
        Core,
        "encapsulation copies all four codepoints",
        copied_when_sent,
        nothing_to_copy,
    ),
    Check::new(
        "E6040-4.1-2",
        "RFC 6040 §4.1",
        May,
        Core,
        "not: compatibility mode, with an outer field of 00",
        normal_mode_by_default,
        no_mode_but_normal,
    )
    .note("for remotes that would lose marks; Linux and Open vSwitch decapsulate by RFC 6040"),
    Check::new(
        "E6040-4.2-3",
        "RFC 6040 §4.2",
        Must,
        Core,
        "decapsulation, 16 cells: the inner field as figure 4 says, its checksum right",
        the_cells_that_pass,
        the_cell_that_drops,
    ),
    Check::new(
        "E6040-4.2-4",
        "RFC 6040 §4.2",
        Should,
        Core,
        "marks reach IP behind up to two tags, and nothing is read beyond the end",
        behind_tags,
        where_there_is_no_ip,
    ),
    Check::new(
        "E6040-4.2-6",
        "RFC 6040 §4.2",
        May,
        Core,
        "not: combinations that nobody makes today raise an alarm",
        the_cells_that_pass,
        drops_are_counted,
    )
    .note("of these only the drop has consequences, and is counted: ecn-dropped"),
    Check::new(
        "D2983-3-5",
        "RFC 2983 §3",
        Must,
        Core,
        "DSCP is set or copied outwards, and never inwards",
        dscp_set_or_copied,
        dscp_stays_inside,
    ),
];

/// Not-ECT, ECT(1), ECT(0), CE.
const CODEPOINTS: [u8; 4] = [0, 1, 2, 3];
const TAGS: [&[(u16, u16)]; 4] =
    [&[], &[(0x8100, 5)], &[(0x88a8, 5), (0x8100, 6)], &[(0x8100, 5), (0x8100, 6)]];
const INNER: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

/// Figure 4 of RFC 6040: what arrives of `inner` under `outer`, `None` for a drop. Written from the
/// figure: rows are inner, columns outer, in the order of the codepoints' values.
const FIGURE_4: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

/// Tunnels that carry whatever tags there are; NVGRE carries none.
fn sites() -> impl Iterator<Item = Site> {
    let kinds = |family| {
        every_kind(0x1234).into_iter().map(move |kind| {
            let nvgre = matches!(kind, TunnelKind::Nvgre { .. });
            Site::with(family, kind, |spec| {
                if !nvgre {
                    spec.tags = InnerTags::Keep;
                }
            })
        })
    };
    FAMILIES.into_iter().flat_map(kinds)
}

fn carries_tags(site: &Site) -> bool {
    site.lab.switch.snapshot().overlay().tunnels().all(|tunnel| !tunnel.vlans.is_access())
}

/// A frame with that DSCP and ECN.
fn marked(tags: &[(u16, u16)], inner: (&str, &str), traffic_class: u8) -> Vec<u8> {
    let ip = Outer { traffic_class, ..Outer::new(inner.0, inner.1) };
    udp_frame(mac(1), mac(2), tags, &ip, (1, 2), 31)
}

fn copied_when_sent() {
    for mut site in sites() {
        for (tags, inner) in TAGS.into_iter().flat_map(|tags| INNER.map(|inner| (tags, inner))) {
            if !tags.is_empty() && !carries_tags(&site) {
                continue;
            }
            for ecn in CODEPOINTS {
                let packet = site.sent(marked(tags, inner, 0xb8 | ecn));
                assert_eq!(decode(&packet).0.traffic_class, ecn, "{tags:?} {inner:?}");
            }
        }
    }
}

fn nothing_to_copy() {
    for mut site in sites() {
        // No IP; IP of which too little is there; and an IP version that the EtherType denies.
        let packet = site.sent(frame(mac(1), mac(2), 60));
        assert_eq!(decode(&packet).0.traffic_class, 0);
        let cut = &marked(&[], INNER[0], 3)[..33];
        assert_eq!(decode(&site.sent(cut.to_vec())).0.traffic_class, 0);
        let mut lying = marked(&[], INNER[0], 3);
        lying[14] = 0x65;
        assert_eq!(decode(&site.sent(lying)).0.traffic_class, 0);
    }
}

fn normal_mode_by_default() {
    let mut site = Site::new(Family::V4, vxlan(1));
    assert_eq!(decode(&site.sent(marked(&[], INNER[0], 3))).0.traffic_class, 3);
}

fn no_mode_but_normal() {
    // ECT goes out as ECT: a router of the underlay marks it, and does not drop it.
    let mut site = Site::new(Family::V4, vxlan(1));
    assert_ne!(decode(&site.sent(marked(&[], INNER[0], 2))).0.traffic_class, 0);
}

/// All of figure 4 for one kind of frame.
fn cells(site: &mut Site, tags: &[(u16, u16)], inner: (&str, &str), dropped: bool) {
    // The DSCP of both is there to be left alone.
    for (in_ecn, out_ecn) in CODEPOINTS.into_iter().flat_map(|a| CODEPOINTS.map(|b| (a, b))) {
        let arrives = FIGURE_4[usize::from(in_ecn)][usize::from(out_ecn)];
        if arrives.is_none() != dropped {
            continue;
        }
        let frame = marked(tags, inner, 0x28 | in_ecn);
        let outer = Outer { traffic_class: 0xb8 | out_ecn, ..site.from() };
        let packet = site.packet_by(outer, &frame);
        match arrives {
            // Built anew by etherparse: so the checksum of IPv4 is right, and nothing else changed.
            Some(ecn) => site.takes(packet, &marked(tags, inner, 0x28 | ecn)),
            None => site.refuses(packet, R::EcnDropped),
        }
    }
}

fn the_cells_that_pass() {
    for mut site in sites() {
        INNER.into_iter().for_each(|inner| cells(&mut site, &[], inner, false));
    }
}

fn the_cell_that_drops() {
    for mut site in sites() {
        let tags = if carries_tags(&site) { &TAGS[..] } else { &TAGS[..1] };
        for tags in tags {
            INNER.into_iter().for_each(|inner| cells(&mut site, tags, inner, true));
        }
    }
}

fn drops_are_counted() {
    let mut site = Site::new(Family::V4, vxlan(1));
    let marked_ce = Outer { traffic_class: 3, ..site.from() };
    for _ in 0..3 {
        let packet = site.packet_by(marked_ce, &marked(&[], INNER[0], 0));
        site.refuses(packet, R::EcnDropped);
    }
    assert_eq!(dropped(&site.lab.tunnel_totals(site.tunnel), R::EcnDropped), 3);
    assert_eq!(dropped(&site.lab.peer_totals(site.vtep, "192.0.2.2"), R::EcnDropped), 3);
}

fn behind_tags() {
    for mut site in sites().filter(carries_tags) {
        for tags in TAGS {
            INNER.into_iter().for_each(|inner| cells(&mut site, tags, inner, false));
        }
    }
}

fn where_there_is_no_ip() {
    for mut site in sites() {
        let ce = Outer { traffic_class: 3, ..site.from() };
        // Nothing to be marked: it passes as it is, also cut within what would be the field.
        let whole = marked(&[], INNER[0], 2);
        for frame in [
            frame(mac(1), mac(2), 60),
            whole[..14].to_vec(),
            whole[..15].to_vec(),
            whole[..16].to_vec(),
            whole[..33].to_vec(),
            marked(&[], INNER[1], 2)[..53].to_vec(),
        ] {
            let packet = site.packet_by(ce, &frame);
            site.takes(packet, &frame);
        }
        // Three tags are one too many to look behind.
        if carries_tags(&site) {
            let deep = marked(&[(0x8100, 5), (0x8100, 6), (0x8100, 7)], INNER[0], 0);
            let packet = site.packet_by(ce, &deep);
            site.takes(packet, &deep);
        }
    }
}

fn dscp_set_or_copied() {
    for family in FAMILIES {
        for inner in INNER {
            for dscp in 0..64 {
                let frame = marked(&[], inner, dscp << 2 | 2);
                let mut site = Site::with(family, vxlan(1), |spec| spec.dscp = Dscp::Copy);
                assert_eq!(decode(&site.sent(frame.clone())).0.traffic_class, dscp << 2 | 2);
                let mut site = Site::with(family, vxlan(1), |spec| spec.dscp = Dscp::Set(dscp));
                assert_eq!(decode(&site.sent(frame)).0.traffic_class, dscp << 2 | 2);
            }
        }
        // A frame that is not IP has none.
        let mut site = Site::with(family, vxlan(1), |spec| spec.dscp = Dscp::Copy);
        assert_eq!(decode(&site.sent(frame(mac(1), mac(2), 60))).0.traffic_class, 0);
    }
}

fn dscp_stays_inside() {
    for mut site in sites() {
        for inner in INNER {
            for dscp in [0, 1, 46, 63] {
                let frame = marked(&[], inner, 0x28);
                let outer = Outer { traffic_class: dscp << 2, ..site.from() };
                let packet = site.packet_by(outer, &frame);
                site.takes(packet, &frame);
                assert_eq!(underlay::decode(&frame[14..]).0.traffic_class, 0x28);
            }
        }
    }
}
