//! `capture`, and the file of dropped frames.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use vswitch_api::client::{Client, query};
use vswitch_api::{ApiError, Code, counted};

use crate::failure::{Failure, VerbDone};
use crate::output::Output;
use crate::pcap::{Block, Blocks};

/// Bytes that are written at once, where as many came.
const BUFFER: usize = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "Into Wireshark: vswitch-ctl capture any -w - | wireshark -k -i -\n\
    Over ssh: ssh HOST vswitch-ctl capture web -w - | wireshark -k -i -")]
pub(crate) struct Args {
    /// The port or VTEP whose frames are wanted, in both directions; `any` for all
    #[arg(default_value = "any")]
    port: String,
    /// Only frames that meet this, in the words of tcpdump: tcp port 80 and not host 10.0.0.1
    filter: Vec<String>,
    /// The file to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many frames
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Most bytes of each frame, 64 to 65550; 2048 by default
    #[arg(short, long, value_name = "BYTES")]
    snap: Option<u32>,
}

pub(crate) fn run(client: &Client, output: &Output, args: Args) -> VerbDone {
    let to_stdout = args.write.as_deref().is_none_or(|path| path == Path::new("-"));
    if to_stdout && io::stdout().is_terminal() {
        let message = "a capture is no text, and standard output is a terminal";
        let hint =
            "write it to a file with -w FILE, or see frames in words: vswitch-ctl trace live";
        return Err(ApiError::new(Code::Usage, message).with_hint(hint).into());
    }
    let port = (args.port != "any").then_some(args.port.as_str());
    let filter = args.filter.join(" ");
    let snap = args.snap.map(|snap| snap.to_string());
    let path = query(
        "/v1/capture",
        &[
            ("port", port),
            ("filter", (!filter.is_empty()).then_some(filter.as_str())),
            ("snap", snap.as_deref()),
        ],
    );
    write(client, output, &path, args.write.as_deref().filter(|_| !to_stdout), args.count)
}

/// Writes a capture to a file, or to standard output, to its end.
pub(crate) fn write(
    client: &Client,
    output: &Output,
    path: &str,
    file: Option<&Path>,
    count: Option<u64>,
) -> VerbDone {
    let mut out: Box<dyn Write> = match file {
        Some(path) => {
            let file = File::create(path).map_err(|error| refused(path, &error))?;
            Box::new(BufWriter::with_capacity(BUFFER, file))
        }
        None => Box::new(BufWriter::with_capacity(BUFFER, io::stdout().lock())),
    };
    let (mut blocks, mut frames, mut missed) = (Blocks::default(), 0, 0);
    let mut written: io::Result<ControlFlow<()>> = Ok(ControlFlow::Continue(()));
    client.bytes(path, |data| {
        written = blocks.push(data, |block, bytes| {
            match block {
                Block::Packet => frames += 1,
                Block::Missed(total) => missed = total,
                Block::Other => {}
            }
            out.write_all(bytes)?;
            Ok(if count.is_some_and(|count| frames >= count) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        });
        // At once, as a reader at the other end of a pipe waits for it.
        let flushed = out.flush();
        match (&written, flushed) {
            (Ok(ControlFlow::Continue(())), Ok(())) => ControlFlow::Continue(()),
            (Ok(_), Err(error)) => {
                written = Err(error);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Break(()),
        }
    })?;
    let named = |error: io::Error| match file {
        Some(path) => refused(path, &error),
        None => Failure::from(error),
    };
    let _ = written.map_err(named)?;
    let missed = if missed > 0 {
        format!("{missed} missed: too many for the capture, or its reader was too slow")
    } else {
        "none missed".to_owned()
    };
    output.note(&format!("{} captured, {missed}", counted(frames, "frame")));
    Ok(None)
}

/// A file of frames cannot be written.
pub(crate) fn refused(path: &Path, error: &io::Error) -> Failure {
    ApiError::new(Code::Local, format!("cannot write the capture to {}: {error}", path.display()))
        .into()
}
