//! The report: one page that needs nothing else.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plot::{Axes, Series, lines};
use super::result::{BOUND, Ceiling, FIGURES, Measured, Of, Rate, Report};
use super::row::{Row, Sizes, name};
use super::sut::Kind;
use crate::pairs::median;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1100px; margin: 2em auto;
       padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .3em .8em; border-bottom: 1px solid #d8dde3; text-align: right }
th:first-child, td:first-child, th.l, td.l { text-align: left }
td.bar { min-width: 7em }
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
                h2 { "Plots" }
                (plots(report)?)
                (delays(report))
                (remarks(report))
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
fn bar(rate: Option<Rate>, ceiling: f64, bound: bool) -> Markup {
    let Some(rate) = rate else { return html! { td.bar { "–" } } };
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
    let line = report.results.iter().any(|m| m.line_rate.is_some());
    html! {
        h2 { "Rates" }
        p.note {
            "Millions of frames a second that arrived. Bars are shares of what the generator reaches \
             with no switch between; above " (format!("{:.0} %", 100.0 * BOUND)) " a figure is \
             generator-bound: the switch may be faster."
        }
        table {
            tr {
                th { "Row" } th.l { "Switch" } th { "Maximum" } th { "NDR" } th { "PDR 0.5 %" }
                th { "Loss at maximum" } th { "Reordered" } th { "Ceiling" }
                @if line { th { "Line rate" } }
                th {}
            }
            @for m in &report.results {
                @let ceiling = ceiling_of(report, m).map_or(f64::NAN, |c| c.pps);
                @let bound = |figure| m.generator_bound.contains(&figure);
                tr {
                    (who(&m.of))
                    (bar(Some(m.maximum), ceiling, bound("maximum")))
                    (bar(m.ndr, ceiling, bound("NDR")))
                    (bar(m.pdr, ceiling, bound("PDR")))
                    td { (format!("{:.3} %", 100.0 * m.maximum.loss)) }
                    td { (m.maximum.reordered) }
                    td { (mpps(ceiling)) }
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
                tr { th { "Row" } th.l { "Switch" } th { "Learned" } th { "Addresses" } th { "Unknown" } th {} }
                @for l in &report.learned {
                    tr {
                        (who(&l.of))
                        td { (l.rate.map_or_else(|| "–".to_owned(), mpps)) }
                        td { (l.taught) }
                        td { (l.unknown) }
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
                 time without: at half of the maximum, and 0 is the goal."
            }
            table {
                tr { th { "Row" } th.l { "Switch" } th { "Mpps" } th { "Changes" } th { "A second" }
                     th { "Slowest" } th { "Lost" } th { "Without changes" } }
                @for r in &report.reconfigured {
                    tr {
                        (who(&r.of))
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
            let of = |c: &&Ceiling| c.ports == kind && within(&c.row);
            let ceilings = report.ceilings.iter().filter(of);
            let points = ceilings.map(|c| (c.row.size.mean(), mega(c.pps))).collect();
            series.push(Series { name: format!("ceiling over {kind}"), points });
        }
        let line = report.results.iter().filter(|m| within(&m.of.row));
        let points: Vec<_> =
            line.filter_map(|m| Some((m.of.row.size.mean(), mega(m.line_rate?)))).collect();
        if !points.is_empty() {
            series.push(Series { name: "line rate".into(), points });
        }
        let title = format!(
            "Throughput by frame size: {}, {} flows, {}",
            name(group.shape),
            group.flows,
            name(group.direction)
        );
        add(title, Axes { x: "bytes with FCS", y: "Mpps", share: false }, series)?;
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
        add(title, Axes { x: "MAC addresses", y: "ns a frame", share: false }, series)?;
    }
    for m in report.results.iter().filter(|m| m.of.pair == 1) {
        let series = m.latency.iter().map(|latency| Series {
            name: format!("{:.0} %: {:.3} Mpps", 100.0 * latency.load, mega(latency.pps)),
            points: latency.curve.clone(),
        });
        let title = format!("Latency at shares of the NDR: {}, {}", name(m.of.sut), m.of.row);
        let y = "share of frames that fast";
        add(title, Axes { x: "microseconds", y, share: true }, series.collect())?;
    }
    Ok(html! {
        @for (title, svg) in parts { h3 { (title) } (PreEscaped(svg)) }
    })
}

fn delays(report: &Report) -> Markup {
    let micros = |value: f64| format!("{value:.1}");
    html! {
        h2 { "Latency" }
        p.note {
            "Microseconds from before a frame is given to its port until it is fetched from the other; \
             software time stamps, every frame. Back to back is the generator's own part."
        }
        table {
            tr { th { "Row" } th.l { "Switch" } th { "Load" } th { "Mpps" } th { "p50" } th { "p90" }
                 th { "p99" } th { "p99.9" } th { "max" } th { "lost" } }
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
                    td { (format!("{:.4} %", 100.0 * latency.loss)) }
                }
            }
        }
    }
}

fn remarks(report: &Report) -> Markup {
    let rates = report.results.iter().map(|m| (&m.of, &m.notes));
    let learned = report.learned.iter().map(|l| (&l.of, &l.notes));
    let flooded = report.flooded.iter().map(|f| (&f.of, &f.notes));
    let changed = report.reconfigured.iter().map(|r| (&r.of, &r.notes));
    let all: Vec<(&Of, &String)> = rates
        .chain(learned)
        .chain(flooded)
        .chain(changed)
        .flat_map(|(of, notes)| notes.iter().map(move |note| (of, note)))
        .collect();
    html! {
        @if !all.is_empty() {
            h2 { "Remarks" }
            ul {
                @for (of, note) in all { li { (of.row.to_string()) ", " (name(of.sut)) ": " (note) } }
            }
        }
    }
}

fn conditions(report: &Report) -> Markup {
    let machine = &report.machine;
    let list = |cpus: &[u16]| cpus.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    html! {
        h2 { "Conditions" }
        table {
            tr { td { "Command" } td.l { code { (report.command) } } }
            tr { td { "Machine" } td.l {
                (machine.cpus) " CPUs, " (machine.model) ", " (machine.mhz) " MHz"
                @if machine.virtual_machine { ", a virtual machine" }
            } }
            tr { td { "Kernel" } td.l { "Linux " (machine.kernel) " " code { (machine.cmdline) } } }
            tr { td { "DPDK" } td.l { (report.dpdk) } }
            tr { td { "CPUs" } td.l { "generator " (list(&report.generator_cpus)) ", workers "
                (list(&report.worker_cpus)) } }
            tr { td { "Ports" } td.l { (report.ports.join(", ")) } }
            tr { td { "Method" } td.l { (report.method) } }
            @for (sut, config) in &report.configurations {
                tr { td { "Configuration of " (name(*sut)) } td.l { pre { (config) } } }
            }
        }
    }
}
