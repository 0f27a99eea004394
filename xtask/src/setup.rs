//! What the machine must have, installed with apt where it is missing, saying what and why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use vswitch_e2e::guest::Platform;

use crate::ui::{line, note, show, step};

/// Install what a command needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What it is for.
    #[arg(value_enum, default_value = "test")]
    purpose: Purpose,
}

/// What the packages are for: each purpose includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// Packing a .deb.
    Dist,
    /// The demo.
    Demo,
    /// All tests, and the benchmarks' peers.
    Test,
}

/// How to see that a package is there.
enum Probe {
    /// A program in `PATH`, or in the directories of root's.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// A file in a directory whose name begins so, such as `libclang-14.so.1`.
    Like(&'static str, &'static str),
}

struct Package {
    name: &'static str,
    probe: Probe,
    purpose: Purpose,
    why: &'static str,
}

const fn package(name: &'static str, probe: Probe, purpose: Purpose, why: &'static str) -> Package {
    Package { name, probe, purpose, why }
}

use Probe::{File, Like, Program};
use Purpose::{Demo, Dist, Test};

const LIB: &str = "/usr/lib/x86_64-linux-gnu";

const PACKAGES: &[Package] = &[
    package("binutils", Program("strip"), Dist, "strips the programs that are packed"),
    package("iproute2", Program("ip"), Demo, "makes network namespaces and addresses"),
    package("iputils-ping", Program("ping"), Demo, "shows who reaches whom"),
    package("iperf3", Program("iperf3"), Demo, "sends TCP at speed"),
    package("qemu-system-x86", Program("qemu-system-x86_64"), Demo, "runs the guest"),
    package("busybox-static", Program("busybox"), Demo, "is the guest's userland"),
    package(
        "ca-certificates",
        File("/etc/ssl/certs/ca-certificates.crt"),
        Demo,
        "checks downloads",
    ),
    package("kmod", Program("modprobe"), Demo, "loads the tun driver"),
    package("procps", Program("sysctl"), Test, "sets up namespaces"),
    package("ethtool", Program("ethtool"), Test, "switches offloads off in tests"),
    package("tcpdump", Program("tcpdump"), Test, "captures what arrives"),
    package("tmux", Program("tmux"), Test, "is the terminal that vswitch-ctl top is tested on"),
    package("tshark", Program("tshark"), Test, "decodes what the switch emits"),
    package("nfdump", Program("nfcapd"), Test, "collects flows of IPFIX"),
    package("nfdump-sflow", Program("sfcapd"), Test, "collects samples of sFlow"),
    package("nftables", Program("nft"), Test, "silences the host's stack on older kernels"),
    package("valgrind", Program("valgrind"), Test, "counts instructions per frame"),
    package("pkg-config", Program("pkg-config"), Dist, "finds DPDK"),
    package("libdpdk-dev", File("/usr/include/dpdk/rte_ethdev.h"), Dist, "is DPDK's library"),
    package("libclang-dev", Like(LIB, "libclang-1"), Dist, "reads DPDK's headers for the bindings"),
    package(
        "openvswitch-switch",
        Program("ovs-vswitchd"),
        Test,
        "is a switch to compare with, and a peer of tunnels",
    ),
    package(
        "openvswitch-switch-dpdk",
        File("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"),
        Test,
        "is a switch on DPDK to compare with",
    ),
    package("vde2", Program("vde_switch"), Test, "is a switch on TAPs to compare with"),
    package("dpdk-dev", Program("dpdk-testpmd"), Test, "has testpmd, to compare with"),
    package("gcc", Program("cc"), Test, "compiles the benchmark's ports"),
    package("util-linux", Program("chrt"), Test, "binds programs to CPUs and sets priorities"),
    package("wireguard-tools", Program("wg"), Test, "encrypts the underlay in a guest"),
];

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    ensure_packages(args.purpose)?;
    if args.purpose >= Demo {
        ensure_tun()?;
        ensure_image(Platform::Virtual)?;
    }
    if args.purpose >= Test {
        ensure_image(Platform::SrIov)?;
    }
    println!("This machine has what it needs.");
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing.
pub(crate) fn ensure_packages(purpose: Purpose) -> Result<()> {
    let missing: Vec<&Package> =
        PACKAGES.iter().filter(|p| p.purpose <= purpose && !p.probe.found()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step("Installing what is missing");
    for p in &missing {
        note(&format!("{:<20} {}", p.name, p.why));
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
    ensure!(
        Probe::Program("apt-get").found(),
        "this is not Debian or a relative of it (no apt-get): install these yourself: {}",
        names.join(" ")
    );
    // Some packages start a service when installed: what was not running stays not running.
    let _quiet = NoServices::new(&names)?;
    if !lists_are_there() {
        show(&mut apt(&["update"])?)?;
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&names);
    if show(&mut apt(&install)?).is_err() {
        note("apt-get failed: its package lists may be old. Once more, with new ones.");
        show(&mut apt(&["update"])?)?;
        show(&mut apt(&install)?)?;
    }
    if names.contains(&"openvswitch-switch") && Path::new("/run/systemd/system").exists() {
        show(&mut as_root(&["systemctl", "disable", "--quiet", "openvswitch-switch"])?)?;
    }
    let still: Vec<&str> = missing.iter().filter(|p| !p.probe.found()).map(|p| p.name).collect();
    ensure!(still.is_empty(), "installed, but not to be found: {}", still.join(" "));
    Ok(())
}

/// Makes sure that `/dev/net/tun` is there.
pub(crate) fn ensure_tun() -> Result<()> {
    let device = Path::new("/dev/net/tun");
    if device.exists() {
        return Ok(());
    }
    step("Making /dev/net/tun");
    // Where the driver is built in there is nothing to load: only the node's absence counts.
    let _ = as_root(&["modprobe", "tun"])?.status();
    if !device.exists() {
        show(&mut as_root(&["mkdir", "-p", "/dev/net"])?)?;
        show(&mut as_root(&["mknod", "-m", "0666", "/dev/net/tun", "c", "10", "200"])?)?;
    }
    fs::File::options().read(true).write(true).open(device).map(drop).context(
        "/dev/net/tun does not open. The kernel lacks the tun driver, or this is a container \
         without it: start the container with `--device /dev/net/tun --cap-add NET_ADMIN`",
    )
}

/// Makes sure that a guest can be booted: downloads its kernel, and its emulator, once.
pub(crate) fn ensure_image(platform: Platform) -> Result<()> {
    if !lists_are_there() {
        show(&mut apt(&["update"])?)?;
    }
    vswitch_e2e::guest::ensure_image(platform, &note)?;
    Ok(())
}

/// Fails with the command to type when this is not root.
pub(crate) fn ensure_root(what: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    bail!(
        "{what} makes network namespaces and devices, which only root may. Run:\n  \
         sudo -E env \"PATH=$PATH\" cargo xtask {}",
        words.join(" ")
    )
}

impl Probe {
    fn found(&self) -> bool {
        match self {
            Self::Program(name) => {
                let path = std::env::var("PATH").unwrap_or_default();
                path.split(':')
                    .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
                    .any(|dir| Path::new(dir).join(name).is_file())
            }
            Self::File(path) => Path::new(path).exists(),
            Self::Like(dir, start) => fs::read_dir(dir).is_ok_and(|mut entries| {
                entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with(start)))
            }),
        }
    }
}

fn lists_are_there() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut entries| {
        entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().contains("_Packages")))
    })
}

fn apt(args: &[&str]) -> Result<Command> {
    let mut words =
        vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "Dpkg::Use-Pty=0"];
    words.extend(args);
    as_root(&words)
}

/// A command run as root: as it is, or through sudo.
fn as_root(words: &[&str]) -> Result<Command> {
    let root = nix::unistd::geteuid().is_root();
    if !root && !Program("sudo").found() {
        bail!("this needs root, and there is no sudo here. As root, run:\n  {}", words.join(" "));
    }
    let words = if root { words.to_vec() } else { [&["sudo"], words].concat() };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    note(&format!("$ {}", line(&command)));
    Ok(command)
}

/// While it lives, packages being installed start no service (policy-rc.d, Debian Policy 9.3.3.1).
struct NoServices(bool);

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new(packages: &[&str]) -> Result<Self> {
        let ours = packages.iter().any(|p| p.starts_with("openvswitch-switch"))
            && !Path::new(POLICY).exists();
        if ours {
            let script = std::env::temp_dir().join(format!("policy-rc.d-{}", std::process::id()));
            fs::write(
                &script,
                "#!/bin/sh\n# Written by cargo xtask, for one installation.\nexit 101\n",
            )?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
            let path = script.to_string_lossy().into_owned();
            let moved = as_root(&["install", "-m", "0755", &path, POLICY])
                .and_then(|mut command| show(&mut command));
            fs::remove_file(&script)?;
            moved?;
        }
        Ok(Self(ours))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            let removed = as_root(&["rm", "-f", POLICY]).and_then(|mut c| show(&mut c));
            if let Err(error) = removed {
                eprintln!("error: {POLICY} is left behind and must be removed: {error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_says_why_and_is_named_once() {
        for (i, p) in PACKAGES.iter().enumerate() {
            assert!(!p.why.is_empty() && !p.why.ends_with('.'), "{}", p.name);
            assert!(PACKAGES[..i].iter().all(|q| q.name != p.name), "{} twice", p.name);
        }
    }

    #[test]
    fn probes_tell_what_is_there_from_what_is_not() {
        assert!(Program("sh").found() && !Program("no-such-program").found());
        assert!(File("/etc/passwd").found() && !File("/no/such/file").found());
        assert!(Like("/etc", "passw").found() && !Like("/etc", "no-such").found());
        assert!(!Like("/no/such/directory", "x").found());
    }
}
