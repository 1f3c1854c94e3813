//! `host[:port]`, as in the header Host, in the target of a request and in the header Origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name of a host, in bytes, as in the DNS.
const NAME_BYTES_MAX: usize = 253;

/// A host with or without a port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authority<'a> {
    pub(super) host: Host<'a>,
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Host<'a> {
    /// An IP address. An IPv4 address that is mapped into IPv6 counts as IPv4.
    Address(IpAddr),
    /// A name in the spelling of the client, without a final dot.
    Name(&'a str),
}

impl Host<'_> {
    fn is_same(self, other: Host<'_>) -> bool {
        match (self, other) {
            (Host::Address(one), Host::Address(other)) => one == other,
            (Host::Name(one), Host::Name(other)) => one.eq_ignore_ascii_case(other),
            (Host::Address(_), Host::Name(_)) | (Host::Name(_), Host::Address(_)) => false,
        }
    }
}

impl<'a> Authority<'a> {
    /// Returns `None` if the text is not `HOST` or `HOST:PORT`. A user name is not allowed.
    pub(super) fn parse(text: &'a [u8]) -> Option<Authority<'a>> {
        let text = std::str::from_utf8(text).ok()?;
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Host::Address(ipv6(address)?), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (named(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            // RFC 3986 allows a colon without a port.
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Authority { host, port })
    }

    /// Whether both have the same host and port. A missing port counts as `default_port`.
    fn is_same(&self, other: &Authority<'_>, default_port: u16) -> bool {
        let port = |authority: &Authority<'_>| authority.port.unwrap_or(default_port);
        self.host.is_same(other.host) && port(self) == port(other)
    }

    /// Whether this text, the value of the header Origin, is an origin with this host and port. False for `null`.
    pub(super) fn is_origin(&self, text: &[u8]) -> bool {
        for (scheme, default_port) in [("http://", 80), ("https://", 443)] {
            if let Some((start, rest)) = text.split_at_checked(scheme.len())
                && start.eq_ignore_ascii_case(scheme.as_bytes())
            {
                let origin = Authority::parse(rest);
                return origin.is_some_and(|origin| origin.is_same(self, default_port));
            }
        }
        false
    }
}

/// The address between brackets. A zone (`%eth0`, in URLs `%25eth0`) is ignored: it says which interface leads to the
/// address, and the request has arrived already.
fn ipv6(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('%') {
        None => text,
        Some((address, zone)) => {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
            (!zone.is_empty() && zone.bytes().all(fits)).then_some(address)?
        }
    };
    let address = address.parse::<Ipv6Addr>().ok()?;
    Some(address.to_canonical())
}

/// An IPv4 address, or a name of letters, digits, `-`, `_` and dots between them.
fn named(text: &str) -> Option<Host<'_>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(address) = text.parse::<Ipv4Addr>()
    {
        return Some(Host::Address(address.into()));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(fits);
    let is_name = text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label);
    is_name.then_some(Host::Name(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        let authority = Authority::parse(text.as_bytes())?;
        let host = match authority.host {
            Host::Address(address) => format!("address {address}"),
            Host::Name(name) => format!("name {name}"),
        };
        let port = authority.port.map(|port| format!(" port {port}"));
        Some(host + &port.unwrap_or_default())
    }

    #[test]
    fn hosts_are_names_and_addresses_with_or_without_a_port() {
        for (text, expected) in [
            ("localhost", "name localhost"),
            ("LocalHost:9121", "name LocalHost port 9121"),
            ("localhost.:9121", "name localhost port 9121"),
            (
                "a_b.xn--bcher-kva.example",
                "name a_b.xn--bcher-kva.example",
            ),
            ("127.0.0.1", "address 127.0.0.1"),
            ("127.0.0.1.", "address 127.0.0.1"),
            ("127.0.0.1:09121", "address 127.0.0.1 port 9121"),
            ("127.0.0.1:", "address 127.0.0.1"),
            ("127.1", "name 127.1"),
            ("1.example", "name 1.example"),
            ("[::1]", "address ::1"),
            ("[0:0::1]:80", "address ::1 port 80"),
            ("[::ffff:10.0.0.1]:80", "address 10.0.0.1 port 80"),
            ("[fe80::1%eth0]:80", "address fe80::1 port 80"),
            ("[fe80::1%25eth0]", "address fe80::1"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_hosts() {
        for text in [
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a b",
            "a, b",
            "a:80:80",
            "a:+80",
            "a:65536",
            "a:http",
            "user@a",
            "user:password@a",
            "a/",
            "http://a",
            "a%41",
            "b\u{fc}cher.example",
            "::1",
            "[::1",
            "[::1]80",
            "[::1]:x",
            "[127.0.0.1]",
            "[v1.x]",
            "[fe80::1%]",
            "[]",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
        assert_eq!(shown(&"a".repeat(254)), None);
        assert!(Authority::parse(b"\xff").is_none());
    }

    #[test]
    fn an_origin_has_the_host_and_port_of_the_request() {
        let is_origin = |host: &str, origin: &str| {
            let host = Authority::parse(host.as_bytes()).expect(host);
            host.is_origin(origin.as_bytes())
        };
        for (host, origin) in [
            ("127.0.0.1:9121", "http://127.0.0.1:9121"),
            ("LOCALHOST:9121", "HTTP://localhost:9121"),
            ("localhost.:9121", "http://localhost:9121"),
            ("kv.example", "http://kv.example"),
            ("kv.example", "https://kv.example"),
            ("kv.example:80", "http://kv.example"),
            ("kv.example:443", "https://kv.example"),
            ("kv.example", "https://kv.example:443"),
            ("[::1]:9121", "http://[0:0:0:0:0:0:0:1]:9121"),
        ] {
            assert!(is_origin(host, origin), "{host} {origin}");
        }
        for (host, origin) in [
            ("127.0.0.1:9121", "null"),
            ("127.0.0.1:9121", ""),
            ("127.0.0.1:9121", "127.0.0.1:9121"),
            ("127.0.0.1:9121", "http://127.0.0.1"),
            ("127.0.0.1:9121", "http://127.0.0.1:9122"),
            ("127.0.0.1:9121", "http://localhost:9121"),
            ("127.0.0.1:9121", "http://127.0.0.1:9121/"),
            ("127.0.0.1:9121", "http://user@127.0.0.1:9121"),
            (
                "127.0.0.1:9121",
                "http://127.0.0.1:9121 http://127.0.0.1:9121",
            ),
            ("kv.example", "http://kv.example:443"),
            ("kv.example:443", "http://kv.example"),
            ("kv.example", "chrome-extension://kv.example"),
            ("kv.example", "http://evil.kv.example"),
            ("kv.example", "http://kv.example.evil"),
        ] {
            assert!(!is_origin(host, origin), "{host} {origin}");
        }
    }
}
