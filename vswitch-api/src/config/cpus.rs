//! Lists of CPUs, as `0-1,4`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A set of CPUs, written as the kernel writes it: `0-1,4`. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<u16>);

impl CpuList {
    /// CPUs are numbered below this (the kernel's CPU_SETSIZE).
    pub const MAX_CPUS: u16 = 1024;

    /// The CPUs, ascending.
    #[must_use]
    pub fn cpus(&self) -> &[u16] {
        &self.0
    }
}

/// Why a text is not a list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCpuList {
    /// Nothing in it.
    #[error("the list of CPUs is empty")]
    Empty,
    /// Looks like a mask.
    #[error("CPUs are given as a list, not as a mask")]
    Mask,
    /// Not a number, or a range that ends before it starts.
    #[error("not a list of CPUs")]
    Malformed,
    /// A number that no CPU has.
    #[error("CPU {0} does not exist: CPUs are 0 to 1023")]
    TooHigh(u64),
    /// A CPU that several parts of the list name.
    #[error("CPU {0} is named twice")]
    Twice(u16),
}

impl FromStr for CpuList {
    type Err = BadCpuList;

    fn from_str(text: &str) -> Result<Self, BadCpuList> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadCpuList::Empty);
        }
        // No list of all CPUs is longer; work is bounded by it.
        if text.len() > 8192 {
            return Err(BadCpuList::Malformed);
        }
        if text.starts_with("0x") || text.starts_with("0X") {
            return Err(BadCpuList::Mask);
        }
        let number = |part: &str| -> Result<u16, BadCpuList> {
            let part = part.trim();
            // `parse` would take a sign.
            if !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(BadCpuList::Malformed);
            }
            let cpu: u64 = part.parse().map_err(|_| BadCpuList::Malformed)?;
            u16::try_from(cpu)
                .ok()
                .filter(|cpu| *cpu < Self::MAX_CPUS)
                .ok_or(BadCpuList::TooHigh(cpu))
        };
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(BadCpuList::Malformed);
            }
            // Two workers cannot have one CPU; who names it twice meant another one.
            if let Some(twice) = (first..=last).find(|cpu| !cpus.insert(*cpu)) {
                return Err(BadCpuList::Twice(twice));
            }
        }
        Ok(Self(cpus.into_iter().collect()))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let Some(first) = rest.first() {
            let run = rest.iter().zip(*first..).take_while(|(have, want)| **have == *want).count();
            f.write_str(separator)?;
            match rest[run - 1] {
                last if last == *first => write!(f, "{first}")?,
                last => write!(f, "{first}-{last}")?,
            }
            rest = &rest[run..];
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_not_masks() {
        let list = |text: &str| text.parse::<CpuList>();
        assert_eq!(list("0-1,4").unwrap().cpus(), [0, 1, 4]);
        assert_eq!(list("4, 1,0 ,5,9").unwrap().to_string(), "0-1,4-5,9");
        assert_eq!(list("1023").unwrap().to_string(), "1023");
        assert_eq!(list("0x3"), Err(BadCpuList::Mask));
        assert_eq!(list(" "), Err(BadCpuList::Empty));
        assert_eq!(list("3-1"), Err(BadCpuList::Malformed));
        assert_eq!(list("1-"), Err(BadCpuList::Malformed));
        assert_eq!(list("+1"), Err(BadCpuList::Malformed));
        assert_eq!(list("1024"), Err(BadCpuList::TooHigh(1024)));
        assert_eq!(list("0-2,1"), Err(BadCpuList::Twice(1)));
        assert_eq!(list("2-5,4-7"), Err(BadCpuList::Twice(4)));
        assert_eq!(list("3,3"), Err(BadCpuList::Twice(3)));
    }
}
