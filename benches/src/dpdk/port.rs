//! The library of sources and sinks: built, and put under a program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use vswitch_e2e::Cmd;

/// The variable that tells the library where the control file is.
pub const VARIABLE: &str = "VSWITCH_BENCH_PORTS";

/// Compiles `port.c` into `dir`, for this machine's processor and libdpdk.
///
/// # Errors
/// There is no C compiler or no libdpdk; the message names the package.
pub fn build(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (dir.join("port.c"), dir.join("port.so"));
    std::fs::write(&source, include_str!("port.c"))?;
    let flags = Cmd::new("pkg-config").args(["--cflags", "libdpdk"]).run();
    let flags = flags.and_then(vswitch_e2e::Output::ok).context(
        "libdpdk's headers are not to be found: `apt-get install libdpdk-dev pkg-config`",
    )?;
    Cmd::new("cc")
        .args(["-O3", "-march=native", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"])
        .args(flags.stdout.split_whitespace())
        .arg(source.display())
        .args(["-o", &library.display().to_string()])
        .args(["-Wl,--as-needed", "-lrte_ethdev", "-lrte_mbuf", "-lrte_mempool", "-lrte_eal"])
        .run()
        .and_then(vswitch_e2e::Output::ok)
        .context("the benchmark's ports do not compile (`apt-get install gcc`)")?;
    Ok(library)
}

/// The words in front of a program's that put the library under it.
pub fn under(library: &Path, control: &Path) -> Vec<String> {
    vec![
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("{VARIABLE}={}", control.display()),
    ]
}
