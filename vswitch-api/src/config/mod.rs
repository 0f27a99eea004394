//! The configuration: one contract for the file, the API and the command line.
//!
//! [`keys::KEYS`] is the single source. [`from_toml`] and its JSON siblings read by it, [`to_toml`]
//! and [`to_json`] write by it, and [`schema`], [`manual`] and [`example`] document it.

mod check;
mod cpus;
mod desired;
mod diff;
mod doc;
mod edit;
mod fields;
mod fuzz;
pub mod keys;
mod problem;
mod read;
pub(crate) mod schema;
mod tree;
mod value;
mod write;

pub use check::check;
pub use cpus::{BadCpuList, CpuList};
pub use desired::{
    DaemonSpec, Datapath, Desired, DpdkSpec, Idle, IpfixSpec, SampledSpec, SflowSpec,
};
pub use diff::{Change, ChangeKind, diff};
pub use doc::{example, manual};
pub use edit::{
    VlanDelError, patch_bridge, patch_mirror, patch_port, patch_tunnel, patch_vtep, vlan_add,
    vlan_del, vlan_memberships, vlan_words,
};
pub use fuzz::{fuzz_config, fuzz_request};
pub use keys::{Key, MAX_CONFIG_BYTES, Section, VERSION};
pub use problem::{Problem, Problems};
pub use read::{
    bridge_from_json, from_json, from_toml, from_toml_bytes, mirror_from_json, port_from_json,
    tunnel_from_json, vtep_from_json,
};
pub use schema::schema;
pub use value::{Hugepages, KeyType};
pub use write::{
    bridge_to_json, mirror_to_json, port_to_json, to_json, to_toml, tunnel_to_json, vtep_to_json,
};
