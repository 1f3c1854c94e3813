//! Clusters of daemons, and how to wait for what they do.
//!
//! A [`Cluster`] is a set of [`Node`]s in one temporary directory, each with what a client can ask it.
//!
//! Invariants: at most [`CLUSTERS_AT_ONCE`] clusters run at one time in this process, so that timings do not depend
//! on how many threads the test runner has; no node may have panicked by the end of a test, whatever the test was
//! about.

use crate::certificates::Certificates;
use crate::http::{self, Response};
use crate::ports::free_port;
pub use crate::process::{BINARY, Node, daemon, refuses_connections, run_to_end};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For tests in which a request has to wait for an election: the survivors may split their votes once or twice.
pub const PATIENT: [&str; 2] = ["--request-timeout", "20s"];
/// For whatever has no deadline of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTERS_AT_ONCE: usize = 3;
pub const POLL_INTERVAL: Duration = Duration::from_millis(15);
/// With this variable all clusters have TLS. Tests that look at bytes, ports or lines of plaintext fail then, and all others
/// have to pass.
const SECURE_ALL: &str = "RAFTKVD_TESTS_SECURE";
/// Lines of each node's log that a failing test prints.
const LOG_TAIL_LINES: usize = 60;

/// Polls until `check` gives a value; panics with its last error when the time is over.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> T {
    let begin = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if begin.elapsed() > within => {
                panic!("{what}: not within {within:?}; last: {last}")
            }
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// `Ok` if the condition holds, else the text: for [`eventually`].
pub fn require(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}

/// Sets its flag when it goes out of scope, also by a panic: threads that run until told so must not keep a failed
/// test from ending.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The right to run a cluster.
struct Permit;

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Permit {
    fn acquire() -> Permit {
        let running = RUNNING.lock().unwrap_or_else(|e| e.into_inner());
        let mut running = FREED
            .wait_while(running, |running| *running >= CLUSTERS_AT_ONCE)
            .unwrap_or_else(|e| e.into_inner());
        *running += 1;
        Permit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(|e| e.into_inner()) -= 1;
        FREED.notify_one();
    }
}

/// Nodes in one temporary directory.
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    /// The certificates of its nodes. `None`: without TLS.
    pub certificates: Option<Certificates>,
    /// Flags that every node gets.
    flags: Vec<String>,
    url_host: Ipv4Addr,
    // Fields are dropped in this order: first the nodes end, then their directory goes, then the next may run.
    directory: TempDir,
    _permit: Option<Permit>,
}

impl Cluster {
    /// `n` members with the default settings, running and ready.
    #[track_caller]
    pub fn start(n: usize) -> Cluster {
        Cluster::start_with(n, &[])
    }

    /// The same with further flags for every node.
    #[track_caller]
    pub fn start_with(n: usize, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(n, flags);
        cluster.start_all();
        cluster
    }

    /// `n` members that were not started.
    pub fn prepare(n: usize, flags: &[&str]) -> Cluster {
        Cluster::lay_out(n, flags, Ipv4Addr::LOCALHOST, Some(Permit::acquire()))
    }

    /// `n` members that were not started and reach each other through whatever listens on this host, on the ports
    /// that they listen on themselves on 127.0.0.1.
    pub fn prepare_behind(host: Ipv4Addr, n: usize, flags: &[&str]) -> Cluster {
        let local = ["--listen", "127.0.0.1", "--listen-peer", "127.0.0.1"];
        let flags = [&local, flags].concat();
        Cluster::lay_out(n, &flags, host, Some(Permit::acquire()))
    }

    /// Makes certificates for all nodes, and for this process as the administrator. All nodes speak TLS from their next
    /// start on, also nodes that are laid out later.
    pub fn secure(&mut self) {
        if self.certificates.is_some() {
            return;
        }
        let urls: Vec<String> = self.nodes.values().map(Node::url).collect();
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        assert!(ids.iter().copied().eq(1..=ids.len() as u64), "{ids:?}");
        self.certificates = Some(Certificates::make(self.path(), &urls));
        for id in ids {
            self.secure_node(id);
        }
    }

    /// This node speaks TLS from its next start on.
    pub fn secure_node(&mut self, id: u64) {
        let certificates = self.certificates.as_ref().expect("the cluster has some");
        let directory = certificates.of_member(id).display().to_string();
        let admin = certificates.admin();
        let node = self.node(id);
        node.set_flag("--tls", &directory);
        http::secure(node.address, Some(admin));
    }

    /// All nodes are without TLS from their next start on.
    pub fn expose(&mut self) {
        self.certificates = None;
        for node in self.nodes.values_mut() {
            node.remove_flag("--tls");
            http::secure(node.address, None);
        }
    }

    /// `n` members with TLS, running and ready.
    #[track_caller]
    pub fn start_secure(n: usize, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(n, flags);
        cluster.secure();
        cluster.start_all();
        cluster
    }

    /// A further cluster for a test that has one already: it counts as part of the first, because a test that
    /// waited for a second permit while holding its first could wait for ever.
    pub fn prepare_beside(_first: &Cluster, n: usize, flags: &[&str]) -> Cluster {
        Cluster::lay_out(n, flags, Ipv4Addr::LOCALHOST, None)
    }

    fn lay_out(n: usize, flags: &[&str], url_host: Ipv4Addr, permit: Option<Permit>) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            certificates: None,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            url_host,
            directory: TempDir::new().expect("create the cluster's directory"),
            _permit: permit,
        };
        let peer_ports: Vec<u16> = (0..n).map(|_| free_port()).collect();
        let urls: Vec<String> = peer_ports
            .iter()
            .map(|port| format!("http://{url_host}:{port}"))
            .collect();
        for (id, peer_port) in (1..).zip(peer_ports) {
            cluster.lay_out_node(id, peer_port, &urls.join(","), false);
        }
        if std::env::var_os(SECURE_ALL).is_some() {
            cluster.secure();
        }
        cluster
    }

    fn lay_out_node(&mut self, id: u64, peer_port: u16, urls: &str, join: bool) {
        let port = free_port();
        let data_dir = self.path().join(format!("data-{id}"));
        let mut arguments: Vec<String> = [
            "--id",
            &id.to_string(),
            "--cluster",
            urls,
            "--port",
            &port.to_string(),
            "--data-dir",
            data_dir
                .to_str()
                .expect("the path of a temporary directory is UTF-8"),
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(self.flags.iter().cloned());
        if join {
            arguments.push("--join".to_owned());
        }
        let mut node = Node::with_arguments(id, port, peer_port, self.path(), data_dir, arguments);
        node.url_host = self.url_host;
        let previous = self.nodes.insert(id, node);
        assert!(previous.is_none(), "node {id} exists already");
        self.secure_newcomer(id);
    }

    fn secure_newcomer(&mut self, id: u64) {
        if let Some(certificates) = &self.certificates {
            certificates.add_member(id);
            self.secure_node(id);
        }
    }

    /// Lays out the next node, to be started with `--join` and the list of all URLs. Its id follows the last one.
    pub fn lay_out_joiner(&mut self) -> u64 {
        let peer_port = free_port();
        let id = self.nodes.keys().max().expect("there is a node") + 1;
        let mut urls: Vec<String> = self.nodes.values().map(Node::url).collect();
        assert_eq!(urls.len() as u64 + 1, id, "the list has to name every id");
        urls.push(format!("http://{}:{peer_port}", self.url_host));
        self.lay_out_node(id, peer_port, &urls.join(","), true);
        id
    }

    /// Lays out a member that knows its own peer URL, and asks these members to add it; nobody: it begins a cluster.
    pub fn lay_out_alone(&mut self, id: u64, asked: &[u64]) {
        let (port, peer_port) = (free_port(), free_port());
        let data_dir = self.path().join(format!("data-{id}"));
        let arguments = format!(
            "--id {id} --peer-url http://127.0.0.1:{peer_port} --port {port} --data-dir data-{id}"
        );
        let mut arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        if !asked.is_empty() {
            let urls = asked.iter().map(|id| self.client_url(*id));
            arguments.push("--join".to_owned());
            arguments.push(urls.collect::<Vec<_>>().join(","));
        }
        arguments.extend(self.flags.iter().cloned());
        let node = Node::with_arguments(id, port, peer_port, self.path(), data_dir, arguments);
        self.nodes.insert(id, node);
        self.secure_newcomer(id);
    }

    /// Member 1 begins alone, and the others up to `n` join it by its address. All are voters.
    #[track_caller]
    pub fn grow(n: u64, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(0, flags);
        for id in 1..=n {
            let asked: &[u64] = if id == 1 { &[] } else { &[1] };
            cluster.lay_out_alone(id, asked);
            cluster.node(id).start();
            cluster.node(id).wait_ready();
            cluster.wait_voters(1, &(1..=id).collect::<Vec<_>>());
        }
        cluster
    }

    /// Where clients reach it.
    pub fn client_url(&self, id: u64) -> String {
        match self.certificates {
            Some(_) => format!("https://{}", self.address(id)),
            None => format!("http://{}", self.address(id)),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts every node that does not run and waits until all are ready.
    #[track_caller]
    pub fn start_all(&mut self) {
        for node in self.nodes.values_mut() {
            if !node.has_process() {
                node.start();
            }
        }
        for node in self.nodes.values_mut() {
            node.wait_ready();
        }
    }

    /// kill -9 to every node that runs, all at once.
    pub fn kill_all(&mut self) {
        for node in self.nodes.values_mut().filter(|n| n.has_process()) {
            node.kill();
        }
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("there is such a node")
    }

    pub fn address(&self, id: u64) -> SocketAddr {
        self.nodes[&id].address
    }

    /// Ids of the nodes that run.
    pub fn running(&self) -> Vec<u64> {
        let running = self.nodes.values().filter(|node| node.is_running());
        running.map(|node| node.id).collect()
    }

    /// Ids of the running nodes that are not this one.
    pub fn others(&self, id: u64) -> Vec<u64> {
        let mut ids = self.running();
        ids.retain(|&other| other != id);
        ids
    }

    /// The leader that all running nodes agree on.
    #[track_caller]
    pub fn leader(&self) -> u64 {
        eventually("the nodes agree on a leader", PATIENCE, || {
            let statuses = self
                .running()
                .into_iter()
                .map(|id| self.nodes[&id].status())
                .collect::<Result<Vec<_>, _>>()?;
            let first = statuses.first().expect("a node runs");
            let agreed = statuses
                .iter()
                .all(|s| s.leader == first.leader && s.term == first.term)
                && statuses
                    .iter()
                    .any(|s| s.id == first.leader && s.role == "leader");
            require(agreed, || format!("{statuses:?}"))?;
            Ok(first.leader)
        })
    }

    /// A request to this node on a connection of its own; the answer may be anything but none.
    #[track_caller]
    pub fn send(
        &self,
        id: u64,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.nodes[&id].send(method, path, headers, body)
    }

    /// A write that has to succeed; gives its ETag.
    #[track_caller]
    pub fn put(&self, id: u64, key: &str, value: impl AsRef<[u8]>) -> u64 {
        let response = self.send(
            id,
            "PUT",
            &http::encode(key.as_bytes()),
            &[],
            value.as_ref(),
        );
        assert_eq!(response.status, 204, "PUT {key} on node {id}: {response:?}");
        response.etag()
    }

    /// A linearizable read that has to succeed.
    #[track_caller]
    pub fn get(&self, id: u64, key: &str) -> Option<Vec<u8>> {
        self.read(id, &http::encode(key.as_bytes()))
    }

    /// A local read that has to succeed.
    #[track_caller]
    pub fn get_stale(&self, id: u64, key: &str) -> Option<Vec<u8>> {
        let path = http::encode(key.as_bytes()) + "?consistency=stale";
        self.read(id, &path)
    }

    #[track_caller]
    fn read(&self, id: u64, path: &str) -> Option<Vec<u8>> {
        let response = self.send(id, "GET", path, &[], b"");
        match response.status {
            200 => Some(response.body),
            404 => None,
            _ => panic!("GET {path} on node {id}: {response:?}"),
        }
    }

    /// Asserts what a linearizable read through this node gives.
    #[track_caller]
    pub fn assert_value(&self, id: u64, key: &str, value: &str) {
        let got = self.get(id, key);
        let got = got.as_deref().map(String::from_utf8_lossy);
        assert_eq!(got.as_deref(), Some(value), "{key} on node {id}");
    }

    /// `POST /-/members/<id>` through a node, for a node that was laid out. Has to succeed.
    #[track_caller]
    pub fn add_member(&self, via: u64, id: u64) {
        let url = self.nodes[&id].url();
        let response = self.send(
            via,
            "POST",
            &format!("/-/members/{id}"),
            &[],
            url.as_bytes(),
        );
        assert_eq!(response.status, 204, "POST /{id}: {response:?}");
    }

    /// `DELETE /-/members/<id>` through a node. Has to succeed.
    #[track_caller]
    pub fn remove_member(&self, via: u64, id: u64) {
        let response = self.send(via, "DELETE", &format!("/-/members/{id}"), &[], b"");
        assert_eq!(response.status, 204, "DELETE /{id}: {response:?}");
    }

    /// Waits until these nodes have applied the same, and asserts that their maps are the same then.
    #[track_caller]
    pub fn assert_hashes_agree(&self, ids: &[u64]) {
        let hashes = eventually("the nodes have applied the same", PATIENCE, || {
            let hashes: Vec<(u64, String)> = ids
                .iter()
                .map(|id| self.nodes[id].hash())
                .collect::<Result<_, _>>()?;
            let same = hashes.iter().all(|(index, _)| *index == hashes[0].0);
            require(same, || format!("{hashes:?}"))?;
            Ok(hashes)
        });
        let same = hashes.iter().all(|hash| *hash == hashes[0]);
        assert!(same, "the maps of nodes {ids:?} differ: {hashes:?}");
    }

    /// Waits until this node knows these voters, and no learner.
    #[track_caller]
    pub fn wait_voters(&self, on: u64, voters: &[u64]) {
        let what = format!("node {on} sees the voters {voters:?}");
        eventually(&what, PATIENCE, || {
            let status = self.nodes[&on].status()?;
            let ids: Vec<u64> = status.members.iter().map(|m| m.id).collect();
            let learner = status.members.iter().any(|m| m.learner);
            require(ids == voters && !learner, || format!("{status:?}"))
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            http::secure(node.address, None);
        }
        if std::thread::panicking() {
            for node in self.nodes.values() {
                let text = node.log_text();
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
                eprintln!(
                    "---- end of the log of node {} ({}, started with {:?}):\n{}",
                    node.id,
                    node.address,
                    node.arguments,
                    tail.join("\n")
                );
            }
            return;
        }
        // Checked here so that no test can forget it.
        for node in self.nodes.values() {
            let text = node.log_text();
            assert!(
                !text.contains("panicked at"),
                "node {} panicked:\n{text}",
                node.id
            );
        }
    }
}

/// Names the running members that a test kills by role: the leader, and the others in order.
pub fn leader_and_followers(cluster: &Cluster) -> (u64, Vec<u64>) {
    let leader = cluster.leader();
    (leader, cluster.others(leader))
}
