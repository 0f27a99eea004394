//! pcapng: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>.

use switch_core::frame::Offload;
use vswitchd::watch::pcapng::OFFLOAD;

use super::{
    BLOCK_MAX, Direction, File, IF_DROP, Interface, Order, PACKET, Packet, SECTION, SIMPLE,
    STATISTICS,
};

const INTERFACE: u32 = 1;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;
const EPB_FLAGS: u16 = 2;

/// What the times of an interface are counted in.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    /// How many there are in a second.
    per_second: u128,
    /// Seconds to be added.
    offset: i64,
    /// Most bytes of a packet.
    snap: u32,
}

impl Ticks {
    fn nanos(self, ticks: u64) -> u64 {
        let nanos = u128::from(ticks) * 1_000_000_000 / self.per_second;
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
        let nanos = nanos.saturating_add(i128::from(self.offset) * 1_000_000_000);
        u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
    }
}

/// A file as far as it was read.
#[derive(Debug)]
struct Reader {
    file: File,
    /// Of each interface of the file.
    ticks: Vec<Ticks>,
    /// Where the interfaces of this section begin.
    section: usize,
    order: Order,
}

pub(super) fn read(bytes: &[u8]) -> Result<File, String> {
    let order = Order { is_big: false };
    let mut reader = Reader { file: File::default(), ticks: Vec::new(), section: 0, order };
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let cut = || {
            let frames = reader.file.packets.len();
            format!("it ends within the block at byte {at}, behind frame {frames}")
        };
        if reader.order.u32(rest, 0) == Some(SECTION) {
            let is_big = match rest.get(8..).and_then(<[u8]>::first_chunk) {
                Some(magic) if u32::from_le_bytes(*magic) == BYTE_ORDER => false,
                Some(magic) if u32::from_be_bytes(*magic) == BYTE_ORDER => true,
                Some(_) => return Err(format!("the section at byte {at} has no byte order")),
                None => return Err(cut()),
            };
            reader.order = Order { is_big };
            reader.section = reader.file.interfaces.len();
        }
        let len = reader.order.u32(rest, 4).ok_or_else(cut)? as usize;
        if !(12..=BLOCK_MAX).contains(&len) || !len.is_multiple_of(4) {
            return Err(format!("the block at byte {at} says it has {len} bytes"));
        }
        let block = rest.get(..len).ok_or_else(cut)?;
        // Without the length, which stands at both ends.
        let body = block.get(8..len - 4).unwrap_or_default();
        let kind = reader.order.u32(block, 0).unwrap_or_default();
        reader.block(kind, body).ok_or_else(|| format!("the block at byte {at} is malformed"))?;
        at += len;
    }
    Ok(reader.file)
}

impl Reader {
    /// Takes a block over. `None` if it is not what it says.
    fn block(&mut self, kind: u32, body: &[u8]) -> Option<()> {
        match kind {
            INTERFACE => self.interface(body),
            PACKET => self.packet(body),
            SIMPLE => self.simple(body),
            STATISTICS => self.statistics(body),
            _ => Some(()),
        }
    }

    fn interface(&mut self, body: &[u8]) -> Option<()> {
        let link = self.order.u16(body, 0)?;
        let snap = self.order.u32(body, 4)?;
        let mut name = None;
        let mut ticks = Ticks { per_second: 1_000_000, offset: 0, snap };
        for (code, value) in self.options(body.get(8..)?) {
            match (code, value) {
                (IF_NAME, value) => name = Some(String::from_utf8_lossy(value).into_owned()),
                // A power of two if the highest bit is set, else one of ten.
                (IF_TSRESOL, [n, ..]) => {
                    let base = if n & 0x80 != 0 { 2_u128 } else { 10 };
                    ticks.per_second = base.checked_pow(u32::from(n & 0x7f))?;
                }
                (IF_TSOFFSET, value) => ticks.offset = self.order.u64(value, 0)?.cast_signed(),
                _ => {}
            }
        }
        self.file.interfaces.push(Interface { name, link });
        self.ticks.push(ticks);
        Some(())
    }

    fn packet(&mut self, body: &[u8]) -> Option<()> {
        let word = |at| self.order.u32(body, at);
        let interface = self.section.checked_add(word(0)? as usize)?;
        let ticks = *self.ticks.get(interface)?;
        let (high, low) = (word(4)?, word(8)?);
        let (kept, len) = (word(12)? as usize, word(16)? as usize);
        let data = body.get(20..)?;
        let bytes = data.get(..kept)?.to_vec();
        let (mut direction, mut offload) = (Direction::Unknown, Offload::NONE);
        for (code, value) in self.options(data.get(kept.next_multiple_of(4)..).unwrap_or_default())
        {
            match code {
                EPB_FLAGS => {
                    direction = match self.order.u32(value, 0)? & 3 {
                        1 => Direction::In,
                        2 => Direction::Out,
                        _ => Direction::Unknown,
                    };
                }
                OPT_COMMENT => {
                    let words = std::str::from_utf8(value).ok();
                    let words = words.and_then(|words| words.strip_prefix(OFFLOAD));
                    // Another program's comment may begin in the same way.
                    offload = words.and_then(|words| words.parse().ok()).unwrap_or(offload);
                }
                _ => {}
            }
        }
        let at = ticks.nanos(u64::from(high) << 32 | u64::from(low));
        let len = len.max(bytes.len());
        self.file.packets.push(Packet { interface, at, bytes, len, direction, offload });
        Some(())
    }

    /// A packet without a time, of the first interface.
    fn simple(&mut self, body: &[u8]) -> Option<()> {
        let len = self.order.u32(body, 0)? as usize;
        let ticks = *self.ticks.get(self.section)?;
        let snap = if ticks.snap == 0 { usize::MAX } else { ticks.snap as usize };
        let bytes = body.get(4..)?.get(..len.min(snap))?.to_vec();
        self.file.packets.push(Packet {
            interface: self.section,
            at: 0,
            bytes,
            len,
            direction: Direction::Unknown,
            offload: Offload::NONE,
        });
        Some(())
    }

    /// The count goes up, and is told several times.
    fn statistics(&mut self, body: &[u8]) -> Option<()> {
        for (code, value) in self.options(body.get(12..)?) {
            if code == IF_DROP {
                self.file.missed = self.file.missed.max(self.order.u64(value, 0)?);
            }
        }
        Some(())
    }

    /// Codes and values, as far as they are whole.
    fn options<'a>(&self, mut rest: &'a [u8]) -> Vec<(u16, &'a [u8])> {
        let mut out = Vec::new();
        while let (Some(code @ 1..), Some(len)) = (self.order.u16(rest, 0), self.order.u16(rest, 2))
        {
            let len = usize::from(len);
            let Some(value) = rest.get(4..4 + len) else { break };
            out.push((code, value));
            rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
        }
        out
    }
}
