//! QEMU guests on vhost-user: they, QEMU and the daemon come and go in any order.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use vswitch_e2e::{
    Daemon, DaemonSpec, Guest, GuestSpec, Host, Hugepages, Need, Netns, Nic, iperf3, missing, ping,
    skip, until_ok,
};

const SOON: Duration = Duration::from_secs(30);
const GUEST: &str = "192.0.2.3";
const PORT: u16 = 5001;

/// A switch with a namespace on a TAP, and a port for a guest.
struct Lab {
    daemon: Daemon,
    a: Netns,
    dir: TempDir,
    serve: bool,
    queues: u16,
}

impl Lab {
    /// `mode` is the switch's.
    fn start(mode: &str, queues: u16) -> Result<Self> {
        let (a, dir) = (Netns::new("a")?, tempfile::Builder::new().prefix("vst-vhost-").tempdir()?);
        let config = format!(
            "version = 1\n[[bridge]]\nname = \"br0\"\n\
             [[port]]\nname = \"a0\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n\
             [[port]]\nname = \"vm\"\ntype = \"vhost-user\"\nbridge = \"br0\"\n\
             socket = \"{}\"\nmode = \"{mode}\"\nqueues = {queues}\n",
            a.name(),
            dir.path().join("vm.sock").display(),
        );
        let daemon = DaemonSpec::new(&config).dpdk().start()?;
        a.addr("a0", "192.0.2.1/24")?;
        Ok(Self { daemon, a, dir, serve: mode == "client", queues })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("vm.sock")
    }

    fn boot(&self) -> Result<Guest> {
        Guest::boot(self.guest())
    }

    fn guest(&self) -> GuestSpec {
        let how = (self.serve, self.queues);
        let nic = Nic::vhost_user(&self.socket(), how, "52:54:00:00:00:03", &["192.0.2.3/24"]);
        GuestSpec::new("guest", vec![nic])
    }

    fn port(&self) -> Result<serde_json::Value> {
        Ok(self.daemon.ctl_json("port show vm")?["items"][0].clone())
    }

    fn wait_for(&self, state: &str) -> Result<()> {
        until_ok(SOON, "the port's state", || {
            let port = self.port()?;
            ensure!(port["state"] == state, "{port}");
            Ok(())
        })
    }

    /// The guest answers, and a ping of many packets loses none.
    fn cross(&self, guest: &Guest) -> Result<()> {
        until_ok(SOON, "the guest to answer", || {
            ensure!(ping(&self.a, GUEST, 1)?.received == 1);
            Ok(())
        })?;
        assert_eq!(ping(&self.a, GUEST, 5)?.received, 5);
        assert_eq!(ping(guest, "192.0.2.1", 5)?.received, 5);
        Ok(())
    }
}

fn skipped(test: &str) -> bool {
    let why = missing(&[Need::GUEST, &[Need::Binaries, Need::Dpdk]].concat());
    why.map(|why| skip(test, why)).is_some()
}

/// Copies `bytes` over TCP and compares what arrives: each byte depends on its place.
fn copy(from: &dyn Host, to: &dyn Host, address: &str, bytes: u64) -> Result<()> {
    let data = format!("seq 1000000 9999999 | head -c {bytes}");
    let sum = from.sh(&format!("{data} | busybox sha256sum"))?.ok()?.stdout;
    let files = to.sh("mktemp -d")?.ok()?.stdout;
    let files = files.trim();
    to.sh(&format!(
        "mkfifo {files}/pipe; (timeout 100 busybox nc -l -p {PORT} 0<>{files}/pipe \
         | busybox sha256sum > {files}/sum; touch {files}/done) > /dev/null 2>&1 &"
    ))?
    .ok()?;
    let listens = format!("grep -qi ':{PORT:04x} .* 0A' /proc/net/tcp /proc/net/tcp6");
    until_ok(SOON, "nc to listen", || to.sh(&listens)?.ok())?;
    from.sh(&format!("{data} | timeout 50 busybox nc {address} {PORT}"))?
        .ok()
        .with_context(|| format!("{bytes} bytes over TCP to {address}"))?;
    until_ok(SOON, "the copy's end", || to.sh(&format!("test -e {files}/done"))?.ok())?;
    let arrived = to.sh(&format!("cat {files}/sum; rm -r {files}"))?.ok()?.stdout;
    ensure!(arrived == sum, "{bytes} bytes to {address} arrived changed");
    Ok(())
}

#[test]
fn a_guest_talks_and_its_end_leaves_nothing_behind() -> Result<()> {
    if skipped("a_guest_talks_and_its_end_leaves_nothing_behind") {
        return Ok(());
    }
    let mut lab = Lab::start("client", 1)?;
    // Nobody serves the socket: the port is there, and down.
    let port = lab.port()?;
    assert_eq!(port["driver"], "net_vhost", "{port}");
    ensure!(port["state"] != "up", "{port}");
    let idle = lab.daemon.buffers_in_use()?;

    let guest = lab.boot()?;
    lab.wait_for("up")?;
    lab.cross(&guest)?;
    // What the guest's driver negotiated is what is left to it.
    let offloads = &lab.port()?["offloads"];
    assert_eq!((&offloads["csum"], &offloads["tso4"]), (&true.into(), &true.into()), "{offloads}");
    copy(&lab.a, &guest, GUEST, 4_000_000)?;
    copy(&guest, &lab.a, "192.0.2.1", 1_000_000)?;
    lab.daemon.settle()?.check()?;

    // Killed in the middle of traffic in both directions.
    let done = lab.dir.path().join("flooded");
    let flood = |from: &dyn Host, to: &str, then: &str| {
        let ping = format!("timeout 3 ping -f -s 1400 {to}");
        from.sh(&format!("({ping}; {then}) > /dev/null 2>&1 &")).and_then(|out| out.ok())
    };
    flood(&lab.a, GUEST, &format!("touch {}", done.display()))?;
    flood(&guest, "192.0.2.1", "true")?;
    std::thread::sleep(Duration::from_millis(300));
    drop(guest);
    lab.wait_for("down")?;
    // The flood ends by itself.
    until_ok(SOON, "the flood's end", || {
        ensure!(lab.dir.path().join("flooded").exists());
        Ok(())
    })?;
    lab.daemon.wait_buffers_in_use(idle)?;
    lab.daemon.settle()?.check()?;

    // The next one on the same socket.
    let guest = lab.boot()?;
    lab.cross(&guest)?;
    // The daemon goes and comes back, twice, once without a word: the guest notices nothing else.
    lab.daemon.stop()?;
    lab.daemon.restart()?;
    lab.cross(&guest)?;
    lab.daemon.kill9()?;
    lab.daemon.restart()?;
    lab.cross(&guest)?;
    copy(&guest, &lab.a, "192.0.2.1", 1_000_000)?;
    lab.daemon.settle()?.check()?;
    lab.daemon.stop()
}

#[test]
fn a_guest_finds_the_switch_that_serves_its_socket_again() -> Result<()> {
    if skipped("a_guest_finds_the_switch_that_serves_its_socket_again") {
        return Ok(());
    }
    let mut lab = Lab::start("server", 2)?;
    let guest = lab.boot()?;
    lab.cross(&guest)?;
    // It uses one of its two pairs of queues, and then both.
    for pairs in [1, 2] {
        guest.sh(&format!("ethtool -L eth0 combined {pairs} || true"))?.ok()?;
        lab.cross(&guest)?;
    }
    copy(&lab.a, &guest, GUEST, 2_000_000)?;
    lab.daemon.stop()?;
    lab.daemon.restart()?;
    lab.cross(&guest)?;
    // Its socket is left behind, and served by the next life.
    lab.daemon.kill9()?;
    ensure!(lab.socket().exists(), "a killed switch cannot remove its socket");
    lab.daemon.restart()?;
    lab.cross(&guest)?;
    ensure!(iperf3(&lab.a, GUEST, "-t 1")?.received_bytes > 0);
    lab.daemon.settle()?.check()?;
    lab.daemon.stop()?;
    ensure!(!lab.socket().exists(), "the socket was left behind");
    Ok(())
}

#[test]
fn a_guest_in_hugepages_shares_them_with_a_switch_in_hugepages() -> Result<()> {
    if skipped("a_guest_in_hugepages_shares_them_with_a_switch_in_hugepages") {
        return Ok(());
    }
    // The guest's 256 MiB, and what the switch would like.
    let _pages = Hugepages::set(128 + 64)?;
    let mut lab = Lab::start("client", 1)?;
    let before = Hugepages::free()?;
    let guest = Guest::boot(GuestSpec { hugepages: true, ..lab.guest() })?;
    ensure!(Hugepages::free()? < before, "the guest is in ordinary memory");
    lab.cross(&guest)?;
    copy(&lab.a, &guest, GUEST, 2_000_000)?;
    copy(&guest, &lab.a, "192.0.2.1", 1_000_000)?;
    lab.daemon.settle()?.check()?;
    lab.daemon.stop()
}
