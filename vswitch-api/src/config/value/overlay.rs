//! Addresses and GENEVE options.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use switch_core::wire::geneve::{MAX_OPTION_DATA, OwnedOption, encode_options};

use super::{BadValue, KeyType};
use crate::config::tree::{Node, Tree, shorten};
use crate::hex;

/// An address that a VTEP, a remote or a group can have, as far as it alone shows.
pub(super) fn ip(node: &Node) -> Result<IpAddr, BadValue> {
    let expected = || {
        let expected = BadValue::new(format!("expected {}, found {}", KeyType::Ip, node.found()));
        expected.hint("as in \"192.0.2.1\" or \"2001:db8::1\"")
    };
    let Tree::Text(text) = &node.tree else { return Err(expected()) };
    let address: IpAddr = text.parse().map_err(|_| expected())?;
    let refused = |why: &str| BadValue::new(format!("{address} is {why}"));
    match address {
        _ if address.is_unspecified() => Err(refused("no address of a host or group")),
        IpAddr::V4(v4) if v4.is_broadcast() => Err(refused("the broadcast address")),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(refused("an IPv4 address in disguise").hint(format!("write \"{v4}\""))),
            None => Ok(address),
        },
        IpAddr::V4(_) => Ok(address),
    }
}

pub(super) fn ips(node: &Node) -> Result<Vec<IpAddr>, BadValue> {
    let Tree::List(items) = &node.tree else {
        return Err(BadValue::new(format!("expected {}, found {}", KeyType::Ips, node.found())));
    };
    let mut seen = HashSet::with_capacity(items.len());
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        let address = ip(item)?;
        if !seen.insert(address) {
            return Err(BadValue::new(format!("{address} is in the list twice")));
        }
        out.push(address);
    }
    Ok(out)
}

pub(super) fn options(node: &Node) -> Result<Vec<OwnedOption>, BadValue> {
    let expected = |found: String| {
        BadValue::new(format!("expected {}, found {found}", KeyType::GeneveOptions))
    };
    let Tree::List(items) = &node.tree else { return Err(expected(node.found())) };
    let mut out = Vec::new();
    for item in items {
        match &item.tree {
            Tree::Text(text) => out.push(option(text)?),
            _ => return Err(expected(format!("{} in it", item.found()))),
        }
    }
    encode_options(&out).map_err(|bad| BadValue::new(bad.to_string()))?;
    Ok(out)
}

/// One option from "CLASS:TYPE:DATA", all hexadecimal; the data may be empty.
fn option(text: &str) -> Result<OwnedOption, BadValue> {
    let wrong = |why: &str| {
        BadValue::new(format!("{:?} is no GENEVE option: {why}", shorten(text)))
            .hint("write \"CLASS:TYPE:DATA\" as in \"0x0102:0x80:00000001\"")
    };
    let parts: Vec<_> = text.split(':').collect();
    let [class, typ, data] = parts.as_slice() else {
        return Err(wrong("it does not have three parts"));
    };
    let class = number(class).ok_or_else(|| wrong("the class is not 0x0000 to 0xffff"))?;
    let typ = number(typ).and_then(|typ| u8::try_from(typ).ok());
    let typ = typ.ok_or_else(|| wrong("the type is not 0x00 to 0xff"))?;
    let data = hex::bytes(hexadecimal(data))
        .ok_or_else(|| wrong("the data is not bytes of two hexadecimal digits"))?;
    if data.len() > MAX_OPTION_DATA {
        let message = format!("{} bytes of data do not fit, {MAX_OPTION_DATA} do", data.len());
        return Err(wrong(&message));
    }
    if !data.len().is_multiple_of(4) {
        return Err(wrong(&format!("{} bytes of data are no multiple of 4", data.len())));
    }
    Ok(OwnedOption { class, typ, data })
}

fn hexadecimal(text: &str) -> &str {
    text.strip_prefix("0x").unwrap_or(text)
}

fn number(text: &str) -> Option<u16> {
    let digits = hexadecimal(text);
    // from_str_radix would take a sign.
    let fine = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fine { u16::from_str_radix(digits, 16).ok() } else { None }
}

/// An option as it is written.
pub(crate) fn option_text(option: &OwnedOption) -> String {
    let mut out = format!("{:#06x}:{:#04x}:", option.class, option.typ);
    for byte in &option.data {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}
