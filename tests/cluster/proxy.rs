//! The network between the nodes: a TCP proxy before each node's peer port, through which all others reach it.
//!
//! A proxy listens on [`HOST`], at the same port as its node on 127.0.0.1, so that peer URLs name the proxy. Who dials
//! says so in the head of its request (`raftkvd-from`), so each connection has two directions between two known nodes,
//! and each direction can be cut or delayed. What is cut is held back, as by a network that loses every packet, and
//! comes through when the link heals, unless the connection is broken by then.

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
    /// Both ends of every connection that is open, by number.
    open: BTreeMap<u64, (Link, TcpStream, TcpStream)>,
    opened: u64,
    stopped: bool,
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

    /// Ends all troubles. `breaking`: the connections that were in trouble break, instead of going on.
    pub fn heal(&self, breaking: bool) {
        let mut links = self.shared.lock();
        let troubled = std::mem::take(&mut links.troubled);
        for ((from, to), dialling, dialled) in links.open.values() {
            let hit = troubled.contains_key(&(*from, *to)) || troubled.contains_key(&(*to, *from));
            if breaking && hit {
                // One that is gone already is as good.
                let _ = dialling.shutdown(Shutdown::Both);
                let _ = dialled.shutdown(Shutdown::Both);
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
        for (_, dialling, dialled) in links.open.values() {
            let _ = dialling.shutdown(Shutdown::Both);
            let _ = dialled.shutdown(Shutdown::Both);
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

    /// Waits until what arrived at this time may go on over the link. `false`: never.
    fn pass(&self, link: Link, arrived: Instant) -> bool {
        let mut links = self.lock();
        loop {
            if links.stopped {
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
    let (head, from) = read_head(&mut dialling)?;
    let mut dialled = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    dialling.set_nodelay(true)?;
    dialled.set_nodelay(true)?;
    let (mut answering, mut answered) = (dialled.try_clone()?, dialling.try_clone()?);
    let number = {
        let mut links = shared.lock();
        let ends = ((from, id), dialling.try_clone()?, dialled.try_clone()?);
        links.opened += 1;
        let number = links.opened;
        links.open.insert(number, ends);
        number
    };
    let back = thread::spawn({
        let shared = Arc::clone(shared);
        move || pump(&shared, (id, from), &mut answering, &mut answered)
    });
    if shared.pass((from, id), Instant::now()) && dialled.write_all(&head).is_ok() {
        pump(shared, (from, id), &mut dialling, &mut dialled);
    }
    // The other direction may go on: a node may have closed only its half.
    let _ = back.join();
    shared.lock().open.remove(&number);
    Ok(())
}

/// Reads the head of the request, and who sends it.
fn read_head(stream: &mut TcpStream) -> io::Result<(Vec<u8>, u64)> {
    stream.set_read_timeout(Some(HEAD_TIMEOUT))?;
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

/// Carries one direction of a connection until its source ends or its destination takes nothing any more.
fn pump(shared: &Shared, link: Link, source: &mut TcpStream, destination: &mut TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = source.read(&mut buffer).unwrap_or(0);
        if !shared.pass(link, Instant::now()) {
            return;
        }
        if read == 0 {
            // The end of one direction; it is over already if the connection broke.
            let _ = destination.shutdown(Shutdown::Write);
            return;
        }
        if destination.write_all(&buffer[..read]).is_err() {
            let _ = source.shutdown(Shutdown::Both);
            return;
        }
    }
}
