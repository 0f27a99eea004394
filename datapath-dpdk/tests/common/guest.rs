//! The other end of a vhost-user socket, by the specification (QEMU docs/interop/vhost-user.rst and
//! virtio 1.2 section 2.7): a guest with split rings, which does as it is told, lies included.
//!
//! Its memory is a file that the switch maps and that is read and written here, which needs no
//! unsafe code.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use switch_core::segment::{VnetHeader, VnetLayout};

/// Descriptors of a ring.
pub(crate) const RING: u16 = 1024;
/// Bytes of the buffer behind each: the longest frame, and its header.
const BUFFER: u64 = 0x11000;
/// Where buffers begin, behind the rings.
const BUFFERS: u64 = 0x10_0000;
const RING_STRIDE: u64 = 0x8000;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x5000;
/// Where the guest's memory seems to be.
const GUEST_BASE: u64 = 0x4000_0000;

/// Requests of a front end.
pub(crate) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
}

/// Virtio's feature bits.
pub(crate) mod feature {
    pub(crate) const CSUM: u64 = 1 << 0;
    pub(crate) const GUEST_CSUM: u64 = 1 << 1;
    pub(crate) const GUEST_TSO4: u64 = 1 << 7;
    pub(crate) const GUEST_TSO6: u64 = 1 << 8;
    pub(crate) const HOST_TSO4: u64 = 1 << 11;
    pub(crate) const HOST_TSO6: u64 = 1 << 12;
    pub(crate) const MQ: u64 = 1 << 22;
    pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub(crate) const VERSION_1: u64 = 1 << 32;
    /// What every guest of today has.
    pub(crate) const BASE: u64 = VERSION_1 | PROTOCOL_FEATURES;
    /// All offloads in both directions.
    pub(crate) const OFFLOADS: u64 =
        CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6;
}

/// Flags of a descriptor.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A guest.
pub(crate) struct Guest {
    stream: UnixStream,
    memory: File,
    /// By vring: receive and send in turn.
    rings: Vec<Ring>,
    /// Kick and call of each vring.
    events: Vec<EventFd>,
}

#[derive(Clone, Copy, Default)]
struct Ring {
    avail: u16,
    seen: u16,
}

impl Guest {
    /// A guest that serves the socket, once the switch has connected.
    pub(crate) fn accept(listener: &UnixListener, features: u64, pairs: u16) -> Self {
        Self::new(listener.accept().unwrap().0, features, pairs, pairs)
    }

    /// A guest that connects to the switch.
    pub(crate) fn connect(path: &str, features: u64, pairs: u16) -> Self {
        Self::new(UnixStream::connect(path).unwrap(), features, pairs, pairs)
    }

    /// One with `pairs` of queues, the first `enabled` of which it enables.
    pub(crate) fn new(stream: UnixStream, features: u64, pairs: u16, enabled: u16) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let vrings = u64::from(pairs) * 2;
        let size = BUFFERS + vrings * u64::from(RING) * BUFFER;
        let memory = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
        memory.set_len(size).unwrap();
        let mut guest = Self { stream, memory, rings: Vec::new(), events: Vec::new() };
        let offered = guest.ask(request::GET_FEATURES);
        assert_eq!(offered & features, features, "the switch offers {offered:#x}");
        let protocol = guest.ask(request::GET_PROTOCOL_FEATURES);
        // Of these, only that there may be several queues.
        guest.tell(request::SET_PROTOCOL_FEATURES, &(protocol & 1).to_ne_bytes(), &[]);
        guest.tell(request::SET_OWNER, &[], &[]);
        guest.tell(request::SET_FEATURES, &features.to_ne_bytes(), &[]);
        guest.tell_memory(size);
        for vring in 0..pairs * 2 {
            guest.start(vring);
        }
        for vring in 0..pairs * 2 {
            guest.enable(vring, vring / 2 < enabled);
        }
        guest
    }

    fn tell_memory(&mut self, size: u64) {
        let mut payload = [1u32, 0].map(u32::to_ne_bytes).concat();
        for word in [GUEST_BASE, size, GUEST_BASE, 0] {
            payload.extend(word.to_ne_bytes());
        }
        let fd = self.memory.as_raw_fd();
        self.tell(request::SET_MEM_TABLE, &payload, &[fd]);
    }

    /// Sets a ring up; a receiving one with all its buffers.
    fn start(&mut self, vring: u16) {
        let at = self.ring_at(vring);
        self.rings.push(Ring::default());
        let state = |value: u32| [u32::from(vring), value].map(u32::to_ne_bytes).concat();
        self.tell(request::SET_VRING_NUM, &state(RING.into()), &[]);
        self.tell(request::SET_VRING_BASE, &state(0), &[]);
        let mut addresses = [u32::from(vring), 0].map(u32::to_ne_bytes).concat();
        for place in [at, at + USED, at + AVAIL] {
            addresses.extend((GUEST_BASE + place).to_ne_bytes());
        }
        addresses.extend(0u64.to_ne_bytes());
        self.tell(request::SET_VRING_ADDR, &addresses, &[]);
        if vring.is_multiple_of(2) {
            for n in 0..RING {
                self.describe(vring, n, self.buffer(vring, n), BUFFER as u32, WRITE, 0);
                self.offer(vring, n);
            }
        }
        for request in [request::SET_VRING_CALL, request::SET_VRING_KICK] {
            let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
            let fd = event.as_fd().as_raw_fd();
            self.tell(request, &u64::from(vring).to_ne_bytes(), &[fd]);
            self.events.push(event);
        }
    }

    pub(crate) fn enable(&mut self, vring: u16, on: bool) {
        let payload = [u32::from(vring), on.into()].map(u32::to_ne_bytes).concat();
        self.tell(request::SET_VRING_ENABLE, &payload, &[]);
    }

    /// Sends a request, with any payload.
    pub(crate) fn tell(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) {
        let header = [request, 1, payload.len() as u32].map(u32::to_ne_bytes).concat();
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let pieces = [IoSlice::new(&header), IoSlice::new(payload)];
        let fd = self.stream.as_raw_fd();
        // The switch may have hung up on what came before.
        let _ = sendmsg::<()>(fd, &pieces, control, MsgFlags::MSG_NOSIGNAL, None);
    }

    /// Sends a request that is answered by a number.
    fn ask(&mut self, request: u32) -> u64 {
        self.tell(request, &[], &[]);
        let mut reply = [0; 20];
        self.stream.read_exact(&mut reply).unwrap();
        u64::from_ne_bytes(reply[12..].try_into().unwrap())
    }

    /// Whether the switch has hung up.
    pub(crate) fn is_dropped(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let read = self.stream.read(&mut [0; 64]);
        self.stream.set_nonblocking(false).unwrap();
        match read {
            Ok(n) => n == 0,
            Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    fn ring_at(&self, vring: u16) -> u64 {
        u64::from(vring) * RING_STRIDE
    }

    /// Where buffer `n` of a ring is, as the guest's own address.
    pub(crate) fn buffer(&self, vring: u16, n: u16) -> u64 {
        let number = u64::from(vring) * u64::from(RING) + u64::from(n % RING);
        GUEST_BASE + BUFFERS + number * BUFFER
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address - GUEST_BASE).unwrap();
    }

    /// Writes a descriptor, whatever it says.
    pub(crate) fn describe(&self, vring: u16, n: u16, at: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = at.to_ne_bytes().to_vec();
        bytes.extend(len.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        self.write(GUEST_BASE + self.ring_at(vring) + u64::from(n) * 16, &bytes);
    }

    /// Makes the chain that begins with a descriptor available.
    pub(crate) fn offer(&mut self, vring: u16, n: u16) {
        let at = GUEST_BASE + self.ring_at(vring) + AVAIL;
        let index = self.rings[usize::from(vring)].avail;
        self.write(at + 4 + u64::from(index % RING) * 2, &n.to_ne_bytes());
        self.set_avail(vring, index.wrapping_add(1));
    }

    /// Says that many chains were made available so far.
    pub(crate) fn set_avail(&mut self, vring: u16, index: u16) {
        self.rings[usize::from(vring)].avail = index;
        let at = GUEST_BASE + self.ring_at(vring) + AVAIL;
        self.write(at + 2, &index.to_ne_bytes());
    }

    /// Chains that the switch has used so far.
    pub(crate) fn used(&self, vring: u16) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, self.ring_at(vring) + USED + 2).unwrap();
        u16::from_ne_bytes(bytes)
    }

    /// Sends one frame on a pair of queues; false if there is no room.
    pub(crate) fn send(&mut self, pair: u16, header: &VnetHeader, frame: &[u8]) -> bool {
        let vring = pair * 2 + 1;
        let index = self.rings[usize::from(vring)].avail;
        if index.wrapping_sub(self.used(vring)) >= RING {
            return false;
        }
        let (n, layout) = (index % RING, VnetLayout::MODERN);
        let bytes = [&layout.encode(header)[..layout.header_len()], frame].concat();
        self.write(self.buffer(vring, n), &bytes);
        self.describe(vring, n, self.buffer(vring, n), bytes.len() as u32, 0, 0);
        self.offer(vring, n);
        true
    }

    /// Takes what has come in on a pair of queues.
    pub(crate) fn receive(&mut self, pair: u16) -> Vec<(VnetHeader, Vec<u8>)> {
        let (vring, mut frames) = (pair * 2, Vec::new());
        let until = self.used(vring);
        while self.rings[usize::from(vring)].seen != until {
            let seen = self.rings[usize::from(vring)].seen;
            let at = self.ring_at(vring) + USED + 4 + u64::from(seen % RING) * 8;
            let mut element = [0; 8];
            self.memory.read_exact_at(&mut element, at).unwrap();
            let word = |at: usize| u32::from_ne_bytes(element[at..at + 4].try_into().unwrap());
            let (n, len) = (word(0) as u16, word(4) as usize);
            let mut bytes = vec![0; len];
            let from = self.buffer(vring, n) - GUEST_BASE;
            self.memory.read_exact_at(&mut bytes, from).unwrap();
            let (header, frame) = VnetLayout::MODERN.decode(&bytes).unwrap();
            frames.push((header, frame.to_vec()));
            self.offer(vring, n);
            self.rings[usize::from(vring)].seen = seen.wrapping_add(1);
        }
        frames
    }
}
