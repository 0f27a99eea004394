//! The screen of 80×24, drawn into memory, and what keys do to it.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};

use super::draw::{Paint, draw, si};
use super::rates::{Rates, Sample};
use super::state::{Sort, State, View};

fn port(name: &str, state: &str, rx: u64, drops: u64) -> Value {
    json!({
        "name": name, "type": "tap", "bridge": "br0", "state": state, "link": true,
        "blocked": false, "vlan": "-", "queues": 1, "reason": "no such device",
        "offloads": { "csum": true, "tso4": true, "tso6": false, "uso": false },
        "counters": { "rx-frames": rx, "rx-bytes": rx * 1000, "tx-frames": 2 * rx,
            "tx-bytes": 0, "drops": drops, "missed-rx": 0, "lost-after-tx": 0, "fdb": 3 },
        "origin": "file", "revision": 3,
        "config": { "name": name, "type": "tap", "bridge": "br0" },
    })
}

/// A switch of three ports after so many seconds: `web` receives 1,500 frames a second, and drops
/// twenty of what is to leave by `vm7`.
fn sample(start: Instant, seconds: u64) -> Sample {
    let ports = [
        port("db", "up", 10 * seconds, 0),
        port("vm7", "waiting", 0, 20 * seconds),
        port("web", "up", 1_500 * seconds, 0),
    ];
    let drops = match seconds {
        0 => json!([]),
        n => json!([{ "port": "vm7", "reason": "tx-full", "side": "out", "frames": 20 * n,
            "cause": "c", "cure": "Wake the reader." }]),
    };
    let cpu = json!([{ "worker": 0, "cpu": 1, "idle": "adaptive", "ports": [], "rx-queues": [],
        "busy-percent": 42.5, "frames": 1510 * seconds, "ns-per-frame": 100.0, "mhz": 3000.0,
        "frames-per-burst": if seconds == 0 { 0.0 } else { 8.0 } }]);
    let status = json!({
        "version": "0.1.0", "datapath": "tap", "uptime": 9, "revision": 3, "workers": 1,
        "bridges": 1, "ports": { "up": 2, "down": 0, "waiting": 1, "failed": 0 },
        "fdb": { "used": 9, "max": 99,
            "churn": { "learned": 4 * seconds, "moved": 0, "aged": seconds, "evicted": seconds } },
        "drops-per-second": 20.0, "degraded": true, "warnings": [],
        "limits": { "ports": 9, "bridges": 9, "fdb-bytes": 9 },
    });
    Sample {
        at: start + Duration::from_secs(seconds),
        status: serde_json::from_value(status).unwrap(),
        ports: ports.iter().map(|port| serde_json::from_value(port.clone()).unwrap()).collect(),
        drops: serde_json::from_value(drops).unwrap(),
        cpus: serde_json::from_value(cpu).unwrap(),
    }
}

fn state() -> State {
    let start = Instant::now();
    let mut state = State::new(Sort::Rate, String::new());
    state.take(Rates::between(&sample(start, 0), &sample(start, 10)));
    state
}

fn drawn(state: &State, colour: bool) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, state, Paint { colour })).unwrap();
    terminal.backend().clone()
}

/// The lines, without what is blank at their ends.
fn lines(state: &State) -> Vec<String> {
    let backend = drawn(state, false);
    let cells = backend.buffer().content().chunks(80);
    let line = |row: &[ratatui::buffer::Cell]| {
        let text: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.trim_end().to_owned()
    };
    cells.map(line).collect()
}

fn press(state: &mut State, keys: &[KeyCode]) {
    for key in keys {
        assert!(state.key(KeyEvent::new(*key, KeyModifiers::NONE)), "{key:?} ends it");
    }
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

#[test]
fn rates_are_those_of_the_interval() {
    let rates = state().rates.unwrap();
    let web = rates.ports.iter().find(|port| port.name == "web").unwrap();
    assert_eq!((web.rx, web.rx_bits, web.tx), (1500.0, 12e6, 3000.0));
    assert_eq!(rates.churn, [4.0, 0.0, 2.0]);
    assert_eq!(rates.reasons(), [("tx-full", 20.0)]);
    let worker = &rates.workers[0];
    assert_eq!((worker.frames, worker.cycles, worker.burst), (1510.0, Some(300.0), 8.0));
    // A daemon that was started anew, a port that is new.
    let start = Instant::now();
    let back = Rates::between(
        &sample(start, 10),
        &Sample { at: start + Duration::from_secs(20), ..sample(start, 0) },
    );
    assert!(back.ports.iter().all(|port| port.rx == 0.0) && back.workers[0].frames == 0.0);
    let mut fewer = sample(start, 0);
    fewer.ports.clear();
    assert_eq!(Rates::between(&fewer, &sample(start, 10)).total()[0], 0.0);
}

#[test]
fn eighty_columns_and_twenty_four_lines_have_all_of_it() {
    let lines = lines(&state());
    let wanted = [
        (0, "vswitchd 0.1.0, datapath tap, up 9s, revision 3"),
        (1, "ports 2 up, 0 down, 1 waiting, 0 failed   rx 1.51kpps 12.1Mbit/s   tx 3.02kpps"),
        (2, "fdb 9 of 99   learned 4.00/s   moved 0/s   gone 2.00/s"),
        (3, "drops 20.0/s   tx-full 20.0"),
        (4, "WORKER   CPU   BUSY%   FRAMES/S  CYCLES/FR  FR/BURST  RX-QUEUES"),
        (5, "     0     1    42.5      1.51k        300       8.0          0"),
    ];
    for (at, line) in wanted {
        assert!(lines[at].starts_with(line), "{at}: {line}\n{}", lines.join("\n"));
    }
    assert!(lines[6].starts_with("PORT ") && lines[6].contains(" DROP/S "), "{}", lines[6]);
    let order: Vec<_> = lines[7..10].iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(order, ["web", "db", "vm7"], "busiest first");
    assert!(lines[9].contains("waiting") && lines[9].contains("20.0"), "{}", lines[9]);
    assert!(lines[23].starts_with("q leave  ? help"), "{}", lines[23]);
}

#[test]
fn without_colour_there_is_none() {
    let colours = |colour: bool| {
        let backend = drawn(&state(), colour);
        let cells = backend.buffer().content();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colours(false), 0);
    assert!(colours(true) > 0);
}

#[test]
fn keys_sort_filter_and_open_a_port() {
    let mut state = state();
    let names = |state: &State| -> Vec<String> {
        state.ports().iter().map(|port| port.name.clone()).collect()
    };
    press(&mut state, &typed("ss"));
    assert_eq!((state.sort, names(&state)[0].as_str()), (Sort::Drops, "vm7"));
    press(&mut state, &typed("r"));
    assert_eq!(names(&state).last().unwrap(), "vm7");
    press(&mut state, &typed("r/waitq"));
    assert!(names(&state).is_empty(), "q is typed into the filter");
    press(&mut state, &[KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!(names(&state), ["vm7"]);
    press(&mut state, &[KeyCode::Enter]);
    assert_eq!(state.view, View::Port("vm7".into()));
    let screen = lines(&state).join("\n");
    assert!(screen.contains("port vm7 is waiting: no such device"), "{screen}");
    assert!(screen.contains("tx-full") && screen.contains("Wake the reader."), "{screen}");
    press(&mut state, &[KeyCode::Esc, KeyCode::Esc]);
    assert_eq!((names(&state).len(), state.filter.as_str()), (3, ""));
    press(&mut state, &[KeyCode::End, KeyCode::Down]);
    assert_eq!(state.selected, 2);
    press(&mut state, &typed("d"));
    assert_eq!((&state.view, state.selected), (&View::Drops, 0));
    press(&mut state, &typed("?"));
    assert!(lines(&state).join("\n").contains("any key closes this"));
    press(&mut state, &typed("q"));
    assert!(!state.help, "and does nothing else");
    assert!(!state.key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)));
    assert!(!state.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn held_numbers_stay_and_old_ones_say_so() {
    let mut state = state();
    press(&mut state, &typed(" "));
    let start = Instant::now();
    state.take(Rates::between(&sample(start, 0), &sample(start, 1)));
    assert_eq!(state.rates.as_ref().unwrap().status.uptime, 9);
    assert!(lines(&state)[23].starts_with("HELD   "));
    state.trouble = Some("cannot reach vswitchd".into());
    assert_eq!(lines(&state)[23], "old numbers: cannot reach vswitchd");
}

#[test]
fn numbers_have_three_digits() {
    let shown: Vec<_> = [0.0, 0.5, 12.34, 999.0, 1234.0, 56_789.0, 1.5e6, 25e9].map(si).into();
    assert_eq!(shown, ["0", "0.50", "12.3", "999", "1.23k", "56.8k", "1.50M", "25.0G"]);
}
