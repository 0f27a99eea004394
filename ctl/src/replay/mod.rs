//! `replay`: a capture goes through the whole switch once more, in this process and on its own time.

mod expect;
mod ways;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use switch_core::frame::MAX_FRAME;
use vswitch_api::error::exit;
use vswitch_api::types::DropRow;
use vswitch_api::{ApiError, Code, counted};
use vswitchd::replay::{Left, Replay, ReplayError};
use vswitchd::watch::pcapng::{self, Link, Writer};

use crate::failure::{Failure, VerbDone};
use crate::output::{Column, Output};
use crate::pcap;
use expect::{Answer, Expected};
use ways::Ways;

/// How many bytes are written at once.
const CHUNK: usize = 1 << 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "Show what the switch does with an incident: \
    vswitch-ctl replay incident.pcapng --config vswitch.toml -w left.pcapng\n\
    Make a test of it: \
    vswitch-ctl replay incident.pcapng --config vswitch.toml --expect incident.pcapng")]
pub(crate) struct Args {
    /// The capture whose frames come in: pcapng or classic. Those that it says left are passed over
    input: PathBuf,
    /// The configuration of the switch
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The port or VTEP that all frames come in on; may be left out where the interfaces of the capture
    /// have names of ports, as in files of vswitch-ctl capture
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Compare what leaves with the frames that left in this capture, port by port; exits 1 at a
    /// difference
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write every frame that leaves to this pcapng file, with its port and its time; `-` is standard
    /// output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// What there is to tell at the end.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    /// Frames that came in.
    frames: u64,
    /// From the first one to the last, in seconds of the capture.
    seconds: f64,
    /// Frames that left.
    left: u64,
    /// Frames of the capture that are marked as sent, or are of other ports, and were passed over.
    passed_over: u64,
    /// Frames that the capture has in part, and that came in with zeroes for the rest.
    cut: u64,
    /// Frames that the capture missed.
    missed: u64,
    ports: Vec<PortRow>,
    drops: Vec<DropRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Answer>,
}

/// What a port had.
#[derive(Debug, Serialize)]
struct PortRow {
    port: String,
    #[serde(rename = "in")]
    came: u64,
    #[serde(rename = "out")]
    left: u64,
    dropped: u64,
}

pub(crate) fn run(output: &Output, args: &Args) -> VerbDone {
    let to_stdout = args.write.as_deref() == Some(Path::new("-"));
    if to_stdout && io::stdout().is_terminal() {
        let message = "a capture is no text, and standard output is a terminal";
        let error = ApiError::new(Code::Usage, message);
        return Err(error.with_hint("write it to a file with -w FILE").into());
    }
    let desired = crate::config::desired(&args.config)?;
    let file = pcap::read(&args.input)?;
    let mut replay = Replay::start(desired).map_err(failed)?;
    let ways = Ways::of(&file, args, &replay)?;
    let mut expected = match &args.expect {
        Some(path) => Some(Expected::read(path, &replay, &args.config)?),
        None => None,
    };
    let mut out = args.write.as_deref().map(Sink::create).transpose()?;
    let mut report = replayed(&mut replay, &file, &ways, |at, left| {
        if let Some(expected) = &mut expected {
            expected.compare(&left);
        }
        out.as_mut().map_or(Ok(()), |out| out.add(at, &left, ways.is_vtep(&left.port)))
    })?;
    if let Some(out) = out {
        out.finish()?;
    }
    report.expected = expected.map(Expected::answer);
    replay.end().map_err(failed)?;
    report.missed = file.missed;
    told(output, args, &report, to_stdout)?;
    let differs = report.expected.as_ref().is_some_and(|answer| answer.difference.is_some());
    Ok(differs.then_some(exit::NO))
}

/// Has every frame come in; `each` gets what leaves, with its time.
fn replayed(
    replay: &mut Replay,
    file: &pcap::File,
    ways: &Ways,
    mut each: impl FnMut(u64, Left) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    let (mut frames, mut left, mut cut, mut passed_over) = (0, 0, 0, 0);
    let mut span: Option<(u64, u64)> = None;
    for packet in &file.packets {
        let Some(port) = ways.port(packet) else {
            passed_over += 1;
            continue;
        };
        let (first, last) = span.unwrap_or((packet.at, packet.at));
        let at = packet.at.max(last);
        span = Some((first, at));
        let mut bytes = packet.bytes.clone();
        if bytes.len() < packet.len {
            cut += 1;
            // One that is longer than any frame is dropped as that, however long it is.
            bytes.resize(packet.len.min(MAX_FRAME + 1), 0);
        }
        frames += 1;
        for frame in replay.frame(port, at, &bytes, packet.offload).map_err(failed)? {
            left += 1;
            each(at, frame)?;
        }
    }
    let (first, last) = span.unwrap_or_default();
    let seconds = Duration::from_nanos(last - first).as_secs_f64();
    let books = replay.books();
    let row = |stats: vswitch_api::types::PortStats| PortRow {
        port: stats.name,
        came: stats.counters.rx_frames,
        left: stats.counters.tx_frames,
        dropped: stats.counters.drops,
    };
    let ports = books.ports.into_iter().map(row).collect();
    let (drops, expected, missed) = (books.drops, None, 0);
    Ok(Report { frames, seconds, left, passed_over, cut, missed, ports, drops, expected })
}

/// Tells what came of it; beside a capture on standard output, on standard error.
fn told(output: &Output, args: &Args, report: &Report, beside: bool) -> Result<(), Failure> {
    let text = || {
        let Report { frames, seconds, left, passed_over, ports, drops, .. } = report;
        let frames = counted(frames, "frame");
        let mut text = format!("{frames} came in within {seconds:.3} s, {left} left");
        if *passed_over > 0 {
            text += &format!("; passed over of the capture: {passed_over}");
        }
        text += "\n\n";
        text += &output.table(
            ports,
            &[
                Column::new("PORT", |row: &PortRow| row.port.clone()),
                Column::number("IN", |row| row.came.to_string()),
                Column::number("OUT", |row| row.left.to_string()),
                Column::number("DROPPED", |row| row.dropped.to_string()),
            ],
        );
        if !drops.is_empty() {
            text.push('\n');
            text += &crate::drops::table(output, drops);
        }
        if let Some(answer) = &report.expected {
            text += &format!("\n{}\n", answer.words());
        }
        text
    };
    if beside {
        output.note(text().trim_end());
    } else {
        output.object(report, text)?;
    }
    let name = args.input.display();
    if report.cut > 0 {
        output.note(&format!(
            "{name} has {} not whole, with zeroes for the rest: capture with --snap 65550",
            counted(report.cut, "frame")
        ));
    }
    if report.missed > 0 {
        let missed = counted(report.missed, "frame");
        output.note(&format!("{name} lacks {missed} that its capture missed"));
    }
    Ok(())
}

/// Where frames that leave are written to.
struct Sink<'a> {
    path: &'a Path,
    out: Box<dyn Write>,
    writer: Writer,
    /// Names of the interfaces there are, in order.
    interfaces: Vec<std::sync::Arc<str>>,
}

impl<'a> Sink<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let out: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout().lock())
        } else {
            let file = File::create(path).map_err(|error| crate::capture::refused(path, &error))?;
            Box::new(BufWriter::new(file))
        };
        Ok(Self { path, out, writer: Writer::new("vswitch-ctl replay"), interfaces: Vec::new() })
    }

    fn add(&mut self, at: u64, left: &Left, is_vtep: bool) -> Result<(), Failure> {
        let known = self.interfaces.iter().position(|name| *name == left.port);
        let interface = match known {
            Some(known) => known as u32,
            None => {
                self.interfaces.push(std::sync::Arc::clone(&left.port));
                let link = if is_vtep { Link::Ip } else { Link::Ethernet };
                self.writer.interface(&left.port, link, MAX_FRAME as u32)
            }
        };
        self.writer.packet(&pcapng::Packet {
            interface,
            at,
            bytes: &left.bytes,
            len: left.bytes.len() as u32,
            direction: pcapng::Direction::Out,
            offload: left.offload,
            comments: &[],
        });
        if self.writer.len() >= CHUNK { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), Failure> {
        let written = self.out.write_all(&self.writer.take());
        written.map_err(|error| crate::capture::refused(self.path, &error))
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.write()?;
        self.out.flush().map_err(|error| crate::capture::refused(self.path, &error))
    }
}

/// What the switch says of a replay that cannot go on.
fn failed(error: ReplayError) -> ApiError {
    let message = format!("cannot replay: {error}");
    match error {
        ReplayError::Panic(_) | ReplayError::Hangs => ApiError::new(Code::Internal, message)
            .with_hint("this is a fault of the switch: please report it with both files"),
        _ => ApiError::new(Code::Local, message),
    }
}
