//! The workers' lives: one plain thread each, pinned if it was asked for.
//!
//! A worker runs [`Worker::turn`] until it is told to stop. What it does without frames is the
//! operator's choice ([`Idle`]): `adaptive` goes on looking for a moment after the last frame,
//! since under load the next one is near and a sleep costs a system call and a wake-up, and then
//! sleeps in the backend's poll; `poll` never sleeps.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use switch_core::datapath::{Datapath, Wait, Wake};
use switch_core::stats::{PortCounters, WorkerCounters};
use switch_core::switch::{Switch, WORKERS_MAX};
use switch_core::worker::{Command, Worker};
use switch_core::{Nanos, PortId, WorkerId};
use vswitch_api::config::Idle;

use crate::clock::Clock;

/// How long it sleeps at most; a frame or a command ends it earlier.
const SLEEP: Duration = Duration::from_secs(1);
/// How long a worker may take to answer a command. A turn takes microseconds; one that takes
/// seconds hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How the threads are to run.
#[derive(Clone, Debug, Default)]
pub struct WorkerPlan {
    /// One pinned worker each; empty is one worker that is not pinned.
    pub cpus: Vec<u16>,
    /// What a worker without frames does.
    pub idle: Idle,
}

impl WorkerPlan {
    /// How many workers there will be.
    pub fn count(&self) -> usize {
        self.cpus.len().max(1)
    }
}

/// Why the workers cannot do what they have to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The thread could not be started.
    #[error("start worker {worker}: {cause}")]
    Spawn {
        /// Its number.
        worker: usize,
        /// Why.
        cause: io::Error,
    },
    /// The thread could not be pinned.
    #[error("pin worker {worker} to CPU {cpu}: {cause}")]
    Pin {
        /// Its number.
        worker: usize,
        /// The CPU.
        cpu: u16,
        /// Why.
        cause: nix::Error,
    },
    /// One still uses an old snapshot.
    #[error("a worker did not take up revision {revision} within {ANSWER_WITHIN:?}")]
    Lags {
        /// The revision of the snapshot it should use.
        revision: u64,
    },
    /// There are more CPUs than the switch has workers.
    #[error("{asked} workers are more than {WORKERS_MAX}")]
    TooMany {
        /// How many were asked for.
        asked: usize,
    },
    /// It does not answer.
    #[error("worker {worker} did not answer within {ANSWER_WITHIN:?}")]
    Hangs {
        /// Its number.
        worker: usize,
    },
}

/// One worker, from outside.
#[derive(Debug)]
struct Handle<Q> {
    cpu: Option<u16>,
    commands: Sender<Command<Q>>,
    wake: Arc<dyn Wake>,
    counters: Arc<WorkerCounters>,
    thread: JoinHandle<()>,
}

/// All workers.
#[derive(Debug)]
pub struct Workers<Q> {
    handles: Vec<Handle<Q>>,
}

/// What a worker thread says about its end, if nobody asked for it.
#[derive(Debug)]
pub struct Died {
    /// Which worker.
    pub worker: usize,
    /// Its panic message.
    pub message: String,
}

impl<Q: Send + 'static> Workers<Q> {
    /// Starts one thread for each datapath. `died` is told of a worker that panicked.
    ///
    /// # Errors
    /// A thread cannot be made or pinned; those that run by then have been stopped.
    pub fn start<D>(
        plan: &WorkerPlan,
        datapaths: Vec<D>,
        switch: &Arc<Switch>,
        clock: &Clock,
        died: &Sender<Died>,
    ) -> Result<Self, WorkerError>
    where
        D: Datapath<Queue = Q> + 'static,
    {
        let mut all = Self { handles: Vec::new() };
        for (index, datapath) in datapaths.into_iter().enumerate() {
            let cpu = plan.cpus.get(index).copied();
            match spawn(index, cpu, plan.idle, datapath, switch, clock.clone(), died.clone()) {
                Ok(handle) => all.handles.push(handle),
                Err(error) => {
                    all.stop();
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Number, CPU and counters of each.
    pub fn each(&self) -> impl Iterator<Item = (usize, Option<u16>, &WorkerCounters)> {
        self.handles.iter().enumerate().map(|(index, h)| (index, h.cpu, &*h.counters))
    }

    /// Ends every wait.
    pub fn wake(&self) {
        for handle in &self.handles {
            handle.wake.wake();
        }
    }

    /// Gives every worker its queue of a port, and waits until all have it. Queue and counters are
    /// in the order of the workers. The queues they had before come back.
    ///
    /// # Errors
    /// A worker hangs.
    pub fn attach(
        &self,
        port: PortId,
        queues: Vec<Q>,
        counters: &[Arc<PortCounters>],
    ) -> Result<Vec<Q>, WorkerError> {
        let mut answers = Vec::new();
        for ((handle, queue), counters) in self.handles.iter().zip(queues).zip(counters) {
            let (done, answer) = bounded(1);
            let counters = Arc::clone(counters);
            // A worker that has gone does not answer, which is found below.
            let _ = handle.commands.send(Command::Attach { port, queue, counters, done });
            handle.wake.wake();
            answers.push(answer);
        }
        Ok(collect(answers)?.into_iter().flatten().collect())
    }

    /// Gives one worker another queue of a port that it has.
    ///
    /// # Errors
    /// It hangs.
    pub fn attach_one(
        &self,
        worker: WorkerId,
        port: PortId,
        queue: Q,
        counters: &Arc<PortCounters>,
    ) -> Result<(), WorkerError> {
        let Some(handle) = self.handles.get(worker.index()) else { return Ok(()) };
        let (done, answer) = bounded(1);
        let counters = Arc::clone(counters);
        let _ = handle.commands.send(Command::Attach { port, queue, counters, done });
        handle.wake.wake();
        let hangs = |_| WorkerError::Hangs { worker: worker.index() };
        answer.recv_timeout(ANSWER_WITHIN).map(drop).map_err(hangs)
    }

    /// Takes a port from every worker; its queues come back.
    ///
    /// # Errors
    /// A worker hangs: its queue must not be closed.
    pub fn detach(&self, port: PortId) -> Result<Vec<Q>, WorkerError> {
        let mut answers = Vec::new();
        for handle in &self.handles {
            let (done, answer) = bounded(1);
            let _ = handle.commands.send(Command::Detach { port, done });
            handle.wake.wake();
            answers.push(answer);
        }
        Ok(collect(answers)?.into_iter().flatten().collect())
    }

    /// Waits until every worker uses the snapshot of that revision or a later one.
    ///
    /// # Errors
    /// A worker hangs.
    pub fn wait_observed(&self, switch: &Switch, revision: u64) -> Result<(), WorkerError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        while !switch.all_observed(revision) {
            if Instant::now() > deadline {
                return Err(WorkerError::Lags { revision });
            }
            self.wake();
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    /// Stops all and waits for their end.
    pub fn stop(&mut self) {
        for handle in &self.handles {
            let _ = handle.commands.send(Command::Stop);
            handle.wake.wake();
        }
        for handle in self.handles.drain(..) {
            // A panic was reported when it happened.
            let _ = handle.thread.join();
        }
    }
}

fn collect<T>(answers: Vec<Receiver<T>>) -> Result<Vec<T>, WorkerError> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let answer = |(worker, answer): (usize, Receiver<T>)| {
        answer.recv_deadline(deadline).map_err(|_| WorkerError::Hangs { worker })
    };
    answers.into_iter().enumerate().map(answer).collect()
}

fn spawn<D>(
    index: usize,
    cpu: Option<u16>,
    idle: Idle,
    datapath: D,
    switch: &Arc<Switch>,
    clock: Clock,
    died: Sender<Died>,
) -> Result<Handle<D::Queue>, WorkerError>
where
    D: Datapath + 'static,
    D::Queue: 'static,
{
    // The channel itself has no bound, but only the control thread sends, and it waits for the
    // answers of one port before it turns to the next.
    let (commands, inbox) = unbounded();
    let counters = Arc::<WorkerCounters>::default();
    let wake = datapath.waker();
    let id = WorkerId(u16::try_from(index).unwrap_or(u16::MAX));
    let mut worker = Worker::new(id, datapath, Arc::clone(switch), inbox, Arc::clone(&counters));
    let (pinned, pinning) = bounded(1);
    let body = move || {
        let _ = pinned.send(cpu.map_or(Ok(()), pin));
        let run = AssertUnwindSafe(|| run(&mut worker, idle, &clock));
        if let Err(panic) = catch_unwind(run) {
            let _ = died.send(Died { worker: index, message: panic_text(&*panic) });
        }
    };
    let thread = std::thread::Builder::new()
        .name(format!("vsw-worker-{index}"))
        .spawn(body)
        .map_err(|cause| WorkerError::Spawn { worker: index, cause })?;
    let handle = Handle { cpu, commands, wake, counters, thread };
    match (pinning.recv(), cpu) {
        (Ok(Err(cause)), Some(cpu)) => {
            Workers { handles: vec![handle] }.stop();
            Err(WorkerError::Pin { worker: index, cpu, cause })
        }
        _ => Ok(handle),
    }
}

fn pin(cpu: u16) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(usize::from(cpu))?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// A worker's loop, to its end.
fn run<D: Datapath>(worker: &mut Worker<D>, idle: Idle, clock: &Clock) {
    let now = Cell::new(clock.now());
    let mut busy_at = Nanos::default();
    loop {
        let wait = match idle {
            Idle::Poll => Wait::No,
            Idle::Adaptive if now.get() - busy_at < D::LINGER => Wait::No,
            Idle::Adaptive => Wait::AtMost(SLEEP),
        };
        // The turn reads the clock after its wait, and once more if it had frames.
        let turn = worker.turn(wait, || {
            now.set(clock.now());
            now.get()
        });
        if turn.stopped {
            return;
        }
        if turn.frames > 0 {
            busy_at = now.get();
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use switch_core::batch::Batch;
    use switch_core::datapath::{Backend, Ready};
    use switch_core::fdb::FdbConfig;
    use switch_core::testing::LoopbackBackend;
    use switch_core::testing::loopback::{Loopback, LoopbackQueue};

    use super::*;

    /// A datapath that panics when it is first polled.
    struct Bomb(Loopback);

    impl Datapath for Bomb {
        type Frame = <Loopback as Datapath>::Frame;
        type Queue = LoopbackQueue;

        fn attach(&mut self, port: PortId, queue: LoopbackQueue) -> Option<LoopbackQueue> {
            self.0.attach(port, queue)
        }

        fn detach(&mut self, port: PortId) -> Option<LoopbackQueue> {
            self.0.detach(port)
        }

        fn poll(&mut self, _: Wait, _: &mut Ready) {
            panic!("boom");
        }

        fn rx_burst(&mut self, _: PortId, _: &mut Batch<Self::Frame>, _: &PortCounters) -> usize {
            0
        }

        fn tx_burst(&mut self, port: PortId, batch: &mut Batch<Self::Frame>, c: &PortCounters) {
            self.0.tx_burst(port, batch, c);
        }

        fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
            self.0.tx_handed_over(port, counters);
        }

        fn alloc(&mut self) -> Option<Self::Frame> {
            self.0.alloc()
        }

        fn waker(&self) -> Arc<dyn Wake> {
            self.0.waker()
        }
    }

    #[test]
    fn a_worker_that_panics_is_told_of() {
        let loopback = LoopbackBackend::default().worker(WorkerId(0)).unwrap();
        let switch = Switch::new(FdbConfig { max_total: 1024, ..FdbConfig::default() });
        let (died, deaths) = unbounded();
        let plan = WorkerPlan::default();
        let mut workers =
            Workers::start(&plan, vec![Bomb(loopback)], &switch, &Clock::start(), &died).unwrap();
        let death = deaths.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!((death.worker, death.message.as_str()), (0, "boom"));
        workers.stop();
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_and_nothing_stays() {
        let mut backend = LoopbackBackend::default();
        let datapaths = vec![backend.worker(WorkerId(0)).unwrap()];
        let switch = Switch::new(FdbConfig { max_total: 1024, ..FdbConfig::default() });
        let plan = WorkerPlan { cpus: vec![1023], ..WorkerPlan::default() };
        let (died, deaths) = unbounded();
        let error = Workers::start(&plan, datapaths, &switch, &Clock::start(), &died).unwrap_err();
        assert!(error.to_string().starts_with("pin worker 0 to CPU 1023: "), "{error}");
        drop(died);
        assert!(deaths.recv().is_err(), "its thread has ended");
    }
}
