//! What a test needs of the machine, and the honest way to skip.

use std::fmt;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::bins::binary;
use crate::command::Cmd;

/// Something a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be root: namespaces and devices are made.
    Root,
    /// `/dev/net/tun`.
    Tun,
    /// A program in `PATH`, and the Debian package that has it.
    Program(&'static str, &'static str),
    /// The built `vswitchd` and `vswitch-ctl`.
    Binaries,
    /// A `vswitchd` that was built with DPDK.
    Dpdk,
}

impl Need {
    /// What a guest needs.
    pub const GUEST: &[Self] = &[
        Self::Root,
        Self::Tun,
        Self::Program("qemu-system-x86_64", "qemu-system-x86"),
        Self::Program("busybox", "busybox-static"),
        Self::Program("iperf3", "iperf3"),
    ];

    /// Why it is not there, or `None` if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root if !nix::unistd::geteuid().is_root() => Some("not root".to_owned()),
            Self::Tun if !Path::new("/dev/net/tun").exists() => Some("no /dev/net/tun".to_owned()),
            Self::Program(program, package) if !in_path(program) => {
                Some(format!("no `{program}`: apt-get install {package}"))
            }
            Self::Binaries => ["vswitchd", "vswitch-ctl"]
                .into_iter()
                .find_map(|b| binary(b).err())
                .map(|e| e.to_string()),
            Self::Dpdk => with_dpdk().err().map(|e| e.to_string()),
            _ => None,
        }
    }
}

/// Fails unless the built daemon has the DPDK datapath in it.
fn with_dpdk() -> Result<()> {
    let version = Cmd::new(binary("vswitchd")?).arg("--version").run()?.ok()?.stdout;
    ensure!(
        version.contains("with DPDK"),
        "vswitchd is built without DPDK: cargo build -p vswitchd --features dpdk"
    );
    Ok(())
}

/// The first of `needs` that is not there.
pub fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| need.missing())
}

/// Reports a skipped test to whoever runs the tests: on standard error and, under
/// `cargo xtask test`, in the file it counts skips from.
///
/// # Panics
/// With `CI=true`: everything a [`Need`] names can be had on a CI machine, so a skip there is a
/// failure.
pub fn skip(test: &str, why: impl fmt::Display) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} would be skipped, which CI must not do: {why}"
    );
    eprintln!("skipped {test}: {why}");
    let Some(path) = std::env::var_os("VSWITCH_SKIPS") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = file.and_then(|mut f| writeln!(f, "{test}: {why}")) {
        eprintln!("cannot record the skip: {error}");
    }
}

/// Ends a test early, as skipped, when one of the [`Need`]s is not there.
///
/// `need!("name_of_test", Need::Root, Need::Tun)`, in a function that returns a `Result<()>`.
#[macro_export]
macro_rules! need {
    ($test:expr, $($need:expr),+ $(,)?) => {
        if let Some(why) = $crate::missing(&[$($need),+]) {
            $crate::skip($test, why);
            return Ok(());
        }
    };
}

fn in_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|d| Path::new(d).join(program).is_file())
}
