//! What a stopped reader costs the others, and what somebody costs who looks inside.
//!
//! Two namespaces run iperf3 through the switch while a third sends a steady stream to a TAP that
//! this program holds, as QEMU would hold its guest's. In one half of each pair the TAP is read,
//! in the other it is not: its queue fills, and from then on the switch has to drop what goes
//! there. Two more halves capture everything, and trace the port that the stream comes in on. Aim: within
//! 5 % of the others' throughput.
#![forbid(unsafe_code)]

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tun_tap::{Iface, Mode};
use vswitch_bench::pairs::{Compared, PAIRS, median};
use vswitch_e2e::raw::{Sender, ethernet, mac};
use vswitch_e2e::{Daemon, DaemonSpec, IperfServer, Netns, Process, iperf3};

/// Frames a second to the TAP that is held.
const STREAM_PPS: u32 = 20_000;
const HELD: &str = "held";
/// Station behind the held TAP.
const STATION: u32 = 0x99;

/// What a stopped reader, a capture and a trace cost the others, in five interleaved pairs each.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds of iperf3 in each half of a pair.
    #[arg(long, default_value_t = 3)]
    secs: u32,
}

/// Reads a TAP for as long as it is told to, or lets its queue fill.
struct Reader {
    reads: Arc<AtomicBool>,
}

impl Reader {
    fn start(tap: Iface) -> Self {
        let reads = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&reads);
        // Ends with the program: a thread that waits for a frame cannot be told anything.
        std::thread::spawn(move || {
            let mut frame = vec![0; 2048];
            loop {
                while !told.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if tap.recv(&mut frame).is_err() {
                    return;
                }
            }
        });
        Self { reads }
    }

    fn read(&self, yes: bool) {
        self.reads.store(yes, Ordering::Relaxed);
    }
}

/// Sends to the held TAP until `stop`, at a steady rate.
fn stream(sender: &Sender, stop: &AtomicBool) -> Result<u64> {
    let frame = ethernet(mac(STATION), mac(0x33), &[], 0x88b5, &[0; 200]);
    let start = Instant::now();
    let mut sent = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(STREAM_PPS)) as u64;
        while sent < due {
            sender.send_or_lose(&frame)?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (home, a, b, c) = (Netns::new("sw")?, Netns::new("a")?, Netns::new("b")?, Netns::new("c")?);
    let tap = home.enter(|| {
        Iface::without_packet_info(HELD, Mode::Tap).context("cannot make the TAP to be held")
    })?;
    home.ip(&format!("link set {HELD} up"))?;
    let reader = Reader::start(tap);
    let mut config = String::from("version = 1\n[[bridge]]\nname = \"br0\"\n");
    for (name, netns) in [("a0", &a), ("b0", &b), ("c0", &c)] {
        config += &format!(
            "[[port]]\nname = \"{name}\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n",
            netns.name()
        );
    }
    config += &format!(
        "[[port]]\nname = \"{HELD}\"\ntype = \"netdev\"\ndevice = \"{HELD}\"\nbridge = \"br0\"\n"
    );
    let mut spec = DaemonSpec::new(&config);
    spec.netns = Some(home.name().to_owned());
    let mut daemon = spec.start()?;
    daemon.wait_healthy()?;
    let station: Vec<String> = mac(STATION).iter().map(|b| format!("{b:02x}")).collect();
    daemon.ctl(&format!("fdb add {} --port {HELD}", station.join(":")))?.ok()?;
    a.addr("a0", "192.0.2.1/24")?;
    b.addr("b0", "192.0.2.2/24")?;
    let _server = IperfServer::start(&b)?;
    let sender = Sender::open(&c, "c0")?;
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let stream = scope.spawn(|| stream(&sender, &stop));
        let outcome = pairs(&args, &daemon, &reader, &a);
        stop.store(true, Ordering::Relaxed);
        let sent = stream.join().map_err(|_| anyhow::anyhow!("the stream's thread panicked"))??;
        println!("{sent} frames were sent to the held TAP");
        outcome
    });
    reader.read(true);
    daemon.stop()?;
    outcome
}

/// What somebody does meanwhile, and what it is to cost the others: nothing.
#[derive(Clone, Copy, Debug)]
enum Burden {
    /// The reader of the held TAP stops.
    StoppedReader,
    /// Everything is captured.
    Capture,
    /// The port that the stream comes in on is traced.
    Trace,
}

impl Burden {
    const ALL: [Self; 3] = [Self::StoppedReader, Self::Capture, Self::Trace];

    const fn says(self) -> &'static str {
        match self {
            Self::StoppedReader => "the held TAP is not read",
            Self::Capture => "capture any",
            Self::Trace => "trace live --in c0",
        }
    }

    /// Begins with it. What runs for it ends when it is dropped.
    fn begin(self, daemon: &Daemon, reader: &Reader) -> Result<Option<Process>> {
        let args: &[&str] = match self {
            Self::StoppedReader => {
                reader.read(false);
                return Ok(None);
            }
            Self::Capture => &["capture", "any", "-w", "/dev/null"],
            Self::Trace => &["trace", "live", "--in", "c0", "-o", "jsonl"],
        };
        daemon.ctl_cmd(args)?.spawn(Stdio::null(), Stdio::null()).map(Some)
    }
}

fn pairs(args: &Args, daemon: &Daemon, reader: &Reader, a: &Netns) -> Result<()> {
    println!(
        "cargo xtask bench isolation --secs {}: iperf3 TCP a -> b, {STREAM_PPS} frames/s to a TAP",
        args.secs
    );
    let iperf = || iperf3(a, "192.0.2.2", &format!("-t {}", args.secs));
    let iperf = || iperf().map(|i| i.bits_per_second / 1e6);
    iperf()?;
    for burden in Burden::ALL {
        println!(
            "\n{}\npair  without Mbit/s  with Mbit/s  ratio  dropped at the TAP",
            burden.says()
        );
        let mut found = Compared { ours: Vec::new(), theirs: Vec::new() };
        for pair in 1..=PAIRS {
            let without = iperf()?;
            let running = burden.begin(daemon, reader)?;
            // Until the queue is full, or the watch is there.
            std::thread::sleep(Duration::from_millis(200));
            let before = lost(daemon)?;
            let with = iperf()?;
            let dropped = lost(daemon)? - before;
            let stopped = matches!(burden, Burden::StoppedReader);
            ensure!(!stopped || dropped > 0, "nothing was dropped at the TAP that is not read");
            println!(
                "{pair:>4}  {without:>14.0}  {with:>11.0}  {:>5.3}  {dropped}",
                with / without
            );
            found.ours.push(with);
            found.theirs.push(without);
            reader.read(true);
            if let Some(mut running) = running {
                ensure!(running.poll()?.is_none(), "{} ended by itself", burden.says());
                running.terminate(Duration::from_secs(5))?;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let (least, greatest) = found.spread();
        println!(
            "median: {:.0} Mbit/s without, {:.0} with; ratio {:.3} ({least:.3} to {greatest:.3})",
            median(&found.theirs),
            median(&found.ours),
            found.ratio()
        );
    }
    Ok(())
}

/// Frames that did not get into the held TAP, inside of the switch and outside.
fn lost(daemon: &Daemon) -> Result<u64> {
    let counts = daemon.accounting()?;
    let port = counts.port(HELD)?;
    Ok(port.drops.values().sum::<u64>() + port.lost_after_tx)
}
