//! GENEVE headers and options over all their small fields.

use super::*;
use crate::wire::{Ipv4, Ipv4Error, TagStack};
use proptest::prelude::*;

/// VNI 10010, Ethernet inside; two words of options.
const HEADER: [u8; 8] = [0x02, 0, 0x65, 0x58, 0x00, 0x27, 0x1a, 0];
const OPTION: [u8; 8] = [0x01, 0x02, 0x80, 0x01, 0xde, 0xad, 0xbe, 0xef];

fn owned(class: u16, typ: u8, len: usize) -> OwnedOption {
    OwnedOption { class, typ, data: vec![0x5a; len] }
}

fn read(bytes: &[u8]) -> Vec<OwnedOption> {
    let options = GeneveOptions::parse(bytes).unwrap();
    let to_owned =
        |o: GeneveOption<'_>| OwnedOption { class: o.class, typ: o.typ, data: o.data.to_vec() };
    options.iter().map(to_owned).collect()
}

#[test]
fn reads_a_packet() {
    let bytes = [&HEADER[..], &OPTION, b"inner"].concat();
    let geneve = Geneve::parse(&bytes).unwrap();
    let header = geneve.header();
    assert_eq!((header.vni().get(), header.protocol()), (10_010, EtherType::TEB));
    assert_eq!((header.is_control(), header.has_critical()), (false, false));
    assert_eq!((geneve.header_len(), geneve.payload()), (16, &b"inner"[..]));
    let options = geneve.options().unwrap();
    let option = options.iter().next().unwrap();
    assert_eq!((option.class, option.typ, option.data), (0x0102, 0x80, &OPTION[4..]));
    assert!(option.is_critical() && options.any_critical());
    assert_eq!((options.iter().count(), options.as_bytes()), (1, &OPTION[..]));
    // Sent by us, it carries the C flag.
    let sent = GeneveHeader::new(header.vni(), header.protocol(), options);
    assert_eq!(sent.as_bytes(), [0x02, 0x40, 0x65, 0x58, 0x00, 0x27, 0x1a, 0]);
}

#[test]
fn every_version_and_options_length() {
    for first in 0..=u8::MAX {
        let mut bytes = [0; 8 + MAX_OPTIONS_LEN];
        bytes[0] = first;
        let (version, len) = (first >> 6, 4 * usize::from(first & 0x3f));
        for have in [8 + len, 7 + len] {
            let parsed = Geneve::parse(&bytes[..have]).map(|geneve| geneve.header_len());
            let expected = match () {
                () if have < 8 => {
                    Err(GeneveError::TooShort(TooShort { header: "GENEVE header", need: 8, have }))
                }
                () if version != 0 => Err(GeneveError::Version(version)),
                () if have < 8 + len => {
                    Err(GeneveError::HeaderBeyondPayload { claimed: 8 + len, have })
                }
                () => Ok(8 + len),
            };
            assert_eq!(parsed, expected, "first byte {first:#04x}, {have} bytes");
        }
    }
}

#[test]
fn every_flags_byte_and_reserved_byte() {
    for flags in 0..=u8::MAX {
        let bytes = [0, flags, 0x65, 0x58, 0xff, 0xff, 0xff, !flags];
        let geneve = Geneve::parse(&bytes).unwrap();
        assert_eq!(geneve.header().is_control(), flags & 0x80 != 0);
        assert_eq!(geneve.header().has_critical(), flags & 0x40 != 0);
        assert_eq!(geneve.header().vni().get(), Vni::MAX);
    }
}

#[test]
fn a_packet_cut_at_every_byte() {
    let bytes = [HEADER, OPTION].concat();
    for len in 0..16 {
        assert!(Geneve::parse(&bytes[..len]).is_err(), "{len} bytes");
        // The rest may lie behind the head, but headers must not.
        let cut = Geneve::parse_head(&bytes[..len], 1000);
        assert!(matches!(cut, Err(GeneveError::TooShort(_))), "{len} bytes");
    }
    assert!(Geneve::parse_head(&bytes, 1000).unwrap().payload().is_empty());
}

/// CVE-2023-3966: the UDP payload of Open vSwitch's test "handling of geneve corrupted
/// metadata". One word of options, in which an option claims two words of data.
#[test]
fn an_option_longer_than_all_options() {
    let mut bytes = vec![0x01, 0x00, 0x65, 0x58, 0, 0, 0, 0, 0x00, 0x03, 0x00, 0x02];
    bytes.extend_from_slice(&[0xf2, 0xff, 0, 0, 0, 1, 0xf2, 0xff, 0, 0, 0, 4, 0x08, 0x00]);
    let geneve = Geneve::parse(&bytes).unwrap();
    assert_eq!(
        geneve.options().unwrap_err(),
        GeneveError::OptionBeyondOptions { claimed: 8, have: 0 }
    );
    // With a length that is none, the same packet is good: an option of 4 bytes is legal.
    bytes[11] = 0;
    let good = Geneve::parse(&bytes).unwrap().options().unwrap();
    assert_eq!(good.iter().next(), Some(GeneveOption { class: 3, typ: 0, data: &[] }));
}

#[test]
fn every_length_of_an_option_in_every_length_of_options() {
    let mut bytes = [0u8; MAX_OPTIONS_LEN + 4];
    for reserved_len in 0..=u8::MAX {
        bytes[3] = reserved_len;
        let claimed = 4 * usize::from(reserved_len & 0x1f);
        for len in 0..=MAX_OPTIONS_LEN {
            let parsed = GeneveOptions::parse(&bytes[..len]);
            let expected = match () {
                () if len == 0 => Ok(0),
                () if len < 4 => Err(GeneveError::OptionHeaderCut(len)),
                () if len < 4 + claimed => {
                    Err(GeneveError::OptionBeyondOptions { claimed, have: len - 4 })
                }
                // The rest is zeroes: options without data.
                () if len % 4 != 0 => Err(GeneveError::OptionHeaderCut(len % 4)),
                () => Ok(1 + (len - 4 - claimed) / 4),
            };
            assert_eq!(parsed.map(|options| options.iter().count()), expected);
        }
    }
    bytes[3] = 0;
    let error = GeneveOptions::parse(&bytes).unwrap_err();
    assert_eq!(error, GeneveError::OptionsLen(256));
}

#[test]
fn sixty_three_options_the_last_one_critical() {
    let mut options = vec![owned(0xffff, 0x7f, 0); 63];
    let bytes = encode_options(&options).unwrap();
    assert_eq!((bytes.len(), read(&bytes).len()), (252, 63));
    assert!(!GeneveOptions::parse(&bytes).unwrap().any_critical());
    options[62].typ = 0x80;
    let bytes = encode_options(&options).unwrap();
    let critical = GeneveOptions::parse(&bytes).unwrap();
    assert!(critical.any_critical());
    let header = GeneveHeader::new(Vni::new(1).unwrap(), EtherType::TEB, critical);
    assert_eq!((header.options_len(), header.has_critical()), (252, true));
    options.push(owned(0, 0, 0));
    assert_eq!(encode_options(&options), Err(BadOption::AllTooLong(256)));
}

/// CVE-2025-22055: in 5 bits of words, 128 bytes are 0.
#[test]
fn an_option_of_124_bytes_is_sent_and_one_of_128_refused() {
    for len in 0..=300 {
        let encoded = encode_options(&[owned(1, 2, len)]);
        match len {
            125.. => assert_eq!(encoded, Err(BadOption::TooLong(len))),
            _ if len % 4 != 0 => assert_eq!(encoded, Err(BadOption::Unaligned(len))),
            _ => assert_eq!(read(&encoded.unwrap()), [owned(1, 2, len)]),
        }
    }
    let two = [owned(1, 2, 124), owned(1, 3, 116)];
    assert_eq!(encode_options(&two).map(|bytes| bytes.len()), Ok(248));
    let two = [owned(1, 2, 124), owned(1, 3, 124)];
    assert_eq!(encode_options(&two), Err(BadOption::AllTooLong(256)));
    assert_eq!(encode_options(&[]), Ok(vec![]));
}

/// CVE-2024-26857: an inner frame too short for its own headers is found when those are read,
/// and nothing behind it is.
#[test]
fn inner_frames_too_short_for_their_headers() {
    let mut inner = vec![0x02; 12];
    inner.extend_from_slice(&[0x08, 0x00, 0x45]);
    inner.resize(33, 0);
    for len in [0, 1, 13, 14, 15, 33] {
        let bytes = [&HEADER[..], &OPTION, &inner[..len]].concat();
        let payload = Geneve::parse(&bytes).unwrap().payload();
        assert_eq!(payload, &inner[..len]);
        match TagStack::parse(payload) {
            Err(error) => assert_eq!((error.have, len < 14), (len, true)),
            Ok(stack) => {
                let ip = Ipv4::parse(&payload[stack.l3_offset()..]).unwrap_err();
                let have = len - 14;
                let error = TooShort { header: "IPv4 header", need: 20, have };
                assert_eq!(ip, Ipv4Error::TooShort(error));
            }
        }
    }
}

fn options() -> impl Strategy<Value = Vec<OwnedOption>> {
    let data = (0usize..=31).prop_flat_map(|words| prop::collection::vec(any::<u8>(), 4 * words));
    let option = (any::<u16>(), any::<u8>(), data).prop_map(|(class, typ, data)| OwnedOption {
        class,
        typ,
        data,
    });
    prop::collection::vec(option, 0..8)
}

proptest! {
    #[test]
    fn options_sent_are_options_read(options in options(), vni in 0..=Vni::MAX) {
        let len: usize = options.iter().map(|option| 4 + option.data.len()).sum();
        let encoded = encode_options(&options);
        if len > MAX_OPTIONS_LEN {
            prop_assert_eq!(encoded, Err(BadOption::AllTooLong(len)));
            return Ok(());
        }
        let mut bytes = encoded.unwrap();
        let checked = GeneveOptions::parse(&bytes).unwrap();
        let critical = options.iter().any(|option| option.typ >= 0x80);
        prop_assert_eq!(checked.any_critical(), critical);
        let header = GeneveHeader::new(Vni::new(vni).unwrap(), EtherType::TEB, checked);
        let packet = [header.as_bytes(), &bytes, b"inner"].concat();
        let geneve = Geneve::parse(&packet).unwrap();
        prop_assert_eq!(geneve.header().has_critical(), critical);
        prop_assert_eq!((geneve.header().vni().get(), geneve.payload()), (vni, &b"inner"[..]));
        prop_assert_eq!(geneve.options().unwrap().as_bytes(), &bytes);
        // Reserved bits change nothing. Here they are set in the first option.
        if let Some(byte) = bytes.get_mut(3) {
            prop_assert_eq!(*byte & 0xe0, 0);
            *byte |= 0xe0;
        }
        prop_assert_eq!(read(&bytes), options);
    }

    #[test]
    fn noise_stays_inside(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300), more in 0usize..99,
    ) {
        // Else three of four are refused for their version.
        if let Some(first) = bytes.first_mut() {
            *first &= 0x3f;
        }
        if let Ok(geneve) = Geneve::parse_head(&bytes, bytes.len() + more) {
            prop_assert_eq!(geneve.payload(), &bytes[geneve.header_len()..]);
            if let Ok(options) = geneve.options() {
                let used: usize = options.iter().map(|option| 4 + option.data.len()).sum();
                prop_assert_eq!(used, geneve.header().options_len());
            }
        }
    }
}
