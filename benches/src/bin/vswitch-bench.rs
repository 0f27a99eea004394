//! Rates and delays of any switch, from outside: see [`vswitch_bench::rate`].
//!
//! To see whether it works here: `cargo xtask bench rate --sut testpmd --quick`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "dpdk")]
    let done = with_dpdk::main();
    #[cfg(not(feature = "dpdk"))]
    let done: anyhow::Result<()> = Err(anyhow::anyhow!(
        "this vswitch-bench was built without DPDK, which its generator needs: \
         `apt-get install libdpdk-dev libclang-dev pkg-config`, then `cargo xtask bench rate`, or \
         `cargo build --release -p vswitch-bench --bin vswitch-bench --features dpdk`"
    ));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vswitch-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "dpdk")]
mod with_dpdk {
    use std::fs::File;
    use std::io::{IsTerminal, Write};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use anyhow::{Context, Result, ensure};
    use clap::Parser;
    use datapath_dpdk::Eal;
    use nix::sched::{CpuSet, sched_getaffinity};
    use nix::unistd::Pid;
    use vswitch_bench::dpdk::hugepages;
    use vswitch_bench::dpdk::rows::HOSTILE_RATE;
    use vswitch_bench::machine::{self, Machine, Urgent};
    use vswitch_bench::pairs::PAIRS;
    use vswitch_bench::rate::generator::Environment;
    use vswitch_bench::rate::inproc::Inproc;
    use vswitch_bench::rate::result::{FORMAT, Report, ratios};
    use vswitch_bench::rate::row::{Direction, Grid, NETWORKS, Row, Shape, Sizes, Test, name};
    use vswitch_bench::rate::search::Plan;
    use vswitch_bench::rate::session::{Findings, Options, Session, Watcher};
    use vswitch_bench::rate::sut::{Kind, Launch};
    use vswitch_bench::rate::{table, wiring};
    use vswitch_e2e::Hugepages;

    /// The most flows: a receiver keeps four bytes for each.
    const FLOWS_MAX: i64 = 2_000_000;
    /// The most addresses.
    const MACS_MAX: i64 = 8_000_000;
    /// Free hugepages that a switch needs beside the generator.
    const HUGEPAGES: u64 = 512;
    /// How long CPUs are watched before.
    const WATCH: Duration = Duration::from_millis(500);

    /// Rates and delays of a switch, from outside: frames from a generator through pairs of its ports
    /// to a sink, by RFC 2544. Each run first measures the generator with no switch between.
    #[derive(Debug, Parser)]
    #[command(name = "vswitch-bench", version)]
    struct Args {
        /// The switch. Several with `--compare`.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "vswitchd")]
        sut: Vec<Kind>,
        /// Measure all switches named by `--sut` in turn, several times, and print ratios of the first to
        /// the others.
        #[arg(long)]
        compare: bool,
        /// How often in turn, with `--compare`.
        #[arg(long, default_value_t = PAIRS)]
        pairs: usize,
        /// A port of the generator: a PCI address, or a vdev of DPDK with its arguments. Two or more:
        /// frames of one are fetched from the next. None makes pairs of memif.
        #[arg(long = "port", value_name = "DEVARGS")]
        port: Vec<String>,
        /// With `--port`: what a switch that is started here has as its ports, in the same order.
        #[arg(long, value_name = "DEVARGS")]
        sut_port: Vec<String>,
        /// How many ports: all that are named, or 2, unless told otherwise. Learning and floods take a
        /// third one, and so four.
        #[arg(long, value_delimiter = ',')]
        ports: Vec<usize>,
        /// What is measured.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "rate")]
        test: Vec<Test>,
        /// Bytes of frames with FCS, 64 to 9018, or `imix`; of inner ones in tunnels, and without tags.
        #[arg(long, value_delimiter = ',', default_value = "64")]
        size: Vec<Sizes>,
        /// Flows of each port that sends, each with addresses of its own: 1000, and 100000 addresses
        /// where they are learned, unless told otherwise.
        #[arg(long, value_delimiter = ',',
              value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
        flows: Vec<u32>,
        /// MAC addresses of all flows together, instead of flows: what look-up costs in large tables.
        #[arg(long, value_delimiter = ',', conflicts_with = "flows",
              value_parser = clap::value_parser!(u32).range(2..=MACS_MAX))]
        macs: Vec<u32>,
        /// What is around the frames; tunnels are on the second port.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "plain")]
        shape: Vec<Shape>,
        /// Who sends: `uni` is the first port of each pair (encap), `reverse` the second (decap).
        #[arg(long, value_enum, value_delimiter = ',', default_value = "bi")]
        direction: Vec<Direction>,
        /// VNIs that flows in tunnels are spread over, each with a VLAN of its own on the other side.
        #[arg(long, value_delimiter = ',', default_value = "1",
              value_parser = clap::value_parser!(u16).range(1..=i64::from(NETWORKS)))]
        vnis: Vec<u16>,
        /// How many workers, of those on `--worker-cpus`: all, unless told otherwise.
        #[arg(long, value_delimiter = ',')]
        workers: Vec<usize>,
        /// Frames a second between random addresses, where those flood a port; 64 bytes fill a gigabit
        /// by default.
        #[arg(long, value_name = "RATE", default_value_t = HOSTILE_RATE)]
        flood_rate: u64,
        /// Sources and sinks in the switch's own process instead of a generator, for machines without a
        /// NIC: the maximum by CPU time of the workers, and nothing else.
        #[arg(long, conflicts_with_all = ["port", "sut_port", "generator_cpus"])]
        inproc: bool,
        /// Per cent of the maximum at which flows run while a switch is reconfigured.
        #[arg(long, value_name = "PERCENT", default_value_t = 50,
              value_parser = clap::value_parser!(u8).range(1..=100))]
        load: u8,
        /// Seconds of a trial.
        #[arg(long, default_value_t = 2.0)]
        secs: f64,
        /// Seconds of the trial that confirms an NDR or PDR.
        #[arg(long, default_value_t = 10.0)]
        confirm_secs: f64,
        /// Per cent to which NDR and PDR are searched.
        #[arg(long, default_value_t = 1.0)]
        precision: f64,
        /// How often a trial that lost frames is run again before it counts.
        #[arg(long, default_value_t = 1)]
        again: u32,
        /// The maximum receive rate only: no NDR, PDR and latency.
        #[arg(long)]
        no_search: bool,
        /// No latency.
        #[arg(long)]
        no_latency: bool,
        /// Short trials, to see whether it works: figures mean nothing.
        #[arg(long)]
        quick: bool,
        /// CPUs of the generator, which polls them without pause.
        #[arg(long, value_delimiter = ',')]
        generator_cpus: Vec<u16>,
        /// CPUs of the switch's workers.
        #[arg(long, value_delimiter = ',')]
        worker_cpus: Vec<u16>,
        /// The CPU for the rest of the switch.
        #[arg(long)]
        control_cpu: Option<u16>,
        /// The directory of `vswitchd` and `vswitch-ctl`; beside this program by default.
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
        /// Have so many hugepages of 2 MiB free while it runs: those missing are reserved, and given
        /// back in the end. Generator and switch share them.
        #[arg(long, value_name = "PAGES")]
        hugepages: Option<u64>,
        /// Write all figures to that file.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write a report with plots to that file: a page that needs nothing else.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    }

    /// A file that is made before anything is measured, so that it is not in vain.
    fn output(path: Option<&Path>) -> Result<Option<File>> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        path.map(create).transpose()
    }

    /// Where things run.
    struct Cpus {
        generator: Vec<u16>,
        workers: Vec<u16>,
        control: u16,
    }

    impl Args {
        fn rows(&self, workers: usize) -> Result<Vec<Row>> {
            let named = self.port.len();
            let ports = match (self.ports.as_slice(), named) {
                ([], 0) => vec![2],
                ([], named) => vec![named],
                (ports, _) => ports.to_vec(),
            };
            for ports in ports.iter().copied() {
                ensure!(
                    ports >= 2 && ports.is_multiple_of(2),
                    "ports come in pairs, and these are {ports}"
                );
                ensure!(named == 0 || ports <= named, "--ports {ports}: --port names only {named}");
            }
            let wanted = if self.workers.is_empty() { vec![workers] } else { self.workers.clone() };
            let most = wanted.iter().copied().max().unwrap_or(0);
            ensure!(
                most <= workers && !wanted.contains(&0),
                "--workers {most}: each worker takes a CPU of --worker-cpus, which names {workers}"
            );
            let grid = Grid {
                tests: self.test.clone(),
                shapes: self.shape.clone(),
                sizes: self.size.clone(),
                flows: self.flows.clone(),
                macs: self.macs.clone(),
                directions: self.direction.clone(),
                ports,
                workers: wanted,
                vnis: self.vnis.clone(),
            };
            Ok(grid.rows())
        }

        fn plan(&self) -> Result<Plan> {
            let secs = |what: &str, secs: f64| {
                ensure!((0.01..=3600.0).contains(&secs), "{what} is 0.01 to 3600 seconds");
                Ok(Duration::from_secs_f64(if self.quick { secs.min(0.3) } else { secs }))
            };
            ensure!(
                (0.01..=50.0).contains(&self.precision),
                "--precision is 0.01 to 50 per cent, and this is {}",
                self.precision
            );
            Ok(Plan {
                trial: secs("--secs", self.secs)?,
                confirm: secs("--confirm-secs", self.confirm_secs)?,
                precision: if self.quick { 0.05 } else { self.precision / 100.0 },
                again: self.again,
            })
        }

        /// The CPUs named, and for the rest: workers at the end, the generator apart from control
        /// where there are enough.
        fn cpus(&self) -> Result<Cpus> {
            let set = sched_getaffinity(Pid::from_raw(0))?;
            let allowed: Vec<u16> = (0..CpuSet::count() as u16)
                .filter(|cpu| set.is_set(usize::from(*cpu)) == Ok(true))
                .collect();
            let or = |named: &[u16], rest: Option<u16>| match named {
                [] => rest.into_iter().collect(),
                named => named.to_vec(),
            };
            let second = usize::from(allowed.len() > 2);
            let generator = allowed.get(second).copied().filter(|_| !self.inproc);
            let generator = or(&self.generator_cpus, generator);
            let workers = or(&self.worker_cpus, allowed.last().copied());
            let control = self.control_cpu.or_else(|| allowed.first().copied());
            let control = control.context("this process may use no CPU")?;
            for cpu in generator.iter().chain(&workers).chain([&control]) {
                ensure!(
                    allowed.contains(cpu),
                    "CPU {cpu} is not among those this process may use ({allowed:?}): \
                     see --generator-cpus, --worker-cpus, --control-cpu, `nproc` and `taskset`"
                );
            }
            let both = generator.iter().find(|cpu| workers.contains(cpu));
            if let Some(cpu) = both {
                anyhow::bail!(
                    "too few CPUs: generator and switch would both poll CPU {cpu}, and this process \
                     may use {} CPU(s) ({allowed:?}); two are the least",
                    allowed.len()
                );
            }
            Ok(Cpus { generator, workers, control })
        }
    }

    /// Prints lines, and on a terminal what is being done below them.
    #[derive(Debug)]
    struct Screen {
        terminal: bool,
    }

    impl Screen {
        fn line(&self, line: &str) {
            self.clear();
            println!("{line}");
        }

        fn clear(&self) {
            if self.terminal {
                eprint!("\r\x1b[K");
            }
        }
    }

    impl Watcher for Screen {
        fn doing(&self, what: &str) {
            if self.terminal {
                eprint!("\r\x1b[K{what} …");
                // Nothing is lost with it.
                let _ = std::io::stderr().flush();
            }
        }

        fn tried(&self, line: &str) {
            match self.terminal {
                true => self.doing(line),
                false => eprintln!("    {line}"),
            }
        }

        fn measured(&self, lines: &[String]) {
            lines.iter().for_each(|line| self.line(line));
        }

        fn skipped(&self, sut: Kind, row: &Row, why: &str) {
            self.line(&format!("{row} {}: not measured: {why}", name(sut)));
        }
    }

    pub(crate) fn main() -> Result<()> {
        let args = Args::parse();
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let command = format!("vswitch-bench {command}");
        let cpus = args.cpus()?;
        let (json, html) = (output(args.json.as_deref())?, output(args.html.as_deref())?);
        let mut dir = tempfile::Builder::new();
        dir.prefix("vswitch-bench-");
        // In memory, so that counters of sources and sinks never wait for a disk.
        let dir = if args.inproc { dir.tempdir_in("/dev/shm") } else { dir.tempdir() }?;
        let options = options(&args, &cpus, dir.path())?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.clone())?;
        }
        machine::print(&command);
        // A figure that means nothing is not worth pushing others aside.
        let urgent = if args.quick { None } else { Urgent::new().ok() };
        let _pages = args.hugepages.map(hugepages::ensure).transpose()?;
        let environment = match args.inproc {
            true => None,
            false => Some(Environment::start(&cpus.generator)?),
        };
        let mut options = options;
        let generator_has = environment.is_none_or(Environment::has_hugepages);
        options.launch.hugepages = generator_has && Hugepages::free().unwrap_or(0) >= HUGEPAGES;
        let mut warnings = warnings(&args, &cpus, generator_has, options.launch.hugepages);
        for warning in &warnings {
            println!("warning: {warning}");
        }
        if environment.is_some() {
            println!("{}", table::expected(options.expected()));
        }
        println!("{}", table::head());
        let screen = Screen { terminal: std::io::stderr().is_terminal() };
        let mut findings = Findings::default();
        let done = match environment {
            Some(environment) => {
                Session::new(&options, environment, &screen, stop).run(&mut findings)
            }
            None => Inproc::new(&options, &screen, stop).and_then(|run| run.run(&mut findings)),
        };
        screen.clear();
        if let Err(error) = &done {
            // What was measured before is not lost.
            warnings.push(format!("the run was not finished: {error:#}"));
        }
        let ratios = ratios(&options.suts, &options.rows, &findings.results);
        for ratio in &ratios {
            println!("{}", table::ratio(ratio));
        }
        let report = Report {
            format: FORMAT,
            machine: Machine::here(),
            command,
            dpdk: dpdk(options.launch.hugepages),
            ports: ports(&options, &findings),
            generator_cpus: cpus.generator,
            worker_cpus: cpus.workers,
            method: method(&options, args.inproc, urgent.is_some()),
            warnings,
            configurations: findings.configurations,
            ceilings: findings.ceilings,
            results: findings.results,
            ratios,
            learned: findings.learned,
            flooded: findings.flooded,
            reconfigured: findings.reconfigured,
        };
        if let Some(mut file) = json {
            serde_json::to_writer_pretty(&file, &report)?;
            file.write_all(b"\n")?;
        }
        if let Some(mut file) = html {
            file.write_all(vswitch_bench::rate::html::page(&report)?.as_bytes())?;
        }
        done
    }

    fn options(args: &Args, cpus: &Cpus, dir: &Path) -> Result<Options> {
        ensure!(
            args.compare || args.sut.len() == 1,
            "several switches are measured with --compare"
        );
        ensure!(args.pairs > 0, "--pairs is 1 or more");
        let starts = |sut: &Kind| !matches!(sut, Kind::External | Kind::LinuxBridge);
        if !args.port.is_empty() && args.sut.iter().any(starts) {
            ensure!(
                args.sut_port.len() == args.port.len(),
                "--port names {} ports of the generator; a switch that is started here needs as many \
                 --sut-port for the other ends, and has {} (or is it --sut external?)",
                args.port.len(),
                args.sut_port.len()
            );
        }
        ensure!(
            args.inproc || !args.port.is_empty() || !args.sut.contains(&Kind::External),
            "--sut external needs --port, twice or more: the ports that lead to the switch"
        );
        args.sut.iter().try_for_each(|sut| sut.installed())?;
        args.port.iter().chain(&args.sut_port).try_for_each(|port| wiring::present(port))?;
        Ok(Options {
            suts: args.sut.clone(),
            rows: args.rows(cpus.workers.len())?,
            named: (args.port.clone(), args.sut_port.clone()),
            cpus: cpus.generator.clone(),
            launch: Launch {
                workers: cpus.workers.clone(),
                control: cpus.control,
                dir: dir.to_owned(),
                binaries: args.binaries.clone(),
                hugepages: false,
                under: Vec::new(),
            },
            plan: args.plan()?,
            search: !args.no_search,
            latency: !args.no_latency && !args.no_search,
            pairs: if args.compare { args.pairs } else { 1 },
            random: args.flood_rate as f64,
            load: f64::from(args.load) / 100.0,
        })
    }

    /// The ports, or what was made in their place.
    fn ports(options: &Options, findings: &Findings) -> Vec<String> {
        match options.named.0.as_slice() {
            [] => {
                let generator = findings.ceilings.iter().map(|c| c.ports);
                let inside = findings.results.iter().map(|m| m.ceiling_ports);
                let mut kinds: Vec<String> = generator.chain(inside).map(Into::into).collect();
                kinds.sort_unstable();
                kinds.dedup();
                kinds
            }
            named => named.to_vec(),
        }
    }

    fn dpdk(hugepages: bool) -> String {
        let memory = if hugepages { "hugepages" } else { "ordinary pages" };
        format!("{}, {memory}", Eal::version())
    }

    fn warnings(
        args: &Args,
        cpus: &Cpus,
        generator_has_hugepages: bool,
        hugepages: bool,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        if args.quick {
            warnings.push("--quick: trials are too short, these figures mean nothing".to_owned());
        }
        if cfg!(debug_assertions) && !args.inproc {
            warnings.push(
                "the generator was built without optimisation, these figures mean nothing: \
                 `cargo xtask bench rate`"
                    .to_owned(),
            );
        }
        if !generator_has_hugepages {
            warnings.push(
                "the generator has no hugepages, which makes it slower: --hugepages 1024"
                    .to_owned(),
            );
        } else if !hugepages {
            warnings.push(format!(
                "fewer than {HUGEPAGES} hugepages are left for the switch, which goes without: \
                 --hugepages 1024"
            ));
        }
        if cpus.generator.contains(&cpus.control) {
            warnings.push(format!(
                "the switch's control threads share CPU {} with the generator: pauses of either lose \
                 frames",
                cpus.control
            ));
        }
        if cpus.workers.contains(&cpus.control) {
            warnings.push(format!(
                "a worker shares CPU {} with the switch's control threads: --control-cpu",
                cpus.control
            ));
        }
        let watched: Vec<u16> = cpus.generator.iter().chain(&cpus.workers).copied().collect();
        let watch = if args.quick { WATCH / 5 } else { WATCH };
        warnings.extend(machine::doubts(&watched, watch));
        if !args.inproc {
            warnings.extend(machine::interruptions(&watched, watch));
        }
        warnings
    }

    fn method(options: &Options, inproc: bool, urgent: bool) -> String {
        let plan = options.plan;
        let before =
            if urgent { " Run before all else on the machine (autogroup, nice -20)." } else { "" };
        if inproc {
            return format!(
                "Maximum: frames that sources in the switch's process gave and sinks there got in {:?}, a \
                 second of CPU time of its workers. Sizes with FCS.{before}",
                plan.trial
            );
        }
        format!(
            "Maximum: frames delivered under flood for {:?}. NDR and PDR (0.5 %): bisection to {} % with \
             trials of {:?}, a trial with loss run again {} time(s) (more often where CPUs were taken \
             away meanwhile), confirmed by one of {:?}. Latency: every frame, software time stamps, at \
             10, 50 and 90 % of the NDR. Sizes with FCS.{before}",
            plan.trial,
            100.0 * plan.precision,
            plan.trial,
            plan.again,
            plan.confirm
        )
    }
}
