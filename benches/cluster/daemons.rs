//! raftkvd as processes: clusters of one or three members with fresh data directories and, mostly, default settings.

use crate::certificates::{self, Certificates};
use crate::process::{Process, eventually};
use crate::server::Server;
use crate::stream::ClientTls;
use crate::{http, ports};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

pub const BINARY: &str = env!("CARGO_BIN_EXE_raftkvd");

pub struct Member {
    pub address: SocketAddr,
    arguments: Vec<String>,
    log: PathBuf,
    pub process: Option<Process>,
}

impl Member {
    /// One that is not started yet. `urls`: `--cluster`, in the order of the ids, which begin with 1; `extra`: further
    /// options.
    pub fn new(dir: &Path, id: usize, urls: &[String], extra: &[&str]) -> Member {
        let port = ports::free_port();
        let data_dir = data_dir(dir, id).display().to_string();
        let words = [
            ("--id", id.to_string()),
            ("--cluster", urls.join(",")),
            ("--port", port.to_string()),
            ("--data-dir", data_dir),
        ];
        let words = words.into_iter();
        let words = words.flat_map(|(flag, value)| [flag.to_owned(), value]);
        Member {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            arguments: words
                .chain(extra.iter().map(|word| (*word).to_owned()))
                .collect(),
            log: log(dir, id),
            process: None,
        }
    }

    /// Starts the process and waits for nothing.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the member runs already");
        let mut command = Command::new(BINARY);
        command
            .args(&self.arguments)
            // What the developer has in theirs must not change a figure.
            .env_clear();
        self.process = Some(Process::start(&mut command, &self.log));
    }

    pub fn take(&mut self) -> Process {
        self.process.take().expect("the member runs")
    }

    pub fn pid(&self) -> u32 {
        let process = self.process.as_ref().expect("the member runs");
        process.pid()
    }
}

/// Where a member's data lies.
pub fn data_dir(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("data-{id}"))
}

/// Where its output goes.
pub fn log(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("log-{id}"))
}

/// Peer URLs on free ports of this host.
pub fn free_urls(count: usize) -> Vec<String> {
    (0..count)
        .map(|_| format!("http://127.0.0.1:{}", ports::free_port()))
        .collect()
}

/// What of `GET /-/status` is looked at here.
struct Status {
    id: u64,
    leader: u64,
    committed: u64,
    applied: u64,
    wal_syncs: u64,
    wal_bytes: u64,
}

/// What `GET /-/status` says.
pub fn status_json(address: SocketAddr, tls: &ClientTls) -> Result<Value, String> {
    let (status, body) = get(address, "/-/status", tls)?;
    let json = serde_json::from_slice(&body);
    json.map_err(|_| format!("{status} {}", String::from_utf8_lossy(&body)))
}

/// The status and the body of an answer.
fn get(address: SocketAddr, path: &str, tls: &ClientTls) -> Result<(u16, Vec<u8>), String> {
    let answer = match tls {
        None => http::request(address, "GET", path, &[], b"").map(|r| (r.status, r.body)),
        Some(tls) => certificates::get(address, path, tls),
    };
    answer.map_err(|error| format!("GET {path}: {error}"))
}

fn status(address: SocketAddr, tls: &ClientTls) -> Result<Status, String> {
    let json = status_json(address, tls)?;
    Ok(Status {
        id: json["id"].as_u64().unwrap_or(0),
        leader: json["leader"].as_u64().unwrap_or(0),
        committed: json["committed"].as_u64().unwrap_or(0),
        applied: json["applied"].as_u64().unwrap_or(0),
        wal_syncs: json["wal_syncs"].as_u64().unwrap_or(0),
        wal_bytes: json["wal_bytes"].as_u64().unwrap_or(0),
    })
}

/// How far a member's log is, and what it took to write it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    pub committed: u64,
    pub syncs: u64,
    pub bytes: u64,
}

/// Zeros when the member does not say.
pub fn written(address: SocketAddr, tls: &ClientTls) -> Written {
    status(address, tls).map_or_else(
        |_| Written::default(),
        |status| Written {
            committed: status.committed,
            syncs: status.wal_syncs,
            bytes: status.wal_bytes,
        },
    )
}

pub struct Cluster {
    pub members: Vec<Member>,
    /// For the clients of its members.
    pub tls: ClientTls,
}

impl Cluster {
    /// Members that are not started yet.
    pub fn prepare(dir: &Path, size: usize) -> Cluster {
        fs::create_dir_all(dir).expect("make a directory");
        let urls = free_urls(size);
        let members = (1..=size).map(|id| Member::new(dir, id, &urls, &[]));
        Cluster {
            members: members.collect(),
            tls: None,
        }
    }

    /// The same with TLS on both ports.
    fn prepare_with_tls(dir: &Path, size: usize) -> Cluster {
        fs::create_dir_all(dir).expect("make a directory");
        let urls = free_urls(size);
        let certificates = Certificates::make(dir.join("certificates"), &urls);
        let members = (1..=size).map(|id| {
            let tls = certificates.of_member(id).display().to_string();
            Member::new(dir, id, &urls, &["--tls", &tls])
        });
        Cluster {
            members: members.collect(),
            tls: Some(certificates.of_client()),
        }
    }

    /// Members that are ready.
    pub fn start(dir: &Path, size: usize) -> Cluster {
        Cluster::prepare(dir, size).started()
    }

    /// The same with TLS on both ports.
    pub fn start_with_tls(dir: &Path, size: usize) -> Cluster {
        Cluster::prepare_with_tls(dir, size).started()
    }

    fn started(mut self) -> Cluster {
        for member in &mut self.members {
            member.start();
        }
        self.wait_until_settled();
        self
    }

    /// Until all members are ready, follow one leader and have applied what it has committed.
    pub fn wait_until_settled(&mut self) {
        for member in &mut self.members {
            eventually("a member becomes ready", || {
                let process = member.process.as_mut().expect("the member runs");
                process.assert_alive();
                match get(member.address, "/-/ready", &self.tls)? {
                    (200, _) => Ok(()),
                    (status, body) => Err(format!("{status} {}", String::from_utf8_lossy(&body))),
                }
            });
        }
        eventually("all members have caught up", || {
            let leader = self.leader_now()?;
            let committed = status(self.members[leader].address, &self.tls)?.committed;
            for member in &self.members {
                let status = status(member.address, &self.tls)?;
                if status.applied < committed || status.leader != leader as u64 + 1 {
                    return Err(format!("member {} lags behind", status.id));
                }
            }
            Ok(())
        });
    }

    /// Its place among the members.
    pub fn leader(&self) -> usize {
        eventually("there is one leader", || self.leader_now())
    }

    fn leader_now(&self) -> Result<usize, String> {
        for (place, member) in self.members.iter().enumerate() {
            let status = status(member.address, &self.tls)?;
            if status.leader == status.id {
                return Ok(place);
            }
        }
        Err("no member leads".to_owned())
    }

    /// Where a load goes: to these members, given by their places counted from the leader's.
    pub fn server(&self, name: &str, leader: usize, places: &[usize]) -> Server {
        let size = self.members.len();
        let member = |place: &usize| &self.members[(leader + place) % size];
        let all: Vec<usize> = (0..size).collect();
        Server {
            name: name.to_owned(),
            addresses: places.iter().map(|place| member(place).address).collect(),
            pids: all.iter().map(|place| member(place).pid()).collect(),
            leader: Some(member(&0).address),
            tls: self.tls.clone(),
        }
    }
}
