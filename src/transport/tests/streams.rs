//! Messages on streams: order, limits, and failing connections.

use super::*;
use raft::eraftpb::Entry;

fn append(index: u64, bytes: usize) -> Message {
    let mut append = message(MessageType::MsgAppend, 1, 2, index);
    let entry = Entry {
        data: bytes::Bytes::from(vec![index as u8; bytes]),
        ..Entry::default()
    };
    append.mut_entries().push(entry);
    append
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_and_once() {
    let (one, mut two) = pair().await;
    let appends = 300;
    for index in 0..appends {
        let mut batch = vec![append(index, 10 + 977 * (index as usize % 40))];
        batch.push(heartbeat(1, 2, index));
        one.transport.send(batch);
    }
    let huge = append(appends, 20 << 20);
    one.transport.send(vec![huge.clone()]);
    two.until("all messages", |two| {
        two.messages.len() as u64 == 2 * appends + 1
    })
    .await;
    for kind in [MessageType::MsgAppend, MessageType::MsgHeartbeat] {
        let got = two.messages.iter().filter(|m| m.get_msg_type() == kind);
        let indexes: Vec<_> = got.map(|m| m.index).collect();
        let end = appends + u64::from(kind == MessageType::MsgAppend);
        assert_eq!(indexes, (0..end).collect::<Vec<_>>());
    }
    assert!(two.messages.contains(&huge));
    assert!(one.stop().await.port() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_dropped_and_reported() {
    // The listener never answers, so everything stays queued until the handshake times out.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut one = TestPeer::start(1).await;
    let mut all = members(&[(1, &one, 1), (2, &one, 1)]);
    let url = format!("http://{}", silent.local_addr().unwrap());
    all.members.get_mut(&2).unwrap().url = url.parse().unwrap();
    one.transport.set_members(CLUSTER, &all);

    let heartbeats = |count| (0..count).map(|index| heartbeat(1, 2, index)).collect();
    one.transport
        .send(heartbeats(limits::PEER_QUEUE_MESSAGES_MAX as u64));
    let events = one.inbox.take(Instant::now(), Held::default());
    assert!(events.notices.is_empty(), "{:?}", events.notices);
    one.transport.send(heartbeats(1));
    let events = one.inbox.take(Instant::now(), Held::default());
    assert!(matches!(events.notices[..], [Notice::Unreachable(2)]));

    let quarter = append(1, limits::PEER_QUEUE_BYTES_MAX / 4 - 100);
    one.transport.send(vec![quarter.clone(); 4]);
    let events = one.inbox.take(Instant::now(), Held::default());
    assert!(events.notices.is_empty(), "{:?}", events.notices);
    one.transport.send(vec![quarter]);
    let events = one.inbox.take(Instant::now(), Held::default());
    assert!(matches!(events.notices[..], [Notice::Unreachable(2)]));

    // The failed handshake is reported too.
    one.until("the failure", |one| one.unreachable(2)).await;
    one.transport.send(vec![heartbeat(1, 77, 1)]);
    one.until("an unknown peer", |one| one.unreachable(77))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_found_again_and_a_dead_one_reported() {
    let (mut one, mut two) = pair().await;
    until_connected(&one, &mut two).await;
    one.until("the word of it", |one| one.reached(2)).await;
    one.notices.clear();
    let members = members(&[(1, &one, 1), (2, &two, 1)]);
    let address = two.stop().await.to_string();
    // The loss is noticed although nothing is sent.
    one.until("the loss", |one| one.unreachable(2)).await;
    one.until("why", |one| one.found_gone(2) > 0).await;
    // The peer is dialled again and again, which is not reported again.
    one.until("more attempts", |one| one.failures(2) >= 6).await;
    assert_eq!(one.found_gone(2), 1, "{:?}", one.notices);

    let mut two = TestPeer::start_with(2, 200, CLUSTER, &address, limits()).await;
    two.transport.set_members(CLUSTER, &members);
    until_connected(&one, &mut two).await;
    until_connected(&two, &mut one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_peer_is_dialed_without_a_pause() {
    let mut one = TestPeer::start(1).await;
    let reserved = TestPeer::start(2).await;
    let members = members(&[(1, &one, 1), (2, &reserved, 1)]);
    let address = reserved.stop().await.to_string();
    one.transport.set_members(CLUSTER, &members);
    one.until("the pause has grown", |one| one.failures(2) >= 8)
        .await;
    assert_eq!(one.found_gone(2), 0, "it was never there");
    let mut two = TestPeer::start_with(2, 200, CLUSTER, &address, limits()).await;
    let since = Instant::now();
    two.transport.set_members(CLUSTER, &members);
    until_connected(&one, &mut two).await;
    let took = since.elapsed();
    assert!(took < Duration::from_millis(600), "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_writes_what_is_queued() {
    let (one, mut two) = pair().await;
    until_connected(&one, &mut two).await;
    let before = two.messages.len();
    one.transport
        .send((1..=500).map(|index| append(index, 5000)).collect());
    one.stop().await;
    two.until("the last message", |two| {
        two.messages[before..].iter().any(|m| m.index == 500)
    })
    .await;
}
