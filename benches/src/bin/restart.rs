//! How long traffic is away after kill -9.
//!
//! UDP datagrams go from one namespace to another, one every 200 µs, through two TAPs that outlive
//! the daemon. It is killed and started again at once; what is measured is the longest time in
//! which the receiver got nothing, first as it is and then without what the stacks take to find
//! their neighbours again. Aim: under a second.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vswitch_bench::pairs::{PAIRS, median};
use vswitch_e2e::{Daemon, DaemonSpec, Netns};

/// Between two datagrams: what the result is exact to.
const INTERVAL: Duration = Duration::from_micros(200);

/// How long traffic is away after kill -9, in five rounds.
#[derive(Debug, Parser)]
struct Args {
    /// Ports beside the two that are measured, so that there is more to bring back.
    #[arg(long, default_value_t = 0)]
    ports: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (a, b, idle) = (Netns::new("a")?, Netns::new("b")?, Netns::new("idle")?);
    let mut config = String::from("version = 1\n[[bridge]]\nname = \"br0\"\n");
    let more = (0..args.ports).map(|n| (format!("x{n}"), &idle));
    for (name, netns) in [("a0".to_owned(), &a), ("b0".to_owned(), &b)].into_iter().chain(more) {
        config += &format!(
            "[[port]]\nname = \"{name}\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n",
            netns.name()
        );
    }
    let mut daemon = DaemonSpec::new(&config).start()?;
    daemon.wait_healthy()?;
    a.addr("a0", "192.0.2.1/24")?;
    b.addr("b0", "192.0.2.2/24")?;
    let from = a.enter(|| UdpSocket::bind("192.0.2.1:0").context("cannot bind the sender"))?;
    let to = b.enter(|| UdpSocket::bind("192.0.2.2:5000").context("cannot bind the receiver"))?;
    to.set_read_timeout(Some(Duration::from_millis(50)))?;
    let arrivals = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| send(&from, &stop));
        scope.spawn(|| receive(&to, &arrivals, &stop));
        println!(
            "cargo xtask bench restart --ports {}: kill -9, start at once, a datagram every {} us",
            args.ports,
            INTERVAL.as_micros()
        );
        let as_it_is = rounds("as it is", &mut daemon, &arrivals);
        // A TAP without its owner has no carrier, and the stack forgets its neighbours; what asking
        // for them again takes is the stacks', not the switch's.
        let outcome = as_it_is
            .and_then(|()| pin_neighbours(&a, &b))
            .and_then(|()| rounds("with permanent neighbour entries", &mut daemon, &arrivals));
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    daemon.stop()?;
    outcome
}

/// Kills the daemon five times and prints how long nothing arrived.
fn rounds(what: &str, daemon: &mut Daemon, arrivals: &Mutex<Vec<Instant>>) -> Result<()> {
    println!("{what}\nround  traffic away ms  API away ms");
    let mut away = Vec::new();
    for round in 1..=PAIRS {
        wait_for(arrivals, Instant::now())?;
        let killed = Instant::now();
        daemon.kill9()?;
        daemon.restart()?;
        let api = killed.elapsed();
        wait_for(arrivals, Instant::now())?;
        let gap = longest_gap(arrivals, killed)?.as_secs_f64() * 1e3;
        println!("{round:>5}  {gap:>15.1}  {:>11.1}", api.as_secs_f64() * 1e3);
        away.push(gap);
        daemon.wait_healthy()?;
    }
    let least = away.iter().copied().fold(f64::INFINITY, f64::min);
    let most = away.iter().copied().fold(0.0, f64::max);
    println!("median: {:.1} ms away ({least:.1} to {most:.1})", median(&away));
    Ok(())
}

/// Gives both stacks the other's address for good.
fn pin_neighbours(a: &Netns, b: &Netns) -> Result<()> {
    let ends = [(a, "a0", "192.0.2.2", b, "b0"), (b, "b0", "192.0.2.1", a, "a0")];
    for (netns, device, address, other, theirs) in ends {
        let file = format!("/sys/class/net/{theirs}/address");
        let mac = other.cmd("cat").arg(file).run()?.ok()?.stdout;
        netns.ip(&format!(
            "neigh replace {address} lladdr {} dev {device} nud permanent",
            mac.trim()
        ))?;
    }
    Ok(())
}

/// Sends until told to stop; a device that is away refuses, and is tried again.
fn send(socket: &UdpSocket, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let _ = socket.send_to(&[0; 64], "192.0.2.2:5000");
        std::thread::sleep(INTERVAL);
    }
}

fn receive(socket: &UdpSocket, arrivals: &Mutex<Vec<Instant>>, stop: &AtomicBool) {
    let mut datagram = [0; 128];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut datagram) {
            Ok(_) => {
                if let Ok(mut arrivals) = arrivals.lock() {
                    arrivals.push(Instant::now());
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn times(arrivals: &Mutex<Vec<Instant>>) -> Vec<Instant> {
    arrivals.lock().map(|a| a.clone()).unwrap_or_default()
}

/// Waits for a hundred datagrams after `since`.
fn wait_for(arrivals: &Mutex<Vec<Instant>>, since: Instant) -> Result<()> {
    vswitch_e2e::until_ok(Duration::from_secs(60), "datagrams to arrive", || {
        let came = times(arrivals).iter().filter(|t| **t > since).count();
        ensure!(came > 100, "{came} arrived");
        Ok(())
    })
}

/// The longest time between two arrivals, the later of which is after `killed`.
fn longest_gap(arrivals: &Mutex<Vec<Instant>>, killed: Instant) -> Result<Duration> {
    let times = times(arrivals);
    let gaps = times.windows(2).filter(|w| w[1] > killed).map(|w| w[1] - w[0]);
    gaps.max().context("nothing arrived")
}
