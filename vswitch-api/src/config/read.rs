//! From text to [`Desired`], finding everything that is wrong on the way.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry as MapEntry};

use switch_core::config::{BridgeSpec, MirrorSpec, PortSpec, PortType, TunnelSpec, VtepSpec};
use toml_edit::Document;

use super::check::{self, Declared};
use super::desired::Desired;
use super::fields::{self, Fields};
use super::keys::{Fallback, MAX_CONFIG_BYTES, Section};
use super::problem::{Lines, Problem, Problems};
use super::tree::{self, Entry, Node, Tree, shorten};
use super::value::{Value, nearest};

/// Reads and checks a configuration file.
///
/// # Errors
/// Everything that is wrong with it, with lines and columns. A file that is not TOML at all has one
/// problem: the first place where it stops being TOML.
pub fn from_toml(text: &str) -> Result<Desired, Problems> {
    if text.len() > MAX_CONFIG_BYTES {
        return Err(too_large(text.len()));
    }
    let lines = Lines::new(text);
    let document = Document::parse(text).map_err(|error| {
        let first = error.message().lines().next().unwrap_or("not TOML").to_owned();
        let mut problem = Problem::new("", format!("not TOML: {first}"));
        if let Some(span) = error.span() {
            let (line, column) = lines.place(span.start);
            (problem.line, problem.column) = (Some(line), Some(column));
        }
        Problems(vec![problem])
    })?;
    Reader::new(Some(lines)).desired(&tree::from_toml(document.as_table()))
}

/// Reads and checks a configuration file of any bytes.
///
/// # Errors
/// As [`from_toml`], and text that is not UTF-8.
pub fn from_toml_bytes(bytes: &[u8]) -> Result<Desired, Problems> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(too_large(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Problems(vec![Problem::new("", format!("not UTF-8: byte {at} is in no character"))])
    })?;
    from_toml(text)
}

/// Reads and checks a whole configuration from JSON, with the same keys as the file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn from_json(value: &serde_json::Value) -> Result<Desired, Problems> {
    Reader::new(None).desired(&tree::from_json(value))
}

/// Reads one bridge from JSON, with the keys of `[[bridge]]`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn bridge_from_json(value: &serde_json::Value) -> Result<BridgeSpec, Problems> {
    let mut reader = Reader::new(None);
    let bridge = reader.bridge(&tree::from_json(value), 0);
    reader.finish(bridge)
}

/// Reads one port from JSON, with the keys of `[[port]]`. Whether its bridge exists is for
/// [`super::check()`] to say.
///
/// # Errors
/// Everything that is wrong with it.
pub fn port_from_json(value: &serde_json::Value) -> Result<PortSpec, Problems> {
    let mut reader = Reader::new(None);
    let port = reader.port(&tree::from_json(value), 0);
    reader.finish(port)
}

/// Reads one VTEP from JSON, with the keys of `[[vtep]]`. Whether its uplink exists is for
/// [`super::check()`] to say.
///
/// # Errors
/// Everything that is wrong with it.
pub fn vtep_from_json(value: &serde_json::Value) -> Result<VtepSpec, Problems> {
    let mut reader = Reader::new(None);
    let vtep = reader.vtep(&tree::from_json(value), 0);
    reader.finish(vtep)
}

/// Reads one tunnel from JSON, with the keys of `[[tunnel]]`. Whether it fits its bridge, its VTEP
/// and other tunnels is for [`super::check()`] to say.
///
/// # Errors
/// Everything that is wrong with it.
pub fn tunnel_from_json(value: &serde_json::Value) -> Result<TunnelSpec, Problems> {
    let mut reader = Reader::new(None);
    let tunnel = reader.tunnel(&tree::from_json(value), 0);
    reader.finish(tunnel)
}

/// Reads one mirror from JSON, with the keys of `[[mirror]]`. Whether there is what it copies, and where
/// copies go, is for [`super::check()`] to say.
///
/// # Errors
/// Everything that is wrong with it.
pub fn mirror_from_json(value: &serde_json::Value) -> Result<MirrorSpec, Problems> {
    let mut reader = Reader::new(None);
    let mirror = reader.mirror(&tree::from_json(value), 0);
    reader.finish(mirror)
}

fn too_large(size: usize) -> Problems {
    let message = format!("the configuration has {size} bytes; {MAX_CONFIG_BYTES} are the limit");
    Problems(vec![Problem::new("", message)])
}

/// More problems than anyone reads are left out: a file of garbage could have millions.
const MOST_PROBLEMS: usize = 100;

struct Reader<'a> {
    lines: Option<Lines<'a>>,
    problems: Vec<Problem>,
    left_out: usize,
    /// Where each key is, for the checks that come after reading.
    places: HashMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn new(lines: Option<Lines<'a>>) -> Self {
        Self { lines, problems: Vec::new(), left_out: 0, places: HashMap::new() }
    }

    fn report(&mut self, mut problem: Problem, at: Option<usize>) {
        if self.problems.len() >= MOST_PROBLEMS {
            self.left_out += 1;
            return;
        }
        if let (Some(lines), Some(at)) = (&self.lines, at) {
            let (line, column) = lines.place(at);
            (problem.line, problem.column) = (Some(line), Some(column));
        }
        self.problems.push(problem);
    }

    fn finish<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => {
                if self.problems.is_empty() {
                    // Cannot happen: what yields no value reports why. Said rather than trusted.
                    self.report(Problem::new("", "nothing was read"), None);
                }
                self.problems.sort_by_key(|problem| (problem.line, problem.column));
                if self.left_out > 0 {
                    let message = format!("{} further problems", self.left_out);
                    self.problems.push(Problem::new("", message));
                }
                Err(Problems(self.problems))
            }
        }
    }

    fn desired(mut self, root: &Node) -> Result<Desired, Problems> {
        let Tree::Table(entries) = &root.tree else {
            let message = format!("expected an object, found {}", root.found());
            self.report(Problem::new("", message), None);
            return self.finish(None);
        };
        let mut desired = Desired::default();
        let mut declared = Declared::default();
        let mut top = Vec::new();
        for entry in entries {
            match entry.key.as_str() {
                "daemon" => {
                    if let Some(fields) = self.table(&entry.node, Section::Daemon, "daemon") {
                        desired.daemon = fields::daemon(fields);
                    }
                }
                "dpdk" => {
                    if let Some(fields) = self.table(&entry.node, Section::Dpdk, "dpdk") {
                        desired.dpdk = fields::dpdk(fields);
                    }
                }
                "sflow" => {
                    if let Some(fields) = self.table(&entry.node, Section::Sflow, "sflow") {
                        desired.sflow = fields::sflow(fields);
                    }
                }
                "ipfix" => {
                    if let Some(fields) = self.table(&entry.node, Section::Ipfix, "ipfix") {
                        desired.ipfix = fields::ipfix(fields);
                    }
                }
                "bridge" => {
                    for (index, node) in self.list(entry, Section::Bridge).iter().enumerate() {
                        declared.bridges.extend(name_of(node).map(str::to_owned));
                        if let Some(bridge) = self.bridge(node, index) {
                            self.add(
                                &mut desired.bridges,
                                bridge.name.clone(),
                                bridge,
                                "bridge",
                                node,
                            );
                        }
                    }
                }
                "port" => {
                    for (index, node) in self.list(entry, Section::Port).iter().enumerate() {
                        declared.ports.extend(name_of(node).map(str::to_owned));
                        if let Some(port) = self.port(node, index) {
                            self.add(&mut desired.ports, port.name.clone(), port, "port", node);
                        }
                    }
                }
                "vtep" => {
                    for (index, node) in self.list(entry, Section::Vtep).iter().enumerate() {
                        declared.vteps.extend(name_of(node).map(str::to_owned));
                        if let Some(vtep) = self.vtep(node, index) {
                            self.add(&mut desired.vteps, vtep.name.clone(), vtep, "vtep", node);
                        }
                    }
                }
                "tunnel" => {
                    for (index, node) in self.list(entry, Section::Tunnel).iter().enumerate() {
                        declared.tunnels.extend(name_of(node).map(str::to_owned));
                        if let Some(tunnel) = self.tunnel(node, index) {
                            let name = tunnel.name.clone();
                            self.add(&mut desired.tunnels, name, tunnel, "tunnel", node);
                        }
                    }
                }
                "mirror" => {
                    for (index, node) in self.list(entry, Section::Mirror).iter().enumerate() {
                        if let Some(mirror) = self.mirror(node, index) {
                            let name = mirror.name.clone();
                            self.add(&mut desired.mirrors, name, mirror, "mirror", node);
                        }
                    }
                }
                _ => top.push(entry.clone()),
            }
        }
        self.fields(&top, Section::Top, "", None);
        for problem in check::all(&desired, &declared) {
            // A key that was left out is missing where its object stands.
            let object = problem.key.rsplit_once('.').map(|(object, _)| object);
            let place = |path: &str| self.places.get(path).copied();
            let at = place(&problem.key).or_else(|| place(object?));
            self.report(problem, at);
        }
        self.finish(Some(desired))
    }

    fn add<T>(
        &mut self,
        into: &mut BTreeMap<String, T>,
        name: String,
        object: T,
        section: &str,
        node: &Node,
    ) {
        let at = place_of(node, "name");
        let path = format!("{section}.{name}");
        match into.entry(name) {
            MapEntry::Vacant(free) => {
                self.places.extend(at.map(|at| (path, at)));
                free.insert(object);
            }
            MapEntry::Occupied(taken) => {
                let mut message = format!("there is another {section} {:?}", taken.key());
                let first = self.places.get(&path).copied();
                if let (Some(lines), Some(first)) = (&self.lines, first) {
                    message.push_str(&format!(" at line {}", lines.place(first).0));
                }
                self.report(Problem::new(format!("{path}.name"), message), at);
            }
        }
    }

    fn list<'n>(&mut self, entry: &'n Entry, section: Section) -> &'n [Node] {
        match &entry.node.tree {
            Tree::List(list) => list,
            _ => {
                let message = format!("expected a list of tables, found {}", entry.node.found());
                let hint = format!("write {}", section.heading());
                self.report(Problem::new(section.name(), message).with_hint(hint), entry.key_at);
                &[]
            }
        }
    }

    fn table(&mut self, node: &Node, section: Section, path: &str) -> Option<Fields> {
        match &node.tree {
            Tree::Table(entries) => Some(self.fields(entries, section, path, node.at)),
            _ => {
                let message = format!("expected a table, found {}", node.found());
                let hint = format!("write {}", section.heading());
                self.report(Problem::new(path, message).with_hint(hint), node.at);
                None
            }
        }
    }

    /// Reads the keys of one table; what is wrong is reported and left out.
    fn fields(
        &mut self,
        entries: &[Entry],
        section: Section,
        path: &str,
        at: Option<usize>,
    ) -> Fields {
        let mut fields = Fields::default();
        let join = |key: &str| match path {
            "" => key.to_owned(),
            _ => format!("{path}.{key}"),
        };
        for entry in entries {
            // Made only where it is needed: JSON has no places to remember.
            let path = || join(&shorten(&entry.key));
            let Some(key) = section.key(&entry.key) else {
                // The nearest key is not looked for in vain: a file of garbage has many.
                if self.problems.len() >= MOST_PROBLEMS {
                    self.left_out += 1;
                    continue;
                }
                let problem = Problem::new(path(), "unknown key");
                let tables = Section::ALL.into_iter().map(Section::name);
                let tables = tables.filter(|name| section == Section::Top && !name.is_empty());
                let known = section.keys().map(|key| key.name).chain(tables);
                let problem = match nearest(&entry.key, known) {
                    Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
                    None => problem,
                };
                self.report(problem, entry.key_at);
                continue;
            };
            let at = entry.node.at.or(entry.key_at);
            if let Some(at) = at {
                self.places.insert(path(), at);
            }
            // In JSON null says that a key is left out.
            if matches!(entry.node.tree, Tree::Null) {
                continue;
            }
            match key.value.read(&entry.node) {
                Ok(value) => {
                    fields.0.insert(key.name, value);
                }
                Err(bad) => {
                    let problem = Problem { hint: bad.hint, ..Problem::new(path(), bad.message) };
                    self.report(problem, at);
                }
            }
        }
        for key in section.keys().filter(|key| key.default == Fallback::Required) {
            let there = entries
                .iter()
                .any(|entry| entry.key == key.name && !matches!(entry.node.tree, Tree::Null));
            if !there {
                let problem = Problem::new(join(key.name), "this key is required");
                let hint = format!("add {} = {}", key.name, key.example);
                self.report(problem.with_hint(hint), at);
            }
        }
        fields
    }

    fn bridge(&mut self, node: &Node, index: usize) -> Option<BridgeSpec> {
        let path = path_of(node, Section::Bridge, index);
        fields::bridge(self.table(node, Section::Bridge, &path)?)
    }

    fn port(&mut self, node: &Node, index: usize) -> Option<PortSpec> {
        let path = path_of(node, Section::Port, index);
        let fields = self.table(node, Section::Port, &path)?;
        let Tree::Table(entries) = &node.tree else { return None };
        let port_type = match fields.0.get("type") {
            Some(Value::Text(name)) => PortType::from_name(name)?,
            _ => return None,
        };
        self.typed_keys(entries, Section::Port, port_type.name(), &path, node.at);
        let place = |key: &str| place_of(node, key);
        if fields.has("access") && fields.has("trunk") {
            let message = "access and trunk exclude each other";
            let problem = Problem::new(format!("{path}.trunk"), message);
            self.report(problem.with_hint("a trunk's untagged VLAN is `native`"), place("trunk"));
        }
        if fields.has("native") && !given(entries, "trunk") {
            let problem = Problem::new(format!("{path}.native"), "native stands only with trunk");
            let hint = "for a port of one VLAN write `access`";
            self.report(problem.with_hint(hint), place("native"));
        }
        if let (PortType::Tap, false, Some(Value::Text(name))) =
            (port_type, fields.has("device"), fields.0.get("name"))
            && let Err(bad) = super::value::device(name)
        {
            let problem = Problem::new(format!("{path}.name"), bad.message);
            let hint = "set `device` to a shorter name for the TAP device";
            self.report(problem.with_hint(hint), place("name"));
        }
        fields::port(fields)
    }

    /// Which keys an object of this type needs, and which it cannot have.
    fn typed_keys(
        &mut self,
        entries: &[Entry],
        section: Section,
        type_name: &str,
        path: &str,
        at: Option<usize>,
    ) {
        let object = section.name();
        for entry in entries.iter().filter(|entry| !matches!(entry.node.tree, Tree::Null)) {
            let key = section.key(&entry.key);
            if let Some(key) = key.filter(|key| !key.applies_to(type_name)) {
                let message = format!(
                    "a {object} of type {type_name} has no {}; it is for {}",
                    key.name,
                    key.applies_listed()
                );
                self.report(Problem::new(format!("{path}.{}", key.name), message), entry.key_at);
            }
        }
        let needed: &[&str] = match type_name {
            "netdev" => &["device"],
            "dpdk" => &["devargs"],
            "vhost-user" => &["socket"],
            "vxlan" | "geneve" | "nvgre" => &["vni"],
            "erspan" => &["session"],
            _ => &[],
        };
        for name in needed.iter().filter(|name| !given(entries, name)) {
            let message = format!("a {object} of type {type_name} needs {name}");
            let problem = Problem::new(format!("{path}.{name}"), message);
            let example = section.key(name).map_or("…", |key| key.example);
            self.report(problem.with_hint(format!("add {name} = {example}")), at);
        }
    }

    fn vtep(&mut self, node: &Node, index: usize) -> Option<VtepSpec> {
        let path = path_of(node, Section::Vtep, index);
        let fields = self.table(node, Section::Vtep, &path)?;
        if let Some(Value::Ip(local)) = fields.0.get("local")
            && local.is_multicast()
        {
            let message = format!("{local} is a multicast group, which no host has");
            self.report(Problem::new(format!("{path}.local"), message), place_of(node, "local"));
        }
        fields::vtep(fields)
    }

    fn mirror(&mut self, node: &Node, index: usize) -> Option<MirrorSpec> {
        let path = path_of(node, Section::Mirror, index);
        let mirror = fields::mirror(self.table(node, Section::Mirror, &path)?)?;
        for (key, problem) in check::mirror(&mirror) {
            let problem = Problem { key: format!("{path}.{key}"), ..problem };
            self.report(problem, place_of(node, key));
        }
        Some(mirror)
    }

    fn tunnel(&mut self, node: &Node, index: usize) -> Option<TunnelSpec> {
        let path = path_of(node, Section::Tunnel, index);
        let fields = self.table(node, Section::Tunnel, &path)?;
        let Tree::Table(entries) = &node.tree else { return None };
        let Some(Value::Text(type_name)) = fields.0.get("type") else { return None };
        self.typed_keys(entries, Section::Tunnel, type_name, &path, node.at);
        let tunnel = fields::tunnel(fields)?;
        for (key, problem) in check::tunnel(&tunnel) {
            let problem = Problem { key: format!("{path}.{key}"), ..problem };
            self.report(problem, place_of(node, key));
        }
        Some(tunnel)
    }
}

fn given(entries: &[Entry], name: &str) -> bool {
    entries.iter().any(|entry| entry.key == name && !matches!(entry.node.tree, Tree::Null))
}

fn entry_of<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    match &node.tree {
        Tree::Table(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

fn place_of(node: &Node, key: &str) -> Option<usize> {
    let entry = entry_of(node, key)?;
    entry.node.at.or(entry.key_at)
}

fn name_of(node: &Node) -> Option<&str> {
    match &entry_of(node, "name")?.node.tree {
        Tree::Text(name) => Some(name),
        _ => None,
    }
}

/// `port.web`, or `port[2]` (from 0) if it has no name.
fn path_of(node: &Node, section: Section, index: usize) -> String {
    match name_of(node) {
        Some(name) => format!("{}.{}", section.name(), shorten(name)),
        None => format!("{}[{index}]", section.name()),
    }
}
