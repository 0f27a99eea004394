//! Where the layers of a frame begin and end: one bounded walk over its head.

use std::net::IpAddr;

use super::{
    EtherType, Fragment, IcmpHeader, IpProtocol, Ipv4, Ipv4Error, Ipv4Header, Ipv6, Ipv6Error,
    Ipv6Header, TagStack, Tcp, TcpError, TooShort, Udp, UdpError, UdpHeader,
};
use super::{Header, TcpHeader};

/// What a frame carries at layer 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Anything else, which is bridged by its addresses and tags alone: ARP, 802.3 frames with
    /// LLC or SNAP, unknown types, IP below more than [`super::MAX_TAGS`] tags.
    Other,
}

/// What a frame carries at layer 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment (or the first fragment of one).
    Tcp,
    /// A UDP datagram (or the first fragment of one).
    Udp,
    /// Anything else, or nothing.
    Other,
}

/// Why the layers of a frame cannot be told: a header lies about a length, or is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayersError {
    /// The frame ends within its Ethernet header or a tag.
    #[error(transparent)]
    Ethernet(#[from] TooShort),
    /// What is announced as IPv4 is not.
    #[error(transparent)]
    Ipv4(#[from] Ipv4Error),
    /// What is announced as IPv6 is not.
    #[error(transparent)]
    Ipv6(#[from] Ipv6Error),
    /// What is announced as TCP is not.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// What is announced as UDP is not.
    #[error(transparent)]
    Udp(#[from] UdpError),
}

/// Where the layers of a frame begin and end. All positions are in bytes from the frame's start.
#[derive(Clone, Copy, Debug)]
pub struct Layers {
    tags: TagStack,
    network: Network,
    transport: Transport,
    protocol: IpProtocol,
    fragment: Fragment,
    l4: usize,
    payload: usize,
    end: usize,
}

impl Layers {
    /// Walks the layers of a frame of `frame_len` bytes that begins with `head`.
    ///
    /// Frames that are not IP are no error: they have a [`Network::Other`].
    ///
    /// # Errors
    /// [`LayersError`] if a header that is announced is cut short or contradicts itself or the
    /// frame's length. A layer-4 header counts as announced unless this is a later fragment.
    pub fn parse(head: &[u8], frame_len: usize) -> Result<Self, LayersError> {
        let tags = TagStack::parse(head)?;
        let l3 = tags.l3_offset();
        let packet = head.get(l3..).unwrap_or_default();
        let wire_len = frame_len.max(head.len()).saturating_sub(l3);
        let mut layers = Self {
            tags,
            network: Network::Other,
            transport: Transport::Other,
            protocol: IpProtocol::NO_NEXT_HEADER,
            fragment: Fragment::Whole,
            l4: l3,
            payload: l3,
            end: l3.saturating_add(wire_len),
        };
        let (body, body_len) = match tags.ethertype() {
            EtherType::IPV4 => {
                let ip = Ipv4::parse_head(packet, wire_len)?;
                layers.network = Network::V4;
                layers.protocol = ip.header().protocol();
                layers.fragment = ip.header().fragment();
                layers.l4 = l3.saturating_add(ip.header().header_len());
                (ip.payload(), ip.payload_len())
            }
            EtherType::IPV6 => {
                let ip = Ipv6::parse_head(packet, wire_len)?;
                layers.network = Network::V6;
                layers.protocol = ip.protocol();
                layers.fragment = ip.fragment();
                let header_len = Ipv6Header::LEN.saturating_add(ip.extensions().len());
                layers.l4 = l3.saturating_add(header_len);
                (ip.payload(), ip.payload_len())
            }
            _ => return Ok(layers),
        };
        layers.payload = layers.l4;
        layers.end = layers.l4.saturating_add(body_len);
        if layers.fragment.has_transport() {
            layers.walk_transport(body, body_len)?;
        }
        Ok(layers)
    }

    fn walk_transport(&mut self, body: &[u8], body_len: usize) -> Result<(), LayersError> {
        match self.protocol {
            IpProtocol::TCP => {
                let tcp = Tcp::parse_head(body, body_len)?;
                self.transport = Transport::Tcp;
                self.payload = self.l4.saturating_add(tcp.header().header_len());
            }
            IpProtocol::UDP => {
                // The length of the first fragment's datagram is that of all fragments together.
                let wire_len = match self.fragment {
                    Fragment::First => usize::from(u16::MAX),
                    _ => body_len,
                };
                Udp::parse_head(body, wire_len)?;
                self.transport = Transport::Udp;
                self.payload = self.l4.saturating_add(UdpHeader::LEN);
            }
            _ => {}
        }
        Ok(())
    }

    /// The Ethernet header and the tags.
    #[inline]
    #[must_use]
    pub const fn tags(&self) -> &TagStack {
        &self.tags
    }

    /// What there is at layer 3.
    #[inline]
    #[must_use]
    pub const fn network(&self) -> Network {
        self.network
    }

    /// What there is at layer 4.
    #[inline]
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// The layer-4 protocol's number; [`IpProtocol::NO_NEXT_HEADER`] if the frame is not IP.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> IpProtocol {
        self.protocol
    }

    /// Which part of its packet this is.
    #[inline]
    #[must_use]
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Where layer 3 begins.
    #[inline]
    #[must_use]
    pub fn l3(&self) -> usize {
        self.tags.l3_offset()
    }

    /// Where layer 3 ends (options and extensions included) and layer 4 begins. Where there is no
    /// IP, the same as [`l3`](Self::l3).
    #[inline]
    #[must_use]
    pub const fn l4(&self) -> usize {
        self.l4
    }

    /// Where the payload begins: behind the TCP or UDP header, else at [`l4`](Self::l4).
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> usize {
        self.payload
    }

    /// Where the packet ends; anything after it is padding. May lie beyond the head.
    #[inline]
    #[must_use]
    pub const fn end(&self) -> usize {
        self.end
    }

    /// Source and destination address, read from the head this was made from.
    #[must_use]
    pub fn addresses(&self, head: &[u8]) -> Option<(IpAddr, IpAddr)> {
        match self.network {
            Network::V4 => {
                let ip = Ipv4Header::at(head, self.l3()).ok()?;
                Some((ip.src().into(), ip.dst().into()))
            }
            Network::V6 => {
                let ip = Ipv6Header::at(head, self.l3()).ok()?;
                Some((ip.src().into(), ip.dst().into()))
            }
            Network::Other => None,
        }
    }

    /// Source and destination port, read from the head this was made from.
    #[must_use]
    pub fn ports(&self, head: &[u8]) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp => TcpHeader::at(head, self.l4).ok().map(|tcp| (tcp.src(), tcp.dst())),
            Transport::Udp => UdpHeader::at(head, self.l4).ok().map(|udp| (udp.src(), udp.dst())),
            Transport::Other => None,
        }
    }

    /// The ICMP header, of either version, read from the head this was made from.
    #[must_use]
    pub fn icmp<'a>(&self, head: &'a [u8]) -> Option<&'a IcmpHeader> {
        let announced = match self.network {
            Network::V4 => self.protocol == IpProtocol::ICMP,
            Network::V6 => self.protocol == IpProtocol::ICMPV6,
            Network::Other => false,
        };
        let packet = head.get(..self.end).unwrap_or(head);
        (announced && self.fragment.has_transport())
            .then(|| IcmpHeader::at(packet, self.l4).ok())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    #[test]
    fn padding_changes_nothing() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, 53)
            .write(&mut frame, b"x")
            .unwrap();
        let bare = Layers::parse(&frame, frame.len()).unwrap();
        for padding in 0..=255 {
            let mut padded = frame.clone();
            padded.resize(frame.len() + padding, 0);
            let layers = Layers::parse(&padded, padded.len()).unwrap();
            assert_eq!((layers.end(), layers.payload()), (bare.end(), bare.payload()));
            assert_eq!(layers.ports(&padded), Some((1000, 53)));
        }
    }

    #[test]
    fn padding_does_not_help_a_short_transport_header() {
        // IPv4 with 7 bytes of UDP, and padding that would complete the header.
        let ip = Ipv4Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), IpProtocol::UDP, 7);
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[0x08, 0x00]);
        frame.extend_from_slice(zerocopy::IntoBytes::as_bytes(&ip));
        frame.extend_from_slice(&[0, 1, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0]);
        let error = Layers::parse(&frame, frame.len()).unwrap_err();
        assert!(matches!(error, LayersError::Udp(UdpError::TooShort(_))), "{error}");
    }

    #[test]
    fn what_is_not_ip_is_no_error() {
        for ethertype in [0x0026, 0x0806, 0x88cc, 0x9100, 0x8847] {
            let mut frame = vec![0; 60];
            frame[12..14].copy_from_slice(&u16::to_be_bytes(ethertype));
            let layers = Layers::parse(&frame, 60).unwrap();
            assert_eq!((layers.network(), layers.l4(), layers.end()), (Network::Other, 14, 60));
            assert!(layers.addresses(&frame).is_none() && layers.ports(&frame).is_none());
        }
    }

    fn tagged(frame: &[u8], tags: &[(bool, u16)]) -> Vec<u8> {
        let mut out = frame[..12].to_vec();
        for (service, tci) in tags {
            out.extend_from_slice(if *service { &[0x88, 0xa8] } else { &[0x81, 0x00] });
            out.extend_from_slice(&tci.to_be_bytes());
        }
        out.extend_from_slice(&frame[12..]);
        out
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(
            v6: bool, tcp: bool, ports: (u16, u16), addresses: ([u8; 16], [u8; 16]),
            payload in prop::collection::vec(any::<u8>(), 0..400),
            tags in prop::collection::vec(any::<(bool, u16)>(), 0..=3),
        ) {
            let (src, dst) = addresses;
            let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let ip = if v6 {
                ethernet.ipv6(src, dst, 64)
            } else {
                let v4 = |a: [u8; 16]| [a[0], a[1], a[2], a[3]];
                ethernet.ipv4(v4(src), v4(dst), 64)
            };
            let mut frame = Vec::new();
            if tcp {
                ip.tcp(ports.0, ports.1, 1, 1000).write(&mut frame, &payload).unwrap();
            } else {
                ip.udp(ports.0, ports.1).write(&mut frame, &payload).unwrap();
            }
            let frame = tagged(&frame, &tags);

            // Only the head is shown; the lengths are those of the whole frame.
            let head = &frame[..frame.len().min(128)];
            let layers = Layers::parse(head, frame.len()).unwrap();
            prop_assert_eq!(layers.l3(), 14 + 4 * tags.len());
            prop_assert_eq!(&frame[layers.payload()..layers.end()], &payload[..]);
            prop_assert_eq!(layers.transport(), if tcp { Transport::Tcp } else { Transport::Udp });
            prop_assert_eq!(layers.ports(head), Some(ports));
            let (ours_src, ours_dst) = layers.addresses(head).unwrap();
            if v6 {
                prop_assert_eq!(ours_src, IpAddr::from(src));
                prop_assert_eq!(ours_dst, IpAddr::from(dst));
            } else {
                prop_assert_eq!(layers.network(), Network::V4);
            }
        }

        #[test]
        fn noise_stays_inside(
            bytes in prop::collection::vec(any::<u8>(), 0..300), more in 0usize..70_000,
            kind in 0usize..5,
        ) {
            let mut bytes = bytes;
            let starts: [&[u8]; 5] = [
                &[], &[8, 0, 0x45], &[0x86, 0xdd, 0x60], &[0x81, 0, 0, 1, 8, 0, 0x46],
                &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1, 0x86, 0xdd, 0x60],
            ];
            for (to, from) in bytes.iter_mut().skip(12).zip(starts[kind]) {
                *to = *from;
            }
            let len = bytes.len() + more;
            if let Ok(layers) = Layers::parse(&bytes, len) {
                prop_assert!(layers.l3() <= layers.l4() && layers.l4() <= layers.payload());
                prop_assert!(layers.payload() <= layers.end() && layers.end() <= len);
                prop_assert!(layers.payload() <= bytes.len());
                let _ = (layers.addresses(&bytes), layers.ports(&bytes), layers.icmp(&bytes));
            }
        }
    }
}
