//! Mirrors, as an operator asks for them.

use std::fmt;

use crate::wire::vlan::VlanId;

/// A mirror: whoever looks at traffic gets copies of the frames of some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSpec {
    /// Its name.
    pub name: String,
    /// Ports whose frames are copied.
    pub ports: Vec<String>,
    /// Bridges of which the frames of all ports and tunnels are copied.
    pub bridges: Vec<String>,
    /// Which of their frames.
    pub direction: Direction,
    /// Only frames in these VLANs, ascending and each once.
    pub vlans: Option<Vec<VlanId>>,
    /// Only frames that meet this: a [`Filter`](crate::watch::Filter) in words.
    pub filter: Option<String>,
    /// Most bytes of each frame that are copied; `None` is all of them.
    pub snap: Option<u32>,
    /// Of the frames that meet all this, one in so many; at least 1.
    pub one_in: u32,
    /// The port or the tunnel that the copies leave by, and nothing else.
    pub to: String,
}

impl MirrorSpec {
    /// A mirror of nothing so far, with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ports: Vec::new(),
            bridges: Vec::new(),
            direction: Direction::Both,
            vlans: None,
            filter: None,
            snap: None,
            one_in: 1,
            to: to.into(),
        }
    }
}

/// Which frames of a port are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Those that come in, as they were received.
    In,
    /// Those that leave, as they are sent.
    Out,
    /// All of them.
    #[default]
    Both,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::In, Self::Out, Self::Both];

    /// Its name in files and requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        }
    }

    /// The direction of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|direction| direction.name() == name)
    }

    /// Whether it is the other one or has it in it.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
