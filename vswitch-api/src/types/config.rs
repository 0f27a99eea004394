//! Desired state as a whole.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reply::Origin;
use crate::config::{Change, Problem};

/// A configuration as the text of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigText {
    /// TOML, as in vswitch.toml(5).
    pub toml: String,
}

/// The desired state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigReply {
    /// Its revision.
    pub revision: u64,
    /// As a canonical file.
    pub toml: String,
    /// The same as JSON, with the same keys.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
}

/// Whether a configuration is valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ValidateReply {
    /// Whether it is.
    pub valid: bool,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// What a configuration would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DiffReply {
    /// The revision it was compared with.
    pub revision: u64,
    /// The changes, removals first.
    pub changes: Vec<Change>,
}

/// Makes a configuration the desired state. Its objects get the origin `file` and replace all of
/// that origin; objects of other origins stay, and a collision with one is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApplyRequest {
    /// TOML, as in vswitch.toml(5).
    pub toml: String,
    /// Roll back by itself unless confirmed within this many seconds, 1 to 86,400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<u64>,
}

/// Makes an earlier revision the desired state again, as a new revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RollbackRequest {
    /// Which; the one before the current if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// One revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryEntry {
    /// Its number.
    pub revision: u64,
    /// When, in UTC, as `2026-01-31T12:00:00.000Z`.
    pub time: String,
    /// Who made it.
    pub origin: Origin,
    /// What was done, for example `port add web`.
    pub what: String,
    /// How many objects it changed.
    pub changes: u64,
    /// Whether it is the current one.
    pub current: bool,
}
