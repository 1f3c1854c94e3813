//! Finds the node that has dialled, by the process that owns the other end of the connection. With TLS, the bytes of the
//! connection do not show the node.

use crate::harness::POLL_INTERVAL;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The time in which the process is looked for. While other sockets open and close, the tables of the kernel may miss one.
const PATIENCE: Duration = Duration::from_secs(2);

/// The id of the node whose process has this local address. `None`: its connection is closed, or it is no node.
pub fn node_at(address: SocketAddr) -> Option<u64> {
    let begun = Instant::now();
    loop {
        match look_for(address) {
            None if begun.elapsed() < PATIENCE => thread::sleep(POLL_INTERVAL),
            found => return found,
        }
    }
}

fn look_for(address: SocketAddr) -> Option<u64> {
    let socket = format!("socket:[{}]", inode(address)?);
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let path = process.path();
        owns(&path, &socket).then(|| id_of(&path))?
    })
}

/// The number of the socket with this local address.
fn inode(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    let local = format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(ip.octets()),
        address.port()
    );
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&&*local)).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

fn owns(process: &Path, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    let mut targets = descriptors
        .flatten()
        .map(|entry| fs::read_link(entry.path()));
    targets.any(|target| target.is_ok_and(|target| target.as_os_str() == socket))
}

/// The `--id` of a process.
fn id_of(process: &Path) -> Option<u64> {
    let line = fs::read_to_string(process.join("cmdline")).ok()?;
    let mut words = line.split('\0').skip_while(|word| *word != "--id");
    words.nth(1)?.parse().ok()
}
