//! Random bytes from one stack to another, compared where they arrive: iperf3 does not look at what
//! it gets.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::command::Host;
use crate::netns::Netns;

/// Where data is sent to: nobody's registered port.
pub const PORT: u16 = 49_152;
/// How long an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a datagram, in turn: full ones for an MTU of 1,500, and small ones.
const DATAGRAMS: [usize; 4] = [1452, 1000, 1452, 64];
/// Datagrams in one call, which waits until all of them have arrived.
const AT_ONCE: usize = 16;

/// So many random bytes.
///
/// # Errors
/// There is no `/dev/urandom`.
pub fn random(bytes: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; bytes];
    File::open("/dev/urandom")?.read_exact(&mut data)?;
    Ok(data)
}

/// Fails unless `got` is `sent`; the message has the first difference.
///
/// # Errors
/// It is not.
pub fn same(sent: &[u8], got: &[u8]) -> Result<()> {
    let wrong = sent.iter().zip(got).position(|(a, b)| a != b);
    ensure!(
        got.len() == sent.len() && wrong.is_none(),
        "{} of {} bytes arrived, the first wrong one is {wrong:?}",
        got.len(),
        sent.len()
    );
    Ok(())
}

/// Copies random bytes over TCP and compares them.
///
/// # Errors
/// No connection, a wait of half a minute, or other bytes.
pub fn tcp(from: &Netns, to: &Netns, address: &str, bytes: usize) -> Result<()> {
    let sent = random(bytes)?;
    let copied = || -> Result<()> {
        let address = SocketAddr::new(address.parse::<IpAddr>()?, PORT);
        // A socket stays in the namespace that it was opened in.
        let listener = to.enter(|| Ok(TcpListener::bind(address)?))?;
        let mut out = from.enter(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?))?;
        let (mut inward, _) = listener.accept()?;
        inward.set_read_timeout(Some(PATIENCE))?;
        out.set_write_timeout(Some(PATIENCE))?;
        let got = std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut got = Vec::new();
                inward.read_to_end(&mut got).map(|_| got)
            });
            let written = out.write_all(&sent);
            drop(out);
            let got = reader.join().map_err(|_| anyhow!("the reader panicked"))?;
            written.context("writing")?;
            Ok::<_, anyhow::Error>(got?)
        })?;
        same(&sent, &got)
    };
    copied().with_context(|| format!("{bytes} bytes over TCP to {address}"))
}

/// Copies random bytes in datagrams of several lengths and compares them. The stack is given 16
/// datagrams in one call (`UDP_SEGMENT`), and the next when these have arrived: none may be lost.
///
/// # Errors
/// A datagram is lost, out of order, of another length, or has other bytes.
pub fn udp(from: &Netns, to: &Netns, address: &str, bytes: usize) -> Result<()> {
    let data = random(bytes)?;
    let copied = || -> Result<()> {
        let address = SocketAddr::new(address.parse::<IpAddr>()?, PORT);
        let sink = to.enter(|| Ok(UdpSocket::bind(address)?))?;
        sink.set_read_timeout(Some(PATIENCE))?;
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let source = from.enter(|| Ok(UdpSocket::bind((any, 0))?))?;
        source.connect(address)?;
        let mut left = data.as_slice();
        let mut room = [0; 1 << 16];
        for len in DATAGRAMS.into_iter().cycle() {
            let (batch, rest) = left.split_at(left.len().min(len * AT_ONCE));
            left = rest;
            if batch.is_empty() {
                break;
            }
            setsockopt(&source, sockopt::UdpGsoSegment, &i32::try_from(len)?)?;
            ensure!(source.send(batch)? == batch.len(), "a send was cut short");
            for wanted in batch.chunks(len) {
                let got = sink.recv(&mut room).with_context(|| {
                    format!("a datagram of {} bytes did not come", wanted.len())
                })?;
                same(wanted, &room[..got])?;
            }
        }
        Ok(())
    };
    copied().with_context(|| format!("{bytes} bytes over UDP to {address}"))
}

/// Fails if a stack received something with a wrong checksum or header.
///
/// # Errors
/// It did, or `nstat` is missing.
pub fn nothing_was_wrong(at: &dyn Host) -> Result<()> {
    let counted = at.sh("nstat -asz")?.ok()?.stdout;
    for counter in ["TcpInCsumErrors", "TcpInErrs", "UdpInCsumErrors", "IpInHdrErrors"] {
        let line = counted.lines().find(|line| line.starts_with(counter));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        ensure!(value == Some("0"), "{}: {counter} {value:?}\n{counted}", at.label());
    }
    Ok(())
}
