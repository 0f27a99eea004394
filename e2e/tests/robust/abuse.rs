//! The API misused in every way a local user can think of, while traffic flows and a good client
//! is answered.

use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use vswitch_e2e::{Cmd, Daemon, DaemonSpec, Need, bins, need, size};

use crate::rig::{
    Random, Station, Talk, Usage, api_is, books, config, daemon, raw_request, request, socket,
};

/// Memory that buffers of many connections may leave behind in the allocator, KiB.
const MORE_KIB: u64 = 48 << 10;

/// What an error must have: a code, words, and nothing that shows a panic.
fn is_error(status: u16, answer: &Value, code: &str) -> Result<()> {
    let error = &answer["error"];
    ensure!(status >= 400 && error["code"] == code, "expected {code}: {status} {answer}");
    ensure!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{answer}");
    ensure!(!answer.to_string().contains("panicked"), "{answer}");
    Ok(())
}

/// Bytes that are no HTTP, or only half of it.
fn garbage(socket: &Path, random: &mut Random) -> Result<()> {
    for round in 0..size(50, 2_000) {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let bytes: Vec<u8> = (0..random.below(2_000)).map(|_| random.below(256) as u8).collect();
        let start: &[u8] = match round % 4 {
            0 => b"",
            1 => b"POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
            2 => b"GET /v1/\xff\xfe HTTP/9.9\r\n\r\n",
            _ => b"POST /v1/ports HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
        };
        // It may hang up before it has got all.
        let _ = stream.write_all(start).and_then(|()| stream.write_all(&bytes));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    Ok(())
}

/// Requests that are HTTP, and wrong. Each has its own clear error.
fn wrong_requests(socket: &Path) -> Result<()> {
    let bodies = [
        ("POST", "/v1/ports", json!({ "name": 7, "type": "tap" }), "E0101"),
        ("POST", "/v1/ports", json!(["x"]), "E0102"),
        ("POST", "/v1/bridges", json!({ "name": "b", "ageing": "soon" }), "E0101"),
        ("POST", "/v1/config/apply", json!({ "toml": 5 }), "E0102"),
        ("POST", "/v1/config/apply", json!({ "toml": "version = 1\n[[", }), "E0101"),
        ("POST", "/v1/fdb", json!({ "entries": [{ "mac": "zz" }] }), "E0102"),
        ("GET", "/v1/nothing", Value::Null, "E0201"),
        ("PUT", "/v1/ports", Value::Null, "E0202"),
        ("DELETE", "/v1/ports/nobody", Value::Null, "E0204"),
        ("GET", "/v1/bridges/%00%ff", Value::Null, "E0102"),
    ];
    for (method, path, body, code) in bodies {
        let (status, answer) = request(socket, method, path, &body)?;
        is_error(status, &answer, code).with_context(|| format!("{method} {path} {body}"))?;
    }
    // Not one problem, but all of them, each with its key.
    let body = json!({ "name": "x", "type": "tap", "bridge": 5, "acess": 10, "mtu": "big" });
    let (status, answer) = request(socket, "POST", "/v1/ports", &body)?;
    is_error(status, &answer, "E0101")?;
    let problems = answer["error"]["problems"].as_array().context("no problems")?;
    for key in ["bridge", "acess", "mtu"] {
        let named = problems.iter().any(|p| p["key"].as_str().is_some_and(|k| k.contains(key)));
        ensure!(named, "{key} is missing in {answer}");
    }
    // More than the largest configuration, and than any other request may have; of JSON, and of
    // nothing.
    let big = |bytes: usize| format!("{{\"toml\":\"{}\"}}", "x".repeat(bytes));
    let too_large = [
        ("/v1/config/apply", big(44 << 20)),
        ("/v1/config/apply", " ".repeat(44 << 20)),
        ("/v1/ports", big(10 << 20)),
    ];
    for (path, body) in too_large {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let (status, answer) =
            raw_request(socket, [head.as_bytes(), body.as_bytes()].concat().as_slice())?;
        is_error(status, &serde_json::from_str(&answer)?, "E0103")?;
    }
    Ok(())
}

/// File descriptors sent along with a request: the daemon must not keep them.
fn sends_files(socket: &Path) -> Result<()> {
    let files: Vec<_> =
        (0..50).map(|_| std::fs::File::open("/dev/null")).collect::<Result<_, _>>()?;
    let fds: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    for _ in 0..20 {
        let mut stream = UnixStream::connect(socket)?;
        let bytes = b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let rights = [ControlMessage::ScmRights(&fds)];
        let none: Option<&nix::sys::socket::UnixAddr> = None;
        sendmsg(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), none)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    Ok(())
}

#[test]
fn abuse_of_the_api_disturbs_nobody() -> Result<()> {
    need!("abuse_of_the_api_disturbs_nobody", Need::Root, Need::Tun, Need::Binaries);
    let (a, b) = (Station::new(1)?, Station::new(2)?);
    let mut daemon = daemon(&[&a, &b], "")?;
    daemon.wait_healthy()?;
    let path = socket(&daemon);
    let talk = Talk::start(&a, &b)?;
    let desired = api_is(&daemon, 200, "GET", "/v1/config", &Value::Null)?;
    let before = Usage::of(&daemon)?;

    // A good client asks all the while.
    let stop = Arc::new(AtomicBool::new(false));
    let good = std::thread::spawn({
        let (stop, path) = (Arc::clone(&stop), path.clone());
        move || -> Result<u64> {
            let mut answers = 0;
            while !stop.load(Ordering::Acquire) {
                let (status, answer) = request(&path, "GET", "/v1/status", &Value::Null)?;
                ensure!(status == 200, "{status} {answer}");
                answers += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(answers)
        }
    });
    // Half a request each, and then silence.
    let mut half_open = Vec::new();
    for n in 0..500 {
        let mut stream = UnixStream::connect(&path)?;
        let part: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /v1/sta",
            _ => b"POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
        };
        stream.write_all(part)?;
        half_open.push(stream);
    }
    garbage(&path, &mut Random::new())?;
    wrong_requests(&path)?;
    sends_files(&path)?;
    api_is(&daemon, 200, "GET", "/v1/version", &Value::Null)?;
    // The daemon itself hangs up on those who say nothing more; we need not.
    let held = before.still_of(&daemon, MORE_KIB)?;
    drop(half_open);
    stop.store(true, Ordering::Release);
    let answers = good.join().map_err(|_| anyhow!("the good client panicked"))??;
    ensure!(answers > 0, "the good client was never answered");

    let now = api_is(&daemon, 200, "GET", "/v1/config", &Value::Null)?;
    ensure!(now == desired, "{desired} became {now}");
    let datagrams = talk.stop_whole(&daemon)?;
    eprintln!("{answers} answers, {datagrams} datagrams, 0 lost; {before:?} {held:?}");
    books(&daemon)?;
    daemon.stop()
}

/// Copies of the binaries that everybody may run.
pub(crate) fn binaries_for_all(dir: &Path) -> Result<()> {
    for name in ["vswitchd", "vswitch-ctl"] {
        let copy = dir.join(name);
        std::fs::copy(bins::binary(name)?, &copy)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[test]
fn an_unprivileged_user_is_refused() -> Result<()> {
    let test = "an_unprivileged_user_is_refused";
    need!(test, Need::Root, Need::Tun, Need::Binaries, Need::Program("setpriv", "util-linux"));
    let dir = tempfile::tempdir()?;
    binaries_for_all(dir.path())?;
    let a = Station::new(1)?;
    let mut spec = DaemonSpec::new(&config(&[&a], ""));
    let home = dir.path().join("daemon");
    spec.dir = Some(home.clone());
    let mut daemon: Daemon = spec.start()?;
    // Nobody may walk to the socket; only its own mode keeps him out.
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755))?;
    let mode = std::fs::metadata(socket(&daemon))?.permissions().mode() & 0o777;
    ensure!(mode == 0o660, "the socket's mode is {mode:o}");
    let ctl = |args: &str| {
        Cmd::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(dir.path().join("vswitch-ctl").display())
            .arg("--run-dir")
            .arg(daemon.run_dir().display())
            .args(args.split(' '))
            .run()
    };
    for args in ["status", "port del s1", "port show"] {
        let out = ctl(args)?.code_is(5)?;
        ensure!(out.stderr.contains("error[E0912]") && out.stderr.contains("hint:"), "{out}");
    }
    // What needs no daemon, he may.
    ctl("version --help")?.ok()?;
    daemon.wait_healthy()?;
    books(&daemon)?;
    daemon.stop()
}
