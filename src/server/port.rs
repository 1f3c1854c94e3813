//! The two ports of a member, and what an error means with which one of them can't be bound.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Below this port a process needs a privilege to listen.
const PRIVILEGED_PORTS_END: u16 = 1_024;

/// One of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The port for clients.
    Clients,
    /// The port for peers.
    Peers,
}

impl Port {
    /// The options that choose another port.
    pub(super) fn options(self) -> &'static str {
        match self {
            Port::Clients => "--port or --listen",
            Port::Peers => "--cluster, --peer-url or --listen-peer",
        }
    }

    /// The option that chooses another address.
    pub(super) fn address_option(self) -> &'static str {
        match self {
            Port::Clients => "--listen",
            Port::Peers => "--listen-peer",
        }
    }
}

/// The error does not end by itself: another attempt, or another start, would meet it again.
pub(super) fn needs_a_person(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), PermissionDenied | InvalidInput | Unsupported)
}

/// What the user can do about an address that can't be listened on.
pub(super) fn advice(address: &SocketAddr, port: Port, error: &io::Error) -> String {
    let ip = address.ip();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "stop the process that uses this port, or choose another port with {}",
            port.options()
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "this machine has no address {ip}; use {} with one that it has, or {}",
            port.address_option(),
            match ip.is_ipv4() {
                true => Ipv4Addr::UNSPECIFIED.to_string(),
                false => Ipv6Addr::UNSPECIFIED.to_string(),
            }
        ),
        io::ErrorKind::PermissionDenied if address.port() >= PRIVILEGED_PORTS_END => format!(
            "a security policy of this machine, such as SELinux, forbids port {}; allow it, or choose another port with {}",
            address.port(),
            port.options()
        ),
        io::ErrorKind::PermissionDenied => format!(
            "this user may not use port {}; choose one from {PRIVILEGED_PORTS_END} on with {}, or grant \
             CAP_NET_BIND_SERVICE",
            address.port(),
            port.options()
        ),
        _ => format!("choose another address or port with {}", port.options()),
    }
}
