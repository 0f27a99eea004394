//! The MSS clamp: TCP connections through a tunnel are made to send what fits it.

use crate::frame::{Csum, Frame};
use crate::wire::checksum::update;
use crate::wire::{
    Fragment, Header, Ipv4Header, Ipv6Header, Layers, Network, TcpFlags, TcpHeader, Transport,
};

/// Kinds of TCP options (RFC 9293 §3.1).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
/// Less than this makes connections crawl and fits no path that there is (Linux: `TCP_MIN_MSS`).
const MSS_MIN: u16 = 88;
/// Bytes of an MSS option.
const MSS_LEN: u8 = 4;
/// Options that fit a header: each has a byte at least.
const OPTIONS_MAX: usize = 40;

/// Lowers the MSS that a TCP SYN announces to what fits packets of `l3_mtu` bytes (RFC 6691: without
/// regard to options). True if the frame was changed.
///
/// A SYN that announces none stands for 536 or 1,220 bytes and is left alone, as are options that
/// do not hold.
pub fn clamp<F: Frame>(frame: &mut F, l3_mtu: u32) -> bool {
    let Some(found) = find(frame, l3_mtu) else { return false };
    let unfinished = matches!(frame.offload().csum, Csum::Partial { .. });
    let head = frame.head_mut();
    let Some(field) = head.get_mut(found.at..).and_then(<[u8]>::first_chunk_mut::<2>) else {
        return false;
    };
    *field = found.new.to_be_bytes();
    // What is left to a NIC covers the segment as it leaves.
    if !unfinished && let Ok(tcp) = TcpHeader::at_mut(head, found.tcp) {
        tcp.set_checksum(update_at(tcp.checksum(), found));
    }
    true
}

/// The MSS in a SYN, and what is to replace it.
#[derive(Clone, Copy)]
struct Found {
    /// Where the TCP header is.
    tcp: usize,
    /// Where the value is.
    at: usize,
    old: u16,
    new: u16,
}

/// The checksum after the change. At an odd place the value covers halves of two words, which is as
/// if it had been swapped.
fn update_at(checksum: u16, found: Found) -> u16 {
    let odd = found.at.wrapping_sub(found.tcp) % 2 == 1;
    let [old, new] =
        [found.old, found.new].map(|value| if odd { value.swap_bytes() } else { value });
    update(checksum, old, new)
}

fn find<F: Frame>(frame: &F, l3_mtu: u32) -> Option<Found> {
    let head = frame.head();
    let layers = Layers::parse(head, frame.len()).ok()?;
    if layers.transport() != Transport::Tcp || layers.fragment() == Fragment::Later {
        return None;
    }
    let tcp = layers.l4();
    let header = TcpHeader::at(head, tcp).ok()?;
    if !header.flags().any(TcpFlags::SYN) {
        return None;
    }
    let ip = match layers.network() {
        Network::V4 => Ipv4Header::LEN,
        Network::V6 => Ipv6Header::LEN,
        Network::Other => return None,
    };
    let fits = l3_mtu.saturating_sub((ip.saturating_add(TcpHeader::LEN)) as u32);
    let new = u16::try_from(fits).unwrap_or(u16::MAX).max(MSS_MIN);
    let from = tcp.saturating_add(TcpHeader::LEN);
    let at = mss_option(head.get(from..layers.payload())?)?.saturating_add(from);
    let old = u16::from_be_bytes(*head.get(at..)?.first_chunk()?);
    (old > new).then_some(Found { tcp, at, old, new })
}

/// Where the value of the MSS option is among the options.
fn mss_option(options: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    for _ in 0..OPTIONS_MAX {
        let rest = options.get(at..)?;
        match *rest {
            [] | [END, ..] => return None,
            [NOP, ..] => at = at.saturating_add(1),
            [MSS, MSS_LEN, _, _, ..] => return at.checked_add(2),
            // An option of less than two bytes, or another length of MSS, does not hold.
            [_, 0 | 1, ..] | [MSS, ..] | [_] => return None,
            [_, len, ..] => at = at.saturating_add(len.into()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

    use super::*;
    use crate::frame::{FramePool, HeapFrame, Offload, PoolConfig};

    fn frame(bytes: &[u8]) -> HeapFrame {
        FramePool::new(PoolConfig::default()).frame(bytes).unwrap()
    }

    fn bytes(frame: &HeapFrame) -> Vec<u8> {
        let mut out = Vec::new();
        frame.copy_to(&mut out);
        out
    }

    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            ethernet.ipv6([0xfd; 16], [0xfc; 16], 64)
        } else {
            ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let mut out = Vec::new();
        let builder = ip.tcp(1, 2, 3, 4).syn().options_raw(options).unwrap();
        builder.write(&mut out, b"").unwrap();
        out
    }

    /// MSS as etherparse reads it, and whether its checksum is right.
    fn read(bytes: &[u8]) -> (Option<u16>, bool) {
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
        let mss = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        });
        let header = tcp.to_header();
        let sum = match packet.net.unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap()
            }
            etherparse::NetSlice::Ipv6(ip) => {
                header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()).unwrap()
            }
            other => panic!("{other:?}"),
        };
        (mss, sum == header.checksum)
    }

    #[test]
    fn a_large_mss_is_lowered_and_a_small_one_stays() {
        for (v6, fits) in [(false, 1410), (true, 1390)] {
            // At the front, and at an odd place.
            for options in [&[2, 4, 5, 0xb4, 1, 1, 1, 0][..], &[1, 2, 4, 5, 0xb4, 3, 3, 7]] {
                let mut one = frame(&syn(v6, options));
                assert!(clamp(&mut one, 1450));
                assert_eq!(read(&bytes(&one)), (Some(fits), true), "{options:?}");
                assert!(!clamp(&mut one, 1450), "once is enough");
                let mut tagged = syn(v6, options);
                tagged.splice(12..12, [0x81, 0, 0, 10]);
                let mut tagged = frame(&tagged);
                assert!(clamp(&mut tagged, 1450));
                assert_eq!(read(&bytes(&tagged)), (Some(fits), true));
            }
            let mut small = frame(&syn(v6, &[2, 4, 2, 0x18]));
            let before = bytes(&small);
            assert!(!clamp(&mut small, 1450));
            assert_eq!(bytes(&small), before);
        }
    }

    #[test]
    fn what_is_left_to_a_nic_is_left() {
        let mut one = frame(&syn(false, &[2, 4, 5, 0xb4]));
        let csum = Csum::Partial { start: 34, offset: 16 };
        one.set_offload(Offload { csum, gso: None });
        let before = bytes(&one);
        assert!(clamp(&mut one, 1450));
        assert_eq!(bytes(&one)[50..52], before[50..52]);
    }

    #[test]
    fn other_segments_and_bad_options_stay() {
        let bad: [&[u8]; 6] = [
            &[],
            &[1, 1, 1, 0],
            &[2, 3, 5, 0xb4],
            &[8, 0, 2, 4, 5, 0xb4, 0, 0],
            &[8, 40, 2, 4, 5, 0xb4, 0, 0],
            &[0, 2, 4, 5, 0xb4, 0, 0, 0],
        ];
        for options in bad {
            assert!(!clamp(&mut frame(&syn(false, options)), 1450), "{options:?}");
        }
        let mut ack = syn(false, &[2, 4, 5, 0xb4]);
        ack[47] = 0x10;
        assert!(!clamp(&mut frame(&ack), 1450));
    }

    #[test]
    fn a_frame_cut_anywhere() {
        for v6 in [false, true] {
            let whole = syn(v6, &[1, 2, 4, 5, 0xb4, 3, 3, 7]);
            for len in 0..whole.len() {
                assert!(!clamp(&mut frame(&whole[..len]), 1450), "{len} bytes");
            }
        }
    }
}
