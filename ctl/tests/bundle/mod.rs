//! `support-bundle`, read back with tar as anybody would.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fake::{self, Fake, Ran};

const CONFIG: &str = "version = 1\n[daemon]\nlog = \"info\"\n";

/// A daemon that knows its configuration and its log's worth of metrics.
fn daemon() -> Fake {
    let fake = Fake::new();
    fake.on(
        "GET",
        "/v1/status",
        200,
        &json!({
            "version": "0.1.0", "datapath": "tap", "uptime": 1, "revision": 1, "workers": 1,
            "bridges": 0, "ports": { "up": 0, "down": 0, "waiting": 0, "failed": 0 },
            "fdb": { "used": 30000, "max": 40000 }, "drops-per-second": 0.0, "degraded": false,
            "warnings": [], "limits": { "ports": 1, "bridges": 1, "fdb-bytes": 1 },
        }),
    );
    fake.on("GET", "/v1/config", 200, &json!({ "revision": 1, "toml": CONFIG, "config": {} }));
    fake.on("GET", "/v1/tunnels", 200, &json!({ "items": [] }));
    fake.text("/v1/metrics", "vswitch_uptime_seconds 1\n");
    fake
}

/// A file of the archive, which has one directory.
fn unpacked(archive: &Path, name: &str) -> String {
    let pattern = format!("*/{name}");
    let out = Command::new("tar")
        .args(["-xzOf".as_ref(), archive.as_os_str(), "--wildcards".as_ref(), pattern.as_ref()])
        .output()
        .unwrap();
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn everything_but_secrets_is_in_it() {
    let (fake, dir) = (daemon(), tempfile::tempdir().unwrap());
    let log = fake.file("vswitchd.log", "INFO started\nDEBUG ipmi password=hunter2 tried\n");
    let file = dir.path().join("bundle.tar.gz");
    let path = file.to_str().unwrap();
    let ran = fake.run(&["support-bundle", path, "--log", &log]);
    ran.ends(0);
    assert!(ran.stdout.contains("value left out: log.txt: password"), "{}", ran.stdout);
    assert_eq!(unpacked(&file, "config.toml"), CONFIG);
    assert_eq!(unpacked(&file, "metrics.txt"), "vswitch_uptime_seconds 1\n");
    let log = unpacked(&file, "log.txt");
    assert_eq!(log, "INFO started\nDEBUG ipmi password=(left out) tried\n");
    assert!(unpacked(&file, "machine/proc/version").contains("Linux"));
    let json = |name: &str| serde_json::from_str::<Value>(&unpacked(&file, name)).unwrap();
    assert_eq!(json("status.json")["revision"], 1);
    assert!(json("doctor.json")["items"].is_array());
    // What is missing is said: this daemon has no such path, and its FDB is large.
    let manifest = json("manifest.json");
    assert_eq!(manifest["left-out"], json!(["log.txt: password"]));
    let missing = manifest["missing"].as_array().unwrap();
    let reason =
        |what: &str| missing.iter().find(|one| one["what"] == what).map(|one| &one["reason"]);
    assert_eq!(reason("cpu.json").unwrap(), "no /v1/cpu");
    assert!(reason("fdb.json").unwrap().as_str().unwrap().starts_with("30000 entries"));

    let again = fake.run(&["support-bundle", path]);
    again.ends(6);
    assert!(again.stderr.contains("exists already\nhint: "), "{}", again.stderr);
    assert_eq!(json("manifest.json"), manifest, "it is as it was");
}

#[test]
fn without_a_daemon_the_rest_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let ran = fake::run(&["--run-dir", place, "-j", "support-bundle", place]);
    ran.ends(0);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let file = Path::new(said["file"].as_str().unwrap());
    assert!(file.parent() == Some(dir.path()) && file.extension().is_some_and(|ext| ext == "gz"));
    let manifest: Value = serde_json::from_str(&unpacked(file, "manifest.json")).unwrap();
    assert_eq!(manifest["missing"][0]["what"], "answers of vswitchd");
    assert!(unpacked(file, "doctor.json").contains("daemon-silent"));
}

#[test]
fn what_cannot_be_written_or_read_is_told() {
    let (fake, dir) = (daemon(), tempfile::tempdir().unwrap());
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let told = |ran: &Ran, message: &str| {
        ran.ends(6);
        assert!(ran.stderr.starts_with("error[E0921]: cannot "), "{}", ran.stderr);
        assert!(ran.stderr.contains(message) && ran.stderr.contains("\nhint: "), "{}", ran.stderr);
    };
    told(&fake.run(&["support-bundle", &place("no/such.tar.gz")]), "No such file or directory");
    told(&fake.run(&["support-bundle", "/dev/full"]), "write /dev/full: No space left on device");
    let file = place("a.tar.gz");
    told(&fake.run(&["support-bundle", &file, "--log", &place("no.log")]), "read the log");
    assert!(!Path::new(&file).exists(), "half a bundle does not stay");
}
