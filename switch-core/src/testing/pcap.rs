//! Classic capture files (the format of libpcap, magic 0xa1b2c3d4), so that a scenario can be
//! looked at with tshark, and what was captured elsewhere can be replayed.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>. Offload metadata has no place
//! in the format and is lost.

use std::io::{self, Read, Write};

use super::Wire;
use crate::batch::Batch;
use crate::clock::Nanos;
use crate::datapath::{Datapath, Ready, Wait, Wake};
use crate::frame::{Frame, MAX_FRAME};
use crate::ids::PortId;
use crate::stats::PortCounters;

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// What is wrong with a capture.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// Reading or writing failed.
    #[error("capture: {0}")]
    Io(#[from] io::Error),
    /// The file does not start with a known magic number.
    #[error("not a classic capture file: it starts with {0:#010x}")]
    Magic(u32),
    /// The frames are not Ethernet frames.
    #[error("link type {0}, but only Ethernet (1) can be replayed")]
    LinkType(u32),
    /// A record says it is longer than any frame.
    #[error("a record of {0} bytes is longer than the longest frame, {MAX_FRAME}")]
    TooLong(u32),
}

/// Writes a capture with time stamps in nanoseconds.
#[derive(Debug)]
pub struct PcapWriter<W> {
    out: W,
}

impl<W: Write> PcapWriter<W> {
    /// Starts a capture.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend_from_slice(&MAGIC_NANOS.to_le_bytes());
        // Version 2.4, then two fields that are always zero.
        header.extend_from_slice(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        header.extend_from_slice(&(MAX_FRAME as u32).to_le_bytes());
        header.extend_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&mut self, at: Nanos, frame: &[u8]) -> io::Result<()> {
        let len = frame.len() as u32;
        for field in [at.secs() as u32, (at.0 % 1_000_000_000) as u32, len, len] {
            self.out.write_all(&field.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Ends the capture and gives `out` back.
    ///
    /// # Errors
    /// Those of flushing `out`.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads a capture, in either byte order and with either resolution of time.
#[derive(Debug)]
pub struct PcapReader<R> {
    input: R,
    big_endian: bool,
    nanos_per_tick: u64,
}

impl<R: Read> PcapReader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// [`PcapError`] if it is none, or of frames that are not Ethernet's.
    pub fn new(mut input: R) -> Result<Self, PcapError> {
        let mut header = [0; FILE_HEADER];
        input.read_exact(&mut header)?;
        let magic = word(&header, 0, false);
        let (big_endian, nanos_per_tick) = match magic {
            MAGIC_MICROS => (false, 1000),
            MAGIC_NANOS => (false, 1),
            _ if magic.swap_bytes() == MAGIC_MICROS => (true, 1000),
            _ if magic.swap_bytes() == MAGIC_NANOS => (true, 1),
            _ => return Err(PcapError::Magic(magic)),
        };
        // The upper bits say whether an FCS follows each frame; it never does for us.
        let link_type = word(&header, 20, big_endian) & 0xffff;
        if link_type != LINKTYPE_ETHERNET {
            return Err(PcapError::LinkType(link_type));
        }
        Ok(Self { input, big_endian, nanos_per_tick })
    }

    /// The next frame and its time; `None` at the end.
    ///
    /// # Errors
    /// [`PcapError`] if the file ends within a record or a record is too long.
    pub fn next_frame(&mut self) -> Result<Option<(Nanos, Vec<u8>)>, PcapError> {
        let mut header = [0; RECORD_HEADER];
        let mut have = 0;
        while have < RECORD_HEADER {
            match self.input.read(&mut header[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                n => have += n,
            }
        }
        let field = |at| word(&header, at, self.big_endian);
        let time =
            Nanos::from_secs(u64::from(field(0))).0 + u64::from(field(4)) * self.nanos_per_tick;
        let len = field(8);
        if len as usize > MAX_FRAME {
            return Err(PcapError::TooLong(len));
        }
        let mut frame = vec![0; len as usize];
        self.input.read_exact(&mut frame)?;
        Ok(Some((Nanos(time), frame)))
    }
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = bytes.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

/// Sends every frame of a capture into the switch, in order, and says how many there were.
/// `between` runs after each frame, with its time: the place to move a clock and turn a worker.
///
/// # Errors
/// [`PcapError`]; frames before the damage were sent.
pub fn replay<R: Read>(
    wire: &Wire,
    reader: &mut PcapReader<R>,
    mut between: impl FnMut(Nanos),
) -> Result<usize, PcapError> {
    let mut frames = 0;
    while let Some((at, bytes)) = reader.next_frame()? {
        wire.inject(bytes);
        between(at);
        frames += 1;
    }
    Ok(frames)
}

/// A datapath that writes what one of its ports receives into a capture.
#[derive(Debug)]
pub struct Recording<D, W> {
    inner: D,
    port: PortId,
    capture: PcapWriter<W>,
    now: Nanos,
    scratch: Vec<u8>,
    /// The first error; nothing is written after it.
    failed: Option<io::Error>,
}

impl<D, W: Write> Recording<D, W> {
    /// Records what `port` receives.
    ///
    /// # Errors
    /// Those of writing the capture's header.
    pub fn new(inner: D, port: PortId, out: W) -> io::Result<Self> {
        let capture = PcapWriter::new(out)?;
        Ok(Self { inner, port, capture, now: Nanos(0), scratch: Vec::new(), failed: None })
    }

    /// The time of the frames that come next.
    pub fn set_time(&mut self, now: Nanos) {
        self.now = now;
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// The first error that writing met.
    pub fn finish(self) -> io::Result<(D, W)> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok((self.inner, self.capture.finish()?)),
        }
    }
}

impl<D: Datapath, W: Write + Send> Datapath for Recording<D, W> {
    type Frame = D::Frame;
    type Queue = D::Queue;

    fn attach(&mut self, port: PortId, queue: D::Queue) -> Option<D::Queue> {
        self.inner.attach(port, queue)
    }

    fn detach(&mut self, port: PortId) -> Option<D::Queue> {
        self.inner.detach(port)
    }

    fn poll(&mut self, wait: Wait, ready: &mut Ready) {
        self.inner.poll(wait, ready);
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<D::Frame>,
        counters: &PortCounters,
    ) -> usize {
        let before = batch.len();
        let received = self.inner.rx_burst(port, batch, counters);
        if port == self.port {
            for frame in batch.as_slice().iter().skip(before) {
                frame.copy_to(&mut self.scratch);
                if self.failed.is_none() {
                    self.failed = self.capture.write(self.now, &self.scratch).err();
                }
            }
        }
        received
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<D::Frame>, counters: &PortCounters) {
        self.inner.tx_burst(port, batch, counters);
    }

    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
        self.inner.tx_handed_over(port, counters);
    }

    fn alloc(&mut self) -> Option<D::Frame> {
        self.inner.alloc()
    }

    fn waker(&self) -> std::sync::Arc<dyn Wake> {
        self.inner.waker()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture() -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for n in 0..5u64 {
            writer.write(Nanos(n * 1_500_000_007), &vec![n as u8; 14 + n as usize]).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(Nanos, Vec<u8>)>, PcapError> {
        let mut reader = PcapReader::new(bytes)?;
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn what_was_written_is_read() {
        let frames = read_all(&capture()).unwrap();
        assert_eq!(frames.len(), 5);
        for (n, (at, bytes)) in frames.iter().enumerate() {
            assert_eq!(*at, Nanos(n as u64 * 1_500_000_007));
            assert_eq!(*bytes, vec![n as u8; 14 + n]);
        }
    }

    #[test]
    fn big_endian_and_microseconds_are_read() {
        let mut file = Vec::new();
        for word in [MAGIC_MICROS, 0x0002_0004, 0, 0, 65_535, 1, 7, 5, 14, 14] {
            file.extend_from_slice(&word.to_be_bytes());
        }
        file.extend_from_slice(&[9; 14]);
        assert_eq!(read_all(&file).unwrap(), [(Nanos(7_000_005_000), vec![9; 14])]);
    }

    #[test]
    fn damage_is_an_error_wherever_it_is() {
        let good = capture();
        for cut in 0..good.len() {
            let frames = read_all(&good[..cut]);
            // Cut between two records, a capture is a shorter one.
            assert!(frames.is_err() || frames.is_ok_and(|f| f.len() < 5), "cut at {cut}");
        }
        let mut long = good.clone();
        long[FILE_HEADER + 8..FILE_HEADER + 12].fill(0xff);
        assert!(matches!(read_all(&long), Err(PcapError::TooLong(u32::MAX))));
        let mut other = good.clone();
        other[20] = 113;
        assert!(matches!(read_all(&other), Err(PcapError::LinkType(113))));
        assert!(matches!(read_all(&[0; 24]), Err(PcapError::Magic(0))));
    }
}
