//! What a load goes to: raftkvd, the ceiling or etcd.

use crate::load::Connecting;
use crate::stream::ClientTls;
use std::net::SocketAddr;

pub struct Server {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    /// All processes that have to do with it, the leader first.
    pub pids: Vec<u32>,
    /// The client address of a raftkvd whose log is looked at.
    pub leader: Option<SocketAddr>,
    pub tls: ClientTls,
}

impl Server {
    /// Connections that stay.
    pub fn connecting(&self) -> Connecting<'_> {
        Connecting {
            addresses: &self.addresses,
            tls: &self.tls,
            per_request: false,
        }
    }
}
