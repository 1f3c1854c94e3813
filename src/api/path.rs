//! The spelling of a request target: decodes its path, and reads the options in its query. `route` decides what each
//! path means.

use super::error_code::Code;
use super::reply::{self, Reply};
use std::borrow::Cow;
use std::fmt::Write as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadOptions {
    /// Answer from the local map at once, without a read-index round.
    pub(super) stale: bool,
}

/// Percent-decodes the part of a path after the first `/`. Nothing else is changed: `a//b` and `..` stay, because they
/// are keys and not file names. A path without escapes is not copied.
pub(super) fn decode(path: &str) -> Result<Cow<'_, [u8]>, Box<Reply>> {
    // Only `*` and the target of CONNECT have no slash, and `route` refuses both before this point.
    let raw = path.strip_prefix('/').unwrap_or(path).as_bytes();
    percent_decode(raw).ok_or_else(|| {
        reply::error(
            Code::BadPath,
            "the path has a % without two hexadecimal digits behind it; write a percent sign as %25",
        )
    })
}

/// Returns `None` if a percent sign is not followed by two hexadecimal digits.
pub(super) fn percent_decode(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(first) = raw.iter().position(|b| *b == b'%') else {
        return Some(Cow::Borrowed(raw));
    };
    let mut key = Vec::with_capacity(raw.len());
    key.extend_from_slice(&raw[..first]);
    let mut rest = raw[first..].iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            key.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(*b).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        // The value of two hexadecimal digits is at most 255.
        key.push((high << 4 | low) as u8);
    }
    Some(Cow::Owned(key))
}

/// Decodes the value of an option in a query. There, a plus sign is a space, as HTML forms and most libraries write it.
pub(super) fn query_decode(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !raw.contains(&b'+') {
        return percent_decode(raw);
    }
    let spaced = raw.iter().map(|byte| match byte {
        b'+' => b' ',
        other => *other,
    });
    let spaced: Vec<u8> = spaced.collect();
    let decoded = percent_decode(&spaced)?.into_owned();
    Some(Cow::Owned(decoded))
}

/// Percent-encodes a key for a path or a query.
pub(super) fn percent_encode(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// An option of a query: `name=value`.
#[derive(Debug)]
pub(super) struct QueryOption<'a> {
    /// As received: no name of an option needs escapes.
    pub(super) name: &'a str,
    /// Decoded by [`query_decode`]. `None` if that is not possible.
    value: Option<Cow<'a, [u8]>>,
}

impl<'a> QueryOption<'a> {
    pub(super) fn of(option: &'a str) -> QueryOption<'a> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        QueryOption {
            name,
            value: query_decode(value.as_bytes()),
        }
    }

    /// The value, if it may be any bytes.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        self.value.as_deref().map(<[u8]>::to_vec)
    }

    /// The value, if it is text.
    pub(super) fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.value.as_deref()?).ok()
    }

    /// The value, if it consists of digits: a sign or a space is not accepted.
    pub(super) fn number(&self) -> Option<u64> {
        let text = self.text()?;
        text.parse().ok().filter(|_| is_all_digits(text.as_bytes()))
    }

    /// Which of the two words the value is.
    pub(super) fn one_of(&self, yes: &str, no: &str) -> Option<bool> {
        match self.text()? {
            text if text == yes => Some(true),
            text if text == no => Some(false),
            _ => None,
        }
    }
}

/// Reads the options of a read.
pub(super) fn read_options(query: Option<&str>) -> Result<ReadOptions, Box<Reply>> {
    let mut stale = None;
    for option in options(query) {
        let asked = QueryOption::of(option);
        if asked.name != "consistency" {
            return Err(unknown(
                option,
                "a read accepts consistency=stale and consistency=linearizable",
            ));
        }
        let asked = asked.one_of("stale", "linearizable").ok_or_else(|| {
            reply::error(
                Code::BadOption,
                "the option consistency has to be stale or linearizable",
            )
        })?;
        if stale.replace(asked).is_some() {
            return Err(reply::error(
                Code::BadOption,
                "the option consistency is given twice; give it once",
            ));
        }
    }
    Ok(ReadOptions {
        stale: stale.unwrap_or(false),
    })
}

/// Refuses every option.
pub(super) fn no_options(query: Option<&str>) -> Result<(), Box<Reply>> {
    match options(query).next() {
        None => Ok(()),
        Some(option) => Err(unknown(option, "this request accepts no options")),
    }
}

pub(super) fn options(query: Option<&str>) -> impl Iterator<Item = &str> {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|option| !option.is_empty())
}

pub(super) fn unknown(option: &str, known: &str) -> Box<Reply> {
    let name = option.split('=').next().unwrap_or(option);
    let name: String = name.chars().take(40).collect();
    reply::error(
        Code::BadOption,
        format!("unknown option {name:?}: {known}; a question mark in a key is written %3F"),
    )
}

/// Where to find the key that a client most likely meant, for a path that does not name a key.
pub(super) fn hint(path: &str) -> String {
    if path.len() > 200 {
        "the key of that name is at /-/kv/<key>".to_owned()
    } else {
        // The path as received: already encoded, and free of control characters by the grammar of HTTP.
        format!("the key of that name is at /-/kv{path}")
    }
}

/// Whether the key consists of digits. Where members are added and removed, such a key names a member.
pub(super) fn is_all_digits(key: &[u8]) -> bool {
    !key.is_empty() && key.iter().all(u8::is_ascii_digit)
}

/// Reads a member id: `[1-9][0-9]*` within u64.
pub(super) fn member_id(key: &[u8]) -> Option<u64> {
    if !is_all_digits(key) || key[0] == b'0' {
        return None;
    }
    std::str::from_utf8(key).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    fn key(path: &str) -> Vec<u8> {
        decode(path).unwrap().into_owned()
    }

    #[test]
    fn a_path_is_decoded_once_and_not_normalised() {
        for (path, expected) in [
            ("/", &b""[..]),
            ("/hello", b"hello"),
            ("/a%2Fb", b"a/b"),
            ("/a%2fb", b"a/b"),
            ("/a/b", b"a/b"),
            ("//a//b/", b"/a//b/"),
            ("/../.", b"../."),
            ("/%00%ff%FE", b"\0\xff\xfe"),
            ("/%2541", b"%41"),
            ("/a+b", b"a+b"),
            ("/\u{e9}", "\u{e9}".as_bytes()),
        ] {
            assert_eq!(key(path), expected, "{path}");
        }
        assert!(matches!(decode("/plain"), Ok(Cow::Borrowed(b"plain"))));
    }

    #[test]
    fn invalid_escapes_are_refused() {
        for path in ["/%", "/%4", "/a%zz", "/%+1", "/%4g", "/%%41", "/% 1"] {
            let reply = decode(path).unwrap_err();
            assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{path}");
        }
    }

    #[test]
    fn an_encoded_key_is_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = percent_encode(&all);
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_graphic() && !b"?#&+".contains(&b))
        );
        assert_eq!(percent_decode(text.as_bytes()).unwrap(), all);
        assert_eq!(percent_encode(b"a/b-c %"), "a/b-c%20%25");
    }

    #[test]
    fn a_plus_sign_is_a_space_in_a_query_and_itself_in_a_path() {
        assert_eq!(key("/a+b"), b"a+b");
        for (text, expected) in [
            ("a+b", "a b"),
            ("a%2Bb", "a+b"),
            ("++%20", "   "),
            ("ab", "ab"),
        ] {
            let decoded = query_decode(text.as_bytes()).unwrap();
            assert_eq!(*decoded, *expected.as_bytes(), "{text}");
        }
        assert_eq!(query_decode(b"a+%"), None);
        let all: Vec<u8> = (0..=255).collect();
        let text = percent_encode(&all);
        assert_eq!(*query_decode(text.as_bytes()).unwrap(), *all);
    }

    #[test]
    fn queries_hold_known_options_only() {
        let stale = |query| read_options(query).map(|options| options.stale).ok();
        assert_eq!(stale(None), Some(false));
        assert_eq!(stale(Some("")), Some(false));
        assert_eq!(stale(Some("consistency=stale")), Some(true));
        assert_eq!(stale(Some("consistency=linearizable&")), Some(false));
        assert_eq!(stale(Some("consistency=st%61le")), Some(true));
        for query in [
            "x",
            "=",
            "consistency",
            "consistency=",
            "consistency=eventual",
            "consistency=+stale",
            "consistency=stale%",
            "consistenc%79=stale",
            "consistency=stale&consistency=stale",
            "consistency=stale&x=1",
            "Consistency=stale",
        ] {
            assert_eq!(stale(Some(query)), None, "{query}");
        }
        assert!(no_options(None).is_ok());
        assert!(no_options(Some("")).is_ok());
        assert!(no_options(Some("consistency=stale")).is_err());
    }

    #[test]
    fn member_ids_have_one_spelling() {
        assert_eq!(member_id(b"1"), Some(1));
        assert_eq!(member_id(b"18446744073709551615"), Some(u64::MAX));
        for text in [
            "",
            "0",
            "007",
            "+1",
            "1x",
            "-1",
            "18446744073709551616",
            "\u{661}",
        ] {
            assert_eq!(member_id(text.as_bytes()), None, "{text}");
        }
    }
}
