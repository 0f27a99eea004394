//! The guest's kernel and first file system, made from packages of the machine's distribution.
//!
//! The kernel package is downloaded and unpacked, never installed: the machine's own boot is not
//! touched. So is the emulator of [`Platform::SrIov`]: it would replace the machine's own. Programs
//! come from the machine itself, with the libraries `ldd` names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use super::cpio::Archive;
use super::package::{Source, unpack};
use crate::bins::target_dir;
use crate::command::{Cmd, run};

/// What kind of machine a guest is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Platform {
    /// The installed QEMU and Debian's smallest kernel: virtio, bridge with VLAN filtering and the
    /// overlays are modules.
    #[default]
    Virtual,
    /// A PC with an IOMMU, whose NICs may have virtual functions ([`Backend::Igb`]): QEMU 10 from
    /// Debian's backports, as the first with that NIC is 8.0, and Debian's full kernel. DPDK's
    /// drivers of the machine are in its file system.
    ///
    /// [`Backend::Igb`]: super::Backend::Igb
    SrIov,
}

impl Platform {
    /// Where its files lie below `guest/`, and how its kernel's package is called.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Virtual => ("", "linux-image-cloud-amd64"),
            Self::SrIov => ("sriov", "linux-image-amd64"),
        }
    }

    fn modules(self) -> Vec<&'static str> {
        let more: &[&str] = match self {
            Self::Virtual => &[],
            Self::SrIov => &["igb", "vfio_iommu_type1", "vfio_pci"],
        };
        [MODULES, more].concat()
    }
}

/// Modules in the image, each with what it depends on; names as files have them.
const MODULES: &[&str] = &[
    "8021q",
    "act_mirred",
    "af_packet_diag",
    "bonding",
    "bridge",
    "br_netfilter",
    "cls_flower",
    "cls_matchall",
    "ctr",
    "drbg",
    "dummy",
    "esp4",
    "esp6",
    "gcm",
    "geneve",
    "ghash_generic",
    "ip6_gre",
    "ip6_udp_tunnel",
    "ip_gre",
    "jitterentropy_rng",
    "macvlan",
    "nf_tables",
    "openvswitch",
    "sch_ingress",
    "sch_netem",
    "seqiv",
    "tun",
    "udp_tunnel",
    "veth",
    "virtio_console",
    "virtio_net",
    "virtio_pci",
    "vrf",
    "vxlan",
    "wireguard",
    "xfrm_user",
];

/// Programs in the image, and whether the image can do without.
const PROGRAMS: &[(&str, bool)] = &[
    // busybox's shell would take its own `ip`, `tc` and `ping` before those of the image.
    ("dash", true),
    ("ping", true),
    ("ip", true),
    ("bridge", true),
    ("tc", true),
    ("iperf3", true),
    ("ethtool", false),
    ("tcpdump", false),
    ("wg", false),
];

const INIT: &str = include_str!("init.sh");

/// DPDK's drivers in the file system of [`Platform::SrIov`], from where the EAL looks for them: for
/// the pool of buffers, the VFs, and what `vswitch-bench` compares them with. Their buses come with the
/// libraries they need.
const DRIVERS: &[&str] = &["librte_mempool_ring.so", "librte_net_e1000.so", "librte_net_memif.so"];

/// Where the machine has them: a directory for each version of DPDK's binary interface.
const DRIVERS_IN: &str = "/usr/lib/x86_64-linux-gnu/dpdk";

/// The emulator of [`Platform::SrIov`], with its devices' ROMs.
const EMULATOR: [&str; 4] =
    ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// What QEMU boots.
#[derive(Clone, Debug)]
pub struct Image {
    /// The compressed kernel.
    pub kernel: PathBuf,
    /// The first file system.
    pub initramfs: PathBuf,
    /// The root of the emulator's packages; `None` is the installed one.
    pub emulator: Option<PathBuf>,
}

/// Finds or makes the image, in `guest/` of cargo's target directory. `progress` is told what
/// takes long.
///
/// # Errors
/// A program or package is missing (the message says which), or the download failed.
pub fn ensure_image(platform: Platform, progress: &dyn Fn(&str)) -> Result<Image> {
    ensure!(cfg!(target_arch = "x86_64"), "the guest is an x86-64 machine: no image for this one");
    let (place, package) = platform.place();
    let dir = target_dir()?.join("guest").join(place);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Tests in several processes may come here at once: one builds, the others wait.
    let lock = File::create(dir.join("lock")).context("cannot make the image's lock")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("cannot lock the guest image")?;

    let root = ensure_kernel(&dir, package, progress)?;
    let emulator = match platform {
        Platform::Virtual => None,
        Platform::SrIov => Some(ensure_emulator(&dir, progress)?),
    };
    let version = kernel_version(&root)?;
    let kernel = root.join(format!("boot/vmlinuz-{version}"));
    let initramfs = dir.join("initramfs.cpio");
    let inputs = describe_inputs(platform, &version)?;
    let stamp = dir.join("initramfs.inputs");
    if !initramfs.is_file() || fs::read_to_string(&stamp).ok().as_deref() != Some(&inputs) {
        progress("building the guest's file system (once)");
        write_initramfs(platform, &root, &version, &initramfs)?;
        fs::write(&stamp, inputs).context("cannot write the image's stamp")?;
    }
    Ok(Image { kernel, initramfs, emulator })
}

/// The unpacked root of the kernel that `meta`, a package without files, depends on.
fn ensure_kernel(dir: &Path, meta: &str, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let root = dir.join("kernel");
    let what = || {
        progress("downloading the guest's kernel (unpacked into target/guest, not installed)");
        let depends = Cmd::new("apt-cache").args(["depends", meta]).run()?;
        let package = depends
            .stdout
            .lines()
            .filter_map(|l| l.trim().strip_prefix("Depends: "))
            .find(|p| p.starts_with("linux-image-"))
            .with_context(|| {
                format!("apt does not know {meta}: run `apt-get update` first\n{depends}")
            })?;
        Ok((Source::Configured, vec![package.to_owned()]))
    };
    unpack(&root, what, |fresh| {
        // A package that is not installed has no modules.dep yet.
        let version = kernel_version(fresh)?;
        run(&format!("busybox depmod -b {} {version}", fresh.display())).map(drop)
    })?;
    Ok(root)
}

fn ensure_emulator(dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let root = dir.join("emulator");
    let what = || {
        progress("downloading QEMU 10 (14 MB, unpacked into target/guest, not installed)");
        Ok((Source::Backports, EMULATOR.map(str::to_owned).to_vec()))
    };
    unpack(&root, what, |_| Ok(()))?;
    Ok(root)
}

fn kernel_version(root: &Path) -> Result<String> {
    let modules = root.join("lib/modules");
    let mut entries =
        fs::read_dir(&modules).with_context(|| format!("cannot read {}", modules.display()))?;
    let entry = entries.next().context("the kernel package holds no modules")??;
    entry.file_name().into_string().ok().context("the kernel's version is not UTF-8")
}

/// Everything the image is made from: when this text changes, the image is made anew.
fn describe_inputs(platform: Platform, version: &str) -> Result<String> {
    let mut inputs = format!("kernel {version}\nmodules {:?}\n{INIT}\n", platform.modules());
    let programs = PROGRAMS.iter().map(|(name, _)| *name).chain(["busybox"]);
    for path in programs.filter_map(which).chain(drivers(platform)?) {
        let meta = fs::metadata(&path)?;
        inputs.push_str(&format!("{} {} {:?}\n", path.display(), meta.len(), meta.modified()?));
    }
    Ok(inputs)
}

/// DPDK's drivers for a guest, as this machine has them.
fn drivers(platform: Platform) -> Result<Vec<PathBuf>> {
    if platform == Platform::Virtual {
        return Ok(Vec::new());
    }
    let missing = || format!("no DPDK drivers in {DRIVERS_IN}: install librte-meta-net");
    let mut versions = fs::read_dir(DRIVERS_IN).with_context(missing)?;
    let dir = versions.next().with_context(missing)??.path();
    DRIVERS
        .iter()
        .map(|driver| {
            let path = dir.join(driver);
            ensure!(path.is_file(), "no {}: install librte-meta-net", path.display());
            Ok(path)
        })
        .collect()
}

fn which(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

fn write_initramfs(platform: Platform, root: &Path, version: &str, path: &Path) -> Result<()> {
    let fresh = path.with_extension("new");
    let out = BufWriter::new(File::create(&fresh).context("cannot create the initramfs")?);
    let mut archive = Archive::new(out);
    for dir in ["/dev", "/proc", "/sys", "/tmp", "/run", "/usr/sbin", "/usr/bin", "/sbin"] {
        archive.directory(dir)?;
    }
    // The kernel opens it as the first process's standard streams, before any mount.
    archive.character("/dev/console", (5, 1))?;
    archive.file("/init", true, INIT.as_bytes())?;
    archive.file("/etc/passwd", false, b"root:x:0:0:root:/:/bin/sh\n")?;
    archive.file("/etc/group", false, b"root:x:0:\n")?;

    add_programs(&mut archive)?;
    for driver in drivers(platform)? {
        add_driver(&mut archive, &driver)?;
    }
    add_modules(&mut archive, &platform.modules(), root, version)?;
    archive.finish()?;
    fs::rename(&fresh, path).context("cannot move the initramfs into place")
}

/// The image and these programs of the machine, without their debugging symbols, as
/// `dir/initramfs.cpio`: the kernel unpacks one archive after the other.
///
/// # Errors
/// A program is not there or cannot be stripped, or the disk is full.
pub(super) fn with_programs(image: Image, programs: &[PathBuf], dir: &Path) -> Result<Image> {
    if programs.is_empty() {
        return Ok(image);
    }
    let initramfs = dir.join("initramfs.cpio");
    fs::copy(&image.initramfs, &initramfs).context("cannot copy the guest's file system")?;
    let out = File::options().append(true).open(&initramfs)?;
    let mut archive = Archive::new(BufWriter::new(out));
    for program in programs {
        let name = program.file_name().and_then(|n| n.to_str()).context("a program has a name")?;
        let stripped = dir.join(name);
        Cmd::new("strip").arg("-o").args([stripped.display(), program.display()]).run()?.ok()?;
        add_program(&mut archive, name, &stripped)?;
        fs::remove_file(&stripped)?;
    }
    archive.finish()?;
    Ok(Image { initramfs, ..image })
}

fn add_programs(archive: &mut Archive<BufWriter<File>>) -> Result<()> {
    for (program, needed) in PROGRAMS {
        match which(program) {
            Some(path) => add_program(archive, program, &path)?,
            None if *needed => bail!("`{program}` is missing, which the guest image needs"),
            None => {}
        }
    }
    let busybox = which("busybox").context("`busybox` is missing: install busybox-static")?;
    let libraries = Cmd::new("ldd").arg(busybox.display()).run()?;
    ensure!(!libraries.success(), "busybox is not static: install busybox-static");
    archive.file("/bin/busybox", true, &fs::read(&busybox)?)?;
    archive.symlink("/bin/sh", "/usr/bin/dash")?;
    // The applets come last: a program of its own, where there is one, is better than an applet.
    for applet in run("busybox --list")?.stdout.lines() {
        let taken = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| archive.contains(&format!("{dir}/{applet}")));
        if !taken {
            archive.symlink(&format!("/bin/{applet}"), "/bin/busybox")?;
        }
    }
    // The kernel calls this path when a module is wanted.
    archive.symlink("/sbin/modprobe", "/bin/busybox")?;
    Ok(())
}

fn add_program(archive: &mut Archive<BufWriter<File>>, program: &str, path: &Path) -> Result<()> {
    archive.file(&format!("/usr/bin/{program}"), true, &fs::read(path)?)?;
    add_libraries(archive, path)
}

/// A driver of DPDK's, as a link to the one copy that `ldd` would name: the EAL loads what lies in
/// its directory, and ends when a driver registers twice.
fn add_driver(archive: &mut Archive<BufWriter<File>>, path: &Path) -> Result<()> {
    let soname = fs::read_link(path).with_context(|| format!("{} is no link", path.display()))?;
    let library = Path::new("/lib/x86_64-linux-gnu").join(soname);
    let (link, library) = (path.display().to_string(), library.display().to_string());
    if !archive.contains(&library) {
        archive.file(&library, true, &fs::read(path)?)?;
    }
    archive.symlink(&link, &library)?;
    add_libraries(archive, path)
}

/// What a program or a library is linked to.
fn add_libraries(archive: &mut Archive<BufWriter<File>>, path: &Path) -> Result<()> {
    for word in run(&format!("ldd {}", path.display()))?.stdout.split_whitespace() {
        // "libz.so.1 => /lib/…/libz.so.1 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)"
        if word.starts_with('/') && !archive.contains(word) {
            archive.file(word, true, &fs::read(word)?)?;
        }
    }
    Ok(())
}

/// A module's name, in which the kernel takes `-` for `_`.
fn stem(path: &str) -> String {
    let name = Path::new(path).file_stem().unwrap_or_default();
    name.to_string_lossy().replace('-', "_")
}

fn add_modules(
    archive: &mut Archive<BufWriter<File>>,
    modules: &[&str],
    root: &Path,
    version: &str,
) -> Result<()> {
    let inside = format!("/lib/modules/{version}");
    let dir = root.join(inside.trim_start_matches('/'));
    let dep = fs::read_to_string(dir.join("modules.dep")).context("cannot read modules.dep")?;
    let deps: BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();

    let mut wanted = BTreeSet::new();
    let mut queue: Vec<&str> = modules
        .iter()
        .filter_map(|name| deps.keys().find(|path| stem(path) == *name))
        .copied()
        .collect();
    while let Some(path) = queue.pop() {
        if wanted.insert(path) {
            queue.extend(deps.get(path).into_iter().flatten());
        }
    }
    ensure!(
        wanted.iter().any(|path| path.ends_with("/virtio_net.ko")),
        "the kernel package has no virtio_net module"
    );
    for path in &wanted {
        let content = fs::read(dir.join(path)).with_context(|| format!("cannot read {path}"))?;
        archive.file(&format!("{inside}/{path}"), false, &content)?;
    }
    let kept: String = dep
        .lines()
        .filter(|line| line.split_once(':').is_some_and(|(m, _)| wanted.contains(m)))
        .flat_map(|line| [line, "\n"])
        .collect();
    archive.file(&format!("{inside}/modules.dep"), false, kept.as_bytes())?;

    // "alias rtnl-link-vxlan vxlan": lets `ip link add type vxlan` load the module.
    let stems: BTreeSet<String> = wanted.iter().map(|path| stem(path)).collect();
    let aliases: String = fs::read_to_string(dir.join("modules.alias"))
        .context("cannot read modules.alias")?
        .lines()
        .filter(|l| {
            l.split_whitespace().nth(2).is_some_and(|m| stems.contains(&m.replace('-', "_")))
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    archive.file(&format!("{inside}/modules.alias"), false, aliases.as_bytes())?;
    Ok(())
}
