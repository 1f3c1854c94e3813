//! The ports that a start binds before it touches its data.

use super::failure::Failure;
use super::port::{Port, needs_a_person};
use super::start_wait::{NotStarted, StartWait};
use crate::limits;
use std::net::{SocketAddr, TcpListener};

/// Binds a port. Waits if the port is in use or the address does not exist: the process before may still be about to end,
/// and the address may come up later.
pub(super) fn listen(
    address: SocketAddr,
    port: Port,
    wait: &mut StartWait,
) -> Result<TcpListener, NotStarted> {
    let bind = || {
        // The standard library sets SO_REUSEADDR, so a restart does not wait for old connections to time out.
        let listener = TcpListener::bind(address);
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            // The standard library asks for 128. A burst of connections beyond that delays others by a second.
            rustix::net::listen(&listener, limits::LISTEN_BACKLOG)?;
            Ok(listener)
        });
        std::future::ready(listener)
    };
    let what = format!("{address}, to listen on ({})", port.options());
    wait.until(&what, needs_a_person, bind)?.map_err(|source| {
        NotStarted::Failed(Failure::Listen {
            address,
            port,
            source,
        })
    })
}

/// Converts the listener for the runtime, which serves it.
pub(super) fn into_tokio(
    listener: TcpListener,
    runtime: &tokio::runtime::Runtime,
) -> Result<tokio::net::TcpListener, Failure> {
    let _context = runtime.enter();
    tokio::net::TcpListener::from_std(listener)
        .map_err(|error| Failure::Fatal(format!("can't serve a port: {error}; start again")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn advice_follows_what_is_wrong() {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
        for (address, kind, port, said) in [
            (
                "10.0.0.1:80",
                AddrInUse,
                Port::Clients,
                "--port or --listen",
            ),
            (
                "10.0.0.1:80",
                AddrNotAvailable,
                Port::Clients,
                "this machine has no address 10.0.0.1; use --listen with one that it has, or 0.0.0.0",
            ),
            (
                "[fd00::1]:80",
                AddrNotAvailable,
                Port::Peers,
                "this machine has no address fd00::1; use --listen-peer with one that it has, or ::",
            ),
            (
                "10.0.0.1:1023",
                PermissionDenied,
                Port::Clients,
                "may not use port 1023; choose one from 1024 on with",
            ),
            (
                "10.0.0.1:1024",
                PermissionDenied,
                Port::Clients,
                "forbids port 1024; allow it, or choose another port with",
            ),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let source = io::Error::from(kind);
            let code = if needs_a_person(&source) { 2 } else { 1 };
            let failure = Failure::Listen {
                address,
                port,
                source,
            };
            assert!(failure.to_string().contains(said), "{failure}");
            assert_eq!(failure.exit_code(), code, "{failure}");
        }
    }
}
