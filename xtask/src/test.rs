//! `cargo xtask test`: every test, part by part, with each part's time at the end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use vswitch_e2e::Netns;
use vswitch_e2e::bins::target_dir;
use vswitch_e2e::guest::Platform;

use crate::setup::{Purpose, ensure_packages, ensure_tun};
use crate::ui::{build_switch, cargo, has_libdpdk, line, note, root, step, time};
use crate::{demo, dist, setup};

/// Run the tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// At the sizes that issues name instead of those for CI: takes hours.
    #[arg(long)]
    full: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Do not look for missing packages.
    #[arg(long)]
    no_setup: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Unit, property and scenario tests beside the code.
    Unit,
    /// Examples in the documentation.
    Doc,
    /// Inputs that fuzzing found, replayed on the stable compiler.
    Corpus,
    /// The FDB's lock-free part, under every interleaving loom finds.
    Loom,
    /// The conformance suite and the rest of DPDK's datapath (without hugepages).
    Dpdk,
    /// Real kernels, guests and the daemon.
    E2e,
    /// Forwarding and robustness once more, with every daemon on DPDK.
    E2eDpdk,
    /// The demo, to its end, interrupted, and kept; each time nothing may be left behind.
    Demo,
    /// Five seconds of each fuzz target, where the nightly compiler is there.
    Fuzz,
    /// What a .deb holds.
    Dist,
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }
}

/// How a part ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// How many tests, and what else there is to say.
    Passed(String),
    Failed(String),
    /// Why, and whether this machine could have run it: then CI counts it as a failure.
    Skipped {
        why: String,
        could_run: bool,
    },
}

use Outcome::{Failed, Passed, Skipped};

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let begun = Instant::now();
    if !args.no_setup
        && let Err(error) = ensure_packages(Purpose::Test).and_then(|()| ensure_tun())
    {
        // Each part looks for what it needs, and is skipped with the reason.
        eprintln!("warning: this machine lacks something: {error:#}");
    }
    let parts: Vec<Part> =
        if args.only.is_empty() { Part::value_variants().to_vec() } else { args.only.clone() };
    let in_ci = std::env::var("CI").as_deref() == Ok("true");
    let mut results = Vec::new();
    for part in parts {
        let about = part.to_possible_value().and_then(|v| v.get_help().map(ToString::to_string));
        step(&format!("{}: {}", part.name(), about.unwrap_or_default()));
        let start = Instant::now();
        let mut outcome = run(part, args).unwrap_or_else(|error| Failed(format!("{error:#}")));
        if let Skipped { why, could_run: true } = &outcome
            && in_ci
        {
            outcome = Failed(format!("skipped, which CI must not do here: {why}"));
        }
        results.push((part, outcome, start.elapsed()));
    }
    Ok(report(&results, begun.elapsed()))
}

fn report(results: &[(Part, Outcome, Duration)], total: Duration) -> ExitCode {
    step("Summary");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (part, outcome, took) in results {
        let (word, detail) = match outcome {
            Passed(detail) => (&mut passed, ("passed", detail)),
            Failed(why) => (&mut failed, ("FAILED", why)),
            Skipped { why, .. } => (&mut skipped, ("skipped", why)),
        };
        *word += 1;
        let (verdict, text) = detail;
        note(&format!("{:<7} {verdict:<8} {:>12}  {text}", part.name(), time(*took)));
    }
    note(&format!("in all {:>22}", time(total)));
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Packages that need DPDK, or the system as it is: they have parts of their own.
const APART: [&str; 8] = [
    "--exclude",
    "datapath-dpdk",
    "--exclude",
    "dpdk-sys",
    "--exclude",
    "vswitch-e2e",
    "--exclude",
    "vswitch-bench",
];

fn run(part: Part, args: &Args) -> Result<Outcome> {
    let filter = args.filter.as_deref();
    match part {
        Part::Unit => {
            let mut command = tests(&["--workspace"]);
            command.args(APART).args(filter);
            full(&mut command, args);
            counted(&mut command)
        }
        Part::Doc => {
            let mut command = cargo();
            command.args(["test", "--doc", "--workspace"]).args(&APART[..4]);
            command.arg("--no-fail-fast");
            some_of("example in the documentation", counted(&mut command)?)
        }
        Part::Corpus => {
            let mut command = tests(&["--workspace"]);
            command.args(APART).arg("corpus");
            some_of("test replays a corpus", counted(&mut command)?)
        }
        Part::Loom => {
            let mut command = cargo();
            command
                .args(["test", "--release", "-p", "switch-core", "--test", "loom*"])
                .env("RUSTFLAGS", "--cfg loom")
                // Its own directory: else everything would be compiled anew twice a run.
                .env("CARGO_TARGET_DIR", target_dir()?.join("loom"));
            full(&mut command, args);
            some_of("test uses loom", counted(&mut command)?)
        }
        Part::Dpdk => {
            if !has_libdpdk() {
                return no_libdpdk();
            }
            let mut command = cargo();
            command.args(["test", "-p", "datapath-dpdk", "-p", "dpdk-sys", "--no-fail-fast"]);
            // One EAL a process.
            command.args(["--", "--test-threads=1"]).args(filter);
            full(&mut command, args);
            some_of("test of DPDK's datapath", counted(&mut command)?)
        }
        Part::E2e => e2e(args, &[]),
        Part::E2eDpdk if !has_libdpdk() => no_libdpdk(),
        Part::E2eDpdk => e2e(args, &ON_BOTH_DATAPATHS),
        Part::Demo => demo::check(),
        Part::Fuzz => fuzz(args),
        Part::Dist => dist::check().map(Passed),
    }
}

/// A part in which no test ran has shown nothing.
fn some_of(what: &str, outcome: Outcome) -> Result<Outcome> {
    Ok(match outcome {
        Passed(text) if text.starts_with("0 tests") => {
            Skipped { why: format!("no {what}"), could_run: true }
        }
        other => other,
    })
}

fn full(command: &mut Command, args: &Args) {
    if args.full {
        command.env("VSWITCH_TEST_FULL", "1").env("PROPTEST_CASES", "10000");
    }
}

fn has_nextest() -> bool {
    cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `cargo nextest run`, or `cargo test` where nextest is not installed.
fn tests(selection: &[&str]) -> Command {
    let mut command = cargo();
    if has_nextest() {
        command.args(["nextest", "run", "--no-fail-fast", "--no-tests", "pass"]);
    } else {
        command.args(["test", "--lib", "--bins", "--tests", "--no-fail-fast"]);
    }
    command.args(selection);
    command
}

fn no_libdpdk() -> Result<Outcome> {
    let why = "no libdpdk: apt-get install libdpdk-dev libclang-dev pkg-config".into();
    Ok(Skipped { why, could_run: true })
}

/// End-to-end tests that do not care which datapath they run on.
const ON_BOTH_DATAPATHS: [&str; 3] = ["cli", "forwarding", "robust"];

/// All end-to-end tests; or only these test programs, with every daemon on DPDK.
fn e2e(args: &Args, on_dpdk: &[&str]) -> Result<Outcome> {
    let needs = [vswitch_e2e::Need::Root, vswitch_e2e::Need::Tun];
    if let Some(why) = vswitch_e2e::missing(&needs) {
        return Ok(Skipped { why, could_run: false });
    }
    for platform in [Platform::Virtual, Platform::SrIov] {
        setup::ensure_image(platform)?;
    }
    let swept = Netns::sweep()?;
    if swept > 0 {
        note(&format!("deleted {swept} network namespaces that an aborted run left behind"));
    }
    // The sizes that issues name would take days with unoptimised code.
    let profile: &[&str] = if args.full { &["--release"] } else { &[] };
    crate::ui::show(&mut build_switch(args.full))?;

    let skips = target_dir()?.join("e2e-skips");
    let _ = fs::remove_file(&skips);
    let with_nextest = has_nextest();
    let mut command = cargo();
    if with_nextest {
        // What runs beside what, and what alone: .config/nextest.toml.
        command.args(["nextest", "run", "--profile", "e2e", "--no-tests", "pass"]);
    } else {
        command.args(["test", "--no-fail-fast"]);
    }
    command
        // The benchmarks' tests start the daemon, too.
        .args(["-p", "vswitch-e2e", "-p", "vswitch-bench"])
        .args(if has_libdpdk() { &["--features", "vswitch-bench/dpdk"][..] } else { &[] })
        .args(profile)
        .args(on_dpdk.iter().flat_map(|test| ["--test", test]));
    if !with_nextest {
        // One after the other: they measure counts under paced traffic, on few cores.
        command.args(["--", "--test-threads=1"]);
    }
    command.args(args.filter.as_deref()).env("VSWITCH_SKIPS", &skips);
    if !on_dpdk.is_empty() {
        command.env("VSWITCH_E2E_DATAPATH", "dpdk");
    }
    full(&mut command, args);
    let outcome = counted(&mut command)?;
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    for skip in skipped.lines() {
        note(&format!("skipped: {skip}"));
    }
    Ok(match outcome {
        Passed(text) if !skipped.is_empty() => {
            Passed(format!("{text}, of which {} could not run here", skipped.lines().count()))
        }
        other => other,
    })
}

fn fuzz(args: &Args) -> Result<Outcome> {
    let dir = root().join("fuzz");
    if !dir.join("Cargo.toml").is_file() {
        return Ok(Skipped { why: "there are no fuzz targets".to_owned(), could_run: true });
    }
    let toolchains = Command::new("rustup").args(["toolchain", "list"]).output();
    let nightly = toolchains.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("nightly"));
    if !nightly {
        let why = "no nightly compiler: rustup toolchain install nightly --profile minimal".into();
        return Ok(Skipped { why, could_run: false });
    }
    // rustup's cargo, which takes +TOOLCHAIN, not the one that runs us.
    let cargo_nightly = || {
        let mut command = Command::new("cargo");
        command.arg("+nightly").current_dir(&dir).env_remove("RUSTUP_TOOLCHAIN");
        command.env_remove("CARGO").env_remove("RUSTC");
        command
    };
    let there = cargo_nightly().args(["fuzz", "--version"]).output();
    if !there.is_ok_and(|o| o.status.success()) {
        note("installing cargo-fuzz, which runs the targets");
        let mut install = cargo_nightly();
        install.args(["install", "--locked", "cargo-fuzz"]);
        if let Err(error) = crate::ui::show(&mut install) {
            let why = format!("cargo-fuzz cannot be installed: {error:#}");
            return Ok(Skipped { why, could_run: false });
        }
    }
    let listed = cargo_nightly().args(["fuzz", "list"]).output().context("cargo fuzz list")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let targets: Vec<&str> =
        listed.lines().filter(|t| args.filter.as_deref().is_none_or(|f| t.contains(f))).collect();
    let seconds = if args.full { 600 } else { 5 };
    for target in &targets {
        note(&format!("{target}, {seconds} s"));
        // What is found new goes to a directory of its own: the tree's corpus stays as it is.
        let found = target_dir()?.join("fuzz-corpus").join(target);
        fs::create_dir_all(&found)?;
        let mut run = cargo_nightly();
        run.args(["fuzz", "run", target]).arg(&found);
        let seeds = dir.join("corpus").join(target);
        if seeds.is_dir() {
            run.arg(seeds);
        }
        run.args(["--", "-print_final_stats=1", &format!("-max_total_time={seconds}")]);
        let (ok, text) = echo(&mut run, |line| line.contains("stat::number_of_executed_units"))?;
        if !ok {
            let lines: Vec<&str> = text.lines().collect();
            note(&lines[lines.len().saturating_sub(40)..].join("\n"));
            return Ok(Failed(format!("{target} failed: its last lines are above")));
        }
    }
    Ok(Passed(format!("{} targets, {seconds} s each", targets.len())))
}

/// Runs a test command in the open, and counts what it says.
fn counted(command: &mut Command) -> Result<Outcome> {
    let shown = line(command);
    note(&format!("$ {shown}"));
    let (ok, text) = echo(command, |_| true)?;
    let (passed, failed) = count(&text);
    Ok(if ok {
        Passed(format!("{passed} tests"))
    } else if failed > 0 {
        Failed(format!("{failed} of {} tests failed", passed + failed))
    } else {
        Failed(format!("`{shown}` failed"))
    })
}

/// Runs a command, printing those lines of its output that `wanted` holds for. Whether it
/// succeeded, and the whole output.
fn echo(command: &mut Command, wanted: impl Fn(&str) -> bool) -> Result<(bool, String)> {
    // nextest and cargo write to standard error, libtest to standard output: one stream.
    let mut merged = Command::new("sh");
    merged.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(command.get_program());
    merged.args(command.get_args()).stdout(Stdio::piped());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => merged.env(key, value),
            None => merged.env_remove(key),
        };
    }
    merged.current_dir(command.get_current_dir().unwrap_or_else(|| Path::new(".")));
    let mut child = merged.spawn().with_context(|| format!("cannot start `{}`", line(command)))?;
    let mut text = String::new();
    let mut reader = BufReader::new(child.stdout.take().context("no output")?);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        let line = String::from_utf8_lossy(&bytes);
        if wanted(&line) {
            print!("    {line}");
        }
        text.push_str(&line);
        bytes.clear();
    }
    Ok((child.wait()?.success(), text))
}

/// What the lines hold that count tests: nextest's for many and for one, and libtest's.
const OF_NEXTEST: [&str; 2] = ["tests run:", "test run:"];
const OF_LIBTEST: [&str; 1] = ["test result:"];

/// Passed and failed tests in the output of libtest or nextest.
fn count(text: &str) -> (u64, u64) {
    let has = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    // nextest shows of a test that failed what libtest said of it, too.
    let by_nextest = text.lines().any(|line| has(line, &OF_NEXTEST));
    let words: &[&str] = if by_nextest { &OF_NEXTEST } else { &OF_LIBTEST };
    let (mut passed, mut failed) = (0, 0);
    for line in text.lines().filter(|line| has(line, words)) {
        let words: Vec<&str> = line.split([' ', ',', ';', ':', '.']).collect();
        for pair in words.windows(2) {
            let n: u64 = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" => passed += n,
                // nextest counts a test that ended by a signal or a time limit apart.
                "failed" | "timed" => failed += n,
                _ => {}
            }
        }
    }
    (passed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_libtest_and_nextest() {
        let libtest = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n\
                       test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured\n";
        assert_eq!(count(libtest), (8, 2));
        let nextest = "     Summary [   3.215s] 120 tests run: 119 passed, 1 failed, 2 skipped\n";
        assert_eq!(count(nextest), (119, 1));
        assert_eq!(count(&format!("{libtest}{nextest}")), (119, 1));
        assert_eq!(count("     Summary [   0.023s] 1 test run: 1 passed, 161 skipped\n"), (1, 0));
        assert_eq!(count("nothing of the kind"), (0, 0));
    }

    #[test]
    fn no_tests_are_no_success() -> Result<()> {
        assert!(matches!(some_of("x", Passed("0 tests".into()))?, Skipped { .. }));
        assert_eq!(some_of("x", Passed("10 tests".into()))?, Passed("10 tests".into()));
        Ok(())
    }

    #[test]
    fn a_failing_command_is_a_failure_and_its_output_is_kept() -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let (ok, text) = echo(&mut command, |_| false)?;
        assert!(!ok && text.contains("out") && text.contains("err"));
        assert!(matches!(counted(&mut command)?, Failed(_)));
        Ok(())
    }
}
