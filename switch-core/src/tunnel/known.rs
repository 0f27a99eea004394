//! The plain case of decapsulation: packets whose outer headers say what those of an earlier one did.
//!
//! A packet that [`open`](super::open) took is remembered by what it was taken for: five words of
//! its headers, without the fields that may differ. Another that has the same words is taken, too,
//! once the rest is checked. What does not fit here goes to [`open`](super::open) itself.

use super::Opened;
use crate::wire::{EtherType, IpProtocol, UdpHeader};

/// IPv4, UDP, and a header of eight bytes: VXLAN, or GENEVE without options.
const LEN: usize = 36;
const IPV4: usize = 20;
const ETHERNET: usize = 14;

/// The first 36 bytes as words, with what may differ masked out: the DSCP, length, identification,
/// DF, TTL, the checksum of the header, the UDP source port and length.
const MASKS: [[u8; 8]; 4] = [
    [0xff, 0x03, 0, 0, 0, 0, 0x3f, 0xff],
    [0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff],
    [0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff],
    [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
];

/// What packets of one sender in one tunnel have in common, and what they are taken for.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    words: [u64; 4],
    network: u32,
    opened: Opened<'a>,
}

impl<'a> Known<'a> {
    /// What a packet that begins with `head` and was taken for `opened` says of others, or `None`
    /// if it says nothing: it has more to it than the plain headers, or nobody known sent it.
    pub fn of(head: &[u8], opened: &Opened<'a>) -> Option<Self> {
        let (words, network) = common(head.first_chunk()?);
        let [first, second, .., third] = words.map(u64::to_ne_bytes);
        let ([version, ecn, .., f0, f1], [_, protocol, ..]) = (first, second);
        let [_, _, c0, c1, tunnel @ ..] = third;
        let plain = [version, ecn, f0, f1] == [0x45, 0, 0, 0]
            && (protocol, c0, c1) == (IpProtocol::UDP.0, 0, 0);
        let [e0, e1] = EtherType::TEB.0.to_be_bytes();
        let bare = [[0x08, 0, 0, 0], [0, 0, e0, e1]].contains(&tunnel)
            && network.to_ne_bytes().last() == Some(&0);
        let taken = opened.peer.is_some() && opened.inner_at() == LEN;
        (plain && bare && taken).then_some(Self { words, network, opened: *opened })
    }

    /// What a packet of `len` bytes is taken for that begins with `head`; `None` if that cannot be
    /// told here.
    #[inline(always)]
    pub fn open(&self, head: &[u8], len: usize) -> Option<Opened<'a>> {
        // The inner Ethernet header has to be there, too.
        let outer: &[u8; LEN] = head.first_chunk::<{ LEN + ETHERNET }>()?.first_chunk()?;
        let (words, network) = common(outer);
        let mut differs = u64::from(network ^ self.network);
        for (word, known) in words.iter().zip(&self.words) {
            differs |= word ^ known;
        }
        let total = u16::from_be_bytes([outer[2], outer[3]]);
        let datagram = u16::from_be_bytes([outer[24], outer[25]]);
        let end = usize::from(total);
        let holds = differs == 0
            && outer[8] != 0
            && header_sum(outer) == 0xffff
            && datagram == total.wrapping_sub(IPV4 as u16)
            && (LEN + ETHERNET..=len).contains(&end);
        holds.then(|| self.opened.ending_at(end))
    }
}

const _: () = assert!(LEN == IPV4 + UdpHeader::LEN + 8);

/// The words that packets have in common.
#[inline(always)]
fn common(outer: &[u8; LEN]) -> ([u64; 4], u32) {
    let (words, rest) = outer.as_chunks::<8>();
    let mut common = [0; 4];
    for ((to, word), mask) in common.iter_mut().zip(words).zip(&MASKS) {
        *to = u64::from_ne_bytes(*word) & u64::from_ne_bytes(*mask);
    }
    let network = rest.first_chunk().copied().unwrap_or_default();
    (common, u32::from_ne_bytes(network))
}

/// The ones' complement sum of the IPv4 header: 0xffff if its checksum is right.
#[inline(always)]
fn header_sum(outer: &[u8; LEN]) -> u16 {
    let mut sum = 0_u64;
    for word in outer.as_chunks::<4>().0.iter().take(IPV4 / 4) {
        sum = sum.wrapping_add(u32::from_ne_bytes(*word).into());
    }
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16 & 0xffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    (sum & 0xffff).wrapping_add(sum >> 16) as u16
}
