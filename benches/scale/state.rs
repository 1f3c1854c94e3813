//! A member that was loaded with many keys through its API, and what can be done to it.

use crate::background::Background;
use crate::daemons::{self, Cluster, Member};
use crate::histogram::Histogram;
use crate::http::Connection;
use crate::kernel;
use crate::load::{self, Connecting, Until};
use crate::options::Options;
use crate::process::eventually;
use crate::request::{KEY_BYTES, Kind, Requests};
use crate::server::Server;
use crate::watch::{Snapshot, Watch};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Enough that a load takes the shortest time.
pub const LOAD_CONNECTIONS: usize = 256;
/// Clients of everything else.
pub const CONNECTIONS: usize = 64;
/// Peer URLs: the member's own, and those of members that join later.
const URLS: usize = 3;
/// How long a snapshot, or a start, may take.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of a value that is written to bring about a snapshot, at most and as a share of the state.
const PUSH_BYTES_MAX: u64 = 1 << 20;
const PUSH_SHARE: u64 = 64;
/// Writes of that kind that may fail.
const PUSH_ERRORS_MAX: usize = 100;
/// How often something is looked at that nobody times.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

pub struct State {
    pub cluster: Cluster,
    pub dir: PathBuf,
    pub urls: Vec<String>,
    /// Writes of all its keys.
    pub requests: Arc<Requests>,
    /// Bytes of keys and values.
    pub payload_bytes: u64,
    pub loaded: Loaded,
}

/// What the load took.
pub struct Loaded {
    pub seconds: f64,
    pub latencies: Histogram,
    pub wal_bytes: u64,
    /// Written by all that use the disk.
    pub disk_bytes: u64,
    pub snapshots: Vec<Snapshot>,
    /// When everything was at rest.
    pub resident_bytes: u64,
}

impl State {
    pub fn load(dir: &Path, keys: usize, options: &Options) -> State {
        fs::create_dir_all(dir).expect("make a directory");
        let urls = daemons::free_urls(URLS);
        let mut member = Member::new(dir, 1, &urls[..1], options.member_options());
        member.start();
        let mut cluster = Cluster {
            members: vec![member],
            tls: None,
        };
        cluster.wait_until_settled();
        let (address, pid) = (cluster.members[0].address, cluster.members[0].pid());
        let watch = Watch::start(pid, &daemons::data_dir(dir, 1));
        let requests = Arc::new(Requests::new(Kind::Put, keys, options.value_bytes));
        let disk_bytes = kernel::disk_written_bytes(dir);
        let outcome = load::run(
            &requests,
            Connecting::plain(&[address]),
            LOAD_CONNECTIONS,
            Until::EveryKey,
            || {},
        );
        assert_eq!(
            (outcome.requests, &outcome.first_error),
            (keys as u64, &None),
            "every key is written"
        );
        wait_for_snapshot(&watch);
        let wal_bytes = daemons::written(address, &None).bytes;
        let disk_bytes = kernel::disk_written_bytes(dir) - disk_bytes;
        std::thread::sleep(options.warm_up());
        State {
            cluster,
            dir: dir.to_owned(),
            urls,
            requests,
            payload_bytes: (keys * (KEY_BYTES + options.value_bytes)) as u64,
            loaded: Loaded {
                seconds: outcome.seconds,
                latencies: outcome.latencies,
                wal_bytes,
                disk_bytes,
                snapshots: watch.stop().snapshots,
                resident_bytes: kernel::resident_bytes(pid),
            },
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.cluster.members[0].address
    }

    pub fn pid(&self) -> u32 {
        self.cluster.members[0].pid()
    }

    pub fn server(&self, name: &str) -> Server {
        self.cluster.server(name, 0, &[0])
    }

    pub fn watch(&self) -> Watch {
        Watch::start(self.pid(), &daemons::data_dir(&self.dir, 1))
    }

    /// Clients that overwrite its keys.
    pub fn overwrite(&self) -> Background {
        Background::start(&self.requests, self.address(), CONNECTIONS)
    }

    /// Writes large values to one key until a snapshot is being written, or is already: see the head of `main.rs`.
    pub fn push(&self, watch: &Watch) {
        wait_for_snapshot(watch);
        let before = watch.snapshots().0;
        let bytes = (self.payload_bytes / PUSH_SHARE).clamp(1, PUSH_BYTES_MAX);
        let value = vec![b'p'; bytes as usize];
        let (mut connection, mut errors) = (None, 0);
        let begun = Instant::now();
        while watch.snapshots().0 == before {
            let answered = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(self.address()),
            }
            .and_then(|mut open: Connection| {
                let response = open.send("PUT", "/push", &[], &value)?;
                Ok((open, response))
            });
            match answered {
                Ok((open, response)) if response.status == 204 => connection = Some(open),
                other => {
                    errors += 1;
                    assert!(errors <= PUSH_ERRORS_MAX, "no write works: {other:?}");
                }
            }
            assert!(begun.elapsed() < PATIENCE, "no snapshot is begun");
        }
    }

    /// A snapshot from its begin to its end, while nothing else is done.
    pub fn write_snapshot(&self) -> Snapshot {
        let watch = self.watch();
        self.push(&watch);
        wait_for_snapshot(&watch);
        let seen = watch.stop();
        *seen.snapshots.last().expect("a snapshot was written")
    }

    /// `GET /-/status`.
    pub fn status(&self) -> serde_json::Value {
        eventually("the member tells its status", || {
            daemons::status_json(self.address(), &None)
        })
    }

    /// Ends the member and removes its data.
    pub fn remove(mut self) {
        self.cluster.members[0].take().kill();
        fs::remove_dir_all(&self.dir).expect("remove a data directory");
    }
}

/// Until no snapshot is being written.
pub fn wait_for_snapshot(watch: &Watch) {
    let begun = Instant::now();
    while watch.snapshots().1 {
        assert!(begun.elapsed() < PATIENCE, "a snapshot does not end");
        std::thread::sleep(POLL_INTERVAL);
    }
}
