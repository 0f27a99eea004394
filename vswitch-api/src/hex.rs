//! Bytes in hexadecimal digits.

/// Bytes of two digits each; `None` for anything else. No digits are no bytes.
pub fn bytes(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

/// A frame's bytes as people write them, without what counts for nothing: white space and colons.
pub fn digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != ':').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_are_a_byte() {
        assert_eq!(bytes("00fFA5"), Some(vec![0, 0xff, 0xa5]));
        assert_eq!(bytes(""), Some(Vec::new()));
        for wrong in ["0", "0x", "+f", "f f", "0g", "é"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        assert_eq!(digits(" ff:00\n a5"), "ff00a5");
    }
}
