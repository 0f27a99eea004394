//! What the sender of a frame that is too large for a tunnel is told: ICMP "fragmentation needed"
//! (RFC 1191) or ICMPv6 "packet too big" (RFC 4443 §3.2), as a router in the tunnel's place would.

use std::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;

use crate::frame::Frame;
use crate::wire::icmp::{checksum_v4, checksum_v6, v4, v6};
use crate::wire::{
    EthernetHeader, Fragment, Header, IcmpHeader, IpProtocol, Ipv4Header, Ipv6Header, Layers,
    Network,
};

/// Longest answer over IPv4, in bytes of IP packet (RFC 1812 §4.3.2.3).
const V4_MAX: usize = 576;
/// Longest answer over IPv6 (RFC 4443 §2.4 (c)): the least MTU of a link.
const V6_MAX: usize = 1280;
/// The least MTU that may be told over IPv4 (RFC 791 §3.2).
const V4_MTU_MIN: u32 = 68;
/// Hops of the answer.
const TTL: u8 = 64;
/// The frame's addresses and up to two tags with its type.
const L2_MAX: usize = EthernetHeader::LEN + 8;

/// The frame that tells the sender of `frame` that at most `l3_mtu` bytes of layer 3 get through.
///
/// It comes from the address the frame was sent to, as its sender accepts that, with the frame's
/// own tags. `None` where RFC 1122 §3.2.2 and RFC 4443 §2.4 (e) forbid an answer (an ICMP error, a
/// later fragment, a group as source or destination), where the sender permitted fragments (IPv4
/// without DF), where it would not help (IPv6 below 1,280 bytes), and where `alloc` has no frame.
pub fn reply<F: Frame>(frame: &F, l3_mtu: u32, alloc: impl FnOnce() -> Option<F>) -> Option<F> {
    let head = frame.head();
    let layers = Layers::parse(head, frame.len()).ok()?;
    let (ethernet, _) = EthernetHeader::split(head).ok()?;
    if ethernet.dst().is_multicast() || layers.fragment() == Fragment::Later {
        return None;
    }
    let l3 = layers.l3();
    let message = match layers.network() {
        Network::V4 => message_v4(head, frame, &layers, l3_mtu)?,
        Network::V6 => message_v6(head, frame, &layers, l3_mtu)?,
        Network::Other => return None,
    };
    let mut l2 = [0; L2_MAX];
    let l2 = l2.get_mut(..l3)?;
    l2.copy_from_slice(head.get(..l3)?);
    let (new, _) = EthernetHeader::split_mut(l2).ok()?;
    new.set_dst(ethernet.src());
    new.set_src(ethernet.dst());
    let mut answer = alloc()?;
    answer.append(l2).ok()?;
    answer.append(message.bytes()).ok()?;
    Some(answer)
}

/// An IP packet that is being written.
struct Message {
    bytes: [u8; V6_MAX],
    len: usize,
}

impl Message {
    /// Leaves room for `headers` bytes and quotes the packet at `l3` behind it, up to `max` bytes
    /// in all, and not what follows the packet.
    fn quote<F: Frame>(frame: &F, l3: usize, end: usize, headers: usize, max: usize) -> Self {
        let mut message = Self { bytes: [0; V6_MAX], len: headers };
        let mut at = 0_usize;
        frame.for_each_segment(&mut |piece| {
            let from = l3.saturating_sub(at);
            let to = end.saturating_sub(at).min(piece.len());
            message.push(piece.get(from..to).unwrap_or_default(), max);
            at = at.saturating_add(piece.len());
        });
        message
    }

    fn push(&mut self, bytes: &[u8], max: usize) {
        let room = max.saturating_sub(self.len).min(bytes.len());
        let part = bytes.get(..room).unwrap_or_default();
        if let Some(to) = self.bytes.get_mut(self.len..self.len.saturating_add(room)) {
            to.copy_from_slice(part);
            self.len = self.len.saturating_add(room);
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Writes a header and what follows it to the front.
    fn put(&mut self, at: usize, header: &[u8]) -> Option<()> {
        self.bytes.get_mut(at..at.checked_add(header.len())?)?.copy_from_slice(header);
        Some(())
    }
}

fn message_v4<F: Frame>(head: &[u8], frame: &F, layers: &Layers, mtu: u32) -> Option<Message> {
    const HEADERS: usize = Ipv4Header::LEN + IcmpHeader::LEN;
    let ip = Ipv4Header::at(head, layers.l3()).ok()?;
    // Errors are never answered; what asks for an answer is no error. Nor is ICMP whose type is out
    // of sight.
    let answered = ip.protocol() != IpProtocol::ICMP
        || layers
            .icmp(head)
            .is_some_and(|icmp| [v4::ECHO_REQUEST, v4::ECHO_REPLY].contains(&icmp.kind()));
    if !ip.dont_fragment() || !answered || !is_host_v4(ip.src()) || !is_host_v4(ip.dst()) {
        return None;
    }
    let mut message = Message::quote(frame, layers.l3(), layers.end(), HEADERS, V4_MAX);
    let [_, _, m0, m1] = mtu.clamp(V4_MTU_MIN, u16::MAX.into()).to_be_bytes();
    let icmp = IcmpHeader::new(v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED, [0, 0, m0, m1]);
    message.put(Ipv4Header::LEN, icmp.as_bytes())?;
    let body = message.bytes.get(Ipv4Header::LEN..message.len)?;
    let (sum, len) = (checksum_v4(body), u16::try_from(body.len()).ok()?);
    IcmpHeader::at_mut(&mut message.bytes, Ipv4Header::LEN).ok()?.set_checksum(sum);
    let mut header = Ipv4Header::new(ip.dst(), ip.src(), IpProtocol::ICMP, len);
    header.set_ttl(TTL);
    message.put(0, header.as_bytes())?;
    Some(message)
}

fn message_v6<F: Frame>(head: &[u8], frame: &F, layers: &Layers, mtu: u32) -> Option<Message> {
    const HEADERS: usize = Ipv6Header::LEN + IcmpHeader::LEN;
    let ip = Ipv6Header::at(head, layers.l3()).ok()?;
    // Types below 128 are errors (RFC 4443 §2.1); redirects are not answered either (§2.4 (e.2)), nor
    // is a message whose type is out of sight.
    let answered = layers.protocol() != IpProtocol::ICMPV6
        || layers.icmp(head).is_some_and(|icmp| icmp.kind() >= 128 && icmp.kind() != v6::REDIRECT);
    if mtu < V6_MAX as u32 || !answered || !is_host_v6(ip.src()) || !is_host_v6(ip.dst()) {
        return None;
    }
    let mut message = Message::quote(frame, layers.l3(), layers.end(), HEADERS, V6_MAX);
    let icmp = IcmpHeader::new(v6::PACKET_TOO_BIG, 0, mtu.to_be_bytes());
    message.put(Ipv6Header::LEN, icmp.as_bytes())?;
    let body = message.bytes.get(Ipv6Header::LEN..message.len)?;
    let (sum, len) = (checksum_v6(ip.dst(), ip.src(), body), u16::try_from(body.len()).ok()?);
    IcmpHeader::at_mut(&mut message.bytes, Ipv6Header::LEN).ok()?.set_checksum(sum);
    let mut header = Ipv6Header::new(ip.dst(), ip.src(), IpProtocol::ICMPV6, len);
    header.set_hop_limit(TTL);
    message.put(0, header.as_bytes())?;
    Some(message)
}

/// Whether the address names one host (RFC 1122 §3.2.2): not this network (0/8), a loopback, a group,
/// or class E with the broadcast address in it.
fn is_host_v4(addr: Ipv4Addr) -> bool {
    let [first, ..] = addr.octets();
    !matches!(first, 0 | 127 | 224..)
}

fn is_host_v6(addr: Ipv6Addr) -> bool {
    !(addr.is_multicast() || addr.is_unspecified() || addr.is_loopback())
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{FramePool, HeapFrame, PoolConfig};
    use crate::testing::frames::pattern;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn pool() -> FramePool {
        FramePool::new(PoolConfig::default())
    }

    fn answer(bytes: &[u8], mtu: u32) -> Option<Vec<u8>> {
        let pool = pool();
        let frame: HeapFrame = pool.frame(bytes).unwrap();
        let answer = reply(&frame, mtu, || pool.alloc())?;
        let mut out = Vec::new();
        answer.copy_to(&mut out);
        Some(out)
    }

    fn udp_v4(len: usize) -> Vec<u8> {
        let builder =
            PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 2], [10, 0, 0, 1], 9).udp(1000, 2000);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &pattern(7, len)).unwrap();
        bytes
    }

    fn udp_v6(len: usize) -> Vec<u8> {
        let [src, dst] = [2_u8, 1].map(|host| {
            let mut addr = [0; 16];
            (addr[0], addr[15]) = (0xfd, host);
            addr
        });
        let builder = PacketBuilder::ethernet2(A, B).ipv6(src, dst, 9).udp(1000, 2000);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &pattern(7, len)).unwrap();
        bytes
    }

    fn tagged(mut bytes: Vec<u8>, tag: [u8; 4]) -> Vec<u8> {
        bytes.splice(12..12, tag);
        bytes
    }

    #[test]
    fn an_ipv4_sender_is_told_the_next_hop_mtu() {
        let asked = udp_v4(1472);
        let told = answer(&asked, 1450).unwrap();
        let packet = SlicedPacket::from_ethernet(&told).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("no ICMP") };
        let header = icmp.header();
        let Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
        ) = header.icmp_type
        else {
            panic!("{header:?}")
        };
        assert_eq!(next_hop_mtu, 1450);
        assert_eq!(header.icmp_type.calc_checksum(icmp.payload()), header.checksum);
        assert_eq!(told.len(), 14 + V4_MAX);
        assert_eq!(&told[..14], [&asked[6..12], &asked[..6], &asked[12..14]].concat());
        // From the address that was asked for, to the one that asked.
        assert_eq!((&told[26..30], &told[30..34]), (&asked[30..34], &asked[26..30]));
        assert_eq!(Ipv4Header::at(&told, 14).unwrap().checksum(), {
            let mut header = etherparse::Ipv4Header::from_slice(&told[14..]).unwrap().0;
            header.header_checksum = 0;
            header.calc_header_checksum()
        });
        assert_eq!(icmp.payload(), &asked[14..14 + V4_MAX - 28], "the packet as it was sent");
    }

    #[test]
    fn an_ipv6_sender_is_told_the_path_mtu() {
        for tags in [&[][..], &[0x81, 0, 0x20, 10]] {
            let mut asked = udp_v6(1452);
            asked.splice(12..12, tags.iter().copied());
            let told = answer(&asked, 1430).unwrap();
            let packet = SlicedPacket::from_ethernet(&told).unwrap();
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMP") };
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1430 });
            let l3 = 14 + tags.len();
            let [src, dst] = [8, 24].map(|at| told[l3 + at..][..16].try_into().unwrap());
            let sum = icmp.header().icmp_type.calc_checksum(src, dst, icmp.payload()).unwrap();
            assert_eq!(sum, icmp.header().checksum);
            assert_eq!(told.len(), l3 + V6_MAX);
            assert_eq!(icmp.payload(), &asked[l3..l3 + V6_MAX - 48]);
            assert_eq!(&told[12..l3], &asked[12..l3], "tags and type stay");
        }
    }

    #[test]
    fn some_are_not_told() {
        assert!(answer(&udp_v4(1472), 1450).is_some());
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = udp_v4(1472);
            change(&mut bytes);
            answer(&bytes, 1450)
        };
        assert!(with(&|b| b[20] = 0).is_none(), "fragments permitted");
        assert!(with(&|b| b[21] = 1).is_none(), "a later fragment");
        assert!(with(&|b| b[0] |= 1).is_none(), "to a group of stations");
        assert!(with(&|b| b[30] = 224).is_none(), "to a group of hosts");
        assert!(with(&|b| b[26] = 224).is_none(), "from a group");
        assert!(with(&|b| b[26..30].fill(0)).is_none(), "from nobody");
        assert!(with(&|b| b[26..30].copy_from_slice(&[0, 1, 2, 3])).is_none(), "from this network");
        assert!(with(&|b| b[26] = 127).is_none(), "from a loopback address");
        assert!(with(&|b| b[26] = 240).is_none(), "from class E");
        assert!(with(&|b| b[12] = 0x88).is_none(), "not IP");
        assert!(with(&|b| b[14] = 0x44).is_none(), "a header that lies");
        let icmp = |kind: u8| {
            with(&|b| {
                b[23] = 1;
                b[34] = kind;
            })
        };
        assert!(icmp(3).is_none() && icmp(11).is_none(), "an error");
        assert!(icmp(8).is_some(), "a ping");
        let icmp_v6 = |kind: u8| {
            let mut bytes = udp_v6(1452);
            (bytes[20], bytes[54]) = (58, kind);
            answer(&bytes, 1430)
        };
        assert!(icmp_v6(1).is_none() && icmp_v6(127).is_none(), "an error");
        assert!(icmp_v6(137).is_none(), "a redirect");
        assert!(icmp_v6(128).is_some(), "a ping");
        // An error behind 1,456 bytes of destination options, cut off after its checksum.
        let mut hidden = udp_v6(1452);
        hidden[20] = 60;
        hidden[54..1510].fill(0);
        (hidden[54], hidden[55], hidden[1510]) = (58, 181, 1);
        assert!(answer(&hidden, 1430).is_none(), "ICMP without a whole header");
        assert!(answer(&udp_v6(1452), 1279).is_none(), "below the least MTU of IPv6");
        let told = answer(&udp_v4(1472), 10).unwrap();
        assert_eq!(told[40..42], 68_u16.to_be_bytes(), "not below the least of IPv4");
    }

    #[test]
    fn two_tags_come_back() {
        let asked = tagged(tagged(udp_v4(1472), [0x81, 0, 0, 10]), [0x88, 0xa8, 0, 20]);
        let told = answer(&asked, 1450).unwrap();
        assert_eq!(told[12..22], asked[12..22]);
        assert_eq!(told.len(), 22 + V4_MAX);
    }

    proptest! {
        #[test]
        fn any_frame_at_all(bytes in proptest::collection::vec(any::<u8>(), 14..400), mtu: u32) {
            if let Some(told) = answer(&bytes, mtu) {
                prop_assert!(told.len() <= L2_MAX + V6_MAX);
            }
        }

        #[test]
        fn damaged_frames(at in 0_usize..80, to: u8, v6: bool) {
            let mut bytes = if v6 { udp_v6(1452) } else { udp_v4(1472) };
            bytes[at] = to;
            if let Some(told) = answer(&bytes, 1430) {
                prop_assert!(told.len() <= L2_MAX + V6_MAX);
                prop_assert!(SlicedPacket::from_ethernet(&told).is_ok());
            }
        }
    }
}
