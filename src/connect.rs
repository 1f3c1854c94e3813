//! Connecting to where a member is reached: to all addresses that its host stands for, in turns (RFC 8305, "Happy
//! Eyeballs"). Peers, joiners and backups connect here.
//!
//! A name may stand for several addresses, of which some are silent: a network card that is down, IPv6 that leads nowhere.
//! So the addresses are tried in the order of the resolver, IPv6 and IPv4 in turns; each starts a moment after the one before,
//! or as soon as one has failed, and the first connection wins.

use crate::limits;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::thread;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connects to a host, which is a name or an address.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    first_of(to_try(look_up(host).await?, port)).await
}

/// The addresses to try, in their order.
fn to_try(found: Vec<SocketAddr>, port: u16) -> Vec<SocketAddr> {
    let mut addresses = in_turns(found);
    addresses.truncate(limits::CONNECT_ADDRESSES_MAX);
    for address in &mut addresses {
        address.set_port(port);
    }
    addresses
}

/// The first of these addresses that connects.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failed = None;
    loop {
        match waiting.next() {
            Some(address) => {
                attempts.spawn(attempt(address));
            }
            None if attempts.is_empty() => {
                let nothing = || io::Error::new(io::ErrorKind::NotFound, "its host has no address");
                return Err(failed.unwrap_or_else(nothing));
            }
            None => {}
        }
        tokio::select! {
            biased;
            Some(ended) = attempts.join_next() => match ended.map_err(io::Error::other).flatten() {
                // What else is under way ends with the set.
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(graver(failed, error)),
            },
            () = sleep(limits::CONNECT_STAGGER), if waiting.len() > 0 => {}
        }
    }
}

async fn attempt(address: SocketAddr) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(address);
    let connected = timeout(limits::PEER_CONNECT_TIMEOUT, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Of two errors the one that leaves more open: only when every address refuses does nobody listen there.
fn graver(known: Option<io::Error>, error: io::Error) -> io::Error {
    match known {
        Some(known) if known.kind() != io::ErrorKind::ConnectionRefused => known,
        _ => error,
    }
}

/// IPv6 and IPv4 in turns, from the family that the resolver puts first; each address once.
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first().map(SocketAddr::is_ipv4) else {
        return found;
    };
    let mut families: [Vec<SocketAddr>; 2] = Default::default();
    for address in found {
        let family = &mut families[usize::from(address.is_ipv4() != first)];
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let [one, other] = families;
    let turns = one.len().max(other.len());
    (0..turns)
        .flat_map(|turn| [one.get(turn), other.get(turn)])
        .flatten()
        .copied()
        .collect()
}

/// What a lookup has found.
type Found = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

/// The lookups that are under way, by host. Each occupies a thread for as long as the resolver takes, which is minutes when
/// its servers are silent: so there is one for a host, and all who ask meanwhile get what it finds.
static UNDER_WAY: Mutex<BTreeMap<String, watch::Receiver<Option<Found>>>> =
    Mutex::new(BTreeMap::new());

/// The addresses that a host stands for, in the order of the resolver, with port 0. A link-local address keeps its scope:
/// without its interface it leads nowhere.
pub async fn look_up(host: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, 0)]);
    }
    let mut lookup = under_way(host);
    let found = timeout(limits::LOOK_UP_TIMEOUT, lookup.wait_for(Option::is_some)).await;
    let found = found.map_err(|_| {
        let why = "the name of its host was not resolved in time";
        io::Error::new(io::ErrorKind::TimedOut, why)
    })?;
    let found = found.ok().and_then(|found| found.clone());
    match found {
        Some(found) => found.map_err(|(kind, why)| io::Error::new(kind, why)),
        None => Err(io::Error::other("the lookup was given up")),
    }
}

fn under_way(host: &str) -> watch::Receiver<Option<Found>> {
    let mut lookups = UNDER_WAY.lock();
    if let Some(lookup) = lookups.get(host) {
        return lookup.clone();
    }
    let (sender, lookup) = watch::channel(None);
    let name = host.to_owned();
    // Not a thread of tokio, which panics if the machine refuses one.
    let thread = thread::Builder::new().name("lookup".to_owned());
    let started = thread.spawn(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        let found = found.map(Iterator::collect);
        UNDER_WAY.lock().remove(&name);
        sender.send_replace(Some(
            found.map_err(|error| (error.kind(), error.to_string())),
        ));
    });
    match started {
        Ok(_) => {
            lookups.insert(host.to_owned(), lookup.clone());
            lookup
        }
        Err(error) => {
            let why = format!("can't start a thread to resolve the name of its host: {error}");
            watch::channel(Some(Err((error.kind(), why)))).1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::net::TcpListener;

    fn ips(list: &[&str]) -> Vec<SocketAddr> {
        let parsed = list.iter().map(|ip| ip.parse().unwrap());
        parsed.map(|ip| SocketAddr::new(ip, 0)).collect()
    }

    #[test]
    fn families_take_turns_from_the_one_that_comes_first() {
        for (found, expected) in [
            (
                &["::1", "::2", "::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"][..],
                &["::1", "10.0.0.1", "::2", "10.0.0.2", "10.0.0.3"][..],
            ),
            (&["10.0.0.1", "::1"], &["10.0.0.1", "::1"]),
            (&[], &[]),
        ] {
            assert_eq!(in_turns(ips(found)), ips(expected));
        }
    }

    #[test]
    fn a_link_local_address_keeps_its_scope() {
        let [first, second] = ["[fe80::1%2]:0", "[fe80::1%3]:0"].map(|text| text.parse().unwrap());
        let tried = to_try(vec![first, second, first], 9_021);
        let tried: Vec<String> = tried.iter().map(SocketAddr::to_string).collect();
        assert_eq!(tried, ["[fe80::1%2]:9021", "[fe80::1%3]:9021"]);
    }

    /// A listener whose queue is full answers no SYN any more.
    async fn silent() -> (SocketAddr, Vec<TcpStream>, tokio::net::TcpSocket) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let mut queued = Vec::new();
        let soon = std::time::Duration::from_millis(200);
        while let Ok(Ok(stream)) = timeout(soon, TcpStream::connect(address)).await {
            queued.push(stream);
        }
        (address, queued, socket)
    }

    #[tokio::test]
    async fn a_silent_address_costs_a_moment_and_one_that_refuses_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let (quiet, _queued, _socket) = silent().await;
        let begun = Instant::now();
        let stream = first_of(vec![quiet, closed, quiet, open]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let took = begun.elapsed();
        assert!(took >= limits::CONNECT_STAGGER * 2, "{took:?}");
        assert!(took < limits::PEER_CONNECT_TIMEOUT, "{took:?}");
        let refused = first_of(vec![closed, closed]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let error = first_of(vec![closed, quiet, closed]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(first_of(Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn who_asks_for_a_host_meanwhile_shares_its_lookup() {
        let host = "raftkvd-test.invalid";
        let (one, other) = (under_way(host), under_way(host));
        assert!(one.same_channel(&other));
        assert!(look_up(host).await.is_err());
        assert!(!UNDER_WAY.lock().contains_key(host));
        assert_eq!(look_up("::1").await.unwrap(), ips(&["::1"]));
        assert!(
            look_up("localhost")
                .await
                .unwrap()
                .iter()
                .all(|address| address.ip().is_loopback())
        );
    }
}
