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
            UDP => !later && self.udp.contains(&port),
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
