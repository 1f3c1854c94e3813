//! Many strangers at the peer port, and other servers that an operator adds by mistake.
//!
//! Most strangers know nothing that only members know. Those whose claims have to be ahead of the table know the
//! incarnation of the receiver.

use crate::forgeries::{cluster_id, incarnation_of};
use crate::harness::{Cluster, PATIENCE, SetOnDrop, eventually, require};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Fake streams to each member.
const FAKES: usize = 1_000;
/// The id of a member that is added and never bound.
const ADDED: u64 = 9;

/// What a stranger claims.
struct Head<'a> {
    from: u64,
    to: u64,
    cluster: u64,
    bound: u64,
    incarnation: u64,
    url: &'a str,
    /// The incarnation of the receiver, or 0.
    receiver: u64,
}

impl Head<'_> {
    fn text(&self) -> String {
        let Head { from, to, .. } = self;
        let receiver = match self.receiver {
            0 => String::new(),
            known => format!("raftkvd-receiver: formed elsewhere {known:016x}\r\n"),
        };
        let lane = ["control", "append"][(self.incarnation % 2) as usize];
        format!(
            "POST /raft/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raftkvd/2\r\n\
             raftkvd-version: 2\r\nraftkvd-cluster: {:016x}\r\nraftkvd-from: {from}\r\n\
             raftkvd-to: {to}\r\nraftkvd-incarnation: {:016x}\r\nraftkvd-bound: {}\r\n\
             raftkvd-run: 0000000000000001\r\nraftkvd-url: {}\r\nraftkvd-commands: 2\r\n\
             raftkvd-lane: {lane}\r\n{receiver}\r\n",
            self.cluster, self.incarnation, self.bound, self.url,
        )
    }
}

/// What strangers send to one member.
struct Crowd {
    to: u64,
    address: SocketAddr,
    cluster: u64,
    incarnation: u64,
    /// The URL of the member that waits to be bound.
    added_url: String,
}

impl Crowd {
    fn of(cluster: &Cluster, to: u64, added_url: &str) -> Crowd {
        Crowd {
            to,
            address: cluster.nodes[&to].peer_address,
            cluster: cluster_id(cluster),
            incarnation: incarnation_of(cluster, to),
            added_url: added_url.to_owned(),
        }
    }

    /// The bytes of one stranger, in each state that a stranger can reach.
    fn bytes(&self, number: usize) -> Vec<u8> {
        let refused = Head {
            from: 1 + number as u64 % 12,
            to: self.to,
            cluster: 0,
            bound: 0,
            incarnation: 0xbad_0000 + number as u64,
            url: "http://127.0.0.1:9",
            receiver: 0,
        };
        let waiting = Head {
            from: ADDED,
            url: &self.added_url,
            ..refused
        };
        let ahead = Head {
            from: 100 + number as u64,
            cluster: self.cluster,
            bound: 1_000_000_000_000,
            receiver: self.incarnation,
            ..refused
        };
        // The length of a frame, and a part of the frame.
        let half_a_frame = [&10_000_u32.to_le_bytes()[..], &[0; 5_000]].concat();
        let with_half = |head: &Head| [head.text().as_bytes(), &half_a_frame].concat();
        match number % 8 {
            0 => Vec::new(),
            1 => refused.text().as_bytes()[..200].to_vec(),
            2 => refused.text().into_bytes(),
            3 => Head {
                cluster: 0xdead,
                bound: 7,
                ..refused
            }
            .text()
            .into_bytes(),
            4 => waiting.text().into_bytes(),
            5 => with_half(&waiting),
            6 => ahead.text().into_bytes(),
            _ => with_half(&ahead),
        }
    }

    fn come(&self, number: usize) -> Option<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
        // It may be closed at once.
        let _ = stream.write_all(&self.bytes(number));
        Some(stream)
    }

    /// Holds connections, and replaces one of them every millisecond, until it is stopped.
    fn hold(&self, full: &AtomicUsize, stop: &AtomicBool) {
        let mut held: Vec<_> = (0..FAKES).map(|number| self.come(number)).collect();
        full.fetch_add(1, SeqCst);
        for number in FAKES.. {
            if stop.load(SeqCst) {
                return;
            }
            held[number % FAKES] = self.come(number);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The time from the start of a member that was killed until it serves reads and writes.
fn time_to_be_back(cluster: &mut Cluster, id: u64) -> Duration {
    cluster.node(id).kill();
    let since = Instant::now();
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    cluster.put(id, "back", id.to_string());
    since.elapsed()
}

fn best(times: &[Duration]) -> Duration {
    *times.iter().min().expect("several times")
}

#[test]
fn a_thousand_fake_streams_keep_no_member_from_coming_back() {
    let mut cluster = Cluster::start(3);
    cluster.put(1, "foo", "bar");
    let server = Server::start(Answer::Nothing);
    server.is_added_to(&cluster);
    let follower = cluster.others(cluster.leader())[0];
    let restarts = |cluster: &mut Cluster| {
        [(); 3]
            .map(|()| time_to_be_back(cluster, follower))
            .to_vec()
    };
    let alone = restarts(&mut cluster);
    let crowds: Vec<_> = cluster
        .others(follower)
        .into_iter()
        .map(|to| Crowd::of(&cluster, to, &server.url))
        .collect();
    let (full, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let crowded = thread::scope(|scope| {
        let _ended = SetOnDrop(&stop);
        for crowd in &crowds {
            scope.spawn(|| crowd.hold(&full, &stop));
        }
        eventually("the strangers are there", PATIENCE, || {
            let full = full.load(SeqCst);
            require(full == crowds.len(), || format!("{full} crowds"))
        });
        let crowded = restarts(&mut cluster);
        for id in 1..=3 {
            cluster.assert_value(id, "back", &follower.to_string());
        }
        crowded
    });
    println!(
        "back after {alone:?} without strangers, and after {crowded:?} with {FAKES} of them at each of the others"
    );
    // Other work on the machine may delay one start.
    let (alone, crowded) = (best(&alone), best(&crowded));
    assert!(
        crowded < Duration::from_secs(2),
        "{crowded:?}, alone {alone:?}"
    );
    for crowd in &crowds {
        let text = metrics_of(&cluster, crowd.to);
        assert!(counted(&text, "crowded") > 0, "{text}");
        assert!(counted(&text, "refused") > 0, "{text}");
    }
}

fn metrics_of(cluster: &Cluster, id: u64) -> String {
    cluster.send(id, "GET", "/-/metrics", &[], b"").text()
}

/// Handshakes that failed for this reason.
fn counted(metrics: &str, reason: &str) -> u64 {
    let name = format!("raftkvd_peer_handshakes_failed_total{{reason=\"{reason}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value
        .expect("the series is shown")
        .parse()
        .expect("a count")
}

/// How a server that is no raftkvd answers.
#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    NotFound,
    /// The connection is closed at once.
    Close,
}

/// A server that is no raftkvd. It records what it receives.
struct Server {
    url: String,
    came: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(answer: Answer) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("non-blocking");
        let (came, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (came, stop) = (Arc::clone(&came), stop.clone());
            move || serve(&listener, answer, &came, &stop)
        });
        Server {
            url: format!("http://{address}"),
            came,
            stop,
            thread: Some(thread),
        }
    }

    fn is_added_to(&self, cluster: &Cluster) {
        let path = format!("/-/members/{ADDED}");
        let added = cluster.send(1, "POST", &path, &[], self.url.as_bytes());
        assert_eq!(added.status, 204, "{added:?}");
    }

    fn connections(&self) -> usize {
        self.came.lock().expect("nobody panics with it").len()
    }

    /// All bytes that came, as text.
    fn heard(&self) -> String {
        let came = self.came.lock().expect("nobody panics with it");
        let all = came.iter().map(|bytes| String::from_utf8_lossy(bytes));
        all.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, answer: Answer, came: &Mutex<Vec<Vec<u8>>>, stop: &AtomicBool) {
    let mut held = Vec::new();
    while !stop.load(SeqCst) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2));
                continue;
            }
            Err(error) => panic!("accept: {error}"),
        };
        let mut bytes = Vec::new();
        if !matches!(answer, Answer::Close) {
            stream.set_nonblocking(false).expect("blocking");
            let patience = Some(Duration::from_millis(500));
            stream.set_read_timeout(patience).expect("a timeout");
            let mut piece = [0; 4096];
            while !bytes.ends_with(b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => bytes.extend(&piece[..read]),
                }
            }
        }
        match answer {
            Answer::Close => {}
            Answer::Nothing => held.push(stream),
            Answer::NotFound => {
                let text = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(text);
            }
        }
        came.lock().expect("nobody panics with it").push(bytes);
    }
}

/// The time during which the connections to a server are counted.
const COUNTED: Duration = Duration::from_secs(8);
/// Attempts of a lane before its pause is 640 ms, the first included.
const FIRST_ATTEMPTS: usize = 7;

#[test]
fn a_server_that_is_added_by_mistake_is_dialled_rarely_and_learns_nothing() {
    for answer in [Answer::Nothing, Answer::NotFound, Answer::Close] {
        let mut cluster = Cluster::start(1);
        cluster.put(1, "foo", "bar");
        let secrets = [cluster_id(&cluster), incarnation_of(&cluster, 1)];
        let server = Server::start(answer);
        server.is_added_to(&cluster);
        let since = Instant::now();
        while since.elapsed() < COUNTED {
            cluster.assert_value(1, "foo", "bar");
            thread::sleep(Duration::from_millis(200));
        }
        let (connections, heard) = (server.connections(), server.heard());
        println!("{connections} connections in {COUNTED:?}");
        // The pauses of both lanes grow to 5 s.
        assert!(connections <= 2 * (FIRST_ATTEMPTS + 4), "{connections}");
        if !matches!(answer, Answer::Close) {
            assert!(heard.contains("raftkvd-from: 1"), "it was dialled: {heard}");
        }
        for secret in secrets {
            assert!(!heard.contains(&format!("{secret:016x}")), "{heard}");
        }
        cluster.node(1).assert_alive();
        cluster.remove_member(1, ADDED);
    }
}

#[test]
fn strangers_that_claim_an_added_id_make_nobody_dial_its_url_often() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let server = Server::start(Answer::Close);
    server.is_added_to(&cluster);
    let crowd = Crowd::of(&cluster, 1, &server.url);
    let (since, mut came) = (Instant::now(), 0);
    while since.elapsed() < COUNTED {
        // A claim that waits: the member is up, so it would be dialled at once.
        drop(crowd.come(8 * came + 4));
        came += 1;
        thread::sleep(Duration::from_millis(2));
    }
    let connections = server.connections();
    println!("{connections} connections after {came} claims in {COUNTED:?}");
    let seconds = COUNTED.as_secs() as usize;
    let bound = 2 * (FIRST_ATTEMPTS + 2 * seconds);
    assert!(connections <= bound, "{connections}, more than {bound}");
    cluster.node(1).assert_alive();
}
