//! The control thread over loopback ports: real workers, real store, devices that come and go as a
//! test says.

mod desired;
mod overlay;
mod ports;
mod reasons;
mod scale;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use serde_json::{Value as Json, json};
use switch_core::config::PortSpec;
use switch_core::datapath::{
    Backend, BackendError, OpenPort, OutsideLoss, PortEvent, PortInfo, UnderlaySpec,
};
use switch_core::testing::loopback::{LoopbackQueue, Wires};
use switch_core::testing::{Loopback, LoopbackBackend, Wire, frames};
use switch_core::{PortId, WorkerId};
use tempfile::TempDir;
use vswitch_api::types::{MutationReply, PortState, PortStats, PortStatus};
use vswitch_api::{ApiError, Code, config};

use super::{Action, Author, Control, ControlError, Controller, Mutation, Reply};
use crate::events::Events;
use crate::store::{Store, load};

/// How long a test waits for what happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the devices of a [`Fickle`] backend do.
#[derive(Debug, Default)]
struct World {
    missing: BTreeSet<String>,
    failing: BTreeMap<String, String>,
    /// Ports that were closed, and whether their device was removed.
    closed: Vec<(String, bool)>,
    appeared: Vec<String>,
    /// What VTEPs were opened for, and adjusted to.
    underlays: Vec<UnderlaySpec>,
    /// VTEPs have to be closed and opened again.
    rigid: bool,
    /// Path MTUs; without one the underlay does not know.
    paths: BTreeMap<IpAddr, u32>,
}

/// Loopback ports whose devices may be missing or refuse.
struct Fickle {
    inner: LoopbackBackend,
    world: Arc<Mutex<World>>,
    names: BTreeMap<PortId, String>,
}

impl Backend for Fickle {
    type Datapath = Loopback;

    fn name(&self) -> &'static str {
        "loopback"
    }

    fn worker(&mut self, id: WorkerId) -> Result<Loopback, BackendError> {
        self.inner.worker(id)
    }

    fn open_port(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<LoopbackQueue>, BackendError> {
        self.names.insert(port, spec.name.clone());
        let world = self.world.lock().unwrap();
        if world.missing.contains(&spec.name) {
            return Err(BackendError::NotThere { what: format!("device {}", spec.name) });
        }
        if let Some(cause) = world.failing.get(&spec.name) {
            return Err(BackendError::Failed {
                attempted: format!("open {}", spec.name),
                cause: cause.clone(),
                hint: Some("do not".to_owned()),
            });
        }
        drop(world);
        self.inner.open_port(port, spec)
    }

    fn open_vtep(
        &mut self,
        port: PortId,
        spec: &UnderlaySpec,
    ) -> Result<OpenPort<LoopbackQueue>, BackendError> {
        self.names.insert(port, spec.name.clone());
        let mut world = self.world.lock().unwrap();
        if world.missing.contains(&spec.name) {
            return Err(BackendError::NotThere { what: format!("address {}", spec.local) });
        }
        world.underlays.push(spec.clone());
        drop(world);
        self.inner.open_vtep(port, spec)
    }

    fn adjust_vtep(
        &mut self,
        port: PortId,
        new: &UnderlaySpec,
    ) -> Result<Option<Vec<LoopbackQueue>>, BackendError> {
        let mut world = self.world.lock().unwrap();
        if let Some(cause) = world.failing.get(&new.name) {
            let attempted = format!("adjust {}", new.name);
            return Err(BackendError::Failed { attempted, cause: cause.clone(), hint: None });
        }
        if world.rigid {
            return Ok(None);
        }
        world.underlays.push(new.clone());
        drop(world);
        self.inner.adjust_vtep(port, new)
    }

    fn path_mtu(&mut self, _vtep: PortId, remote: IpAddr) -> Option<u32> {
        self.world.lock().unwrap().paths.get(&remote).copied()
    }

    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<LoopbackQueue>,
        remove: bool,
    ) -> Result<(), BackendError> {
        let name = self.names.get(&port).cloned().unwrap_or_default();
        self.world.lock().unwrap().closed.push((name, remove));
        self.inner.close_port(port, queues, remove)
    }

    fn adjust_port(
        &mut self,
        port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError> {
        if let Some(cause) = self.world.lock().unwrap().failing.get(&new.name) {
            return Err(BackendError::Failed {
                attempted: format!("adjust {}", new.name),
                cause: cause.clone(),
                hint: None,
            });
        }
        self.inner.adjust_port(port, old, new)
    }

    fn port_info(&mut self, port: PortId) -> Option<PortInfo> {
        self.inner.port_info(port)
    }

    fn outside_loss(&mut self, port: PortId) -> OutsideLoss {
        self.inner.outside_loss(port)
    }

    fn events(&mut self) -> Vec<PortEvent> {
        use switch_core::datapath::PortEventKind::Appeared;
        let mut events = self.inner.events();
        for name in std::mem::take(&mut self.world.lock().unwrap().appeared) {
            let port = self.names.iter().find(|(_, known)| **known == name);
            events.extend(port.map(|(port, _)| PortEvent { port: *port, kind: Appeared }));
        }
        events
    }
}

/// A switch that runs, with its store in a directory that outlives it.
struct Bench {
    control: Control,
    events: Events,
    wires: Wires,
    world: Arc<Mutex<World>>,
    thread: Option<JoinHandle<Result<(), ControlError>>>,
    dir: Arc<TempDir>,
}

impl Bench {
    fn start(toml: &str) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), toml)
    }

    fn start_in(dir: Arc<TempDir>, toml: &str) -> Self {
        Self::start_with(dir, toml, World::default())
    }

    fn start_with(dir: Arc<TempDir>, toml: &str, world: World) -> Self {
        let mut store = Store::open(dir.path()).unwrap();
        let (desired, _) = load(&mut store, toml.as_bytes(), false).unwrap();
        let inner = LoopbackBackend::default();
        let (wires, world) = (inner.wires(), Arc::new(Mutex::new(world)));
        let backend = Fickle { inner, world: Arc::clone(&world), names: BTreeMap::new() };
        let events = Events::default();
        let (died, _) = unbounded();
        let (controller, control) =
            Controller::start(backend, store, desired, events.clone(), &died).unwrap();
        let thread = Some(std::thread::spawn(move || controller.run()));
        Self { control, events, wires, world, thread, dir }
    }

    /// Stops it; what is left is its directory.
    fn stop(mut self) -> Arc<TempDir> {
        self.end();
        Arc::clone(&self.dir)
    }

    fn end(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    fn ask<T>(&self, action: impl FnOnce(Reply<T>) -> Action) -> T {
        self.control.ask_blocking(action).unwrap()
    }

    fn mutate(&self, mutation: Mutation) -> Result<MutationReply, ApiError> {
        let author = Author("test".to_owned());
        self.control.ask_blocking(|reply| Action::Mutate { author, mutation, reply })
    }

    fn port(&self, name: &str) -> PortStatus {
        let ports = self.ask(Action::Ports);
        ports.into_iter().find(|port| port.name == name).unwrap()
    }

    fn stats(&self, name: &str) -> PortStats {
        self.ask(Action::PortStats).into_iter().find(|stats| stats.name == name).unwrap()
    }

    fn toml(&self) -> String {
        self.ask(Action::Config).toml
    }

    fn wire(&self, name: &str) -> Wire {
        self.wires.get(name).unwrap()
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_state(&self, name: &str, state: PortState) {
        until(&format!("{name} to be {state:?}"), || self.port(name).state == state);
    }

    /// Kinds of the events so far, with their subjects.
    fn told(&self) -> Vec<(String, String)> {
        let (kept, _) = self.events.follow();
        kept.into_iter().map(|event| (event.event, event.subject)).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// Waits until `done`, and fails the test if that takes too long.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bridge `br0`, and TAP ports in it.
fn switch(ports: &[&str]) -> String {
    // A small FDB: an unoptimised build takes its time to look at a large one.
    let mut toml =
        "version = 1\n[daemon]\nmax-fdb-total = 4096\n[[bridge]]\nname = \"br0\"\n".to_owned();
    for name in ports {
        toml += &format!("[[port]]\nname = \"{name}\"\ntype = \"tap\"\nbridge = \"br0\"\n");
    }
    toml
}

fn port_spec(json: &Json) -> PortSpec {
    config::port_from_json(json).unwrap()
}

/// A frame from one station to another.
fn frame(from: u32, to: u32) -> Vec<u8> {
    frames::ethernet(frames::mac(to), frames::mac(from), 0x0800, &[0; 50])
}

/// Sends a frame into the switch and waits until the far end of another port has it.
fn passes(bench: &Bench, from: (&str, u32), to: (&str, u32)) {
    bench.wire(to.0).collect();
    let sent = frame(from.1, to.1);
    assert!(bench.wire(from.0).inject(sent.clone()));
    let wire = bench.wire(to.0);
    until("the frame", || wire.take().is_some_and(|packet| packet.bytes == sent));
}
