//! Values in JSON that are no text: base64 with the usual alphabet (RFC 4648, section 4).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// With padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            // So many bytes make one digit more.
            let digit = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

/// With or without padding; `None` for anything that [`encode`] does not give.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let padded = text.as_bytes();
    let digits = match padded.len() % 4 {
        0 => text.strip_suffix("==").or(text.strip_suffix('=')),
        _ => None,
    };
    let digits = digits.unwrap_or(text).as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0;
        for digit in group {
            bits = bits << 6 | value(*digit)?;
        }
        // One digit alone is no byte; the rest of the last one has to be zero.
        let (count, spare) = match group.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return None,
        };
        if bits & ((1 << spare) - 1) != 0 {
            return None;
        }
        let bits = bits >> spare;
        bytes.extend((0..count).rev().map(|i| (bits >> (8 * i)) as u8));
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_come_back() {
        // The vectors of the RFC.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
            assert_eq!(
                decode(text.trim_end_matches('=')).as_deref(),
                Some(bytes.as_bytes())
            );
        }
        let all: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        for length in 0..all.len() {
            assert_eq!(
                decode(&encode(&all[..length])).as_deref(),
                Some(&all[..length])
            );
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in [
            "A", "A===", "=", "==", "====", "AA=", "Zg=", "Zh==", "Zm9=", "Zm8=Zm8=", "Zm 9v",
            "Zm9v\n", "Zm-_", "é", "Zg==Zg",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
