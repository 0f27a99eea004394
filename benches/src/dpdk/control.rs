//! The file that sources and sinks share with the benchmark: what each port is to give, and what
//! it gave and got.
//!
//! It lies in memory (tmpfs) and the library in `port.c` maps it. Here it is read and written
//! through the file: that needs no unsafe code, and costs nobody but us anything.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vswitch_e2e::until;

/// Ports that the file has room for.
pub const PORTS: usize = 4;
/// Frames that a sink can keep.
pub const KEPT: u64 = 64;

// Offsets within a port, asserted in port.c.
const SIZE: u64 = 132_032;
const DEVICE: u64 = 0;
const FRAMES: u64 = 64;
const OPEN: u64 = 256;
const RATE: u64 = 264;
const LIMIT: u64 = 272;
const DIGEST: u64 = 280;
const KEEP: u64 = 288;
const STARTED: u64 = 320;
const TAKEN: u64 = 328;
const FAILED: u64 = 336;
const LOADED: u64 = 344;
const RX: u64 = 384;
const TX: u64 = 448;
const TXQS: u64 = 8;
const COUNTS: u64 = 64;
const KEPT_AT: u64 = 960;
const KEPT_SIZE: u64 = 2048;

/// How long a switch may take to start its ports and to read their frames.
const READY: Duration = Duration::from_secs(60);

/// What a source gave or a sink got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Calls that had frames.
    pub bursts: u64,
    /// Sum of [`hash`] over the frames, where that was asked for.
    pub digest: u64,
}

/// Both sides of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// What the switch received from the source.
    pub rx: Counts,
    /// What it sent to the sink.
    pub tx: Counts,
    /// Bursts not received as the switch's mempool was dry.
    pub failed: u64,
}

/// What a switch did between two moments.
#[derive(Clone, Debug)]
pub struct Took {
    /// Seconds of CPU time of the worker.
    pub secs: f64,
    /// Those by the wall.
    pub wall: f64,
    /// Of each port.
    pub ports: Vec<PortCounts>,
}

impl Took {
    /// Frames a second that reached the sinks, in millions.
    pub fn mpps(&self) -> f64 {
        self.ports.iter().map(|p| p.tx.frames).sum::<u64>() as f64 / self.secs / 1e6
    }

    /// Frames a second that came from the sources of `ports`, in millions.
    pub fn given_mpps(&self, ports: &[usize]) -> f64 {
        let frames = ports.iter().filter_map(|p| self.ports.get(*p)).map(|p| p.rx.frames);
        frames.sum::<u64>() as f64 / self.secs / 1e6
    }

    /// Frames in a burst that was sent.
    pub fn burst(&self) -> f64 {
        let sum = |f: fn(&PortCounts) -> u64| self.ports.iter().map(f).sum::<u64>() as f64;
        sum(|p| p.tx.frames) / sum(|p| p.tx.bursts).max(1.0)
    }

    /// Bytes of a frame that was sent.
    pub fn length(&self) -> f64 {
        let sum = |f: fn(&PortCounts) -> u64| self.ports.iter().map(f).sum::<u64>() as f64;
        sum(|p| p.tx.bytes) / sum(|p| p.tx.frames).max(1.0)
    }
}

/// What the sinks' digest has of a frame: FNV-1a.
pub fn hash(frame: &[u8]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    frame.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// The file.
#[derive(Debug)]
pub struct Control {
    file: File,
    path: PathBuf,
    ports: usize,
}

impl Control {
    /// Makes it, for the ports that have these names in DPDK.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: PathBuf, devices: &[&str]) -> Result<Self> {
        ensure!(devices.len() <= PORTS, "at most {PORTS} ports");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        file.set_len(SIZE * PORTS as u64)?;
        let control = Self { file, path, ports: devices.len() };
        for (port, device) in devices.iter().enumerate() {
            control.text(port, DEVICE, device, 64)?;
        }
        Ok(control)
    }

    /// Where it is, for [`VARIABLE`](super::port::VARIABLE).
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn text(&self, port: usize, at: u64, text: &str, room: usize) -> Result<()> {
        ensure!(text.len() < room, "{text} is too long");
        let at = port as u64 * SIZE + at;
        // The library looks at the first byte: that comes last.
        if let Some((first, rest)) = text.as_bytes().split_first() {
            self.file.write_all_at(rest, at + 1)?;
            self.file.write_all_at(&[*first], at)?;
        }
        Ok(())
    }

    fn set(&self, port: usize, at: u64, value: u64) -> Result<()> {
        Ok(self.file.write_all_at(&value.to_ne_bytes(), port as u64 * SIZE + at)?)
    }

    fn get(&self, port: usize, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, port as u64 * SIZE + at)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Waits until the switch has started every port. `alive` says when there is no point in it.
    ///
    /// # Errors
    /// It does not, or `alive` failed.
    pub fn wait_started(&self, mut alive: impl FnMut() -> Result<()>) -> Result<()> {
        until(READY, "the switch to start its ports", || {
            alive()?;
            let mut all = true;
            for port in 0..self.ports {
                all &= self.get(port, STARTED)? > 0;
            }
            Ok(all.then_some(()))
        })
    }

    /// Gives a port's source its frames, and waits until it has read them. It gives none of them
    /// before [`Control::open`].
    ///
    /// # Errors
    /// The switch does not poll the port.
    pub fn load(&self, port: usize, frames: &Path) -> Result<()> {
        self.text(port, FRAMES, &frames.display().to_string(), 192)?;
        let what = format!("port {port} to read {}", frames.display());
        until(READY, &what, || Ok((self.get(port, LOADED)? > 0).then_some(())))
    }

    /// Lets the sources of all ports give frames, or stops them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(&self, yes: bool) -> Result<()> {
        (0..self.ports).try_for_each(|port| self.open_port(port, yes))
    }

    /// Lets one source give frames, or stops it.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn open_port(&self, port: usize, yes: bool) -> Result<()> {
        self.set(port, OPEN, yes.into())
    }

    /// At most that many frames a second from a source; 0 is as many as the switch asks for.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn rate(&self, port: usize, frames: u64) -> Result<()> {
        self.set(port, RATE, frames)
    }

    /// That many frames in all from a source; 0 is without end.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn limit(&self, port: usize, frames: u64) -> Result<()> {
        self.set(port, LIMIT, frames)
    }

    /// Has a sink sum up what frames contain.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn digest(&self, port: usize) -> Result<()> {
        self.set(port, DIGEST, 1)
    }

    /// Has a sink keep the next frames, once.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn keep(&self, port: usize) -> Result<()> {
        self.set(port, KEEP, KEPT)
    }

    /// What a sink kept.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kept(&self, port: usize) -> Result<Vec<Vec<u8>>> {
        let taken = self.get(port, TAKEN)?.min(KEPT);
        let frame = |n| {
            let at = KEPT_AT + n * KEPT_SIZE;
            let len = self.get(port, at)?.min(KEPT_SIZE - 8);
            let mut bytes = vec![0; usize::try_from(len)?];
            self.file.read_exact_at(&mut bytes, port as u64 * SIZE + at + 8)?;
            Ok(bytes)
        };
        (0..taken).map(frame).collect()
    }

    fn counts(&self, port: usize, at: u64) -> Result<Counts> {
        Ok(Counts {
            frames: self.get(port, at)?,
            bytes: self.get(port, at + 8)?,
            bursts: self.get(port, at + 16)?,
            digest: self.get(port, at + 24)?,
        })
    }

    /// What every port has counted.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<Vec<PortCounts>> {
        let port = |port| {
            let mut tx = Counts::default();
            for queue in 0..TXQS {
                let more = self.counts(port, TX + queue * COUNTS)?;
                tx.frames += more.frames;
                tx.bytes += more.bytes;
                tx.bursts += more.bursts;
                tx.digest = tx.digest.wrapping_add(more.digest);
            }
            let (rx, failed) = (self.counts(port, RX)?, self.get(port, FAILED)?);
            Ok(PortCounts { rx, tx, failed })
        };
        (0..self.ports).map(port).collect()
    }

    /// What happens in that time. `clock` tells the CPU time of the worker.
    ///
    /// # Errors
    /// The file or the clock cannot be read.
    pub fn measure(&self, time: Duration, clock: impl Fn() -> Result<Duration>) -> Result<Took> {
        let (start, begun, before) = (Instant::now(), clock()?, self.read()?);
        std::thread::sleep(time);
        let (wall, secs) = (start.elapsed().as_secs_f64(), (clock()? - begun).as_secs_f64());
        let after = self.read()?;
        let less = |a: &Counts, b: &Counts| Counts {
            frames: a.frames - b.frames,
            bytes: a.bytes - b.bytes,
            bursts: a.bursts - b.bursts,
            digest: a.digest.wrapping_sub(b.digest),
        };
        let port = |(a, b): (&PortCounts, &PortCounts)| PortCounts {
            rx: less(&a.rx, &b.rx),
            tx: less(&a.tx, &b.tx),
            failed: a.failed - b.failed,
        };
        Ok(Took { secs, wall, ports: after.iter().zip(&before).map(port).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_lies_where_the_library_looks() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let control = Control::create(dir.path().join("ports"), &["net_null0", "net_null1"])?;
        control.rate(1, 0x0102)?;
        let bytes = std::fs::read(control.path())?;
        let second = SIZE as usize;
        assert_eq!(&bytes[..10], b"net_null0\0");
        assert_eq!(&bytes[second..second + 10], b"net_null1\0");
        assert_eq!(bytes[second + 264..second + 272], 0x0102u64.to_ne_bytes());
        assert_eq!(control.read()?, vec![PortCounts::default(); 2]);
        assert_eq!(control.kept(0)?, Vec::<Vec<u8>>::new());
        assert!(control.text(0, DEVICE, &"x".repeat(64), 64).is_err());
        Ok(())
    }

    #[test]
    fn the_hash_is_fnv() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
