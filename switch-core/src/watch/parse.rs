//! From the text of a filter to what it means.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::filter::{Ends, Expr};
use crate::wire::{EtherType, IpProtocol, MacAddr, Vni};

/// Longest text of a filter, in bytes.
const TEXT_MAX: usize = 4096;
/// How deep parentheses and `not` may nest.
const DEPTH_MAX: usize = 32;

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {at} of the filter {text:?}")]
pub struct FilterError {
    /// What was found, and what was expected.
    pub message: String,
    /// Where, in bytes from the start.
    pub at: usize,
    /// The filter.
    pub text: String,
}

impl FilterError {
    /// What to do about it.
    pub const HINT: &str = "as in tcpdump: [ether] [src|dst] host ADDRESS, net CIDR, [tcp|udp] [src|dst] port N, \
        portrange A-B, vlan [N], vni N, ether proto N, ip, ip6, arp, tcp, udp, icmp, icmp6, broadcast, multicast, \
        less N, greater N; joined by and, or, not and parentheses";
}

/// Reads a filter; no text at all is `None`.
pub(super) fn parse(text: &str) -> Result<Option<Expr>, FilterError> {
    let mut parser = Parser { text, words: words(text), next: 0, depth: 0 };
    if text.len() > TEXT_MAX {
        return Err(parser.error(&format!("more than {TEXT_MAX} bytes")));
    }
    if parser.words.is_empty() {
        return Ok(None);
    }
    let expr = parser.either()?;
    match parser.peek() {
        None => Ok(Some(expr)),
        Some(")") => Err(parser.error("a `)` without its `(`")),
        Some(word) => {
            Err(parser.error(&format!("{word:?} where `and`, `or` or the end was expected")))
        }
    }
}

/// Words, parentheses and `!`, each with the place where it begins.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        let alone = matches!(c, '(' | ')' | '!');
        if alone || c.is_whitespace() {
            out.extend(start.take().map(|from| (from, &text[from..at])));
        } else {
            start.get_or_insert(at);
        }
        if alone {
            out.push((at, &text[at..at + 1]));
        }
    }
    out.extend(start.map(|from| (from, &text[from..])));
    out
}

struct Parser<'a> {
    text: &'a str,
    words: Vec<(usize, &'a str)>,
    next: usize,
    depth: usize,
}

type Parsed = Result<Expr, FilterError>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|(_, word)| *word)
    }

    /// Takes the next word if it is one of these.
    fn take(&mut self, wanted: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| wanted.contains(&word));
        self.next += usize::from(found);
        found
    }

    /// Something is wrong with the next word, or with the end.
    fn error(&self, message: &str) -> FilterError {
        let at = self.words.get(self.next).map_or(self.text.len(), |(at, _)| *at);
        let text = self.text.chars().take(200).collect();
        FilterError { message: message.to_owned(), at, text }
    }

    /// Takes a value; `what` says what it should be.
    fn value<T>(&mut self, what: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, FilterError> {
        let Some(word) = self.peek() else {
            return Err(self.error(&format!("{what} is missing")));
        };
        let Some(value) = read(word) else {
            return Err(self.error(&format!("{word:?} is not {what}")));
        };
        self.next += 1;
        Ok(value)
    }

    fn either(&mut self) -> Parsed {
        let mut left = self.both()?;
        while self.take(&["or", "||"]) {
            left = Expr::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Parsed {
        let mut left = self.not()?;
        while self.take(&["and", "&&"]) {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(&format!("more than {DEPTH_MAX} levels of `(` and `not`")));
        }
        let expr = if self.take(&["not", "!"]) {
            Expr::Not(Box::new(self.not()?))
        } else if self.take(&["("]) {
            let inner = self.either()?;
            if !self.take(&[")"]) {
                return Err(self.error("a `)` is missing"));
            }
            inner
        } else {
            self.primitive()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn ends(&mut self) -> Ends {
        if self.take(&["src"]) {
            Ends::Src
        } else if self.take(&["dst"]) {
            Ends::Dst
        } else {
            Ends::Either
        }
    }

    fn primitive(&mut self) -> Parsed {
        let Some(word) = self.peek() else {
            return Err(self.error("a condition is missing"));
        };
        self.next += 1;
        Ok(match word {
            "ether" => return self.ether(),
            "ip" => Expr::EtherType(EtherType::IPV4),
            "ip6" => Expr::EtherType(EtherType::IPV6),
            "arp" => Expr::EtherType(EtherType::ARP),
            "icmp" => Expr::Protocol(IpProtocol::ICMP),
            "icmp6" => Expr::Protocol(IpProtocol::ICMPV6),
            "tcp" => return self.transport(IpProtocol::TCP),
            "udp" => return self.transport(IpProtocol::UDP),
            "proto" => {
                Expr::Protocol(IpProtocol(self.value("a protocol number", |w| w.parse().ok())?))
            }
            "broadcast" => Expr::Broadcast,
            "multicast" => Expr::Multicast,
            "vlan" => {
                let vid = self.peek().and_then(|word| word.parse().ok());
                match vid {
                    Some(vid @ 1..=4094) => {
                        self.next += 1;
                        Expr::Vlan(Some(vid))
                    }
                    Some(_) => return Err(self.error("a VLAN is 1 to 4094")),
                    None => Expr::Vlan(None),
                }
            }
            "vni" => {
                let vni = |word: &str| word.parse().ok().and_then(Vni::new);
                Expr::Vni(self.value("a VNI, 0 to 16777215", vni)?.get())
            }
            "less" => Expr::Less(self.value("a length in bytes", |word| word.parse().ok())?),
            "greater" => Expr::Greater(self.value("a length in bytes", |word| word.parse().ok())?),
            "src" | "dst" | "host" | "net" | "port" | "portrange" => {
                self.next -= 1;
                let ends = self.ends();
                return self.addressed(ends, None);
            }
            _ => {
                self.next -= 1;
                return Err(self.error(&format!("{word:?} is not a condition")));
            }
        })
    }

    /// What comes behind `ether`.
    fn ether(&mut self) -> Parsed {
        if self.take(&["proto"]) {
            let number = |word: &str| match word.strip_prefix("0x") {
                Some(hex) => u16::from_str_radix(hex, 16).ok(),
                None => word.parse().ok(),
            };
            let number = self.value("an EtherType", number)?;
            return Ok(Expr::EtherType(EtherType(number)));
        }
        if self.take(&["broadcast"]) {
            return Ok(Expr::Broadcast);
        }
        if self.take(&["multicast"]) {
            return Ok(Expr::Multicast);
        }
        let ends = self.ends();
        if ends == Ends::Either && self.peek() != Some("host") {
            return Err(
                self.error("`src`, `dst`, `host`, `proto`, `broadcast` or `multicast` is missing")
            );
        }
        self.take(&["host"]);
        Ok(Expr::Mac(ends, self.value("a MAC address", |word| word.parse::<MacAddr>().ok())?))
    }

    /// What comes behind `tcp` or `udp`.
    fn transport(&mut self, protocol: IpProtocol) -> Parsed {
        if matches!(self.peek(), Some("src" | "dst" | "port" | "portrange")) {
            let ends = self.ends();
            if !matches!(self.peek(), Some("port" | "portrange")) {
                return Err(self.error("`port` or `portrange` is missing"));
            }
            return self.addressed(ends, Some(protocol));
        }
        Ok(Expr::Protocol(protocol))
    }

    fn addressed(&mut self, ends: Ends, protocol: Option<IpProtocol>) -> Parsed {
        if self.take(&["port"]) {
            let port = self.value("a port, 0 to 65535", |word| word.parse().ok())?;
            return Ok(Expr::Port(ends, protocol, port..=port));
        }
        if self.take(&["portrange"]) {
            let range = self.value("a range of ports as 80-90", range)?;
            return Ok(Expr::Port(ends, protocol, range));
        }
        if self.take(&["net"]) {
            let (net, bits) = self.value("a network as 10.0.0.0/8", net)?;
            return Ok(Expr::Net(ends, net, bits));
        }
        self.take(&["host"]);
        let host = self.value("an IP address", |word| word.parse::<IpAddr>().ok())?;
        Ok(Expr::Net(ends, host, if host.is_ipv4() { 32 } else { 128 }))
    }
}

fn range(word: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = word.split_once('-')?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to).then_some(from..=to)
}

fn net(word: &str) -> Option<(IpAddr, u8)> {
    let (net, bits) = word.split_once('/')?;
    let (net, bits) = (net.parse::<IpAddr>().ok()?, bits.parse().ok()?);
    let most = if net.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some((net, bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Filter;

    fn filter(text: &str) -> Filter {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_is_printed_means_the_same() {
        for text in [
            "ether src 02:00:00:00:00:01 and not arp",
            "tcp dst port 80 or (udp portrange 4000-5000 and src net 10.0.0.0/8)",
            "vlan 10 && host fe80::1 || vni 10010",
            "!ether proto 0x88a8 and vlan and less 100 and greater 60",
            "icmp or icmp6 or ip or ip6 or tcp or udp or broadcast or ether multicast",
            "src 10.0.0.1 and dst host 10.0.0.2 and port 53",
        ] {
            let parsed = filter(text);
            assert_eq!(filter(&parsed.to_string()), parsed, "{text}: {parsed}");
        }
        assert!(filter("  ").is_all());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, message, at) in [
            ("tcp prot 80", "\"prot\" where `and`, `or` or the end was expected", 4),
            ("tcp port", "a port, 0 to 65535 is missing", 8),
            ("port 65536", "\"65536\" is not a port, 0 to 65535", 5),
            (
                "ether 02:00:00:00:00:01",
                "`src`, `dst`, `host`, `proto`, `broadcast` or `multicast` is missing",
                6,
            ),
            ("(arp", "a `)` is missing", 4),
            ("arp)", "a `)` without its `(`", 3),
            ("vlan 4095", "a VLAN is 1 to 4094", 5),
            ("and", "\"and\" is not a condition", 0),
            ("not", "a condition is missing", 3),
            ("net 10.0.0.0/33", "\"10.0.0.0/33\" is not a network as 10.0.0.0/8", 4),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert_eq!((error.message.as_str(), error.at), (message, at), "{text}");
        }
        let deep = "not ".repeat(100) + "arp";
        assert!(deep.parse::<Filter>().unwrap_err().message.contains("levels"));
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "[a-z0-9 ():./!-]{0,60}|\\PC{0,40}") {
            if let Ok(filter) = text.parse::<Filter>() {
                prop_assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter));
            }
        }
    }
}
