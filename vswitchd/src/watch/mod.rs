//! What watches saw, made readable: traces in words, captures as pcapng.

mod capture;
pub mod pcapng;
mod rewrite;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use switch_core::Nanos;
use switch_core::watch::{Watch, WatchSpec};
use vswitch_api::types::{ObjectKind, Origin};

use crate::clock::Clock;

pub use capture::Capture;
pub use words::trace;

/// Who wants to see which frames, with ports by name.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only frames that come in on this port.
    pub in_port: Option<String>,
    /// Only frames that come in or leave on this port.
    pub port: Option<String>,
    /// All else.
    pub spec: WatchSpec,
}

/// A watch, with what is needed to tell of what it sees.
#[derive(Clone, Debug)]
pub struct Watching {
    /// The watch.
    pub watch: Arc<Watch>,
    /// Who asked for which object.
    pub origins: Arc<Origins>,
    /// The workers' clock.
    pub clock: Clock,
}

impl Watching {
    /// The time of day at that time of the workers.
    pub fn time(&self, at: Nanos) -> SystemTime {
        let ago = self.clock.now() - at;
        SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Who asked for which object, and in which revision.
#[derive(Clone, Debug, Default)]
pub struct Origins(pub BTreeMap<(ObjectKind, String), (Origin, u64)>);

impl Origins {
    /// An object in words: `port web (file, revision 3)`.
    pub fn of(&self, kind: ObjectKind, name: &str) -> String {
        let object = format!("{} {name}", kind.name());
        match self.0.get(&(kind, name.to_owned())) {
            Some((origin, revision)) => {
                format!("{object} ({}, revision {revision})", origin.name())
            }
            None => object,
        }
    }
}
