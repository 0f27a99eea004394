//! Classic capture files: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>.

use switch_core::frame::Offload;

use super::{Direction, File, Interface, Order, Packet};

const MICROS: u32 = 0xa1b2_c3d4;
const NANOS: u32 = 0xa1b2_3c4d;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// How a file is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    order: Order,
    nanos_per_tick: u64,
}

impl Format {
    /// By the first four bytes, read as a little-endian number.
    pub(super) fn of(magic: u32) -> Option<Self> {
        let is_big = [MICROS, NANOS].contains(&magic.swap_bytes());
        let nanos_per_tick = match if is_big { magic.swap_bytes() } else { magic } {
            MICROS => 1000,
            NANOS => 1,
            _ => return None,
        };
        Some(Self { order: Order { is_big }, nanos_per_tick })
    }
}

pub(super) fn read(bytes: &[u8], format: Format) -> Result<File, String> {
    let Format { order, nanos_per_tick } = format;
    let link = order.u32(bytes, 20).ok_or("it ends within its header")?;
    // The upper half says whether checksums follow the frames.
    let interfaces = vec![Interface { name: None, link: link as u16 }];
    let mut file = File { interfaces, ..File::default() };
    let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
    while !rest.is_empty() {
        let cut = || format!("it ends within frame {}", file.packets.len() + 1);
        let field = |at| order.u32(rest, at).ok_or_else(cut);
        let (secs, ticks, kept, len) = (field(0)?, field(4)?, field(8)?, field(12)?);
        let to = RECORD_HEADER.checked_add(kept as usize).ok_or_else(cut)?;
        let bytes = rest.get(RECORD_HEADER..to).ok_or_else(cut)?.to_vec();
        file.packets.push(Packet {
            interface: 0,
            at: u64::from(secs) * 1_000_000_000 + u64::from(ticks) * nanos_per_tick,
            len: (len as usize).max(bytes.len()),
            bytes,
            direction: Direction::Unknown,
            offload: Offload::NONE,
        });
        rest = rest.get(to..).unwrap_or_default();
    }
    Ok(file)
}
