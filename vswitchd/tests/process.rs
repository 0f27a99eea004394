//! The built daemon as a process: started, signalled, killed at any moment.
//!
//! Its switches have bridges and no ports, so that this needs no privilege and no device.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// How often the daemon is killed: 200 times with `VSWITCH_TEST_FULL=1`.
fn kills() -> usize {
    let full = std::env::var_os("VSWITCH_TEST_FULL").is_some_and(|value| value == "1");
    if full { 200 } else { 15 }
}

struct Daemon {
    dir: Arc<TempDir>,
    child: Option<Child>,
}

impl Daemon {
    fn new(config: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let daemon = Self { dir, child: None };
        daemon.write(config);
        daemon
    }

    fn write(&self, config: &str) {
        fs::write(self.path("vswitch.toml"), config).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchd"));
        command.arg("--config").arg(self.path("vswitch.toml"));
        command.arg("--run-dir").arg(self.path("run"));
        command.arg("--state-dir").arg(self.path("state"));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"));
        command.stderr(Stdio::from(log.unwrap())).stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        self.start_with(&[]);
    }

    fn start_with(&mut self, args: &[&str]) {
        let mut child = self.command().args(args).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while request(&self.socket(), "GET", "/v1/status", "").is_none() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
    }

    /// Runs it where it must not start: exit code, and what it said.
    fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.command().args(args).stderr(Stdio::piped()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Sends a signal that ends it; its exit code, if it has one.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("it does not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn socket(&self) -> PathBuf {
        self.path("run").join("api.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Json {
        let (status, body) = request(&self.socket(), "GET", path, "").expect("an answer");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn config(&self) -> String {
        self.get("/v1/config")["toml"].as_str().unwrap().to_owned()
    }

    fn post(&self, path: &str, body: &Json) -> u16 {
        request(&self.socket(), "POST", path, &body.to_string()).expect("an answer").0
    }

    /// Waits until its log has a line with these words.
    fn wait_for(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            assert!(Instant::now() < deadline, "no {words:?} in\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn warnings(&self) -> Vec<String> {
        let serious = |line: &&str| line.contains(" WARN ") || line.contains("ERROR");
        self.log().lines().filter(serious).map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A request, if there is a daemon that answers it.
fn request(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

const SMALL: &str = "version = 1\n[daemon]\nmax-fdb-total = 4096\n";

fn with_bridge(name: &str) -> String {
    format!("{SMALL}[[bridge]]\nname = \"{name}\"\n")
}

#[test]
fn it_starts_stops_and_says_so() {
    let mut daemon = Daemon::new(&with_bridge("br0"));
    daemon.start_with(&["--log-format", "json"]);
    assert_eq!(daemon.get("/v1/status")["degraded"], false);
    assert_eq!(daemon.end(Signal::SIGTERM), Some(0));
    assert!(!daemon.socket().exists());
    for line in daemon.log().lines() {
        let line: Json = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "INFO", "{line}");
    }
    daemon.start();
    assert_eq!(daemon.end(Signal::SIGINT), Some(0));
    assert!(daemon.warnings().is_empty(), "{:?}", daemon.warnings());
}

#[test]
fn workers_are_pinned_where_the_configuration_says() {
    let allowed = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let cpu = allowed.trim().split([',', '-']).next().unwrap();
    let mut daemon = Daemon::new(&format!("{SMALL}cpus = \"{cpu}\"\n"));
    daemon.start();
    let threads = format!("/proc/{}/task", daemon.child.as_ref().unwrap().id());
    let mut workers = 0;
    for thread in fs::read_dir(threads).unwrap() {
        let read = |name: &str| fs::read_to_string(thread.as_ref().unwrap().path().join(name));
        if read("comm").unwrap().trim() == "vsw-worker-0" {
            let pinned = format!("Cpus_allowed_list:\t{cpu}\n");
            assert!(read("status").unwrap().contains(&pinned));
            workers += 1;
        }
    }
    assert_eq!(workers, 1);
    assert_eq!(daemon.get("/v1/cpu")["items"][0]["cpu"], cpu.parse::<u64>().unwrap());
    daemon.end(Signal::SIGTERM);
}

#[test]
fn what_keeps_it_from_starting_is_said_with_what_mends_it() {
    let mut daemon = Daemon::new(&with_bridge("br0"));
    let said = |daemon: &Daemon, args: &[&str], code: i32, words: &[&str]| {
        let (got, text) = daemon.refused(args);
        assert_eq!(got, code, "{text}");
        let error = text.lines().find(|line| line.starts_with("error[E"));
        assert!(error.is_some(), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    };
    daemon.write("version = 1\n[[bridge]]\nnam = \"br0\"\nageing = 5\n");
    said(&daemon, &[], 6, &["line 3", "did you mean `name`", "ageing"]);
    if cfg!(not(feature = "dpdk")) {
        daemon.write("version = 1\n[daemon]\ndatapath = \"dpdk\"\n");
        said(&daemon, &[], 6, &["dpdk", "hint: set datapath = \"tap\""]);
    }
    daemon.write("version = 1\n[daemon]\ncpus = \"1023\"\n");
    said(&daemon, &[], 6, &["CPU 1023 of cpus = \"1023\" does not exist", "hint: name CPUs"]);
    fs::remove_file(daemon.path("vswitch.toml")).unwrap();
    said(&daemon, &[], 6, &["No such file", "hint: an empty switch"]);
    assert_eq!(daemon.refused(&["--nonsense"]).0, 2);

    daemon.write(&with_bridge("br0"));
    daemon.start();
    said(&daemon, &[], 6, &["another vswitchd runs", "hint: stop it"]);
    assert_eq!(daemon.get("/v1/status")["bridges"], 1, "the one that runs is unharmed");
    let other = daemon.path("other").display().to_string();
    said(&daemon, &["--run-dir", &other], 6, &["in use by another process"]);
    daemon.end(Signal::SIGTERM);

    fs::write(daemon.path("state").join("desired.redb"), "garbage").unwrap();
    said(&daemon, &[], 6, &["is damaged", "hint: restore it", "mv "]);
}

#[test]
fn sighup_reads_the_file_again_and_a_bad_one_changes_nothing() {
    let mut daemon = Daemon::new(&with_bridge("br0"));
    daemon.start();
    daemon.write(&with_bridge("br1"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("reloaded the configuration file changed=2");
    assert!(daemon.config().contains("br1") && !daemon.config().contains("br0"));
    daemon.write("nonsense");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("the configuration stays as it was");
    assert!(daemon.config().contains("br1"));
    daemon.write(&with_bridge("br1"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("the configuration is unchanged");
    assert_eq!(daemon.warnings().len(), 1);
}

#[test]
fn a_collision_keeps_it_from_starting_until_it_is_settled() {
    let mut daemon = Daemon::new(SMALL);
    daemon.start();
    assert_eq!(daemon.post("/v1/bridges", &json!({"name": "br0", "ageing": "60s"})), 200);
    daemon.end(Signal::SIGTERM);
    daemon.write(&with_bridge("br0"));
    let (code, text) = daemon.refused(&[]);
    assert_eq!(code, 6);
    assert!(text.contains("bridge br0") && text.contains("--config-wins"), "{text}");
    daemon.start_with(&["--config-wins"]);
    assert!(!daemon.config().contains("60s"));
}

/// Adds and deletes bridges without pause. What was acknowledged, and the one that was under way.
fn churn(socket: PathBuf, from: u64, stop: Arc<AtomicBool>) -> (Vec<String>, Option<String>) {
    let mut there: Vec<String> = Vec::new();
    for n in from.. {
        if stop.load(Ordering::Relaxed) {
            return (there, None);
        }
        let name = format!("b{n}");
        let body = json!({"name": name}).to_string();
        match request(&socket, "POST", "/v1/bridges", &body) {
            Some((200, _)) => there.push(name),
            Some((status, body)) => panic!("{status} {body}"),
            None => return (there, Some(name)),
        }
        if there.len() > 5 {
            let name = there.remove(0);
            match request(&socket, "DELETE", &format!("/v1/bridges/{name}"), "") {
                Some((200, _)) => {}
                Some((status, body)) => panic!("{status} {body}"),
                // It may be gone or not.
                None => return (there, Some(name)),
            }
        }
    }
    (there, None)
}

#[test]
fn killed_at_any_moment_it_comes_back_with_all_that_was_acknowledged_and_nothing_half() {
    let mut daemon = Daemon::new(SMALL);
    let mut next = 0;
    for round in 0..kills() {
        daemon.start();
        let stop = Arc::new(AtomicBool::new(false));
        let (socket, seen) = (daemon.socket(), Arc::clone(&stop));
        let client = std::thread::spawn(move || churn(socket, next, seen));
        // Moments that have nothing to do with those of the writes.
        std::thread::sleep(Duration::from_micros(3_000 + (round as u64 * 7_919) % 90_000));
        daemon.end(Signal::SIGKILL);
        stop.store(true, Ordering::Relaxed);
        let (acknowledged, open) = client.join().unwrap();
        next += 10_000;

        daemon.start();
        let bridges = daemon.get("/v1/bridges");
        let mut names: Vec<&str> = bridges["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bridge| bridge["name"].as_str().unwrap())
            .collect();
        names.retain(|name| Some(*name) != open.as_deref());
        let mut expected: Vec<&str> = acknowledged.iter().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(names, expected, "round {round}, under way: {open:?}");
        // The newest revision is whole, and the one before can be gone back to.
        let history = daemon.get("/v1/config/history");
        assert_eq!(history["items"][0]["current"], true);
        for name in names.iter().map(|name| (*name).to_owned()).chain(open) {
            let path = format!("/v1/bridges/{name}");
            request(&daemon.socket(), "DELETE", &path, "").expect("an answer");
        }
        daemon.end(Signal::SIGKILL);
    }
    assert!(daemon.warnings().is_empty(), "{:?}", daemon.warnings());
}
