//! What a load goes to: raftkvd, the ceiling or etcd.

use std::net::SocketAddr;

pub struct Server {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    /// All processes that have to do with it, the leader first.
    pub pids: Vec<u32>,
    /// The client address of a raftkvd whose log is looked at.
    pub leader: Option<SocketAddr>,
}
