//! Snapshot transfers, with files in memory.

use super::*;
use protobuf::Message as _;
use std::sync::mpsc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Files in memory: 16 bytes of index and term, then the content.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Keyed by index and term.
    kept: Mutex<HashMap<(u64, u64), Vec<u8>>>,
    /// Reads fail after this many bytes.
    broken_after: AtomicU64,
    /// The number of files whose reception has started.
    begun: AtomicU64,
    /// The number of those files that were dropped unfinished.
    dropped: AtomicU64,
    /// The next file receives all its bytes, and waits for a message from `gate` before it is completed.
    finishing: AtomicBool,
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

struct MemorySource {
    bytes: Vec<u8>,
    position: usize,
    broken_after: u64,
}

impl OutgoingSnapshot for MemorySource {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.broken_after > 0 && self.position as u64 >= self.broken_after {
            return Err(io::Error::other("the disk is gone"));
        }
        let count = buffer.len().min(self.bytes.len() - self.position);
        buffer[..count].copy_from_slice(&self.bytes[self.position..][..count]);
        self.position += count;
        Ok(count)
    }
}

struct MemorySink {
    files: Arc<Files>,
    bytes: Vec<u8>,
    finished: bool,
}

impl IncomingSnapshot for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    fn finish(mut self: Box<Self>, promised: &SnapshotMeta) -> Result<(), FileError> {
        let gate = self.files.gate.lock().take();
        if let Some(gate) = gate {
            self.files.finishing.store(true, Ordering::SeqCst);
            gate.recv().unwrap();
        }
        if self.bytes.len() < 16 {
            return Err("too short".into());
        }
        let number = |at: usize| u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap());
        let (index, term) = (number(0), number(8));
        if (promised.index, promised.term) != (index, term) {
            return Err("another snapshot".into());
        }
        self.finished = true;
        let bytes = std::mem::take(&mut self.bytes);
        self.files.kept.lock().insert((index, term), bytes);
        Ok(())
    }
}

impl Drop for MemorySink {
    fn drop(&mut self) {
        if !self.finished {
            self.files.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The type that implements the trait, because a sink needs a reference to its files.
pub(super) struct Shelf(pub(super) Arc<Files>);

impl SnapshotStore for Shelf {
    fn open(&self, index: u64, term: u64) -> Result<Box<dyn OutgoingSnapshot>, FileError> {
        let kept = self.0.kept.lock();
        let bytes = kept.get(&(index, term)).ok_or("no such snapshot")?;
        Ok(Box::new(MemorySource {
            bytes: bytes.clone(),
            position: 0,
            broken_after: self.0.broken_after.load(Ordering::SeqCst),
        }))
    }
    fn receive(&self, cluster: u64) -> Result<Box<dyn IncomingSnapshot>, FileError> {
        assert_eq!(cluster, CLUSTER);
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(MemorySink {
            files: self.0.clone(),
            bytes: Vec::new(),
            finished: false,
        }))
    }
}

impl Files {
    fn put(&self, named: (u64, u64), inside: (u64, u64), bytes: usize) {
        let mut file = [inside.0.to_le_bytes(), inside.1.to_le_bytes()].concat();
        file.extend((0..bytes).map(|at| (at * 31 % 251) as u8));
        self.kept.lock().insert(named, file);
    }
}

fn snapshot(from: u64, to: u64, index: u64, term: u64) -> Message {
    let mut message = message(MessageType::MsgSnapshot, from, to, 0);
    let metadata = message.mut_snapshot().mut_metadata();
    metadata.index = index;
    metadata.term = term;
    message
}

impl TestPeer {
    /// The number of transfers that were reported as done.
    fn sent(&self, to: u64) -> usize {
        let is = |notice: &&Notice| matches!(notice, Notice::SnapshotSent { to: t, ok: true } if *t == to);
        self.notices.iter().filter(is).count()
    }

    /// The number of transfers that were reported as failed.
    fn not_sent(&self, to: u64) -> usize {
        let is = |notice: &&Notice| matches!(notice, Notice::SnapshotSent { to: t, ok: false } if *t == to);
        self.notices.iter().filter(is).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_streams_and_is_reported() {
    let (mut one, mut two) = pair().await;
    one.files.put((50, 3), (50, 3), 9_000_001);
    let sent = snapshot(1, 2, 50, 3);
    one.transport.send(vec![sent.clone()]);
    one.until("the report", |one| one.sent(2) == 1).await;
    two.until("the message", |two| !two.messages.is_empty())
        .await;
    assert_eq!(two.messages, [sent]);
    let (here, there) = (one.files.kept.lock(), two.files.kept.lock());
    assert!(*here == *there, "the file has changed on its way");
}

/// A snapshot for member 4, with a state that binds this member.
fn first_snapshot(id: u64, incarnation: u64, learner: bool) -> Message {
    let mut member = crate::command::Member::new();
    (member.id, member.incarnation, member.learner) = (id, incarnation, learner);
    member.url = "http://a:1".to_owned();
    let mut state = crate::command::ReplicatedState::new();
    state.members = vec![member].into();
    let mut message = snapshot(1, 4, 50, 3);
    message.mut_snapshot().data = state.write_to_bytes().unwrap().into();
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_member_takes_its_cluster_from_a_state_that_lets_it_in() {
    let mut one = TestPeer::start(1).await;
    let mut four = TestPeer::start_empty(4).await;
    let all = members(&[(1, &one, 1), (4, &four, 40)]);
    one.transport.set_members(CLUSTER, &all);
    one.files.put((50, 3), (50, 3), 1000);
    until_connected(&one, &mut four).await;
    four.memory.read_only.store(true, Ordering::SeqCst);
    let before = four.messages.len();
    // A voter is refused, because a voter has had its first state already.
    let wrong = [
        (4, 401, true),
        (4, 0, true),
        (5, 400, true),
        (4, 400, false),
    ];
    for (failed, (id, incarnation, learner)) in wrong.into_iter().enumerate() {
        one.transport
            .send(vec![first_snapshot(id, incarnation, learner)]);
        let what = format!("the failure for {id}, {incarnation}");
        one.until(&what, |one| one.not_sent(4) > failed).await;
        assert_eq!(four.memory.cluster(), 0);
    }
    assert_eq!(four.files.begun.load(Ordering::SeqCst), 0);
    four.memory.read_only.store(false, Ordering::SeqCst);
    let first = first_snapshot(4, 400, true);
    let deadline = Instant::now() + PATIENCE;
    while one.sent(4) == 0 {
        assert!(Instant::now() < deadline, "the snapshot was not sent");
        let failed = one.not_sent(4);
        one.transport.send(vec![first.clone()]);
        let what = "a report";
        one.until(what, |one| one.sent(4) + one.not_sent(4) > failed)
            .await;
    }
    four.until("the message", |four| {
        four.messages[before..].contains(&first)
    })
    .await;
    assert_eq!(four.memory.cluster(), CLUSTER);
    let at = four.messages.iter().position(|m| *m == first).unwrap();
    assert!(!four.bound[at], "an empty member binds nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_takes_no_snapshot_of_another_cluster_or_of_one_without_power() {
    let mut one = TestPeer::start(1).await;
    // The member has its cluster id, but no first state yet.
    let four = TestPeer::start_with(4, 400, CLUSTER + 1, "127.0.0.1:0", limits()).await;
    one.transport
        .set_members(CLUSTER, &members(&[(1, &one, 1), (4, &four, 40)]));
    one.files.put((50, 3), (50, 3), 1000);
    one.transport.send(vec![first_snapshot(4, 400, true)]);
    one.until("the failure", |one| one.not_sent(4) == 1).await;

    // Here the claims are wrong, and not the directory.
    let mut five = TestPeer::start_empty(5).await;
    let mut open = members(&[(1, &one, 1), (5, &five, 40)]);
    open.members.get_mut(&5).unwrap().incarnation = 0;
    one.transport.set_members(CLUSTER, &open);
    five.list(&[&one]);
    five.until("the way to the member", |five| five.greeted_by_member(1))
        .await;
    five.files.put((50, 3), (50, 3), 1000);
    five.transport.send(vec![snapshot(5, 1, 50, 3)]);
    five.until("the failure", |five| five.not_sent(1) == 1)
        .await;
    assert_eq!(one.files.begun.load(Ordering::SeqCst), 0);
    assert_eq!(four.files.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_transfer_is_reported() {
    let (mut one, two) = pair().await;
    // Four failures: the file is missing, it breaks halfway, it is not the promised snapshot, and the peer is unknown.
    one.transport.send(vec![snapshot(1, 2, 50, 3)]);
    one.until("no file", |one| one.not_sent(2) == 1).await;

    one.files.put((50, 3), (50, 3), 4 << 20);
    one.files.broken_after.store(2 << 20, Ordering::SeqCst);
    one.transport.send(vec![snapshot(1, 2, 50, 3)]);
    one.until("a broken file", |one| one.not_sent(2) == 2).await;
    let dropped = two.files.clone();
    one.until("the receiver's cleaning up", |_| {
        dropped.dropped.load(Ordering::SeqCst) == 1
    })
    .await;

    one.files.broken_after.store(0, Ordering::SeqCst);
    one.files.put((60, 3), (61, 3), 1000);
    one.transport.send(vec![snapshot(1, 2, 60, 3)]);
    one.until("a mismatch", |one| one.not_sent(2) == 3).await;
    assert!(two.files.kept.lock().is_empty());

    one.transport.send(vec![snapshot(1, 7, 60, 3)]);
    one.until("nobody", |one| one.not_sent(7) == 1).await;
    assert_eq!(one.sent(2), 0);
    let events = two.inbox.take(Instant::now(), Held::default());
    assert!(events.messages.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_transfer_is_reported_after_a_pause_or_with_the_peers_removal() {
    for (pause, removed) in [(Duration::from_millis(300), false), (PATIENCE * 2, true)] {
        let limits = TransportLimits {
            snapshot_pause: pause,
            ..limits()
        };
        let mut one = TestPeer::start_with(1, 100, CLUSTER, "127.0.0.1:0", limits).await;
        let two = TestPeer::start(2).await;
        one.transport
            .set_members(CLUSTER, &members(&[(1, &one, 1), (2, &two, 1)]));
        two.transport
            .set_members(CLUSTER, &members(&[(1, &one, 1), (2, &two, 1)]));
        one.files.put((50, 3), (50, 3), 4 << 20);
        one.files.broken_after.store(2 << 20, Ordering::SeqCst);
        let since = Instant::now();
        one.transport.send(vec![snapshot(1, 2, 50, 3)]);
        one.until("the failure", |_| {
            two.files.dropped.load(Ordering::SeqCst) == 1
        })
        .await;
        if removed {
            assert_eq!(one.not_sent(2), 0);
            one.transport
                .set_members(CLUSTER, &members(&[(1, &one, 1)]));
        }
        one.until("the report", |one| one.not_sent(2) == 1).await;
        assert!(removed || since.elapsed() >= pause);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_takes_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut one = TestPeer::start(1).await;
    let mut all = members(&[(1, &one, 1), (2, &one, 1)]);
    let url = format!("http://{}", silent.local_addr().unwrap());
    all.members.get_mut(&2).unwrap().url = url.parse().unwrap();
    one.transport.set_members(CLUSTER, &all);
    one.files.put((50, 3), (50, 3), 64 << 20);
    one.transport
        .send(vec![snapshot(1, 2, 50, 3), snapshot(1, 2, 50, 3)]);
    // The second transfer is refused at once, because the first is still running.
    let events = one.inbox.take(Instant::now(), Held::default());
    let only = |notice: &&Notice| matches!(notice, Notice::SnapshotSent { .. });
    assert_eq!(events.notices.iter().filter(only).count(), 1);
    one.until("the stall", |one| one.not_sent(2) == 1).await;

    // The removal of a peer ends a transfer too.
    one.transport.send(vec![snapshot(1, 2, 50, 3)]);
    all.members.remove(&2);
    one.transport.set_members(CLUSTER, &all);
    one.until("the removal", |one| one.not_sent(2) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_message_is_dropped_is_not_reported_as_sent() {
    let (mut one, two) = pair().await;
    one.files.put((50, 3), (50, 3), 1000);
    let flood = vec![heartbeat(1, 2, 0); limits::INBOX_MESSAGES_MAX];
    assert!(two.inbox.receive(flood, 0, None));
    one.transport.send(vec![snapshot(1, 2, 50, 3)]);
    one.until("the failure", |one| one.not_sent(2) == 1).await;
    assert_eq!(one.sent(2), 0);
}

/// A snapshot request of member 2 to member 1 with this file. The last `missing` bytes are not sent.
async fn request(one: &TestPeer, file: &[u8], missing: usize) -> TcpStream {
    let mut body = Vec::new();
    frame::encode(&[snapshot(2, 1, 50, 3)], &mut body);
    body.extend_from_slice(file);
    request_with(one, &body, missing).await
}

/// A snapshot request with an arbitrary body.
async fn request_with(one: &TestPeer, body: &[u8], missing: usize) -> TcpStream {
    let head = format!(
        "POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nraftkvd-version: 2\r\nraftkvd-cluster: c1\r\n\
         raftkvd-to: 1\r\nraftkvd-bound: 1\r\nraftkvd-run: 9999\r\nraftkvd-url: http://x:1\r\nraftkvd-commands: 2\r\nraftkvd-from: 2\r\nraftkvd-incarnation: c8\r\n\
         Content-Length: {}\r\n\r\n",
        body.len() + missing
    );
    let mut stream = TcpStream::connect(one.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // The peer may disconnect before everything was sent.
    let _ = stream.write_all(body).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_no_header_needs_is_not_gathered() {
    let (one, _two) = pair().await;
    let claimed = 100 << 20;
    let mut body = vec![0; limits::SNAPSHOT_MESSAGE_BYTES_MAX + (64 << 10)];
    body[..4].copy_from_slice(&(claimed as u32).to_le_bytes());
    let mut stream = request_with(&one, &body, claimed - body.len()).await;
    let mut answer = vec![0; 12];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
    read.expect("it goes on to read").unwrap();
    assert_eq!(answer, b"HTTP/1.1 400");
    assert_eq!(one.files.begun.load(Ordering::SeqCst), 0);
}

/// Sends one snapshot, and returns whether its transfer succeeded.
async fn transfer(from: &mut TestPeer, to: u64) -> bool {
    let reports = |peer: &TestPeer| (peer.sent(to), peer.not_sent(to));
    let before = reports(from);
    let message = snapshot(from.memory.member, to, 70, 3);
    from.transport.send(vec![message]);
    from.until("a report", |from| reports(from) != before).await;
    from.sent(to) > before.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_announced_also_when_its_sender_has_gone() {
    let (mut one, _two) = pair().await;
    let (open, gate) = mpsc::channel();
    *one.files.gate.lock() = Some(gate);
    let file = [50u64.to_le_bytes(), 3u64.to_le_bytes()].concat();
    let sender = request(&one, &file, 0).await;
    let files = one.files.clone();
    one.until("the whole file", |_| files.finishing.load(Ordering::SeqCst))
        .await;
    drop(sender);
    // When another connection was served, the end of this connection has most likely been noticed.
    let mut stream = TcpStream::connect(one.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    open.send(()).unwrap();
    one.until("the message", |one| one.messages == [snapshot(2, 1, 50, 3)])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_trickles_is_given_up() {
    let (mut one, _two) = pair().await;
    let mut sender = request(&one, &[0; 1000], 1_000_000).await;
    let deadline = Instant::now() + PATIENCE;
    let trickle = limits().snapshot_stall / 10;
    // The transfer ends with an answer or, if the answer crosses with another byte, with an error.
    while tokio::time::timeout(trickle, sender.read(&mut [0; 12]))
        .await
        .is_err()
        && sender.write_all(&[0]).await.is_ok()
    {
        assert!(Instant::now() < deadline, "it holds the only place");
    }
    let files = one.files.clone();
    one.until("the file is dropped", |_| {
        files.dropped.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_snapshot_leaves_nothing_and_frees_its_place() {
    let (mut one, mut two) = pair().await;
    two.files.put((70, 3), (70, 3), 1000);
    let files = one.files.clone();
    for (round, cut) in [(1, true), (2, false)] {
        let begun = files.begun.load(Ordering::SeqCst);
        let mut half = request(&one, &[0; 100_000], 1).await;
        one.until("the file is begun", |_| {
            files.begun.load(Ordering::SeqCst) > begun
        })
        .await;
        assert!(!transfer(&mut two, 1).await, "two snapshots at a time");
        if cut {
            drop(half);
        } else {
            // The sender just stops: the receiver gives up, and reports that.
            let mut answer = String::new();
            half.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        }
        one.until("the file is dropped", |_| {
            files.dropped.load(Ordering::SeqCst) == round
        })
        .await;
        // The slot becomes free a moment after the file is gone.
        let deadline = Instant::now() + PATIENCE;
        while !transfer(&mut two, 1).await {
            assert!(Instant::now() < deadline, "the place stays taken");
        }
    }
    one.until("the message", |one| !one.messages.is_empty())
        .await;
    assert!(
        one.messages
            .iter()
            .all(|m| m.get_snapshot().get_metadata().index == 70)
    );
}
