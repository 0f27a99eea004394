//! Numbers of things in words.

use std::fmt::Display;

/// So many of what `noun` names in the singular: `1 port`, `2 ports`, `3 entries`.
#[must_use]
pub fn counted(number: impl Display, noun: &str) -> String {
    let number = number.to_string();
    match noun.strip_suffix('y') {
        _ if number == "1" => format!("1 {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "port")), ["0 ports", "1 port", "2 ports"]);
        assert_eq!([1, 3].map(|n| counted(n, "entry")), ["1 entry", "3 entries"]);
    }
}
