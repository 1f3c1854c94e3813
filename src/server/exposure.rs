//! Ports that other machines can reach: only with `--tls`, or on purpose with `--insecure`.
//!
//! A start without either is refused before anything is touched. The addresses on which the member will listen decide, not
//! the options: the host of a peer URL may be a name, and 0.0.0.0 and `::` are all addresses of the machine.

use super::failure::Failure;
use super::port::{Port, needs_a_person};
use super::start_wait::{NotStarted, StartWait};
use crate::config::Config;
use slog::{Logger, warn};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Refuses a port without TLS beyond loopback, unless `--insecure` was given.
///
/// The start waits for an address that this machine does not have yet. No client reaches such an address. If the wait
/// fails, the start ends with a code after which a supervisor tries again, because the address may come up later.
pub(super) fn check(config: &Config, wait: &mut StartWait) -> Result<(), NotStarted> {
    if config.insecure {
        return Ok(());
    }
    let open = open_ports(config);
    for (port, address) in &open {
        // A datagram socket shows whether the machine has the address, and accepts no connection.
        let mut of_any_port = *address;
        of_any_port.set_port(0);
        let is_there = || {
            std::future::ready(match UdpSocket::bind(of_any_port) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(error),
                // The start is refused, also if something else is wrong.
                _ => Ok(()),
            })
        };
        let what = format!("{address}, to listen on ({})", port.options());
        let found = wait.until(&what, needs_a_person, is_there)?;
        found.map_err(|source| Failure::Listen {
            address: *address,
            port: *port,
            source,
        })?;
    }
    match open.is_empty() {
        true => Ok(()),
        false => Err(Failure::Usage(refusal(config, &open)).into()),
    }
}

/// The ports without TLS beyond loopback, each with its address.
pub(super) fn open_ports(config: &Config) -> Vec<(Port, SocketAddr)> {
    if config.tls.is_some() {
        return Vec::new();
    }
    let ports = [
        (Port::Clients, config.client_address),
        (Port::Peers, config.peer_address),
    ];
    let open = ports.into_iter();
    open.filter(|(_, address)| !is_loopback(address.ip()))
        .collect()
}

/// An IPv4 address in IPv6 form is the IPv4 address.
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// The line of a refused start: the ports, and what the user can do.
fn refusal(config: &Config, open: &[(Port, SocketAddr)]) -> String {
    let ports = open.iter().map(|(port, address)| match port {
        Port::Clients => format!("the client port at {address}"),
        Port::Peers => format!("the peer port at {address}"),
    });
    let ports = ports.collect::<Vec<_>>().join(" and ");
    let stay = match stay_on_loopback(config, open) {
        None => String::new(),
        Some(options) => format!(", or {options} to serve this machine only"),
    };
    format!(
        "without TLS, everybody who reaches {ports} can read and change all data; give --tls DIR, with a directory that \
         raftkvd cert makes{stay}, or, in a network where you trust everybody, --insecure"
    )
}

/// The options that keep these ports on the loopback address, if others can still reach the member at its peer URL.
fn stay_on_loopback(config: &Config, open: &[(Port, SocketAddr)]) -> Option<String> {
    let host = config.peer_url.host();
    let is_local = host == "localhost" || host.parse().is_ok_and(is_loopback);
    let options = open.iter().map(|(port, _)| match port {
        Port::Clients => Some(format!("{} 127.0.0.1", port.address_option())),
        Port::Peers => is_local.then(|| format!("{} 127.0.0.1", port.address_option())),
    });
    let options: Option<Vec<String>> = options.collect();
    options.map(|options| options.join(" "))
}

/// Logs what a start with `--insecure` opens, at each start.
pub(super) fn tell(config: &Config, logger: &Logger) {
    for (port, address) in open_ports(config) {
        match port {
            Port::Clients => {
                warn!(logger, "the client port is open beyond loopback without TLS: everybody who reaches it can read, change and \
                    delete all data, and change the members"; "client_address" => %address);
            }
            Port::Peers => {
                warn!(logger, "the peer port is open beyond loopback without TLS: everybody who reaches it can disturb the \
                    cluster, and who reads its traffic can pass for a member and overwrite all data"; "peer_address" => %address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Task};
    use crate::peer_url::PeerUrl;
    use crate::server::start;
    use crate::storage::RealDisk;
    use std::sync::Arc;

    /// The settings of a start with these options, whose peer URL has a name that stands for this address.
    fn config(line: &str, resolved: &str) -> Config {
        let words = ["raftkvd", "--data-dir", "d"].into_iter();
        let words = words.chain(["--peer-url", "http://name:7"]);
        let Ok(Task::Run(options)) = cli::parse(words.chain(line.split_whitespace())) else {
            panic!("{line}: it runs the daemon");
        };
        let look_up = &mut |_: &PeerUrl| Ok(vec![SocketAddr::new(resolved.parse().unwrap(), 0)]);
        let disk = Arc::new(RealDisk) as _;
        start::settle(options.asked, &disk, look_up).unwrap().0
    }

    fn open(line: &str, resolved: &str) -> Vec<String> {
        let open = open_ports(&config(line, resolved)).into_iter();
        open.map(|(port, address)| format!("{port:?} {address}"))
            .collect()
    }

    #[test]
    fn loopback_is_what_only_this_machine_reaches() {
        for ip in ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!(open("", ip).is_empty(), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "::ffff:10.0.0.1",
            "10.0.0.1",
            "128.0.0.1",
            "fe80::1",
            "::2",
        ] {
            assert_eq!(open("", ip).len(), 2, "{ip}");
        }
    }

    #[test]
    fn each_port_counts_by_its_own_address() {
        let clients = ["Clients 10.0.0.1:9121"];
        assert_eq!(open("--listen-peer 127.0.0.1", "10.0.0.1"), clients);
        assert_eq!(open("--listen 127.0.0.1", "10.0.0.1"), ["Peers 10.0.0.1:7"]);
        assert_eq!(open("--listen ::", "127.0.0.1"), ["Clients [::]:9121"]);
        assert!(open("--tls certs/member-1", "10.0.0.1").is_empty());
        assert_eq!(open("--insecure", "10.0.0.1").len(), 2);
    }

    #[test]
    fn the_loopback_address_is_proposed_where_the_others_still_reach_the_member() {
        for (line, resolved, stays) in [
            (
                "--listen-peer 127.0.0.1",
                "10.0.0.1",
                "--listen 127.0.0.1 to",
            ),
            ("--listen 0.0.0.0", "127.0.0.1", "--listen 127.0.0.1 to"),
            ("", "10.0.0.1", ""),
            ("--listen 127.0.0.1", "10.0.0.1", ""),
        ] {
            let config = config(line, resolved);
            let text = refusal(&config, &open_ports(&config));
            for way in ["--tls DIR", "--insecure", stays] {
                assert!(text.contains(way), "{line}: {text}");
            }
            assert_eq!(text.contains("127.0.0.1 to"), !stays.is_empty(), "{text}");
        }
    }
}
