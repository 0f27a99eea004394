//! Offload metadata in words, as capture files have it beside a frame and replays read it again.

use std::fmt;
use std::str::FromStr;

use super::{Csum, Gso, GsoKind, Offload};

/// These words are no offload metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no offload metadata")]
pub struct NoOffload;

impl GsoKind {
    const ALL: [(Self, &'static str); 3] =
        [(Self::TcpV4, "tcp4"), (Self::TcpV6, "tcp6"), (Self::Udp, "udp")];
}

/// `none`, `checksum verified`, `checksum 34+16` (the sum from byte 34 on belongs 16 bytes behind
/// that), and of super-frames `checksum 34+16, tcp4 segments of 1448` with `, ecn` where that is so.
impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.csum {
            Csum::Unknown => f.write_str("none")?,
            Csum::Verified => f.write_str("checksum verified")?,
            Csum::Partial { start, offset } => write!(f, "checksum {start}+{offset}")?,
        }
        let Some(Gso { kind, size, ecn }) = self.gso else { return Ok(()) };
        let name = GsoKind::ALL.iter().find(|(known, _)| *known == kind).map_or("", |(_, n)| n);
        write!(f, ", {name} segments of {size}{}", if ecn { ", ecn" } else { "" })
    }
}

impl FromStr for Offload {
    type Err = NoOffload;

    /// What [`Display`](fmt::Display) writes. Whether it fits a frame is for
    /// [`validate`](crate::segment::validate) to say.
    fn from_str(words: &str) -> Result<Self, NoOffload> {
        let mut parts = words.split(", ");
        let number = |text: &str| text.parse::<u16>().map_err(|_| NoOffload);
        let csum = match parts.next().unwrap_or_default() {
            "none" => Csum::Unknown,
            "checksum verified" => Csum::Verified,
            partial => {
                let sums = partial.strip_prefix("checksum ").and_then(|sums| sums.split_once('+'));
                let (start, offset) = sums.ok_or(NoOffload)?;
                Csum::Partial { start: number(start)?, offset: number(offset)? }
            }
        };
        let Some(segments) = parts.next() else { return Ok(Self { csum, gso: None }) };
        let (name, size) = segments.split_once(" segments of ").ok_or(NoOffload)?;
        let kind = GsoKind::ALL.iter().find(|(_, known)| *known == name).ok_or(NoOffload)?.0;
        let ecn = match (parts.next(), parts.next()) {
            (None, _) => false,
            (Some("ecn"), None) => true,
            _ => return Err(NoOffload),
        };
        Ok(Self { csum, gso: Some(Gso { kind, size: number(size)?, ecn }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let partial = Csum::Partial { start: 34, offset: 16 };
        let mut all = vec![Offload::NONE, Offload { csum: Csum::Verified, gso: None }];
        all.push(Offload { csum: partial, gso: None });
        for (kind, _) in GsoKind::ALL {
            for ecn in [false, true] {
                let gso = Some(Gso { kind, size: 1448, ecn });
                all.push(Offload { csum: partial, gso });
                all.push(Offload { csum: Csum::Verified, gso });
            }
        }
        for offload in all {
            assert_eq!(offload.to_string().parse(), Ok(offload), "{offload}");
        }
        let last =
            Offload { csum: partial, gso: Some(Gso { kind: GsoKind::TcpV4, size: 7, ecn: true }) };
        assert_eq!(last.to_string(), "checksum 34+16, tcp4 segments of 7, ecn");
    }

    #[test]
    fn other_words_are_refused() {
        for words in [
            "",
            "checksum",
            "checksum 34",
            "checksum 34+70000",
            "checksum 34+x",
            "verified",
            "none, tcp4",
            "none, tcp5 segments of 9",
            "none, tcp4 segments of -1",
            "none, tcp4 segments of 9, ecn, ecn",
            "none, tcp4 segments of 9, ce",
        ] {
            assert_eq!(words.parse::<Offload>(), Err(NoOffload), "{words}");
        }
    }
}
