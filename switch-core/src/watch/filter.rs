//! Filters: which frames are meant, in the words of tcpdump (pcap-filter(7)) where it has them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::facts::{Facts, Level};
use super::parse::{self, FilterError};
use crate::wire::{EtherType, IpProtocol, MacAddr};

/// Which frames are meant. The default is all.
///
/// It holds for a frame if it does for its own headers or for those that a tunnel carries in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Option<Expr>);

/// One of two ends of a frame's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Src,
    Dst,
    Either,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Mac(Ends, MacAddr),
    Broadcast,
    Multicast,
    EtherType(EtherType),
    /// An address, and how many of its first bits count.
    Net(Ends, IpAddr, u8),
    Protocol(IpProtocol),
    /// Of TCP, UDP or either.
    Port(Ends, Option<IpProtocol>, std::ops::RangeInclusive<u16>),
    Vlan(Option<u16>),
    Vni(u32),
    /// At most so many bytes.
    Less(usize),
    /// At least so many bytes.
    Greater(usize),
}

impl Ends {
    fn any<T>(self, (src, dst): &(T, T), is: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Src => is(src),
            Self::Dst => is(dst),
            Self::Either => is(src) || is(dst),
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::parse(text).map(Self)
    }
}

impl Filter {
    /// Whether it is all frames.
    #[inline]
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a frame of which that is known is meant.
    pub fn meets(&self, facts: &Facts) -> bool {
        let Some(expr) = &self.0 else { return true };
        facts.levels.iter().any(|level| expr.holds(level, facts.vni))
    }
}

impl Expr {
    fn holds(&self, level: &Level, vni: Option<u32>) -> bool {
        match self {
            Self::Not(inner) => !inner.holds(level, vni),
            Self::And(a, b) => a.holds(level, vni) && b.holds(level, vni),
            Self::Or(a, b) => a.holds(level, vni) || b.holds(level, vni),
            Self::Mac(ends, mac) => {
                level.macs.is_some_and(|macs| ends.any(&macs, |known| known == mac))
            }
            Self::Broadcast => level.macs.is_some_and(|(_, dst)| dst.is_broadcast()),
            Self::Multicast => level.macs.is_some_and(|(_, dst)| dst.is_multicast()),
            Self::EtherType(ethertype) => level.ethertype == Some(*ethertype),
            Self::Net(ends, net, bits) => {
                let within = |host: &IpAddr| is_in(*host, *net, *bits);
                level.hosts.is_some_and(|hosts| ends.any(&hosts, within))
            }
            Self::Protocol(protocol) => level.protocol == Some(*protocol),
            Self::Port(ends, protocol, range) => {
                (protocol.is_none() || level.protocol == *protocol)
                    && level.ports.is_some_and(|ports| ends.any(&ports, |p| range.contains(p)))
            }
            Self::Vlan(None) => level.vlan.is_some(),
            Self::Vlan(vid) => level.vlan == *vid,
            Self::Vni(wanted) => vni == Some(*wanted),
            Self::Less(most) => level.len <= *most,
            Self::Greater(least) => level.len >= *least,
        }
    }
}

/// Whether the first `bits` bits are those of `net`.
fn is_in(host: IpAddr, net: IpAddr, bits: u8) -> bool {
    let differs = match (host, net) {
        (IpAddr::V4(host), IpAddr::V4(net)) => u128::from(host.to_bits() ^ net.to_bits()) << 96,
        (IpAddr::V6(host), IpAddr::V6(net)) => host.to_bits() ^ net.to_bits(),
        _ => return false,
    };
    bits == 0 || differs >> 128u32.saturating_sub(bits.into()) == 0
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => Ok(()),
            Some(expr) => expr.fmt(f),
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Src => "src ",
            Self::Dst => "dst ",
            Self::Either => "",
        })
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Not(inner) => write!(f, "not ({inner})"),
            Self::And(a, b) => write!(f, "({a} and {b})"),
            Self::Or(a, b) => write!(f, "({a} or {b})"),
            Self::Mac(Ends::Either, mac) => write!(f, "ether host {mac}"),
            Self::Mac(ends, mac) => write!(f, "ether {ends}{mac}"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Multicast => f.write_str("multicast"),
            Self::EtherType(ethertype) => write!(f, "ether proto {:#06x}", ethertype.0),
            Self::Net(ends, net, bits) => write!(f, "{ends}net {net}/{bits}"),
            Self::Protocol(protocol) => write!(f, "proto {}", protocol.0),
            Self::Port(ends, protocol, range) => {
                let protocol = match protocol {
                    Some(IpProtocol::TCP) => "tcp ",
                    Some(_) => "udp ",
                    None => "",
                };
                write!(f, "{protocol}{ends}portrange {}-{}", range.start(), range.end())
            }
            Self::Vlan(None) => f.write_str("vlan"),
            Self::Vlan(Some(vid)) => write!(f, "vlan {vid}"),
            Self::Vni(vni) => write!(f, "vni {vni}"),
            Self::Less(len) => write!(f, "less {len}"),
            Self::Greater(len) => write!(f, "greater {len}"),
        }
    }
}
