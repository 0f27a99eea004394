//! Netdev ports: a device that somebody else made, through packet sockets. Control side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use switch_core::config::PortSpec;
use switch_core::datapath::{BackendError, Caps};

use crate::backend::TapOptions;
use crate::error::{errno, failed, failed_hint, refused};
use crate::link::{LinkChange, LinkState, Links};
use crate::note::Note;
use crate::shared::{NATIVE_TAGGED, caps_bits};
use crate::silence::{MARK, Silence};
use crate::sys::{ethtool, packet, set_option};
use crate::tap;

/// Bytes the kernel keeps for us while the worker is busy: some 128 super-frames or 5,000 full
/// Ethernet frames, each of which counts with its whole buffer.
const RECEIVE_BUFFER: i32 = 8 << 20;

/// What is held, and what is to be undone, while a device is attached.
#[derive(Debug)]
pub(crate) struct Netdev {
    /// A second handle to the queue's socket.
    socket: OwnedFd,
    index: u32,
    name: String,
    /// Frames that found the socket's buffer full.
    drops: u64,
    silence: Silence,
    note: Note,
    run_dir: Option<PathBuf>,
}

/// An attached device.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) netdev: Netdev,
    pub(crate) sockets: Sockets,
    pub(crate) link: LinkState,
    pub(crate) caps: Caps,
    /// What the kernel refused, and how the host's stack is silenced.
    pub(crate) lost: Vec<String>,
}

/// The sockets of one device, as in [`Io::Packet`](crate::io::Io::Packet).
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) socket: OwnedFd,
    pub(crate) finishing: OwnedFd,
}

/// Attaches a device of this namespace. `note` says what an earlier life left to be undone.
///
/// The host's stack is silenced first, then the device is brought up, then frames are taken.
pub(crate) fn open(
    links: &mut Links,
    device: &str,
    take_over: bool,
    spec: &PortSpec,
    options: &TapOptions,
    note: Note,
) -> Result<Opened, BackendError> {
    let attempted = format!("attach device {device}");
    let link = links.by_name(device).map_err(|e| refused(&attempted, &e))?;
    let not_there = || BackendError::NotThere { what: format!("device {device}") };
    let link = link.ok_or_else(not_there)?;
    let index = link.index;
    match attach(links, link, take_over, spec, options, note) {
        // Whatever step failed, the cause is that the device vanished meanwhile.
        Err(_) if links.by_index(index).ok().flatten().is_none() => Err(not_there()),
        done => done,
    }
}

/// The steps of [`open`] on a device that was there a moment ago.
fn attach(
    links: &mut Links,
    link: LinkState,
    take_over: bool,
    spec: &PortSpec,
    options: &TapOptions,
    note: Note,
) -> Result<Opened, BackendError> {
    let device = link.name.clone();
    let attempted = format!("attach device {device}");
    if !link.ethernet {
        return Err(failed_hint(attempted, "it is no Ethernet device", "attach another device"));
    }
    if !take_over {
        refuse_if_used(links, &link, &attempted)?;
    }

    let mut lost = Vec::new();
    let mut note = note;
    let Sockets { socket, finishing } =
        sockets(&mut lost).map_err(|e| refused(format!("{attempted}: make sockets"), &e))?;
    let duplicate = packet::duplicate(&socket).map_err(|e| refused(&attempted, &e))?;
    let silence = Silence::apply(&link, options.silence, &mut note, &mut lost)?;
    if matches!(silence, Silence::Nft { .. }) {
        // Unlike tcx, netfilter looks at what goes past the queue, too (`packet_xmit`).
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)
            .map_err(|e| refused(format!("{attempted}: mark frames"), &e))?;
    }
    let change = tap::wanted(&link, spec);
    note.was_down |= change.up.is_some();
    let mut netdev = Netdev {
        socket: duplicate,
        index: link.index,
        name: device.clone(),
        drops: 0,
        silence,
        note,
        run_dir: options.run_dir.clone(),
    };
    let done = netdev.start(links, &change, [socket.as_fd(), finishing.as_fd()]);
    let link = match done.map_err(|e| tap::explain_change(&attempted, spec, &e)) {
        Ok(Some(link)) => link,
        Ok(None) => {
            let _ = netdev.close(None, true);
            return Err(BackendError::NotThere { what: format!("device {device}") });
        }
        Err(e) => {
            // After an error nothing is left; what cannot be undone is the lesser trouble here.
            let _ = netdev.close(Some(links), false);
            return Err(e);
        }
    };
    // What the device cannot do, the kernel does before it hands frames over to the driver.
    let caps = Caps { uso: has_uso(), ..Caps::ALL };
    let sockets = Sockets { socket, finishing };
    Ok(Opened { netdev, sockets, link, caps, lost })
}

/// A device that the operator uses for something else is not cut off.
fn refuse_if_used(
    links: &mut Links,
    link: &LinkState,
    attempted: &str,
) -> Result<(), BackendError> {
    let name = &link.name;
    let addresses = links.addresses(link.index).map_err(|e| refused(attempted, &e))?;
    let (cause, cure) = if let Some(address) = addresses.first() {
        let cause = format!("the host uses it: it has the address {address}");
        (cause, format!("ip addr del {address} dev {name}"))
    } else if let Some(master) = link.master {
        let master =
            links.by_index(master).ok().flatten().map_or_else(|| "a bridge".into(), |m| m.name);
        (format!("it belongs to {master}"), format!("ip link set {name} nomaster"))
    } else if links.has_default_route(link.index).map_err(|e| refused(attempted, &e))? {
        let cause = "the host uses it: a default route leads through it".to_owned();
        (cause, format!("ip route del default dev {name}"))
    } else {
        return Ok(());
    };
    let hint = format!("{cure}, or set take-over = true on the port: the host then loses it");
    Err(failed_hint(attempted, cause, hint))
}

/// Both sockets with their options, not bound yet and so without frames of other devices.
fn sockets(lost: &mut Vec<String>) -> io::Result<Sockets> {
    let socket = packet::open()?;
    let set = |name, value| set_option(socket.as_fd(), libc::SOL_PACKET, name, value);
    // Offloads of frames as a header before each. Without it, super-frames and unfinished checksums
    // would arrive without a word about them.
    set(libc::PACKET_VNET_HDR, 1)?;
    // The outer VLAN tag, which the kernel takes off.
    set(libc::PACKET_AUXDATA, 1)?;
    // What the host sends on the device is none of ours; Linux 4.20.
    set(libc::PACKET_IGNORE_OUTGOING, 1)?;
    // So that a full device says so, and does not queue out of our sight.
    if let Err(e) = set(libc::PACKET_QDISC_BYPASS, 1) {
        lost.push(format!("full queues are seen as lost-after-tx: PACKET_QDISC_BYPASS: {e}"));
    }
    let force = libc::SO_RCVBUFFORCE;
    set_option(socket.as_fd(), libc::SOL_SOCKET, force, RECEIVE_BUFFER)?;

    let finishing = packet::open()?;
    let fd = finishing.as_fd();
    set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)?;
    Ok(Sockets { socket, finishing })
}

impl Netdev {
    /// Brings the device up and binds the sockets; `None` if the device is gone.
    fn start(
        &mut self,
        links: &mut Links,
        change: &LinkChange,
        [socket, finishing]: [BorrowedFd<'_>; 2],
    ) -> io::Result<Option<LinkState>> {
        self.note.save(self.run_dir.as_deref(), &self.name)?;
        links.change(self.index, change)?;
        packet::promiscuous(socket, self.index)?;
        packet::bind(finishing, self.index, packet::PROTO_NONE)?;
        packet::bind(socket, self.index, packet::PROTO_ALL)?;
        match links.by_index(self.index) {
            Err(e) if errno(&e) == Errno::ENODEV => Ok(None),
            link => link,
        }
    }

    /// What the device finishes itself now, as [`caps_bits`] and [`NATIVE_TAGGED`].
    pub(crate) fn native(&self, link: &LinkState) -> u8 {
        let Ok(on) = ethtool::active_features(self.socket.as_fd(), &link.name) else { return 0 };
        let has = |name: &str| on.iter().any(|feature| feature == name);
        let both = has("tx-checksum-ipv4") && has("tx-checksum-ipv6");
        // These two do for tagged frames what they do for others (`passthru_features_check`); of
        // hardware, nothing tells.
        let tagged = if matches!(link.kind.as_str(), "tun" | "veth") { NATIVE_TAGGED } else { 0 };
        tagged
            | caps_bits(Caps {
                csum: has("tx-checksum-ip-generic") || both,
                tso4: has("tx-tcp-segmentation") && has("tx-tcp-ecn-segmentation"),
                tso6: has("tx-tcp6-segmentation") && has("tx-tcp-ecn-segmentation"),
                uso: has("tx-udp-segmentation"),
            })
    }

    /// Frames that found the socket's buffer full, since the port was opened.
    pub(crate) fn socket_drops(&mut self) -> u64 {
        self.drops += packet::take_drops(self.socket.as_fd()).map_or(0, u64::from);
        self.drops
    }

    /// Gives the device back to the host as it was. `gone` says that there is none any more.
    pub(crate) fn close(self, links: Option<&mut Links>, gone: bool) -> Result<(), BackendError> {
        let mut done = Ok(());
        if let (Some(links), false) = (links, gone) {
            done = self.note.undo(links, self.index, &self.name);
        }
        Note::forget(self.run_dir.as_deref(), &self.name);
        drop(self.silence);
        done.map_err(|e| failed(format!("restore device {}", self.name), e))
    }
}

/// Whether packet sockets take UDP super-frames (`VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2).
fn has_uso() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>());
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= (6, 2)
}
