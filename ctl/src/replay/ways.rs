//! Which port each frame of a capture comes in on.

use std::collections::BTreeSet;
use std::path::Path;

use vswitch_api::{ApiError, Code};
use vswitchd::replay::Replay;

use super::Args;
use crate::pcap::{self, Direction, File, Packet};

/// For each interface of a file, the port that its frames come in on.
#[derive(Debug)]
pub(super) struct Ways {
    ports: Vec<Option<String>>,
    vteps: BTreeSet<String>,
}

impl Ways {
    pub(super) fn of(file: &File, args: &Args, replay: &Replay) -> Result<Self, ApiError> {
        let vteps = replay.entrances().filter(|(_, is_vtep)| *is_vtep);
        let vteps: BTreeSet<String> = vteps.map(|(name, _)| name.to_owned()).collect();
        if let Some(port) = &args.port
            && !replay.entrances().any(|(name, _)| name == port)
        {
            return Err(no_such_port(port, replay, &args.config));
        }
        let named = |port: &str| file.interfaces.iter().any(|i| i.name.as_deref() == Some(port));
        // Of a capture of many ports only those frames, if the port is one of them.
        let only = args.port.as_deref().filter(|port| named(port));
        let mut ports = Vec::new();
        for (at, interface) in file.interfaces.iter().enumerate() {
            let mut its = file.packets.iter().filter(|packet| packet.interface == at);
            let name = interface.name.as_deref();
            let has_frames = its.any(|packet| packet.direction != Direction::Out);
            if !has_frames || only.is_some_and(|only| name != Some(only)) {
                ports.push(None);
                continue;
            }
            let port = match (&args.port, name) {
                (Some(port), _) => port,
                (None, Some(name)) if replay.entrances().any(|(known, _)| known == name) => name,
                (None, name) => return Err(unnamed(&args.input, name, replay, &args.config)),
            };
            fits(&args.input, interface.link, port, vteps.contains(port))?;
            ports.push(Some(port.to_owned()));
        }
        Ok(Self { ports, vteps })
    }

    /// The port that a frame comes in on; `None` if it is to be passed over.
    pub(super) fn port(&self, packet: &Packet) -> Option<&str> {
        if packet.direction == Direction::Out {
            return None;
        }
        self.ports.get(packet.interface)?.as_deref()
    }

    /// Whether that is the name of a VTEP.
    pub(super) fn is_vtep(&self, name: &str) -> bool {
        self.vteps.contains(name)
    }
}

/// Whether frames that begin like that can come in on a port.
fn fits(file: &Path, link: u16, port: &str, is_vtep: bool) -> Result<(), ApiError> {
    let (wanted, words) = if is_vtep {
        (pcap::IP, "a VTEP's are IP packets (link type 101), as vswitch-ctl capture writes them")
    } else {
        (pcap::ETHERNET, "a port's are Ethernet frames (link type 1)")
    };
    if link == wanted {
        return Ok(());
    }
    let message = format!(
        "the frames of {} cannot come in on {port}: they have link type {link}, and {words}",
        file.display()
    );
    let hint = match (link, is_vtep) {
        (276 | 113, _) => "capture on one device: tcpdump -i DEVICE, not -i any",
        (pcap::ETHERNET, true) => "vswitch-ctl capture VTEP -w FILE",
        _ => "name the port that they came in on with --port",
    };
    Err(ApiError::new(Code::Local, message).with_hint(hint))
}

/// Nobody says where frames come in.
fn unnamed(file: &Path, interface: Option<&str>, replay: &Replay, config: &Path) -> ApiError {
    let file = file.display();
    let what = match interface {
        Some(name) => format!(
            "{file} has frames of {name:?}, and {} has no port of that name that takes frames",
            config.display()
        ),
        None => format!("{file} does not say on which port its frames came in"),
    };
    ApiError::new(Code::NoSuchPort, what)
        .with_hint(format!("name one with --port: {}", entrances(replay)))
}

/// There is no such port.
pub(super) fn no_such_port(port: &str, replay: &Replay, config: &Path) -> ApiError {
    let message =
        format!("frames cannot come in on {port:?}: {} has no such port", config.display());
    ApiError::new(Code::NoSuchPort, message).with_hint(format!(
        "ports that are no uplinks, and VTEPs, take frames: {}",
        entrances(replay)
    ))
}

/// Ports and VTEPs in words: the first few.
fn entrances(replay: &Replay) -> String {
    const SHOWN: usize = 10;
    let names: Vec<&str> = replay.entrances().map(|(name, _)| name).collect();
    match names.len() {
        0 => "there are none".to_owned(),
        all if all > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
        _ => names.join(", "),
    }
}
