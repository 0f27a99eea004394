//! What a frame met on its way.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A frame, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Trace {
    /// When it came in; when it was asked for, of a frame that nobody sent.
    pub time: String,
    /// The port it came in on.
    pub in_port: String,
    /// What it is, in one line.
    pub frame: String,
    /// Its VLAN in the bridge; 0 for untagged traffic that is in none. Absent where it was refused
    /// before that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The tunnel it came out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// What it met, in order.
    pub hops: Vec<Hop>,
    /// What became of it and of each copy and segment.
    pub ends: Vec<TraceEnd>,
    /// How many more copies or segments there were than are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u32,
    /// How many frames before it were not seen, as there were too many.
    #[serde(default, skip_serializing_if = "is_zero_64")]
    pub missed: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
const fn is_zero_64(n: &u64) -> bool {
    *n == 0
}

/// One thing that a frame met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Hop {
    /// Which.
    pub step: Step,
    /// What happened there, in words.
    pub says: String,
    /// The object of the configuration that decided it, who asked for that, and in which revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// For a drop: what would have let the frame pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What was rewritten: places in the frame, and their bytes before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewrite: Vec<String>,
}

/// What frames meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The port it came in on.
    Port,
    /// A packet is opened, and what it carries comes out of a tunnel.
    Decap,
    /// Whether it may come in, and in which VLAN.
    Vlan,
    /// What its source address teaches.
    Learn,
    /// Where its destination is.
    Lookup,
    /// It is put into a tunnel's packet.
    Encap,
    /// It leaves.
    Out,
    /// It is dropped.
    Drop,
}

impl Step {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Decap => "decap",
            Self::Vlan => "vlan",
            Self::Learn => "learn",
            Self::Lookup => "lookup",
            Self::Encap => "encap",
            Self::Out => "out",
            Self::Drop => "drop",
        }
    }
}

/// What became of a frame, or of one copy or segment of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceEnd {
    /// The port it left by or was to leave by; for a drop on the way in, the one it came in on.
    pub port: String,
    /// What became of it.
    pub fate: Fate,
    /// For a drop: the name of the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its length as it left, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
}

/// What becomes of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The kernel or the driver took it.
    Sent,
    /// It was left for the worker that owns the port's queue.
    HandedOver,
    /// It was dropped.
    Dropped,
}

/// A frame that nobody sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TraceRequest {
    /// The port or VTEP that it is taken to come in on.
    pub in_port: String,
    /// Its bytes in hex, from the destination address on; on a VTEP, those of an IP packet.
    pub hex: String,
}
