//! Shapes that every resource shares.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A list: one object, so that more can be added beside the items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct List<T> {
    /// What was asked for.
    pub items: Vec<T>,
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self { items: items.into_iter().collect() }
    }
}

/// Who asked for an object. Only its origin changes or removes it without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The configuration file.
    File,
    /// A request to the API.
    Api,
}

impl Origin {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Api => "api",
        }
    }
}

/// A kind of object of desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// `[daemon]`.
    Daemon,
    /// `[dpdk]`.
    Dpdk,
    /// `[sflow]`.
    Sflow,
    /// `[ipfix]`.
    Ipfix,
    /// A bridge.
    Bridge,
    /// A port.
    Port,
    /// A VTEP.
    Vtep,
    /// A tunnel.
    Tunnel,
    /// A mirror.
    Mirror,
}

impl ObjectKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Dpdk => "dpdk",
            Self::Sflow => "sflow",
            Self::Ipfix => "ipfix",
            Self::Bridge => "bridge",
            Self::Port => "port",
            Self::Vtep => "vtep",
            Self::Tunnel => "tunnel",
            Self::Mirror => "mirror",
        }
    }
}

/// What was done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is new.
    Added,
    /// It was changed.
    Changed,
    /// It is gone.
    Removed,
    /// It was as asked already.
    Unchanged,
}

impl Action {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What became of one object of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectResult {
    /// What kind of object.
    pub object: ObjectKind,
    /// Its name; empty for `daemon` and `dpdk`.
    pub name: String,
    /// What was done with it.
    pub action: Action,
    /// Whether the system is now as asked.
    pub realised: bool,
    /// If not, why: what was attempted, on what, and the system's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// If not, what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The reply to every change of desired state. Sent with status 200, or 202 if `realised` is false.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MutationReply {
    /// The revision that has the change; the one before if nothing changed.
    pub revision: u64,
    /// Whether every object is realised.
    pub realised: bool,
    /// What became of each object that the change touched.
    pub objects: Vec<ObjectResult>,
    /// Seconds within which the change has to be confirmed, or it is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<u64>,
}
