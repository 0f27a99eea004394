//! The report: one page that needs nothing else.

mod conditions;

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::conditions::{conditions, remarks, trials};

use super::plot::{Axes, Curve, Series, lines};
use super::result::{BOUND, Ceiling, FIGURES, Measured, Of, Rate, Report};
use super::row::{Row, Sizes, name};
use super::sut::Kind;
use crate::pairs::median;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1280px; margin: 2em auto;
       padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .3em .6em; border-bottom: 1px solid #d8dde3; text-align: right;
         white-space: nowrap }
.conditions td { white-space: normal }
th:first-child, td:first-child, th.l, td.l { text-align: left }
td.bar { min-width: 6em }
.warning { background: #fff4d6; border-left: 4px solid #d9a400; padding: .4em 1em; margin: .4em 0 }
.bound { background: #fde3e1; color: #8f1d14; border-radius: .3em; padding: 0 .4em; white-space: nowrap }
.note, .quiet { color: #57606a }
code { background: #f3f5f7; padding: .1em .3em; border-radius: .3em }
svg { max-width: 100%; height: auto }
";

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn page(report: &Report) -> Result<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Packet rates" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Packet rates" }
                @for warning in &report.warnings { div.warning { (warning) } }
                (rates(report))
                (comparison(report))
                (learning(report))
                (floods(report))
                (changes(report))
                (plots(report)?)
                (delays(report))
                (remarks(report))
                (trials(report))
                (conditions(report))
            }
        }
    };
    Ok(page.into_string())
}

fn mpps(pps: f64) -> String {
    format!("{:.3}", pps / 1e6)
}

/// A cell with a bar as long as the share of the ceiling.
fn bar(rate: Option<Rate>, ceiling: Option<f64>, bound: bool) -> Markup {
    let Some(rate) = rate else { return html! { td.bar { "–" } } };
    let Some(ceiling) = ceiling else { return html! { td.bar { (mpps(rate.pps)) } } };
    let share = (100.0 * rate.pps / ceiling).clamp(0.0, 100.0);
    let colour = if bound { "#f7c6c2" } else { "#cfe3f7" };
    let style = format!("background: linear-gradient(90deg, {colour} {share:.1}%, transparent 0)");
    html! { td.bar style=(style) title=(format!("{share:.0} % of the generator's ceiling")) {
        (mpps(rate.pps))
    } }
}

fn ceiling_of<'a>(report: &'a Report, measured: &Measured) -> Option<&'a Ceiling> {
    let row = measured.of.row.without_switch();
    report.ceilings.iter().find(|c| c.row == row && c.ports == measured.ceiling_ports)
}

fn rates(report: &Report) -> Markup {
    if report.results.is_empty() {
        return html! {};
    }
    let any = |has: fn(&Measured) -> bool| report.results.iter().any(has);
    let line = any(|m| m.line_rate.is_some());
    let searched = any(|m| m.ndr.is_some() || m.pdr.is_some());
    let generated = !report.ceilings.is_empty();
    html! {
        h2 { "Rates" }
        p.note {
            @if generated {
                "Millions of frames a second that arrived. Bars are shares of what the generator reaches \
                 with no switch between; above " (format!("{:.0} %", 100.0 * BOUND)) " a figure is \
                 generator-bound: the switch may be faster."
            } @else {
                "Millions of frames a second of CPU time of the workers, from sources and to sinks in the \
                 switch's own process."
            }
        }
        table {
            tr {
                th { "Row" } th.l { "Switch" } th { "Maximum" }
                @if searched { th { "NDR" } th { "PDR 0.5 %" } }
                th title="of the frames offered at the maximum" { "Loss" }
                @if generated { th { "Reordered" } th { "Ceiling" } }
                @if line { th { "Line rate" } }
                th {}
            }
            @for m in &report.results {
                @let ceiling = ceiling_of(report, m).map(|c| c.pps);
                @let bound = |figure| m.generator_bound.contains(&figure);
                tr {
                    (who(&m.of))
                    (bar(Some(m.maximum), ceiling, bound("maximum")))
                    @if searched {
                        (bar(m.ndr, ceiling, bound("NDR")))
                        (bar(m.pdr, ceiling, bound("PDR")))
                    }
                    td { (format!("{:.3} %", 100.0 * m.maximum.loss)) }
                    @if generated {
                        td { (m.maximum.reordered.map_or_else(|| "–".to_owned(), |n| n.to_string())) }
                        td { (ceiling.map_or_else(|| "–".to_owned(), mpps)) }
                    }
                    @if line { td { (m.line_rate.map_or_else(|| "–".to_owned(), mpps)) } }
                    td.l { @if !m.generator_bound.is_empty() { span.bound { "generator-bound" } } }
                }
            }
        }
    }
}

fn comparison(report: &Report) -> Markup {
    html! {
        @if !report.ratios.is_empty() {
            h2 { "Side by side" }
            p.note { "Ratios within pairs of runs that followed each other: median, least to greatest." }
            table {
                tr { th { "Row" } th.l { "Figure" } th.l { "Switches" } th { "Ratio" } th { "Spread" }
                     th { "Pairs" } th {} }
                @for r in &report.ratios {
                    tr {
                        td { (r.row.to_string()) }
                        td.l { (r.figure) }
                        td.l { (name(r.sut)) " / " (name(r.by)) }
                        td { (format!("{:.2}", r.median)) }
                        td { (format!("{:.2} to {:.2}", r.spread.0, r.spread.1)) }
                        td { (r.pairs) }
                        td.l { @if r.generator_bound { span.bound { "generator-bound" } } }
                    }
                }
            }
        }
    }
}

/// Row and switch at the beginning of a line.
fn who(of: &Of) -> Markup {
    html! {
        td { (of.row.to_string()) }
        td.l { (name(of.sut)) @if of.pair > 1 { " (" (of.pair) ")" } }
    }
}

/// Lost frames, those of no loss in grey.
fn lost(rate: &Rate) -> Markup {
    html! {
        td.quiet[rate.lost == 0] title=(format!("{} of {} frames", rate.lost, rate.offered)) {
            @if rate.lost == 0 { "none" } @else { (rate.lost) " (" (format!("{:.4}", 100.0 * rate.loss)) " %)" }
        }
    }
}

fn learning(report: &Report) -> Markup {
    html! {
        @if !report.learned.is_empty() {
            h2 { "Learning" }
            p.note {
                "Millions of new addresses a second at which all were known afterwards: a frame to each \
                 went to its port alone, as a third port saw."
            }
            table {
                tr { th { "Row" } th.l { "Switch" } th { "Learned" } th { "Taught" } th { "Unknown" }
                     th title="its port had no room for them" { "Refused" } th {} }
                @for l in &report.learned {
                    tr {
                        (who(&l.of))
                        td { (l.rate.map_or_else(|| "–".to_owned(), mpps)) }
                        td { (l.taught) }
                        td { (l.unknown) }
                        td { (l.refused) }
                        td.l { @if l.generator_bound { span.bound { "generator-bound" } } }
                    }
                }
            }
        }
    }
}

fn floods(report: &Report) -> Markup {
    html! {
        @if !report.flooded.is_empty() {
            h2 { "Beside a flood of addresses" }
            p.note {
                "Known flows of one pair of ports, in millions of frames a second, while a third port \
                 sends frames between random addresses; and frames that they lose at half of their maximum."
            }
            table {
                tr { th { "Row" } th.l { "Switch" } th { "Random frames" } th { "Alone" } th { "Beside" }
                     th { "Left" } th { "Lost at half, alone" } th { "Beside" } }
                @for f in &report.flooded {
                    tr {
                        (who(&f.of))
                        td { (mpps(f.random)) }
                        td { (mpps(f.alone.pps)) }
                        td { (mpps(f.beside.pps)) }
                        td { (format!("{:.0} %", 100.0 * f.left())) }
                        (lost(&f.half_alone))
                        (lost(&f.half_beside))
                    }
                }
            }
        }
    }
}

fn changes(report: &Report) -> Markup {
    html! {
        @if !report.reconfigured.is_empty() {
            h2 { "While it is reconfigured" }
            p.note {
                "Frames that flows lose while other ports, VLANs and tunnels come and go, and in as long a \
                 time without; 0 is the goal."
            }
            table {
                tr { th { "Row" } th.l { "Switch" } th { "Load" } th { "Mpps" } th { "Changes" } th { "A second" }
                     th { "Slowest" } th { "Lost" } th { "Without changes" } }
                @for r in &report.reconfigured {
                    tr {
                        (who(&r.of))
                        td { (format!("{:.0} %", 100.0 * r.load)) }
                        td { (mpps(r.changing.pps)) }
                        td { (r.changes) }
                        td { (format!("{:.1}", r.pace)) }
                        td { (format!("{:.0} ms", r.slowest)) }
                        (lost(&r.changing))
                        (lost(&r.quiet))
                    }
                }
            }
        }
    }
}

/// The switches, in order of appearance.
fn suts(report: &Report) -> Vec<Kind> {
    let mut suts: Vec<Kind> = Vec::new();
    for m in &report.results {
        if !suts.contains(&m.of.sut) {
            suts.push(m.of.sut);
        }
    }
    suts
}

/// Rows that differ in one thing only, each group as one of them.
fn groups(report: &Report, same: impl Fn(&Row) -> Row) -> Vec<Row> {
    let mut groups: Vec<Row> = Vec::new();
    for row in report.results.iter().map(|m| same(&m.of.row)) {
        if !groups.contains(&row) {
            groups.push(row);
        }
    }
    groups
}

/// Lines of a figure over `x` for each switch, of rows of one group.
fn by(
    report: &Report,
    within: impl Fn(&Row) -> bool,
    x: impl Fn(&Row) -> f64,
    y: impl Fn(f64) -> f64,
) -> Vec<Series> {
    let mut all = Vec::new();
    for sut in suts(report) {
        for (figure, of) in &FIGURES[..2] {
            let mut points: Vec<(f64, f64)> = Vec::new();
            for m in report.results.iter().filter(|m| m.of.sut == sut && within(&m.of.row)) {
                let pairs =
                    report.results.iter().filter(|o| o.of.sut == sut && o.of.row == m.of.row);
                let values: Vec<f64> = pairs.filter_map(of).collect();
                if !values.is_empty() && !points.iter().any(|(at, _)| *at == x(&m.of.row)) {
                    points.push((x(&m.of.row), y(median(&values))));
                }
            }
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            all.push(Series { name: format!("{} {figure}", name(sut)), points });
        }
    }
    all.retain(|series| !series.points.is_empty());
    all
}

fn plots(report: &Report) -> Result<Markup> {
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut add = |title: String, axes: Axes, series: Vec<Series>| -> Result<()> {
        if series.iter().any(|s| s.points.len() > 1) {
            parts.extend(lines(axes, &series)?.map(|svg| (title, svg)));
        }
        Ok(())
    };
    let mega = |pps: f64| pps / 1e6;
    let sized = |row: &Row| Row { size: Sizes::Imix, ..*row };
    for group in groups(report, sized) {
        let within = |row: &Row| row.size != Sizes::Imix && sized(row) == group;
        let mut series = by(report, within, |row| row.size.mean(), mega);
        // Each kind of port has a ceiling of its own.
        let mut kinds: Vec<&str> = report.ceilings.iter().map(|c| c.ports).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            // The same frames, whoever carried them.
            let frames = group.without_switch();
            let of = |c: &&Ceiling| {
                c.ports == kind && c.row.size != Sizes::Imix && sized(&c.row) == frames
            };
            let ceilings = report.ceilings.iter().filter(of);
            let points = ceilings.map(|c| (c.row.size.mean(), mega(c.pps))).collect();
            series.push(Series { name: format!("ceiling over {kind}"), points });
        }
        let line = report.results.iter().filter(|m| within(&m.of.row));
        let mut points: Vec<_> =
            line.filter_map(|m| Some((m.of.row.size.mean(), mega(m.line_rate?)))).collect();
        // Each switch and pair has the same.
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup();
        if !points.is_empty() {
            series.push(Series { name: "line rate".into(), points });
        }
        let title = format!(
            "Throughput by frame size: {}, {} flows, {}",
            name(group.shape),
            group.flows,
            name(group.direction)
        );
        add(title, Axes { x: "bytes with FCS", y: "Mpps", curve: Curve::Falls }, series)?;
    }
    let any_flows = |row: &Row| Row { flows: 0, ..*row };
    for group in groups(report, any_flows) {
        let cost = |pps: f64| 1e9 / pps;
        let macs = |row: &Row| row.macs() as f64;
        let series = by(report, |row| any_flows(row) == group, macs, cost);
        let title = format!(
            "Cost by number of MAC addresses: {}, {} bytes, {}",
            name(group.shape),
            group.size,
            name(group.direction)
        );
        add(title, Axes { x: "MAC addresses", y: "ns a frame", curve: Curve::Rises }, series)?;
    }
    for m in report.results.iter().filter(|m| m.of.pair == 1) {
        let series = m.latency.iter().map(|latency| Series {
            name: format!("{:.0} %: {:.3} Mpps", 100.0 * latency.load, mega(latency.pps)),
            points: latency.curve.clone(),
        });
        let title = format!("Latency by load: {}, {}", name(m.of.sut), m.of.row);
        let y = "share of frames that fast";
        add(title, Axes { x: "microseconds", y, curve: Curve::Share }, series.collect())?;
    }
    Ok(html! {
        @if !parts.is_empty() { h2 { "Plots" } }
        @for (title, svg) in parts { h3 { (title) } (PreEscaped(svg)) }
    })
}

fn delays(report: &Report) -> Markup {
    let all = report.ceilings.iter().map(|c| c.latency.is_some());
    if !all.chain(report.results.iter().map(|m| !m.latency.is_empty())).any(|any| any) {
        return html! {};
    }
    let micros = |value: f64| format!("{value:.1}");
    html! {
        h2 { "Latency" }
        p.note {
            "Microseconds from before a frame is given to its port until it is fetched from the other; \
             software time stamps, every frame. Back to back is the generator's own part."
        }
        table {
            tr { th { "Row" } th.l { "Switch" } th { "Load" } th { "Mpps" } th { "p50" } th { "p90" }
                 th { "p99" } th { "p99.9" } th { "max" } th { "Lost" }
                 th title="for which the switch's workers had no CPU" { "CPUs taken, ms" } }
            @for (row, who, latency) in report.ceilings.iter()
                .flat_map(|c| c.latency.iter().map(move |l| (c.row, "(back to back)".to_owned(), l)))
                .chain(report.results.iter()
                    .flat_map(|m| m.latency.iter().map(move |l| (m.of.row, name(m.of.sut), l)))) {
                tr {
                    td { (row.to_string()) }
                    td.l { (who) }
                    td { (format!("{:.0} %", 100.0 * latency.load)) }
                    td { (mpps(latency.pps)) }
                    td { (micros(latency.p50)) } td { (micros(latency.p90)) }
                    td { (micros(latency.p99)) } td { (micros(latency.p999)) }
                    td { (micros(latency.max)) }
                    td.quiet[latency.loss <= 0.0] { (format!("{:.4} %", 100.0 * latency.loss)) }
                    td.quiet[latency.taken <= 0.0] { (format!("{:.1}", latency.taken)) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::result::{FORMAT, Flooded, Latency, Learned, Ratio, Reconfigured, Searched};
    use super::super::row::Test;
    use super::super::row::tests::ROW;
    use super::super::search::Tried;
    use super::*;
    use crate::machine::Machine;

    fn rate(pps: f64, lost: u64) -> Rate {
        let (loss, offered) = (lost as f64 / 1e7, 10_000_000);
        Rate { pps, loss, offered, lost, reordered: Some(0), duplicated: Some(0) }
    }

    fn of(sut: Kind, row: Row) -> Of {
        Of { sut, pair: 1, row }
    }

    fn measured(sut: Kind, row: Row, pps: f64) -> Measured {
        let curve: Vec<(f64, f64)> = (1..40).map(|n| (f64::from(n), f64::from(n) / 40.0)).collect();
        let (load, p50, p90, p99, p999, max) = (0.5, 9.0, 20.0, 35.0, 39.0, 40.0);
        let latency = Latency {
            load,
            pps,
            p50,
            p90,
            p99,
            p999,
            max,
            frames: 1000,
            loss: 0.0,
            taken: 0.0,
            curve,
        };
        let doubt = Some("the generator was late".to_owned());
        let tried = Tried { rate: pps, secs: 2.0, offered: 20_000, lost: 17, doubt };
        Measured {
            of: of(sut, row),
            ceiling_ports: "memif",
            line_rate: Some(row.line_rate(10_000)),
            maximum: rate(pps, 1_000),
            ndr: Some(rate(0.9 * pps, 0)),
            pdr: None,
            latency: vec![latency],
            generator_bound: vec!["maximum"],
            searches: vec![Searched { figure: "NDR", trials: vec![tried] }],
            notes: vec!["a <remark>".to_owned()],
        }
    }

    /// One switch twice as fast as the other, in every kind of row.
    fn report() -> Report {
        let suts = [(Kind::Vswitchd, 2.0), (Kind::OvsDpdk, 1.0)];
        let sizes =
            [64, 512, 1518].map(|size| Row { size: Sizes::Fixed(size), flows: 1_000, ..ROW });
        let flows = [500, 50_000, 2_000_000].map(|flows| Row { flows, ..ROW });
        let (rows, first) = ([sizes.as_slice(), &flows].concat(), sizes[0]);
        let pps = |row: &Row, factor: f64| {
            factor * 4e6
                / (1.0 + row.size.mean() / 1000.0)
                / (1.0 + f64::from(row.flows).log10() / 9.0)
        };
        let each = |f: &dyn Fn(Kind, f64) -> Measured| suts.map(|(sut, factor)| f(sut, factor));
        let results = rows.iter().flat_map(|row| each(&|sut, x| measured(sut, *row, pps(row, x))));
        let ceilings = rows.iter().map(|row| Ceiling {
            row: row.without_switch(),
            ports: "memif",
            pps: 9e6,
            latency: None,
        });
        let row = |test| Row { test, ports: 4, ..first };
        let ceiling_ports = "memif";
        Report {
            format: FORMAT,
            machine: Machine::here(),
            command: "vswitch-bench --compare".to_owned(),
            dpdk: "DPDK".to_owned(),
            ports: vec!["memif".to_owned()],
            generator_cpus: vec![0],
            worker_cpus: vec![1],
            method: "by hand".to_owned(),
            warnings: vec!["none of this was measured".to_owned()],
            ceilings: ceilings.collect(),
            results: results.collect(),
            configurations: vec![(Kind::Vswitchd, "version = 1\n".to_owned())],
            ratios: vec![Ratio {
                row: first,
                figure: "maximum",
                sut: Kind::Vswitchd,
                by: Kind::OvsDpdk,
                median: 2.0,
                spread: (1.9, 2.1),
                pairs: 5,
                generator_bound: true,
            }],
            learned: suts
                .map(|(sut, factor)| Learned {
                    of: of(sut, row(Test::Learn)),
                    ceiling_ports,
                    rate: (factor > 1.0).then_some(2.5e6),
                    taught: 100_000,
                    unknown: if factor > 1.0 { 0 } else { 12_345 },
                    refused: 0,
                    generator_bound: factor > 1.0,
                    notes: Vec::new(),
                })
                .to_vec(),
            flooded: suts
                .map(|(sut, factor)| Flooded {
                    of: of(sut, row(Test::Flood)),
                    ceiling_ports,
                    random: 1.488e6,
                    alone: rate(4e6, 7),
                    beside: rate(1.9e6 * factor, 7),
                    half_alone: rate(2e6, 0),
                    half_beside: rate(2e6, if factor > 1.0 { 0 } else { 12_345 }),
                    notes: Vec::new(),
                })
                .to_vec(),
            reconfigured: suts
                .map(|(sut, factor)| Reconfigured {
                    of: of(sut, Row { ports: 2, ..row(Test::Reconfigure) }),
                    load: 0.5,
                    quiet: rate(2e6, 0),
                    changing: rate(2e6, if factor > 1.0 { 0 } else { 321 }),
                    changes: 104,
                    pace: 10.0,
                    slowest: 42.0,
                    notes: Vec::new(),
                })
                .to_vec(),
        }
    }

    #[test]
    fn every_part_is_in_the_page() -> Result<()> {
        let page = page(&report())?;
        for part in [
            "Side by side",
            "Learning",
            "Beside a flood of addresses",
            "While it is reconfigured",
            "line rate",
            "ceiling over memif",
            "Cost by number of MAC addresses: plain, 64 bytes, bi",
            "Latency by load",
            "a &lt;remark&gt;",
            "321 (0.0032 %)",
            "95 %",
            "NDR: vswitchd, plain",
            "the generator was late",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("NaN"));
        // By size, by number of addresses, and a histogram for each switch in each row.
        assert_eq!(page.matches("<svg").count(), 1 + 1 + 12);
        Ok(())
    }
}
