use switch_core::frame::{Csum, Gso, GsoKind};
use vswitchd::watch::pcapng::{self, Link, Writer};

use super::*;

const SUPER: Offload = Offload {
    csum: Csum::Partial { start: 34, offset: 16 },
    gso: Some(Gso { kind: GsoKind::TcpV4, size: 1448, ecn: false }),
};

/// What our own writer makes of three packets on two interfaces.
fn written() -> Vec<u8> {
    let mut out = Writer::new("test");
    let interfaces = [out.interface("web", Link::Ethernet, 64), out.interface("v4", Link::Ip, 64)];
    for (n, interface) in [(1_u8, 0), (2, 1), (3, 0)] {
        out.packet(&pcapng::Packet {
            interface: interfaces[interface],
            at: 1_700_000_000_000_000_000 + u64::from(n),
            bytes: &vec![n; usize::from(n) * 7],
            len: u32::from(n) * 7 + 1,
            direction: if n == 3 { pcapng::Direction::Out } else { pcapng::Direction::In },
            offload: if n == 2 { SUPER } else { Offload::NONE },
            comments: &["offload: and other words".to_owned()],
        });
    }
    out.missed(0, 0, 9);
    out.take()
}

#[test]
fn what_the_switch_writes_is_read() {
    let file = parse(&written()).unwrap();
    let named = |name: &str, link| Interface { name: Some(name.to_owned()), link };
    assert_eq!(file.interfaces, [named("web", ETHERNET), named("v4", IP)]);
    let packet = |n: u8, interface, direction, offload| Packet {
        interface,
        at: 1_700_000_000_000_000_000 + u64::from(n),
        bytes: vec![n; usize::from(n) * 7],
        len: usize::from(n) * 7 + 1,
        direction,
        offload,
    };
    let expected = [
        packet(1, 0, Direction::In, Offload::NONE),
        packet(2, 1, Direction::In, SUPER),
        packet(3, 0, Direction::Out, Offload::NONE),
    ];
    assert_eq!((file.packets, file.missed), (expected.to_vec(), 9));
}

#[test]
fn a_file_that_is_cut_off_is_an_error_wherever_it_is() {
    let whole = written();
    let frames = parse(&whole).unwrap().packets.len();
    for cut in 0..whole.len() {
        // Between two blocks it is a shorter file.
        let read = parse(&whole[..cut]);
        assert!(read.as_ref().is_err() || read.is_ok_and(|f| f.packets.len() <= frames), "{cut}");
    }
    let error = parse(&whole[..whole.len() - 44]).unwrap_err();
    assert!(error.starts_with("it ends within the block at byte "), "{error}");
}

#[test]
fn both_byte_orders_and_all_units_of_time_are_read() {
    let block = |kind: u32, body: &[u8]| {
        let len = (body.len() as u32 + 12).to_be_bytes();
        [&kind.to_be_bytes(), &len[..], body, &len].concat()
    };
    let mut section = 0x1a2b_3c4d_u32.to_be_bytes().to_vec();
    section.extend([0, 1, 0, 0]);
    section.extend([0xff; 8]);
    let mut out = block(SECTION, &section);
    // Ticks of 1/1024 s that begin 10 s late; microseconds where nothing is said.
    let scaled = [0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0x8a, 0, 0, 0, 0, 14, 0, 8];
    out.extend(block(1, &[&scaled[..], &10_u64.to_be_bytes(), &[0; 4]].concat()));
    out.extend(block(1, &[0, 1, 0, 0, 0, 0, 0, 0]));
    for interface in [0, 1_u32] {
        let words = [interface, 0, 2048, 4, 4].map(u32::to_be_bytes).concat();
        out.extend(block(PACKET, &[&words[..], b"abcd"].concat()));
    }
    out.extend(block(SIMPLE, &[&3_u32.to_be_bytes()[..], b"xyz\0"].concat()));
    let file = parse(&out).unwrap();
    let read: Vec<_> = file.packets.iter().map(|p| (p.at, &p.bytes[..])).collect();
    assert_eq!(read, [(12_000_000_000, &b"abcd"[..]), (2_048_000, b"abcd"), (0, b"xyz")]);
}

#[test]
fn what_is_wrong_is_told() {
    let mut file = written();
    let error = |bytes: &[u8]| parse(bytes).unwrap_err();
    assert_eq!(error(b""), "it is no capture file");
    assert_eq!(error(b"GIF89a"), "it is no capture file");
    // The first block's length.
    file[4] = 13;
    assert_eq!(error(&file), "the block at byte 0 says it has 13 bytes");
    file[4] = 0x28;
    file[8] = 0;
    assert_eq!(error(&file), "the section at byte 0 has no byte order");
    let mut classic = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    classic.extend([0; 16]);
    assert_eq!(error(&classic), "it ends within its header");
    classic.extend([1, 0, 0, 0]);
    assert_eq!(parse(&classic).unwrap().interfaces[0].link, ETHERNET);
    classic.extend([7; 15]);
    assert_eq!(error(&classic), "it ends within frame 1");
    // A packet of an interface that there is not.
    let head = Writer::new("test").take();
    let stray = &written()[written().len() - 88..];
    assert!(parse(&[&head[..], stray].concat()).is_err());
}
