//! Secrets, which never go into a bundle.

/// What the name of a secret ends with. A tunnel's `vni` and GRE key are no secrets: whoever sees the
/// underlay sees them.
const SECRETS: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "psk", "private-key", "community"];

/// Stands for what was left out.
const LEFT_OUT: &str = "(left out)";

/// The text without the values of keys that are secret, and the names of those keys. A value follows
/// its key after `=` or `:`, as in TOML, JSON, logs and command lines, and lasts to the closing quote,
/// or else to the end of the word.
pub(super) fn redact(text: &str) -> (String, Vec<String>) {
    let (mut out, mut keys) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        rest = after;
        let Some(key) = secret(&before[..at]) else { continue };
        let gap = after.len() - after.trim_start_matches([' ', '\t']).len();
        let (gap, value) = after.split_at(gap);
        let length = value_length(value);
        if length == 0 {
            continue;
        }
        out.push_str(gap);
        let quoted = value.starts_with('"');
        out.push_str(&if quoted { format!("\"{LEFT_OUT}\"") } else { LEFT_OUT.to_owned() });
        rest = &value[length..];
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    out.push_str(rest);
    (out, keys)
}

/// The key that a text ends with, if it is the name of a secret.
fn secret(before: &str) -> Option<String> {
    let before = before.trim_end_matches([' ', '\t', '"', '\'']);
    let in_key = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let start = before
        .rfind(|c| !in_key(c))
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let key = &before[start..];
    let spelt = key.to_lowercase().replace('_', "-");
    SECRETS.iter().any(|secret| spelt.ends_with(secret)).then(|| key.to_owned())
}

fn value_length(value: &str) -> usize {
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return value
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '}' | ']'))
            .unwrap_or(value.len());
    };
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_left_out_and_their_keys_told() {
        for (text, wanted, key) in [
            ("password = \"a b\"\nmtu = 9", "password = \"(left out)\"\nmtu = 9", "password"),
            (r#"{"api-token":"x\"y","n":1}"#, r#"{"api-token":"(left out)","n":1}"#, "api-token"),
            (
                "quiet luks.passphrase=abc ro",
                "quiet luks.passphrase=(left out) ro",
                "luks.passphrase",
            ),
            ("-object secret,WG_PSK=7,id=a", "-object secret,WG_PSK=(left out),id=a", "WG_PSK"),
            ("snmp community: public", "snmp community: (left out)", "community"),
            ("token='a", "token=(left out)", "token"),
        ] {
            assert_eq!(redact(text), (wanted.to_owned(), vec![key.to_owned()]), "{text}");
        }
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "",
            "=",
            "key = 7",
            "vni = 10010",
            "password",
            "passwords = 2",
            "a:b:c",
            "secret =",
            "2026-01-31T12:00:00Z \u{e4}=\u{f6} info port-up: port vm7: its link is up",
        ] {
            assert_eq!(redact(text), (text.to_owned(), Vec::new()), "{text}");
        }
    }
}
