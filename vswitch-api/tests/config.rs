//! The configuration from outside: what is accepted, what is refused and with which words.

use vswitch_api::config::{self, ChangeKind, Datapath, Desired, Problem};

/// The example of the design document, without tunnels.
const EXAMPLE: &str = r#"
version = 1
[daemon]
datapath = "tap"
cpus = "0-1"
idle = "adaptive"
metrics = "127.0.0.1:9470"
max-fdb-total = 1048576
[dpdk]
hugepages = "auto"
[[bridge]]
name = "br0"
ageing = "300s"
max-fdb = 65536
[[port]]
name = "web"
type = "tap"
bridge = "br0"
access = 10
netns = "web"
max-fdb = 1024
storm-limit = "1000 pps"
isolated = false
[[port]]
name = "vm7"
type = "netdev"
device = "vnet7"
bridge = "br0"
trunk = [10, "20-22"]
native = 1
"#;

fn problems(text: &str) -> Vec<Problem> {
    config::from_toml(text).expect_err("should be refused").0
}

/// Line, key and message of each problem.
fn told(text: &str) -> Vec<String> {
    problems(text).iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_is_read_and_written_back() {
    let desired = config::from_toml(EXAMPLE).unwrap();
    assert_eq!(desired.daemon.datapath, Datapath::Tap);
    assert_eq!(desired.daemon.cpus.as_ref().unwrap().cpus(), [0, 1]);
    assert_eq!(desired.ports["web"].max_fdb, Some(1024));
    assert_eq!(desired.ports["vm7"].max_fdb, None);
    assert_eq!(desired.ports["vm7"].storm_limit.unwrap().pps, 1000);
    let written = config::to_toml(&desired);
    assert_eq!(config::from_toml(&written).unwrap(), desired, "{written}");
    assert!(written.contains("trunk = [10, \"20-22\"]"), "{written}");
    assert!(!written.contains("storm-limit"), "defaults are left out:\n{written}");
    let json = serde_json::to_string(&desired).unwrap();
    assert_eq!(serde_json::from_str::<Desired>(&json).unwrap(), desired, "{json}");
}

#[test]
fn all_problems_at_once_each_with_its_place() {
    let text = r#"version = 1
[daemon]
cpus = "0x3"
idel = "poll"
[[bridge]]
name = "br0"
ageing = 300
[[bridge]]
name = "br0"
[[port]]
name = "web"
type = "tap"
bridge = "br1"
access = 10
trunk = [10]
storm-limit = "1000"
[[port]]
name = "a very long name"
type = "netdev"
bridge = "br0"
mtu = 70000
[[port]]
type = "tpa"
[[tunnel]]
name = "x"
"#;
    let told = told(text);
    let expected = [
        "line 3, column 8: daemon.cpus: CPUs are given as a list, not as a mask",
        "line 4, column 1: daemon.idel: unknown key (did you mean `idle`?)",
        "line 7, column 10: bridge.br0.ageing: 300 has no unit (write \"300s\" for seconds)",
        "line 9, column 8: bridge.br0.name: there is another bridge \"br0\" at line 6",
        "line 13, column 10: port.web.bridge: there is no bridge \"br1\" (did you mean \"br0\"?)",
        "line 15, column 9: port.web.trunk: access and trunk exclude each other",
        "line 16, column 15: port.web.storm-limit: 1000 has no unit (write \"1000 pps\")",
        "port.a very long name.device: a port of type netdev needs device",
        "port.a very long name.name: the name \"a very long name\" has ' ' in it",
        "port.a very long name.mtu: 70000 is out of range",
        "port[2].name: this key is required",
        "port[2].type: expected \"tap\" or",
        "did you mean \"tap\"?",
        "line 24, column 1: tunnel.x.type: this key is required",
    ];
    for want in expected {
        assert!(told.iter().any(|line| line.contains(want)), "{want}\nnot in {told:#?}");
    }
    let lines: Vec<_> = problems(text).iter().map(|problem| problem.line).collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn types_ports_and_references() {
    let port = |keys: &str| {
        format!("version = 1\n[[bridge]]\nname = \"br0\"\n[[port]]\nname = \"p\"\n{keys}\n")
    };
    let tells = |keys: &str, want: &str| {
        let told = told(&port(keys));
        assert!(told.iter().any(|line| line.contains(want)), "{want}\nnot in {told:#?}");
    };
    tells("type = \"tap\"\nbridge = \"br0\"\nnative = 1", "native stands only with trunk");
    tells(
        "type = \"tap\"\nbridge = \"br0\"\ntake-over = true",
        "has no take-over; it is for netdev",
    );
    tells("type = \"tap\"\nbridge = \"br0\"\nmac = \"01:00:00:00:00:01\"", "group address");
    tells("type = \"tap\"\nbridge = \"br0\"\naccess = 4095", "VLAN 4095 does not exist");
    tells("type = \"dpdk\"\ndevargs = \"0000:00:01.0\"", "needs the DPDK datapath");
    tells("type = \"netdev\"\nbridge = \"br0\"\ndevice = \"eth0/1\"", "has '/' in it");
    let long = "version = 1\n[[bridge]]\nname = \"br0\"\n[[port]]\nname = \"sixteen-letters-\"\n\
                type = \"tap\"\nbridge = \"br0\"\n";
    assert!(told(long)[0].contains("longer than 15"), "{:?}", told(long));
    let same = format!(
        "{}[[port]]\nname = \"q\"\ntype = \"netdev\"\ndevice = \"v0\"\nbridge = \"br0\"\n",
        port("type = \"netdev\"\ndevice = \"v0\"\nbridge = \"br0\"")
    );
    assert!(told(&same)[0].contains("is that of port \"p\" already"), "{:?}", told(&same));
}

#[test]
fn what_is_no_configuration_at_all() {
    assert!(told("version = ")[0].starts_with("line 1, column 1"), "{:?}", told("version = "));
    assert!(told("")[0].contains("version: this key is required"));
    assert!(told("version = 2")[0].contains("out of range"));
    assert!(told("version = 1\nport = 3")[0].contains("write [[port]]"));
    let big = format!("# {}\n", "x".repeat(config::MAX_CONFIG_BYTES));
    assert!(told(&big)[0].contains("are the limit"));
    assert!(config::from_toml_bytes(b"version = 1\n# \xff").is_err());
    let garbage: String = (0..1000).map(|number| format!("k{number} = {number}\n")).collect();
    assert_eq!(problems(&garbage).len(), 101, "bounded, and the rest counted");
}

/// Would take minutes if work grew with the product of what is in the file.
#[test]
fn work_is_bounded_by_the_size_of_the_file() {
    let mut text = String::from("version = 1\n");
    for number in 0..4096 {
        text.push_str(&format!("[[bridge]]\nname = \"bridge-with-a-long-name-{number}\"\n"));
        text.push_str(&format!("[[port]]\nname = \"p{number}\"\ntype = \"tap\"\n"));
        text.push_str(&format!("bridge = \"bridge-with-another-name-{number}\"\n"));
    }
    assert_eq!(problems(&text).len(), 101);
    text.push_str("[[port]]\nname = \"one-more\"\ntype = \"tap\"\nbridge = \"b\"\n");
    assert!(told(&text)[0].contains("4097 of these are more than 4096"), "{:?}", told(&text));
    let keys: String = (0..100_000).map(|number| format!("some-key-{number} = 0\n")).collect();
    assert_eq!(problems(&keys).len(), 101);
    let deep = format!("version = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(problems(&deep).len(), 1);
}

#[test]
fn differences_by_object_and_key() {
    let old = config::from_toml(EXAMPLE).unwrap();
    let mut new = old.clone();
    new.ports.remove("vm7");
    new.bridges.get_mut("br0").unwrap().ageing = std::time::Duration::from_secs(60);
    let changes = config::diff(&old, &new);
    let lines: Vec<_> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["- port vm7", "~ bridge br0 ageing: \"300s\" -> \"60s\""]);
    assert_eq!(changes[0].change, ChangeKind::Removed);
    assert_eq!(config::diff(&old, &old), []);
}

/// Where documents that are made from the code are kept.
fn committed(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        let now = match name {
            "vswitch.toml" => config::example(),
            other => panic!("{other} is not made here"),
        };
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read_to_string(&path).unwrap()
}

#[test]
fn the_example_file_follows_the_key_table() {
    let example = config::example();
    assert_eq!(committed("vswitch.toml"), example, "run the test with BLESS=1 and commit the file");
    let desired = config::from_toml(&example).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((desired.bridges.len(), desired.ports.len()), (1, 3));
    assert_eq!((desired.vteps.len(), desired.tunnels.len()), (1, 1));
    for key in config::keys::KEYS {
        let line = format!("{} = {}", key.name, key.example);
        assert!(example.contains(&line), "{line}");
        assert!(config::manual().contains(&key.name.replace('-', "\\-")), "{}", key.name);
    }
}

/// Documented defaults are what leaving the key out gives, and examples are valid.
#[test]
fn defaults_and_examples_are_true() {
    use config::keys::{Fallback, KEYS, Section};
    use switch_core::config::{PortType, TunnelType};
    // What each type needs, but for what `extra` sets.
    let needed = |type_name: &str, extra: &str| -> String {
        let lines = match type_name {
            "tap" => "bridge = \"b\"",
            "netdev" => "bridge = \"b\"\ndevice = \"d0\"",
            "dpdk" => "devargs = \"net_null0\"",
            "vhost-user" => "bridge = \"b\"\nsocket = \"/run/s\"",
            "gre" => "bridge = \"b\"\nremotes = [\"192.0.2.9\"]",
            "erspan" => "bridge = \"br0\"\nsession = 3\nremotes = [\"192.0.2.9\"]",
            _ => "bridge = \"b\"\nvni = 5000\nremotes = [\"192.0.2.9\"]",
        };
        let set = |line: &&str| !extra.starts_with(line.split('=').next().unwrap());
        lines.lines().filter(set).map(|line| format!("{line}\n")).collect()
    };
    let file = |section: Section, type_name: &str, extra: &str| {
        let own = |wanted: Section| if section == wanted { extra } else { "" };
        let port = if section == Section::Tunnel { "tap" } else { type_name };
        let tunnel = if section == Section::Tunnel { type_name } else { "vxlan" };
        let (port_extra, tunnel_extra) = (own(Section::Port), own(Section::Tunnel));
        let uplink = "[[port]]\nname = \"vf0\"\ntype = \"dpdk\"\ndevargs = \"net_null1\"\n";
        let of_vtep = if extra.starts_with("uplink") { "" } else { "uplink = \"vf0\"\n" };
        let trunk = if port_extra.starts_with("native") { "trunk = [1]\n" } else { "" };
        let (datapath, uplink, of_vtep) = match extra.contains("datapath") {
            true => ("", "", ""),
            false => ("datapath = \"dpdk\"\n", uplink, of_vtep),
        };
        format!(
            "version = 1\n[daemon]\n{datapath}{}\n[dpdk]\n{}\n[[bridge]]\nname = \"b\"\n{}\n\
             [[bridge]]\nname = \"br0\"\n[[port]]\nname = \"p\"\ntype = \"{port}\"\n\
             {}{trunk}{port_extra}\n{uplink}[[vtep]]\nname = \"v4\"\nlocal = \"192.0.2.2\"\n\
             {of_vtep}{}\n[[tunnel]]\nname = \"t\"\ntype = \"{tunnel}\"\n{}{tunnel_extra}\n",
            own(Section::Daemon),
            own(Section::Dpdk),
            own(Section::Bridge),
            needed(port, port_extra),
            own(Section::Vtep),
            needed(tunnel, tunnel_extra),
        )
    };
    let read = |text: String| {
        config::from_toml(&text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
    };
    let mut checked = 0;
    let own = ["version", "name", "type", "local"];
    for key in KEYS.iter().filter(|key| !own.contains(&key.name)) {
        let ports = PortType::ALL.map(PortType::name);
        let tunnels = TunnelType::ALL.map(TunnelType::name);
        let types = if key.section == Section::Tunnel { &tunnels[..] } else { &ports };
        for type_name in types.iter().filter(|name| key.applies_to(name)) {
            if key.name == "datapath" && matches!(*type_name, "dpdk" | "vhost-user") {
                continue;
            }
            read(file(key.section, type_name, &format!("{} = {}", key.name, key.example)));
            if let Fallback::Is(value) = key.default {
                let set = read(file(key.section, type_name, &format!("{} = {value}", key.name)));
                let none = if key.name == "datapath" { "# no datapath" } else { "" };
                let unset = read(file(key.section, type_name, none));
                assert_eq!(set, unset, "{} = {value}", key.name);
                checked += 1;
            }
        }
    }
    assert!(checked >= 40, "{checked}");
}

mod noise {
    use proptest::prelude::*;
    use vswitch_api::config;

    proptest! {
        #[test]
        fn bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            config::fuzz_config(&bytes);
            config::fuzz_request(&bytes);
        }

        /// Near misses: real lines in any order, with one character replaced.
        #[test]
        fn lines(
            order in proptest::sample::subsequence((0..24).collect::<Vec<usize>>(), 0..24),
            at in any::<prop::sample::Index>(),
            other in any::<char>(),
        ) {
            let lines: Vec<_> = super::EXAMPLE.lines().collect();
            let text: Vec<_> = order.iter().filter_map(|line| lines.get(*line).copied()).collect();
            let mut text: Vec<char> = text.join("\n").chars().collect();
            config::fuzz_config(text.iter().collect::<String>().as_bytes());
            if !text.is_empty() {
                let index = at.index(text.len());
                text[index] = other;
            }
            config::fuzz_config(text.iter().collect::<String>().as_bytes());
        }

        /// Any keys together: refused with a reason, or kept through TOML, JSON and a patch.
        #[test]
        fn keys(keys in proptest::sample::subsequence(config::keys::KEYS, 0..20), port in 0..4usize) {
            use config::Section;
            use switch_core::config::PortType;
            let port = PortType::ALL[port];
            let mut text = format!("version = 1\n[daemon]\ndatapath = \"dpdk\"\n[[bridge]]\n\
                                    name = \"br0\"\n[[port]]\nname = \"p\"\ntype = \"{port}\"\n");
            let own = keys.iter().filter(|key| key.section == Section::Port);
            for key in own.filter(|key| !matches!(key.name, "name" | "type")) {
                text.push_str(&format!("{} = {}\n", key.name, key.example));
            }
            config::fuzz_config(text.as_bytes());
            if let Ok(desired) = config::from_toml(&text) {
                let port = &desired.ports["p"];
                let nothing = serde_json::json!({});
                prop_assert_eq!(&config::patch_port(port, &nothing).unwrap(), port);
                config::check(&desired).unwrap();
            }
        }
    }
}
