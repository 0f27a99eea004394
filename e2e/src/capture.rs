//! What arrives at a device, frame by frame and with its VLAN tags, by tcpdump.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{Cmd, Output, Process, until};
use crate::netns::Netns;

/// A running capture of the frames that a device hands to its stack (not of those it sends).
#[derive(Debug)]
pub struct Capture {
    process: Process,
    dir: tempfile::TempDir,
    messages: Receiver<String>,
    device: String,
}

impl Capture {
    /// Starts capturing on `device`; returns when tcpdump listens, so nothing sent later is
    /// missed. `filter` is pcap's language (for example `udp port 4789`); empty takes everything.
    ///
    /// # Errors
    /// tcpdump is missing, or the device or filter is wrong (with tcpdump's own message).
    pub fn start(netns: &Netns, device: &str, filter: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vst-capture-").tempdir()?;
        let pcap = dir.path().join("capture.pcap");
        let mut cmd = netns
            .cmd("tcpdump")
            // In, to the end, without names, unbuffered, as root (-Z: else the file is not ours).
            .args(["-i", device, "-Q", "in", "-s", "0", "-n", "-U", "--immediate-mode"])
            .args(["-B", "65536", "-Z", "root", "-w"])
            .arg(pcap.display());
        if !filter.is_empty() {
            cmd = cmd.arg(filter);
        }
        let mut process = cmd.spawn(Stdio::null(), Stdio::piped())?;
        let (sender, messages) = channel();
        let stderr = process.take_stderr().context("tcpdump has no standard error")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut said = String::new();
        until(Duration::from_secs(20), "tcpdump to listen", || {
            while let Ok(line) = messages.try_recv() {
                said.push_str(&line);
                said.push('\n');
            }
            if said.contains("listening on") {
                return Ok(Some(()));
            }
            if let Some(code) = process.poll()? {
                bail!("tcpdump on {device} exited with {code}: {said}");
            }
            Ok(None)
        })?;
        Ok(Self { process, dir, messages, device: device.to_owned() })
    }

    /// The frames so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        read_pcap(&self.dir.path().join("capture.pcap"))
    }

    /// Waits until `count` frames that `wanted` holds for have arrived; all frames so far.
    ///
    /// # Errors
    /// They did not come in 20 s.
    pub fn wait_for(&self, count: usize, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let what = format!("{count} frames on {}", self.device);
        until(Duration::from_secs(20), &what, || {
            let frames = self.frames()?;
            Ok((frames.iter().filter(|f| wanted(f)).count() >= count).then_some(frames))
        })
    }

    /// Stops capturing. All frames that arrived.
    ///
    /// # Errors
    /// tcpdump failed, or lost frames itself, so that the answer would not be the truth.
    pub fn stop(mut self) -> Result<Vec<Vec<u8>>> {
        self.process.terminate(Duration::from_secs(10))?;
        let mut said = String::new();
        // tcpdump is gone: the channel ends when its last line was read.
        while let Ok(line) = self.messages.recv() {
            said.push_str(&line);
            said.push('\n');
        }
        let lost = said.lines().find_map(|l| l.strip_suffix(" packets dropped by kernel"));
        ensure!(lost == Some("0"), "the capture on {} is not whole: {}", self.device, said.trim());
        self.frames()
    }

    /// Runs tshark over what was captured so far: an independent decoder of what we emit.
    ///
    /// # Errors
    /// tshark is missing or failed.
    pub fn tshark(&self, args: &[&str]) -> Result<Output> {
        let pcap = self.dir.path().join("capture.pcap");
        Cmd::new("tshark").arg("-r").arg(pcap.display()).args(args).run()?.ok()
    }
}

/// Reads a pcap file of either byte order and precision
/// (draft-ietf-opsawg-pcap, sections 4 and 5). A record cut short at the end is left out: the
/// writer may be at work.
fn read_pcap(path: &Path) -> Result<Vec<Vec<u8>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut BufReader::new(file), &mut bytes)?;
    if bytes.len() < 24 {
        return Ok(Vec::new());
    }
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let magic = word(0).context("no pcap header")?;
    let number = match magic {
        [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3 | 0x3c, 0xd4 | 0x4d] => u32::from_be_bytes,
        _ => bail!("{} is no pcap file", path.display()),
    };
    let mut frames = Vec::new();
    let mut at = 24;
    while let Some(captured) = word(at + 8) {
        let end = at + 16 + number(captured) as usize;
        let Some(frame) = bytes.get(at + 16..end) else { break };
        frames.push(frame.to_vec());
        at = end;
    }
    Ok(frames)
}
