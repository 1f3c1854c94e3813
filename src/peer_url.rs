//! The URL at which a member is reached: `http://host:port`, in one spelling.
//!
//! URLs distinguish members, so one place must not have two spellings. Other members dial the URL, so its host is never
//! an address that is only for listening.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `http://host:port`: the URL at which peers reach a member. It is compared and printed in one canonical form: the
/// host in lower case, an address in its shortest form, an IPv4 address that is mapped into IPv6 as IPv4, and no
/// trailing slash. Names are not resolved, so two names may stand for one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerUrl {
    host: String,
    port: u16,
}

impl PeerUrl {
    /// Reads a URL that a person has typed: `http://` may be left out, and spaces may surround the URL. A host that stands for
    /// many machines is refused.
    pub fn typed(text: &str) -> Result<PeerUrl, String> {
        let text = text.trim();
        if text.contains(char::is_whitespace) {
            return Err(format!(
                "{text:?} is not a peer URL: it has a space; separate several URLs by commas"
            ));
        }
        let url: PeerUrl = match text.contains("://") {
            true => text.parse()?,
            false => format!("http://{text}")
                .parse()
                .map_err(|why: String| why.replacen("\"http://", "\"", 1))?,
        };
        match url.host.parse().ok().and_then(group_of) {
            Some(group) => Err(format!(
                "{text:?} is not a peer URL: this is a {group} address; write the address or name by which others reach the \
                 member"
            )),
            None => Ok(url),
        }
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, the form of an HTTP `Host` header and of a resolver's input.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl FromStr for PeerUrl {
    type Err = String;

    /// An error is one line, and names the URL and what is wrong with it.
    fn from_str(text: &str) -> Result<PeerUrl, String> {
        let wrong = |why: &str| Err(format!("{text:?} is not a peer URL: {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("write it as http://HOST:PORT");
        };
        // `--tls` decides whether a connection has TLS, so both schemes name the same place.
        if !["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return wrong("the scheme has to be http or https");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return wrong("it has a path or a query; write it as http://HOST:PORT");
        }
        if authority.contains('@') {
            return wrong("it has a user name; write it as http://HOST:PORT");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) => (host, port.strip_prefix(':')),
                None => return wrong("the IPv6 address in brackets is not valid"),
            },
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let Some(port) = port else {
            return wrong("it has no port; write it as http://HOST:PORT");
        };
        let valid_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(port) if valid_port && port > 0 => port,
            _ => return wrong("the port has to be a number from 1 to 65535"),
        };
        match canonical_host(host, authority.starts_with('[')) {
            Ok(host) => Ok(PeerUrl { host, port }),
            Err(why) => wrong(why),
        }
    }
}

/// The canonical spelling of a host, or the reason why a member can't be reached at this host.
fn canonical_host(host: &str, bracketed: bool) -> Result<String, &'static str> {
    let address: IpAddr = if bracketed {
        let address = host.parse::<Ipv6Addr>();
        let address = address.map_err(|_| "the IPv6 address in brackets is not valid")?;
        address.to_canonical()
    } else if ends_in_a_number(host) {
        let address = host.parse::<Ipv4Addr>();
        address
            .map_err(|_| "write an IPv4 address as four numbers from 0 to 255, as in 10.0.0.1")?
            .into()
    } else {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        return match host.len() {
            1..=253 if host.bytes().all(fits) => Ok(host.to_ascii_lowercase()),
            _ => Err("the host is not valid"),
        };
    };
    match address.is_unspecified() {
        true => Err(
            "this address is only to listen on (that is what --listen and --listen-peer are for); write the address or \
             name by which others reach the member",
        ),
        false => Ok(address.to_string()),
    }
}

/// The kind of an address that stands for many machines. TCP can't connect to such an address.
pub fn group_of(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        address if address.is_multicast() => Some("multicast"),
        IpAddr::V4(address) if address.is_broadcast() => Some("broadcast"),
        _ => None,
    }
}

/// Whether resolvers treat the host as an IPv4 address. They accept several spellings: 127.1, 0x7f000001 and 2130706433
/// are all 127.0.0.1.
fn ends_in_a_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_may_leave_out_the_scheme_and_may_not_name_many_machines() {
        for (text, canonical) in [
            ("127.0.0.1:9021", "http://127.0.0.1:9021"),
            (" Node-1:1/ ", "http://node-1:1"),
            ("https://a:1", "http://a:1"),
            ("HTTPS://a:1", "http://a:1"),
            ("[::1]:9021", "http://[::1]:9021"),
            ("http://a:1\n", "http://a:1"),
        ] {
            assert_eq!(PeerUrl::typed(text).unwrap().to_string(), canonical);
        }
        for (text, said) in [
            ("", "\"\" is not a peer URL: it has no port"),
            ("a", "\"a\" is not a peer URL: it has no port"),
            ("a:1 b:1", "separate several URLs by commas"),
            ("a:0", "\"a:0\" is not a peer URL: the port"),
            ("::1:9021", "the host is not valid"),
            ("http:/a:1", "it has a path"),
            ("224.0.0.1:1", "this is a multicast address"),
            ("http://[ff02::1]:1", "this is a multicast address"),
            ("http://255.255.255.255:1", "this is a broadcast address"),
            ("0.0.0.0:1", "only to listen on"),
        ] {
            let error = PeerUrl::typed(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn peer_urls_have_one_canonical_form() {
        for (text, canonical) in [
            ("http://127.0.0.1:9021", "http://127.0.0.1:9021"),
            ("http://127.0.0.1:9021/", "http://127.0.0.1:9021"),
            ("HTTP://Node-1.Example:80", "http://node-1.example:80"),
            ("http://[::1]:9021", "http://[::1]:9021"),
            ("http://[0:0:0:0:0:0:0:1]:09021", "http://[::1]:9021"),
            ("http://[0000::0001]:9021", "http://[::1]:9021"),
            ("http://[FE80:0::00Ab]:1", "http://[fe80::ab]:1"),
            ("http://[::ffff:10.0.0.1]:1", "http://10.0.0.1:1"),
            ("http://[::FFFF:a00:1]:1", "http://10.0.0.1:1"),
            ("http://1.example:1", "http://1.example:1"),
        ] {
            assert_eq!(text.parse::<PeerUrl>().unwrap().to_string(), canonical);
        }
        for text in [
            "",
            "127.0.0.1:9021",
            "http://127.0.0.1",
            "http://127.0.0.1:",
            "http://127.0.0.1:0",
            "http://127.0.0.1:+1",
            "http://127.0.0.1:65536",
            "http://127.0.0.1:1/path",
            "http://127.0.0.1:1//",
            "http://127.0.0.1:1?q",
            "http://:1",
            "http://a b:1",
            "http://u@a:1",
            "http://[::1:1",
            "http://[x]:1",
            "http://[::1]",
            // Resolvers treat these hosts as IPv4 addresses, each of which has more than one spelling.
            "http://127.1:1",
            "http://2130706433:1",
            "http://0x7f.0.0.1:1",
            "http://127.0.0.01:1",
            "http://127.0.0.1.:1",
            "http://a.1:1",
            "http://300.0.0.1:1",
            "ftp://a:1",
        ] {
            let error = text.parse::<PeerUrl>().unwrap_err();
            assert!(!error.contains('\n') && error.contains(&format!("{text:?}")));
        }
    }

    #[test]
    fn an_address_to_listen_on_is_no_peer_url() {
        for host in [
            "0.0.0.0",
            "[::]",
            "[0:0:0:0:0:0:0:0]",
            "[::0.0.0.0]",
            "[::ffff:0.0.0.0]",
            "[::ffff:0:0]",
        ] {
            let error = format!("http://{host}:9021").parse::<PeerUrl>();
            let error = error.unwrap_err();
            assert!(error.contains("only to listen on"), "{error}");
            assert!(error.contains("--listen-peer"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        // Resolvers treat these hosts as the same address.
        for host in ["0", "00", "0x", "0x0", "0.0", "0.0.0.0."] {
            let error = format!("http://{host}:9021").parse::<PeerUrl>();
            error.unwrap_err();
        }
    }
}
