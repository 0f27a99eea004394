//! What the reader has chosen to see, and what the keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::{DropRate, PortRates, Rates};

/// What the table shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum View {
    Ports,
    Drops,
    /// One port with its drops.
    Port(String),
}

/// By which column ports are sorted, and drops where they have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sort {
    /// Frames received and sent, most first
    Rate,
    /// Bits received and sent, most first
    Bits,
    /// Drops, most first
    Drops,
    /// Lost outside the switch, most first
    Lost,
    /// Addresses learned, most first
    Fdb,
    /// By name
    Name,
}

impl Sort {
    const ALL: [Self; 6] = [Self::Rate, Self::Bits, Self::Drops, Self::Lost, Self::Fdb, Self::Name];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Bits => "bits",
            Self::Drops => "drops",
            Self::Lost => "lost",
            Self::Fdb => "fdb",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// What is compared; more comes first.
    fn of_port(self, port: &PortRates) -> f64 {
        match self {
            Self::Rate => port.rx + port.tx,
            Self::Bits => port.rx_bits + port.tx_bits,
            Self::Drops => port.drops,
            Self::Lost => port.lost,
            Self::Fdb => port.fdb as f64,
            Self::Name => 0.0,
        }
    }
}

/// What is on the screen.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) rates: Option<Rates>,
    /// Why the numbers are old.
    pub(super) trouble: Option<String>,
    pub(super) view: View,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    pub(super) filter: String,
    /// Whether keys go into the filter.
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) selected: usize,
}

impl State {
    pub(super) fn new(sort: Sort, filter: String) -> Self {
        Self {
            rates: None,
            trouble: None,
            view: View::Ports,
            sort,
            reverse: false,
            filter,
            typing: false,
            paused: false,
            help: false,
            selected: 0,
        }
    }

    /// The ports that pass the filter, in order.
    pub(super) fn ports(&self) -> Vec<&PortRates> {
        let all = self.rates.iter().flat_map(|rates| &rates.ports);
        let passes = |port: &&PortRates| {
            let state = port.state.name();
            [&*port.name, &port.bridge, state].iter().any(|text| text.contains(&*self.filter))
        };
        let mut ports: Vec<_> = all.filter(passes).collect();
        ports.sort_by(|a, b| {
            let by = self.sort.of_port(b).total_cmp(&self.sort.of_port(a));
            by.then_with(|| a.name.cmp(&b.name))
        });
        if self.reverse {
            ports.reverse();
        }
        ports
    }

    /// The drops that pass the filter, most a second first.
    pub(super) fn drops(&self) -> Vec<&DropRate> {
        let passes = |drop: &&DropRate| match &self.view {
            View::Port(name) => drop.port == *name,
            _ => [&drop.port, &drop.reason].iter().any(|text| text.contains(&*self.filter)),
        };
        let mut drops: Vec<_> =
            self.rates.iter().flat_map(|rates| &rates.drops).filter(passes).collect();
        drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| b.frames.cmp(&a.frames)));
        if self.reverse {
            drops.reverse();
        }
        drops
    }

    fn rows(&self) -> usize {
        match self.view {
            View::Ports => self.ports().len(),
            View::Drops | View::Port(_) => self.drops().len(),
        }
    }

    /// Does what a key asks for. Whether to go on.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return !matches!(key.code, KeyCode::Char('c' | 'd'));
        }
        if self.typing {
            self.typed(key.code);
            return true;
        }
        if std::mem::take(&mut self.help) {
            return true;
        }
        match key.code {
            KeyCode::Char('q') => return false,
            KeyCode::Esc if self.view != View::Ports => self.show(View::Ports),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p') => self.show(View::Ports),
            KeyCode::Char('d') => self.show(View::Drops),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = usize::MAX,
            KeyCode::Enter if self.view == View::Ports => {
                let port = self.ports().get(self.selected).map(|port| port.name.clone());
                if let Some(port) = port {
                    self.show(View::Port(port));
                }
            }
            _ => {}
        }
        self.keep_selection();
        true
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if self.filter.len() < 32 => self.filter.push(c),
            _ => {}
        }
        self.keep_selection();
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.selected = 0;
    }

    /// Takes new numbers, unless those on the screen are to stay.
    pub(super) fn take(&mut self, rates: Rates) {
        self.trouble = None;
        if !self.paused {
            self.rates = Some(rates);
            self.keep_selection();
        }
    }

    /// Rows come and go.
    fn keep_selection(&mut self) {
        self.selected = self.selected.min(self.rows().saturating_sub(1));
    }
}
