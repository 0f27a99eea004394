//! Which frames of an uplink are a VTEP's: all that are for its address and its UDP ports or GRE.

use std::net::IpAddr;

use switch_core::datapath::UnderlaySpec;

/// Length of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;
/// Where the protocol's header begins behind Ethernet and an IPv4 header without options.
const V4_PAYLOAD: usize = ETHERNET + 20;
const V6_PAYLOAD: usize = ETHERNET + 40;
const UDP: u8 = 17;
const GRE: u8 = 47;
/// The fragment header of IPv6 (RFC 8200 4.5).
const FRAGMENT: u8 = 44;

/// What a VTEP takes, in the words of a frame's bytes.
///
/// Frames with a VLAN tag are the host's, as is what has IPv6 extension headers other than a
/// fragment's: no tunnel endpoint sends them.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// The uplink's address.
    mac: [u8; 6],
    local: IpAddr,
    groups: Vec<IpAddr>,
    udp: Vec<u16>,
    gre: bool,
}

impl Filter {
    /// What the VTEP `spec` takes on an uplink with this address.
    pub(crate) fn new(mac: [u8; 6], spec: &UnderlaySpec) -> Self {
        let mut groups: Vec<IpAddr> =
            spec.udp.iter().flat_map(|listen| listen.groups.iter().copied()).collect();
        groups.sort_unstable();
        groups.dedup();
        Self {
            mac,
            local: spec.local,
            groups,
            udp: spec.udp.iter().map(|listen| listen.port).collect(),
            gre: spec.gre,
        }
    }

    /// Whether the VTEP takes a frame that begins with `head`. Of a fragmented UDP datagram only the
    /// first part says whose it is: the others are the host's.
    #[inline]
    pub(crate) fn takes(&self, head: &[u8]) -> bool {
        let Some(first) = head.first_chunk::<{ V4_PAYLOAD + 4 }>() else { return false };
        match self.local {
            IpAddr::V4(local) => {
                if first[12..15] != [8, 0, 0x45] {
                    return first[12..14] == [8, 0] && self.takes_with_options(head);
                }
                let port = [first[V4_PAYLOAD + 2], first[V4_PAYLOAD + 3]];
                let to_us = first[30..34] == local.octets() && first[..6] == self.mac;
                (to_us || self.is_group_v4(first))
                    && self.takes_protocol(first[23], u16::from_be_bytes(port), is_later(first))
            }
            IpAddr::V6(local) => {
                if first[12..14] != [0x86, 0xdd] {
                    return false;
                }
                let Some(first) = head.first_chunk::<{ V6_PAYLOAD + 4 }>() else { return false };
                let to_us = first[38..54] == local.octets() && first[..6] == self.mac;
                if !to_us && !self.is_group_v6(first) {
                    return false;
                }
                let port = u16::from_be_bytes([first[V6_PAYLOAD + 2], first[V6_PAYLOAD + 3]]);
                match first[20] {
                    FRAGMENT => self.takes_fragment(head),
                    protocol => self.takes_protocol(protocol, port, false),
                }
            }
        }
    }

    #[inline]
    fn takes_protocol(&self, protocol: u8, port: u16, later: bool) -> bool {
        match protocol {
            // Nearly always there is one.
            UDP => !later && (self.udp.first() == Some(&port) || self.udp.contains(&port)),
            GRE => self.gre,
            _ => false,
        }
    }

    #[inline]
    fn is_group_v4<const N: usize>(&self, first: &[u8; N]) -> bool {
        // The bit that says "group" in the address of Ethernet (IEEE 802.3 3.2.3).
        if first[0] & 1 == 0 || self.groups.is_empty() {
            return false;
        }
        let dst: [u8; 4] = [first[30], first[31], first[32], first[33]];
        self.groups.contains(&IpAddr::from(dst))
    }

    #[inline]
    fn is_group_v6(&self, first: &[u8; V6_PAYLOAD + 4]) -> bool {
        if first[0] & 1 == 0 || self.groups.is_empty() {
            return false;
        }
        let mut dst = [0; 16];
        dst.copy_from_slice(&first[38..54]);
        self.groups.contains(&IpAddr::from(dst))
    }

    /// IPv4 with options, which nobody sends.
    #[cold]
    fn takes_with_options(&self, head: &[u8]) -> bool {
        let (Some(first), IpAddr::V4(local)) = (head.first_chunk::<V4_PAYLOAD>(), self.local)
        else {
            return false;
        };
        let words = usize::from(first[14] & 0x0f);
        if first[14] >> 4 != 4 || words < 5 {
            return false;
        }
        let to_us = first[30..34] == local.octets() && first[..6] == self.mac;
        let port = head.get(ETHERNET + 4 * words + 2..).and_then(|at| at.first_chunk());
        (to_us || self.is_group_v4(first))
            && port.is_some_and(|port| {
                self.takes_protocol(first[23], u16::from_be_bytes(*port), is_later(first))
            })
    }

    #[cold]
    fn takes_fragment(&self, head: &[u8]) -> bool {
        let Some(&[next, _, o0, o1, _, _, _, _, _, _, p0, p1]) =
            head.get(V6_PAYLOAD..).and_then(|at| at.first_chunk())
        else {
            return false;
        };
        let later = u16::from_be_bytes([o0, o1]) >> 3 != 0;
        self.takes_protocol(next, u16::from_be_bytes([p0, p1]), later)
    }
}

/// Whether an IPv4 packet is a fragment that is not the first.
#[inline]
fn is_later<const N: usize>(first: &[u8; N]) -> bool {
    u16::from_be_bytes([first[20], first[21]]) & 0x1fff != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use switch_core::datapath::UdpListen;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const GROUP_MAC: [u8; 6] = [1, 0, 0x5e, 1, 1, 1];

    fn filter(local: &str, group: &str) -> Filter {
        let listen = |port| UdpListen {
            port,
            groups: vec![group.parse().unwrap()],
            accept_no_checksum: false,
        };
        let spec = UnderlaySpec {
            name: "v".into(),
            local: local.parse().unwrap(),
            uplink: None,
            entropy_ports: 1,
            udp: vec![listen(4789), listen(6081)],
            gre: true,
            send: Vec::new(),
        };
        Filter::new(MAC, &spec)
    }

    /// Ethernet and IP with `words` of options; UDP ports follow.
    fn v4(mac: [u8; 6], dst: [u8; 4], protocol: u8, fragment: u16, words: usize) -> Vec<u8> {
        let mut head = mac.to_vec();
        head.extend([2, 0, 0, 0, 0, 9, 8, 0, 0x45 + words as u8, 0, 0, 64, 0, 0]);
        head.extend(fragment.to_be_bytes());
        head.extend([64, protocol, 0, 0, 192, 0, 2, 9]);
        head.extend(dst);
        head.resize(head.len() + 4 * words, 1);
        head
    }

    fn v6(mac: [u8; 6], dst: &str, next: &[u8]) -> Vec<u8> {
        let mut head = mac.to_vec();
        head.extend([2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 64, next[0], 64]);
        head.extend([0x20; 16]);
        head.extend(dst.parse::<std::net::Ipv6Addr>().unwrap().octets());
        head.extend(&next[1..]);
        head
    }

    const PORTS: [u8; 8] = [0xc0, 0, 0x12, 0xb5, 0, 8, 0, 0];
    const GENEVE: [u8; 8] = [0xc0, 0, 0x17, 0xc1, 0, 8, 0, 0];
    const OTHER: [u8; 8] = [0x12, 0xb5, 0x12, 0xb6, 0, 8, 0, 0];

    #[test]
    fn what_is_for_the_vteps_address_and_ports() {
        let filter = filter("192.0.2.1", "239.1.1.1");
        let us = [192, 0, 2, 1];
        let with = |head: Vec<u8>, payload: &[u8]| [&head, payload].concat();
        let yes = [
            with(v4(MAC, us, UDP, 0, 0), &PORTS),
            with(v4(MAC, us, UDP, 0x4000, 0), &GENEVE),
            // The first fragment names its port; of GRE all parts are known.
            with(v4(MAC, us, UDP, 0x2000, 0), &PORTS),
            with(v4(MAC, us, GRE, 0, 0), &OTHER),
            with(v4(MAC, us, GRE, 0x0005, 0), &OTHER),
            with(v4(MAC, us, UDP, 0, 2), &PORTS),
            with(v4(GROUP_MAC, [239, 1, 1, 1], UDP, 0, 0), &PORTS),
            with(v4(GROUP_MAC, [239, 1, 1, 1], UDP, 0, 1), &PORTS),
        ];
        for frame in yes {
            assert!(filter.takes(&frame), "{frame:x?}");
        }
        let no = [
            with(v4(MAC, us, UDP, 0, 0), &OTHER),
            with(v4(MAC, us, UDP, 0x0005, 0), &PORTS),
            with(v4(MAC, us, 6, 0, 0), &PORTS),
            with(v4(MAC, [192, 0, 2, 3], UDP, 0, 0), &PORTS),
            with(v4([2, 0, 0, 0, 0, 2], us, UDP, 0, 0), &PORTS),
            with(v4([0xff; 6], us, UDP, 0, 0), &PORTS),
            with(v4(GROUP_MAC, [239, 1, 1, 2], UDP, 0, 0), &PORTS),
            // A group's address behind a host's.
            with(v4(MAC, [239, 1, 1, 1], UDP, 0, 0), &PORTS),
            with(v4(MAC, us, UDP, 0, 2), &OTHER),
            with(v6(MAC, "2001:db8::1", &[UDP]), &PORTS),
        ];
        for frame in no {
            assert!(!filter.takes(&frame), "{frame:x?}");
        }
    }

    #[test]
    fn the_same_over_ipv6() {
        let filter = filter("2001:db8::1", "ff05::1");
        let (us, group) = ("2001:db8::1", [0x33, 0x33, 0, 0, 0, 1]);
        let first = [&[FRAGMENT, UDP, 0, 0, 1, 0, 0, 0, 9][..], &PORTS].concat();
        let later = [&[FRAGMENT, UDP, 0, 8, 1, 0, 0, 0, 9][..], &PORTS].concat();
        let udp = [&[UDP][..], &PORTS].concat();
        let yes = [
            v6(MAC, us, &udp),
            v6(MAC, us, &[&[GRE][..], &OTHER].concat()),
            v6(MAC, us, &first),
            v6(group, "ff05::1", &udp),
        ];
        for frame in yes {
            assert!(filter.takes(&frame), "{frame:x?}");
        }
        let no = [
            v6(MAC, us, &later),
            v6(MAC, us, &[&[58][..], &PORTS].concat()),
            v6(MAC, us, &[&[UDP][..], &OTHER].concat()),
            v6(MAC, "2001:db8::2", &udp),
            v6(group, "ff05::2", &udp),
            v6(MAC, "ff05::1", &udp),
        ];
        for frame in no {
            assert!(!filter.takes(&frame), "{frame:x?}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_no_panic(mut head in prop::collection::vec(any::<u8>(), 0..80), kind in 0..3) {
            if let (Some(at), 1..) = (head.get_mut(12..15), kind) {
                at.copy_from_slice(if kind == 1 { &[8, 0, 0x46] } else { &[0x86, 0xdd, 0x60] });
            }
            for (local, group) in [("192.0.2.1", "239.1.1.1"), ("2001:db8::1", "ff05::1")] {
                let _ = filter(local, group).takes(&head);
            }
        }
    }
}
