//! Watches: asked for, published, taken back; and frames that nobody sent.

use std::sync::Arc;
use std::time::SystemTime;

use switch_core::PortId;
use switch_core::datapath::Backend;
use switch_core::watch::{SNAP_MAX, WATCHES_MAX, Watch, WatchSpec, rehearse};
use vswitch_api::types::Trace;
use vswitch_api::{ApiError, Code};

use super::{Controller, Queue, no_such_port};
use crate::store::timestamp;
use crate::watch::{Origins, Wanted, Watching, trace};

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Lets workers see who wants to see frames.
    pub(super) fn watch_add(&self, wanted: Wanted) -> Result<Watching, ApiError> {
        let id = |name: Option<String>| name.map(|name| self.port_id(&name)).transpose();
        let spec =
            WatchSpec { in_port: id(wanted.in_port)?, port: id(wanted.port)?, ..wanted.spec };
        let mut next = self.switch.snapshot().next();
        let watch = Watch::new(spec);
        if !next.watches_mut().add(Arc::clone(&watch)) {
            let message = format!("{WATCHES_MAX} traces and captures run already");
            return Err(ApiError::new(Code::Busy, message).with_hint("end one of them first"));
        }
        self.switch.publish(next);
        self.workers.wake();
        Ok(Watching { watch, origins: Arc::new(self.origins()), clock: self.clock.clone() })
    }

    /// The reader is gone.
    pub(super) fn watch_remove(&self, watch: &Arc<Watch>) {
        let mut next = self.switch.snapshot().next();
        next.watches_mut().remove(watch);
        self.switch.publish(next);
        self.workers.wake();
    }

    /// What would become of a frame.
    pub(super) fn trace_frame(&self, port: &str, bytes: &[u8]) -> Result<Trace, ApiError> {
        let id = self.port_id(port)?;
        let snapshot = self.switch.snapshot();
        let record = rehearse(&snapshot, self.switch.fdb(), id, bytes, self.clock.now());
        let record = record.ok_or_else(|| {
            if snapshot.port(id).is_none() {
                let message =
                    format!("port {port} is not open, so that no frame can come in on it");
                let noun = if self.vteps.contains_key(port) { "vtep" } else { "port" };
                let hint = format!("vswitch-ctl {noun} show {port} tells why");
                ApiError::new(Code::InvalidRequest, message).with_hint(hint)
            } else {
                let message =
                    format!("a frame of {} bytes is longer than any, {SNAP_MAX}", bytes.len());
                ApiError::new(Code::InvalidRequest, message)
            }
        })?;
        Ok(trace(&record, &self.origins(), timestamp(SystemTime::now()), 0))
    }

    /// A port or a VTEP by its name.
    fn port_id(&self, name: &str) -> Result<PortId, ApiError> {
        let port = self.ports.get(name).map(|port| port.id);
        let vtep = || self.vteps.get(name).map(|vtep| vtep.id);
        port.or_else(vtep).ok_or_else(|| no_such_port(name))
    }

    fn origins(&self) -> Origins {
        let objects = self.store.objects().iter();
        let of = objects.map(|(id, o)| ((id.kind, id.name.clone()), (o.origin, o.revision)));
        Origins(of.collect())
    }
}
