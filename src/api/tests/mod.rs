//! The API over real sockets, with a scripted thread instead of the raft loop.

mod availability;
mod connections;
mod keys;
mod list;
mod members;
mod metrics;
mod outcomes;
mod pairs;
mod script;
mod txn;
mod watching;

use super::*;
use crate::command::Kind;
use crate::command::outcome::{NotProposed, Outcome};
use crate::logging::progress::Replay;
use crate::members::cluster_id;
use crate::store::Store;
use crate::store::history::History;
use script::Script;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant as StdInstant;
use tokio::sync::oneshot as signal;

/// How the scripted loop treats what it takes from the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Applies commands at once, as a single member does.
    Serve,
    /// Refuses every proposal before it is proposed.
    Refuse(NotProposed),
    /// Drops every reply.
    Drop,
    /// Keeps every reply and answers nothing until the mode is `Serve`. Then it answers the reads and drops the
    /// proposals.
    Silent,
}

struct Cluster {
    address: SocketAddr,
    inbox: Arc<Inbox>,
    history: Arc<History>,
    mode: Arc<StdMutex<Mode>>,
    /// The deadlines of everything that the loop took, in ticks.
    deadlines: Arc<StdMutex<Vec<u64>>>,
    done: Arc<AtomicBool>,
    raft: Option<JoinHandle<()>>,
    stop: Option<signal::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

/// The incarnation of the first member's data directory.
const INCARNATION: u64 = 0xa1;

/// The capacity of the history of these members.
const HISTORY_BYTES: u64 = 64 << 10;

fn limits() -> Limits {
    Limits {
        key_bytes_max: 64,
        value_bytes_max: 100_000,
        request_timeout: Duration::from_secs(20),
        header_timeout: Duration::from_secs(20),
        connections_max: 4_096,
        spare_connections_max: 8,
        address_max: 4_096,
        body_bytes_max: 1 << 20,
        json_bytes_max: 1 << 20,
        store_bytes_max: 0,
        watchers_max: 100,
        watch_id_interval: Duration::from_secs(20),
    }
}

impl Cluster {
    fn start() -> Cluster {
        Cluster::with(limits())
    }

    fn with(limits: Limits) -> Cluster {
        let replay = Replay::new();
        replay.begin_log(0, 0, &Logger::root(slog::Discard, slog::o!()));
        Cluster::replaying(limits, Arc::new(replay))
    }

    fn replaying(limits: Limits, replay: Arc<Replay>) -> Cluster {
        let inbox = Arc::new(Inbox::default());
        let state_machine = StateMachine {
            replay,
            ..StateMachine::new(Arc::new(Store::new()), HISTORY_BYTES)
        };
        let history = Arc::clone(&state_machine.history);
        history.begin(1, 1);
        let mode = Arc::new(StdMutex::new(Mode::Serve));
        let deadlines = Arc::new(StdMutex::new(Vec::new()));
        let done = Arc::new(AtomicBool::new(false));
        let raft = {
            let (inbox, done) = (Arc::clone(&inbox), Arc::clone(&done));
            let (mode, deadlines) = (Arc::clone(&mode), Arc::clone(&deadlines));
            // Each test drives the replay itself.
            let state_machine = StateMachine {
                replay: Arc::default(),
                ..state_machine.clone()
            };
            let script = Script::new(inbox, state_machine, mode, deadlines);
            std::thread::spawn(move || script.play(&done))
        };
        let api = Api {
            inbox: Arc::clone(&inbox),
            state_machine,
            hosts: Hosts::default(),
            limits,
            tick: Duration::from_millis(20),
            metrics: Arc::default(),
            workers: Workers::start(2).unwrap(),
            tls: None,
            revoked: Arc::default(),
            logger: Logger::root(slog::Discard, slog::o!()),
        };
        let (stop, stopped) = signal::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, api, async {
                    let _ = stopped.await;
                })
                .await;
            });
        });
        Cluster {
            address: address.recv().unwrap(),
            inbox,
            history,
            mode,
            deadlines,
            done,
            raft: Some(raft),
            stop: Some(stop),
            server: Some(server),
        }
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        // No test waits forever.
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        Client {
            reader: BufReader::new(stream),
        }
    }

    /// One request on its own connection.
    fn send(&self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Response {
        self.connect().send(method, target, headers, body)
    }

    fn get(&self, target: &str) -> Response {
        self.send("GET", target, &[], b"")
    }

    fn post(&self, target: &str, body: &str) -> Response {
        self.send("POST", target, &[], body.as_bytes())
    }

    /// Posts a transaction that must succeed or fail its conditions. Returns the status and the answer.
    fn transact(&self, body: Value) -> (u16, Value) {
        let response = self.post("/-/txn", &body.to_string());
        if response.status == 200 {
            assert_eq!(response.json()["etag"], response.etag().trim_matches('"'));
        }
        (response.status, response.json())
    }

    fn list(&self, query: &str) -> Value {
        let response = self.get(&format!("/-/kv{query}"));
        assert_eq!(response.status, 200, "{query}: {response:?}");
        response.json()
    }

    fn put(&self, target: &str, body: &[u8]) -> Response {
        self.send("PUT", target, &[], body)
    }

    /// Starts to stop the server.
    fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Waits until the server has returned.
    fn wait(&mut self) {
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        self.done.store(true, Ordering::SeqCst);
        if let Some(raft) = self.raft.take() {
            raft.join().unwrap();
        }
        if !std::thread::panicking() {
            self.wait();
        }
    }
}

/// A connection with handwritten HTTP, so that a test controls every byte.
struct Client {
    reader: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Response {
    status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Client {
    fn write(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    fn send(&mut self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Response {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.write(head.as_bytes());
        self.write(body);
        self.receive(method)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn receive(&mut self, method: &str) -> Response {
        let status = self.line();
        let status = status
            .strip_prefix("HTTP/1.1 ")
            .or(status.strip_prefix("HTTP/1.0 "))
            .unwrap_or_else(|| panic!("no status line: {status:?}"));
        let status = status[..3].parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        let length = response.header("content-length").unwrap_or("0");
        let bodiless = method == "HEAD" || matches!(status, 100 | 204 | 304);
        if !bodiless {
            response.body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut response.body).unwrap();
        }
        response
    }

    /// Reads until the server closes the connection, and returns the bytes.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).unwrap();
        rest
    }
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn etag(&self) -> &str {
        self.header("etag").expect("the response has an etag")
    }

    fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The one line of a message.
    fn text(&self) -> &str {
        let text = std::str::from_utf8(&self.body).unwrap();
        let line = text
            .strip_suffix('\n')
            .expect("a message ends in a newline");
        assert!(!line.contains('\n') && !line.is_empty(), "{text:?}");
        assert_eq!(
            self.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        line
    }
}

/// Polls until it holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = StdInstant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(StdInstant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}
