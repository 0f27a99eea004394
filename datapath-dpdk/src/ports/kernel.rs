//! Ports of type `tap` and `netdev`: opened, watched and closed by the TAP backend, whose rules
//! (persistence, namespaces, devices in use, the host's stack silenced) hold here, too.

use std::fmt;

use datapath_tap::{TapBackend, TapDatapath, TapOptions};
use switch_core::config::PortSpec;
use switch_core::datapath::{Backend, BackendError, OutsideLoss, PortEvent, PortInfo};
use switch_core::frame::{FramePool, PoolConfig};
use switch_core::ids::{PortId, WorkerId};

use crate::kernel::KernelPort;
use crate::mempool::Mempool;

/// Ports on kernel devices.
pub(crate) struct KernelPorts {
    tap: TapBackend,
    /// The TAP backend deals queues out to workers, and this is its only one. It is never turned:
    /// its queues are given to ours.
    worker: Option<TapDatapath>,
    /// What frames are received into.
    frames: FramePool,
}

impl fmt::Debug for KernelPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelPorts").field("tap", &self.tap).finish_non_exhaustive()
    }
}

impl KernelPorts {
    pub(crate) fn new(options: TapOptions) -> Self {
        let frames = FramePool::new(PoolConfig::default());
        Self { tap: TapBackend::new(options), worker: None, frames }
    }

    pub(crate) fn open(
        &mut self,
        port: PortId,
        spec: &PortSpec,
        pool: Mempool,
    ) -> Result<(PortInfo, KernelPort), BackendError> {
        if self.worker.is_none() {
            self.worker = Some(self.tap.worker(WorkerId(0))?);
        }
        let failed = |cause: &str| BackendError::Failed {
            attempted: format!("open port {}", spec.name),
            cause: cause.to_owned(),
            hint: None,
        };
        let open = self.tap.open_port(port, spec)?;
        let queue = open.queues.into_iter().find_map(datapath_tap::TapQueue::into_kernel);
        let scratch = self.frames.alloc();
        let (Some(queue), Some(scratch)) = (queue, scratch) else {
            let _ = self.tap.close_port(port, Vec::new(), false);
            return Err(failed("no queue or no buffer to receive into"));
        };
        Ok((open.info, KernelPort::new(queue, scratch, pool)))
    }

    /// Closes the port, or forgets that it waits. Its queue is gone by now.
    pub(crate) fn close(&mut self, port: PortId, remove: bool) -> Result<(), BackendError> {
        self.tap.close_port(port, Vec::new(), remove)
    }

    pub(crate) fn adjust(
        &mut self,
        port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError> {
        self.tap.adjust_port(port, old, new)
    }

    pub(crate) fn info(&mut self, port: PortId) -> Option<PortInfo> {
        self.tap.port_info(port)
    }

    pub(crate) fn outside_loss(&mut self, port: PortId) -> OutsideLoss {
        self.tap.outside_loss(port)
    }

    pub(crate) fn events(&mut self) -> Vec<PortEvent> {
        self.tap.events()
    }
}
