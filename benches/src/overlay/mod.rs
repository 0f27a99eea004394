//! What tunnels cost the core: a worker's whole burst with encapsulation or decapsulation beside the
//! plain layer-2 path, and the step of encapsulation beside a copy of the header it writes.

pub mod belt;
pub mod rig;
pub mod step;

use std::time::Duration;

use crate::alloc;
use crate::pairs::{Compared, interleave, median};

pub use rig::{Direction, Kind, Load, Rig};
pub use step::Step;

/// CPU time of one half of a pair. There are many loads.
const SLICE: Duration = Duration::from_millis(15);

/// Carries some of each load, and looks whether it arrives.
pub fn check(frames: usize) {
    for load in Load::all() {
        for direction in Direction::ALL {
            let mut rig = Rig::new(&load, direction);
            rig.run(frames);
            rig.check();
        }
        let mut step = Step::new(&load);
        step.check();
        step.encap_flow(frames);
    }
}

/// What was measured of a load: nanoseconds a frame, one a round.
struct Measured {
    load: Load,
    plain: Vec<f64>,
    encap: Vec<f64>,
    decap: Vec<f64>,
    copy: Vec<f64>,
    step: Vec<f64>,
    step_flow: Vec<f64>,
}

impl Measured {
    fn of(load: Load) -> (Self, u64) {
        let [mut plain, mut encap, mut decap] = Direction::ALL.map(|way| Rig::new(&load, way));
        let mut steps = Step::new(&load);
        let mut steps_flow = Step::new(&load);
        let mut copies = Step::new(&load);
        let (mut run_plain, mut run_encap) = (|n| plain.run(n), |n| encap.run(n));
        let (mut run_decap, mut run_copy) = (|n| decap.run(n), |n| copies.copy(n));
        let (mut run_step, mut run_flow) = (|n| steps.encap(n), |n| steps_flow.encap_flow(n));
        let [plain_ns, encap_ns, decap_ns, copy, step, step_flow] = interleave(
            SLICE,
            [
                &mut run_plain,
                &mut run_encap,
                &mut run_decap,
                &mut run_copy,
                &mut run_step,
                &mut run_flow,
            ],
        );
        let before = alloc::calls();
        for rig in [&mut plain, &mut encap, &mut decap] {
            rig.run(20_000);
        }
        let calls = alloc::calls() - before;
        for rig in [&mut plain, &mut encap, &mut decap] {
            rig.check();
        }
        steps.check();
        let (plain, encap, decap) = (plain_ns, encap_ns, decap_ns);
        (Self { load, plain, encap, decap, copy, step, step_flow }, calls)
    }

    fn name(&self) -> String {
        let Load { kind, inner, flows, networks } = self.load;
        format!("{:<10}  {inner:>5}  {flows:>5}  {networks:>6}", kind.name())
    }

    /// What encapsulation adds to the plain path, pair by pair.
    fn added(&self) -> Vec<f64> {
        self.encap.iter().zip(&self.plain).map(|(encap, plain)| encap - plain).collect()
    }
}

fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let compared = Compared { ours: ours.to_vec(), theirs: theirs.to_vec() };
    let (least, greatest) = compared.spread();
    format!("{:>5.2} ({least:.2} to {greatest:.2})", compared.ratio())
}

/// Measures and prints all; how many allocations the workers made.
pub fn tables() -> u64 {
    let (measured, calls): (Vec<_>, Vec<_>) = Load::all().map(Measured::of).unzip();
    const WHAT: &str = "kind        inner  flows    VNIs";
    println!("\nEncapsulation, ns a frame, five interleaved rounds; a worker's whole burst of 32.");
    println!("plain: the same frames from port to port. adds: what encap costs beyond that.");
    println!(
        "copy: the header copied from a template. step: tunnel::encap alone; +flow: with what"
    );
    println!("the outer header takes over read from the inner frame.");
    println!(
        "{WHAT}   plain   encap    adds  copy  step  +flow  adds/copy               step/copy"
    );
    for m in &measured {
        let added = m.added();
        println!(
            "{}  {:>6.1}  {:>6.1}  {:>6.1}  {:>4.1}  {:>4.1}  {:>5.1}  {:<22}  {}",
            m.name(),
            median(&m.plain),
            median(&m.encap),
            median(&added),
            median(&m.copy),
            median(&m.step),
            median(&m.step_flow),
            ratio(&added, &m.copy),
            ratio(&m.step, &m.copy),
        );
    }
    println!("\nDecapsulation, in the same rounds.");
    println!("{WHAT}   plain   decap  decap/plain");
    for m in &measured {
        println!(
            "{}  {:>6.1}  {:>6.1}  {}",
            m.name(),
            median(&m.plain),
            median(&m.decap),
            ratio(&m.decap, &m.plain),
        );
    }
    let calls = calls.iter().sum();
    println!("\nAllocations in {} frames: {calls}", measured.len() * 60_000);
    calls
}
