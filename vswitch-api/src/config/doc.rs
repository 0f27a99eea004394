//! The example file and the manual page, from the key table.

use std::fmt::Write as _;

use super::keys::{Fallback, Key, Section};

/// `vswitch.toml` with every key explained. Keys stand commented out where their default holds.
#[must_use]
pub fn example() -> String {
    let mut out = String::from(
        "# vswitch.toml: the configuration of vswitchd. `man vswitch.toml` says more.\n\
         # Keys that are commented out show their default or an example.\n",
    );
    for section in Section::ALL {
        // Writing to a String cannot fail.
        if section == Section::Top {
            out.push('\n');
        } else {
            let _ = writeln!(out, "\n# {}\n{}", section.doc(), section.heading());
        }
        for key in section.keys() {
            for line in wrapped(&explained(key), 92) {
                let _ = writeln!(out, "# {line}");
            }
            let sets = key.default == Fallback::Required || shown(key);
            let mark = if sets { "" } else { "#" };
            let _ = writeln!(out, "{mark}{} = {}", key.name, key.example);
        }
    }
    out.push_str(MORE_PORTS);
    out
}

/// What the example sets though it could be left out.
fn shown(key: &Key) -> bool {
    matches!(
        (key.section, key.name),
        (Section::Port, "bridge" | "access")
            | (Section::Tunnel, "vni" | "vlan" | "remotes")
            | (Section::Mirror, "ports")
    )
}

/// A guest, as most who read the example have one.
const MORE_PORTS: &str = r#"
# A guest whose TAP device QEMU or libvirt makes and owns.
[[port]]
name = "vm7"
type = "netdev"
device = "vnet7"
bridge = "br0"
trunk = [10, "20-29"]
native = 1

# Where the copies of the mirror go: a TAP device, for tcpdump.
[[port]]
name = "probe"
type = "tap"
"#;

/// The sentence for a key with whom it is for and what holds without it.
fn explained(key: &Key) -> String {
    let mut out = key.doc.to_owned();
    if !key.applies.is_empty() {
        let _ = write!(out, " For {} {}s.", key.applies_listed(), key.section.name());
    }
    match key.default {
        Fallback::Required => out.push_str(" Required."),
        Fallback::Is(value) => {
            let _ = write!(out, " Default: {value}.");
        }
        Fallback::Otherwise(text) => {
            let _ = write!(out, " Default: {text}.");
        }
    }
    out
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// vswitch.toml(5), in roff.
#[must_use]
pub fn manual() -> String {
    let mut out = String::from(
        ".TH vswitch.toml 5\n.SH NAME\nvswitch.toml \\- configuration of vswitchd\n\
         .SH DESCRIPTION\nThe file is TOML. Unknown keys are errors. Durations, rates and sizes \
         carry their units. \\fBvswitch\\-ctl config validate\\fR FILE reports everything that is \
         wrong with a file, without a running daemon; \\fBvswitch\\-ctl config diff\\fR FILE shows \
         what it would change, and \\fBvswitch\\-ctl config apply\\fR FILE changes it.\n",
    );
    for section in Section::ALL {
        let head = match section {
            Section::Top => "TOP OF THE FILE".to_owned(),
            other => other.heading().to_uppercase(),
        };
        let _ = writeln!(out, ".SH {}\n{}", quoted(&head), escaped(section.doc()));
        for key in section.keys() {
            let _ = writeln!(out, ".TP\n\\fB{}\\fR = {}", escaped(key.name), escaped(key.example));
            let _ = writeln!(out, "{}", escaped(&explained(key)));
            let _ = writeln!(out, "Value: {}.", escaped(&key.value.to_string()));
        }
    }
    let _ = write!(out, ".SH EXAMPLE\n.nf\n{}.fi\n", escaped(&minimal()));
    out.push_str(
        ".SH SEE ALSO\n\\fBvswitchd\\fR(8), \\fBvswitch\\-ctl\\fR(1), \\fBvswitch\\-drops\\fR(7)\n",
    );
    out
}

fn minimal() -> String {
    "version = 1\n\n[[bridge]]\nname = \"br0\"\n\n[[port]]\nname = \"web\"\ntype = \"tap\"\n\
     bridge = \"br0\"\nnetns = \"web\"\n"
        .to_owned()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// A leading dot or quote would be a request to roff, a bare minus would become a hyphen.
fn escaped(text: &str) -> String {
    let line = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
    };
    let lines: Vec<_> = text.split('\n').map(line).collect();
    lines.join("\n")
}
