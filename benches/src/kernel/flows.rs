//! Many TCP connections at once, whose bytes are counted where they arrive.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use vswitch_e2e::Netns;

use super::at_the_end_points;

/// Bytes a call.
const CHUNK: usize = 128 << 10;
/// Until all connections send.
const WARM: Duration = Duration::from_millis(500);
/// For a connection to be accepted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens `count` connections to the addresses of `to` in turn and sends on all of them as fast as
/// they take it. Calls `during` for the measured time; the bytes that arrived meanwhile.
///
/// # Errors
/// A connection cannot be opened or breaks, or nothing arrives.
pub fn run(
    from: &Netns,
    to: &Netns,
    addresses: &[String],
    count: usize,
    during: impl FnOnce(),
) -> Result<u64> {
    let mut pairs = Vec::new();
    for address in addresses.iter().cycle().take(count) {
        pairs.push(connect(from, to, address.parse()?).with_context(|| address.clone())?);
    }
    let received = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (source, sink) in &pairs {
            threads.push(scope.spawn(|| receive(sink, &received)));
            threads.push(scope.spawn(|| send(source)));
        }
        sleep(WARM);
        let before = received.load(Relaxed);
        during();
        let bytes = received.load(Relaxed) - before;
        for (source, sink) in &pairs {
            // The far end may have closed by itself, which the thread at it tells.
            let _ = source.shutdown(Shutdown::Both);
            let _ = sink.shutdown(Shutdown::Both);
        }
        for thread in threads {
            thread.join().map_err(|_| anyhow!("an end point panicked"))??;
        }
        ensure!(bytes > 0, "nothing arrived");
        Ok(bytes)
    })
}

fn connect(from: &Netns, to: &Netns, address: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = to.enter(|| Ok(TcpListener::bind((address, 0))?))?;
    let address = SocketAddr::new(address, listener.local_addr()?.port());
    let source = from.enter(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?))?;
    Ok((source, listener.accept()?.0))
}

/// Until it is shut down.
fn send(mut to: &TcpStream) -> Result<()> {
    at_the_end_points()?;
    let data = vec![0x5a; CHUNK];
    while to.write(&data).is_ok_and(|len| len > 0) {}
    Ok(())
}

fn receive(mut from: &TcpStream, received: &AtomicU64) -> Result<()> {
    at_the_end_points()?;
    let mut room = vec![0; CHUNK];
    while let Ok(len @ 1..) = from.read(&mut room) {
        received.fetch_add(len as u64, Relaxed);
    }
    Ok(())
}
