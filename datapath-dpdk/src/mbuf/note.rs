//! Our own few bytes in every mbuf, and how offload metadata maps onto DPDK's.
//!
//! They are a dynamic field (`rte_mbuf_dyn.h`) and count only where our dynamic flag is set.
//! Drivers overwrite the flags of what they receive, so receiving a frame costs nothing here.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use switch_core::frame::{Csum, Gso, GsoKind, Offload};

use super::seg::{RX_FLAGS, Seg};
use crate::eal::Eal;
use crate::error::DpdkError;

/// What we keep with a frame, in its first mbuf.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Note {
    csum_start: u16,
    csum_offset: u16,
    gso_size: u16,
    /// From this byte of the buffer on, another frame reads what is in there. 0: nothing is shared.
    pub(super) shared_from: u16,
    csum: u8,
    gso: u8,
}

// The nine words an application may use are all in the mbuf's second cache line.
const _: () = assert!(size_of::<Note>() <= 36);

const CSUM_VERIFIED: u8 = 1;
const CSUM_PARTIAL: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 2;
const GSO_UDP: u8 = 3;
const GSO_ECN: u8 = 0x80;

static OFFSET: AtomicUsize = AtomicUsize::new(0);
static FLAG: AtomicU64 = AtomicU64::new(0);

/// Reserves the field and the flag.
///
/// # Errors
/// When all dynamic fields or flags are taken.
pub(crate) fn register_note(_eal: Eal) -> Result<(), DpdkError> {
    let mut field = dpdk_sys::rte_mbuf_dynfield {
        name: [0; 64],
        size: size_of::<Note>(),
        align: align_of::<Note>(),
        flags: 0,
    };
    let mut flag = dpdk_sys::rte_mbuf_dynflag { name: [0; 64], flags: 0 };
    for name in [&mut field.name, &mut flag.name] {
        for (to, from) in name.iter_mut().zip(c"vswitch_note".to_bytes()) {
            *to = *from as c_char;
        }
    }
    // SAFETY: the EAL runs; the structure is complete and its name terminated.
    let offset = unsafe { dpdk_sys::rte_mbuf_dynfield_register(&field) };
    let offset =
        usize::try_from(offset).map_err(|_| DpdkError::last("reserving a field in every mbuf"))?;
    // SAFETY: as above.
    let bit = unsafe { dpdk_sys::rte_mbuf_dynflag_register(&flag) };
    let bit = u32::try_from(bit).map_err(|_| DpdkError::last("reserving a flag in every mbuf"))?;
    OFFSET.store(offset, Ordering::Relaxed);
    FLAG.store(1 << bit, Ordering::Relaxed);
    Ok(())
}

/// Flags a received frame keeps: what drivers say, and what the mbuf is. Not our note and not what
/// was to be done on a way out, which a ring between two ports would carry over.
pub(super) fn rx_flags(flags: u64) -> u64 {
    flags & (RX_FLAGS | dpdk_sys::VSW_MBUF_F_INDIRECT | dpdk_sys::VSW_MBUF_F_EXTERNAL)
}

/// The note, or nothing where none was made since the frame was received.
#[inline]
pub(super) fn get(seg: Seg) -> Option<Note> {
    if seg.ol_flags() & FLAG.load(Ordering::Relaxed) == 0 {
        return None;
    }
    // SAFETY: inside the header, which is ours, and written when the flag was set.
    Some(unsafe { place(seg).read() })
}

pub(super) fn set(seg: Seg, note: Note) {
    // SAFETY: inside the header, which is ours.
    unsafe { place(seg).write(note) };
    seg.set_ol_flags(seg.ol_flags() | FLAG.load(Ordering::Relaxed));
}

fn place(seg: Seg) -> *mut Note {
    let header: *mut u8 = seg.as_ptr().cast();
    // SAFETY: libdpdk reserved the offset within the header when the EAL started, before which
    // there is no mbuf.
    unsafe { header.add(OFFSET.load(Ordering::Relaxed)) }.cast()
}

/// The note, or one that says the same as the flags of the receiving driver.
pub(super) fn get_or_new(seg: Seg) -> Note {
    get(seg).unwrap_or_else(|| Note::default().with(from_flags(seg.ol_flags())))
}

pub(super) fn offload(seg: Seg) -> Offload {
    get(seg).map_or_else(|| from_flags(seg.ol_flags()), Note::offload)
}

fn from_flags(flags: u64) -> Offload {
    // "None" (right, but not in the field) comes only from drivers of which it was asked.
    let good =
        flags & dpdk_sys::VSW_MBUF_F_RX_L4_CKSUM_MASK == dpdk_sys::VSW_MBUF_F_RX_L4_CKSUM_GOOD;
    Offload { csum: if good { Csum::Verified } else { Csum::Unknown }, gso: None }
}

impl Note {
    #[must_use]
    pub(super) fn with(mut self, offload: Offload) -> Self {
        (self.csum, self.csum_start, self.csum_offset) = match offload.csum {
            Csum::Unknown => (0, 0, 0),
            Csum::Verified => (CSUM_VERIFIED, 0, 0),
            Csum::Partial { start, offset } => (CSUM_PARTIAL, start, offset),
        };
        (self.gso, self.gso_size) = match offload.gso {
            None => (0, 0),
            Some(gso) => {
                let kind = match gso.kind {
                    GsoKind::TcpV4 => GSO_TCP4,
                    GsoKind::TcpV6 => GSO_TCP6,
                    GsoKind::Udp => GSO_UDP,
                };
                (kind | if gso.ecn { GSO_ECN } else { 0 }, gso.size)
            }
        };
        self
    }

    pub(super) fn offload(self) -> Offload {
        let csum = match self.csum {
            CSUM_VERIFIED => Csum::Verified,
            CSUM_PARTIAL => Csum::Partial { start: self.csum_start, offset: self.csum_offset },
            _ => Csum::Unknown,
        };
        let kind = match self.gso & !GSO_ECN {
            GSO_TCP4 => Some(GsoKind::TcpV4),
            GSO_TCP6 => Some(GsoKind::TcpV6),
            GSO_UDP => Some(GsoKind::Udp),
            _ => None,
        };
        let ecn = self.gso & GSO_ECN != 0;
        Offload { csum, gso: kind.map(|kind| Gso { kind, size: self.gso_size, ecn }) }
    }
}

/// What a driver has to be told about an unfinished frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TxWork {
    pub(super) flags: u64,
    pub(super) l2_len: u16,
    pub(super) l3_len: u16,
    /// Length of the TCP or UDP header; 0 where nothing is cut.
    pub(super) l4_len: u16,
    pub(super) segment: u16,
}

/// Where TCP and UDP keep their checksums (RFC 9293 section 3.1, RFC 768).
const TCP_CSUM: u16 = 16;
const UDP_CSUM: u16 = 6;

/// RFC 8200 section 3.
const IPV6_HEADER: u16 = 40;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// Puts offload metadata into DPDK's terms. `None` if the frame is finished, or if its head is not
/// what the metadata says: then the driver had better not touch it.
pub(super) fn tx_work(head: &[u8], offload: Offload) -> Option<TxWork> {
    let Csum::Partial { start, offset } = offload.csum else { return None };
    let (l2_len, ethertype) = layer_2(head)?;
    let ip = match ethertype {
        0x0800 => dpdk_sys::VSW_MBUF_F_TX_IPV4,
        0x86dd => dpdk_sys::VSW_MBUF_F_TX_IPV6,
        _ => return None,
    };
    let l3_len = start.checked_sub(l2_len)?;
    // Drivers take the addresses for the pseudo-header from the IP header of that length: it must be
    // that of this checksum, and not one further out.
    let l3 = head.get(usize::from(l2_len)..usize::from(start))?;
    let (header_len, protocol) = match ethertype {
        0x0800 => (u16::from(l3.first()? & 0xf) * 4, *l3.get(9)?),
        _ => (IPV6_HEADER, *l3.get(6)?),
    };
    let expected = if offset == TCP_CSUM { IPPROTO_TCP } else { IPPROTO_UDP };
    if header_len != l3_len || protocol != expected {
        return None;
    }
    let l4 = match offset {
        TCP_CSUM => dpdk_sys::VSW_MBUF_F_TX_TCP_CKSUM,
        UDP_CSUM => dpdk_sys::VSW_MBUF_F_TX_UDP_CKSUM,
        _ => return None,
    };
    let mut work = TxWork { flags: ip | l4, l2_len, l3_len, l4_len: 0, segment: 0 };
    if let Some(gso) = offload.gso {
        let segmentation = match gso.kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => {
                // Data offset, in words, in the high nibble of byte 12.
                work.l4_len = u16::from(head.get(usize::from(start) + 12)? >> 4) * 4;
                dpdk_sys::VSW_MBUF_F_TX_TCP_SEG
            }
            GsoKind::Udp => {
                work.l4_len = 8;
                dpdk_sys::VSW_MBUF_F_TX_UDP_SEG
            }
        };
        work.segment = gso.size;
        work.flags |= segmentation;
        if ip == dpdk_sys::VSW_MBUF_F_TX_IPV4 {
            // Each segment has a length, hence a header checksum, of its own.
            work.flags |= dpdk_sys::VSW_MBUF_F_TX_IP_CKSUM;
        }
    }
    Some(work)
}

/// Length of Ethernet with its tags, and the EtherType behind them.
fn layer_2(head: &[u8]) -> Option<(u16, u16)> {
    let mut at = 12;
    loop {
        let ethertype = u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]);
        at += 2;
        match ethertype {
            0x8100 | 0x88a8 => at += 2,
            _ => return Some((u16::try_from(at).ok()?, ethertype)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTIAL_TCP: Offload =
        Offload { csum: Csum::Partial { start: 38, offset: TCP_CSUM }, gso: None };

    fn tagged_tcp4() -> Vec<u8> {
        let mut head = vec![0; 80];
        head[12..14].copy_from_slice(&[0x81, 0]);
        head[16..18].copy_from_slice(&[8, 0]);
        head[18] = 0x45;
        head[18 + 9] = IPPROTO_TCP;
        head[38 + 12] = 8 << 4;
        head
    }

    #[test]
    fn every_offload_survives_the_note() {
        let gso = |kind, ecn| Some(Gso { kind, size: 1448, ecn });
        for csum in [Csum::Unknown, Csum::Verified, Csum::Partial { start: 34, offset: 16 }] {
            for gso in [
                None,
                gso(GsoKind::TcpV4, true),
                gso(GsoKind::TcpV6, false),
                gso(GsoKind::Udp, false),
            ] {
                let offload = Offload { csum, gso };
                assert_eq!(Note::default().with(offload).offload(), offload);
            }
        }
    }

    #[test]
    fn an_unfinished_checksum_becomes_header_lengths() {
        let work = tx_work(&tagged_tcp4(), PARTIAL_TCP).unwrap();
        let flags = dpdk_sys::VSW_MBUF_F_TX_IPV4 | dpdk_sys::VSW_MBUF_F_TX_TCP_CKSUM;
        assert_eq!(work, TxWork { flags, l2_len: 18, l3_len: 20, l4_len: 0, segment: 0 });
    }

    #[test]
    fn a_super_frame_becomes_segmentation() {
        let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1448, ecn: false });
        let work = tx_work(&tagged_tcp4(), Offload { gso, ..PARTIAL_TCP }).unwrap();
        assert_eq!((work.l4_len, work.segment), (32, 1448));
        assert_ne!(work.flags & dpdk_sys::VSW_MBUF_F_TX_TCP_SEG, 0);
        assert_ne!(work.flags & dpdk_sys::VSW_MBUF_F_TX_IP_CKSUM, 0);
    }

    #[test]
    fn metadata_that_does_not_fit_the_head_is_no_work() {
        let head = tagged_tcp4();
        for (start, offset) in [(10, TCP_CSUM), (37, TCP_CSUM), (38, 4), (38, 0)] {
            let offload = Offload { csum: Csum::Partial { start, offset }, gso: None };
            assert_eq!(tx_work(&head, offload), None);
        }
        for n in 0..18 {
            assert_eq!(tx_work(&head[..n], PARTIAL_TCP), None);
        }
        assert_eq!(tx_work(&head, Offload::NONE), None);
    }
}
