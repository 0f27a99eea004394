//! `vswitch-ctl` and the `vswitchd` that was built: what one says, the other does and shows.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use vswitch_e2e::{Cmd, Daemon, Need, Process, need, until};

const CONFIG: &str = "version = 1\n[[bridge]]\nname = \"br0\"\n[[port]]\nname = \"t1\"\n\
                      type = \"tap\"\nbridge = \"br0\"\naccess = 10\n";

/// Runs a command, checks its exit code and, if it failed, the code of its error.
#[track_caller]
fn ends(daemon: &Daemon, args: &str, code: i32, error: &str) -> Result<String> {
    let ran = daemon.ctl(args)?.code_is(code)?;
    let wanted = format!("error[{error}]: ");
    assert!(error.is_empty() || ran.stderr.starts_with(&wanted), "{args}: {}", ran.stderr);
    Ok(ran.stdout)
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().filter_map(|item| item["name"].as_str()).collect()
}

#[test]
fn objects_come_change_and_go() -> Result<()> {
    need!("objects_come_change_and_go", Need::Root, Need::Tun, Need::Binaries);
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    ends(&daemon, "bridge add br1 --ageing 60s", 0, "")?;
    ends(&daemon, "bridge add br1", 6, "E0301")?;
    ends(&daemon, "bridge add br1 --if-not-exists", 0, "")?;
    ends(&daemon, "port add t2 --type tap --bridge br1 --trunk 10,20-22 --native 1", 0, "")?;
    ends(&daemon, "port add t3 --type tap --bridge bl1", 6, "E0101")?;
    ends(&daemon, "port set t2 --mtu 14", 6, "E0101")?;
    ends(&daemon, "port set t2 --mtu 1400", 0, "")?;
    ends(&daemon, "bridge del br1", 6, "E0302")?;
    ends(&daemon, "port show nothing", 4, "E0204")?;

    let ports = daemon.ctl_json("port")?;
    assert_eq!(names(&ports), ["t1", "t2"]);
    let port = &ports["items"][1];
    assert_eq!((&port["mtu"], &port["origin"]), (&1400.into(), &"api".into()), "{port:#}");
    assert_eq!(port["config"]["trunk"], serde_json::json!([10, "20-22"]));
    assert_eq!(ports["items"][0]["origin"], "file");
    // The device itself, not only what is said of it.
    let netns = daemon.netns().expect("a namespace of its own").to_owned();
    let link = vswitch_e2e::run(&format!("ip -n {netns} -o link show t2"))?.ok()?;
    assert!(link.stdout.contains("mtu 1400"), "{}", link.stdout);

    ends(&daemon, "vlan add 30 --port t2", 0, "")?;
    ends(&daemon, "vlan del 10 --port t2", 0, "")?;
    ends(&daemon, "vlan del 10 --port t2", 4, "E0205")?;
    let vlans = ends(&daemon, "vlan show --port t2 --no-headers", 0, "")?;
    let vlans: Vec<Vec<&str>> =
        vlans.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        vlans,
        [
            ["br1", "1", "t2", "native"],
            ["br1", "20-22", "t2", "trunk"],
            ["br1", "30", "t2", "trunk"]
        ]
    );

    ends(&daemon, "port del t2", 0, "")?;
    ends(&daemon, "port del t2", 4, "E0204")?;
    ends(&daemon, "port del t2 --if-exists", 0, "")?;
    ends(&daemon, "bridge del br1", 0, "")?;
    assert_eq!(names(&daemon.ctl_json("bridge")?), ["br0"]);
    let gone = vswitch_e2e::run(&format!("ip -n {netns} link show t2"));
    assert!(gone.is_err(), "a TAP that the switch made goes with its port");
    daemon.stop()
}

#[test]
fn what_is_not_there_yet_is_degraded_and_says_why() -> Result<()> {
    need!("what_is_not_there_yet_is_degraded", Need::Root, Need::Tun, Need::Binaries);
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    let add = daemon.ctl("port add vm7 --type netdev --device later0 --bridge br0")?.code_is(7)?;
    assert!(
        add.stderr.contains("error[E0501]: port vm7 is added, but not realised"),
        "{}",
        add.stderr
    );
    assert!(add.stderr.contains("later0") && add.stderr.contains("\nhint: "), "{}", add.stderr);
    let status = ends(&daemon, "status", 3, "")?;
    assert!(status.contains("1 up, 0 down, 1 waiting, 0 failed"), "{status}");
    assert_eq!(daemon.ctl_json("port show vm7")?["items"][0]["state"], "waiting");
    let netns = daemon.netns().expect("a namespace of its own").to_owned();
    for command in ["link add later0 type veth peer name later1", "link set later1 up"] {
        vswitch_e2e::run(&format!("ip -n {netns} {command}"))?.ok()?;
    }
    daemon.wait_healthy()?;
    assert_eq!(daemon.ctl_json("port show vm7")?["items"][0]["state"], "up");
    daemon.stop()
}

#[test]
fn entries_are_added_listed_and_flushed() -> Result<()> {
    need!("entries_are_added_listed_and_flushed", Need::Root, Need::Tun, Need::Binaries);
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    let mac = "52:54:00:00:00:01";
    ends(&daemon, &format!("fdb add {mac} --port t1 --vlan 10 --sticky"), 0, "")?;
    let shown = daemon.ctl_json(&format!("fdb show --mac {mac}"))?;
    let entry = &shown["items"][0];
    assert_eq!((&entry["port"], &entry["vlan"]), (&"t1".into(), &10.into()), "{shown:#}");
    assert_eq!((&entry["type"], &entry["sticky"]), (&"static".into(), &true.into()));
    // Flushing leaves what was added.
    ends(&daemon, "fdb flush", 0, "")?;
    assert_eq!(names_of(&daemon, "fdb show --type static")?, 1);
    ends(&daemon, &format!("fdb del {mac} --vlan 10"), 0, "")?;
    ends(&daemon, &format!("fdb del {mac} --vlan 10"), 4, "E0206")?;
    ends(&daemon, &format!("fdb del {mac} --vlan 10 --if-exists"), 0, "")?;
    ends(&daemon, "fdb add 01:00:5e:00:00:01 --port t1", 6, "")?;
    // Thousands in one request.
    let lines: String = (0..5000u32)
        .map(|n| {
            let [_, _, high, low] = n.to_be_bytes();
            format!(
                "{{\"bridge\":\"br0\",\"vlan\":10,\"mac\":\"52:54:00:01:{high:02x}:{low:02x}\",\
                 \"port\":\"t1\"}}\n"
            )
        })
        .collect();
    let file = daemon.run_dir().join("entries.jsonl");
    std::fs::write(&file, lines)?;
    let added = ends(&daemon, &format!("fdb add --from {}", file.display()), 0, "")?;
    assert_eq!(added, "5000 entries added\n");
    assert_eq!(names_of(&daemon, "fdb show --type static")?, 5000);
    ends(&daemon, "fdb flush --static", 0, "")?;
    assert_eq!(names_of(&daemon, "fdb show --type static")?, 0);
    daemon.stop()
}

fn names_of(daemon: &Daemon, args: &str) -> Result<usize> {
    Ok(daemon.ctl_json(args)?["items"].as_array().map_or(0, Vec::len))
}

#[test]
fn configurations_are_compared_applied_and_rolled_back() -> Result<()> {
    need!("configurations_are_compared", Need::Root, Need::Tun, Need::Binaries);
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    let file = daemon.config_path();
    let file = file.display();
    ends(&daemon, &format!("config diff {file}"), 0, "")?;
    ends(&daemon, "bridge add br1", 0, "")?;
    let before = ends(&daemon, "config show", 0, "")?;
    assert!(before.contains("name = \"br1\""), "{before}");
    daemon.write_config(&CONFIG.replace("access = 10", "access = 11"))?;
    // What differs is what applying changes: an object of another origin stays.
    let differs = ends(&daemon, &format!("config diff {file}"), 1, "")?;
    assert_eq!(differs, "~ port t1 access: 10 -> 11\n");
    ends(&daemon, &format!("config apply {file} --confirm 10m"), 0, "")?;
    ends(&daemon, &format!("config diff {file}"), 0, "")?;
    assert!(ends(&daemon, "config show", 0, "")?.contains("name = \"br1\""));
    ends(&daemon, "config confirm", 0, "")?;
    ends(&daemon, "config confirm", 6, "E0305")?;
    ends(&daemon, "config rollback", 0, "")?;
    assert_eq!(ends(&daemon, "config show", 0, "")?, before);
    ends(&daemon, "config rollback 12345", 4, "E0207")?;
    let history = daemon.ctl_json("config history")?;
    assert_eq!(history["items"].as_array().map(Vec::len), Some(4), "{history:#}");
    daemon.write_config("version = 1\n[[prot]]\nname = \"x\"\n")?;
    let refused = daemon.ctl(&format!("config apply {file}"))?.code_is(6)?;
    assert!(
        refused.stderr.contains(":2:3: prot: unknown key (did you mean `port`?)"),
        "{}",
        refused.stderr
    );
    assert_eq!(ends(&daemon, "config show", 0, "")?, before, "nothing of it was applied");
    daemon.stop()
}

/// Every command that only looks gives valid JSON, and what it says of itself holds.
#[test]
fn every_show_command_answers() -> Result<()> {
    need!("every_show_command_answers", Need::Root, Need::Tun, Need::Binaries);
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    for noun in ["bridge", "port", "vlan", "fdb", "drops", "cpu", "config history", "port stats"] {
        assert!(daemon.ctl_json(noun)?["items"].is_array(), "{noun}");
        ends(&daemon, &format!("-o wide {noun}"), 0, "")?;
        ends(&daemon, &format!("-o jsonl {noun}"), 0, "")?;
    }
    assert!(daemon.ctl_json("event")?["items"][0]["number"].is_u64());
    assert_eq!(daemon.ctl_json("status")?["degraded"], false);
    assert_eq!(daemon.ctl_json("version")?["vswitchd"], env!("CARGO_PKG_VERSION"));
    assert!(ends(&daemon, "metrics", 0, "")?.contains("# TYPE "));
    let (status, document) = daemon.http("GET", "/v1/openapi.json", "")?;
    assert_eq!(status, 200);
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let committed: Value = serde_json::from_slice(&std::fs::read(committed)?)?;
    assert!(serde_json::from_str::<Value>(&document)? == committed, "docs/openapi.json is served");
    daemon.stop()
}

/// What happens is shown as it happens: the reader is there first, and then something does.
#[test]
fn streams_show_what_happens() -> Result<()> {
    need!("streams_show_what_happens", Need::Root, Need::Tun, Need::Binaries);
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    let mac = "52:54:00:00:00:07";
    let monitor = Lines::of(&daemon, "-o jsonl fdb monitor")?;
    let events = Lines::of(&daemon, "-o jsonl event --follow")?;
    // A stream has no beginning that shows: entries come until the reader tells of one.
    let entry = until(Duration::from_secs(20), "an entry in the monitor", || {
        ends(&daemon, &format!("fdb add {mac} --port t1 --vlan 10"), 0, "")?;
        ends(&daemon, &format!("fdb del {mac} --vlan 10"), 0, "")?;
        Ok(monitor.find(|line| line["mac"] == mac))
    })?;
    assert_eq!((&entry["bridge"], &entry["port"]), (&"br0".into(), &"t1".into()), "{entry:#}");
    ends(&daemon, "bridge add br1", 0, "")?;
    until(Duration::from_secs(20), "the change among the events", || {
        Ok(events.find(|line| line.to_string().contains("bridge add br1")))
    })?;
    daemon.stop()
}

/// A command that goes on, and the lines of JSON it has printed.
struct Lines {
    lines: Receiver<Value>,
    // Ends the command when dropped.
    _process: Process,
}

impl Lines {
    fn of(daemon: &Daemon, args: &str) -> Result<Self> {
        let cmd = daemon.ctl_cmd(args.split(' '))?;
        let mut process = cmd.spawn(Stdio::piped(), Stdio::null())?;
        let stdout = process.take_stdout().expect("it is piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("each line is JSON");
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { lines, _process: process })
    }

    fn find(&self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        self.lines.try_iter().find(wanted)
    }
}

#[test]
fn who_may_not_is_told_so() -> Result<()> {
    need!("who_may_not_is_told_so", Need::Root, Need::Tun, Need::Binaries);
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    // Copied to where everybody may run it: the build directory may be root's own.
    let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let ctl = dir.path().join("vswitch-ctl");
    std::fs::copy(vswitch_e2e::bins::binary("vswitch-ctl")?, &ctl)?;
    let refused = Cmd::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(ctl.display())
        .arg("--run-dir")
        .arg(daemon.run_dir().display())
        .arg("status")
        .run()?
        .code_is(5)?;
    assert!(
        refused.stderr.starts_with("error[E0912]: cannot reach vswitchd"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("\nhint: only root and the group `vswitch`"));
    daemon.stop()
}

/// A terminal of 80×24 that a program runs on, as over ssh.
struct Terminal {
    socket: tempfile::TempDir,
}

impl Terminal {
    /// Runs a line of shell on it, which must not end.
    fn run(line: &str) -> Result<Self> {
        let terminal = Self { socket: tempfile::tempdir()? };
        let start = ["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", line];
        terminal.tmux(start)?.ok()?;
        Ok(terminal)
    }

    fn tmux<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<vswitch_e2e::Output> {
        let socket = self.socket.path().join("tmux");
        Cmd::new("tmux").arg("-S").arg(socket.display()).args(args).run()
    }

    fn press(&self, key: &str) -> Result<()> {
        self.tmux(["send-keys", key])?.ok().map(drop)
    }

    /// The screen, once this is on it.
    fn shows(&self, wanted: &str) -> Result<String> {
        until(Duration::from_secs(20), &format!("{wanted:?} on the screen"), || {
            let screen = self.tmux(["capture-pane", "-p", "-e"])?.ok()?.stdout;
            Ok(screen.contains(wanted).then_some(screen))
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(["kill-server"]);
    }
}

#[test]
fn top_shows_rates_and_leaves_the_terminal_as_it_was() -> Result<()> {
    need!(
        "top_shows_rates_and_leaves_the_terminal_as_it_was",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tmux", "tmux"),
        Need::Program("ping", "iputils-ping")
    );
    let mut daemon = Daemon::start(CONFIG)?;
    daemon.wait_healthy()?;
    let netns = daemon.netns().expect("a namespace of its own").to_owned();
    for command in [
        "address add 192.0.2.1/24 dev t1",
        "link set t1 up",
        "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev t1",
    ] {
        vswitch_e2e::run(&format!("ip -n {netns} {command}"))?.ok()?;
    }
    // Nobody is there: each of them is flooded, and no port takes it.
    let pings = Cmd::new("ping").args(["-n", "-q", "-i", "0.05", "192.0.2.2"]).netns(&netns);
    let _pings = pings.spawn(Stdio::null(), Stdio::null())?;

    let ctl = vswitch_e2e::bins::binary("vswitch-ctl")?;
    let run_dir = daemon.run_dir();
    let top = format!("NO_COLOR=1 {} --run-dir {} top -i 300ms", ctl.display(), run_dir.display());
    let modes = "stty -a | grep -oE -- '-?(icanon|echo) '";
    let after = format!("{top}; echo \"ended with $?\"; {modes}; sleep 100");
    let terminal = Terminal::run(&after)?;
    let screen = terminal.shows("no-destination ")?;
    assert!(screen.lines().count() <= 24, "{screen}");
    for part in ["datapath tap", "ports 1 up", "WORKER", "t1          up", "q leave"] {
        let part = if part == "datapath tap" && vswitch_e2e::on_dpdk_anyway() {
            "datapath dpdk"
        } else {
            part
        };
        assert!(screen.contains(part), "{part:?} in\n{screen}");
    }
    // 39 and 49 are the terminal's own colours.
    let plain = screen.replace("\x1b[39m", "").replace("\x1b[49m", "");
    assert!(!plain.contains("\x1b[3") && !plain.contains("\x1b[4"), "no colour:\n{screen:?}");
    terminal.press("d")?;
    terminal.shows("Check that the destination")?;
    for key in ["p", "/", "n", "o"] {
        terminal.press(key)?;
    }
    terminal.shows("filter: no_")?;
    terminal.press("Enter")?;
    terminal.shows("only \"no\"")?;
    terminal.press("q")?;
    let screen = terminal.shows("ended with 0")?;
    assert!(!screen.contains("WORKER"), "the screen before is back:\n{screen}");
    assert!(terminal.shows("\necho")?.contains("\nicanon"), "keys are lines and are seen again");
    drop(terminal);

    // A signal ends it as well as a key does, and a daemon that is gone does not.
    let terminal = Terminal::run(&after.replace("top -i", "top -f t1 -i"))?;
    terminal.shows("only \"t1\"")?;
    daemon.kill9()?;
    terminal.shows("old numbers: cannot reach vswitchd")?;
    let pids = vswitch_e2e::run(&format!("pgrep -f {}.*top.-f", run_dir.display()))?.ok()?.stdout;
    for pid in pids.split_whitespace() {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "vswitch-ctl" {
            vswitch_e2e::run(&format!("kill {pid}"))?.ok()?;
        }
    }
    terminal.shows("ended with 0")?;
    assert!(terminal.shows("\necho")?.contains("\nicanon"), "keys are lines and are seen again");
    Ok(())
}
