//! The guest's kernel and first file system, made from packages of the machine's distribution.
//!
//! The kernel package is downloaded and unpacked, never installed: the machine's own boot is not
//! touched. Programs come from the machine itself, with the libraries `ldd` names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use super::cpio::Archive;
use crate::bins::target_dir;
use crate::command::{Cmd, run};

/// Debian's smallest kernel: virtio, bridge with VLAN filtering and the overlays are modules.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

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

/// What QEMU boots.
#[derive(Clone, Debug)]
pub struct Image {
    /// The compressed kernel.
    pub kernel: PathBuf,
    /// The first file system.
    pub initramfs: PathBuf,
}

/// Finds or makes the image, in `guest/` of cargo's target directory. `progress` is told what
/// takes long.
///
/// # Errors
/// A program or package is missing (the message says which), or the download failed.
pub fn ensure_image(progress: &dyn Fn(&str)) -> Result<Image> {
    let dir = target_dir()?.join("guest");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Tests in several processes may come here at once: one builds, the others wait.
    let lock = File::create(dir.join("lock")).context("cannot make the image's lock")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("cannot lock the guest image")?;

    let root = ensure_kernel(&dir, progress)?;
    let version = kernel_version(&root)?;
    let kernel = root.join(format!("boot/vmlinuz-{version}"));
    let initramfs = dir.join("initramfs.cpio");
    let inputs = describe_inputs(&version)?;
    let stamp = dir.join("initramfs.inputs");
    if !initramfs.is_file() || fs::read_to_string(&stamp).ok().as_deref() != Some(&inputs) {
        progress("building the guest's file system (once)");
        write_initramfs(&root, &version, &initramfs)?;
        fs::write(&stamp, inputs).context("cannot write the image's stamp")?;
    }
    Ok(Image { kernel, initramfs })
}

/// Downloads and unpacks the kernel package unless that was done before. The unpacked root.
fn ensure_kernel(dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    ensure!(cfg!(target_arch = "x86_64"), "the guest is an x86-64 machine: no image for this one");
    let root = dir.join("kernel");
    if root.join("complete").is_file() {
        return Ok(root);
    }
    progress("downloading the guest's kernel (27 MB, unpacked into target/guest, not installed)");
    let depends = Cmd::new("apt-cache").args(["depends", KERNEL_PACKAGE]).run()?;
    let package = depends
        .stdout
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .find(|p| p.starts_with("linux-image-"))
        .with_context(|| {
            format!("apt does not know {KERNEL_PACKAGE}: run `apt-get update` first\n{depends}")
        })?
        .to_owned();
    let fresh = dir.join("kernel.new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).context("cannot make a directory for the kernel")?;
    // The sandbox user of apt cannot write to the target directory.
    let script = format!(
        "cd '{0}' && apt-get -q -o APT::Sandbox::User=root download {package} && \
         dpkg-deb -x {package}_*.deb . && rm {package}_*.deb",
        fresh.display()
    );
    Cmd::new("sh")
        .args(["-c", &script])
        .limit(Duration::from_secs(600))
        .run()?
        .ok()
        .context("cannot download the guest's kernel (`apt-get update` may help)")?;
    // A package that is not installed has no modules.dep yet.
    let version = kernel_version(&fresh)?;
    run(&format!("busybox depmod -b {} {version}", fresh.display()))?;
    fs::write(fresh.join("complete"), &package).context("cannot mark the kernel complete")?;
    let _ = fs::remove_dir_all(&root);
    fs::rename(&fresh, &root).context("cannot move the kernel into place")?;
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
fn describe_inputs(version: &str) -> Result<String> {
    let mut inputs = format!("kernel {version}\nmodules {MODULES:?}\n{INIT}\n");
    for program in PROGRAMS.iter().map(|(name, _)| *name).chain(["busybox"]) {
        if let Some(path) = which(program) {
            let meta = fs::metadata(&path)?;
            inputs.push_str(&format!("{program} {} {:?}\n", meta.len(), meta.modified()?));
        }
    }
    Ok(inputs)
}

fn which(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

fn write_initramfs(root: &Path, version: &str, path: &Path) -> Result<()> {
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
    add_modules(&mut archive, root, version)?;
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

fn add_modules(archive: &mut Archive<BufWriter<File>>, root: &Path, version: &str) -> Result<()> {
    let inside = format!("/lib/modules/{version}");
    let dir = root.join(inside.trim_start_matches('/'));
    let dep = fs::read_to_string(dir.join("modules.dep")).context("cannot read modules.dep")?;
    let deps: BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();

    let mut wanted = BTreeSet::new();
    let mut queue: Vec<&str> = MODULES
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
