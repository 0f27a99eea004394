//! Mirrors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::keyed::MirrorConfig;
use super::port::{DropCount, PortState};
use super::reply::Origin;

/// A mirror.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MirrorStatus {
    /// Its name.
    pub name: String,
    /// Ports whose frames are copied.
    pub ports: Vec<String>,
    /// Bridges of which the frames of all ports are copied.
    pub bridges: Vec<String>,
    /// `in`, `out` or `both`.
    pub direction: String,
    /// The port or tunnel that copies leave by.
    pub to: String,
    /// How it is: as the port or tunnel that copies leave by. Nothing is copied unless it is up.
    pub state: PortState,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Copies that were given to the port or tunnel they leave by, since vswitchd started.
    pub frames: u64,
    /// Bytes of these copies.
    pub bytes: u64,
    /// Copies that were lost, by reason: not made, or dropped on the port or in the
    /// tunnel they leave by. Reasons that
    /// never happened are left out.
    pub drops: Vec<DropCount>,
    /// Who asked for it.
    pub origin: Origin,
    /// The revision that changed it last.
    pub revision: u64,
    /// As it was asked for.
    pub config: MirrorConfig,
}
