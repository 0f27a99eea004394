//! The end of the page: remarks, what was tried, and the conditions under which that was.

use maud::{Markup, html};

use super::super::result::{Of, Report};
use super::super::row::name;
use super::mpps;

pub(super) fn remarks(report: &Report) -> Markup {
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

/// What each search tried.
pub(super) fn trials(report: &Report) -> Markup {
    let all = report.results.iter().flat_map(|m| m.searches.iter().map(move |s| (&m.of, s)));
    html! {
        @if report.results.iter().any(|m| !m.searches.is_empty()) {
            h2 { "Trials" }
            @for (of, searched) in all {
                details {
                    summary {
                        (searched.figure) ": " (name(of.sut)) ", " (of.row.to_string())
                        @if of.pair > 1 { " (" (of.pair) ")" }
                    }
                    table {
                        tr { th { "Mpps" } th { "Seconds" } th { "Offered" } th { "Lost" }
                             th.l { "Why that may not be the switch's doing" } }
                        @for tried in &searched.trials {
                            tr {
                                td { (mpps(tried.rate)) }
                                td { (format!("{:.2}", tried.secs)) }
                                td { (tried.offered) }
                                td.quiet[tried.lost == 0] { (tried.lost) }
                                td.l { (tried.doubt.as_deref().unwrap_or_default()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn conditions(report: &Report) -> Markup {
    let machine = &report.machine;
    let list = |cpus: &[u16]| cpus.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    html! {
        h2 { "Conditions" }
        table.conditions {
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
