//! Section `etcd`: the same load on etcd, where it is installed, through its JSON gateway.
//!
//! The gateway turns every request into one of gRPC inside of etcd, so this is what a client that speaks HTTP gets, and
//! not what etcd's own clients do.

use crate::cell::{self, Cell};
use crate::daemons::Cluster;
use crate::options::Options;
use crate::process::{Process, eventually};
use crate::request::{Kind, Requests, VALUE_BYTES};
use crate::server::Server;
use crate::table::{self, Ratios};
use crate::{http, ports};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

const BINARY: &str = "etcd";
const CONNECTIONS: [usize; 2] = [64, 256];
const KINDS: [(Kind, Kind); 2] = [(Kind::Put, Kind::EtcdPut), (Kind::Get, Kind::EtcdRange)];
const SIZES: [usize; 2] = [1, 3];
/// Runs in one round: etcd and raftkvd for each figure.
pub const RUNS: usize = CONNECTIONS.len() * KINDS.len() * SIZES.len() * 2;

pub fn is_installed() -> bool {
    version().is_some()
}

fn version() -> Option<String> {
    let said = Command::new(BINARY)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&said.stdout);
    Some(text.lines().next()?.to_owned())
}

pub fn run(dir: &Path, options: &Options) {
    let Some(version) = version() else {
        println!("\n==== etcd: not on the PATH, left out");
        return;
    };
    println!("\n{version}, through its JSON gateway, on the leader; ratio: raftkvd to etcd");
    for size in SIZES {
        let dir = dir.join(size.to_string());
        let mut ours = Cluster::start(&dir.join("raftkvd"), size);
        let theirs = Etcd::start(&dir.join("etcd"), size);
        let put = |kind| Requests::new(kind, options.keys, VALUE_BYTES);
        cell::fill(
            &ours.server("raftkvd", ours.leader(), &[0]),
            &put(Kind::Put),
        );
        cell::fill(&theirs.server(), &put(Kind::EtcdPut));
        for (our_kind, their_kind) in KINDS {
            let requests = [put(our_kind), put(their_kind)];
            for connections in CONNECTIONS {
                ours.wait_until_settled();
                let servers = [ours.server("raftkvd", ours.leader(), &[0]), theirs.server()];
                let mut cells = [Cell::default(), Cell::default()];
                for _ in 0..options.rounds {
                    for ((server, requests), cell) in servers.iter().zip(&requests).zip(&mut cells)
                    {
                        let round = cell::measure(server, requests, connections, options);
                        cell.0.push(round);
                    }
                }
                let plural = if size == 1 { "" } else { "s" };
                table::head(&format!(
                    "{} beside {}, {size} node{plural}, {connections} connections",
                    our_kind.name(),
                    their_kind.name(),
                ));
                let ratios = Ratios::new(&cells[0], &cells[1]);
                table::row("raftkvd", &cells[0], Some(&ratios), "");
                table::row("etcd", &cells[1], None, "");
            }
        }
    }
}

struct Etcd {
    /// With their client addresses.
    members: Vec<(Process, SocketAddr)>,
}

impl Etcd {
    fn start(dir: &Path, size: usize) -> Etcd {
        fs::create_dir_all(dir).expect("make a directory");
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> = (0..size).map(|_| url(ports::free_port())).collect();
        let cluster: Vec<String> = (0..size)
            .map(|member| format!("member{member}={}", peers[member]))
            .collect();
        let members = (0..size).map(|member| {
            let port = ports::free_port();
            let mut command = Command::new(BINARY);
            command
                // etcd takes all its options from the environment too. Where it is found stays as it is.
                .env_clear()
                .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
                .arg("--name")
                .arg(format!("member{member}"))
                .arg("--data-dir")
                .arg(dir.join(format!("data-{member}")))
                .args(["--listen-client-urls", &url(port)])
                .args(["--advertise-client-urls", &url(port)])
                .args(["--listen-peer-urls", &peers[member]])
                .args(["--initial-advertise-peer-urls", &peers[member]])
                .args(["--initial-cluster", &cluster.join(",")]);
            let log = dir.join(format!("log-{member}"));
            let process = Process::start(&mut command, &log);
            (process, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        });
        let etcd = Etcd {
            members: members.collect(),
        };
        etcd.leader();
        etcd
    }

    /// Its place among the members.
    fn leader(&self) -> usize {
        eventually("etcd has a leader", || {
            for (place, (_, address)) in self.members.iter().enumerate() {
                let response =
                    http::request(*address, "POST", "/v3/maintenance/status", &[], b"{}")
                        .map_err(|error| error.to_string())?;
                let json: Value =
                    serde_json::from_slice(&response.body).map_err(|_| format!("{response:?}"))?;
                let leader = json["leader"].as_str();
                if leader.is_some() && leader == json["header"]["member_id"].as_str() {
                    return Ok(place);
                }
            }
            Err("no member leads".to_owned())
        })
    }

    fn server(&self) -> Server {
        let leader = self.leader();
        let size = self.members.len();
        let member = |place: usize| &self.members[(leader + place) % size];
        Server {
            name: BINARY.to_owned(),
            addresses: vec![member(0).1],
            pids: (0..size).map(|place| member(place).0.pid()).collect(),
            leader: None,
            tls: None,
        }
    }
}
