//! The least that can be between two TAP devices: what comes out of one is written into the other,
//! a call for each frame, and nothing is looked at.

use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use datapath_tap::testing::bare_tap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A super-frame of 64 KiB and its headers.
const LARGEST: usize = 70_000;
/// Frames from one device before the other has its turn.
const TURN: usize = 64;

/// Makes two TAP devices and forwards between them until the process ends.
///
/// # Errors
/// A device cannot be made or fails.
pub fn run(devices: [&str; 2], vnet_hdr: bool) -> Result<Infallible> {
    let [a, b] = devices.map(|name| {
        bare_tap(name, vnet_hdr).with_context(|| format!("cannot make the TAP device {name}"))
    });
    let (a, b) = (a?, b?);
    let mut buffer = vec![0; LARGEST];
    loop {
        let there = forward(&a, &b, &mut buffer).context("from the first device")?;
        let back = forward(&b, &a, &mut buffer).context("from the second device")?;
        if !there && !back {
            let mut files = [&a, &b].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
            poll(&mut files, PollTimeout::NONE).context("cannot wait for frames")?;
        }
    }
}

/// Forwards a turn's frames; whether there were any.
fn forward(mut from: &File, mut to: &File, buffer: &mut [u8]) -> Result<bool> {
    for n in 0..TURN {
        let len = match from.read(buffer) {
            Ok(len) => len,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(n > 0),
            Err(e) => return Err(e.into()),
        };
        // A device that is not up yet takes nothing: the frame is lost, as on any switch.
        let _ = to.write(&buffer[..len]);
    }
    Ok(true)
}
