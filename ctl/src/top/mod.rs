//! `top`: the switch at work, on a terminal.

mod draw;
mod rates;
mod state;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vswitch_api::client::Client;
use vswitch_api::{ApiError, Code};

use crate::failure::VerbDone;
use crate::output::Output;

use draw::Paint;
use rates::{Rates, Sample};
use state::{Sort, State};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time between two looks
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// What comes first
    #[arg(short, long, value_enum, default_value_t = Sort::Rate)]
    sort: Sort,
    /// Show only ports that have this in their name, bridge or state
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
}

fn interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(200)..=Duration::from_secs(3600);
    let time = humantime::parse_duration(text).ok().filter(|time| range.contains(time));
    time.ok_or_else(|| format!("expected 200ms to 1h, as in 2s, found {text:?}"))
}

/// How long an answer may take; the screen goes on meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a key may wait for the loop.
const TURN: Duration = Duration::from_millis(100);

pub(crate) fn run(client: Client, output: &Output, args: &Args) -> VerbDone {
    on_a_terminal(output)?;
    let client = client.with_timeout(PATIENCE);
    // Who has no daemon is told so on an ordinary screen.
    let first = Sample::ask(&client)?;
    let samples = ask_on(client, first, args.interval)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut screen = Screen(ratatui::try_init()?);
    let state = State::new(args.sort, args.filter.clone());
    let shown = show(&mut screen.0, state, &samples, &stop, Paint { colour: output.colour() });
    drop(screen);
    shown?;
    Ok(None)
}

fn on_a_terminal(output: &Output) -> Result<(), ApiError> {
    let refuse = |message: &str| {
        let hint = "for programs: vswitch-ctl -j port stats ; vswitch-ctl metrics";
        Err(ApiError::new(Code::Usage, message).with_hint(hint))
    };
    if output.is_json() {
        return refuse("top draws on a terminal and has no JSON");
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return refuse("top draws on a terminal, and this is none");
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        return refuse("top draws on a terminal, and TERM says that this one cannot be drawn on");
    }
    Ok(())
}

/// The terminal, which is as it was when this goes: at the end, on an error and on a panic.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Asks the daemon again and again, on a thread of its own: one that is slow holds up no key.
fn ask_on(
    client: Client,
    first: Sample,
    interval: Duration,
) -> io::Result<Receiver<Result<Rates, ApiError>>> {
    let (send, rates) = sync_channel(1);
    let ask = move || {
        let mut before = first;
        loop {
            std::thread::sleep(interval);
            let looked = Sample::ask(&client).map(|now| {
                let rates = Rates::between(&before, &now);
                before = now;
                rates
            });
            if send.send(looked).is_err() {
                break;
            }
        }
    };
    // It ends with the process.
    std::thread::Builder::new().name("asks".into()).spawn(ask)?;
    Ok(rates)
}

/// Draws until somebody has seen enough.
fn show(
    terminal: &mut DefaultTerminal,
    mut state: State,
    samples: &Receiver<Result<Rates, ApiError>>,
    stop: &AtomicBool,
    paint: Paint,
) -> io::Result<()> {
    let mut changed = true;
    while !stop.load(Ordering::Relaxed) {
        if changed {
            terminal.draw(|frame| draw::draw(frame, &state, paint))?;
        }
        changed = event::poll(TURN)?;
        if changed {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release && !state.key(key) => break,
                // A terminal that was made larger or smaller is drawn again.
                _ => {}
            }
        }
        while let Ok(looked) = samples.try_recv() {
            changed = true;
            match looked {
                Ok(rates) => state.take(rates),
                Err(error) => state.trouble = Some(error.message),
            }
        }
    }
    Ok(())
}
