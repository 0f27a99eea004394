//! The two programs of `silence.rs`, loaded and linked with bpf(2): `include/uapi/linux/bpf.h`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// A side of a device where a program can stand (`enum bpf_attach_type`, Linux 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Hook {
    /// Frames that come in on the device, after packet sockets got their copy.
    TcxIngress = 46,
    /// Frames that the host's stack sends through the device's queue.
    TcxEgress = 47,
}

/// One instruction, as `struct bpf_insn` on a little- or big-endian machine.
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    let (o, i) = (off.to_ne_bytes(), imm.to_ne_bytes());
    u64::from_ne_bytes([code, regs, o[0], o[1], i[0], i[1], i[2], i[3]])
}

/// `TCX_NEXT`: go on as if there were no program.
const NEXT: i32 = -1;
/// `TCX_DROP`.
const DROP: i32 = 2;
/// Offset of `mark` in `struct __sk_buff`.
const MARK: i16 = 8;

/// Loads a program that drops every frame but those whose mark is `pass`; theirs is cleared.
pub(crate) fn load_dropper(pass: Option<u32>) -> io::Result<OwnedFd> {
    let drop = [insn(0xb7, 0, 0, 0, DROP), insn(0x95, 0, 0, 0, 0)];
    let program: Vec<u64> = match pass {
        None => drop.to_vec(),
        Some(mark) => {
            let mut program = vec![
                insn(0x61, 2, 1, MARK, 0),        // r2 = *(u32 *)(r1 + mark)
                insn(0x56, 2, 0, 4, mark as i32), // if w2 != mark goto drop
                insn(0xb7, 2, 0, 0, 0),           // r2 = 0
                insn(0x63, 1, 2, MARK, 0),        // *(u32 *)(r1 + mark) = r2
                insn(0xb7, 0, 0, 0, NEXT),        // r0 = TCX_NEXT
                insn(0x95, 0, 0, 0, 0),           // exit
            ];
            program.extend_from_slice(&drop);
            program
        }
    };
    let license = c"MIT";
    // union bpf_attr for BPF_PROG_LOAD: prog_type, insn_cnt, insns, license, log_level, log_size,
    // log_buf, kern_version, prog_flags, prog_name[16].
    let mut attr = [0u64; 16];
    attr[0] = pair(BPF_PROG_TYPE_SCHED_CLS, program.len() as u32);
    attr[1] = program.as_ptr() as u64;
    attr[2] = license.as_ptr() as u64;
    attr[6] = u64::from_ne_bytes(*b"vswitch_");
    attr[7] = u64::from_ne_bytes(*b"silence\0");
    // SAFETY: `attr` is laid out as the kernel's union, zero behind what is set; the two pointers
    // in it lead to `program` and `license`, which live until after the call and are only read.
    unsafe { bpf(BPF_PROG_LOAD, &attr) }
}

/// Puts a program on a device of this network namespace, after those that are there. It stays until
/// the returned link is closed.
pub(crate) fn attach(program: &OwnedFd, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    // union bpf_attr for BPF_LINK_CREATE: prog_fd, target_ifindex, attach_type, flags, and for tcx
    // relative_fd and expected_revision, both unused.
    let mut attr = [0u64; 16];
    attr[0] = pair(program.as_raw_fd() as u32, ifindex);
    attr[1] = pair(hook as u32, 0);
    // SAFETY: `attr` is laid out as the kernel's union and holds no pointers.
    unsafe { bpf(BPF_LINK_CREATE, &attr) }
}

/// Two u32 fields in a row.
const fn pair(first: u32, second: u32) -> u64 {
    let (a, b) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}

/// bpf(2) for commands that answer with a new descriptor.
///
/// # Safety
/// `attr` must be what the command expects, and pointers in it must be valid for it.
unsafe fn bpf(command: libc::c_long, attr: &[u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: pointer and size describe `attr`; its content is the caller's promise.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec), and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
