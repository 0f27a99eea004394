//! Objects as they were asked for: requests and replies that follow the key table.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use switch_core::config::{BridgeSpec, MirrorSpec, PortSpec, TunnelSpec, VtepSpec};
use utoipa::openapi::{RefOr, schema::Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::config::{self, Section, schema};

macro_rules! from_key_table {
    ($(#[$doc:meta])* $name:ident($spec:ty), $section:ident, $read:path, $write:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub $spec);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $write(&self.0).serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                $read(&value).map(Self).map_err(D::Error::custom)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                schema::open_api(Section::$section)
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    };
}

from_key_table! {
    /// A bridge as it was asked for, with the keys of `[[bridge]]`, defaults left out.
    BridgeConfig(BridgeSpec), Bridge, config::bridge_from_json, config::bridge_to_json
}

from_key_table! {
    /// A port as it was asked for, with the keys of `[[port]]`, defaults left out.
    PortConfig(PortSpec), Port, config::port_from_json, config::port_to_json
}

from_key_table! {
    /// A VTEP as it was asked for, with the keys of `[[vtep]]`, defaults left out.
    VtepConfig(VtepSpec), Vtep, config::vtep_from_json, config::vtep_to_json
}

from_key_table! {
    /// A tunnel as it was asked for, with the keys of `[[tunnel]]`, defaults left out.
    TunnelConfig(TunnelSpec), Tunnel, config::tunnel_from_json, config::tunnel_to_json
}

from_key_table! {
    /// A mirror as it was asked for, with the keys of `[[mirror]]`, defaults left out.
    MirrorConfig(MirrorSpec), Mirror, config::mirror_from_json, config::mirror_to_json
}
