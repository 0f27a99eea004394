//! The API over a real socket: every route of the document, and what clients must not be able to
//! do.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::extract::State;
use serde_json::{Value as Json, json};
use switch_core::testing::LoopbackBackend;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use vswitch_api::routes::ROUTES;
use vswitch_api::types::FdbFilter;

use super::*;
use crate::control::Controller;
use crate::store::{Store, load};

/// A switch with two ports, and its API on a socket.
struct Server {
    socket: PathBuf,
    control: Control,
    events: Events,
    thread: Option<std::thread::JoinHandle<()>>,
    _runtime: Runtime,
    _dir: TempDir,
}

const FILE: &str = r#"
version = 1
[daemon]
max-fdb-total = 4096
[[bridge]]
name = "br0"
[[port]]
name = "a"
type = "tap"
bridge = "br0"
[[port]]
name = "b"
type = "tap"
bridge = "br0"
access = 10
[[vtep]]
name = "v4"
local = "192.0.2.1"
[[tunnel]]
name = "t"
type = "vxlan"
vtep = "v4"
vni = 10
bridge = "br0"
remotes = ["192.0.2.7"]
[[port]]
name = "probe"
type = "tap"
[[mirror]]
name = "span"
bridges = ["br0"]
to = "probe"
"#;

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let (desired, _) = load(&mut store, FILE.as_bytes(), false).unwrap();
        let events = Events::default();
        let (died, _) = crossbeam::channel::unbounded();
        let backend = LoopbackBackend::default();
        let (controller, control) =
            Controller::start(backend, store, desired, events.clone(), &died).unwrap();
        let thread = Some(std::thread::spawn(move || controller.run().unwrap()));
        let socket = dir.path().join("api.sock");
        let listener = bind(&socket).unwrap();
        let runtime = Runtime::new().unwrap();
        let app = App::new(control.clone(), events.clone());
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            tokio::spawn(serve_unix(listener, router(app)));
        });
        Self { socket, control, events, thread, _runtime: runtime, _dir: dir }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// One request over a connection of its own: status and body.
    fn send(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // At once: a refusal that needs no body closes the connection under a second write.
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        (status, answer[end + 4..].to_vec())
    }

    fn json(&self, method: &str, path: &str, body: &Json) -> (u16, Json) {
        let (status, bytes) = self.send(method, path, &bytes_of(body));
        let json = serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)));
        (status, json)
    }

    fn get(&self, path: &str) -> Json {
        let (status, json) = self.json("GET", path, &Json::Null);
        assert_eq!(status, 200, "{path}: {json}");
        json
    }

    /// The code of the error that a request is refused with.
    fn refused(&self, method: &str, path: &str, body: &Json) -> (u16, String) {
        let (status, json) = self.json(method, path, body);
        let code = json["error"]["code"].as_str().unwrap_or_else(|| panic!("{path}: {json}"));
        (status, code.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A body; `null` is none.
fn bytes_of(body: &Json) -> Vec<u8> {
    if body.is_null() { Vec::new() } else { body.to_string().into_bytes() }
}

fn config() -> Json {
    json!({"toml": FILE})
}

/// A request that each route can answer.
fn request(operation: &str) -> (Option<&'static str>, Json) {
    match operation {
        "add-bridge" => (None, json!({"name": "new"})),
        "delete-bridge" => (Some("/v1/bridges/new"), Json::Null),
        "add-port" => (None, json!({"name": "c", "type": "tap", "bridge": "br0"})),
        "delete-port" => (Some("/v1/ports/c"), Json::Null),
        "add-vtep" => (None, json!({"name": "new", "local": "192.0.2.2"})),
        "add-mirror" => (None, json!({"name": "new", "bridges": ["br0"], "to": "probe2"})),
        "delete-mirror" => (Some("/v1/mirrors/new"), Json::Null),
        "delete-vtep" => (Some("/v1/vteps/new"), Json::Null),
        "add-tunnel" => {
            let keys = json!({"name": "new", "type": "gre", "vtep": "v4", "bridge": "br0"});
            (None, keys)
        }
        "delete-tunnel" => (Some("/v1/tunnels/new"), Json::Null),
        "add-tunnel-peers" | "delete-tunnel-peers" => (None, json!({"remotes": ["192.0.2.9"]})),
        "set-bridge" | "set-port" | "set-vtep" | "set-tunnel" | "set-mirror" => (None, json!({})),
        "add-vlan" => (None, json!({"port": "b", "vlan": 10, "mode": "access"})),
        "delete-vlan" => (Some("/v1/vlans/b/10"), Json::Null),
        "add-fdb" => (None, json!({"entries": []})),
        "delete-fdb" => (None, json!({"entries": []})),
        "trace-frame" => {
            (None, json!({"in-port": "a", "hex": "ff:ff:ff:ff:ff:ff 020000000001 0806"}))
        }
        "flush-fdb" | "rollback-config" => (None, json!({})),
        "validate-config" | "diff-config" => (None, config()),
        "apply-config" => (None, config()),
        _ => (None, Json::Null),
    }
}

#[test]
fn every_route_of_the_document_answers_and_no_other_does() {
    let server = Server::start();
    let document = server.get("/v1/openapi.json");
    // For a second mirror.
    let (status, _) = server.json("POST", "/v1/ports", &json!({"name": "probe2", "type": "tap"}));
    assert_eq!(status, 200);
    for route in ROUTES {
        let (path, body) = request(route.operation);
        let path = path.map_or_else(
            || {
                route
                    .path
                    .replace("/bridges/{name}", "/bridges/br0")
                    .replace("/vteps/{name}", "/vteps/v4")
                    .replace("/mirrors/{name}", "/mirrors/span")
                    .replace("/tunnels/{name}", "/tunnels/t")
                    .replace("{name}", "a")
                    .replace("{revision}", "1")
            },
            str::to_owned,
        );
        let method = route.method;
        assert!(!document["paths"][route.path][method.to_lowercase()].is_null(), "{path}");
        if ["monitor-fdb", "trace", "capture"].contains(&route.operation) {
            // Does not end by itself.
            let mut stream = server.connect();
            write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut head = [0; 15];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            continue;
        }
        let (status, answer) = server.send(method, &path, &bytes_of(&body));
        let words = String::from_utf8_lossy(&answer);
        // Each is there. The two that need more than a running switch say so in their own words.
        let expected: &[u16] = match route.operation {
            "confirm-config" => &[409],
            "delete-vlan" => &[422],
            _ => &[200],
        };
        assert!(expected.contains(&status), "{method} {path}: {status} {words}");
    }
    let paths = document["paths"].as_object().unwrap().len();
    let known: std::collections::BTreeSet<_> = ROUTES.iter().map(|route| route.path).collect();
    assert_eq!(paths, known.len());
}

#[test]
fn methods_that_the_document_does_not_have_are_refused() {
    let server = Server::start();
    for route in ROUTES {
        let path = route
            .path
            .replace("{name}", "a")
            .replace("{port}", "a")
            .replace("{vlan}", "10")
            .replace("{revision}", "1");
        let of_path = |method: &str| {
            ROUTES.iter().any(|other| other.path == route.path && other.method == method)
        };
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if !of_path(method) {
                let refused = server.refused(method, &path, &json!({}));
                assert_eq!(refused, (405, "E0202".to_owned()), "{method} {path}");
            }
        }
    }
    assert_eq!(server.refused("GET", "/v1/nope", &Json::Null), (404, "E0201".to_owned()));
    assert_eq!(server.refused("GET", "/", &Json::Null), (404, "E0201".to_owned()));
}

#[test]
fn wrong_bodies_are_refused_with_every_problem() {
    let server = Server::start();
    let before = server.get("/v1/config");
    let (status, body) = server.json(
        "POST",
        "/v1/ports",
        &json!({"name": "x y", "type": "tap", "bridge": 7, "colour": "red", "acces": 10}),
    );
    assert_eq!(status, 422);
    let problems = body["error"]["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 4, "{body}");
    let hint = problems.iter().find_map(|p| p["hint"].as_str().filter(|h| h.contains("access")));
    assert!(hint.is_some(), "{body}");
    for body in [json!(null), json!([]), json!(7), json!("text"), json!({"entries": 1, "x": 2})] {
        for path in ["/v1/fdb", "/v1/vlans", "/v1/config/apply", "/v1/config/rollback"] {
            let (status, _) = server.refused("POST", path, &body);
            assert!((400..500).contains(&status), "{path} {body}: {status}");
        }
        let (status, _) = server.refused("PATCH", "/v1/ports/a", &body);
        assert!((400..500).contains(&status), "{body}: {status}");
    }
    for path in ["/v1/fdb?vlan=x", "/v1/drops?colour=red", "/v1/events?follow=maybe"] {
        assert_eq!(server.refused("GET", path, &Json::Null).0, 400, "{path}");
    }
    for path in ["/v1/config/history/x", "/v1/config/history/-1"] {
        assert_eq!(server.refused("GET", path, &Json::Null).0, 400, "{path}");
    }
    assert_eq!(server.refused("GET", "/v1/drops?reason=nope", &Json::Null).0, 400);
    assert_eq!(server.refused("GET", "/v1/drops?port=nope", &Json::Null).0, 404);
    assert_eq!(server.refused("GET", "/v1/fdb/monitor?bridge=nope", &Json::Null).0, 404);
    assert_eq!(server.get("/v1/config"), before);
}

#[test]
fn a_change_that_is_done_answers_200_and_one_that_is_refused_says_why() {
    let server = Server::start();
    let port = json!({"name": "c", "type": "tap", "bridge": "br0"});
    let (status, reply) = server.json("POST", "/v1/ports", &port);
    assert_eq!((status, &reply["realised"]), (200, &json!(true)), "{reply}");
    assert_eq!(server.refused("POST", "/v1/ports", &port), (409, "E0301".to_owned()));
    assert_eq!(server.get("/v1/ports/c")["state"], "up");
    assert_eq!(server.get("/v1/ports/c")["origin"], "api");
    assert_eq!(server.refused("GET", "/v1/ports/d", &Json::Null), (404, "E0204".to_owned()));
    let history = server.get("/v1/config/history");
    let what = history["items"][0]["what"].as_str().unwrap();
    let uid = nix::unistd::getuid();
    let pid = std::process::id();
    assert_eq!(what, format!("port add c (uid {uid} pid {pid})"));
}

#[test]
fn a_body_of_ten_megabytes_is_refused_and_others_are_served() {
    let server = Server::start();
    let body = json!({"entries": ["x".repeat(10_000_000)]});
    assert_eq!(server.refused("POST", "/v1/fdb", &body), (413, "E0103".to_owned()));
    assert_eq!(server.get("/v1/status")["degraded"], false);
}

#[test]
fn a_configuration_may_be_larger_than_other_bodies() {
    let server = Server::start();
    let comment = "\"\n".repeat(5_000_000).replace('\n', "\n# ");
    let body = json!({"toml": format!("version = 1\n# {comment}")});
    assert!(bytes_of(&body).len() > 20_000_000);
    let (status, reply) = server.json("POST", "/v1/config/validate", &body);
    assert_eq!((status, &reply["valid"]), (200, &json!(true)), "{reply}");
    let body = json!({"toml": "#".repeat(50_000_000)});
    assert_eq!(server.refused("POST", "/v1/config/validate", &body), (413, "E0103".to_owned()));
}

#[test]
fn garbage_is_answered_or_dropped_and_never_kills() {
    let server = Server::start();
    let pieces: [&[u8]; 6] = [
        b"\x00\x01\x02\x03\xff\xfe\xfd\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/ports HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"\r\n\r\n\r\n\r\n",
        &[b'A'; 200_000],
    ];
    for piece in pieces {
        let mut stream = server.connect();
        // The daemon may close before it has read all of it.
        let _ = stream.write_all(piece);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{:?}", &piece[..piece.len().min(20)]);
    }
    assert_eq!(server.get("/v1/status")["degraded"], false);
}

#[test]
fn half_open_clients_hold_nobody_up_and_are_dropped() {
    let server = Server::start();
    let mut half: Vec<UnixStream> = (0..200).map(|_| server.connect()).collect();
    for (index, stream) in half.iter_mut().enumerate() {
        let start: &[u8] = match index % 3 {
            0 => b"",
            1 => b"GET /v1/sta",
            _ => b"POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        };
        stream.write_all(start).unwrap();
    }
    for _ in 0..20 {
        server.get("/v1/status");
    }
    // Each ends by itself, those in their body with an answer.
    let started = Instant::now();
    let mut told = 0;
    for mut stream in half {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("closed by the daemon");
        told += usize::from(answer.starts_with(b"HTTP/1.1 408"));
    }
    assert!(told >= 66, "{told} were told, after {:?}", started.elapsed());
}

#[test]
fn the_socket_is_for_root_and_the_group_and_an_old_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start();
    let mode = std::fs::metadata(&server.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(bind(&server.socket), Err(SocketError::Live(_))));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    drop(bind(&path).unwrap());
    assert!(bind(&path).is_ok(), "a stale one is replaced");
    let other = dir.path().join("file");
    std::fs::write(&other, "mine").unwrap();
    assert!(matches!(bind(&other), Err(SocketError::Taken(_))));
    assert_eq!(std::fs::read(&other).unwrap(), b"mine");
}

#[test]
fn events_are_streamed_as_they_happen() {
    use std::io::{BufRead, BufReader};
    let server = Server::start();
    let mut stream = server.connect();
    write!(stream, "GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut find = |words: &str| lines.any(|line| line.contains(words));
    assert!(find("application/jsonl"));
    assert!(find("\"subject\":\"port b\""));
    server.json("POST", "/v1/bridges", &json!({"name": "new"}));
    assert!(find("bridge add new"));
}

#[test]
fn metrics_are_text_and_name_every_port() {
    let server = Server::start();
    let (status, body) = server.send("GET", "/v1/metrics", b"");
    let text = String::from_utf8(body).unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("vswitch_port_received_frames_total{port=\"a\"} 0"), "{text}");
}

/// A reader of something that never happens must not be served for ever once it has gone.
#[test]
fn a_monitor_ends_with_its_reader_even_if_nothing_happens() {
    let server = Server::start();
    let until = |monitored: bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.events.is_monitored() != monitored {
            assert!(Instant::now() < deadline, "monitored: {}", !monitored);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut stream = server.connect();
    write!(stream, "GET /v1/fdb/monitor?bridge=br0 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    until(true);
    drop(stream);
    until(false);
}

/// Anyone who reaches the metrics' address may ask as often as they like. That must not keep the
/// operator's own requests out.
#[tokio::test]
async fn costly_answers_are_asked_for_one_at_a_time() {
    let (control, asked) = Control::unanswered();
    let app = App::new(control, Events::default());
    for _ in 0..300 {
        let (scrape, list) = (app.clone(), app.clone());
        tokio::spawn(system::metrics(State(scrape)));
        tokio::spawn(fdb::all(State(list), reply::Asked(FdbFilter::default())));
    }
    for turn in 1..=3 {
        // One thread, first come first served: all have got as far as they can.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.len(), 2, "turn {turn}");
        drop(asked.try_recv().unwrap());
    }
}
