//! The network between the nodes: a TCP proxy before each node's peer port, through which all others reach it.
//!
//! A proxy listens on [`HOST`], at the same port as its node on 127.0.0.1, so that peer URLs name the proxy. A node
//! that dials names itself in the head of its request (`raftkvd-from`). With TLS, the proxy finds the node by its process.
//! So each connection has two directions between two known nodes, and each direction can be cut or delayed. Bytes of a
//! direction that is cut are held back, as by a network that loses every packet, and come through when the link heals,
//! unless the connection is broken by then.
//!
//! A connection can also be reset, at once or after so many bytes more, which is in the middle of a frame as a rule: both
//! ends get a RST, and what was on its way is lost.

use crate::diallers::node_at;
use rustix::net::sockopt::set_socket_linger;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Linux answers for all of 127.0.0.0/8.
pub const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Head of a request that a node has dialled with; a longer one is none of ours.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// From whom to whom.
type Link = (u64, u64);

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Cut,
    Delay(Duration),
}

#[derive(Default)]
struct Links {
    /// The others are well.
    troubled: BTreeMap<Link, Trouble>,
    /// Every connection that is open, by number.
    open: BTreeMap<u64, Open>,
    opened: u64,
    /// How many connections were reset.
    resets: u64,
    stopped: bool,
}

struct Open {
    /// Who dialled whom.
    link: Link,
    dialling: TcpStream,
    dialled: TcpStream,
    /// It is reset when it has carried so many bytes more.
    left: Option<usize>,
}

impl Open {
    /// Ends whatever reads from it. What is at its ends is shown in order.
    fn shut_down(&self, how: Shutdown) {
        // One that is gone already is as good.
        let _ = self.dialling.shutdown(how);
        let _ = self.dialled.shutdown(how);
    }
}

#[derive(Default)]
struct Shared {
    links: Mutex<Links>,
    changed: Condvar,
}

/// The proxies of a cluster. They end with it.
pub struct Network {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
}

impl Network {
    /// Starts a proxy before each of these nodes: id and peer port.
    pub fn start(nodes: impl Iterator<Item = (u64, u16)>) -> Network {
        let shared = Arc::new(Shared::default());
        let mut addresses = Vec::new();
        for (id, port) in nodes {
            let listener = TcpListener::bind((HOST, port)).expect("listen before a node");
            addresses.push(SocketAddr::from((HOST, port)));
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.lock().stopped {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // A connection that breaks is what this is about; its ends notice.
                    thread::spawn(move || stream.and_then(|s| carry(&shared, s, id, port)));
                }
            });
        }
        Network { shared, addresses }
    }

    /// Nothing goes from one to the other any more.
    pub fn cut(&self, from: u64, to: u64) {
        self.trouble(from, to, Trouble::Cut);
    }

    /// What goes from one to the other takes this much longer.
    pub fn delay(&self, from: u64, to: u64, by: Duration) {
        self.trouble(from, to, Trouble::Delay(by));
    }

    fn trouble(&self, from: u64, to: u64, trouble: Trouble) {
        self.shared.lock().troubled.insert((from, to), trouble);
        self.shared.changed.notify_all();
    }

    /// Every connection between these two that is open now is reset when it has carried so many bytes more. Tells how
    /// many there are.
    pub fn reset(&self, one: u64, other: u64, after_bytes: usize) -> usize {
        let mut links = self.shared.lock();
        let between = [(one, other), (other, one)];
        let hit = (links.open.values_mut()).filter(|open| between.contains(&open.link));
        let mut count = 0;
        for open in hit {
            count += 1;
            open.left = Some(after_bytes);
            if after_bytes == 0 {
                // Wakes its threads, and says nothing to its ends.
                open.shut_down(Shutdown::Read);
            }
        }
        drop(links);
        self.shared.changed.notify_all();
        count
    }

    /// How many connections were reset.
    pub fn resets(&self) -> u64 {
        self.shared.lock().resets
    }

    /// Ends all troubles. `breaking`: the connections that were in trouble break, instead of going on.
    pub fn heal(&self, breaking: bool) {
        let mut links = self.shared.lock();
        let troubled = std::mem::take(&mut links.troubled);
        for open in links.open.values() {
            let (from, to) = open.link;
            let hit = troubled.contains_key(&(from, to)) || troubled.contains_key(&(to, from));
            if breaking && hit {
                open.shut_down(Shutdown::Both);
            }
        }
        drop(links);
        self.shared.changed.notify_all();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut links = self.shared.lock();
        links.stopped = true;
        for open in links.open.values() {
            open.shut_down(Shutdown::Both);
        }
        drop(links);
        self.shared.changed.notify_all();
        for address in &self.addresses {
            // Wakes the thread that accepts.
            let _ = TcpStream::connect(address);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Links> {
        // Every step of it is complete in itself.
        self.links.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How many of so many bytes that a connection is about to carry go on before it is reset.
    fn take(&self, number: u64, bytes: usize) -> usize {
        let mut links = self.lock();
        let Some(left) = links.open.get_mut(&number).and_then(|o| o.left.as_mut()) else {
            return bytes;
        };
        let taken = bytes.min(*left);
        *left -= taken;
        taken
    }

    /// The connection is to be reset now, or was.
    fn is_reset(&self, number: u64) -> bool {
        let links = self.lock();
        links.open.get(&number).is_none_or(|o| o.left == Some(0))
    }

    /// Waits until what arrived at this time may go on over the link. `false`: never.
    fn pass(&self, link: Link, number: u64, arrived: Instant) -> bool {
        let mut links = self.lock();
        loop {
            let reset = links.open.get(&number).is_none_or(|o| o.left == Some(0));
            if links.stopped || reset {
                return false;
            }
            let wait = match links.troubled.get(&link) {
                None => return true,
                Some(Trouble::Cut) => None,
                Some(Trouble::Delay(by)) => match by.checked_sub(arrived.elapsed()) {
                    None => return true,
                    rest => rest,
                },
            };
            links = match wait {
                None => self.changed.wait(links).unwrap_or_else(|e| e.into_inner()),
                Some(rest) => {
                    let waited = self.changed.wait_timeout(links, rest);
                    waited.unwrap_or_else(|e| e.into_inner()).0
                }
            };
        }
    }
}

/// Carries one connection to the node with this id, until it ends.
fn carry(shared: &Arc<Shared>, mut dialling: TcpStream, id: u64, port: u16) -> io::Result<()> {
    let (head, from) = match speaks_tls(&dialling)? {
        true => (
            Vec::new(),
            node_at(dialling.peer_addr()?).ok_or(io::ErrorKind::NotFound)?,
        ),
        false => read_head(&mut dialling)?,
    };
    let mut dialled = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    dialling.set_nodelay(true)?;
    dialled.set_nodelay(true)?;
    let (mut answering, mut answered) = (dialled.try_clone()?, dialling.try_clone()?);
    let number = {
        let open = Open {
            link: (from, id),
            dialling: dialling.try_clone()?,
            dialled: dialled.try_clone()?,
            left: None,
        };
        let mut links = shared.lock();
        links.opened += 1;
        let number = links.opened;
        links.open.insert(number, open);
        number
    };
    let back = thread::spawn({
        let shared = Arc::clone(shared);
        move || pump(&shared, (id, from), number, &mut answering, &mut answered)
    });
    let there = (from, id);
    if shared.pass(there, number, Instant::now()) && dialled.write_all(&head).is_ok() {
        pump(shared, there, number, &mut dialling, &mut dialled);
    }
    // The other direction may go on: a node may have closed only its half.
    let _ = back.join();
    let mut links = shared.lock();
    let open = links.open.remove(&number).expect("it was open");
    if open.left == Some(0) {
        links.resets += 1;
        for stream in [&open.dialling, &open.dialled] {
            // With the last close a RST goes out.
            let _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
    Ok(())
}

/// Waits for the first byte, which shows whether a TLS handshake starts.
fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(HEAD_TIMEOUT))?;
    let mut first = [0];
    let count = stream.peek(&mut first)?;
    let speaks = count > 0 && first[0] == 0x16;
    if speaks {
        stream.set_read_timeout(None)?;
    }
    Ok(speaks)
}

/// Reads the head of the request, and who sends it.
fn read_head(stream: &mut TcpStream) -> io::Result<(Vec<u8>, u64)> {
    let mut head = Vec::new();
    let mut buffer = [0; 1 << 10];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut buffer)?;
        head.extend_from_slice(&buffer[..read]);
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    stream.set_read_timeout(None)?;
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let from = text
        .lines()
        .find_map(|line| line.strip_prefix("raftkvd-from:")?.trim().parse().ok());
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    Ok((head, from))
}

/// Carries one direction of a connection until its source ends, its destination takes nothing any more, or it is reset.
fn pump(
    shared: &Shared,
    link: Link,
    number: u64,
    source: &mut TcpStream,
    destination: &mut TcpStream,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = source.read(&mut buffer).unwrap_or(0);
        if !shared.pass(link, number, Instant::now()) {
            return;
        }
        if read == 0 {
            // The end of one direction; it is over already if the connection broke.
            let _ = destination.shutdown(Shutdown::Write);
            return;
        }
        let carried = shared.take(number, read);
        let written = destination.write_all(&buffer[..carried]);
        if written.is_err() || shared.is_reset(number) {
            // Wakes the other direction.
            let _ = source.shutdown(Shutdown::Read);
            let _ = destination.shutdown(Shutdown::Read);
            if written.is_err() {
                let _ = source.shutdown(Shutdown::Both);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::free_port;

    /// A connection through a proxy that has carried its head and one byte back: both ends.
    fn connected(network: &Network, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let mut dialling = TcpStream::connect(network.addresses[0]).expect("connect");
        let head = b"POST / HTTP/1.1\r\nraftkvd-from: 2\r\n\r\n";
        dialling.write_all(head).expect("send the head");
        let (mut dialled, _) = listener.accept().expect("accept");
        let mut got = vec![0; head.len()];
        dialled.read_exact(&mut got).expect("the head");
        dialled.write_all(b"!").expect("answer");
        dialling.read_exact(&mut [0]).expect("the answer");
        for end in [&dialling, &dialled] {
            let patience = Some(Duration::from_secs(10));
            end.set_read_timeout(patience).expect("set a timeout");
        }
        (dialling, dialled)
    }

    #[test]
    fn a_reset_is_seen_at_both_ends_at_once_or_in_the_middle() {
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("listen");
        let network = Network::start([(1, port)].into_iter());
        for after in [0, 5] {
            let (mut dialling, mut dialled) = connected(&network, &listener);
            assert_eq!(network.reset(1, 3, after), 0, "no such connection");
            assert_eq!(network.reset(1, 2, after), 1);
            if after > 0 {
                dialled.write_all(b"0123456789").expect("send");
            }
            let mut got = Vec::new();
            let ends = [dialling.read_to_end(&mut got), dialled.read(&mut [0; 1])];
            for end in ends {
                let error = end.expect_err("a reset").kind();
                assert_eq!(error, io::ErrorKind::ConnectionReset);
            }
            assert!(b"01234".starts_with(&got) && got.len() <= after, "{got:?}");
        }
    }
}
