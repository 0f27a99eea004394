//! The table that is printed while a run goes on.

use std::time::Duration;

use super::result::{Ceiling, Flooded, Latency, Learned, Measured, Of, Rate, Ratio, Reconfigured};
use super::row::name;
use super::search::Step;

/// Millions of frames a second.
fn mpps(pps: f64) -> String {
    format!("{:>8.3}", pps / 1e6)
}

/// How long it will take, before it starts.
pub fn expected((mostly, most, measurements): (Duration, Duration, usize)) -> String {
    let words = |time: Duration| match time.as_secs() {
        secs if secs < 100 => format!("{} s", secs.max(1)),
        secs => format!("{} min", secs.div_ceil(60)),
    };
    format!("{measurements} measurements: about {}, at most {}", words(mostly), words(most))
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:<36} {:<13} {:>8} {:>8} {:>8} {:>9} {:>8}  Mpps; loss at the maximum, and reordered",
        "row", "switch", "maximum", "NDR", "PDR", "loss", "reord."
    )
}

/// The line of a ceiling.
pub fn ceiling(ceiling: &Ceiling) -> String {
    let delay = ceiling.latency.as_ref().map_or_else(String::new, |latency| {
        format!("; latency p50 {:.1} µs, p99 {:.1} µs", latency.p50, latency.p99)
    });
    format!(
        "{:<36} {:<13} {}  the generator's ceiling over {}, no switch between{delay}",
        ceiling.row.to_string(),
        "(none)",
        mpps(ceiling.pps),
        ceiling.ports
    )
}

/// The lines of a switch; `ceiling` is where a generator was before it.
pub fn measured(measured: &Measured, ceiling: Option<&Ceiling>) -> Vec<String> {
    let reordered = measured.maximum.reordered.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rate = |rate: Option<Rate>| rate.map_or_else(|| format!("{:>8}", "-"), |r| mpps(r.pps));
    let mut lines = vec![format!(
        "{} {} {} {} {:>8.3}% {:>8}{}",
        who(&measured.of),
        mpps(measured.maximum.pps),
        rate(measured.ndr),
        rate(measured.pdr),
        100.0 * measured.maximum.loss,
        reordered,
        match measured.line_rate {
            Some(line) => format!("  ({:.1} % of line rate)", 100.0 * measured.maximum.pps / line),
            None => String::new(),
        }
    )];
    lines.extend(measured.latency.iter().map(latency));
    if let (Some(ceiling), false) = (ceiling, measured.generator_bound.is_empty()) {
        lines.push(format!(
            "    generator-bound: {} above 80 % of the generator's ceiling of {:.3} Mpps: the switch \
             may be faster",
            measured.generator_bound.join(", "),
            ceiling.pps / 1e6
        ));
    }
    lines.extend(measured.notes.iter().map(|note| format!("    {note}")));
    lines
}

/// Row and switch at the beginning of a line.
fn who(of: &Of) -> String {
    format!("{:<36} {:<13}", of.row.to_string(), name(of.sut))
}

fn with_notes(line: String, notes: &[String]) -> Vec<String> {
    [line].into_iter().chain(notes.iter().map(|note| format!("    {note}"))).collect()
}

/// Lost frames in words.
fn lost(rate: &Rate) -> String {
    format!("{} of {} lost ({:.4} %)", rate.lost, rate.offered, 100.0 * rate.loss)
}

/// The lines of a learn rate.
pub fn learned(learned: &Learned, ceiling: &Ceiling) -> Vec<String> {
    let who = who(&learned.of);
    let line = match learned.rate {
        Some(rate) => format!(
            "{who} {} million addresses a second, all {} known afterwards",
            mpps(rate),
            learned.taught
        ),
        None => format!(
            "{who} {:>8} not all were learned, slow as that was: its port had no room for {}, and of {} \
             others {} were not known afterwards",
            "-", learned.refused, learned.taught, learned.unknown
        ),
    };
    let mut lines = with_notes(line, &learned.notes);
    if learned.generator_bound {
        lines.push(format!(
            "    generator-bound: one of its ports sends {:.3} Mpps: the switch may learn faster",
            ceiling.pps / 1e6 / (learned.of.row.ports / 2) as f64
        ));
    }
    lines
}

/// The lines of known flows beside a flood.
pub fn flooded(flooded: &Flooded) -> Vec<String> {
    let line = format!(
        "{} {} alone, {} beside {:.3} million random frames a second: {:.0} % left; at half load {}, \
         beside them {}",
        who(&flooded.of),
        mpps(flooded.alone.pps),
        mpps(flooded.beside.pps).trim_start(),
        flooded.random / 1e6,
        100.0 * flooded.left(),
        lost(&flooded.half_alone),
        lost(&flooded.half_beside)
    );
    with_notes(line, &flooded.notes)
}

/// The lines of a switch that was changed.
pub fn reconfigured(done: &Reconfigured) -> Vec<String> {
    let line = format!(
        "{} {} ({:.0} % of the maximum) with {} changes ({:.1} a second, the slowest {:.0} ms): {}; without any {}",
        who(&done.of),
        mpps(done.changing.pps),
        100.0 * done.load,
        done.changes,
        done.pace,
        done.slowest,
        lost(&done.changing),
        lost(&done.quiet)
    );
    with_notes(line, &done.notes)
}

fn latency(latency: &Latency) -> String {
    format!(
        "    latency at {:>2.0} % ({:.3} Mpps): p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} µs{}",
        100.0 * latency.load,
        latency.pps / 1e6,
        latency.p50,
        latency.p90,
        latency.p99,
        latency.p999,
        latency.max,
        [
            (latency.loss > 0.0).then(|| format!("; {:.4} % lost", 100.0 * latency.loss)),
            (latency.taken > 0.0)
                .then(|| format!("; its CPUs were taken for {:.1} ms", latency.taken)),
        ]
        .into_iter()
        .flatten()
        .collect::<String>()
    )
}

/// A trial of a search, in a line.
pub fn step(figure: &str, step: Step<'_>) -> String {
    let Step { trial, of_most, tried, passed } = step;
    format!(
        "{figure}: trial {trial} of at most {of_most}: {:.3} Mpps for {:.1} s, {}{}",
        tried.rate / 1e6,
        tried.secs,
        match (tried.lost, passed) {
            (0, true) => "no loss".to_owned(),
            (0, false) => "no loss, but doubtful".to_owned(),
            (lost, _) => format!("{lost} of {} lost", tried.offered),
        },
        tried.doubt.as_ref().map_or_else(String::new, |why| format!(" ({why})"))
    )
}

/// The line of a comparison.
pub fn ratio(ratio: &Ratio) -> String {
    format!(
        "{:<36} {} of {} / {}: {:.2} ({:.2} to {:.2} in {} pairs){}",
        ratio.row.to_string(),
        ratio.figure,
        name(ratio.sut),
        name(ratio.by),
        ratio.median,
        ratio.spread.0,
        ratio.spread.1,
        ratio.pairs,
        if ratio.generator_bound { "; generator-bound: nearer to 1 than it is" } else { "" }
    )
}
