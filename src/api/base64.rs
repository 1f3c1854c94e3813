//! Base64 for values in JSON that are not text: the standard alphabet (RFC 4648, section 4).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// The output is padded.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Accepts input with or without padding. Returns `None` for any other deviation from the spelling of [`encode`].
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    // One engine that accepts both forms would also accept partial padding.
    let engine = match text.ends_with('=') {
        true => &STANDARD,
        false => &STANDARD_NO_PAD,
    };
    engine.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_come_back() {
        // The test vectors of the RFC.
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
