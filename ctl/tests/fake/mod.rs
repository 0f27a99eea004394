//! A daemon that answers what it was told to, on a Unix socket in a directory of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;

#[derive(Default)]
struct State {
    replies: HashMap<(String, String), (u16, String)>,
    last_body: Value,
}

pub(crate) struct Fake {
    dir: tempfile::TempDir,
    state: Arc<Mutex<State>>,
}

/// What a run of the binary gave.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ends(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(out: Output) -> Self {
        Self {
            code: out.status.code(),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    }
}

pub(crate) fn run(args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch-ctl"));
    command.args(args).env_remove("VSWITCH_RUN_DIR").output().unwrap().into()
}

impl Fake {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(&stream, &shared);
            }
        });
        Self { dir, state }
    }

    /// Answers a request of exactly this path and query.
    pub(crate) fn on(&self, method: &str, path: &str, status: u16, body: &Value) {
        let key = (method.to_owned(), path.to_owned());
        self.state.lock().unwrap().replies.insert(key, (status, body.to_string()));
    }

    pub(crate) fn text(&self, path: &str, body: &str) {
        let key = ("GET".to_owned(), path.to_owned());
        self.state.lock().unwrap().replies.insert(key, (200, body.to_owned()));
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let dir = self.dir.path().to_str().unwrap();
        run(&[&["--run-dir", dir], args].concat())
    }

    pub(crate) fn last_body(&self) -> Value {
        self.state.lock().unwrap().last_body.clone()
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn answer(mut stream: &UnixStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    if reader.read_line(&mut head).is_err() {
        return;
    }
    let mut words = head.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut state = state.lock().unwrap();
    if let Ok(body) = serde_json::from_slice(&body) {
        state.last_body = body;
    }
    let unknown = (404, format!("{{\"error\":{{\"code\":\"E0201\",\"message\":\"no {path}\"}}}}"));
    let key = (method.to_owned(), path.to_owned());
    let (status, text) = state.replies.get(&key).cloned().unwrap_or(unknown);
    drop(state);
    let length = text.len();
    let reply = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    );
    // A client that has gone needs no answer.
    let _ = stream.write_all(reply.as_bytes());
}
