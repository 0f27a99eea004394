//! The screen. It has to fit 24 lines of 80 columns; more is used where there is more.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table, TableState, Wrap};
use vswitch_api::types::PortState;

use super::rates::{DropRate, PortRates, Rates, WorkerRates};
use super::state::{State, View};

/// The chosen row, also where there is no colour.
const MARKED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Most workers that are shown; ports need the rest of the screen.
const MAX_WORKERS: usize = 8;

/// Styles that are told apart without colour, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) colour: bool,
}

impl Paint {
    fn head(self) -> Style {
        Style::default().add_modifier(Modifier::BOLD)
    }

    fn of(self, colour: Color) -> Style {
        if self.colour { Style::default().fg(colour) } else { Style::default() }
    }

    /// Something that wants to be looked at.
    fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn state(self, state: PortState) -> Style {
        match state {
            PortState::Up => self.of(Color::Green),
            PortState::Down | PortState::Waiting => self.of(Color::Yellow),
            PortState::Failed => self.bad(),
        }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, state: &State, paint: Paint) {
    let Some(rates) = &state.rates else {
        frame.render_widget(Paragraph::new("measuring for one interval ..."), frame.area());
        return;
    };
    let workers = rates.workers.len().min(MAX_WORKERS) as u16 + 1;
    let [head, load, table, foot] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(workers),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(header(rates, paint)), head);
    frame.render_widget(worker_table(&rates.workers, paint), load);
    if state.help {
        frame.render_widget(Paragraph::new(HELP), table);
    } else {
        rows(frame, table, state, paint);
    }
    frame.render_widget(Paragraph::new(footer(state, paint)), foot);
}

const HELP: &str = "\nq Ctrl-C  leave              p  ports      d  drops by port and reason\n\
    Up Down   choose a port      Enter  its drops      Esc  back, or no filter\n\
    s  sort by the next column   r  the other way round\n\
    /  show only what has this in its name, bridge, state or reason\n\
    Space  hold the numbers      any key closes this";

fn header(rates: &Rates, paint: Paint) -> Vec<Line<'static>> {
    let status = &rates.status;
    let uptime = humantime::format_duration(std::time::Duration::from_secs(status.uptime));
    let ports = status.ports;
    let [rx, rx_bits, tx, tx_bits, drops] = rates.total();
    let [learned, moved, gone] = rates.churn;
    let troubled = ports.down + ports.waiting + ports.failed > 0;
    let reasons: Vec<_> = rates
        .reasons()
        .iter()
        .take(3)
        .map(|(reason, rate)| format!("{reason} {}", si(*rate)))
        .collect();
    vec![
        Line::styled(
            format!(
                "vswitchd {}, datapath {}, up {uptime}, revision {}",
                status.version, status.datapath, status.revision
            ),
            paint.head(),
        ),
        Line::from(vec![
            Span::raw(format!("ports {} up, ", ports.up)),
            Span::styled(
                format!("{} down, {} waiting, {} failed", ports.down, ports.waiting, ports.failed),
                if troubled { paint.of(Color::Yellow) } else { Style::default() },
            ),
            Span::raw(format!(
                "   rx {}pps {}bit/s   tx {}pps {}bit/s",
                si(rx),
                si(rx_bits),
                si(tx),
                si(tx_bits)
            )),
        ]),
        Line::raw(format!(
            "fdb {} of {}   learned {}/s   moved {}/s   gone {}/s{}",
            status.fdb.used,
            status.fdb.max,
            si(learned),
            si(moved),
            si(gone),
            buffers(rates)
        )),
        Line::styled(
            format!("drops {}/s   {}", si(drops), reasons.join("   ")),
            if drops > 0.0 { paint.bad() } else { Style::default() },
        ),
    ]
}

/// How many buffers of the pools are in use, where frames are made from pools.
fn buffers(rates: &Rates) -> String {
    let pools = &rates.status.pools;
    let all: u64 = pools.iter().map(|pool| u64::from(pool.buffers)).sum();
    let free: u64 = pools.iter().map(|pool| u64::from(pool.free)).sum();
    if all == 0 { String::new() } else { format!("   buffers {} of {all}", all - free.min(all)) }
}

fn worker_table(workers: &[WorkerRates], paint: Paint) -> Table<'static> {
    let rows = workers.iter().take(MAX_WORKERS).map(|worker| {
        let busy = format!("{:.1}", worker.busy_percent);
        let cells = [
            worker.worker.to_string(),
            worker.cpu.map_or_else(|| "-".into(), |cpu| cpu.to_string()),
            busy,
            si(worker.frames),
            worker.cycles.map_or_else(|| "-".into(), |cycles| format!("{cycles:.0}")),
            format!("{:.1}", worker.burst),
            worker.queues.to_string(),
        ];
        let style = if worker.busy_percent >= 95.0 { paint.bad() } else { Style::default() };
        Row::new(cells.map(right)).style(style)
    });
    let heads = ["WORKER", "CPU", "BUSY%", "FRAMES/S", "CYCLES/FR", "FR/BURST", "RX-QUEUES"];
    let head = Row::new(heads.map(right)).style(paint.head());
    let widths = [6, 4, 6, 9, 9, 8, 9].map(Constraint::Length);
    Table::new(rows, widths).header(head).column_spacing(2)
}

/// Aligned at the end of its column.
fn right(text: impl Into<Line<'static>>) -> Line<'static> {
    text.into().right_aligned()
}

fn rows(frame: &mut Frame<'_>, area: Rect, state: &State, paint: Paint) {
    match &state.view {
        View::Ports => {
            let table = port_table(&state.ports(), paint);
            frame.render_stateful_widget(table, area, &mut chosen(state));
        }
        View::Drops => drops(frame, area, state, paint),
        View::Port(name) => {
            let [head, rest] =
                Layout::vertical([Constraint::Length(4), Constraint::Min(1)]).areas(area);
            let all = state.rates.iter().flat_map(|rates| &rates.ports);
            let port = all.into_iter().find(|port| port.name == *name);
            frame.render_widget(Paragraph::new(port_lines(name, port, paint)), head);
            drops(frame, rest, state, paint);
        }
    }
}

/// Drops by port and reason, and what to do about the chosen one.
fn drops(frame: &mut Frame<'_>, area: Rect, state: &State, paint: Paint) {
    let [table, below] = Layout::vertical([Constraint::Min(2), Constraint::Length(2)]).areas(area);
    let drops = state.drops();
    frame.render_stateful_widget(drop_table(&drops, paint), table, &mut chosen(state));
    if let Some(drop) = drops.get(state.selected) {
        let cure = Paragraph::new(format!("{}: {}", drop.reason, drop.cure));
        frame.render_widget(cure.wrap(Wrap { trim: true }), below);
    }
}

fn chosen(state: &State) -> TableState {
    let mut chosen = TableState::default();
    chosen.select(Some(state.selected));
    chosen
}

fn port_table(ports: &[&PortRates], paint: Paint) -> Table<'static> {
    let rows = ports.iter().map(|port| {
        let number = |value: f64| right(si(value));
        let word = if port.blocked { "blocked" } else { port.state.name() };
        let style = if port.blocked { paint.bad() } else { paint.state(port.state) };
        let lossy = |value: f64| {
            number(value).style(if value > 0.0 { paint.bad() } else { Style::default() })
        };
        Row::new([
            Line::from(port.name.clone()),
            Line::styled(word, style),
            number(port.rx),
            number(port.rx_bits),
            number(port.tx),
            number(port.tx_bits),
            lossy(port.drops),
            lossy(port.lost),
            right(port.fdb.to_string()),
            Line::from(port.bridge.clone()),
        ])
    });
    let head = Row::new([
        Line::from("PORT"),
        Line::from("STATE"),
        right("RX/S"),
        right("RX-BIT/S"),
        right("TX/S"),
        right("TX-BIT/S"),
        right("DROP/S"),
        right("LOST/S"),
        right("FDB"),
        Line::from("BRIDGE"),
    ]);
    let widths = [
        Constraint::Fill(3),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Fill(2),
    ];
    Table::new(rows, widths).header(head.style(paint.head())).row_highlight_style(MARKED)
}

fn drop_table(drops: &[&DropRate], paint: Paint) -> Table<'static> {
    let rows = drops.iter().map(|drop| {
        let style = if drop.rate > 0.0 { paint.bad() } else { Style::default() };
        Row::new([
            Line::from(drop.port.clone()),
            Line::from(drop.reason.clone()),
            Line::from(drop.side.clone()),
            Line::styled(si(drop.rate), style).right_aligned(),
            right(drop.frames.to_string()),
        ])
    });
    let head = Row::new([
        Line::from("PORT"),
        Line::from("REASON"),
        Line::from("SIDE"),
        right("DROP/S"),
        right("IN ALL"),
    ]);
    let widths = [
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(4),
        Constraint::Length(6),
        Constraint::Length(12),
    ];
    Table::new(rows, widths).header(head.style(paint.head())).row_highlight_style(MARKED)
}

fn port_lines(name: &str, port: Option<&PortRates>, paint: Paint) -> Vec<Line<'static>> {
    let Some(port) = port else {
        return vec![Line::styled(format!("port {name} is gone"), paint.bad())];
    };
    let why = port.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    vec![
        Line::styled(format!("port {name} is {}{why}", port.state.name()), paint.head()),
        Line::raw(format!(
            "rx {}pps {}bit/s   tx {}pps {}bit/s   drops {}/s   lost outside {}/s   fdb {}",
            si(port.rx),
            si(port.rx_bits),
            si(port.tx),
            si(port.tx_bits),
            si(port.drops),
            si(port.lost),
            port.fdb
        )),
    ]
}

fn footer(state: &State, paint: Paint) -> Line<'static> {
    if state.typing {
        return Line::raw(format!("filter: {}_   (Enter keeps it, Esc drops it)", state.filter));
    }
    if let Some(trouble) = &state.trouble {
        return Line::styled(format!("old numbers: {trouble}"), paint.bad());
    }
    let held = if state.paused { "HELD   " } else { "" };
    let filter =
        if state.filter.is_empty() { String::new() } else { format!("   only {:?}", state.filter) };
    let way = if state.reverse { " reversed" } else { "" };
    Line::raw(format!(
        "{held}q leave  ? help  p ports  d drops  / filter  s sort by {}{way}{filter}",
        state.sort.name()
    ))
}

/// A number in three digits and a unit: `1.23M`.
pub(super) fn si(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e9 => (value / 1e9, "G"),
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    match value {
        0.0 => "0".into(),
        value if value < 10.0 => format!("{value:.2}{unit}"),
        value if value < 100.0 => format!("{value:.1}{unit}"),
        value => format!("{value:.0}{unit}"),
    }
}
