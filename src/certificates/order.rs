//! The order of a certificate: its owner, the hosts for clients that check them, and its times.

use super::facts::{FactsError, parse};
use super::name::Subject;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use x509_parser::extensions::GeneralName;

/// The longest life of a certificate, in days: that of the CA.
pub const DAYS_MAX: u32 = 3650;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of machines differ. A certificate that was issued a moment ago is valid on all of them.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60 * 60);

/// The owner and the hosts of a certificate that the CA is to issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The owner.
    pub subject: Subject,
    /// The hosts in URLs of the member. Peers don't check them, but clients such as curl do.
    pub hosts: Vec<AltHost>,
}

/// A host in a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AltHost {
    /// A DNS name, in lower case.
    Name(String),
    /// An IP address.
    Address(IpAddr),
}

/// The time in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// This number of days from now on, at most [`DAYS_MAX`].
    pub fn days(now: SystemTime, days: u32) -> Validity {
        assert!((1..=DAYS_MAX).contains(&days), "{days} days");
        Validity {
            not_before: now - CLOCK_DIFFERENCE,
            not_after: now + DAY * days,
        }
    }
}

/// Days from now until a time, where a part of a day counts as one; 0 if the time has passed.
pub fn days_until(time: SystemTime, now: SystemTime) -> u64 {
    let left = time.duration_since(now).unwrap_or_default();
    left.as_nanos().div_ceil(DAY.as_nanos()) as u64
}

impl Order {
    /// The order of a member. Clients on its own machine can always use `localhost`.
    pub fn member(id: u64, hosts: impl IntoIterator<Item = AltHost>) -> Order {
        let loopback = [
            AltHost::Name("localhost".to_owned()),
            AltHost::Address(Ipv4Addr::LOCALHOST.into()),
            AltHost::Address(Ipv6Addr::LOCALHOST.into()),
        ];
        let mut all: Vec<AltHost> = Vec::new();
        for host in hosts.into_iter().chain(loopback) {
            if !all.contains(&host) {
                all.push(host);
            }
        }
        Order {
            subject: Subject::Member(id),
            hosts: all,
        }
    }
}

impl AltHost {
    /// An address in its only spelling. `None` for an address that is only for listening.
    fn address(address: IpAddr) -> Option<AltHost> {
        let address = address.to_canonical();
        (!address.is_unspecified()).then_some(AltHost::Address(address))
    }
}

/// The hosts of a certificate. Names of other kinds are left out.
pub fn hosts(der: &[u8]) -> Result<Vec<AltHost>, FactsError> {
    let certificate = parse(der)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| FactsError::NotACertificate)?;
    let names = names.map(|names| &names.value.general_names);
    let hosts = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            AltHost::address(address.ok()?)
        }
        _ => None,
    });
    Ok(hosts.collect())
}

/// The text of a URL's host, an IPv6 address also without its brackets. An error says what to write.
impl FromStr for AltHost {
    type Err = String;

    fn from_str(text: &str) -> Result<AltHost, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
            return AltHost::address(address).ok_or_else(|| {
                "this address is only to listen on; write the one by which clients reach the member"
                    .to_owned()
            });
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(fits);
        let last = name.rsplit('.').next().unwrap_or_default();
        let ends_in_a_number = last.bytes().all(|b| b.is_ascii_digit());
        match name.len() <= 253 && name.split('.').all(is_label) && !ends_in_a_number {
            true => Ok(AltHost::Name(name.to_ascii_lowercase())),
            false => Err(
                "write a host name such as kv.example.com, or an IP address, without a scheme, a port or a path"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for AltHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AltHost::Name(name) => f.write_str(name),
            AltHost::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_in_one_spelling() {
        for (text, host) in [
            ("Kv.Example.com.", "kv.example.com"),
            ("node_1", "node_1"),
            ("10.0.0.1", "10.0.0.1"),
            ("[::1]", "::1"),
            ("0:0::1", "::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(text.parse::<AltHost>().unwrap().to_string(), host);
        }
        for text in [
            "",
            ".",
            "a..b",
            "http://a",
            "a:1",
            "a/b",
            "a b",
            "*.a",
            "10.0.0",
            "10.0.0.256",
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "b\u{fc}cher",
            "a\n",
        ] {
            assert!(text.parse::<AltHost>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_member_is_reached_on_its_own_machine_too_and_no_host_is_twice() {
        let hosts = ["a", "127.0.0.1", "a"].map(|text| text.parse().unwrap());
        let order = Order::member(1, hosts);
        let hosts: Vec<String> = order.hosts.iter().map(AltHost::to_string).collect();
        assert_eq!(hosts, ["a", "127.0.0.1", "localhost", "::1"]);
    }

    #[test]
    fn a_part_of_a_day_counts_as_one() {
        let now = SystemTime::UNIX_EPOCH + 100 * DAY;
        let validity = Validity::days(now, 90);
        assert_eq!(days_until(validity.not_after, now), 90);
        let later = now + Duration::from_nanos(1);
        assert_eq!(days_until(validity.not_after, later), 90);
        let later = now + DAY + Duration::from_nanos(1);
        assert_eq!(days_until(validity.not_after, later), 89);
        assert_eq!(days_until(now, later), 0);
        assert!(validity.not_before < now);
    }
}
