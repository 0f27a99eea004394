//! One switch, one scene, one fresh process: started, warmed up, counted, looked at and ended.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::control::{Control, Took};
use super::scene::{Oracle, Scene, Store};
use super::side::{Launch, Running, Side};
use super::worker::Worker;

/// The CPU of the worker.
const CPU: u16 = 1;

/// A slow first lesson, for switches that need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// Frames a second of each port.
    pub rate: u64,
    /// How long.
    pub secs: u64,
}

impl Lesson {
    /// So that both sides' addresses are known before only one of them sends.
    const BOTH_SIDES: Self = Self { rate: 100_000, secs: 1 };
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// At full load before it is counted.
    pub warm: Duration,
    /// Counted.
    pub measured: Duration,
}

/// Runs switches.
#[derive(Debug)]
pub struct Runner {
    /// How they are started.
    pub launch: Launch,
    /// The frames.
    pub store: Store,
    /// How long they run.
    pub times: Times,
    /// The worker has real-time priority, so that nothing else on this machine takes its time.
    pub fifo: bool,
    /// Where a profile of our worker goes, if one is wanted.
    pub profile: Option<PathBuf>,
}

/// A switch with its ports ready and their sources closed.
#[derive(Debug)]
pub struct Ready {
    /// Its sources and sinks.
    pub control: Control,
    /// The switch.
    pub running: Running,
    /// Its worker.
    pub worker: Worker,
}

impl Runner {
    /// Starts a switch.
    ///
    /// # Errors
    /// It does not start.
    pub fn ready(&mut self, side: Side, scene: Scene) -> Result<Ready> {
        let control = Control::create(self.launch.dir.join("ports"), scene.devices())?;
        let running = self.launch.start(side, scene, &control)?;
        running.prepare(scene)?;
        let uplink = running.uplink(scene)?;
        for port in 0..scene.devices().len() {
            if let Some(file) = self.store.file(scene, port, uplink)? {
                control.load(port, &file)?;
            }
        }
        let worker = Worker::find(running.pid()?, CPU)?;
        if self.fifo {
            worker.prefer()?;
        }
        Ok(Ready { control, running, worker })
    }

    /// What a switch carries when it has come to rest.
    ///
    /// # Errors
    /// It does not start, loses more than one frame of a hundred, or delivers wrong ones.
    pub fn steady(&mut self, side: Side, scene: Scene, lesson: Option<Lesson>) -> Result<Took> {
        let Ready { control, running, worker } = self.ready(side, scene)?;
        let ports = 0..scene.devices().len();
        let taught = ports.clone().any(|port| scene.teaches(port));
        if let Some(lesson) = lesson.or_else(|| taught.then_some(Lesson::BOTH_SIDES)) {
            ports.clone().try_for_each(|port| control.rate(port, lesson.rate))?;
            control.open(true)?;
            teach(&running, scene, Duration::from_secs(lesson.secs))?;
            ports.clone().try_for_each(|port| control.rate(port, 0))?;
        }
        ports.clone().try_for_each(|port| control.open_port(port, !scene.teaches(port)))?;
        std::thread::sleep(self.times.warm);
        ports.clone().try_for_each(|port| control.keep(port))?;
        let took = control.measure(self.times.measured, || worker.cpu_time())?;
        if let (Side::Ours, Some(path)) = (side, &self.profile) {
            worker.profile(path)?;
        }
        if side.keeps_frames() {
            let oracle = Oracle::new(scene);
            for port in ports {
                let kept = control.kept(port)?;
                oracle.check(port, &kept).with_context(|| side.name())?;
            }
        }
        running.stop()?;
        ensure!(took.mpps() > 0.0, "{} carried nothing", side.name());
        ensure!(took.secs > 0.1 * took.wall, "its worker came to run for {:.3} s only", took.secs);
        Ok(took)
    }

    /// What a switch carries from the first frame on, in steps of `step`: millions of frames a
    /// second.
    ///
    /// # Errors
    /// It does not start.
    pub fn cold(
        &mut self,
        side: Side,
        scene: Scene,
        time: Duration,
        step: Duration,
    ) -> Result<Vec<f64>> {
        let Ready { control, running, .. } = self.ready(side, scene)?;
        let sent = || -> Result<u64> { Ok(control.read()?.iter().map(|p| p.tx.frames).sum()) };
        control.open(true)?;
        let start = Instant::now();
        let (mut curve, mut last, mut at) = (Vec::new(), sent()?, start);
        while start.elapsed() < time {
            std::thread::sleep((at + step).saturating_duration_since(Instant::now()));
            let (now, frames) = (Instant::now(), sent()?);
            curve.push((frames - last) as f64 / (now - at).as_secs_f64() / 1e6);
            (last, at) = (frames, now);
        }
        running.stop()?;
        Ok(curve)
    }

    /// What two ports carry while a third one sends `rate` hostile frames a second, and before
    /// that: millions of frames a second.
    ///
    /// # Errors
    /// It does not start, or loses what the two ports send.
    pub fn hostile(&mut self, side: Side, scene: Scene, rate: u64) -> Result<(f64, f64)> {
        let Ready { control, running, worker } = self.ready(side, scene)?;
        control.rate(2, rate)?;
        let mut found = [0.0; 2];
        for (hostile, found) in [false, true].into_iter().zip(&mut found) {
            for port in 0..3 {
                control.open_port(port, port < 2 || hostile)?;
            }
            std::thread::sleep(self.times.warm);
            let took = control.measure(self.times.measured, || worker.cpu_time())?;
            let (given, sent) = (took.given_mpps(&[0, 1]), took.mpps());
            // Floods reach the sinks, too, so that there may be more.
            ensure!(
                side == Side::Ovs || sent > 0.99 * given,
                "of {given:.2} Mpps only {sent:.2} arrived"
            );
            *found = given;
        }
        if let (Side::Ours, Some(path)) = (side, &self.profile) {
            worker.profile(path)?;
        }
        running.stop()?;
        Ok((found[1], found[0]))
    }
}

/// Waits for a lesson to end: after that time, or three times as late if there are still flows to
/// be made.
fn teach(running: &Running, scene: Scene, time: Duration) -> Result<()> {
    let wanted = match scene {
        Scene::Bridge { pairs } => 2 * u64::from(pairs),
        _ => 0,
    };
    let start = Instant::now();
    loop {
        let flows = running.help()?;
        let complete = flows.is_none_or(|flows| flows >= wanted);
        if start.elapsed() >= time && (complete || start.elapsed() >= 3 * time) {
            if let Some(flows) = flows.filter(|_| !complete) {
                println!("  it has made only {flows} of {wanted} flows");
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
