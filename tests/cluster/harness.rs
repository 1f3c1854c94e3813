//! Processes and clusters of them, and how to wait for what they do.
//!
//! A [`Node`] is one daemon with its ports, data directory and log; it can be killed, stopped, paused and started
//! again, and never outlives its value. A [`Cluster`] is a set of nodes in one temporary directory.
//!
//! Invariants: at most [`CLUSTERS_AT_ONCE`] clusters run at one time in this process, so that timings do not depend
//! on how many threads the test runner has; no node may have panicked by the end of a test, whatever the test was
//! about.

use crate::http::{self, Response};
use crate::ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The daemon under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_raftkvd");
/// For tests in which a request has to wait for an election: the survivors may split their votes once or twice.
pub const PATIENT: [&str; 2] = ["--request-timeout", "20s"];
/// For whatever has no deadline of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTERS_AT_ONCE: usize = 3;
const POLL_INTERVAL: Duration = Duration::from_millis(15);
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

/// A command of the daemon with a clean environment: what the developer has in theirs must not change a test.
pub fn daemon(directory: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .current_dir(directory)
        .stdin(Stdio::null());
    command
}

/// How a process ended that was to end by itself.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command that is to end by itself. One that does not is killed, and the test fails.
#[track_caller]
pub fn run_to_end(command: &mut Command) -> Ended {
    let directory = TempDir::new().expect("create a directory for the output");
    let (stdout, stderr) = (
        directory.path().join("stdout"),
        directory.path().join("stderr"),
    );
    let mut child = command
        .stdout(File::create(&stdout).expect("create the file for stdout"))
        .stderr(File::create(&stderr).expect("create the file for stderr"))
        .spawn()
        .expect("start the daemon");
    let status = wait(&mut child, PATIENCE);
    if status.is_none() {
        child.kill().expect("kill the daemon");
        child.wait().expect("wait for the killed daemon");
    }
    let ended = Ended {
        code: status.and_then(|status| status.code()),
        stdout: read_lossy(&stdout),
        stderr: read_lossy(&stderr),
    };
    assert!(status.is_some(), "{command:?} runs on; it said {ended:?}");
    ended
}

fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait().expect("wait for the daemon") {
            Some(status) => return Some(status),
            None if begin.elapsed() > within => return None,
            None => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

fn read_lossy(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// One daemon.
pub struct Node {
    pub id: u64,
    /// Where its clients connect.
    pub address: SocketAddr,
    /// Where its peers connect.
    pub peer_address: SocketAddr,
    pub data_dir: PathBuf,
    /// What it is started with, all but the program's name.
    pub arguments: Vec<String>,
    /// Further variables of its environment, which is empty but for them.
    pub environment: Vec<(String, String)>,
    directory: PathBuf,
    log: PathBuf,
    /// Where in the log the newest start begins.
    log_start: usize,
    child: Option<Child>,
    paused: bool,
}

impl Node {
    /// A node that is not running, with arguments as they are.
    pub fn with_arguments(
        id: u64,
        port: u16,
        peer_port: u16,
        directory: &Path,
        data_dir: PathBuf,
        arguments: Vec<String>,
    ) -> Node {
        Node {
            id,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            peer_address: SocketAddr::from((Ipv4Addr::LOCALHOST, peer_port)),
            data_dir,
            arguments,
            environment: Vec::new(),
            log: directory.join(format!("node-{id}.log")),
            log_start: 0,
            directory: directory.to_owned(),
            child: None,
            paused: false,
        }
    }

    /// The URL under which its peers know it.
    pub fn url(&self) -> String {
        format!("http://{}", self.peer_address)
    }

    /// Starts the process and does not wait for anything.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        self.log_start = self.log_text().len();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("open the node's log");
        let child = daemon(&self.directory)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdout(log.try_clone().expect("clone the log's file"))
            .stderr(log)
            .spawn()
            .expect("start the daemon");
        self.child = Some(child);
        self.paused = false;
    }

    /// Adds flags for the next start; a flag that is there already gets the new value.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        match self.arguments.iter().position(|a| a == flag) {
            Some(at) => self.arguments[at + 1] = value.to_owned(),
            None => self.arguments.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    /// It was started and was not seen to end; paused counts as not running.
    pub fn is_running(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// kill -9, and until it is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("kill the daemon");
        child.wait().expect("wait for the killed daemon");
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the node runs");
        kill_process(Pid::from_child(child), signal).expect("signal the daemon");
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    /// Waits for it to end by itself. Gives its exit code, `None` if a signal ended it.
    #[track_caller]
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let child = self.child.as_mut().expect("the node runs");
        let status = wait(child, within)
            .unwrap_or_else(|| panic!("node {} still runs after {within:?}", self.id));
        self.child = None;
        status.code()
    }

    /// Starts it and waits for the end that this start has to come to.
    #[track_caller]
    pub fn start_expecting_exit(&mut self, code: i32) {
        self.start();
        let got = self.exit_code(PATIENCE);
        assert_eq!(got, Some(code), "exit code; it said:\n{}", self.last_log());
    }

    /// The process, if it runs, has not ended.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        let child = self.child.as_mut().expect("the node runs");
        let ended = child.try_wait().expect("wait for the daemon");
        assert!(ended.is_none(), "node {} ended: {ended:?}", self.id);
    }

    /// Polls until `GET /-/ready` says yes. A process that ends meanwhile fails the test at once; but if it found
    /// its port in use (somebody outside of these tests took it for a moment) it is started again.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let id = self.id;
        let what = format!("node {id} becomes ready");
        eventually(&what, PATIENCE, || {
            let child = self.child.as_mut().expect("the node runs");
            if let Some(status) = child.try_wait().expect("wait for the daemon") {
                let said = self.last_log();
                let port_in_use = status.code() == Some(2) && said.contains("in use");
                assert!(
                    port_in_use,
                    "node {id} ended with {status}; it said:\n{said}"
                );
                self.child = None;
                self.start();
            }
            match http::request(self.address, "GET", "/-/ready", &[], b"") {
                Ok(response) if response.status == 200 => Ok(()),
                Ok(response) => Err(format!("{} {}", response.status, response.text())),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// One request on a connection of its own; the answer may be anything but none.
    #[track_caller]
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        match http::request(self.address, method, path, headers, body) {
            Ok(response) => response,
            Err(error) => panic!("{method} {path} on node {}: {error}", self.id),
        }
    }

    /// What `GET /-/status` says.
    pub fn status(&self) -> Result<Status, String> {
        let response = http::request(self.address, "GET", "/-/status", &[], b"")
            .map_err(|error| format!("GET /-/status on node {}: {error}", self.id))?;
        if response.status != 200 {
            return Err(format!(
                "GET /-/status on node {}: {} {}",
                self.id,
                response.status,
                response.text()
            ));
        }
        Status::parse(&response.body)
    }

    /// Everything it ever said.
    pub fn log_text(&self) -> String {
        if self.log.exists() {
            read_lossy(&self.log)
        } else {
            String::new()
        }
    }

    /// What it said since its newest start.
    pub fn last_log(&self) -> String {
        let text = self.log_text();
        text.get(self.log_start..).unwrap_or(&text).to_owned()
    }

    /// Removes its data directory; its log stays.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "node {} runs", self.id);
        fs::remove_dir_all(&self.data_dir).expect("remove the data directory");
    }

    /// Names of the files in a directory of its data directory that end in this.
    pub fn files(&self, directory: &str, suffix: &str) -> Vec<String> {
        let mut names = Vec::new();
        let entries = fs::read_dir(self.data_dir.join(directory)).expect("list the data directory");
        for entry in entries {
            let name = entry.expect("list the data directory").file_name();
            names.push(name.into_string().expect("file names are ASCII"));
        }
        names.retain(|name| name.ends_with(suffix));
        names.sort();
        names
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself just now; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a node says of itself: `GET /-/status`.
#[derive(Debug, Clone)]
pub struct Status {
    pub id: u64,
    pub cluster: String,
    pub role: String,
    /// 0: none is known.
    pub leader: u64,
    pub term: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub members: Vec<MemberStatus>,
}

#[derive(Debug, Clone)]
pub struct MemberStatus {
    pub id: u64,
    pub url: String,
    pub learner: bool,
    /// On the leader.
    pub matched: Option<u64>,
}

impl Status {
    fn parse(json: &[u8]) -> Result<Status, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let number = |value: &Value, name: &str| {
            value[name]
                .as_u64()
                .ok_or_else(|| format!("no number {name:?} in {value}"))
        };
        let text = |value: &Value, name: &str| {
            value[name]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("no text {name:?} in {value}"))
        };
        let members = value["members"]
            .as_array()
            .ok_or_else(|| format!("no members in {value}"))?;
        let members = members.iter().map(|member| {
            Ok(MemberStatus {
                id: number(member, "id")?,
                url: text(member, "url")?,
                learner: text(member, "role")? == "learner",
                matched: member["match"].as_u64(),
            })
        });
        Ok(Status {
            id: number(&value, "id")?,
            cluster: value["cluster"].to_string(),
            role: text(&value, "role")?,
            leader: value["leader"].as_u64().unwrap_or(0),
            term: number(&value, "term")?,
            committed: number(&value, "committed")?,
            applied: number(&value, "applied")?,
            snapshot: number(&value, "snapshot")?,
            members: members.collect::<Result<_, String>>()?,
        })
    }

    pub fn member(&self, id: u64) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// Nodes in one temporary directory.
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    /// Flags that every node gets.
    flags: Vec<String>,
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
        Cluster::lay_out(n, flags, Some(Permit::acquire()))
    }

    /// A further cluster for a test that has one already: it counts as part of the first, because a test that
    /// waited for a second permit while holding its first could wait for ever.
    pub fn prepare_beside(_first: &Cluster, n: usize, flags: &[&str]) -> Cluster {
        Cluster::lay_out(n, flags, None)
    }

    fn lay_out(n: usize, flags: &[&str], permit: Option<Permit>) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            directory: TempDir::new().expect("create the cluster's directory"),
            _permit: permit,
        };
        let peer_ports: Vec<u16> = (0..n).map(|_| free_port()).collect();
        let urls: Vec<String> = peer_ports
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect();
        for (id, peer_port) in (1..).zip(peer_ports) {
            cluster.lay_out_node(id, peer_port, &urls.join(","), false);
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
        let node = Node::with_arguments(id, port, peer_port, self.path(), data_dir, arguments);
        let previous = self.nodes.insert(id, node);
        assert!(previous.is_none(), "node {id} exists already");
    }

    /// Lays out the next node, to be started with `--join` and the list of all URLs. Its id follows the last one.
    pub fn lay_out_joiner(&mut self) -> u64 {
        let peer_port = free_port();
        let id = self.nodes.keys().max().expect("there is a node") + 1;
        let mut urls: Vec<String> = self.nodes.values().map(Node::url).collect();
        assert_eq!(urls.len() as u64 + 1, id, "the list has to name every id");
        urls.push(format!("http://127.0.0.1:{peer_port}"));
        self.lay_out_node(id, peer_port, &urls.join(","), true);
        id
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts every node that does not run and waits until all are ready.
    #[track_caller]
    pub fn start_all(&mut self) {
        for node in self.nodes.values_mut() {
            if node.child.is_none() {
                node.start();
            }
        }
        for node in self.nodes.values_mut() {
            node.wait_ready();
        }
    }

    /// kill -9 to every node that runs, all at once.
    pub fn kill_all(&mut self) {
        for node in self.nodes.values_mut().filter(|n| n.child.is_some()) {
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

    /// `POST /<id>` through a node, for a node that was laid out. Has to succeed.
    #[track_caller]
    pub fn add_member(&self, via: u64, id: u64) {
        let url = self.nodes[&id].url();
        let response = self.send(via, "POST", &format!("/{id}"), &[], url.as_bytes());
        assert_eq!(response.status, 204, "POST /{id}: {response:?}");
    }

    /// `DELETE /<id>` through a node. Has to succeed.
    #[track_caller]
    pub fn remove_member(&self, via: u64, id: u64) {
        let response = self.send(via, "DELETE", &format!("/{id}"), &[], b"");
        assert_eq!(response.status, 204, "DELETE /{id}: {response:?}");
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

/// Tells a refused connection from an answer.
pub fn refuses_connections(address: SocketAddr) -> bool {
    match http::Connection::open(address) {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}
