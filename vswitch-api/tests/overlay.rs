//! VTEPs and tunnels in the configuration: what is accepted, what is refused and with which words.

use std::fmt::Write as _;

use serde_json::json;
use switch_core::config::{Dscp, InnerTags, PeerPolicy, Ttl, TunnelKind, TunnelType};
use switch_core::wire::geneve::OwnedOption;
use vswitch_api::config::{self, Desired, Section};

const BASE: &str = r#"
version = 1
[[bridge]]
name = "br0"
[[bridge]]
name = "br1"
[[port]]
name = "web"
type = "tap"
bridge = "br0"
[[vtep]]
name = "v4"
local = "192.0.2.1"
"#;

const V6: &str = "[[vtep]]\nname = \"v6\"\nlocal = \"2001:db8::1\"\n";

fn tunnel(name: &str, keys: &str) -> String {
    let bridge = if keys.contains("bridge =") { "" } else { "bridge = \"br0\"\n" };
    format!("[[tunnel]]\nname = \"{name}\"\n{bridge}{keys}\n")
}

fn read(text: &str) -> Desired {
    config::from_toml(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

/// Everything that is wrong, each as key, message and hint.
fn told(text: &str) -> Vec<String> {
    let problems = config::from_toml(text).expect_err("should be refused").0;
    for problem in &problems {
        assert!(problem.line.is_some(), "has no place: {problem}");
    }
    problems.iter().map(ToString::to_string).collect()
}

/// One tunnel beside [`BASE`] has this and nothing else wrong with it.
#[track_caller]
fn refused(keys: &str, want: &str) {
    let told = told(&format!("{BASE}{}", tunnel("t", keys)));
    assert!(told.len() == 1 && told[0].contains(want), "{want}\nis not {told:#?}");
}

#[test]
fn tunnels_are_read_and_written_back() {
    let text = [
        BASE,
        V6,
        &tunnel("a", "type = \"vxlan\"\nvtep = \"v4\"\nvni = 10010\nvlan = 10\nremotes = [\"192.0.2.7\"]"),
        &tunnel("b", "type = \"geneve\"\nvtep = \"v6\"\nvni = 0\nttl = \"copy\"\ndscp = 46\n\
                      options = [\"0x0102:0x80:00000001\", \"1:2:\"]\nudp-checksum = false"),
        &tunnel("c", "type = \"gre\"\nvtep = \"v4\"\nkey = 4294967295\nsequence = true\nremotes = []"),
        &tunnel("d", "type = \"nvgre\"\nvtep = \"v4\"\nvni = 0xfffffe\nbridge = \"br1\"\npeers = \"any\"\ndscp = \"copy\""),
        &tunnel("e", "type = \"vxlan\"\nvtep = \"v4\"\nvni = 16777215\nbridge = \"br1\"\ntags = \"keep\"\n\
                      group = \"239.1.1.1\"\nremotes = [\"192.0.2.7\"]\nstrict-reserved = true\ndf = false"),
    ]
    .concat();
    let desired = read(&text);
    let of = |name: &str| &desired.tunnels[name];
    assert_eq!(of("a").vlan.unwrap().get(), 10);
    assert_eq!(of("a").remotes.as_deref(), Some(&["192.0.2.7".parse().unwrap()][..]));
    let TunnelKind::Geneve { udp_port: 6081, options, .. } = &of("b").kind else { panic!() };
    let option = |class, typ, data: &[u8]| OwnedOption { class, typ, data: data.to_vec() };
    assert_eq!(*options, [option(0x0102, 0x80, &[0, 0, 0, 1]), option(1, 2, &[])]);
    assert_eq!((of("b").ttl, of("b").dscp), (Ttl::Copy, Dscp::Set(46)));
    assert_eq!((of("b").udp_checksum, of("a").udp_checksum), (Some(false), None));
    assert_eq!(of("c").remotes, Some(Vec::new()), "none is not the same as the VTEP's");
    assert_eq!(of("b").remotes, None);
    assert_eq!((of("d").peers, of("d").dscp), (PeerPolicy::Any, Dscp::Copy));
    assert_eq!((of("e").tags, of("e").df), (InnerTags::Keep, false));

    let written = config::to_toml(&desired);
    assert_eq!(read(&written), desired, "{written}");
    assert!(
        written.contains("options = [\"0x0102:0x80:00000001\", \"0x0001:0x02:\"]"),
        "{written}"
    );
    for default in ["udp-port", "entropy-ports", "learning", "mss-clamp", "uplink"] {
        assert!(!written.contains(default), "{default}: defaults are left out:\n{written}");
    }
    assert_eq!(config::from_json(&config::to_json(&desired)).unwrap(), desired);
    for spec in desired.tunnels.values() {
        assert_eq!(config::patch_tunnel(spec, &json!({})).unwrap(), *spec);
    }
}

#[test]
fn what_is_wrong_with_one_tunnel() {
    refused("type = \"vxlan\"", "tunnel.t.vni: a tunnel of type vxlan needs vni (add vni =");
    refused("type = \"vxlan\"\nvni = 16777216", "16777216 is out of range");
    refused(
        "type = \"vxlan\"\nvni = 1\nkey = 1",
        "a tunnel of type vxlan has no key; it is for gre",
    );
    refused("type = \"gre\"\nvni = 1", "it is for vxlan, geneve and nvgre");
    refused("type = \"gre\"\nkey = 4294967296", "out of range");
    refused(
        "type = \"gre\"\nsequence = true\npeers = \"any\"",
        "tunnel.t.sequence: sequence numbers",
    );
    refused("type = \"nvgre\"\nvni = 4095", "VSID 4095 is reserved (RFC 7637");
    refused("type = \"nvgre\"\nvni = 0xffffff", "VSID 16777215 is reserved");
    refused("type = \"nvgre\"\nvni = 5000\ntags = \"keep\"", "tunnel.t.tags: NVGRE carries frames");
    refused("type = \"vxlan\"\nvni = 1\nttl = 0", "expected a number from 1 to 255, or \"copy\"");
    refused("type = \"vxlan\"\nvni = 1\ndscp = 64", "64 is out of range");
    refused("type = \"vxlan\"\nvni = 1\nvlan = 4095", "VLAN 4095 does not exist");
    refused("type = \"vxlan\"\nvni = 1\nudp-port = 0", "0 is out of range");
    refused("type = \"vxlna\"\nvni = 1", "did you mean \"vxlan\"?");
    refused("type = \"vxlan\"\nvni = 1\nvlna = 2", "did you mean `vlan`?");
    refused(
        "type = \"vxlan\"\nvni = 1\nbridge = \"br2\"",
        "there is no bridge \"br2\" (did you mean",
    );
    refused(
        "type = \"vxlan\"\nvni = 1\nvtep = \"v5\"",
        "there is no VTEP \"v5\" (did you mean \"v4\"?)",
    );
    let same = told(&format!("{BASE}{}", tunnel("web", "type = \"vxlan\"\nvni = 1")));
    assert!(same[0].contains("tunnel.web.name: there is a port of that name"), "{same:?}");
}

#[test]
fn geneve_options_that_do_not_fit() {
    let with = |options: &str| format!("type = \"geneve\"\nvni = 1\noptions = {options}");
    let of_length = |bytes: usize| format!("[\"1:2:{}\"]", "ab".repeat(bytes));
    read(&format!("{BASE}{}", tunnel("t", &with(&of_length(124)))));
    refused(&with(&of_length(128)), "128 bytes of data do not fit, 124 do");
    refused(&with(&of_length(3)), "3 bytes of data are no multiple of 4");
    let two = of_length(124).replace(']', ", \"1:2:\"]");
    refused(
        &with(&two.replace("\"]", &format!("{}\"]", "cd".repeat(124)))),
        "256 bytes of GENEVE options",
    );
    for (bad, why) in [
        ("[\"1:2\"]", "does not have three parts"),
        ("[\"10000:2:\"]", "the class is not"),
        ("[\"+1:2:\"]", "the class is not"),
        ("[\"1:100:\"]", "the type is not"),
        ("[\"1:2:0\"]", "two hexadecimal digits"),
        ("[\"1:2:00é0\"]", "two hexadecimal digits"),
        ("[7]", "found the number 7 in it"),
        ("\"1:2:\"", "expected a list of GENEVE options"),
    ] {
        refused(&with(bad), why);
    }
    refused("type = \"vxlan\"\nvni = 1\noptions = []", "has no options; it is for geneve");
}

#[test]
fn addresses_that_no_remote_has() {
    let with = |remote: &str| format!("type = \"vxlan\"\nvni = 1\nremotes = [\"{remote}\"]");
    for (remote, why) in [
        ("192.0.2.1", "192.0.2.1 is the address of VTEP \"v4\" itself"),
        ("2001:db8::7", "2001:db8::7 is IPv6, and VTEP \"v4\" is IPv4"),
        ("239.1.1.1", "is a multicast group, not a remote (a vxlan tunnel has `group`"),
        ("255.255.255.255", "is the broadcast address"),
        ("0.0.0.0", "no address of a host"),
        ("127.0.0.1", "is a loopback address"),
        ("::ffff:192.0.2.7", "in disguise (write \"192.0.2.7\")"),
        ("vtep7.example", "expected an IP address, found \"vtep7.example\""),
        ("192.0.2.7\", \"192.0.2.7", "192.0.2.7 is in the list twice"),
    ] {
        refused(&with(remote), why);
    }
    let group =
        |group: &str, more: &str| format!("type = \"vxlan\"\nvni = 1\ngroup = \"{group}\"\n{more}");
    refused(&group("192.0.2.7", "peers = \"any\""), "is no multicast group");
    refused(&group("ff02::1", "peers = \"any\""), "tunnel.t.group: ff02::1 is IPv6");
    refused(&group("239.1.1.1", ""), "nobody's packets would be accepted");
    read(&format!("{BASE}{}", tunnel("t", &group("239.1.1.1", "peers = \"any\""))));
    let on_link = |local: &str| BASE.replace("192.0.2.1", local) + &tunnel("t", &with("fe80::7"));
    read(&on_link("fe80::1"));
    assert!(
        told(&on_link("2001:db8::1"))[0].contains("is of one link, and VTEP \"v4\" is of none")
    );
    let lab = BASE.replace("192.0.2.1", "127.0.0.1");
    read(&format!("{lab}{}", tunnel("t", &with("127.0.0.2"))));
}

#[test]
fn what_is_wrong_with_vteps() {
    let told_of = |vtep: &str, want: &str| {
        let told = told(&format!("{BASE}[[vtep]]\n{vtep}"));
        assert!(told.len() == 1 && told[0].contains(want), "{want}\nis not {told:#?}");
    };
    told_of(
        "name = \"x\"\nlocal = \"192.0.2.1\"",
        "192.0.2.1 is the address of VTEP \"v4\" already",
    );
    told_of("name = \"x\"\nlocal = \"224.0.0.1\"", "is a multicast group, which no host has");
    told_of("name = \"x\"", "vtep.x.local: this key is required");
    told_of("name = \"v4\"\nlocal = \"192.0.2.2\"", "there is another vtep \"v4\" at line 12");
    told_of("name = \"web\"\nlocal = \"192.0.2.2\"", "vtep.web.name: there is a port of that name");
    let more = |keys: &str| format!("name = \"x\"\nlocal = \"192.0.2.2\"\n{keys}");
    told_of(&more("entropy-ports = 1025"), "1025 is out of range");
    told_of(&more("remotes = [\"2001:db8::7\"]"), "vtep.x.remotes: 2001:db8::7 is IPv6");
    told_of(&more("uplink = \"vf0\""), "uplink is for the DPDK datapath");
    let dpdk = |uplink: &str| {
        let daemon = "version = 1\n[daemon]\ndatapath = \"dpdk\"";
        let base = BASE.replace("version = 1", daemon);
        format!("{base}[[vtep]]\n{}", more(&format!("uplink = \"{uplink}\"")))
    };
    // The other VTEP has none.
    let told_of = |uplink: &str, want: &str| {
        let told = told(&dpdk(uplink));
        assert!(told[0].contains("vtep.v4.uplink: a VTEP of the DPDK datapath needs an uplink"));
        assert!(told.len() == 2 && told[1].contains(want), "{want}\nis not {told:#?}");
    };
    told_of("vf0", "there is no port \"vf0\"");
    told_of("web", "port \"web\" cannot be an uplink: it is of type tap");
}

#[test]
fn an_uplink_is_a_port_in_no_bridge() {
    let with = |datapath: &str, port: &str, vtep: &str| {
        format!(
            "version = 1\n[daemon]\ndatapath = \"{datapath}\"\n[[port]]\nname = \"up\"\n{port}\n\
             [[vtep]]\nname = \"v4\"\nlocal = \"192.0.2.1\"\n{vtep}\n"
        )
    };
    let uplink = "uplink = \"up\"";
    let device = "type = \"dpdk\"\ndevargs = \"0000:3b:02.0\"\nexception = \"vf0\"";
    let read = read(&with("dpdk", device, uplink));
    assert_eq!(read.vteps["v4"].uplink.as_deref(), Some("up"));
    assert_eq!(read.ports["up"].exception.as_deref(), Some("vf0"));
    assert_eq!(config::from_toml(&config::to_toml(&read)).unwrap(), read);
    let told_of = |port: &str, want: &str| {
        let port = format!("{port}\nbridge = \"br0\"\n[[bridge]]\nname = \"br0\"");
        let told = told(&with("dpdk", &port, uplink));
        assert!(told.len() == 1 && told[0].contains(want), "{want}\nis not {told:#?}");
    };
    told_of("type = \"tap\"", "port \"up\" cannot be an uplink: it is of type tap");
    told_of("type = \"dpdk\"\ndevargs = \"x\"", "cannot be an uplink: it is in bridge \"br0\"");
}

#[test]
fn which_vtep_a_tunnel_without_one_ends_at() {
    let one = tunnel("t", "type = \"vxlan\"\nvni = 1");
    read(&format!("{BASE}{one}"));
    let several = told(&format!("{BASE}{V6}{one}"));
    assert!(several[0].contains("tunnel.t.vtep: this key is required, as there are 2 VTEPs"));
    assert!(several[0].contains("vtep = \"v4\" or \"v6\""), "{several:?}");
    let base = BASE.split("[[vtep]]").next().unwrap();
    assert!(told(&format!("{base}{one}"))[0].contains("there is no VTEP that it could end at"));
    // A VTEP with problems of its own is not reported by each of its tunnels as well.
    let bad = format!("{BASE}[[vtep]]\nname = \"v6\"\nlocal = \"2001:db8::x\"\n");
    let with = tunnel("u", "type = \"vxlan\"\nvni = 2\nvtep = \"v6\"");
    assert_eq!(told(&format!("{bad}{one}{with}")).len(), 1);
}

/// Two tunnels that exclude each other: the second is refused, naming the first.
#[test]
fn tunnels_that_exclude_each_other() {
    let both = |first: &str, second: &str| {
        format!("{BASE}{}{}", tunnel("one", first), tunnel("two", second))
    };
    let excluded = |first: &str, second: &str, want: &[&str]| {
        let told = told(&both(first, second));
        let all = want.iter().all(|want| told[0].contains(want));
        assert!(
            told.len() == 1 && all && told[0].contains("\"one\""),
            "{want:?}\nis not {told:#?}"
        );
    };
    let br1 = "bridge = \"br1\"\n";
    let vxlan = "type = \"vxlan\"\nvni = 7\n";
    let again = format!("{vxlan}{br1}");
    excluded(vxlan, &again, &["tunnel.two.vni: vni 7 on VTEP \"v4\" is that of tunnel"]);
    let gre = "type = \"gre\"\n";
    excluded(gre, &format!("{gre}{br1}"), &["tunnel.two.key: GRE without a key on VTEP"]);
    let keyed = |key: u32| format!("{gre}{br1}key = {key}");
    excluded(&keyed(0).replace("br1", "br0"), &keyed(0), &["key 0 on VTEP"]);
    read(&both(gre, &keyed(0)));
    let nvgre = "type = \"nvgre\"\nvni = 0x5000\n";
    excluded(nvgre, &keyed(0x50_00ab), &["tunnel.two.key", "VSID 20480 in the upper 24 bits"]);
    excluded(&keyed(0x50_00ab), nvgre, &["tunnel.two.vni", "could not be told"]);
    read(&both(nvgre, &keyed(0x50_01ab)));

    let geneve = "type = \"geneve\"\nvni = 7\n";
    read(&both(vxlan, geneve));
    let at_4789 = format!("{geneve}udp-port = 4789\n{br1}");
    excluded(vxlan, &at_4789, &["tunnel.two.udp-port", "speaks vxlan at UDP port 4789"]);
    let elsewhere = both(&format!("{vxlan}vtep = \"v4\""), &format!("{at_4789}vtep = \"v6\""));
    read(&format!("{elsewhere}{V6}"));

    // One a bridge, VLAN, VTEP and protocol.
    let other = "type = \"vxlan\"\nvni = 8\n";
    excluded(
        vxlan,
        other,
        &["tunnel.two.bridge", "carries the untagged traffic of bridge \"br0\""],
    );
    read(&both(vxlan, &format!("{other}udp-port = 4790")));
    read(&both(vxlan, &format!("{other}vlan = 10")));
    let vlan = |keys: &str| format!("{keys}vlan = 10\n");
    excluded(&vlan(vxlan), &vlan(other), &["tunnel.two.vlan", "carries VLAN 10 of"]);
    let keep = |keys: &str| format!("{keys}tags = \"keep\"\n");
    excluded(&keep(vxlan), &vlan(other), &["tunnel.two.vlan", "carries VLAN 10 of"]);
    excluded(&vlan(vxlan), &keep(other), &["tunnel.two.bridge", "carries every VLAN of", "a part"]);
    read(&both(&vlan(&keep(vxlan)), other));
    excluded(gre, nvgre, &["carries the untagged traffic"]);
}

/// As many bridges, with a tunnel each whose keys are `more`.
fn network(bridges: usize, more: &str) -> String {
    let mut text =
        String::from("version = 1\n[[vtep]]\nname = \"v4\"\nlocal = \"192.0.2.1\"\nremotes = [");
    for remote in 0..1000 {
        let _ = write!(text, "\"198.18.{}.{}\",", remote / 250, remote % 250);
    }
    text.push_str("]\n");
    for number in 0..bridges {
        let _ = write!(
            text,
            "[[bridge]]\nname = \"b{number}\"\n[[tunnel]]\nname = \"t{number}\"\ntype = \"vxlan\"\n{}\n",
            more.replace('#', &number.to_string())
        );
    }
    text
}

/// A configuration of the size that one switch can have. It would take hours if work grew with the
/// product of what is in it.
#[test]
fn as_many_tunnels_as_bridges() {
    let many = 65_536;
    let desired = read(&network(many, "vni = #\nbridge = \"b#\""));
    assert_eq!((desired.bridges.len(), desired.tunnels.len()), (many, many));
    assert!(desired.tunnels.values().all(|tunnel| tunnel.remotes.is_none()));
    config::check(&desired).unwrap();
    for wrong in ["vni = 1\nbridge = \"c#\"", "vni = #\nbridge = \"b0\"\ntags = \"keep\""] {
        let problems = config::from_toml(&network(many / 8, wrong)).unwrap_err().0;
        assert_eq!(problems.len(), 101, "bounded, and the rest counted");
    }
    let vteps: String = (0..4000)
        .map(|n| {
            format!("[[vtep]]\nname = \"v-{n}\"\nlocal = \"198.19.{}.{}\"\n", n / 250, n % 250 + 1)
        })
        .collect();
    for wrong in ["vni = #\nbridge = \"b#\"", "vni = #\nbridge = \"b#\"\nvtep = \"v_#\""] {
        let wrong = network(many / 8, wrong) + &vteps;
        assert_eq!(config::from_toml(&wrong).unwrap_err().0.len(), 101);
    }
}

#[test]
fn erspan_is_for_mirrors() {
    let erspan = |name: &str, keys: &str| {
        let keys = format!("type = \"erspan\"\nremotes = [\"192.0.2.9\"]\n{keys}");
        tunnel(name, &keys).replace("\"br0\"", "\"span\"")
    };
    let file = |rest: &str| format!("{BASE}[[bridge]]\nname = \"span\"\n{rest}");
    // Several are in one bridge, as nothing but a mirror names them.
    let all = [erspan("a", "session = 1023\nindex = 1048575"), erspan("b", "session = 0")].concat();
    let desired = read(&file(&all));
    let kind = |session, index| TunnelKind::Erspan { session, index };
    assert_eq!(desired.tunnels["a"].kind, kind(1023, 0xf_ffff));
    assert_eq!(desired.tunnels["b"].kind, kind(0, 0));
    let patched = config::patch_tunnel(&desired.tunnels["b"], &json!({ "index": 4 })).unwrap();
    assert_eq!(patched.kind, kind(0, 4));
    for (tunnels, says) in [
        (erspan("a", ""), "tunnel.a.session: a tunnel of type erspan needs session"),
        (erspan("a", "session = 1024"), "tunnel.a.session: 1024 is out of range"),
        (erspan("a", "session = 1\nindex = 1048576"), "tunnel.a.index: 1048576 is out of range"),
        (erspan("a", "session = 1\nvni = 2"), "tunnel.a.vni: a tunnel of type erspan has no vni"),
        (
            erspan("a", "session = 1\nlearning = true"),
            "has no learning; it is for vxlan, geneve, gre and nvgre",
        ),
        (
            [erspan("a", "session = 1"), erspan("b", "session = 1")].concat(),
            "session 1 on VTEP \"v4\" is that of tunnel \"a\" already",
        ),
        (
            erspan("a", "session = 1").replace("\"span\"", "\"br0\"")
                + "[[port]]\nname = \"p\"\ntype = \"tap\"\nbridge = \"br0\"\n",
            "tunnel.a.bridge: bridge \"br0\" of tunnel \"a\" has ports, as \"p\"",
        ),
    ] {
        let told = told(&file(&tunnels));
        assert!(told.len() == 1 && told[0].contains(says), "{told:#?}");
    }
}

#[test]
fn patches_of_tunnels_and_vteps() {
    let desired = read(&format!("{BASE}{}", tunnel("t", "type = \"vxlan\"\nvni = 7\nttl = 9")));
    let tunnel = &desired.tunnels["t"];
    let patched = config::patch_tunnel(tunnel, &json!({ "ttl": null, "remotes": [] })).unwrap();
    assert_eq!((patched.ttl, patched.remotes), (Ttl::Set(64), Some(Vec::new())));
    let told = config::patch_tunnel(tunnel, &json!({ "name": "u" })).unwrap_err().to_string();
    assert!(told.contains("name cannot be changed"), "{told}");
    let told = config::patch_tunnel(tunnel, &json!({ "type": "gre" })).unwrap_err().to_string();
    assert!(told.contains("tunnel.t.vni: a tunnel of type gre has no vni"), "{told}");
    let vtep = config::patch_vtep(&desired.vteps["v4"], &json!({ "entropy-ports": 1 })).unwrap();
    assert_eq!(vtep.entropy_ports, 1);
    let told = config::patch_vtep(&vtep, &json!({ "local": null })).unwrap_err().to_string();
    assert!(told.contains("vtep.v4.local: this key is required"), "{told}");
}

proptest::proptest! {
    /// Any keys together: refused with a reason, or kept through TOML, JSON and a patch.
    #[test]
    fn keys(
        keys in proptest::sample::subsequence(config::keys::KEYS, 0..30),
        kind in proptest::sample::select(&TunnelType::ALL[..]),
    ) {
        let mut text = format!("{BASE}[[tunnel]]\nname = \"t\"\ntype = \"{kind}\"\nbridge = \"br0\"\n");
        let own = keys.iter().filter(|key| key.section == Section::Tunnel);
        for key in own.filter(|key| !matches!(key.name, "name" | "type" | "bridge")) {
            let _ = writeln!(text, "{} = {}", key.name, key.example);
        }
        config::fuzz_config(text.as_bytes());
        if let Ok(desired) = config::from_toml(&text) {
            let tunnel = &desired.tunnels["t"];
            proptest::prop_assert_eq!(&config::patch_tunnel(tunnel, &json!({})).unwrap(), tunnel);
            config::check(&desired).unwrap();
        }
    }
}
