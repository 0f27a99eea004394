//! The values that keys can have: how each type is read, bounded and written.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use switch_core::config::Rate;
use switch_core::wire::MacAddr;
use switch_core::wire::geneve::OwnedOption;
use switch_core::wire::vlan::VlanId;

use super::cpus::CpuList;
use super::tree::{Node, Tree, shorten};

mod overlay;
pub(crate) use overlay::option_text;

/// What a key's value is, with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int {
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// A whole number, or `"off"` for no limit.
    Limit {
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// Frames a second as `"1000 pps"`, or `"off"` for no limit.
    Rate {
        /// Least, in frames a second.
        min: u32,
        /// Most, in frames a second.
        max: u32,
    },
    /// Whole seconds with a unit, as `"300s"` or `"5m"`.
    Duration {
        /// Least, in seconds.
        min: u32,
        /// Most, in seconds.
        max: u32,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of a bridge or port: 1 to 31 of `A-Z a-z 0-9 _ . -`.
    Name,
    /// The name of a kernel device: 1 to 15 bytes.
    Device,
    /// A network namespace by name or by absolute path.
    Netns,
    /// An absolute path.
    Path,
    /// Text on one line that is not empty.
    Text,
    /// A list of such texts.
    Texts,
    /// A list of different names of bridges or ports.
    Names,
    /// A VLAN, 1 to 4094.
    Vlan,
    /// A list of VLANs and ranges, as `[10, "20-29"]`, or `"all"`.
    Vlans,
    /// A list of CPUs, as `"0-1,4"`.
    Cpus,
    /// A MAC address of one station.
    Mac,
    /// IP address, and TCP or UDP port.
    Address,
    /// `"auto"`, `"off"`, or a size as `"512 MiB"`.
    Hugepages,
    /// An IP address.
    Ip,
    /// A list of different IP addresses.
    Ips,
    /// A whole number, or `"copy"` for that of the inner packet.
    OrCopy {
        /// Least.
        min: u8,
        /// Most.
        max: u8,
    },
    /// A list of GENEVE options, as `["0x0102:0x80:00000001"]`.
    GeneveOptions,
}

/// A value that was read by its [`KeyType`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    Int(u32),
    Limit(Option<u32>),
    Rate(Option<Rate>),
    Duration(Duration),
    Text(String),
    Texts(Vec<String>),
    Vlan(VlanId),
    Vlans(Vec<VlanId>),
    Cpus(CpuList),
    Mac(MacAddr),
    Address(SocketAddr),
    Hugepages(Hugepages),
    Ip(IpAddr),
    Ips(Vec<IpAddr>),
    OrCopy(Option<u8>),
    GeneveOptions(Vec<OwnedOption>),
}

/// Memory that DPDK takes as hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// What is there and needed; without any, ordinary memory where the devices can do with it.
    #[default]
    Auto,
    /// None: ordinary memory.
    Off,
    /// Exactly this many MiB.
    MiB(u32),
}

impl fmt::Display for Hugepages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::MiB(size) => write!(f, "{size} MiB"),
        }
    }
}

/// What is wrong with a value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadValue {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl BadValue {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl KeyType {
    /// Reads a value of this type.
    pub(crate) fn read(self, node: &Node) -> Result<Value, BadValue> {
        let expected = || BadValue::new(format!("expected {self}, found {}", node.found()));
        let text = || match &node.tree {
            Tree::Text(text) => Ok(text.as_str()),
            _ => Err(expected()),
        };
        match self {
            Self::Bool => match node.tree {
                Tree::Bool(flag) => Ok(Value::Bool(flag)),
                _ => Err(expected()),
            },
            Self::Int { min, max } => match node.tree {
                Tree::Int(number) => in_range(number, min, max, self).map(Value::Int),
                _ => Err(expected()),
            },
            Self::Limit { min, max } => match &node.tree {
                Tree::Int(number) => {
                    in_range(*number, min, max, self).map(|limit| Value::Limit(Some(limit)))
                }
                Tree::Text(text) if text == "off" => Ok(Value::Limit(None)),
                _ => Err(expected()),
            },
            Self::Rate { min, max } => match &node.tree {
                Tree::Text(text) if text == "off" => Ok(Value::Rate(None)),
                Tree::Text(text) => rate(text, self)
                    .and_then(|pps| in_range(pps, min, max, self))
                    .map(|pps| Value::Rate(Some(Rate { pps }))),
                Tree::Int(number) => Err(BadValue::new(format!("{number} has no unit"))
                    .hint(format!("write \"{number} pps\""))),
                _ => Err(expected()),
            },
            Self::Duration { min, max } => match &node.tree {
                Tree::Text(text) => duration(text, self)
                    .and_then(|seconds| in_range(seconds, min, max, self))
                    .map(|seconds| Value::Duration(Duration::from_secs(seconds.into()))),
                Tree::Int(number) => Err(BadValue::new(format!("{number} has no unit"))
                    .hint(format!("write \"{number}s\" for seconds"))),
                _ => Err(expected()),
            },
            Self::Choice(words) => {
                let word = text()?;
                if words.contains(&word) {
                    Ok(Value::Text(word.to_owned()))
                } else {
                    let near = nearest(word, words.iter().copied());
                    let bad = expected();
                    Err(match near {
                        Some(near) => bad.hint(format!("did you mean \"{near}\"?")),
                        None => bad,
                    })
                }
            }
            Self::Name => name(text()?).map(|()| Value::Text(text().unwrap_or_default().into())),
            Self::Device => {
                device(text()?).map(|()| Value::Text(text().unwrap_or_default().into()))
            }
            Self::Netns => netns(text()?).map(|text| Value::Text(text.to_owned())),
            Self::Path => path(text()?).map(|text| Value::Text(text.to_owned())),
            Self::Text => plain(text()?).map(|text| Value::Text(text.to_owned())),
            Self::Texts => match &node.tree {
                Tree::List(items) => items
                    .iter()
                    .map(|item| match &item.tree {
                        Tree::Text(text) => plain(text).map(str::to_owned),
                        _ => Err(BadValue::new(format!(
                            "expected {self}, found {} in it",
                            item.found()
                        ))),
                    })
                    .collect::<Result<_, _>>()
                    .map(Value::Texts),
                _ => Err(expected()),
            },
            Self::Names => names(node).map(Value::Texts),
            Self::Vlan => vlan(node).map(Value::Vlan),
            Self::Vlans => vlans(node).map(Value::Vlans),
            Self::Cpus => match &node.tree {
                Tree::Text(text) => {
                    text.parse().map(Value::Cpus).map_err(|bad: super::cpus::BadCpuList| {
                        BadValue::new(bad.to_string()).hint("write a list as in \"0-1,4\"")
                    })
                }
                Tree::Int(number) => Err(BadValue::new("a CPU list is written in quotes")
                    .hint(format!("for CPU {number} alone: \"{number}\""))),
                _ => Err(expected()),
            },
            Self::Mac => {
                let mac: MacAddr =
                    text()?.parse().map_err(|bad| BadValue::new(format!("{bad}")))?;
                if mac.is_station() {
                    Ok(Value::Mac(mac))
                } else {
                    Err(BadValue::new(format!(
                        "{mac} is a group address or zero, which no device has"
                    )))
                }
            }
            Self::Address => text()?
                .parse()
                .map(Value::Address)
                .map_err(|_| expected().hint("as in \"127.0.0.1:9470\" or \"[::1]:9470\"")),
            Self::Hugepages => hugepages(text()?).map(Value::Hugepages),
            Self::Ip => overlay::ip(node).map(Value::Ip),
            Self::Ips => overlay::ips(node).map(Value::Ips),
            Self::OrCopy { min, max } => match &node.tree {
                Tree::Int(number) => u8::try_from(*number)
                    .ok()
                    .filter(|number| (min..=max).contains(number))
                    .map(|number| Value::OrCopy(Some(number)))
                    .ok_or_else(|| out_of_range(*number, self)),
                Tree::Text(text) if text == "copy" => Ok(Value::OrCopy(None)),
                _ => Err(expected()),
            },
            Self::GeneveOptions => overlay::options(node).map(Value::GeneveOptions),
        }
    }
}

/// What is expected, as it stands after "expected".
impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Int { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Limit { min, max } => write!(f, "a number from {min} to {max}, or \"off\""),
            Self::Rate { min, max } => {
                write!(f, "a rate from \"{min} pps\" to \"{max} pps\", or \"off\"")
            }
            Self::Duration { min, max } => write!(f, "a duration from \"{min}s\" to \"{max}s\""),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                write!(f, "{}", words.join(" or "))
            }
            Self::Name => f.write_str("a name of 1 to 31 letters, digits, '_', '.' and '-'"),
            Self::Device => f.write_str("a device name of 1 to 15 characters"),
            Self::Netns => f.write_str("a network namespace's name or absolute path"),
            Self::Path => f.write_str("an absolute path"),
            Self::Text => f.write_str("text on one line"),
            Self::Texts => f.write_str("a list of texts"),
            Self::Names => f.write_str("a list of names as in [\"web\", \"db\"]"),
            Self::Vlan => f.write_str("a VLAN from 1 to 4094"),
            Self::Vlans => f.write_str("a list of VLANs as in [10, \"20-29\"], or \"all\""),
            Self::Cpus => f.write_str("a list of CPUs as in \"0-1,4\""),
            Self::Mac => f.write_str("a MAC address as in \"52:54:00:12:34:56\""),
            Self::Address => f.write_str("an IP address and port"),
            Self::Hugepages => f.write_str("\"auto\", \"off\" or a size as in \"512 MiB\""),
            Self::Ip => f.write_str("an IP address"),
            Self::Ips => f.write_str("a list of IP addresses"),
            Self::OrCopy { min, max } => write!(f, "a number from {min} to {max}, or \"copy\""),
            Self::GeneveOptions => {
                f.write_str("a list of GENEVE options as in [\"0x0102:0x80:00000001\"]")
            }
        }
    }
}

fn in_range(number: i128, min: u32, max: u32, expected: KeyType) -> Result<u32, BadValue> {
    match u32::try_from(number) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(out_of_range(number, expected)),
    }
}

fn out_of_range(number: i128, expected: KeyType) -> BadValue {
    BadValue::new(format!("{number} is out of range: expected {expected}"))
}

/// Frames a second from "1000 pps", "20 kpps" or "1 Mpps".
fn rate(text: &str, expected: KeyType) -> Result<i128, BadValue> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || BadValue::new(format!("expected {expected}, found {:?}", shorten(text)));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.trim_start() {
        "pps" => 1,
        "kpps" => 1_000,
        "Mpps" => 1_000_000,
        "" => {
            return Err(BadValue::new(format!("{number} has no unit"))
                .hint(format!("write \"{number} pps\"")));
        }
        _ => return Err(wrong()),
    };
    Ok(i128::from(number) * factor)
}

/// Whole seconds from "300s", "5m", "1h 30m".
fn duration(text: &str, expected: KeyType) -> Result<i128, BadValue> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadValue::new(format!("\"{}\" has no unit", shorten(text)))
            .hint(format!("write \"{}s\" for seconds", shorten(text))));
    }
    let found = || format!("expected {expected}, found {:?}", shorten(text));
    let parsed = humantime::parse_duration(text).map_err(|_| BadValue::new(found()))?;
    if parsed.subsec_nanos() != 0 {
        return Err(BadValue::new(format!("{:?} is not whole seconds", shorten(text))));
    }
    Ok(i128::from(parsed.as_secs()))
}

/// A name for a bridge or port, which also becomes a file name, a metric label and a word in shells.
fn name(text: &str) -> Result<(), BadValue> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let shown = shorten(text);
    if text.is_empty() {
        return Err(BadValue::new("a name cannot be empty"));
    }
    if let Some(bad) = text.chars().find(|c| !fine(*c)) {
        return Err(BadValue::new(format!("the name {shown:?} has {bad:?} in it"))
            .hint("letters, digits, '_', '.' and '-' may be used"));
    }
    if text.len() > 31 {
        return Err(BadValue::new(format!("the name {shown:?} is longer than 31 characters")));
    }
    if text.starts_with(['.', '-']) {
        return Err(BadValue::new(format!("the name {shown:?} starts with '.' or '-'")));
    }
    Ok(())
}

fn names(node: &Node) -> Result<Vec<String>, BadValue> {
    let expected =
        |found: String| BadValue::new(format!("expected {}, found {found}", KeyType::Names));
    let Tree::List(items) = &node.tree else { return Err(expected(node.found())) };
    let mut seen = HashSet::with_capacity(items.len());
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        let Tree::Text(text) = &item.tree else {
            return Err(expected(format!("{} in it", item.found())));
        };
        name(text)?;
        if !seen.insert(text) {
            return Err(BadValue::new(format!("{text:?} is in the list twice")));
        }
        out.push(text.clone());
    }
    Ok(out)
}

/// The kernel's rule for device names (`dev_valid_name` in net/core/dev.c).
pub(crate) fn device(text: &str) -> Result<(), BadValue> {
    let shown = shorten(text);
    if text.is_empty() || text == "." || text == ".." {
        Err(BadValue::new(format!("{shown:?} is no device name")))
    } else if text.len() > 15 {
        Err(BadValue::new(format!("the device name {shown:?} is longer than 15 characters"))
            .hint("the kernel allows no more (IFNAMSIZ)"))
    } else if let Some(bad) =
        text.chars().find(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
    {
        Err(BadValue::new(format!("the device name {shown:?} has {bad:?} in it")))
    } else {
        Ok(())
    }
}

fn netns(text: &str) -> Result<&str, BadValue> {
    if text.starts_with('/') {
        path(text)
    } else if text.is_empty() || text == "." || text == ".." || text.contains('/') {
        Err(BadValue::new(format!("{:?} is no network namespace", shorten(text)))
            .hint("a name that `ip netns list` shows, or the absolute path of its file"))
    } else {
        plain(text)
    }
}

fn path(text: &str) -> Result<&str, BadValue> {
    if !text.starts_with('/') {
        return Err(BadValue::new(format!("{:?} is not an absolute path", shorten(text))));
    }
    plain(text)
}

fn plain(text: &str) -> Result<&str, BadValue> {
    if text.is_empty() {
        Err(BadValue::new("the text is empty"))
    } else if text.len() > 1024 {
        Err(BadValue::new("the text is longer than 1024 bytes"))
    } else if text.chars().any(char::is_control) {
        Err(BadValue::new(format!("{:?} has a control character in it", shorten(text))))
    } else {
        Ok(text)
    }
}

fn vlan(node: &Node) -> Result<VlanId, BadValue> {
    match node.tree {
        Tree::Int(number) => u16::try_from(number)
            .ok()
            .and_then(|vid| VlanId::new(vid).ok())
            .ok_or_else(|| BadValue::new(format!("VLAN {number} does not exist")))
            .map_err(|bad| bad.hint("VLANs are 1 to 4094")),
        _ => Err(BadValue::new(format!("expected {}, found {}", KeyType::Vlan, node.found()))),
    }
}

fn vlans(node: &Node) -> Result<Vec<VlanId>, BadValue> {
    let items = match &node.tree {
        Tree::List(items) => items,
        Tree::Text(text) if text == "all" => {
            return Ok((1..=VlanId::MAX).filter_map(|vid| VlanId::new(vid).ok()).collect());
        }
        _ => {
            let expected = KeyType::Vlans;
            return Err(BadValue::new(format!("expected {expected}, found {}", node.found())));
        }
    };
    // One range an item at most, so that overlapping ranges cannot make work without end.
    if items.is_empty() || items.len() > usize::from(VlanId::MAX) {
        return Err(BadValue::new(format!("expected 1 to 4094 VLANs, found {}", items.len())));
    }
    let mut members = vec![false; usize::from(VlanId::MAX) + 1];
    for item in items {
        let (first, last) = match &item.tree {
            Tree::Text(text) => vlan_range(text)?,
            _ => vlan(item).map(|vid| (vid, vid))?,
        };
        members[usize::from(first.get())..=usize::from(last.get())].fill(true);
    }
    let listed = (1..=VlanId::MAX).filter(|vid| members[usize::from(*vid)]);
    Ok(listed.filter_map(|vid| VlanId::new(vid).ok()).collect())
}

fn vlan_range(text: &str) -> Result<(VlanId, VlanId), BadValue> {
    let wrong = || {
        BadValue::new(format!("{:?} is no range of VLANs", shorten(text)))
            .hint("write \"20-29\", of VLANs from 1 to 4094")
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: VlanId = first.trim().parse().map_err(|_| wrong())?;
    let last: VlanId = last.trim().parse().map_err(|_| wrong())?;
    if first > last {
        return Err(wrong());
    }
    Ok((first, last))
}

/// The shortest list of numbers and ranges for ascending VLANs.
pub(crate) fn vlan_ranges(vlans: &[VlanId]) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for vid in vlans.iter().map(|vlan| vlan.get()) {
        match ranges.last_mut() {
            Some((_, last)) if last.saturating_add(1) == vid => *last = vid,
            _ => ranges.push((vid, vid)),
        }
    }
    ranges
}

fn hugepages(text: &str) -> Result<Hugepages, BadValue> {
    let wrong = || {
        let expected = KeyType::Hugepages;
        BadValue::new(format!("expected {expected}, found {:?}", shorten(text)))
    };
    match text {
        "auto" => return Ok(Hugepages::Auto),
        "off" => return Ok(Hugepages::Off),
        _ => {}
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let mib = match unit.trim_start() {
        "MiB" => Some(number),
        "GiB" => number.checked_mul(1024),
        "" => return Err(wrong().hint(format!("write a unit: \"{number} MiB\""))),
        _ => None,
    };
    // 16 TiB is more than any host has; less than 16 MiB holds no packet pool.
    mib.filter(|mib| (16..=16 << 20).contains(mib)).map(Hugepages::MiB).ok_or_else(wrong)
}

/// The known word that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Distances cost time in the product of the lengths, and nobody mistypes that much.
    if word.len() > 64 {
        return None;
    }
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
