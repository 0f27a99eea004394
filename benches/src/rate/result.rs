//! What a run found, as it is written to JSON and shown in the report.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::row::Row;
use super::search::{Found, Tried};
use super::sut::Kind;
use super::trial::Trial;
use crate::pairs::Compared;

/// The share of the generator's ceiling above which a figure says more of the generator.
pub const BOUND: f64 = 0.8;
/// Version of the JSON.
pub const FORMAT: u32 = 1;

/// Everything of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// What it was measured on.
    pub machine: crate::machine::Machine,
    /// The command line.
    pub command: String,
    /// DPDK's version, and whether it had hugepages.
    pub dpdk: String,
    /// What is between generator and switch.
    pub ports: Vec<String>,
    /// CPUs of the generator.
    pub generator_cpus: Vec<u16>,
    /// CPUs of the switch's workers.
    pub worker_cpus: Vec<u16>,
    /// How the search went.
    pub method: String,
    /// What makes the figures doubtful.
    pub warnings: Vec<String>,
    /// Of each row the generator back to back.
    pub ceilings: Vec<Ceiling>,
    /// The figures, in the order in which they were measured.
    pub results: Vec<Measured>,
    /// What switches that take a configuration were given, one for each that differs.
    pub configurations: Vec<(Kind, String)>,
    /// Ratios of pairs, with `--compare`.
    pub ratios: Vec<Ratio>,
    /// How fast addresses were learned.
    pub learned: Vec<Learned>,
    /// What was left of known flows beside a flood.
    pub flooded: Vec<Flooded>,
    /// What known flows lost while the switch was reconfigured.
    pub reconfigured: Vec<Reconfigured>,
}

/// Which switch, and what was done to it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Of {
    /// The switch.
    pub sut: Kind,
    /// Which of several pairs of runs.
    pub pair: usize,
    /// What was sent.
    pub row: Row,
}

/// How fast a switch learned new addresses.
#[derive(Clone, Debug, Serialize)]
pub struct Learned {
    /// Who.
    #[serde(flatten)]
    pub of: Of,
    /// Between which ports its ceiling was measured.
    pub ceiling_ports: &'static str,
    /// Addresses a second at which all were known afterwards; nothing where some never were.
    pub rate: Option<f64>,
    /// Of the last trial: addresses that were taught.
    pub taught: u64,
    /// Those that were not known afterwards.
    pub unknown: u64,
    /// Addresses beside those, whose frame the switch's port had no room for.
    pub refused: u64,
    /// Whether that is above [`BOUND`] of what the generator sends.
    pub generator_bound: bool,
    /// Remarks.
    pub notes: Vec<String>,
}

/// What is left of known flows while random addresses flood another port.
#[derive(Clone, Debug, Serialize)]
pub struct Flooded {
    /// Who.
    #[serde(flatten)]
    pub of: Of,
    /// Between which ports its ceiling was measured.
    pub ceiling_ports: &'static str,
    /// Frames between random addresses that the switch took, a second.
    pub random: f64,
    /// The known flows' maximum without them.
    pub alone: Rate,
    /// With them.
    pub beside: Rate,
    /// The known flows at half that maximum, without.
    pub half_alone: Rate,
    /// With.
    pub half_beside: Rate,
    /// Remarks.
    pub notes: Vec<String>,
}

impl Flooded {
    /// Share of the maximum that is left.
    pub fn left(&self) -> f64 {
        self.beside.pps / self.alone.pps
    }
}

/// What known flows lost while ports, VLANs and tunnels came and went.
#[derive(Clone, Debug, Serialize)]
pub struct Reconfigured {
    /// Who.
    #[serde(flatten)]
    pub of: Of,
    /// The share of the maximum that was offered.
    pub load: f64,
    /// The flows for as long without changes.
    pub quiet: Rate,
    /// With changes.
    pub changing: Rate,
    /// How many changes that were.
    pub changes: u32,
    /// Of those, a second.
    pub pace: f64,
    /// The slowest one, milliseconds until the switch had done it.
    pub slowest: f64,
    /// Remarks.
    pub notes: Vec<String>,
}

/// What the generator reaches with no switch.
#[derive(Clone, Debug, Serialize)]
pub struct Ceiling {
    /// What was sent.
    pub row: Row,
    /// Between which ports.
    pub ports: &'static str,
    /// Frames a second from end to end.
    pub pps: f64,
    /// Latency at a tenth of that.
    pub latency: Option<Latency>,
}

/// One switch in one row.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Who.
    #[serde(flatten)]
    pub of: Of,
    /// Between which ports its ceiling was measured.
    pub ceiling_ports: &'static str,
    /// Frames a second that fit the links, where they have a speed.
    pub line_rate: Option<f64>,
    /// Frames a second delivered when offered as many as the generator makes.
    pub maximum: Rate,
    /// With no loss; nothing where any rate loses frames.
    pub ndr: Option<Rate>,
    /// With a loss of at most 0.5 %.
    pub pdr: Option<Rate>,
    /// At shares of the NDR.
    pub latency: Vec<Latency>,
    /// The first three figures that are the generator's more than the switch's, by name.
    pub generator_bound: Vec<&'static str>,
    /// The trials of NDR and PDR.
    pub searches: Vec<Searched>,
    /// Remarks.
    pub notes: Vec<String>,
}

impl Measured {
    /// A switch of which the maximum alone is known.
    pub const fn new(of: Of, ceiling_ports: &'static str, maximum: Rate) -> Self {
        Self {
            of,
            ceiling_ports,
            line_rate: None,
            maximum,
            ndr: None,
            pdr: None,
            latency: Vec::new(),
            generator_bound: Vec::new(),
            searches: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// How a rate was searched.
#[derive(Clone, Debug, Serialize)]
pub struct Searched {
    /// Which figure.
    pub figure: &'static str,
    /// All trials, in their order.
    pub trials: Vec<Tried>,
}

/// Reads one figure of a measurement.
pub type Figure = fn(&Measured) -> Option<f64>;

/// The figures that are compared, by name.
pub const FIGURES: [(&str, Figure); 3] = [
    ("maximum", |m| Some(m.maximum.pps)),
    ("NDR", |m| m.ndr.map(|rate| rate.pps)),
    ("PDR", |m| m.pdr.map(|rate| rate.pps)),
];

/// A rate and what became of the frames at it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// Frames a second that arrived.
    pub pps: f64,
    /// Share of the offered frames that did not.
    pub loss: f64,
    /// Frames that were offered in this trial.
    pub offered: u64,
    /// Frames that did not arrive, and those the switch's queue had no room for.
    pub lost: u64,
    /// Frames behind later ones of their flow; nothing where nobody looked.
    pub reordered: Option<u64>,
    /// Frames that arrived more than once; nothing where nobody looked.
    pub duplicated: Option<u64>,
}

impl Rate {
    /// That of a trial.
    pub fn of(trial: &Trial) -> Self {
        Self {
            pps: trial.rate(),
            loss: trial.loss(),
            offered: trial.sent + trial.blocked,
            lost: trial.lost() + trial.blocked,
            reordered: Some(trial.reordered),
            duplicated: Some(trial.duplicated),
        }
    }

    /// That of a search, if it found one.
    pub fn found(found: &Found) -> Option<Self> {
        found.rate.map(|_| Self::of(&found.trial))
    }
}

/// Delays at a load, microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// The load as a share of the NDR.
    pub load: f64,
    /// Frames a second.
    pub pps: f64,
    /// Half are faster.
    pub p50: f64,
    /// 90 % are faster.
    pub p90: f64,
    /// 99 % are faster.
    pub p99: f64,
    /// 99.9 % are faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
    /// Frames measured.
    pub frames: u64,
    /// Share of the frames lost meanwhile.
    pub loss: f64,
    /// Milliseconds for which the switch's workers had no CPU meanwhile.
    pub taken: f64,
    /// Upper bounds of steps of the histogram and the shares of frames up to there.
    pub curve: Vec<(f64, f64)>,
}

impl Latency {
    /// From a trial that recorded it, at that share of the NDR.
    pub fn of(load: f64, trial: &Trial) -> Option<Self> {
        let histogram = trial.latency.as_ref().filter(|h| !h.is_empty())?;
        let at = |q: f64| micros(histogram.value_at_quantile(q));
        Some(Self {
            load,
            pps: trial.rate(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max()),
            frames: histogram.len(),
            loss: trial.loss(),
            taken: 1e3 * trial.taken.as_secs_f64(),
            curve: curve(histogram),
        })
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Steps of a twentieth of a decade.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let all = histogram.len() as f64;
    histogram
        .iter_log(histogram.min().max(1), 10f64.powf(0.05))
        .map(|step| {
            let upto = histogram.count_between(0, step.value_iterated_to()) as f64;
            (micros(step.value_iterated_to()), upto / all)
        })
        .collect()
}

/// One switch by another, in pairs of runs.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// What was sent.
    pub row: Row,
    /// Which figure.
    pub figure: &'static str,
    /// The first.
    pub sut: Kind,
    /// The one that it is divided by.
    pub by: Kind,
    /// The median over the pairs.
    pub median: f64,
    /// The least and the greatest of a pair.
    pub spread: (f64, f64),
    /// How many pairs.
    pub pairs: usize,
    /// Whether a figure of them was bound by the generator.
    pub generator_bound: bool,
}

/// Ratios of the first of `suts` to each other one, by figure and row.
pub fn ratios(suts: &[Kind], rows: &[Row], results: &[Measured]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    let Some((first, others)) = suts.split_first() else { return ratios };
    for row in rows {
        for by in others {
            for (figure, of) in FIGURES {
                let all =
                    |sut: Kind| results.iter().filter(move |m| m.of.sut == sut && m.of.row == *row);
                let values = |sut| all(sut).map(of).collect::<Option<Vec<f64>>>();
                let (Some(ours), Some(theirs)) = (values(*first), values(*by)) else { continue };
                let pairs = ours.len();
                if pairs == 0 || theirs.len() != pairs {
                    continue;
                }
                let compared = Compared { ours, theirs };
                let bound = |m: &Measured| m.generator_bound.contains(&figure);
                ratios.push(Ratio {
                    row: *row,
                    figure,
                    sut: *first,
                    by: *by,
                    median: compared.ratio(),
                    spread: compared.spread(),
                    pairs,
                    generator_bound: all(*first).chain(all(*by)).any(bound),
                });
            }
        }
    }
    ratios
}
