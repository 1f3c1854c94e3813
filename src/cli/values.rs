//! The values of options: ids, ports, URLs, durations, sizes and choices. Each function reads one text. The error says
//! what to write instead.

use crate::certificates::AltHost;
use crate::certificates::order::DAYS_MAX;
use crate::config::AllowedHost;
use crate::limits;
use crate::logging::Format;
use crate::peer_url::{PeerUrl, group_of};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use slog::Level;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One of the possible values of an option.
pub(super) struct Choice<T: 'static> {
    name: &'static str,
    alias: Option<&'static str>,
    meaning: &'static str,
    value: T,
}

impl<T> Choice<T> {
    const fn new(name: &'static str, value: T, meaning: &'static str) -> Choice<T> {
        Choice {
            name,
            alias: None,
            meaning,
            value,
        }
    }
}

/// The values of `--log-format`.
pub(super) const LOG_FORMATS: [Choice<Format>; 2] = [
    Choice::new("text", Format::Text, "for people; in colour on a terminal"),
    Choice::new("json", Format::Json, "one JSON object a line"),
];

/// The values of `--tls-min`: whether the client port also speaks TLS 1.2.
pub(super) const TLS_VERSIONS: [Choice<bool>; 2] = [
    Choice::new("1.2", true, "for clients that lack TLS 1.3"),
    Choice::new("1.3", false, "refuses all older versions"),
];

/// The values of `--log-level`.
pub(super) const LOG_LEVELS: [Choice<Level>; 5] = [
    Choice::new("error", Level::Error, "failures of this member"),
    Choice {
        alias: Some("warning"),
        ..Choice::new(
            "warn",
            Level::Warning,
            "also what an operator should look at",
        )
    },
    Choice::new(
        "info",
        Level::Info,
        "also changes of this member and of the cluster",
    ),
    Choice::new(
        "debug",
        Level::Debug,
        "also connections, and requests that clients got wrong",
    ),
    Choice::new(
        "trace",
        Level::Trace,
        "also the messages of raft, without their contents",
    ),
];

/// Reads one of these values. The argument has to ignore case.
pub(super) fn choice<T>(choices: &'static [Choice<T>]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let shown = |choice: &Choice<T>| {
        let value = PossibleValue::new(choice.name).help(choice.meaning);
        value.aliases(choice.alias)
    };
    let shown: Vec<PossibleValue> = choices.iter().map(shown).collect();
    PossibleValuesParser::new(shown).map(|text: String| {
        let is_meant = |name: &str| name.eq_ignore_ascii_case(&text);
        let found = choices
            .iter()
            .find(|choice| is_meant(choice.name) || choice.alias.is_some_and(is_meant));
        found.expect("clap takes only these names").value
    })
}

/// Reads the URL at which clients reach a member. The scheme may be left out.
pub(super) fn parse_member(text: &str) -> Result<MemberUrl, String> {
    let place = parse_peer_url(text);
    Ok(MemberUrl {
        place: place.map_err(|why: String| why.replacen("a peer URL", "the URL of a member", 1))?,
        is_https: is_https(text),
    })
}

/// The URL at which clients reach a member.
#[derive(Debug, Clone)]
pub(super) struct MemberUrl {
    pub(super) place: PeerUrl,
    /// It was given with `https://`, so encryption is expected.
    pub(super) is_https: bool,
}

/// Whether there is an `https://` URL in a text.
pub(super) fn is_https(text: &str) -> bool {
    text.to_ascii_lowercase().contains("https://")
}

/// Reads the URL at which peers reach a member. The scheme may be left out.
pub(super) fn parse_peer_url(text: &str) -> Result<PeerUrl, String> {
    let rest = text.trim();
    let rest = rest.strip_prefix("http://").unwrap_or(rest);
    let rest = rest.strip_prefix("https://").unwrap_or(rest);
    if let Some(port) = rest.strip_prefix(':')
        && port.parse::<u16>().is_ok()
    {
        return Err(format!(
            "{text:?} is not a peer URL: it has no host; write 127.0.0.1:{port}, or the host by which others reach the \
             member"
        ));
    }
    PeerUrl::typed(text)
}

/// Reads a name of `--allow-host`.
pub(super) fn parse_allowed_host(text: &str) -> Result<AllowedHost, String> {
    let host = text.trim();
    if host == "*" {
        return Ok(AllowedHost::Any);
    }
    if host.contains("://") || host.contains('/') {
        return Err("give the name alone, as in kv.example.com, without http:// and a path".into());
    }
    if !host.is_ascii() {
        return Err("write the name as clients send it, in ASCII (xn--...)".into());
    }
    let address = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = address.parse::<IpAddr>() {
        // Addresses are allowed anyway.
        return Ok(AllowedHost::Name(address.to_string()));
    }
    if host.contains(':') {
        return Err("give the name alone: the port of a request has no effect".into());
    }
    let (is_suffix, name) = match host.strip_prefix("*.") {
        Some(suffix) => (true, suffix),
        None => (false, host),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(fits);
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(
            "write it as a host name such as kv.example.com, as *.example.com for all names below \
             example.com, or as * for all names"
                .into(),
        );
    }
    Ok(match is_suffix {
        true => AllowedHost::Below(name),
        false => AllowedHost::Name(name),
    })
}

pub(super) fn parse_cluster(list: &str) -> Result<BTreeMap<u64, PeerUrl>, String> {
    let mut urls = BTreeMap::new();
    let mut ids = HashMap::new();
    for (id, text) in (1_u64..).zip(list.split(',')) {
        if let Some((name, _)) = text.split_once('=')
            && !name.contains(['/', ':'])
        {
            return Err(format!(
                "URL {id} of --cluster: leave out \"{}=\": the place in the list is the id",
                name.trim()
            ));
        }
        let url = parse_peer_url(text).map_err(|why| format!("URL {id} of --cluster: {why}"))?;
        if let Some(first) = ids.insert(url.clone(), id) {
            return Err(format!(
                "--cluster lists {url} twice, for member {first} and for member {id}; give every member its own URL"
            ));
        }
        urls.insert(id, url);
    }
    if urls.len() > limits::MEMBERS_MAX {
        return Err(format!(
            "--cluster lists {} members, but a cluster can have at most {}; list fewer",
            urls.len(),
            limits::MEMBERS_MAX
        ));
    }
    Ok(urls)
}

/// Reads `--join`: whether to join, and the members to ask.
pub(super) fn parse_join(value: Option<&str>) -> Result<(bool, Vec<PeerUrl>), String> {
    let Some(value) = value else {
        return Ok((false, Vec::new()));
    };
    if let Some(joins) = parse_truth(value) {
        return Ok((joins, Vec::new()));
    }
    let urls = value.split(',').map(|text| Ok(parse_member(text)?.place));
    let urls = urls.collect::<Result<_, String>>();
    Ok((true, urls.map_err(|why| format!("--join: {why}"))?))
}

/// Reads a word for yes or no.
pub(super) fn parse_truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "n" | "no" | "f" | "false" | "off" | "0" => Some(false),
        "y" | "yes" | "t" | "true" | "on" | "1" => Some(true),
        _ => None,
    }
}

pub(super) fn parse_id(text: &str) -> Result<u64, String> {
    text.parse::<u64>()
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| {
            "an id is a whole number from 1 on, the member's place in --cluster".to_owned()
        })
}

/// Reads a number of days.
pub(super) fn parse_days(text: &str) -> Result<u32, String> {
    let days = text.parse().ok();
    days.filter(|days| (1..=DAYS_MAX).contains(days))
        .ok_or_else(|| format!("a number of days is a whole number from 1 to {DAYS_MAX}"))
}

/// Reads a host for a certificate.
pub(super) fn parse_host(text: &str) -> Result<AltHost, String> {
    text.trim().parse()
}

pub(super) fn parse_count(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "a number of connections is a whole number, such as 1000".to_owned())
}

pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    if text.contains(':') {
        return Err(match text.contains("://") || !text.starts_with(':') {
            true => "give the port alone, as in --port 9121, and the IP for clients as --listen IP"
                .into(),
            false => "give the port alone, without the colon".into(),
        });
    }
    text.parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

/// Reads `--listen`.
pub(super) fn parse_listen(text: &str) -> Result<IpAddr, String> {
    parse_ip(text, "the port as --port PORT")
}

/// Reads `--listen-peer`.
pub(super) fn parse_listen_peer(text: &str) -> Result<IpAddr, String> {
    parse_ip(
        text,
        "the port in --peer-url, or in the member's URL of --cluster",
    )
}

/// `port_elsewhere` says where the port belongs.
fn parse_ip(text: &str, port_elsewhere: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() else {
        let has_port = text.contains("://") || text.parse::<SocketAddr>().is_ok();
        let has_port = has_port || PeerUrl::typed(text).is_ok() || text.starts_with(':');
        return Err(match has_port {
            true => format!("give the IP alone, and {port_elsewhere}"),
            false => "write an IP address such as 127.0.0.1, or 0.0.0.0 for all addresses of this machine".into(),
        });
    };
    match group_of(ip) {
        Some(group) => Err(format!(
            "this is a {group} address, at which no member can listen; write an IP address of this machine, or 0.0.0.0 for \
             all of them"
        )),
        None => Ok(ip),
    }
}

/// Reads a duration: numbers with units, such as `5s`, `0.5s`, `1m30s`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration as 100ms, 5s or 1m30s (units: ms, s, m, h)".to_owned();
    let text = text.to_ascii_lowercase();
    let mut rest = text.as_str();
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest).ok_or_else(wrong)?;
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(unit.unwrap_or(tail.len()));
        seconds += number
            * match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if seconds > limits::DURATION_LIMIT.as_secs_f64() {
        return Err(format!(
            "this is too long; write a duration of at most {}h",
            limits::DURATION_LIMIT.as_secs() / 3600
        ));
    }
    // Rounded to microseconds: sums of binary fractions are not exact.
    Ok(Duration::from_micros((seconds * 1e6).round() as u64))
}

/// Reads a size: bytes, or a number with K, M or G (also KB, KiB, ...), all powers of 1024.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "write a size in bytes, or as 64K, 64MiB or 1G (powers of 1024)".to_owned();
    let (number, unit) = split_number(text).ok_or_else(wrong)?;
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let bytes = number * f64::from(1_u32 << shift);
    // Above 2^53 a float can't represent every integer, and no option needs such a size.
    if bytes.fract() != 0.0 || bytes > (1_u64 << 53) as f64 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// Splits off a leading decimal number.
pub(super) fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    // The length limit keeps the number in the range in which a float is exact enough.
    if !number.starts_with(|c: char| c.is_ascii_digit()) || number.len() > 20 {
        return None;
    }
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_without_a_port_or_patterns() {
        for (text, host) in [
            ("*", AllowedHost::Any),
            ("KV.Example.com", AllowedHost::Name("kv.example.com".into())),
            (
                " kv.example.com. ",
                AllowedHost::Name("kv.example.com".into()),
            ),
            ("node_1", AllowedHost::Name("node_1".into())),
            ("*.Example.com", AllowedHost::Below("example.com".into())),
            ("[::1]", AllowedHost::Name("::1".into())),
        ] {
            assert_eq!(parse_allowed_host(text), Ok(host), "{text}");
        }
        for text in [
            "",
            ".",
            "*.",
            "**",
            "a.*.b",
            "*example.com",
            ".example.com",
            "a..b",
            "kv:80",
            "http://kv",
            "kv/",
            "a b",
            "u@kv",
            "b\u{fc}cher.example",
        ] {
            assert!(parse_allowed_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_sizes() {
        let ms = Duration::from_millis;
        for (text, duration) in [
            ("100ms", ms(100)),
            ("5s", ms(5_000)),
            ("0.5s", ms(500)),
            ("1m30s", ms(90_000)),
            ("1h", ms(3_600_000)),
            ("5S", ms(5_000)),
            ("1.5ms", Duration::from_micros(1_500)),
        ] {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "5sec",
            "-1s",
            "1.2.3s",
            ".5s",
            "1e3s",
            "999999999h",
            "NaNs",
            "infs",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (text, size) in [
            ("0", 0),
            ("65536", 65536),
            ("64K", 65536),
            ("64KiB", 65536),
            ("64kb", 65536),
            ("1.5m", 3 << 19),
            ("2 MiB", 2 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "K", "-1", "1T", "0.3", "99999999999999999999", "1 2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
