//! Devices of a replay: what a capture says comes in, and what leaves is kept. Nothing of the machine
//! is looked at.
//!
//! The worker is a real one, on its own thread. It and whoever drives the replay work in turns: one
//! waits while the other does anything, so that nothing depends on how threads are scheduled.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use switch_core::batch::Batch;
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{
    Backend, BackendError, Caps, Datapath, DeviceDetails, OpenPort, OutsideLoss, PortEvent,
    PortInfo, Ready, UnderlaySpec, Wait, Wake,
};
use switch_core::drop::DropReason;
use switch_core::frame::{Csum, Frame, FramePool, HeapFrame, MAX_FRAME, Offload, PoolConfig};
use switch_core::segment::validate;
use switch_core::segment::vnet::VnetHeader;
use switch_core::stats::PortCounters;
use switch_core::wire::ethernet::EthernetHeader;
use switch_core::{PortId, WorkerId};

/// The MTU of a device whose configuration names none, in bytes.
const MTU: u16 = 1500;
/// What kernel devices and guests take unfinished: that is how the frames of a capture left them.
const KERNEL: Caps = Caps { uso: false, ..Caps::ALL };

/// A frame that is to come in.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) port: PortId,
    /// Whether the port is a VTEP's: its frames are IP packets.
    pub(super) is_vtep: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) offload: Offload,
}

/// A frame that left.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) port: PortId,
    pub(super) bytes: Vec<u8>,
    pub(super) offload: Offload,
}

/// Where the worker and the driver meet.
#[derive(Debug, Default)]
pub(super) struct Stage {
    scene: Mutex<Scene>,
    /// There is something for the worker.
    call: Condvar,
    /// The worker has nothing left to do.
    rest: Condvar,
}

#[derive(Debug, Default)]
struct Scene {
    incoming: Option<Incoming>,
    outgoing: Vec<Outgoing>,
    is_called: bool,
    rests: bool,
}

impl Stage {
    fn scene(&self) -> MutexGuard<'_, Scene> {
        self.scene.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a frame come in; [`Self::settle`] says when it has gone its way.
    pub(super) fn put(&self, incoming: Incoming) {
        self.scene().incoming = Some(incoming);
        self.call.notify_one();
    }

    /// Waits until the worker has nothing left to do, at most so long. Whether that is so.
    pub(super) fn settle(&self, patience: Duration) -> bool {
        let busy = |scene: &mut Scene| !scene.rests || scene.is_called || scene.incoming.is_some();
        let waited = self.rest.wait_timeout_while(self.scene(), patience, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// What left since the last call, in order.
    pub(super) fn take(&self) -> Vec<Outgoing> {
        std::mem::take(&mut self.scene().outgoing)
    }
}

impl Wake for Stage {
    fn wake(&self) {
        self.scene().is_called = true;
        self.call.notify_one();
    }
}

/// The one worker's view of all ports.
#[derive(Debug)]
pub(super) struct Hall {
    stage: Arc<Stage>,
    pool: FramePool,
}

impl Hall {
    /// Makes a frame of what comes in, by the rules of real devices.
    fn receive(&self, incoming: &Incoming) -> Result<HeapFrame, DropReason> {
        let Incoming { is_vtep, bytes, offload, .. } = incoming;
        if bytes.len() < EthernetHeader::LEN && !is_vtep {
            return Err(DropReason::Runt);
        }
        if bytes.len() > MAX_FRAME {
            return Err(DropReason::Giant);
        }
        let mut frame = self.pool.frame(bytes).ok_or(DropReason::CopyFailed)?;
        // A claim of whoever wrote the file, until it is checked.
        frame.set_offload(*offload);
        // Of what is in a tunnel the tunnel's end judges.
        if *is_vtep && offload.csum == Csum::Verified && offload.gso.is_some() {
            return Ok(frame);
        }
        let claim = VnetHeader::of(&frame).map_err(|_| DropReason::VnetHeader)?;
        let checked = validate(frame.head(), bytes.len(), &claim);
        frame.set_offload(checked.map_err(|_| DropReason::VnetHeader)?);
        Ok(frame)
    }
}

impl Datapath for Hall {
    type Frame = HeapFrame;
    type Queue = ();

    fn attach(&mut self, _: PortId, (): ()) -> Option<()> {
        None
    }

    fn detach(&mut self, _: PortId) -> Option<()> {
        Some(())
    }

    /// Waits whatever was asked for: time stands still, and nothing comes but from the driver.
    fn poll(&mut self, _: Wait, ready: &mut Ready) {
        let mut scene = self.stage.scene();
        loop {
            if let Some(incoming) = &scene.incoming {
                ready.rx.push(incoming.port);
                break;
            }
            if std::mem::take(&mut scene.is_called) {
                break;
            }
            scene.rests = true;
            self.stage.rest.notify_one();
            scene = self.stage.call.wait(scene).unwrap_or_else(PoisonError::into_inner);
        }
        scene.rests = false;
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<HeapFrame>,
        counters: &PortCounters,
    ) -> usize {
        let here = |incoming: &mut Incoming| incoming.port == port;
        let Some(incoming) = self.stage.scene().incoming.take_if(here) else { return 0 };
        counters.rx_frames.add(1);
        counters.rx_bytes.add(incoming.bytes.len() as u64);
        match self.receive(&incoming) {
            // A batch takes at least one frame, and this one is empty.
            Ok(frame) => usize::from(batch.push(frame).is_ok()),
            Err(reason) => {
                counters.count_drop(reason, 1);
                0
            }
        }
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<HeapFrame>, counters: &PortCounters) {
        let mut scene = self.stage.scene();
        for frame in batch.drain() {
            let mut out = Outgoing { port, bytes: Vec::new(), offload: frame.offload() };
            frame.copy_to(&mut out.bytes);
            counters.tx_frames.add(1);
            counters.tx_bytes.add(out.bytes.len() as u64);
            scene.outgoing.push(out);
        }
    }

    fn tx_handed_over(&mut self, _: PortId, _: &PortCounters) {}

    fn alloc(&mut self) -> Option<HeapFrame> {
        self.pool.alloc()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.stage) as Arc<dyn Wake>
    }
}

/// Opens any port, of any type.
#[derive(Debug, Default)]
pub(super) struct StageBackend {
    stage: Arc<Stage>,
}

impl StageBackend {
    pub(super) fn stage(&self) -> Arc<Stage> {
        Arc::clone(&self.stage)
    }
}

/// A port of that name is open, and its device takes this.
fn open(name: &str, mtu: u16, caps: Caps) -> OpenPort<()> {
    let info = PortInfo {
        device: name.to_owned(),
        driver: "replay".to_owned(),
        mtu: mtu.into(),
        mac: [0; 6],
        caps,
        queues: 1,
        link_up: true,
        lost: Vec::new(),
        details: DeviceDetails::default(),
    };
    OpenPort { info, queues: vec![()], owner: WorkerId(0) }
}

impl Backend for StageBackend {
    type Datapath = Hall;

    fn name(&self) -> &'static str {
        "replay"
    }

    fn worker(&mut self, _: WorkerId) -> Result<Hall, BackendError> {
        let pool = FramePool::new(PoolConfig { heads: 64, tails: 16, ..PoolConfig::default() });
        Ok(Hall { stage: self.stage(), pool })
    }

    fn open_port(&mut self, _: PortId, spec: &PortSpec) -> Result<OpenPort<()>, BackendError> {
        // A NIC gets what would be on its wire: what it could do by itself is not in the file.
        let caps = match spec.kind {
            PortKind::Dpdk { .. } => Caps::default(),
            _ => KERNEL,
        };
        Ok(open(&spec.name, spec.mtu.unwrap_or(MTU), caps))
    }

    fn open_vtep(&mut self, _: PortId, spec: &UnderlaySpec) -> Result<OpenPort<()>, BackendError> {
        Ok(open(&spec.name, u16::MAX, Caps::default()))
    }

    fn adjust_vtep(
        &mut self,
        _: PortId,
        _: &UnderlaySpec,
    ) -> Result<Option<Vec<()>>, BackendError> {
        Ok(Some(vec![()]))
    }

    fn close_port(&mut self, _: PortId, _: Vec<()>, _: bool) -> Result<(), BackendError> {
        Ok(())
    }

    /// Opened again, with what it is to be now.
    fn adjust_port(&mut self, _: PortId, _: &PortSpec, _: &PortSpec) -> Result<bool, BackendError> {
        Ok(false)
    }

    fn port_info(&mut self, _: PortId) -> Option<PortInfo> {
        None
    }

    fn outside_loss(&mut self, _: PortId) -> OutsideLoss {
        OutsideLoss::default()
    }

    fn events(&mut self) -> Vec<PortEvent> {
        Vec::new()
    }
}
