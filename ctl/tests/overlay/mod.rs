//! VTEPs, tunnels, their remotes, what fits through, and FDB entries behind them.

use serde_json::{Value, json};

use crate::fake::{self, Fake};
use crate::{error, mutation};

fn counters() -> Value {
    json!({ "rx-frames": 12, "rx-bytes": 900, "tx-frames": 7, "tx-bytes": 420, "drops": 3, "fdb": 2 })
}

fn tunnel(name: &str, vlan: Option<u16>) -> Value {
    json!({
        "name": name, "type": "geneve", "vtep": "v4", "network": 10010, "udp-port": 6081,
        "bridge": "br0", "vlan": vlan, "state": "up", "remotes": 2, "inner-mtu": 1442,
        "overhead": 58, "counters": counters(), "origin": "file", "revision": 3,
        "drops": [{ "reason": "tunnel-peer", "frames": 2 }, { "reason": "tunnel-mtu", "frames": 1 }],
        "received-options": [{ "remote": "192.0.2.7", "class": 258, "type": 128, "data": "00000001" }],
        "config": { "name": name, "type": "geneve", "vni": 10010, "bridge": "br0" },
    })
}

#[test]
fn tunnels_are_shown() {
    let fake = Fake::new();
    let items = json!({ "items": [tunnel("a", Some(10)), tunnel("b", None)] });
    fake.on("GET", "/v1/tunnels?bridge=br0&vtep=v4", 200, &items);
    fake.on("GET", "/v1/tunnels/a", 200, &tunnel("a", Some(10)));
    fake.on("GET", "/v1/tunnels/c", 404, &error("E0209", "there is no tunnel c"));
    let ran = fake.run(&["tunnel", "--bridge", "br0", "--vtep", "v4"]);
    let lines: Vec<Vec<_>> =
        ran.ends(0).stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let heads = "NAME TYPE STATE VTEP NETWORK BRIDGE VLAN REMOTES INNER-MTU RX TX DROPS FDB REASON";
    assert_eq!(lines[0].join(" "), heads);
    assert_eq!(lines[1].join(" "), "a geneve up v4 10010 br0 10 2 1442 12 7 3 2 -");
    assert_eq!(lines[2][6], "-", "no VLAN");
    let wide = fake.run(&["-o", "wide", "tunnel", "show", "a"]);
    for words in ["tunnel-peer=2,tunnel-mtu=1", "0x0102:0x80:00000001 from 192.0.2.7", "6081"] {
        assert!(wide.ends(0).stdout.contains(words), "{words}\n{}", wide.stdout);
    }
    let out: Value =
        serde_json::from_str(&fake.run(&["-j", "tunnel", "show", "a"]).stdout).unwrap();
    assert_eq!(out["items"][0]["config"]["vni"], 10010);
    assert_eq!(out["items"][0]["received-options"][0]["class"], 0x0102);
    fake.run(&["tunnel", "show", "c"]).ends(4);
}

#[test]
fn options_become_the_keys_of_the_file() {
    let fake = Fake::new();
    for (method, path) in [
        ("POST", "/v1/tunnels"),
        ("PATCH", "/v1/tunnels/a"),
        ("DELETE", "/v1/tunnels/a"),
        ("POST", "/v1/vteps"),
        ("PATCH", "/v1/vteps/v4"),
        ("DELETE", "/v1/vteps/v4"),
    ] {
        fake.on(method, path, 200, &mutation(true, None));
    }
    let sent = |line: &str| {
        fake.run(&line.split_whitespace().collect::<Vec<_>>()).ends(0);
        fake.last_body()
    };
    let added = sent(
        "tunnel add a --type geneve --vni 10010 --bridge br0 --vlan 10 --vtep v4 --ttl copy \
         --dscp 46 --remotes 192.0.2.7,192.0.2.8 --options 0x0102:0x80:00000001,1:2: --learning=false \
         --udp-checksum",
    );
    let want = json!({
        "name": "a", "type": "geneve", "vni": 10010, "bridge": "br0", "vlan": 10, "vtep": "v4",
        "ttl": "copy", "dscp": 46, "remotes": ["192.0.2.7", "192.0.2.8"], "learning": false,
        "options": ["0x0102:0x80:00000001", "1:2:"], "udp-checksum": true,
    });
    assert_eq!(added, want);
    // What is sent is what the file's reader takes.
    vswitch_api::config::tunnel_from_json(&added).unwrap();
    let gre = sent("tunnel add g --type gre --key 4294967295 --bridge br0 --sequence --checksum");
    vswitch_api::config::tunnel_from_json(&gre).unwrap();
    let set = sent("tunnel set a --group 239.1.1.1 --peers any --unset ttl --remotes=");
    let want = json!({ "group": "239.1.1.1", "peers": "any", "ttl": null, "remotes": [] });
    assert_eq!(set, want, "no remotes is not the same as those of the VTEP");
    fake.run(&["tunnel", "del", "a"]).ends(0);
    let vtep = sent("vtep add v4 --local 192.0.2.1 --entropy-ports 8 --remotes 192.0.2.7");
    let want = json!({
        "name": "v4", "local": "192.0.2.1", "entropy-ports": 8, "remotes": ["192.0.2.7"],
    });
    assert_eq!(vtep, want);
    vswitch_api::config::vtep_from_json(&vtep).unwrap();
    assert_eq!(sent("vtep set v4 --unset remotes"), json!({ "remotes": null }));
    fake.run(&["vtep", "del", "v4"]).ends(0);
}

#[test]
fn errors_and_exit_codes() {
    let fake = Fake::new();
    fake.on("POST", "/v1/tunnels", 409, &error("E0301", "there is a tunnel a already"));
    fake.on("DELETE", "/v1/tunnels/a", 404, &error("E0209", "there is no tunnel a"));
    fake.on("DELETE", "/v1/vteps/v4", 404, &error("E0208", "there is no VTEP v4"));
    let add = ["tunnel", "add", "a", "--type", "vxlan", "--vni", "1", "--bridge", "br0"];
    fake.run(&add).ends(6);
    fake.run(&[&add[..], &["--if-not-exists"]].concat()).ends(0);
    fake.run(&["tunnel", "del", "a"]).ends(4);
    fake.run(&["tunnel", "del", "a", "--if-exists"]).ends(0);
    fake.run(&["vtep", "del", "v4"]).ends(4);
    fake.run(&["vtep", "del", "v4", "--if-exists"]).ends(0);
    fake.on("DELETE", "/v1/vteps/v4", 409, &error("E0302", "tunnels end at it: a"));
    fake.run(&["vtep", "del", "v4", "--if-exists"]).ends(6);
    let reason = "binding UDP 192.0.2.1:4789: cannot assign requested address";
    fake.on("POST", "/v1/vteps", 202, &mutation(false, Some(reason)));
    fake.run(&["vtep", "add", "v4", "--local", "192.0.2.1"]).ends(7);
    for (args, hint) in [
        (&["tunel"][..], "'tunnel'"),
        (&["tunnel", "add", "a", "--type", "vxlna"], "'vxlan'"),
        (&["tunnel", "peers"], "--help"),
        (&["tunnel", "peers", "a", "add"], "--help"),
        (&["tunnel", "peers", "a", "add", "vtep7"], "--help"),
        (&["fdb", "--remote", "vtep7"], "--help"),
    ] {
        let ran = fake::run(args);
        ran.ends(2);
        assert!(ran.stderr.starts_with("error[E0001]: "), "{args:?}\n{}", ran.stderr);
        assert!(ran.stderr.lines().last().unwrap().contains(hint), "{args:?}\n{}", ran.stderr);
    }
}

#[test]
fn remotes_of_a_tunnel() {
    let fake = Fake::new();
    let peer = |address: &str, configured: bool, owners: &[&str], mtu: Option<u32>| {
        json!({ "address": address, "configured": configured, "owners": owners, "seen": configured,
            "path-mtu": mtu, "inner-mtu": 1450, "counters": counters(),
            "drops": [{ "reason": "tunnel-mtu", "frames": 3 }] })
    };
    let items = [
        peer("192.0.2.7", true, &["evpn", "api"], Some(1400)),
        peer("192.0.2.8", false, &["api"], None),
        peer("192.0.2.9", false, &[], None),
    ];
    let path = "/v1/tunnels/a/peers";
    fake.on("GET", path, 200, &json!({ "items": items }));
    let ran = fake.run(&["tunnel", "peers", "a"]);
    let lines: Vec<Vec<_>> =
        ran.ends(0).stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "ADDRESS FROM SEEN PATH-MTU INNER-MTU RX TX DROPS FDB");
    assert_eq!(lines[1].join(" "), "192.0.2.7 config,evpn,api yes 1400 1450 12 7 3 2");
    assert_eq!(lines[2][..4].join(" "), "192.0.2.8 api no -");
    assert_eq!(lines[3][1], "-", "nobody said it");
    fake.on("POST", path, 200, &json!({ "done": 2 }));
    let ran = fake.run(&["tunnel", "peers", "a", "add", "192.0.2.8", "2001:db8::8"]);
    assert_eq!(ran.ends(0).stdout, "2 remotes added\n");
    assert_eq!(fake.last_body(), json!({ "remotes": ["192.0.2.8", "2001:db8::8"] }));
    fake.on("POST", "/v1/tunnels/a/peers/delete", 200, &json!({ "done": 1 }));
    let ran = fake.run(&["tunnel", "peers", "a", "del", "192.0.2.8", "--owner", "evpn"]);
    assert_eq!(ran.ends(0).stdout, "1 remote deleted\n");
    assert_eq!(fake.last_body(), json!({ "owner": "evpn", "remotes": ["192.0.2.8"] }));
    fake.run(&["tunnel", "peers", "b"]).ends(4);
}

#[test]
fn vteps_are_shown() {
    let fake = Fake::new();
    let vtep = json!({
        "name": "v6", "local": "2001:db8::1", "state": "up", "udp-ports": [4789, 6081], "gre": false,
        "entropy-ports": 63, "tunnels": 3, "peers": 2, "lost": ["UDP_GRO: not supported"],
        "counters": { "rx-frames": 1, "rx-bytes": 2, "tx-frames": 3, "tx-bytes": 4, "drops": 5,
            "missed-rx": 0, "lost-after-tx": 0, "fdb": 0 },
        "drops": [{ "reason": "tunnel-unknown", "frames": 5 }], "origin": "api", "revision": 3,
        "config": { "name": "v6", "local": "2001:db8::1" },
    });
    fake.on("GET", "/v1/vteps", 200, &json!({ "items": [vtep] }));
    let table = fake.run(&["vtep"]);
    let line = table.ends(0).stdout.lines().nth(1).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words.join(" "), "v6 2001:db8::1 up 4789,6081 no 3 2 1 3 5 UDP_GRO: not supported");
    let wide = fake.run(&["-o", "wide", "vtep"]);
    assert!(wide.stdout.contains("ENTROPY-PORTS") && wide.stdout.contains("tunnel-unknown=5"));
}

#[test]
fn the_mtu_is_a_sum() {
    let fake = Fake::new();
    let row = |kind: &str, overhead: [u32; 6], remotes: u64, underlay: u32, inner: u32| {
        let [outer_ip, udp, tunnel, options, ethernet, tag] = overhead;
        json!({ "tunnel": kind, "type": kind, "remotes": remotes, "underlay-mtu": underlay,
            "remote": (remotes > 0).then_some("192.0.2.7"), "inner-mtu": inner,
            "overhead": { "outer-ip": outer_ip, "udp": udp, "tunnel": tunnel, "options": options,
                "inner-ethernet": ethernet, "kept-tag": tag } })
    };
    let reply = json!({
        "items": [
            row("vxlan", [20, 8, 8, 0, 14, 0], 3, 1500, 1450),
            row("geneve", [40, 8, 8, 12, 14, 4], 1, 9000, 8914),
            row("gre", [20, 0, 8, 0, 14, 0], 0, 1500, 1458),
        ],
        "ports": [
            { "port": "web", "bridge": "br0", "mtu": 1500, "allowed": 1450, "tunnel": "vxlan",
                "fits": false },
            { "port": "vm7", "bridge": "br0", "allowed": 1450, "tunnel": "vxlan", "fits": true },
        ],
    });
    fake.on("GET", "/v1/mtu", 200, &reply);
    fake.on("GET", "/v1/mtu?tunnel=a%2Fb", 404, &error("E0209", "there is no tunnel a/b"));
    let ran = fake.run(&["mtu"]);
    for words in [
        "192.0.2.7 and 2 more       1450  \
         1500 underlay − 20 IPv4 − 8 UDP − 8 VXLAN − 14 Ethernet = 1450\n",
        "9000 underlay − 40 IPv6 − 8 UDP − 8 GENEVE − 12 options − 14 Ethernet − 4 VLAN tag = 8914\n",
        "1500 underlay − 20 IPv4 − 8 GRE − 14 Ethernet = 1458\n",
        "\n\nPORT  BRIDGE   MTU  ALLOWED  BY     FITS\n",
        "web   br0     1500     1450  vxlan  no\n",
        "vm7   br0        -     1450  vxlan  yes\n",
    ] {
        assert!(ran.ends(0).stdout.contains(words), "{words}\n{}", ran.stdout);
    }
    let out: Value = serde_json::from_str(&fake.run(&["-j", "mtu", "show"]).stdout).unwrap();
    assert_eq!(out["items"][1]["overhead"]["kept-tag"], 4);
    assert_eq!(out["ports"][0]["fits"], false);
    fake.run(&["mtu", "show", "a/b"]).ends(4);
}

#[test]
fn fdb_entries_behind_remotes() {
    let fake = Fake::new();
    let mac = "52:54:00:00:00:01";
    let entry = |remote: Option<&str>| json!({ "bridge": "br0", "mac": mac, "port": "a", "type": "learned", "remote": remote });
    let on_ports = json!({ "items": [entry(None)] });
    fake.on("GET", "/v1/fdb", 200, &on_ports);
    assert!(!fake.run(&["fdb"]).ends(0).stdout.contains("REMOTE"), "nothing is behind one");
    assert!(fake.run(&["-o", "wide", "fdb"]).ends(0).stdout.contains("REMOTE"));
    let behind = json!({ "items": [entry(None), entry(Some("192.0.2.7"))] });
    fake.on("GET", "/v1/fdb?port=a&remote=192.0.2.7", 200, &behind);
    let ran = fake.run(&["fdb", "--port", "a", "--remote", "192.0.2.7"]);
    let lines: Vec<Vec<_>> =
        ran.ends(0).stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "BRIDGE VLAN MAC PORT REMOTE TYPE AGE");
    assert_eq!((lines[1][4], lines[2][4]), ("-", "192.0.2.7"));

    fake.on("POST", "/v1/fdb", 200, &json!({ "done": 1 }));
    fake.on("GET", "/v1/tunnels/a", 200, &tunnel("a", Some(10)));
    fake.run(&["fdb", "add", mac, "--port", "a", "--remote", "192.0.2.7"]).ends(0);
    let sent = &fake.last_body()["entries"][0];
    assert_eq!((&sent["bridge"], &sent["vlan"]), (&json!("br0"), &json!(10)), "the tunnel's");
    assert_eq!((&sent["port"], &sent["remote"]), (&json!("a"), &json!("192.0.2.7")));
    let add =
        ["fdb", "add", mac, "--bridge", "br1", "--vlan", "0", "--port", "b", "--remote", "::7"];
    fake.run(&add).ends(0);
    let sent = &fake.last_body()["entries"][0];
    assert_eq!((&sent["bridge"], &sent["vlan"]), (&json!("br1"), &json!(0)));
    assert_eq!(sent["remote"], "::7");

    fake.on("POST", "/v1/fdb/flush", 200, &json!({ "done": 1 }));
    fake.run(&["fdb", "flush", "--remote", "192.0.2.7"]).ends(0);
    assert_eq!(fake.last_body()["remote"], "192.0.2.7");

    let moved = json!({ "time": "2026-01-31T12:00:00.000Z", "event": "moved", "bridge": "br0",
        "vlan": 10, "mac": mac, "port": "a", "remote": "192.0.2.8", "from": "a",
        "from-remote": "192.0.2.7" });
    fake.text("/v1/fdb/monitor", &format!("{moved}\n"));
    let want = "br0 vlan 10 on a behind 192.0.2.8 from a behind 192.0.2.7\n";
    assert!(fake.run(&["fdb", "monitor"]).ends(0).stdout.ends_with(want));
}
