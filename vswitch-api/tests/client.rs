//! The client against sockets that answer in every way but the right one, and in that too.

use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::Duration;

use vswitch_api::client::{Client, SOCKET_NAME};
use vswitch_api::types::VersionReply;
use vswitch_api::{ApiError, Code};

/// Answers one request with these bytes and gives its head back.
fn serve(dir: &tempfile::TempDir, reply: &'static str) -> JoinHandle<String> {
    let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut head = String::new();
        for line in BufReader::new(&stream).lines().map_while(Result::ok) {
            if line.is_empty() {
                break;
            }
            head.push_str(&line);
            head.push('\n');
        }
        (&stream).write_all(reply.as_bytes()).unwrap();
        head
    })
}

fn ask(reply: &'static str) -> Result<VersionReply, ApiError> {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, reply);
    let client = Client::new(dir.path()).unwrap();
    let answer = client.get("/v1/version");
    let head = server.join().unwrap();
    assert!(head.starts_with("GET /v1/version HTTP/1.1\n"), "{head}");
    answer
}

#[test]
fn a_reply_and_an_error() {
    let reply =
        ask("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"version\":\"1.2\",\"api\":\"v1\"}");
    assert_eq!(reply.unwrap().version, "1.2");
    let error = ask("HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n\
                     {\"error\":{\"code\":\"E0204\",\"message\":\"no port \\\"x\\\"\"}}");
    let error = error.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::NoSuchPort, "no port \"x\""));
}

#[test]
fn what_is_no_daemon() {
    for reply in [
        "",
        "220 mail.example ESMTP\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>",
        "HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\noops",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}",
    ] {
        assert_eq!(ask(reply).unwrap_err().code, Code::BadReply, "{reply:?}");
    }
}

#[test]
fn nobody_there_and_nobody_answering() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path()).unwrap();
    let error = client.get::<VersionReply>("/v1/version").unwrap_err();
    assert_eq!((error.code, error.code.exit()), (Code::Unreachable, 5));
    assert!(error.hint.unwrap().contains("systemctl start vswitchd"));
    // A listener that never accepts: the connection is made and nothing comes.
    let _listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let client = client.with_timeout(Duration::from_millis(50));
    let error = client.get::<VersionReply>("/v1/version").unwrap_err();
    assert_eq!(error.code, Code::Timeout);
}

#[test]
fn a_stream_of_lines_that_breaks_off() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(
        &dir,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n3\r\n3\n4\r\n2\r\n5\n\r\n",
    );
    let client = Client::new(dir.path()).unwrap();
    let mut seen = Vec::new();
    let each = |number: u32| {
        seen.push(number);
        ControlFlow::Continue(())
    };
    let error = client.lines("/v1/events", each).unwrap_err();
    assert_eq!(error.code, Code::Unreachable, "the last chunk never came");
    assert_eq!(seen, [1, 2, 3, 45]);
    server.join().unwrap();
}
