//! `cargo xtask dist`: a release as a Debian package.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use vswitch_e2e::bins::target_dir;
use vswitch_e2e::{Cmd, run};

use crate::setup::{Purpose, ensure_packages};
use crate::ui::{DPDK_FEATURE, build_switch, cargo, has_libdpdk, note, root, show, step};

const UNIT: &str = include_str!("../deb/vswitchd.service");
const DPDK_CONF: &str = include_str!("../deb/dpdk.conf");
const CONFIG: &str = include_str!("../deb/vswitch.toml");
const POSTINST: &str = include_str!("../deb/postinst");
const PRERM: &str = include_str!("../deb/prerm");
const POSTRM: &str = include_str!("../deb/postrm");

/// Build a release and pack it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pack without optimisation, to look at the package's shape.
    #[arg(long)]
    debug: bool,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    ensure_packages(Purpose::Dist)?;
    let deb = pack(!args.debug)?;
    step("Packed");
    note(&run(&format!("dpkg-deb --info {}", deb.display()))?.stdout);
    note(&format!("install it with: apt-get install {}", deb.display()));
    Ok(ExitCode::SUCCESS)
}

/// Builds, lays the files out and packs them. The package.
fn pack(release: bool) -> Result<PathBuf> {
    step("Building vswitchd and vswitch-ctl");
    show(&mut build_switch(release))?;
    let target = target_dir()?;
    let built = target.join(if release { "release" } else { "debug" });

    let version = env!("CARGO_PKG_VERSION");
    let architecture = run("dpkg --print-architecture")?.stdout.trim().to_owned();
    let dist = target.join("dist");
    let tree = Tree { root: dist.join("tree") };
    let _ = fs::remove_dir_all(&tree.root);
    for (name, to) in [("vswitchd", "usr/sbin/vswitchd"), ("vswitch-ctl", "usr/bin/vswitch-ctl")] {
        let path = tree.place(to)?;
        let from = built.join(name);
        // Without symbols, but with the tables a backtrace needs.
        Cmd::new("strip")
            .args(["--strip-debug", "-o"])
            .args([path.display(), from.display()])
            .run()?
            .ok()?;
        mode(&path, 0o755)?;
    }
    tree.write("lib/systemd/system/vswitchd.service", UNIT, 0o644)?;
    tree.write("etc/vswitch/vswitch.toml", CONFIG, 0o644)?;
    let doc = "usr/share/doc/vswitch";
    let of_root = |name: &str| {
        fs::read_to_string(root().join(name)).with_context(|| format!("cannot read {name}"))
    };
    tree.write(&format!("{doc}/copyright"), &of_root("LICENSE")?, 0o644)?;
    tree.write(&format!("{doc}/changelog"), &of_root("CHANGELOG.md")?, 0o644)?;
    tree.write(&format!("{doc}/examples/vswitch.toml"), &of_root("docs/vswitch.toml")?, 0o644)?;
    tree.write(&format!("{doc}/examples/dpdk.conf"), DPDK_CONF, 0o644)?;
    tree.gzip(&format!("{doc}/changelog"))?;
    manuals(&tree, &built)?;
    completions(&tree, &built)?;

    tree.write("DEBIAN/control", &control(version, &architecture, &built)?, 0o644)?;
    tree.write("DEBIAN/conffiles", "/etc/vswitch/vswitch.toml\n", 0o644)?;
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        tree.write(&format!("DEBIAN/{name}"), script, 0o755)?;
    }
    let deb = dist.join(format!("vswitch_{version}_{architecture}.deb"));
    Cmd::new("dpkg-deb")
        .args(["--build", "--root-owner-group"])
        .args([tree.root.display(), deb.display()])
        .run()?
        .ok()?;
    Ok(deb)
}

/// A directory laid out as the package's files will be.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn place(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.join(path);
        let above = path.parent().context("a file in no directory")?;
        fs::create_dir_all(above).with_context(|| format!("cannot make {}", above.display()))?;
        Ok(path)
    }

    fn write(&self, path: &str, text: &str, bits: u32) -> Result<()> {
        let path = self.place(path)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        mode(&path, bits)
    }

    /// Compresses a file in place, without a time in it, so that a rebuild gives the same bytes.
    fn gzip(&self, path: &str) -> Result<()> {
        Cmd::new("gzip")
            .args(["-9", "-n", "-f"])
            .arg(self.root.join(path).display())
            .run()?
            .ok()?;
        Ok(())
    }
}

fn mode(path: &Path, bits: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(bits))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

fn manuals(tree: &Tree, built: &Path) -> Result<()> {
    let out = tree.root.with_extension("man");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out)?;
    Cmd::new(built.join("vswitch-ctl")).args(["man", "--dir"]).arg(out.display()).run()?.ok()?;
    let mut daemons = cargo();
    daemons.args(["run", "--quiet", "-p", "vswitchd", "--example", "man"]);
    if has_libdpdk() {
        // As it was built: else it would be built once more.
        daemons.args(DPDK_FEATURE);
    }
    if built.ends_with("release") {
        daemons.arg("--release");
    }
    let page = daemons.output().context("cannot make vswitchd(8)")?;
    ensure!(page.status.success(), "vswitchd(8): {}", String::from_utf8_lossy(&page.stderr));
    fs::write(out.join("vswitchd.8"), page.stdout)?;
    for entry in fs::read_dir(&out)? {
        let name = entry?.file_name().into_string().ok().context("a manual's name")?;
        let section = name.rsplit('.').next().unwrap_or("1");
        let to = format!("usr/share/man/man{section}/{name}");
        fs::copy(out.join(&name), tree.place(&to)?)?;
        mode(&tree.root.join(&to), 0o644)?;
        tree.gzip(&to)?;
    }
    Ok(())
}

fn completions(tree: &Tree, built: &Path) -> Result<()> {
    for (shell, to) in [
        ("bash", "usr/share/bash-completion/completions/vswitch-ctl"),
        ("zsh", "usr/share/zsh/vendor-completions/_vswitch-ctl"),
        ("fish", "usr/share/fish/vendor_completions.d/vswitch-ctl.fish"),
    ] {
        let said = Cmd::new(built.join("vswitch-ctl")).args(["completion", shell]).run()?.ok()?;
        tree.write(to, &said.stdout, 0o644)?;
    }
    Ok(())
}

fn control(version: &str, architecture: &str, built: &Path) -> Result<String> {
    Ok(format!(
        "Package: vswitch\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: The vswitch authors <vswitch@localhost>\n\
         Section: net\n\
         Priority: optional\n\
         Depends: adduser, {}\n\
         Recommends: {}\n\
         Description: userspace virtual switch\n \
         vswitchd connects virtual machines, containers and network namespaces. It learns MAC\n \
         addresses, keeps them in a forwarding database and separates VLANs; vswitch-ctl operates\n \
         it.\n",
        libraries(built)?.join(", "),
        recommended(built)?.join(", ")
    ))
}

/// What makes more of the switch: of DPDK the programs load only the core, and that loads drivers as
/// plug-ins. Whoever stays with kernel devices needs none of them, so the package does not insist.
fn recommended(built: &Path) -> Result<Vec<String>> {
    let mut packages = vec!["nftables".to_owned()];
    if with_dpdk(built)? {
        // The number in the name is that of DPDK's ABI.
        let pool = run("dpkg-query -S */dpdk/pmds-*/librte_mempool_ring.so.*")?.ok()?.stdout;
        packages.push(pool.split(':').next().context("the pool's driver")?.to_owned());
        packages.push("librte-meta-net".to_owned());
    }
    Ok(packages)
}

/// Whether the daemon that was built has DPDK in it.
fn with_dpdk(built: &Path) -> Result<bool> {
    let said = Cmd::new(built.join("vswitchd")).arg("--version").run()?.ok()?;
    Ok(said.stdout.contains("with DPDK"))
}

/// The packages of the libraries both programs load, in the versions they were built against.
fn libraries(built: &Path) -> Result<Vec<String>> {
    let mut packages = BTreeMap::new();
    for program in ["vswitchd", "vswitch-ctl"] {
        let loaded = run(&format!("ldd {}", built.join(program).display()))?.stdout;
        for path in loaded.split_whitespace().filter(|word| word.starts_with('/')) {
            // Under merged /usr the database may know the other of both names.
            let file = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
            let owner = run(&format!("dpkg-query -S */{file}"))?.stdout;
            let name = owner.split(':').next().context("a library of no package")?.to_owned();
            let show = ["-W", "-f", "${Version}", &name];
            let version = Cmd::new("dpkg-query").args(show).run()?.ok()?.stdout;
            let upstream = version.split(['-', '+']).next().unwrap_or(&version).to_owned();
            packages.insert(name, upstream);
        }
    }
    Ok(packages.into_iter().map(|(name, version)| format!("{name} (>= {version})")).collect())
}

/// Packs, and checks what is in the package. A summary.
pub(crate) fn check() -> Result<String> {
    let deb = pack(false)?;
    let listed = run(&format!("dpkg-deb -c {}", deb.display()))?.stdout;
    let mut files = 0;
    for (path, bits) in [
        ("./usr/sbin/vswitchd", "-rwxr-xr-x root/root"),
        ("./usr/bin/vswitch-ctl", "-rwxr-xr-x root/root"),
        ("./etc/vswitch/vswitch.toml", "-rw-r--r-- root/root"),
        ("./lib/systemd/system/vswitchd.service", "-rw-r--r-- root/root"),
        ("./usr/share/man/man8/vswitchd.8.gz", "-rw-r--r-- root/root"),
        ("./usr/share/man/man1/vswitch-ctl.1.gz", "-rw-r--r-- root/root"),
        ("./usr/share/man/man5/vswitch.toml.5.gz", "-rw-r--r-- root/root"),
        ("./usr/share/bash-completion/completions/vswitch-ctl", "-rw-r--r-- root/root"),
        ("./usr/share/doc/vswitch/copyright", "-rw-r--r-- root/root"),
        ("./usr/share/doc/vswitch/examples/dpdk.conf", "-rw-r--r-- root/root"),
    ] {
        let found = listed.lines().any(|l| l.starts_with(bits) && l.ends_with(path));
        ensure!(found, "{path} ({bits}) is not in the package:\n{listed}");
        files += 1;
    }
    let dist = target_dir()?.join("dist");
    let scripts = dist.join("scripts");
    let _ = fs::remove_dir_all(&scripts);
    run(&format!("dpkg-deb -e {} {}", deb.display(), scripts.display()))?;
    ensure!(
        fs::read_to_string(scripts.join("conffiles"))? == "/etc/vswitch/vswitch.toml\n",
        "the configuration is no conffile"
    );
    let control = fs::read_to_string(scripts.join("control"))?;
    let core = control.lines().any(|l| l.starts_with("Depends:") && l.contains("librte-eal"));
    let drivers = control.lines().any(|l| l.starts_with("Recommends:") && l.contains("librte-"));
    ensure!(core == has_libdpdk() && drivers == core, "DPDK's packages are not named:\n{control}");
    for script in ["postinst", "prerm", "postrm"] {
        run(&format!("sh -n {}", scripts.join(script).display()))?;
    }
    let installs = fs::read_to_string(scripts.join("postinst"))?;
    for line in installs.lines().map(str::trim).filter(|l| !l.starts_with("echo ")) {
        let harmless = !line.contains("restart") && !line.contains("--now");
        ensure!(harmless || line.starts_with('#'), "postinst touches a running switch: {line}");
    }
    let valid = Cmd::new(dist.join("tree/usr/bin/vswitch-ctl"))
        .args(["config", "validate"])
        .arg(dist.join("tree/etc/vswitch/vswitch.toml").display())
        .run()?;
    // 5: where there is no daemon to ask, the file is checked as far as that goes without.
    ensure!(valid.success(), "the packaged configuration is not valid: {valid}");
    Ok(format!("{files} files, scripts and configuration checked; {}", check_unit(&dist)?))
}

/// Lets systemd itself read the unit.
fn check_unit(dist: &Path) -> Result<String> {
    let there = Command::new("systemd-analyze").arg("--version").output();
    if !there.is_ok_and(|o| o.status.success()) {
        return Ok("the unit was not verified (no systemd-analyze)".to_owned());
    }
    let dir = dist.join("unit");
    fs::create_dir_all(&dir)?;
    let unit = dir.join("vswitchd.service");
    let program = dist.join("tree/usr/sbin/vswitchd");
    fs::write(&unit, UNIT.replace("/usr/sbin/vswitchd", &program.display().to_string()))?;
    let more = dir.join("vswitchd.service.d");
    fs::create_dir_all(&more)?;
    fs::write(more.join("dpdk.conf"), DPDK_CONF)?;
    let said =
        Cmd::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit.display()).run()?;
    ensure!(
        said.success() && !said.stderr.contains("vswitchd.service:"),
        "systemd does not like the unit: {said}"
    );
    let rated = Cmd::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(unit.display())
        .run()?;
    let level = rated.stdout.lines().rev().find_map(|l| l.split("exposure level").nth(1));
    Ok(format!("exposure level{}", level.unwrap_or(": unknown").trim_end()))
}
