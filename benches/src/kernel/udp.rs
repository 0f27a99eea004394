//! UDP at full load: as many small datagrams as a stack sends, and how many an application far
//! away receives.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, UdpGsoSegment};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt};
use vswitch_e2e::Netns;

use super::at_the_end_points;

/// Bytes of payload of a datagram.
pub const PAYLOAD: usize = 64;
/// Datagrams a system call, at both ends: the most that `UDP_SEGMENT` took at first (`UDP_MAX_SEGMENTS`).
const AT_ONCE: usize = 64;
/// Flows, which differ in their source port.
const FLOWS: usize = 16;
/// Bytes of the receiver's queue: it is not to be the limit.
const QUEUE: usize = 4 << 20;
/// How long a receiver whose queue is empty sleeps, so that it costs no wake-up a datagram.
const NAP: Duration = Duration::from_micros(200);
/// At full load before the measurement.
const WARM: Duration = Duration::from_millis(300);

/// Has one stack send to the other as fast as it can; calls `during` for the measured time, between
/// two looks at what the receiver has. Datagrams a second that were received.
///
/// # Errors
/// A socket fails, or nothing is received.
pub fn blast(from: &Netns, to: &Netns, address: &str, during: impl FnOnce()) -> Result<f64> {
    let sink = to.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    setsockopt(&sink, RcvBufForce, &QUEUE).context("cannot enlarge the receiver's queue")?;
    let address = SocketAddr::new(address.parse()?, sink.local_addr()?.port());
    let sources = from.enter(|| (0..FLOWS).map(|_| source(address)).collect::<Result<Vec<_>>>())?;
    let (done, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let rate = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&sink, &received, &done));
        let sender = scope.spawn(|| send(&sources, &done));
        sleep(WARM);
        let (start, before) = (Instant::now(), received.load(Relaxed));
        during();
        let count = received.load(Relaxed) - before;
        let rate = count as f64 / start.elapsed().as_secs_f64();
        done.store(true, Relaxed);
        for thread in [receiver, sender] {
            thread.join().map_err(|_| anyhow::anyhow!("an end point panicked"))??;
        }
        Ok::<_, anyhow::Error>(rate)
    })?;
    ensure!(rate > 0.0, "no datagram was received");
    Ok(rate)
}

/// A socket whose sends the kernel cuts into datagrams.
fn source(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to).with_context(|| format!("cannot send to {to}"))?;
    setsockopt(&socket, UdpGsoSegment, &(PAYLOAD as i32)).context("no UDP_SEGMENT")?;
    Ok(socket)
}

fn send(sources: &[UdpSocket], done: &AtomicBool) -> Result<()> {
    at_the_end_points()?;
    let data = [0x5a; PAYLOAD * AT_ONCE];
    for source in sources.iter().cycle() {
        if done.load(Relaxed) {
            break;
        }
        match source.send(&data) {
            // What the device's queue has no room for is lost: that is what full load means.
            Err(e) if e.raw_os_error() != Some(Errno::ENOBUFS as i32) => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

fn receive(sink: &UdpSocket, received: &AtomicU64, done: &AtomicBool) -> Result<()> {
    at_the_end_points()?;
    let mut room = vec![[0; PAYLOAD]; AT_ONCE];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(AT_ONCE, None);
    while !done.load(Relaxed) {
        let mut slices: Vec<_> = room.iter_mut().map(|room| [IoSliceMut::new(room)]).collect();
        let fd = sink.as_raw_fd();
        let got = recvmmsg(fd, &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None);
        let got = match got {
            Ok(messages) => messages.count(),
            Err(Errno::EAGAIN) => 0,
            Err(e) => return Err(e).context("cannot receive"),
        };
        received.fetch_add(got as u64, Relaxed);
        if got < AT_ONCE {
            sleep(NAP);
        }
    }
    Ok(())
}
