//! The door to benches/: criterion for the core, programs for everything that needs a system.

use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{Purpose, ensure_packages, ensure_tun};
use crate::ui::{build_switch, cargo, has_libdpdk, root, show, step};

/// The program that drives switches from outside: known by what it measures, and named for those who
/// start it by itself.
const RATE: (&str, &str) = ("rate", "vswitch-bench");

/// Run a benchmark.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which: `core` is criterion's; others are programs of benches/src/bin. None lists them.
    name: Option<String>,
    /// Handed to the benchmark.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let (micro, mut programs) = (list("benches/benches"), list("benches/src/bin"));
    programs.iter_mut().filter(|p| *p == RATE.1).for_each(|p| RATE.0.clone_into(p));
    let Some(name) = args.name.as_deref() else {
        for name in micro.iter().chain(&programs) {
            println!("cargo xtask bench {name}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    if micro.iter().any(|m| m == name) {
        step(&format!("Measuring {name}"));
        show(
            cargo().args(["bench", "-p", "vswitch-bench", "--bench", name, "--"]).args(&args.rest),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(
        programs.iter().any(|p| p == name),
        "no benchmark {name}; there are: {}",
        micro.into_iter().chain(programs).collect::<Vec<_>>().join(", ")
    );
    ensure_packages(Purpose::Test)?;
    ensure_tun()?;
    step("Building a release");
    show(&mut build_switch(true))?;
    step(&format!("Measuring {name}"));
    let mut program = cargo();
    program.args(["run", "--release", "-p", "vswitch-bench", "--bin"]);
    if name == RATE.0 {
        anyhow::ensure!(
            has_libdpdk(),
            "this benchmark needs DPDK: apt-get install libdpdk-dev libclang-dev pkg-config"
        );
        program.args([RATE.1, "--features", "vswitch-bench/dpdk"]);
    } else {
        program.arg(name);
    }
    show(program.arg("--").args(&args.rest))?;
    Ok(ExitCode::SUCCESS)
}

/// The names of the Rust files of a directory.
fn list(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(dir)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|e| e.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    names
}
