//! What is carried: the frames of each port, and what must come of them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::frames::{self, Bytes, Flows, LOCAL, OUTER, REMOTE, REMOTE_MAC, Tunnel};

/// Bytes of a frame of the stations, without FCS.
pub const SIZE: usize = 64;
/// Hostile frames before they repeat: four times as many as addresses fit the port's limit.
const HOSTILE: usize = 1 << 20;

/// Which way tunnels are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Port 0 sends plain frames, port 1 is the underlay.
    Encap,
    /// Port 1 sends encapsulated frames, port 0 is plain.
    Decap,
    /// Both at once.
    Both,
}

/// What hostile frames are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostile {
    /// Random source and destination addresses.
    Addresses,
    /// Random bytes behind known Ethernet types.
    Headers,
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Pairs of stations on two ports of a bridge.
    Bridge {
        /// How many pairs.
        pairs: u32,
    },
    /// Stations on port 0 and others behind a tunnel on port 1.
    Overlay {
        /// The protocol.
        tunnel: Tunnel,
        /// Which side sends.
        way: Way,
        /// How many pairs.
        flows: u32,
    },
    /// As `Bridge` with 1,000 pairs, and somebody hostile on a third port.
    Hostile {
        /// What he sends.
        what: Hostile,
    },
}

impl Scene {
    /// The devices, as DPDK names them.
    pub fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Hostile { .. } => &["net_null0", "net_null1", "net_null2"],
            _ => &["net_null0", "net_null1"],
        }
    }

    /// Whether a port sends only at first, so that its addresses are known, and not while the
    /// other direction is measured.
    pub fn teaches(self, port: usize) -> bool {
        match self {
            Self::Overlay { way: Way::Encap, .. } => port == 1,
            Self::Overlay { way: Way::Decap, .. } => port == 0,
            _ => false,
        }
    }

    fn flows(self) -> Flows {
        Flows::new(
            match self {
                Self::Bridge { pairs: flows } | Self::Overlay { flows, .. } => flows,
                Self::Hostile { .. } => 1_000,
            },
            SIZE,
        )
    }

    /// What the source of a port sends, if it sends anything. `uplink` is the address of the
    /// underlay port.
    pub fn frames(self, port: usize, uplink: [u8; 6]) -> Option<Vec<Bytes>> {
        let flows = self.flows();
        match (self, port) {
            (Self::Overlay { tunnel, .. }, 1) => {
                Some(frames::encapsulated(&flows.replies(), tunnel, uplink))
            }
            (Self::Hostile { what: Hostile::Addresses }, 2) => {
                Some(frames::random_addresses(HOSTILE))
            }
            (Self::Hostile { what: Hostile::Headers }, 2) => Some(frames::random_headers(HOSTILE)),
            (_, 0) => Some(flows.requests()),
            (_, 1) => Some(flows.replies()),
            _ => None,
        }
    }
}

/// The files of frames, made once.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    made: HashMap<String, Option<PathBuf>>,
}

impl Store {
    /// In that directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), made: HashMap::new() }
    }

    /// The file for the source of a port, if it sends anything.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&mut self, scene: Scene, port: usize, uplink: [u8; 6]) -> Result<Option<PathBuf>> {
        let key = format!("{scene:?} {port} {uplink:?}");
        if let Some(path) = self.made.get(&key) {
            return Ok(path.clone());
        }
        let path = match scene.frames(port, uplink) {
            None => None,
            Some(frames) => {
                let path = self.dir.join(format!("frames-{}", self.made.len()));
                frames::write(&path, &frames)?;
                Some(path)
            }
        };
        self.made.insert(key, path.clone());
        Ok(path)
    }
}

/// Looks at frames that sinks kept, whether they are those that were to come there.
#[derive(Debug)]
pub struct Oracle {
    scene: Scene,
    requests: HashSet<Bytes>,
    replies: HashSet<Bytes>,
}

impl Oracle {
    /// For that scene.
    pub fn new(scene: Scene) -> Self {
        let flows = scene.flows();
        Self {
            scene,
            requests: flows.requests().into_iter().collect(),
            replies: flows.replies().into_iter().collect(),
        }
    }

    /// Checks frames that arrived at a port.
    ///
    /// # Errors
    /// One is another than was sent, or is wrapped wrongly; or none came where some had to.
    pub fn check(&self, port: usize, kept: &[Bytes]) -> Result<()> {
        // With two ports, where one only teaches nothing comes out of the other.
        let expected = port < 2 && !self.scene.teaches(1 - port);
        // On the underlay the host's stack speaks, too: IPv6 looks for routers.
        let underlay = matches!(self.scene, Scene::Overlay { .. }) && port == 1;
        let kept: Vec<&Bytes> = kept.iter().filter(|f| !underlay || f[12..14] == [8, 0]).collect();
        ensure!(kept.is_empty() != expected, "port {port}: {} frames were kept", kept.len());
        for frame in kept {
            self.one(port, frame).with_context(|| format!("at port {port}: {frame:02x?}"))?;
        }
        Ok(())
    }

    fn one(&self, port: usize, frame: &Bytes) -> Result<()> {
        match (self.scene, port) {
            (Scene::Overlay { tunnel, .. }, 1) => {
                let inner = outer(frame, tunnel)?;
                ensure!(self.requests.contains(inner), "not the frame that was encapsulated");
            }
            // What a third port floods comes, too.
            (Scene::Hostile { .. }, _) => {}
            (_, 0) => ensure!(self.replies.contains(frame), "not a frame that was sent here"),
            _ => ensure!(self.requests.contains(frame), "not a frame that was sent here"),
        }
        Ok(())
    }
}

/// Checks the outer headers of a frame to the remote; what is inside.
fn outer(frame: &[u8], tunnel: Tunnel) -> Result<&[u8]> {
    ensure!(frame.len() == SIZE + OUTER, "{} bytes", frame.len());
    ensure!(frame[..6] == REMOTE_MAC && frame[12..14] == [8, 0], "the outer Ethernet header");
    let ends = [LOCAL.octets(), REMOTE.octets()].concat();
    ensure!(frame[14] == 0x45 && frame[23] == 17 && frame[26..34] == ends, "the outer IP header");
    ensure!(frame[36..38] == tunnel.port().to_be_bytes(), "the UDP port");
    ensure!(frame[42..50] == tunnel.header(), "the tunnel's header");
    let words = frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum = words.sum::<u32>();
    ensure!((sum & 0xffff) + (sum >> 16) == 0xffff, "the outer IP checksum");
    Ok(&frame[OUTER..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_knows_right_frames_from_wrong_ones() -> Result<()> {
        let scene = Scene::Bridge { pairs: 10 };
        let (oracle, flows) = (Oracle::new(scene), scene.flows());
        oracle.check(1, &flows.requests())?;
        oracle.check(0, &flows.replies())?;
        assert!(oracle.check(0, &flows.requests()).is_err(), "sent back");
        assert!(oracle.check(0, &[]).is_err(), "nothing came");
        let scene = Scene::Overlay { tunnel: Tunnel::Vxlan, way: Way::Encap, flows: 1 };
        let mut frame = frames::encapsulated(&scene.flows().requests(), Tunnel::Vxlan, REMOTE_MAC);
        let oracle = Oracle::new(scene);
        assert!(oracle.check(1, &frame).is_err(), "the addresses of the other direction");
        // Both ends exchanged; the sum stays right.
        frame[0][26..34].rotate_left(4);
        oracle.check(1, &frame)?;
        frame[0][46] ^= 1;
        assert!(oracle.check(1, &frame).is_err(), "another VNI");
        Ok(())
    }
}
