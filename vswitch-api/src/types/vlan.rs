//! VLANs as members see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a port is in a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VlanMode {
    /// Untagged, and in no other.
    Access,
    /// Tagged, beside others.
    Trunk,
    /// Untagged, beside others that are tagged.
    Native,
}

impl VlanMode {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Trunk => "trunk",
            Self::Native => "native",
        }
    }
}

/// One port in one VLAN or range of VLANs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VlanRow {
    /// The bridge.
    pub bridge: String,
    /// First VLAN.
    pub vlan: u16,
    /// Last VLAN; the same as the first for one.
    pub last: u16,
    /// The port.
    pub port: String,
    /// How it is in it.
    pub mode: VlanMode,
}

/// Puts a port into a VLAN. `trunk` and `native` turn an access or transparent port into a trunk,
/// which keeps the access VLAN as its native one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VlanRequest {
    /// The port.
    pub port: String,
    /// The VLAN, 1 to 4094.
    pub vlan: u16,
    /// How.
    pub mode: VlanMode,
}
