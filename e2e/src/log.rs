//! The daemon's log: what in it a test must not pass over.

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A warning.
    Warn,
    /// An error, or a panic.
    Error,
}

/// Warnings, errors and panics of a log, text or JSON lines, without those that contain one of
/// `allowed`.
pub fn problems(log: &str, allowed: &[String]) -> Vec<(Level, String)> {
    log.lines()
        .filter_map(|line| Some((level(line)?, line.to_owned())))
        .filter(|(_, line)| !allowed.iter().any(|a| line.contains(a.as_str())))
        .collect()
}

fn level(line: &str) -> Option<Level> {
    let name = if line.starts_with('{') {
        let json: serde_json::Value = serde_json::from_str(line).ok()?;
        json.get("level")?.as_str()?.to_owned()
    } else {
        if line.contains("panicked at") || line.starts_with("error") {
            return Some(Level::Error);
        }
        // "2026-11-23T21:00:00.000Z  WARN vswitchd::port: …", with or without the time.
        line.split_whitespace().take(2).map(plain).find(|w| w == "WARN" || w == "ERROR")?
    };
    match name.as_str() {
        "WARN" => Some(Level::Warn),
        "ERROR" => Some(Level::Error),
        _ => None,
    }
}

/// A word without terminal colour sequences.
fn plain(word: &str) -> String {
    let mut out = String::new();
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            let _ = chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_problems_in_text_and_json_and_nothing_else() {
        let log = "2026-11-23T21:00:00Z  INFO vswitchd: no ERROR here\n\
                   2026-11-23T21:00:00Z  WARN vswitchd::port: tap gone\n\
                   \u{1b}[2m2026-11-23T21:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m vswitchd: x\n\
                   ERROR vswitchd: without a time\n\
                   {\"level\":\"WARN\",\"fields\":{\"message\":\"y\"}}\n\
                   {\"level\":\"INFO\",\"fields\":{\"message\":\"ERROR\"}}\n\
                   thread 'worker-0' panicked at src/x.rs:1:1:\n";
        assert_eq!(problems(log, &[]).len(), 5);
        let levels: Vec<Level> = problems(log, &[]).into_iter().map(|(level, _)| level).collect();
        assert_eq!(levels, [Level::Warn, Level::Error, Level::Error, Level::Warn, Level::Error]);
    }

    #[test]
    fn allowed_lines_are_no_problem() {
        let log = "2026-11-23T21:00:00Z  WARN vswitchd::port: tap gone\n";
        assert!(problems(log, &["tap gone".to_owned()]).is_empty());
        assert_eq!(problems(log, &["tap lost".to_owned()]).len(), 1);
    }
}
