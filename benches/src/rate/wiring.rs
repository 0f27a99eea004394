//! What lies between the generator and the switch.
//!
//! Unless PCI devices or vdevs are named, ports are pairs of memif, shared memory between two
//! processes, and those of the kernel's bridge are veth pairs with a packet socket at the generator's
//! end. The same kind of pair without a switch in it tells what the generator reaches by itself.

use std::path::Path;

use anyhow::{Result, ensure};
use vswitch_e2e::{Netns, run};

/// Names of the ports' ends.
#[derive(Debug)]
pub struct Wiring {
    /// The generator's ends, as DPDK takes them.
    pub generator: Vec<String>,
    /// The switch's ends, as it takes them.
    pub switch: Vec<String>,
    /// Both ends of pairs without a switch, as many as there are pairs of ports.
    pub looped: Vec<String>,
    /// What those are, in words.
    pub kind: &'static str,
    veths: Veths,
    home: Option<Netns>,
}

impl Wiring {
    /// Pairs of memif whose socket is in `dir`, for frames of up to `largest` bytes: one that takes two of
    /// its buffers may come twice (seen with DPDK 22.11).
    pub fn memif(dir: &Path, ports: usize, largest: u16) -> Self {
        let buffer = if largest > 2000 { 9344 } else { 2048 };
        let socket = dir.join("memif.sock");
        let end = |n: usize, id: usize, role: &str| {
            format!(
                "net_memif{n},role={role},id={id},socket={},socket-abstract=no,bsize={buffer}",
                socket.display()
            )
        };
        let pairs = (0..ports / 2).map(|pair| 1000 + 2 * pair);
        Self {
            generator: (0..ports).map(|n| end(n, n, "server")).collect(),
            switch: (0..ports).map(|n| end(n, n, "client")).collect(),
            looped: pairs.flat_map(|n| [end(n, n, "server"), end(n + 1, n, "client")]).collect(),
            kind: "memif",
            veths: Veths::default(),
            home: None,
        }
    }

    /// Ports whose sources and sinks are in the switch's process: see `inproc`.
    pub fn inside(ports: usize) -> Self {
        Self {
            generator: Vec::new(),
            switch: (0..ports).map(|n| format!("net_null{n}")).collect(),
            looped: Vec::new(),
            kind: "sources and sinks in the switch's process",
            veths: Veths::default(),
            home: None,
        }
    }

    /// Ports that somebody named. Those that are looped are memif: nobody can put a cable from here.
    pub fn named(generator: Vec<String>, switch: Vec<String>, dir: &Path, largest: u16) -> Self {
        let ports = generator.len();
        let kind = "memif (nobody can put a cable between the named ports from here)";
        Self { generator, switch, kind, ..Self::memif(dir, ports, largest) }
    }

    /// Pairs of veth; the switch's ends are in a namespace of their own.
    ///
    /// # Errors
    /// This is not root, or the kernel has no veth.
    pub fn veth(ports: usize) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the kernel's bridge needs veth devices, and only root makes those: use sudo"
        );
        let home = Netns::new("rate")?;
        let id = std::process::id();
        let mut wiring = Self {
            generator: Vec::new(),
            switch: Vec::new(),
            looped: Vec::new(),
            kind: "veth and packet sockets",
            veths: Veths::default(),
            home: None,
        };
        for n in 0..ports {
            let (near, far) = (format!("vb{id}g{n}"), format!("vb{id}s{n}"));
            wiring.pair(&near, &far)?;
            quiet(&near)?;
            run(&format!("ip link set {far} netns {}", home.name()))?;
            wiring.generator.push(packet_socket(n, &near));
            wiring.switch.push(far);
        }
        for n in (0..ports).step_by(2) {
            let ends = [format!("vb{id}a{n}"), format!("vb{id}b{n}")];
            wiring.pair(&ends[0], &ends[1])?;
            for (end, name) in ends.iter().enumerate() {
                quiet(name)?;
                wiring.looped.push(packet_socket(1000 + n + end, name));
            }
        }
        wiring.home = Some(home);
        Ok(wiring)
    }

    /// Where the switch's ends are, if they are in a namespace.
    pub fn home(&self) -> Option<&Netns> {
        self.home.as_ref()
    }

    fn pair(&mut self, near: &str, far: &str) -> Result<()> {
        run(&format!("ip link add {near} type veth peer name {far}"))?;
        self.veths.0.push(near.to_owned());
        Ok(())
    }
}

/// Whether a device is a PCI address and no vdev.
pub(super) fn pci(devargs: &str) -> bool {
    devargs.split(',').next().is_some_and(|name| name.contains(':'))
}

/// Looks for the PCI device that is named, and at who drives it; vdevs are made when they are opened.
///
/// # Errors
/// It is not there, or the kernel has it.
pub fn present(devargs: &str) -> Result<()> {
    /// Drivers for programs, and those that share with the kernel.
    const FREE: [&str; 5] = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core"];
    if !pci(devargs) {
        return Ok(());
    }
    let mut address = devargs.split(',').next().unwrap_or_default().to_owned();
    if address.matches(':').count() == 1 {
        address.insert_str(0, "0000:");
    }
    let device = Path::new("/sys/bus/pci/devices").join(&address);
    ensure!(
        device.exists(),
        "there is no PCI device {address} (port {devargs}): `lspci -D` lists them, and VFs have to be \
         made first (docs/sr-iov.md)"
    );
    let driver = std::fs::read_link(device.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    ensure!(
        FREE.contains(&&*driver),
        "the PCI device {address} {}: DPDK takes one from vfio-pci, `driverctl set-override {address} \
         vfio-pci` (docs/sr-iov.md)",
        match &*driver {
            "" => "has no driver".to_owned(),
            driver => format!("is with the kernel's driver {driver}"),
        }
    );
    Ok(())
}

/// Devices to be deleted in the end, by one end of each.
#[derive(Debug, Default)]
struct Veths(Vec<String>);

impl Drop for Veths {
    fn drop(&mut self) {
        for veth in &self.0 {
            if let Err(error) = run(&format!("ip link del {veth}")) {
                eprintln!("{veth} is left: {error:#}");
            }
        }
    }
}

fn packet_socket(n: usize, device: &str) -> String {
    format!("net_af_packet{n},iface={device}")
}

/// A device that the host's own stack does not speak through.
fn quiet(device: &str) -> Result<()> {
    // No router is looked for before it is up.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").ok();
    run(&format!("ip link set {device} up arp off")).map(drop)
}
