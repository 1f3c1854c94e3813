//! The settings of one process.
//!
//! The command line is parsed in `cli` into an [`Asked`], and the server makes a [`Config`] of that and of the data
//! directory; all other modules take what they need from here.

use crate::peer_url::PeerUrl;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What the command line of one process says, checked. The data directory says the rest.
#[derive(Debug, Clone)]
pub struct Asked {
    /// This member's id, at least 1.
    pub id: Option<u64>,
    /// `--peer-url`: where the other members reach this one. Never with a list.
    pub peer_url: Option<PeerUrl>,
    /// Peer URLs of `--cluster`, by id from 1; empty without it.
    pub cluster: BTreeMap<u64, PeerUrl>,
    /// `--join`, with or without a URL.
    pub join: bool,
    /// Where clients reach the members that are asked to add this one; empty: it was added, or will be.
    pub join_by: Vec<PeerUrl>,
    /// Where clients connect.
    pub port: u16,
    /// The same: at this address. `None`: at that of the peer URL.
    pub listen: Option<IpAddr>,
    /// Further hosts by which clients may name this member.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Where peers connect. `None`: at the address of the peer URL.
    pub listen_peer: Option<IpAddr>,
    /// The data directory.
    pub data_dir: Option<PathBuf>,
    /// The directory of `--tls`.
    pub tls_dir: Option<PathBuf>,
    /// The client port also speaks TLS 1.2.
    pub allows_tls12: bool,
    /// `--insecure`: a port beyond loopback needs no TLS.
    pub insecure: bool,
    /// The files with which to dial the members of `join_by`. `None`: those of `tls_dir`.
    pub join_files: Option<ClientFiles>,
    /// All that has to do with no other member and no directory.
    pub tuning: Tuning,
}

/// The identity of one process and the other members, from the command line and the data directory.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member's id, at least 1.
    pub id: u64,
    /// Where the other members reach this one.
    pub peer_url: PeerUrl,
    /// `peer_url` was given on the command line, so that a member that knows another moves there.
    pub url_given: bool,
    /// Peer URLs of the first members, by id. Empty: a new cluster of this member alone, or the others are known from the
    /// data directory or from the member that this member joins through.
    pub cluster: BTreeMap<u64, PeerUrl>,
    /// `cluster` was said on the command line.
    pub list_given: bool,
    /// This member joins a running cluster: it starts empty and waits for its leader. Never of one that is a member.
    pub join: bool,
    /// The command line said `--join`, and the data directory belongs to a cluster already.
    pub join_ignored: bool,
    /// Where clients reach the members that are asked to add this one; empty: it was added, or will be.
    pub join_by: Vec<PeerUrl>,
    /// `join_by` is not from the command line but from the data directory.
    pub join_remembered: bool,
    /// `join_by`, also if this member was added long ago. Messages name these URLs.
    pub join_urls: Vec<PeerUrl>,
    /// Where clients connect.
    pub client_address: SocketAddr,
    /// Further hosts by which clients may name this member.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Where peers connect.
    pub peer_address: SocketAddr,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The directory of `--tls` and what goes with it. `None`: no TLS.
    pub tls: Option<TlsOptions>,
    /// A port beyond loopback needs no TLS.
    pub insecure: bool,
    /// The files with which to dial the members of `join_by`. `None`: those of `tls`.
    pub join_files: Option<ClientFiles>,
    /// All that has to do with no other member and no directory.
    pub tuning: Tuning,
}

/// The options about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// The directory.
    pub dir: PathBuf,
    /// The id of this member. Its certificate must be for this id.
    pub member: u64,
    /// The client port also speaks TLS 1.2. The peer port never does.
    pub allows_tls12: bool,
}

/// The files with which a command dials a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFiles {
    /// A directory that `raftkvd cert` has made, of a client or of a member.
    Dir(PathBuf),
    /// Single files.
    Files {
        /// The CAs that are trusted.
        ca: PathBuf,
        /// A certificate and its key.
        own: Option<(PathBuf, PathBuf)>,
    },
}

/// A host of `--allow-host`, in lower case and without a final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHost {
    /// `*`: any host.
    Any,
    /// One host.
    Name(String),
    /// `*.SUFFIX`: all hosts that end in a dot and this suffix.
    Below(String),
}

/// Sizes, limits and times that the command line sets.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// A snapshot is due when the log since the last one outweighs this and the last snapshot's size.
    pub snapshot_bytes: u64,
    /// Applied entries stay in memory up to this size; older ones are read back from the WAL.
    pub log_cache_bytes: u64,
    /// Largest value a client may write.
    pub value_bytes_max: usize,
    /// Longest key, after percent-decoding.
    pub key_bytes_max: usize,
    /// Keys and values that the map may hold before writes are refused, 0 for any number.
    pub store_bytes_max: u64,
    /// Connections of clients at one address, and watches of one address. 0 stands for a quarter of all.
    pub address_connections_max: u32,
    /// By when every request is answered.
    pub request_timeout: Duration,
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// A follower that heard nothing for one to two of these starts an election.
    pub election_timeout: Duration,
}

impl Tuning {
    /// Length of a raft tick: a fifth of a heartbeat, so that election timeouts are spread finely.
    pub fn tick(&self) -> Duration {
        (self.heartbeat / TICKS_PER_HEARTBEAT).max(Duration::from_millis(1))
    }

    /// The election timeout in ticks, rounded up.
    pub fn election_ticks(&self) -> usize {
        self.election_timeout
            .as_micros()
            .div_ceil(self.tick().as_micros()) as usize
    }

    /// The heartbeat interval in ticks.
    pub fn heartbeat_ticks(&self) -> usize {
        (self.heartbeat.as_micros() / self.tick().as_micros()).max(1) as usize
    }
}

const TICKS_PER_HEARTBEAT: u32 = 5;
