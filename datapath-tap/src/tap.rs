//! TAP devices: made, taken over, adjusted and deleted. Control side.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use switch_core::config::{Netns, PortSpec};
use switch_core::datapath::{BackendError, Caps};

use crate::error::{NEEDS_NET_ADMIN, errno, failed, failed_hint, refused};
use crate::io::TAP_LAYOUT;
use crate::link::{LinkChange, LinkState, Links};
use crate::netns;
use crate::sys::tun::{self, Make};

/// How often a device or port that is busy is tried again, and after how long.
pub(crate) const BUSY_TRIES: usize = 5;
pub(crate) const BUSY_WAIT: Duration = Duration::from_millis(20);

/// The longest super-frame of a new TAP's stack, in bytes. TCP makes 43 segments of it where the MTU is
/// 1500 (not 45, as of 64 KiB): with the headers of a tunnel in front of each they still fit the
/// one datagram by which the kernel is given them, whose length has 16 bits.
const GSO_MAX: u32 = 62_600;

/// A TAP that this process has open.
#[derive(Debug)]
pub(crate) struct Tap {
    /// One a queue.
    pub(crate) files: Vec<OwnedFd>,
    pub(crate) vnet_hdr: bool,
    pub(crate) caps: Caps,
    /// In the device's own namespace.
    pub(crate) links: Links,
    pub(crate) link: LinkState,
    /// What the kernel refused.
    pub(crate) lost: Vec<String>,
}

/// `ip` for the namespace the device is in.
fn ip_command(netns: Option<&Netns>) -> String {
    match netns {
        None => "ip".into(),
        Some(netns) if netns.0.starts_with('/') => format!("nsenter --net={netns} ip"),
        Some(netns) => format!("ip -n {netns}"),
    }
}

/// Moves the TAP `device` of our own namespace into `netns`, if it is there, nobody has it open, and
/// `netns` has none of that name. In all other cases nothing happens: it is no business of ours, or
/// opening it will say what is wrong.
pub(crate) fn move_into(
    links: &mut Links,
    device: &str,
    netns: &Netns,
) -> Result<(), BackendError> {
    let Ok(Some(link)) = links.by_name(device) else { return Ok(()) };
    let attempted = format!("move TAP device {device} into netns {netns}");
    let there = || {
        let found = Links::open().and_then(|mut there| there.by_name(device));
        found.map_err(|e| refused(&attempted, &e))
    };
    if link.kind != "tun" || netns::run_in(Some(netns), there)?.is_some() {
        return Ok(());
    }
    // Held while it is moved; an owner somewhere else makes this fail, or has a queue of it.
    let Ok(held) = tun::open() else { return Ok(()) };
    let make = Make { vnet_hdr: true, multi_queue: link.multi_queue };
    if link.queues > 0 || tun::set_iff(&held, device, make).is_err() {
        return Ok(());
    }
    let moved = File::open(netns.path()).and_then(|netns| links.move_to(link.index, &netns));
    moved.map_err(|e| refused(attempted, &e))
}

/// Opens the TAP `device` in the namespace of the calling thread, which is `netns`.
///
/// `plain` asks for the device without offloads even if the kernel has them, and with one queue.
/// Fewer than `queues` is no error.
pub(crate) fn open(
    device: &str,
    netns: Option<&Netns>,
    persist: bool,
    spec: &PortSpec,
    plain: bool,
    queues: u16,
) -> Result<Tap, BackendError> {
    let place = netns.map(|n| format!(" in netns {n}")).unwrap_or_default();
    let attempted = format!("open TAP device {device}{place}");
    let ip = ip_command(netns);
    let mut links = Links::open().map_err(|e| refused(&attempted, &e))?;
    let existing = links.by_name(device).map_err(|e| refused(&attempted, &e))?;
    if let Some(link) = &existing
        && link.kind != "tun"
    {
        let kind = if link.kind.is_empty() { "hardware" } else { &link.kind };
        return Err(failed_hint(
            attempted,
            format!("a device of that name exists and is no TAP ({kind})"),
            format!(
                "choose another `device`, or use type = \"netdev\", or: {ip} link del {device}"
            ),
        ));
    }

    let mut lost = Vec::new();
    let queues = if plain { 1 } else { queues.max(1) };
    let multi_queue = existing.as_ref().map_or(queues > 1, |link| link.multi_queue);
    if queues > 1 && !multi_queue {
        lost.push(format!(
            "several queues: the device was made with one (anew: {ip} link del {device})"
        ));
    }
    let mut make = Make { vnet_hdr: !plain, multi_queue };
    let explain = |e| explain_open(&attempted, device, &ip, existing.is_some(), &e);
    let file = open_when_free(&mut links, device, &mut make, &mut lost).map_err(explain)?;
    let caps = if make.vnet_hdr {
        tun::set_vnet_hdr_len(&file, TAP_LAYOUT.header_len())
            .map_err(|e| refused(format!("{attempted}: set the header's length"), &e))?;
        negotiate(&file, &mut lost)
    } else {
        // An earlier owner may have left offloads on the device.
        let _ = tun::set_offload(&file, 0);
        Caps::default()
    };

    let mut files = vec![OwnedFd::from(file)];
    if multi_queue {
        open_more(device, make, queues.into(), &mut files, &mut lost);
    }

    let missing = || failed(&attempted, "it was deleted while it was opened");
    let link = links.by_name(device).map_err(|e| refused(&attempted, &e))?.ok_or_else(missing)?;
    if multi_queue && link.queues as usize > files.len() {
        // Another program opened it in the same moment: each would get a part of the frames.
        return Err(explain(Errno::EBUSY.into()));
    }
    if existing.is_none()
        && let Err(e) = links.send_at_once(link.index)
    {
        lost.push(format!("sending at once (noqueue): {e}"));
    }
    if existing.is_none()
        && let Err(e) = links
            .change(link.index, &LinkChange { gso_max: Some(GSO_MAX), ..LinkChange::default() })
    {
        lost.push(format!("super-frames of the best length (gso_max_size {GSO_MAX}): {e}"));
    }
    apply(&mut links, &link, spec, &attempted)?;
    // Last, so that after any error above a device made here is gone again.
    tun::set_persist(&files[0], persist)
        .map_err(|e| refused(format!("{attempted}: set persistence"), &e))?;
    let link = links.by_index(link.index).map_err(|e| refused(&attempted, &e))?;
    let link = link.ok_or_else(missing)?;
    Ok(Tap { files, vnet_hdr: make.vnet_hdr, caps, links, link, lost })
}

/// MTU and address as the port wants them, and up.
fn apply(
    links: &mut Links,
    link: &LinkState,
    spec: &PortSpec,
    attempted: &str,
) -> Result<(), BackendError> {
    links.change(link.index, &wanted(link, spec)).map_err(|e| explain_change(attempted, spec, &e))
}

/// Why MTU, address or link state could not be set.
pub(crate) fn explain_change(attempted: &str, spec: &PortSpec, e: &io::Error) -> BackendError {
    let mut what = format!("{attempted}: set");
    if let Some(mtu) = spec.mtu {
        what += &format!(" mtu {mtu}");
    }
    if let Some(mac) = spec.mac {
        what += &format!(" mac {mac}");
    }
    match errno(e) {
        Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::ERANGE => failed_hint(
            what,
            e,
            "see the device's limits: ip -d link show (minmtu, maxmtu); an address must not be \
             zero or a group address",
        ),
        _ => refused(what, e),
    }
}

/// What of the device is to be changed for the port.
pub(crate) fn wanted(link: &LinkState, spec: &PortSpec) -> LinkChange {
    LinkChange {
        mtu: spec.mtu.map(u32::from).filter(|mtu| *mtu != link.mtu),
        mac: spec.mac.map(|mac| mac.octets()).filter(|mac| *mac != link.mac),
        up: (!link.admin_up).then_some(true),
        gso_max: None,
    }
}

/// [`open_file`], with a little patience for a file that is just being closed: by a switch that was
/// killed a moment ago, or in a child process between its fork and its exec.
fn open_when_free(
    links: &mut Links,
    device: &str,
    make: &mut Make,
    lost: &mut Vec<String>,
) -> io::Result<File> {
    for _ in 0..BUSY_TRIES {
        match open_free(links, device, make, lost) {
            Err(e) if errno(&e) == Errno::EBUSY => std::thread::sleep(BUSY_WAIT),
            opened => return opened,
        }
    }
    open_free(links, device, make, lost)
}

/// [`open_file`]; `EBUSY` also for a device that would give every program a queue.
fn open_free(
    links: &mut Links,
    device: &str,
    make: &mut Make,
    lost: &mut Vec<String>,
) -> io::Result<File> {
    if make.multi_queue && links.by_name(device)?.is_some_and(|link| link.queues > 0) {
        return Err(Errno::EBUSY.into());
    }
    open_file(device, make, lost)
}

/// The file of the device's first queue, with a virtio header before each frame where that was asked
/// for and the kernel has it.
fn open_file(device: &str, make: &mut Make, lost: &mut Vec<String>) -> io::Result<File> {
    if make.vnet_hdr || make.multi_queue {
        let file = tun::open()?;
        match tun::set_iff(&file, device, *make) {
            Ok(()) => return Ok(file),
            Err(e) if errno(&e) != Errno::EINVAL || !make.vnet_hdr => return Err(e),
            Err(_) => {}
        }
        lost.push("offloads: the kernel has no IFF_VNET_HDR for this device".into());
        make.vnet_hdr = false;
    }
    let iface = tun_tap::Iface::without_packet_info(device, tun_tap::Mode::Tap)?;
    tun::adopt(iface)
}

/// Opens further queues, until there are `queues` or the kernel gives no more.
fn open_more(
    device: &str,
    make: Make,
    queues: usize,
    files: &mut Vec<OwnedFd>,
    lost: &mut Vec<String>,
) {
    while files.len() < queues {
        let file = tun::open();
        match file.and_then(|file| tun::set_iff(&file, device, make).map(|()| file)) {
            Ok(file) => files.push(file.into()),
            Err(e) => {
                lost.push(format!("{queues} queues: the kernel gave {} ({e})", files.len()));
                return;
            }
        }
    }
}

/// Asks for as many offloads as the kernel takes.
fn negotiate(file: &File, lost: &mut Vec<String>) -> Caps {
    let tso = tun::F_CSUM | tun::F_TSO4 | tun::F_TSO6 | tun::F_TSO_ECN;
    if tun::set_offload(file, tso | tun::F_USO).is_ok() {
        return Caps::ALL;
    }
    lost.push("UDP super-frames: the kernel has no TUN_F_USO (Linux 6.2)".into());
    if tun::set_offload(file, tso).is_ok() {
        return Caps { uso: false, ..Caps::ALL };
    }
    lost.push("TCP super-frames and checksums: the kernel refused TUNSETOFFLOAD".into());
    let _ = tun::set_offload(file, 0);
    // The virtio header is there all the same, and what we send may use it: the kernel's side of
    // a TAP takes unfinished frames whatever was negotiated for the other direction.
    Caps { uso: false, ..Caps::ALL }
}

/// Why a TAP could not be opened, and what mends it.
fn explain_open(
    attempted: &str,
    device: &str,
    ip: &str,
    exists: bool,
    e: &io::Error,
) -> BackendError {
    match errno(e) {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => failed_hint(
            attempted,
            format!("/dev/net/tun: {e}"),
            "load the driver: modprobe tun (in a container, pass the device: --device /dev/net/tun)",
        ),
        Errno::EBUSY => failed_hint(
            attempted,
            "another program has it open (a second vswitchd, a QEMU?)",
            format!(
                "find it: grep -lw 'iff:.{device}' /proc/[0-9]*/fdinfo/* ; then stop it, or use type = \"netdev\""
            ),
        ),
        Errno::EPERM | Errno::EACCES => failed_hint(attempted, e, NEEDS_NET_ADMIN),
        Errno::EINVAL if exists => failed_hint(
            attempted,
            "a device of that name exists and is a TUN",
            format!("choose another `device`, or: {ip} link del {device}"),
        ),
        Errno::EINVAL | Errno::UnknownErrno => failed_hint(
            attempted,
            format!("{e}: is it a device name?"),
            "a device name has 1 to 15 bytes, without spaces and slashes",
        ),
        _ => failed(attempted, e),
    }
}
