//! The peer port and connections that don't come from members.

use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A handshake as member 2, which member 1 accepts.
pub(super) fn good_head() -> String {
    "POST /raft/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raftkvd/2\r\n\
     raftkvd-version: 2\r\nraftkvd-cluster: c1\r\nraftkvd-to: 1\r\nraftkvd-bound: 1\r\n\
     raftkvd-run: 9999\r\nraftkvd-url: http://x:1\r\nraftkvd-commands: 2\r\nraftkvd-lane: control\r\n\
     raftkvd-from: 2\r\nraftkvd-incarnation: c8\r\n\r\n"
        .to_owned()
}

/// Sends bytes, and reads until the other side closes the connection.
pub(super) async fn talk(peer: &TestPeer, bytes: &[u8]) -> String {
    let stream = send(peer, bytes).await;
    read_to_end(stream, bytes).await
}

/// Sends bytes, shuts down the sending side, and reads until the other side closes the connection.
pub(super) async fn talk_and_finish(peer: &TestPeer, bytes: &[u8]) -> String {
    let mut stream = send(peer, bytes).await;
    let _ = stream.shutdown().await;
    read_to_end(stream, bytes).await
}

async fn send(peer: &TestPeer, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(peer.address).await.unwrap();
    // The peer may disconnect before everything was sent.
    let _ = stream.write_all(bytes).await;
    stream
}

/// The answer to these bytes.
async fn read_to_end(mut stream: TcpStream, bytes: &[u8]) -> String {
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.unwrap_or_else(|_| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]);
        panic!(
            "not closed in time after {start:?}: {:?}",
            String::from_utf8_lossy(&answer)
        );
    });
    String::from_utf8_lossy(&answer).into_owned()
}

/// Requests that are malformed or refused, with the status of the answer.
fn malformed_requests() -> Vec<(String, &'static str)> {
    let head = good_head();
    vec![
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404"),
        (
            "GET /raft/stream HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "405",
        ),
        (
            "POST /raft/stream HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "400",
        ),
        (head.replace("HTTP/1.1", "HTTP/1.0"), "400"),
        (head.replace("version: 2", "version: 1"), "400"),
        (head.replace("lane: control", "lane: fast"), "400"),
        (head.replace("from: 2", "from: 1"), "400"),
        (
            head.replace("Upgrade: raftkvd/2", "Upgrade: websocket"),
            "400",
        ),
        (head.replace("Host: x", "Content-Length: 9"), "400"),
        (head.replace("from: 2", "from: 3"), "409"),
        (head.replace("incarnation: c8", "incarnation: 0"), "400"),
        (head.replace("run: 9999", "run: 0"), "400"),
        (head.replace("cluster: c1", "cluster: 0"), "400"),
        (
            head.replace("Host: x", &format!("Host: {}", "x".repeat(20_000))),
            "431",
        ),
        (head.replace("raft/stream", "raft/snapshot"), "400"),
    ]
}

/// Bytes that end a connection after a valid handshake.
fn bad_frames(noise: Vec<u8>) -> Vec<Vec<u8>> {
    let mut frame = Vec::new();
    frame::encode(&[heartbeat(2, 1, 5)], &mut frame);
    let change = |at: usize, to: u8| {
        let mut frame = frame.clone();
        frame[at] = to;
        frame
    };
    let encode = |message: Message| {
        let mut frame = Vec::new();
        frame::encode(&[message], &mut frame);
        frame
    };
    vec![
        change(3, 0xff),
        change(4, !frame[4]),
        change(frame.len() - 1, 0x77),
        vec![0; 64],
        noise,
        encode(heartbeat(3, 1, 5)),
        encode(heartbeat(2, 3, 5)),
        encode(message(MessageType::MsgHup, 2, 1, 5)),
        encode(message(MessageType::MsgSnapshot, 2, 1, 5)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_leaves_the_port_serving() {
    let limits = TransportLimits {
        header_timeout: Duration::from_millis(300),
        ..limits()
    };
    let mut one = TestPeer::start_with(1, 100, CLUSTER, "127.0.0.1:0", limits).await;
    let mut two = TestPeer::start(2).await;
    let mut without = members(&[(1, &one, 1)]);
    without.members.insert(2, absent(200));
    one.transport.set_members(CLUSTER, &without);
    one.transport.set_applied(1);

    let mut noise: u32 = 1;
    let noise: Vec<u8> = (0..100_000)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .collect();
    talk(&one, &noise).await;
    talk(&one, &[b'A'; 2 << 20]).await;
    talk_and_finish(&one, b"").await;
    // The header timeout ends a connection with half a request.
    talk(&one, b"POST /raft/stream HTTP/1.1\r\nHost").await;
    talk(&one, b"").await;
    for (request, status) in malformed_requests() {
        let answer = talk(&one, request.as_bytes()).await;
        let got = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(got, status, "{request}\n{answer}");
    }

    // Nothing of the bad frames is delivered.
    for bad in bad_frames(noise) {
        let answer = talk(&one, &[good_head().as_bytes(), &bad].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }

    let members = members(&[(1, &one, 1), (2, &two, 1)]);
    one.transport.set_members(CLUSTER, &members);
    two.transport.set_members(CLUSTER, &members);
    until_connected(&one, &mut two).await;
    until_connected(&two, &mut one).await;
    assert!(one.messages.iter().all(|m| m.index == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_keep_a_member_out() {
    let limits = TransportLimits {
        connections: 200,
        newcomers: 100,
        ..limits()
    };
    let mut one = TestPeer::start_with(1, 100, CLUSTER, "127.0.0.1:0", limits).await;
    let two = TestPeer::start(2).await;
    let mut idle = Vec::new();
    for index in 0..300 {
        let mut stream = TcpStream::connect(one.address).await.unwrap();
        if index % 2 == 0 {
            stream.write_all(b"POST /raft/str").await.unwrap();
        }
        idle.push(stream);
    }
    let members = members(&[(1, &one, 1), (2, &two, 1)]);
    one.transport.set_members(CLUSTER, &members);
    two.transport.set_members(CLUSTER, &members);
    until_connected(&two, &mut one).await;
    // The streams of members are not strangers: more idle connections do not end them.
    for _ in 0..300 {
        idle.push(TcpStream::connect(one.address).await.unwrap());
    }
    let before = one.messages.len();
    two.transport.send(vec![heartbeat(2, 1, 77)]);
    one.until("the message", |one| {
        one.messages[before..].iter().any(|m| m.index == 77)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_of_a_lane_replaces_the_first() {
    let one = TestPeer::start(1).await;
    let mut all = members(&[(1, &one, 1)]);
    all.members.insert(2, absent(200));
    one.transport.set_members(CLUSTER, &all);
    let mut first = TcpStream::connect(one.address).await.unwrap();
    first.write_all(good_head().as_bytes()).await.unwrap();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 101");
    let mut second = TcpStream::connect(one.address).await.unwrap();
    second.write_all(good_head().as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, first.read_to_end(&mut rest))
        .await
        .expect("the first stream was not closed")
        .unwrap();
    second.read_exact(&mut start).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_handshake_does_not_replace_a_newer_stream() {
    let mut one = TestPeer::start(1).await;
    let mut all = members(&[(1, &one, 1)]);
    all.members.insert(2, absent(200));
    one.transport.set_members(CLUSTER, &all);
    let mut older = TcpStream::connect(one.address).await.unwrap();
    let mut newer = TcpStream::connect(one.address).await.unwrap();
    let mut frame = Vec::new();
    frame::encode(&[heartbeat(2, 1, 5)], &mut frame);
    let hello = [good_head().as_bytes(), &frame].concat();
    newer.write_all(&hello).await.unwrap();
    one.until("the newer stream", |one| one.messages.len() == 1)
        .await;

    older.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let closed = timeout(PATIENCE, older.read_to_end(&mut answer)).await;
    // The connection may end by a reset, because its frame was not read.
    let _ = closed.expect("the older stream was kept");
    newer.write_all(&frame).await.unwrap();
    one.until("the newer stream again", |one| one.messages.len() == 2)
        .await;
}

/// Member 1 of a cluster of two. Member 3 was removed at 33.
async fn one_of_two() -> (TestPeer, TestPeer) {
    let one = TestPeer::start(1).await;
    let two = TestPeer::start(2).await;
    let mut members = members(&[(1, &one, 1), (2, &two, 1)]);
    members.removed.insert(3, 33);
    one.transport.set_members(CLUSTER, &members);
    one.transport.set_applied(70);
    (one, two)
}

/// A refusal with this status, reason, detail and applied index, and nothing else.
async fn assert_refused(peer: &TestPeer, head: String, expected: (u16, &str, &str, u64)) {
    let (status, reason, detail, applied) = expected;
    let answer = talk(peer, head.as_bytes()).await;
    let (answered, body) = answer.split_once("\r\n\r\n").unwrap();
    let line = format!("HTTP/1.1 {status} ");
    assert!(answered.starts_with(&line), "{answer}");
    assert!(!answered.contains("raftkvd"), "{answer}");
    let whole = format!(
        "{{\"applied\":{applied},\"by\":1,\"detail\":{detail},\"formed\":true,\"reason\":\"{reason}\"}}\n"
    );
    assert_eq!(body, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_tells_nothing_that_a_claim_needs() {
    let (one, _two) = one_of_two().await;
    let head = good_head();
    for (from, to, expected) in [
        ("from: 2", "from: 3", (410, "removed", "33", 70)),
        ("from: 2", "from: 4", (409, "not-a-member", "null", 70)),
        (
            "incarnation: c8",
            "incarnation: c9",
            (409, "other-incarnation", "[1,false]", 70),
        ),
        ("to: 1", "to: 7", (409, "wrong-receiver", "1", 70)),
    ] {
        assert_refused(&one, head.replace(from, to), expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_a_stranger_does_not_say_why_and_has_no_index() {
    let (one, two) = one_of_two().await;
    let stranger = good_head()
        .replace("cluster: c1", "cluster: 0")
        .replace("bound: 1", "bound: 0")
        .replace("incarnation: c8", "incarnation: c9");
    let bare = (409, "not-a-member", "\"undisclosed\"", 0);
    for from in 2..6 {
        let head = stranger.replace("from: 2", &format!("from: {from}"));
        assert_refused(&one, head, bare).await;
    }
    let foreign = stranger.replace("cluster: 0", "cluster: c2");
    assert_refused(&one, foreign, (409, "wrong-cluster", "false", 0)).await;
    // An emptied member proves no more than this.
    let emptied = stranger.replace("http://x:1", &two.url().to_string());
    assert_refused(&one, emptied, (409, "other-incarnation", "[0,true]", 0)).await;
}

/// The head of a request from a peer that knows the receiver's incarnation.
pub(super) fn knowing(head: &str, incarnation: u64) -> String {
    let known = format!("raftkvd-receiver: formed here {incarnation:016x}\r\nraftkvd-to:");
    head.replace("raftkvd-to:", &known)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_claim_what_is_to_come_are_few_and_leave_nothing() {
    let mut one = TestPeer::start(1).await;
    let mut four = TestPeer::start_empty(4).await;
    one.transport
        .set_members(CLUSTER, &members(&[(1, &one, 1)]));
    let mut open = Vec::new();
    for peer in [&one, &four] {
        peer.memory.read_only.store(true, Ordering::SeqCst);
        let head = good_head().replace("bound: 1", "bound: 99");
        let head = head.replace("to: 1", &format!("to: {}", peer.memory.member));
        let head = knowing(&head, 100 * peer.memory.member);
        for id in 10..10 + 2 * limits::PEERS_AHEAD_MAX {
            let mut stream = TcpStream::connect(peer.address).await.unwrap();
            let head = head.replace("from: 2", &format!("from: {id}"));
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 101");
            open.push(stream);
        }
        let dialled = peer.transport.shared.peers().by_id.len();
        assert_eq!(dialled, limits::PEERS_AHEAD_MAX);
    }
    // When the table has caught up, the strangers are not in it.
    one.transport.set_applied(99);
    assert_eq!(one.transport.shared.peers().by_id.len(), 0);
    for mut stream in open.drain(..2 * limits::PEERS_AHEAD_MAX) {
        let mut rest = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        closed.expect("a stranger's stream was kept").unwrap();
    }
    // Members still connect beside the strangers.
    let all = members(&[(1, &one, 1), (4, &four, 40)]);
    one.transport.set_members(CLUSTER, &all);
    until_connected(&one, &mut four).await;
    four.transport.set_members(CLUSTER, &all);
    until_connected(&four, &mut one).await;
}
