//! A run: ceilings first, then every switch in every row, each from a fresh start.

mod expected;
mod figures;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::fdb;
use super::generator::{Environment, Generator, Queues, bind};
use super::reconfigure::{self, PACE};
use super::result::{BOUND, Ceiling, Flooded, Latency, Learned, Measured, Of, Rate, Reconfigured};
use super::row::{Row, Test, name};
use super::search::{Plan, Step};
use super::sut::{Kind, Launch, Running};
use super::table;
use super::taken::Watched;
use super::traffic::Underlay;
use super::trial::{Ask, Offer, Rig, Trial};
use super::wiring::Wiring;

/// Loads at which latency is measured, as shares of the NDR.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// Frames a second of each port while a switch learns.
const LESSON: f64 = 200_000.0;
/// Frames a second of the first look at a switch, and for how long.
const LOOK: (f64, Duration) = (20_000.0, Duration::from_millis(300));
/// Share of loss at that rate beyond which something is wrong.
const LOOK_LOSS: f64 = 0.01;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The switches, the first being the one that others are compared with.
    pub suts: Vec<Kind>,
    /// What is sent.
    pub rows: Vec<Row>,
    /// The generator's ports by name, and the switch's; empty for our own wiring.
    pub named: (Vec<String>, Vec<String>),
    /// CPUs of the generator.
    pub cpus: Vec<u16>,
    /// How switches are started.
    pub launch: Launch,
    /// How rates are searched.
    pub plan: Plan,
    /// Whether NDR and PDR are searched; else there is the maximum only.
    pub search: bool,
    /// Whether latency is measured.
    pub latency: bool,
    /// How often each switch is measured in each row, in turn.
    pub pairs: usize,
    /// Frames a second between random addresses where those flood a port.
    pub random: f64,
    /// The share of the maximum at which flows run while a switch is reconfigured.
    pub load: f64,
}

impl Options {
    /// How many ports there are: those that are named, or as many as rows want.
    pub fn ports(&self) -> usize {
        match self.named.0.len() {
            0 => self.rows.iter().map(|row| row.ports).max().unwrap_or(0),
            named => named,
        }
    }
}

/// Who is told of progress.
pub trait Watcher: std::fmt::Debug {
    /// What is being done.
    fn doing(&self, what: &str);
    /// A trial of a search was run, in a line.
    fn tried(&self, line: &str);
    /// Something was measured; how it stands in the table.
    fn measured(&self, lines: &[String]);
    /// A switch cannot carry a row.
    fn skipped(&self, sut: Kind, row: &Row, why: &str);
}

/// What a run measured.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Of each row and kind of port.
    pub ceilings: Vec<Ceiling>,
    /// In the order of measurement.
    pub results: Vec<Measured>,
    /// How fast addresses were learned.
    pub learned: Vec<Learned>,
    /// What was left beside floods.
    pub flooded: Vec<Flooded>,
    /// What was lost during changes.
    pub reconfigured: Vec<Reconfigured>,
    /// What switches that take a configuration were given.
    pub configurations: Vec<(Kind, String)>,
}

impl Findings {
    /// Keeps the configuration that a switch is given, if it takes one.
    pub(super) fn configured(&mut self, sut: Kind, config: impl FnOnce() -> String) {
        if sut == Kind::Vswitchd {
            let config = (sut, config());
            if !self.configurations.contains(&config) {
                self.configurations.push(config);
            }
        }
    }
}

/// What a switch is measured in.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    of: Of,
    wiring: &'a Wiring,
    ceiling: &'a Ceiling,
}

/// A run.
#[derive(Debug)]
pub struct Session<'a> {
    options: &'a Options,
    environment: Environment,
    watcher: &'a dyn Watcher,
    stop: Arc<AtomicBool>,
}

/// A rig that gives up when the user does, and knows when the switch had no CPU.
struct Stoppable<'a> {
    generator: &'a mut Generator,
    workers: &'a Watched,
    stop: &'a AtomicBool,
}

impl Rig for Stoppable<'_> {
    fn trial(&mut self, ask: Ask) -> Result<Trial> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        let before = self.workers.without_cpu();
        let trial = self.generator.trial(ask)?;
        let taken = self.workers.without_cpu().saturating_sub(before);
        Ok(Trial { taken, ..trial })
    }
}

impl<'a> Session<'a> {
    /// To be run in that environment, until `stop`.
    pub fn new(
        options: &'a Options,
        environment: Environment,
        watcher: &'a dyn Watcher,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self { options, environment, watcher, stop }
    }

    /// Measures everything, and writes it to `findings` as it is known.
    ///
    /// # Errors
    /// A switch does not start, or carries nothing. Nothing is left running.
    pub fn run(&self, findings: &mut Findings) -> Result<()> {
        let options = self.options;
        let wirings = self.wirings()?;
        if !options.named.0.is_empty() {
            // Before anything is measured.
            self.open(&options.named.0, (1, 1))?;
        }
        for row in &options.rows {
            for pair in 1..=options.pairs {
                for sut in &options.suts {
                    let ours = options.named.0.is_empty();
                    if let Some(why) = sut.refuses(row, options.ports(), ours) {
                        ensure!(options.suts.len() > 1, "{}, {row}: {why}", name(*sut));
                        self.watcher.skipped(*sut, row, why);
                        continue;
                    }
                    let at = usize::from(*sut == Kind::LinuxBridge && wirings.len() > 1);
                    let wiring = &wirings[at];
                    let ceiling = self.known_ceiling(row, wiring, findings)?;
                    let ports = wiring.switch.get(..row.ports).unwrap_or_default();
                    findings.configured(*sut, || options.launch.config(row, ports));
                    let of = Of { sut: *sut, pair, row: *row };
                    self.measure(Place { of, wiring, ceiling: &ceiling }, findings)
                        .with_context(|| format!("{}, {row}", name(*sut)))?;
                }
            }
        }
        Ok(())
    }

    /// The ceiling of a row's frames: measured at the first row that has them.
    fn known_ceiling(
        &self,
        row: &Row,
        wiring: &Wiring,
        findings: &mut Findings,
    ) -> Result<Ceiling> {
        let same = |c: &&Ceiling| c.row == row.without_switch() && c.ports == wiring.kind;
        if let Some(known) = findings.ceilings.iter().find(same) {
            return Ok(known.clone());
        }
        let ceiling = self.ceiling(row, wiring)?;
        self.watcher.measured(&[table::ceiling(&ceiling)]);
        findings.ceilings.push(ceiling.clone());
        Ok(ceiling)
    }

    /// The wiring of switches on DPDK, and that of the kernel's bridge behind it if both are wanted.
    fn wirings(&self) -> Result<Vec<Wiring>> {
        let options = self.options;
        let dir = &options.launch.dir;
        let (generator, switch) = options.named.clone();
        let of_kernel = |sut: &&Kind| **sut == Kind::LinuxBridge;
        let largest = options.rows.iter().map(|row| row.size.largest()).max().unwrap_or(0);
        let mut wirings = Vec::new();
        if !generator.is_empty() {
            wirings.push(Wiring::named(generator, switch, dir, largest));
        } else if options.suts.iter().any(|sut| !of_kernel(&sut)) {
            wirings.push(Wiring::memif(dir, options.ports(), largest));
        }
        if options.suts.iter().any(|sut| of_kernel(&sut)) {
            wirings.push(Wiring::veth(options.ports())?);
        }
        Ok(wirings)
    }

    fn open(&self, devices: &[String], queues: Queues) -> Result<Generator> {
        Generator::open(self.environment, devices, &self.options.cpus, queues)
    }

    /// Opens the ports of a row, with the queues that a switch has at their other ends.
    fn open_for(&self, place: &Place<'_>) -> Result<Generator> {
        let Of { sut, row, .. } = place.of;
        let queues = match self.options.named.0.is_empty() {
            true => sut.queues(row.workers as u16),
            false => (1, 1),
        };
        self.open(&place.wiring.generator[..row.ports], queues)
    }

    fn ask(&self, offer: Offer) -> Ask {
        Ask::flows(offer, self.options.plan.trial)
    }

    fn ceiling(&self, row: &Row, wiring: &Wiring) -> Result<Ceiling> {
        self.watcher.doing("the generator back to back");
        let failed = "the generator back to back, with no switch";
        let mut generator = self.open(&wiring.looped[..row.ports], (1, 1)).context(failed)?;
        generator.wait_link().context(failed)?;
        generator.prepare(*row, Underlay::LOOP);
        let nobody = Watched::default();
        let mut rig = Stoppable { generator: &mut generator, workers: &nobody, stop: &self.stop };
        let flood = rig.trial(self.ask(Offer::Flood))?;
        let pps = flood.rate();
        ensure!(pps > 0.0, "{failed}: nothing arrives");
        let ask = Ask { latency: true, ..self.ask(Offer::Rate(pps * LOADS[0])) };
        let latency =
            if self.options.latency { Latency::of(LOADS[0], &rig.trial(ask)?) } else { None };
        Ok(Ceiling { row: row.without_switch(), ports: wiring.kind, pps, latency })
    }

    fn measure(&self, place: Place<'_>, findings: &mut Findings) -> Result<()> {
        let Of { sut, row, .. } = place.of;
        let say = |what: &str| self.watcher.doing(&format!("{}, {row}: {what}", name(sut)));
        say("starting");
        let mut generator = self.open_for(&place)?;
        let mut running = self.options.launch.start(sut, &row, place.wiring)?;
        generator.wait_link().or_else(|error| running.alive().and(Err(error)))?;
        generator.prepare(row, running.underlay(&row)?);
        say("learning");
        generator.teach(LESSON)?;
        let workers = &Watched::of(&running, self.options.launch.workers_of(&row));
        let rig = &mut Stoppable { generator: &mut generator, workers, stop: &self.stop };
        let notes = self.look(rig).or_else(|error| running.alive().and(Err(error)))?;
        let lines = match row.test {
            Test::Rate => {
                let mut measured = self.figures(&place, rig, &say)?;
                measured.notes.splice(0..0, notes);
                let lines = table::measured(&measured, Some(place.ceiling));
                findings.results.push(measured);
                lines
            }
            Test::Learn => {
                let learned = self.learn(&place, rig, &running, notes, &say)?;
                let lines = table::learned(&learned, place.ceiling);
                findings.learned.push(learned);
                lines
            }
            Test::Flood => {
                let flooded = self.flood(&place, rig, notes, &say)?;
                let lines = table::flooded(&flooded);
                findings.flooded.push(flooded);
                lines
            }
            Test::Reconfigure => {
                let done = self.reconfigure(&place, rig, &running, notes, &say)?;
                let lines = table::reconfigured(&done);
                findings.reconfigured.push(done);
                lines
            }
        };
        self.watcher.measured(&lines);
        running.stop()
    }

    fn learn(
        &self,
        place: &Place<'_>,
        rig: &mut Stoppable<'_>,
        running: &Running,
        mut notes: Vec<String>,
        say: &dyn Fn(&str),
    ) -> Result<Learned> {
        say("new addresses");
        let (of, ceiling) = (place.of, place.ceiling);
        let forget = || running.forget(place.wiring);
        let plan = self.options.plan;
        // The ceiling is of all pairs of ports, and one teaches.
        let highest = ceiling.pps / (of.row.ports / 2) as f64;
        let tell = |step: Step<'_>| self.tell(place.of.sut, "addresses", step);
        let found = fdb::learn(rig, &forget, of.row.flows, plan, highest, &tell)?;
        notes.extend(found.limited.iter().map(|why| format!("not searched higher, as {why}")));
        Ok(Learned {
            of,
            ceiling_ports: ceiling.ports,
            rate: found.rate,
            taught: found.trial.sent,
            unknown: found.trial.lost(),
            refused: found.trial.blocked,
            generator_bound: found.rate.is_some_and(|rate| rate > BOUND * highest),
            notes,
        })
    }

    fn flood(
        &self,
        place: &Place<'_>,
        rig: &mut Stoppable<'_>,
        mut notes: Vec<String>,
        say: &dyn Fn(&str),
    ) -> Result<Flooded> {
        say("known flows beside a flood");
        let wanted = self.options.random;
        let left = fdb::flood(rig, wanted, self.options.plan)?;
        if left.random < 0.99 * wanted {
            notes.push(format!(
                "of {:.3} million random frames a second the switch's port took {:.3}",
                wanted / 1e6,
                left.random / 1e6
            ));
        }
        let ([alone, beside], [half_alone, half_beside]) = (left.maximum, left.half);
        let (of, ceiling_ports, random) = (place.of, place.ceiling.ports, left.random);
        Ok(Flooded { of, ceiling_ports, random, alone, beside, half_alone, half_beside, notes })
    }

    fn reconfigure(
        &self,
        place: &Place<'_>,
        rig: &mut Stoppable<'_>,
        running: &Running,
        mut notes: Vec<String>,
        say: &dyn Fn(&str),
    ) -> Result<Reconfigured> {
        say("maximum receive rate");
        let flood = rig.trial(self.ask(Offer::Flood))?;
        let plan = self.options.plan;
        let rate = self.options.load * flood.rate();
        let ask = Ask::flows(Offer::Rate(rate), plan.confirm);
        say("without changes");
        let quiet = fdb::calmest(rig, ask, plan.again)?;
        let control = self.options.launch.control;
        let mut with_changes = || {
            say("with changes");
            let change = |change| running.change(change);
            reconfigure::during(|| rig.trial(ask), || bind(control), change)
        };
        let (mut changing, mut changed) = with_changes()?;
        for _ in 0..plan.again {
            // As any trial: what the switch loses by changes it loses each time.
            if changing.loss() > 0.0 {
                let other = with_changes()?;
                if other.0.loss() < changing.loss() {
                    (changing, changed) = other;
                }
            }
        }
        notes.extend(changing.doubt());
        let pace = f64::from(changed.changes) / changed.took.as_secs_f64();
        if pace < 0.9 * PACE {
            notes.push(format!("it takes {pace:.1} changes a second, and {PACE} were wanted"));
        }
        Ok(Reconfigured {
            of: place.of,
            load: self.options.load,
            quiet: Rate::of(&quiet),
            changing: Rate::of(&changing),
            changes: changed.changes,
            pace,
            slowest: changed.slowest.as_secs_f64() * 1e3,
            notes,
        })
    }

    fn tell(&self, sut: Kind, figure: &str, step: Step<'_>) {
        self.watcher.tried(&format!("{} {}", name(sut), table::step(figure, step)));
    }

    /// Whether a switch does what one does, at a rate that all manage. Remarks.
    fn look(&self, rig: &mut Stoppable<'_>) -> Result<Vec<String>> {
        let trial = rig.trial(Ask::flows(Offer::Rate(LOOK.0), LOOK.1))?;
        let all = trial.sent;
        if trial.returned > 0 {
            bail!(
                "{all} frames were sent, and {} came back to the port that sent them: the switch floods \
                 back, or the ports are wired in a loop",
                trial.returned
            );
        }
        if trial.received == 0 {
            bail!(
                "{all} frames were sent, and none arrived where it had to ({} foreign ones did, and {} \
                 of ours at other ports): does the switch forward between these ports, and are they \
                 in pairs, the first with the second, the third with the fourth?",
                trial.foreign,
                trial.strayed
            );
        }
        if trial.duplicated > 0 {
            bail!(
                "{all} frames were sent, and {} arrived twice: there are two ways",
                trial.duplicated
            );
        }
        let mut notes = Vec::new();
        if trial.strayed > 0 {
            notes
                .push(format!("{} of {all} frames to known addresses were flooded", trial.strayed));
        }
        if trial.loss() > LOOK_LOSS {
            notes.push(format!(
                "{:.1} % of the frames were lost at only {} a second",
                100.0 * trial.loss(),
                LOOK.0
            ));
        }
        Ok(notes)
    }
}
