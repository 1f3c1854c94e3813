//! The URLs at which a peer is dialled.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_url_is_dialed_at_once() {
    let mut one = TestPeer::start(1).await;
    let mut two = TestPeer::start(2).await;
    let mut all = members(&[(1, &one, 1)]);
    all.members.insert(2, absent(200));
    one.transport.set_members(CLUSTER, &all);
    one.until("the pause has grown", |one| one.failures(2) >= 8)
        .await;
    let since = Instant::now();
    let all = members(&[(1, &one, 1), (2, &two, 1)]);
    one.transport.set_members(CLUSTER, &all);
    until_connected(&one, &mut two).await;
    let took = since.elapsed();
    assert!(took < Duration::from_millis(600), "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_moved_is_reached_where_it_says_and_keeps_that_connection() {
    let (mut one, two) = pair().await;
    let before = members(&[(1, &one, 1), (2, &two, 1)]);
    two.stop().await;
    let mut moved = TestPeer::start_with(2, 200, CLUSTER, "127.0.0.1:0", limits()).await;
    moved.transport.set_members(CLUSTER, &before);
    until_connected(&one, &mut moved).await;
    until_connected(&moved, &mut one).await;
    let at = moved.url();
    let is_there = |notice: &Notice| match notice {
        Notice::Met(met) => met.id == 2 && met.dialled && met.url == at,
        _ => false,
    };
    let named = |notice: &Notice| match notice {
        Notice::Met(met) => met.id == 2 && !met.dialled && met.url == at && !met.is_empty(),
        _ => false,
    };
    one.until("it was met there", |one| {
        one.notices.iter().any(is_there) && one.notices.iter().any(named)
    })
    .await;

    let made = (connections(&one, 2), connections(&moved, 1));
    let after = members(&[(1, &one, 1), (2, &moved, 1)]);
    for peer in [&one, &moved] {
        peer.transport.set_members(CLUSTER, &after);
    }
    until_connected(&one, &mut moved).await;
    until_connected(&moved, &mut one).await;
    assert_eq!((connections(&one, 2), connections(&moved, 1)), made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_dialled_only_while_no_leader_is_known() {
    let mut one = TestPeer::start(1).await;
    let mut two = TestPeer::start_with(2, 200, 0, "127.0.0.1:0", limits()).await;
    let mut all = members(&[(1, &one, 1)]);
    all.members.insert(2, absent(200));
    one.transport.set_leader(3);
    one.list(&[&two]);
    one.transport.set_members(CLUSTER, &all);
    one.until("many attempts", |one| one.failures(2) >= 5).await;
    assert_eq!(one.met_dialled(2), 0);
    one.transport.set_leader(0);
    until_connected(&one, &mut two).await;
    // A known leader is no reason to leave the URL.
    one.transport.set_leader(2);
    let made = connections(&one, 2);
    one.transport.set_members(CLUSTER, &all);
    until_connected(&one, &mut two).await;
    assert_eq!(connections(&one, 2), made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_counts_as_that_of_the_member_only_where_it_is_known_to_be() {
    let mut one = TestPeer::start(1).await;
    one.transport
        .set_members(CLUSTER, &members(&[(1, &one, 1)]));
    // This member names a URL at which another member refuses.
    let two = TestPeer::start_with(2, 200, CLUSTER + 1, "127.0.0.1:0", limits()).await;
    let head = intruders::good_head()
        .replace("bound: 1", "bound: 90")
        .replace("url: http://x:1", &format!("url: {}", two.url()));
    let head = intruders::knowing(&head, 100);
    let mut stream = tokio::net::TcpStream::connect(one.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .unwrap();
    let reason = Reason::WrongCluster { other_life: false };
    one.until_told_by_stranger(2, reason).await;
}
