//! Many connections at the peer port: of strangers, and of one member.

use super::intruders::{good_head, talk};
use super::*;
use crate::metrics::peer_handshake::{CROWDED, LATE, REFUSED};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The connections that the peer has not closed.
async fn open(streams: Vec<TcpStream>) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for mut stream in streams {
        let mut buffer = [0; 1024];
        loop {
            match timeout(Duration::from_millis(10), stream.read(&mut buffer)).await {
                // The answer to the request.
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => break,
                Err(_) => {
                    open.push(stream);
                    break;
                }
            }
        }
    }
    open
}

/// Waits until the peer has closed all but this number of connections.
async fn until_open(mut streams: Vec<TcpStream>, expected: usize) -> Vec<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    while streams.len() > expected {
        assert!(Instant::now() < deadline, "{} are open", streams.len());
        streams = open(streams).await;
    }
    assert_eq!(streams.len(), expected);
    streams
}

async fn connect(peer: &TestPeer, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(peer.address).await.unwrap();
    // The peer may have closed it already.
    let _ = stream.write_all(bytes.as_bytes()).await;
    stream
}

/// Member 1 of a cluster, and member 2, which has no process.
async fn one_beside_an_absent_member(limits: TransportLimits) -> TestPeer {
    let one = TestPeer::start_with(1, 100, CLUSTER, "127.0.0.1:0", limits).await;
    let mut all = members(&[(1, &one, 1)]);
    all.members.insert(2, absent(200));
    one.transport.set_members(CLUSTER, &all);
    one.transport.set_applied(50);
    one
}

fn failed(peer: &TestPeer, reason: &'static str) -> u64 {
    let metrics = &peer.transport.shared.metrics;
    metrics.peer_handshakes_failed.count(reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_not_complete_in_time_ends_and_is_counted() {
    let limits = TransportLimits {
        header_timeout: Duration::from_millis(400),
        ..limits()
    };
    assert_eq!(
        TransportLimits::default().header_timeout,
        Duration::from_secs(5)
    );
    let one = one_beside_an_absent_member(limits).await;
    let since = Instant::now();
    let mut slow = TcpStream::connect(one.address).await.unwrap();
    let silent = vec![
        connect(&one, "").await,
        connect(&one, "POST /raft/st").await,
    ];
    // A head that comes byte by byte gets no more time. 8 bytes take 160 ms.
    for byte in good_head().as_bytes() {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "it was not closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until_open(silent, 0).await;
    assert!(since.elapsed() >= Duration::from_millis(400));
    assert_eq!(failed(&one, LATE), 3);
    // A stream is no half handshake, however long it is open.
    let stream = connect(&one, &good_head()).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    until_open(vec![stream], 1).await;
    talk(&one, good_head().replace("from: 2", "from: 3").as_bytes()).await;
    assert_eq!((failed(&one, LATE), failed(&one, REFUSED)), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_are_bounded_and_never_push_out_a_member() {
    let limits = TransportLimits {
        newcomers: 10,
        ..limits()
    };
    let mut one = one_beside_an_absent_member(limits).await;
    let mut member = connect(&one, &good_head()).await;
    member.read_exact(&mut [0; 12]).await.unwrap();
    // Members that are ahead of the table do not count as newcomers.
    let ahead = good_head().replace("bound: 1", "bound: 99");
    let ahead = super::intruders::knowing(&ahead, 100);
    let mut known = Vec::new();
    for number in 0..25 {
        let head = ahead.replace("from: 2", &format!("from: {}", 100 + number));
        let mut stream = connect(&one, &head).await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        known.push(stream);
    }
    assert_eq!(failed(&one, CROWDED), 0);
    // Every kind of newcomer: silent, with half a head, and waiting to be bound.
    let mut all = members(&[(1, &one, 1), (4, &one, 40)]);
    all.members.insert(2, absent(200));
    let row = all.members.get_mut(&4).unwrap();
    (row.incarnation, row.url) = (0, "http://127.0.0.1:1".parse().unwrap());
    one.transport.set_members(CLUSTER, &all);
    let waiting = good_head()
        .replace("cluster: c1", "cluster: 0")
        .replace("bound: 1", "bound: 0")
        .replace("from: 2", "from: 4")
        .replace("url: http://x:1", "url: http://127.0.0.1:1");
    let mut streams = Vec::new();
    for number in 0..100 {
        let incarnation = format!("incarnation: {:x}", 0x1000 + number);
        let head = match number % 3 {
            0 => String::new(),
            1 => "POST /raft/str".to_owned(),
            _ => waiting.replace("incarnation: c8", &incarnation),
        };
        streams.push(connect(&one, &head).await);
    }
    until_open(streams, 10).await;
    assert!(failed(&one, CROWDED) >= 90);
    assert_eq!(open(known).await.len(), 25);
    let mut frame = Vec::new();
    frame::encode(&[heartbeat(2, 1, 7)], &mut frame);
    member.write_all(&frame).await.unwrap();
    one.until("the member is heard", |one| {
        one.messages.iter().any(|m| m.index == 7)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_has_two_streams_and_never_more() {
    let one = one_beside_an_absent_member(limits()).await;
    let mut streams = Vec::new();
    for number in 0..40 {
        let lane = ["lane: control", "lane: append"][number % 2];
        let head = good_head().replace("lane: control", lane);
        streams.push(connect(&one, &head).await);
    }
    until_open(streams, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_waits_sends_no_large_frame() {
    let empty = TestPeer::start_empty(4).await;
    let head = good_head().replace("to: 1", "to: 4");
    let half = vec![0; limits::PEER_WAITING_FRAME_BYTES_MAX - 100];
    let mut stream = connect(&empty, &head).await;
    // The length of a frame, and half of its bytes.
    stream
        .write_all(&(1_u32 << 20).to_le_bytes())
        .await
        .unwrap();
    stream.write_all(&half).await.unwrap();
    let mut streams = open(vec![stream]).await;
    let mut stream = streams.pop().expect("half a small frame is kept");
    let _ = stream.write_all(&half).await;
    until_open(vec![stream], 0).await;
}
