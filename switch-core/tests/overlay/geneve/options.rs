//! RFC 8926 §3.5: options.

use switch_core::DropReason as R;
use switch_core::config::{InnerTags, TunnelKind};
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;
use switch_core::wire::geneve::{BadOption, encode_options};

use super::{PLAIN, configured, header, option, site, with_options};
use crate::lab::frame;
use crate::lab::underlay::{Outer, Sum};
use crate::site::{FAMILIES, Family, SRC_PORT, Site};

pub(super) fn options_of_any_length() {
    for family in FAMILIES {
        let mut site = site(family);
        for words in 0..64usize {
            // As many options of one word as there are words.
            let frame = site.call();
            let options = option(0x0102, 3, &[]).repeat(words);
            site.takes(site.with_payload(&with_options(&options, &frame)), &frame);
        }
    }
}

pub(super) fn options_beyond_the_payload() {
    for family in FAMILIES {
        let mut site = site(family);
        let frame = site.call();
        // The frame and more: 64 bytes are 16 words.
        for words in [17, 18, 63] {
            let payload = header([words, 0, 0x65, 0x58], &[], &frame);
            site.refuses(site.with_payload(&payload), R::TunnelHeader);
        }
        // All of the payload, so that no frame is left.
        let payload = with_options(&option(1, 1, &[0; 12]), &[]);
        site.refuses(site.with_payload(&payload), R::InnerRunt);
        // UDP that ends within the fixed header.
        for len in 0..8 {
            let payload = &header(PLAIN, &[], &[])[..len];
            site.refuses(site.with_payload(payload), R::TunnelHeader);
        }
        for len in 0..14 {
            site.refuses(site.with_payload(&header(PLAIN, &[], &frame[..len])), R::InnerRunt);
        }
    }
}

pub(super) fn options_that_pass() {
    for family in FAMILIES {
        // Configured critical ones, of any data; unknown ones that are not critical.
        let mut site = Site::new(family, configured(&[(0x0102, 0x83, 4), (0x0102, 0x04, 0)]));
        let known = option(0x0102, 0x83, &[9; 8]);
        let unknown = option(0xffff, 0x7f, &[1; 16]);
        for options in [
            known.clone(),
            unknown.clone(),
            [known.clone(), unknown.clone()].concat(),
            [unknown.clone(), known.clone(), known.clone(), unknown].concat(),
        ] {
            for c in [0, 0x40] {
                let frame = site.call();
                let mut payload = with_options(&options, &frame);
                payload[1] = c;
                site.takes(site.with_payload(&payload), &frame);
            }
        }
        // The C flag without a critical option: the sender's summary is wrong, and nothing is that
        // could not be understood.
        let frame = site.call();
        site.takes(site.with_payload(&header([0, 0x40, 0x65, 0x58], &[], &frame)), &frame);
    }
}

pub(super) fn unknown_critical_options() {
    for family in FAMILIES {
        let mut site = Site::new(family, configured(&[(0x0102, 0x83, 4)]));
        let fine = option(0x0102, 0x83, &[]);
        // Of another class, of another type, and the known type without its critical bit is fine.
        for (class, typ) in [(0x0102, 0x84), (0x0103, 0x83), (0, 0x80), (0xffff, 0xff)] {
            let bad = option(class, typ, &[1; 4]);
            for options in [
                bad.clone(),
                [bad.clone(), fine.clone()].concat(),
                // Last, behind as many as fit.
                [fine.repeat(61), bad.clone()].concat(),
            ] {
                // Whether the header says so or not.
                for c in [0, 0x40] {
                    let mut payload = with_options(&options, &site.call());
                    payload[1] = c;
                    site.refuses(site.with_payload(&payload), R::GeneveCritical);
                }
            }
        }
        // A tunnel without options knows none.
        let mut site = self::site(family);
        let payload = with_options(&fine, &site.call());
        site.refuses(site.with_payload(&payload), R::GeneveCritical);
    }
}

pub(super) fn options_of_every_shape() {
    for family in FAMILIES {
        let mut site = site(family);
        let (a, b) = (option(1, 1, &[1; 4]), option(2, 2, &[2; 120]));
        let longest = option(3, 3, &[3; 124]);
        for options in [
            a.clone(),
            longest.clone(),
            [a.clone(), b.clone()].concat(),
            [b.clone(), a.clone()].concat(),
            a.repeat(2),
            [longest.clone(), b].concat(),
            [longest, option(0, 0, &[0; 120])].concat(),
        ] {
            let frame = site.call();
            site.takes(site.with_payload(&with_options(&options, &frame)), &frame);
        }
        // The R bits, one by one.
        for bit in [0x20, 0x40, 0x80] {
            let frame = site.call();
            let mut options = a.clone();
            options[3] |= bit;
            site.takes(site.with_payload(&with_options(&options, &frame)), &frame);
        }
    }
}

pub(super) fn option_lengths_that_lie() {
    for family in FAMILIES {
        let mut site = site(family);
        let frame = site.call();
        // The frame of CVE-2023-3966: one word of options, and an option that claims three more.
        let cve = header([1, 0, 0x65, 0x58], &[0, 0, 0, 3], &frame);
        site.refuses(site.with_payload(&cve), R::GeneveOptions);
        // The last of several is longer or shorter than what is left; each length that 5 bits hold.
        for words in 1..32 {
            let fine = option(1, 1, &[0; 4]);
            let lying = [&fine[..], &[0, 1, 2, words], &[0; 4].repeat(usize::from(words) - 1)];
            let payload = with_options(&lying.concat(), &frame);
            site.refuses(site.with_payload(&payload), R::GeneveOptions);
        }
        // All are well but for a critical one, which comes last and lies as well.
        let lying = [&option(1, 1, &[0; 4])[..], &[0, 1, 0x80, 31]].concat();
        site.refuses(site.with_payload(&with_options(&lying, &frame)), R::GeneveOptions);
    }
}

pub(super) fn configured_options_are_sent() {
    // 124 bytes are the most of one option, 252 with their headers the most of all.
    for options in [
        &[(0x0102, 3, 124)][..],
        &[(0x0102, 3, 0), (0xffff, 0x7f, 4)],
        &[(0x0102, 0x83, 124), (0x0103, 1, 120)],
        &[(1, 1, 0); 63],
    ] {
        for family in FAMILIES {
            for tags in [InnerTags::Strip, InnerTags::Keep] {
                let mut site = Site::with(family, configured(options), |spec| spec.tags = tags);
                let by_hand: Vec<u8> = options
                    .iter()
                    .flat_map(|(class, typ, len)| {
                        option(*class, *typ, &(0..*len).map(|n| n as u8).collect::<Vec<_>>())
                    })
                    .collect();
                assert!(by_hand.len() <= 252);
                let critical = options.iter().any(|(_, typ, _)| typ & 0x80 != 0);
                let first =
                    [(by_hand.len() / 4) as u8, if critical { 0x40 } else { 0 }, 0x65, 0x58];
                for len in [14, 64, 1000] {
                    let frame = frame(MacAddr::BROADCAST, mac(1), len);
                    site.sends(frame.clone(), &header(first, &by_hand, &frame));
                }
                // From a flooded copy, too: every port has the headroom.
                let other = site.lab.port(site.bridge);
                let frame = site.call();
                site.lab.send(other, frame.clone());
                let sent = site.lab.received(site.vtep);
                let (out, sum) = (site.out(), family.sum());
                site.is_exactly(&sent[0].bytes, out, sum, &header(first, &by_hand, &frame));
                site.lab.expect(&[(site.tenant, &frame)]);
            }
        }
    }
}

pub(super) fn options_that_do_not_fit() {
    let refused = |options: &[(u16, u8, usize)]| {
        let TunnelKind::Geneve { options, .. } = configured(options) else { unreachable!() };
        encode_options(&options).unwrap_err()
    };
    assert_eq!(refused(&[(1, 1, 128)]), BadOption::TooLong(128));
    assert_eq!(refused(&[(1, 1, 125)]), BadOption::TooLong(125));
    assert_eq!(refused(&[(1, 1, 3)]), BadOption::Unaligned(3));
    assert_eq!(refused(&[(1, 1, 124), (1, 2, 124)]), BadOption::AllTooLong(256));
    assert_eq!(refused(&[(1, 1, 0); 64]), BadOption::AllTooLong(256));
}

pub(super) fn options_are_reported() {
    let mut site = site(Family::V4);
    for (options, news) in [
        (option(1, 2, &[3; 4]), true),
        (option(1, 2, &[3; 4]), false),
        (option(1, 2, &[4; 4]), true),
        (vec![], false),
        (option(1, 2, &[0; 124]).repeat(1), true),
    ] {
        let frame = site.call();
        site.takes(site.with_payload(&with_options(&options, &frame)), &frame);
        let seen = site.lab.switch.next_options();
        assert_eq!(seen.is_some(), news);
        if let Some(seen) = seen {
            assert_eq!(seen.options[..], options);
            assert_eq!(seen.peer, Some(site.lab.peer(site.vtep, Family::V4.remotes()[0]).id));
        }
        assert!(site.lab.switch.next_options().is_none());
    }
}

pub(super) fn options_of_dropped_packets_are_not() {
    let mut site = site(Family::V4);
    let frame = site.call();
    let critical = with_options(&option(1, 0x82, &[3; 4]), &frame);
    site.refuses(site.with_payload(&critical), R::GeneveCritical);
    let stranger = Outer::new(Family::V4.stranger(), Family::V4.local());
    let payload = with_options(&option(1, 2, &[3; 4]), &frame);
    site.refuses(stranger.udp((SRC_PORT, 6081), Sum::None, &payload), R::TunnelPeer);
    let tagged = with_options(&option(1, 2, &[3; 4]), &tagged(&frame, 0x8100, 5));
    site.refuses(site.with_payload(&tagged), R::InnerTag);
    assert!(site.lab.switch.next_options().is_none());
}
