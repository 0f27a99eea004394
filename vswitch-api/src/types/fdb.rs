//! The forwarding database.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How an entry came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FdbKind {
    /// Learned from a frame; it ages.
    Learned,
    /// Added through the API; it stays until it is deleted.
    Static,
    /// An address of the switch itself.
    Local,
}

impl FdbKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Static => "static",
            Self::Local => "local",
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FdbEntry {
    /// The bridge.
    pub bridge: String,
    /// The VLAN; 0 for untagged traffic that is in none.
    #[serde(default)]
    pub vlan: u16,
    /// The address.
    pub mac: String,
    /// Where it is: a port or, if `remote` says behind which VTEP, a tunnel.
    pub port: String,
    /// The VTEP that it is behind; absent if it is on a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// How it came to be.
    #[serde(rename = "type", default = "added")]
    pub kind: FdbKind,
    /// Whether it does not move when the address is seen elsewhere.
    #[serde(default)]
    pub sticky: bool,
    /// Seconds since a frame refreshed it; absent for what does not age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// Who added it; absent for what was learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

fn added() -> FdbKind {
    FdbKind::Static
}

/// Which entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FdbFilter {
    /// Of this bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// On this port or tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Behind this remote VTEP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// In this VLAN; 0 for untagged traffic that is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Of this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// That came to be in this way.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<FdbKind>,
}

/// What names an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FdbKey {
    /// The bridge.
    pub bridge: String,
    /// The VLAN; 0 for untagged traffic that is in none.
    #[serde(default)]
    pub vlan: u16,
    /// The address.
    pub mac: String,
}

/// Entries to add or replace, thousands in one request. The whole batch is checked before any of it
/// is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FdbBatch {
    /// Who they belong to; `api` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The entries.
    pub entries: Vec<FdbEntry>,
}

/// Entries to delete, thousands in one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FdbSelector {
    /// The entries.
    pub entries: Vec<FdbKey>,
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FdbBatchReply {
    /// How many entries were added, replaced, deleted or flushed.
    pub done: u64,
    /// Those that were not, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<FdbRefused>,
}

/// An entry that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FdbRefused {
    /// Its place in the request, from 0.
    pub index: u64,
    /// Why.
    pub reason: String,
}

/// Forgets entries in bulk: learned ones, unless told otherwise. No selection is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FdbFlush {
    /// Of this bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// On this port or tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Behind this remote VTEP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// In this VLAN; 0 for untagged traffic that is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Static entries as well.
    #[serde(default, rename = "static")]
    pub also_static: bool,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FdbEventKind {
    /// It was learned.
    Learned,
    /// It moved to another port or remote.
    Moved,
    /// It was added through the API.
    Added,
    /// It was deleted or flushed.
    Deleted,
    /// It was not refreshed for the ageing time.
    Aged,
    /// It made room for another.
    Evicted,
    /// Events were lost before this one, because the reader was too slow.
    Lost,
}

impl FdbEventKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Moved => "moved",
            Self::Added => "added",
            Self::Deleted => "deleted",
            Self::Aged => "aged",
            Self::Evicted => "evicted",
            Self::Lost => "lost",
        }
    }
}

/// One line of the monitor's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FdbEvent {
    /// When, in UTC, as `2026-01-31T12:00:00.000Z`.
    pub time: String,
    /// What happened.
    pub event: FdbEventKind,
    /// The bridge.
    pub bridge: String,
    /// The VLAN; 0 for untagged traffic that is in none.
    pub vlan: u16,
    /// The address.
    pub mac: String,
    /// Where it is, or was last: a port, or a tunnel.
    pub port: String,
    /// The VTEP that it is behind, or was last; absent if it is on a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// Where it was before it moved: a port, or a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The VTEP that it was behind before it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub from_remote: Option<IpAddr>,
    /// How many events were lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}
