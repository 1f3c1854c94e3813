//! Conditional requests: `If-Match` and `If-None-Match`, as in RFC 9110, section 13.
//!
//! An ETag here is the decimal index of the entry that wrote the value. A well-formed tag of any other form is accepted
//! and matches no value.

use super::error_code::Code;
use super::reply::{self, Reply};
use crate::command::Etags;
use crate::limits;
use hyper::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};

#[derive(Debug, Default, PartialEq)]
pub(super) struct Conditions {
    /// The value must have one of these tags.
    pub(super) if_match: Option<Etags>,
    /// The value must have none of these tags.
    pub(super) if_none_match: Option<Etags>,
}

/// Whether weak tags (`W/"7"`) match. They match where only the content has to be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl Conditions {
    /// Reads the conditions from the header of a request.
    pub(super) fn of(headers: &HeaderMap) -> Result<Conditions, Box<Reply>> {
        // Most requests have no condition and few fields: comparing names costs less than hashing two names.
        if headers
            .keys()
            .all(|name| name != IF_MATCH && name != IF_NONE_MATCH)
        {
            return Ok(Conditions::default());
        }
        let read = |name: HeaderName, comparison| {
            parse(headers, &name, comparison)
                .map_err(|why| reply::error(Code::BadCondition, format!("{name}: {why}")))
        };
        Ok(Conditions {
            if_match: read(IF_MATCH, Comparison::Strong)?,
            if_none_match: read(IF_NONE_MATCH, Comparison::Weak)?,
        })
    }

    /// Whether the request has no condition.
    pub(super) fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }
}

/// Whether the value with this index has one of the tags.
pub(super) fn matches(etags: &Etags, index: u64) -> bool {
    etags.any || etags.indexes.contains(&index)
}

const FORM: &str = "it has to be * or a list of etags such as \"7\", \"8\"";

fn parse(
    headers: &HeaderMap,
    name: &HeaderName,
    comparison: Comparison,
) -> Result<Option<Etags>, String> {
    let mut etags = Etags::new();
    let mut count = 0;
    // A field that appears more than once is one list.
    for value in headers.get_all(name) {
        let mut rest = value.as_bytes();
        loop {
            rest = skip(rest, |b| matches!(b, b' ' | b'\t' | b','));
            if rest.is_empty() {
                break;
            }
            count += 1;
            if count > limits::ETAGS_MAX {
                return Err(format!("at most {} etags are allowed", limits::ETAGS_MAX));
            }
            if let Some(tail) = rest.strip_prefix(b"*") {
                etags.any = true;
                rest = tail;
            } else {
                let (tag, tail) = tag(rest).ok_or(FORM)?;
                if !tag.weak || comparison == Comparison::Weak {
                    etags.indexes.extend(index(tag.opaque));
                }
                rest = tail;
            }
            rest = skip(rest, |b| matches!(b, b' ' | b'\t'));
            if !rest.is_empty() && rest[0] != b',' {
                return Err(FORM.to_owned());
            }
        }
    }
    if !headers.contains_key(name) {
        return Ok(None);
    }
    if count == 0 || (etags.any && count > 1) {
        return Err(FORM.to_owned());
    }
    Ok(Some(etags))
}

struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// Splits `[W/]"..."` off the start of the text.
fn tag(text: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let (weak, text) = match text.strip_prefix(b"W/") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let text = text.strip_prefix(b"\"")?;
    let end = text.iter().position(|b| *b == b'"')?;
    let opaque = &text[..end];
    // A tag holds visible characters and obs-text, but no space.
    let valid = |b: &u8| *b > b' ' && *b != 0x7f;
    opaque
        .iter()
        .all(valid)
        .then_some((Tag { weak, opaque }, &text[end + 1..]))
}

/// The index that has exactly this spelling. Tags are compared byte by byte, so `007` is not 7.
fn index(opaque: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(opaque).ok()?;
    let index: u64 = text.parse().ok()?;
    (index.to_string() == text).then_some(index)
}

fn skip(text: &[u8], skipped: impl Fn(u8) -> bool) -> &[u8] {
    let start = text.iter().position(|b| !skipped(*b));
    &text[start.unwrap_or(text.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn read(lines: &[&[u8]], comparison: Comparison) -> Result<Option<Etags>, String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_MATCH, HeaderValue::from_bytes(line).unwrap());
        }
        parse(&headers, &IF_MATCH, comparison)
    }

    fn indexes(line: &str, comparison: Comparison) -> Vec<u64> {
        let etags = read(&[line.as_bytes()], comparison).unwrap().unwrap();
        assert!(!etags.any);
        etags.indexes
    }

    #[test]
    fn lists_stars_and_weak_tags_are_read() {
        use Comparison::*;
        assert_eq!(read(&[], Strong), Ok(None));
        assert!(read(&[b" * "], Strong).unwrap().unwrap().any);
        assert_eq!(indexes("\"7\"", Strong), [7]);
        assert_eq!(indexes("\"7\",\"8\" ,\t\"9\"", Strong), [7, 8, 9]);
        assert_eq!(indexes(", ,\"7\",,", Strong), [7]);
        assert_eq!(indexes("W/\"7\", \"8\"", Strong), [8]);
        assert_eq!(indexes("W/\"7\", \"8\"", Weak), [7, 8]);
        let two = read(&[b"\"7\"", b"\"8\""], Strong).unwrap().unwrap();
        assert_eq!(two.indexes, [7, 8]);
    }

    #[test]
    fn tags_of_others_match_nothing() {
        for line in [
            "\"\"",
            "\"abc\"",
            "\"007\"",
            "\"+7\"",
            "\"-7\"",
            "\"7,8\"",
            "\"18446744073709551616\"",
            "\"\u{e9}\"",
        ] {
            assert!(indexes(line, Comparison::Strong).is_empty(), "{line}");
        }
        assert_eq!(indexes("\"0\"", Comparison::Strong), [0]);
    }

    #[test]
    fn malformed_fields_are_refused() {
        for line in [
            "",
            ",",
            "7",
            "\"7",
            "7\"",
            "\"7\" \"8\"",
            "*, \"7\"",
            "\"7\", *",
            "**",
            "w/\"7\"",
            "W/7",
            "W/ \"7\"",
            "\"a b\"",
            "'7'",
        ] {
            assert!(
                read(&[line.as_bytes()], Comparison::Weak).is_err(),
                "{line}"
            );
        }
        assert!(read(&[b"*", b"\"7\""], Comparison::Weak).is_err());
    }

    #[test]
    fn the_number_of_tags_is_limited() {
        let most = vec!["\"7\""; limits::ETAGS_MAX].join(",");
        assert_eq!(indexes(&most, Comparison::Strong).len(), limits::ETAGS_MAX);
        let more = format!("{most},\"8\"");
        assert!(read(&[more.as_bytes()], Comparison::Strong).is_err());
    }
}
