//! One daemon as a process: its ports, data directory, log and status; how it is started, signalled and killed.
//!
//! No process outlives its [`Node`].

use crate::harness::{PATIENCE, POLL_INTERVAL, eventually};
use crate::http::{self, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The daemon under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_raftkvd");

/// A command of the daemon with a clean environment: what the developer has in theirs must not change a test.
pub fn daemon(directory: &Path) -> Command {
    clean(Command::new(BINARY), directory)
}

fn clean(mut command: Command, directory: &Path) -> Command {
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
    /// The program.
    pub binary: PathBuf,
    /// What it is started with.
    pub arguments: Vec<String>,
    /// What it is started by, as a program with its arguments; empty: by nothing. It has to become the daemon by exec.
    pub wrapper: Vec<String>,
    /// The host in its peer URL, if it is not where it listens: a proxy's.
    pub url_host: Ipv4Addr,
    /// Where its stderr goes, if not to its log.
    pub stderr: Option<OwnedFd>,
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
            binary: BINARY.into(),
            arguments,
            wrapper: Vec::new(),
            url_host: Ipv4Addr::LOCALHOST,
            stderr: None,
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
        format!("http://{}:{}", self.url_host, self.peer_address.port())
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
        let stderr = match &self.stderr {
            Some(other) => other.try_clone().expect("clone the other stderr").into(),
            None => Stdio::from(log.try_clone().expect("clone the log's file")),
        };
        let mut words = self.wrapper.clone();
        words.push(self.binary.display().to_string());
        let child = clean(Command::new(&words[0]), &self.directory)
            .args(&words[1..])
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdout(log)
            .stderr(stderr)
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

    /// Removes a flag and its value, for the next start.
    pub fn remove_flag(&mut self, flag: &str) {
        if let Some(at) = self.arguments.iter().position(|a| a == flag) {
            self.arguments.drain(at..at + 2);
        }
    }

    /// From its next start on it is reached at another port, and its own arguments say so. Those of the others don't.
    pub fn move_to(&mut self, peer_port: u16) {
        let before = self.url();
        self.peer_address.set_port(peer_port);
        let after = self.url();
        self.replace_in_arguments(&before, &after);
    }

    /// Puts another URL in the place of this one, in all its arguments.
    pub fn replace_in_arguments(&mut self, before: &str, after: &str) {
        for argument in &mut self.arguments {
            *argument = argument.replace(before, after);
        }
    }

    /// From its next start on it joins by itself, by asking the members at these client URLs.
    pub fn let_it_ask(&mut self, asked: &[String]) {
        self.arguments.retain(|argument| argument != "--join");
        self.set_flag("--join", &asked.join(","));
    }

    /// It was started and was not seen to end.
    pub fn has_process(&self) -> bool {
        self.child.is_some()
    }

    /// It has a process that is not paused.
    pub fn is_running(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// Id of its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
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

    /// Its exit code, if it has ended by itself by now. `Some(None)`: a signal ended it.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        let child = self.child.as_mut().expect("the node runs");
        let status = child.try_wait().expect("wait for the daemon")?;
        self.child = None;
        Some(status.code())
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

    /// Polls until it serves no clients for the reason with this code. What it says of it.
    #[track_caller]
    pub fn wait_closed(&mut self, code: &str) -> String {
        let id = self.id;
        let what = format!("node {id} serves nobody: {code}");
        eventually(&what, PATIENCE, || {
            self.assert_alive();
            let accept = [("Accept", "application/json")];
            let answer = http::request(self.address, "GET", "/-/ready", &accept, b"");
            let response = answer.map_err(|error| error.to_string())?;
            let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            match problem["code"] == code && response.status == 503 {
                true => Ok(problem["detail"].as_str().unwrap_or_default().to_owned()),
                false => Err(format!("{response:?}")),
            }
        })
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
                let port_in_use = status.code() == Some(1) && said.contains("in use");
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
        Status::of(self.address, PATIENCE)
    }

    /// What `GET /-/hash` says: the index and the hash of the map there.
    pub fn hash(&self) -> Result<(u64, String), String> {
        let response = http::request(self.address, "GET", "/-/hash", &[], b"")
            .map_err(|error| format!("GET /-/hash on node {}: {error}", self.id))?;
        let value: Value =
            serde_json::from_slice(&response.body).map_err(|_| format!("{response:?}"))?;
        match (value["index"].as_u64(), value["hash"].as_str()) {
            (Some(index), Some(hash)) => Ok((index, hash.to_owned())),
            _ => Err(format!("{response:?}")),
        }
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

    /// Copies its data directory; it does not run.
    pub fn copy_data_to(&self, copy: &Path) {
        assert!(self.child.is_none(), "node {} runs", self.id);
        copy_directory(&self.data_dir, copy);
    }

    /// Puts a copy in the place of its data directory, and uses the copy up.
    pub fn put_back(&mut self, copy: &Path) {
        self.wipe();
        fs::rename(copy, &self.data_dir).expect("put the copy in its place");
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

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).expect("create the copy");
    for entry in fs::read_dir(from).expect("list what is copied") {
        let entry = entry.expect("list what is copied");
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        match source.is_dir() {
            true => copy_directory(&source, &copy),
            false => drop(fs::copy(&source, &copy).expect("copy a file")),
        }
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
    /// What the member at this address says within this time.
    pub fn of(address: SocketAddr, patience: Duration) -> Result<Status, String> {
        let answer = http::Connection::impatient(address, patience)
            .and_then(|mut connection| connection.send("GET", "/-/status", &[], b""));
        let response = answer.map_err(|error| format!("GET /-/status of {address}: {error}"))?;
        match response.status {
            200 => Status::parse(&response.body),
            _ => Err(format!("GET /-/status of {address}: {response:?}")),
        }
    }

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
                matched: member["match_index"].as_u64(),
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
            snapshot: number(&value, "snapshot_index")?,
            members: members.collect::<Result<_, String>>()?,
        })
    }

    pub fn member(&self, id: u64) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// Tells a refused connection from an answer.
pub fn refuses_connections(address: SocketAddr) -> bool {
    match http::Connection::open(address) {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}
