//! Who may talk to whom: each verdict reaches the side that it is about.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_gets_its_last_messages_and_is_told() {
    let (mut one, mut two) = pair().await;
    until_connected(&one, &mut two).await;
    until_connected(&two, &mut one).await;
    let mut without = members(&[(1, &one, 1)]);
    without.removed.insert(2, 33);
    one.transport.set_leader(1);
    one.transport
        .send((100..200).map(|index| heartbeat(1, 2, index)).collect());
    one.transport.set_members(&without, false);
    two.until("the last message", |two| {
        two.messages.iter().any(|m| m.index == 199)
    })
    .await;
    let reason = Reason::Removed { removed_index: 33 };
    two.until_refused(1, true, reason).await;
    assert!(two.unreachable(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_is_refused() {
    let (mut one, mut two) = pair().await;
    until_connected(&one, &mut two).await;
    one.until_pinned(2).await;
    let members = members(&[(1, &one, 1), (2, &two, 1)]);
    let address = two.stop().await.to_string();
    // It starts over as one of the first members; then as a joiner.
    for joining in [false, true] {
        let cluster = if joining { 0 } else { CLUSTER };
        let mut wiped = Peer::start_with(2, 666, cluster, &address, limits()).await;
        wiped.transport.set_members(&members, joining);
        let reason = Reason::WrongIncarnation { added_index: 1 };
        wiped.until_refused(1, false, reason).await;
        assert!(wiped.messages.is_empty());
        wiped.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_was_let_in_says_where_it_is_to_whoever_knew_it_before() {
    let mut one = Peer::start(1).await;
    let mut three = Peer::start_with(3, 300, 0, "127.0.0.1:0", limits()).await;
    let mut four = Peer::start_with(4, 400, 0, "127.0.0.1:0", limits()).await;
    let all = members(&[(1, &one, 1), (3, &three, 94), (4, &four, 117)]);
    // Both wait to be let in, and the command line of the first one is older than the second.
    let older = members(&[(3, &three, 1)]);
    three.transport.set_members(&older, true);
    four.transport.set_members(&all, true);
    until_connected(&four, &mut three).await;
    one.transport.set_members(&all, false);
    until_connected(&four, &mut one).await;
    // The second one is let in, and may lead while the first one still waits.
    four.transport.set_members(&all, false);
    until_connected(&three, &mut four).await;
    until_connected(&four, &mut three).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_refuse_each_other() {
    let mut one = Peer::start_with(1, 100, 0xaaaa, "127.0.0.1:0", limits()).await;
    let mut two = Peer::start_with(2, 200, 0xbbbb, "127.0.0.1:0", limits()).await;
    let members = members(&[(1, &one, 1), (2, &two, 1)]);
    one.transport.set_members(&members, false);
    two.transport.set_members(&members, false);
    let reason = Reason::WrongCluster { theirs: 0xbbbb };
    one.until_refused(2, false, reason).await;
    let reason = Reason::WrongCluster { theirs: 0xaaaa };
    two.until_refused(1, false, reason).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_up_addresses_are_named() {
    let (mut one, two) = pair().await;
    let mut mixed = members(&[(1, &one, 1), (2, &two, 1)]);
    mixed
        .members
        .insert(3, mixed.members.get(&2).unwrap().clone());
    one.transport.set_members(&mixed, false);
    let reason = Reason::WrongReceiver { actual: 2 };
    one.until_refused(2, false, reason).await;
    assert!(one.unreachable(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_life_is_refused() {
    let (one, mut two) = (Peer::start(1).await, Peer::start(2).await);
    two.transport
        .set_members(&members(&[(1, &one, 1), (2, &two, 1)]), false);
    one.transport
        .set_members(&members(&[(1, &one, 1), (2, &two, 70)]), false);
    let reason = Reason::AddedLater { added_index: 70 };
    two.until_refused(1, false, reason).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_waits_to_be_added_and_then_belongs_to_the_cluster() {
    let one = Peer::start(1).await;
    let mut four = Peer::start_with(4, 400, 0, "127.0.0.1:0", limits()).await;
    one.transport.set_members(&members(&[(1, &one, 1)]), false);
    let all = members(&[(1, &one, 1), (4, &four, 40)]);
    four.transport.set_members(&all, true);
    four.until_refused(1, false, Reason::NotAMember).await;
    assert_eq!(four.memory.cluster(), 0);

    one.transport.set_members(&all, false);
    until_connected(&one, &mut four).await;
    assert_eq!(four.memory.cluster(), CLUSTER);
    let mut one = one;
    until_connected(&four, &mut one).await;
    four.transport.set_members(&all, false);
    let before = four.messages.len();
    until_connected(&one, &mut four).await;
    assert!(four.messages.len() > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_hears_and_answers_a_leader_it_does_not_know() {
    let mut one = Peer::start(1).await;
    let mut nine = Peer::start(9).await;
    one.transport.set_members(&members(&[(1, &one, 1)]), false);
    nine.transport
        .set_members(&members(&[(1, &one, 1), (9, &nine, 90)]), false);
    until_connected(&nine, &mut one).await;
    until_connected(&one, &mut nine).await;

    // When the view reaches it, it is a member like any other; when it is removed, it is cut off.
    one.transport
        .set_members(&members(&[(1, &one, 1), (9, &nine, 90)]), false);
    until_connected(&one, &mut nine).await;
    let mut without = members(&[(1, &one, 1)]);
    without.removed.insert(9, 95);
    one.transport.set_members(&without, false);
    let reason = Reason::Removed { removed_index: 95 };
    nine.until_refused(1, false, reason).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_removed_comes_back_with_a_new_directory() {
    let (mut one, two) = pair().await;
    until_connected(&two, &mut one).await;
    let mut without = members(&[(1, &one, 1)]);
    without.removed.insert(2, 33);
    one.transport.set_members(&without, false);
    let address = two.stop().await.to_string();

    let mut again = Peer::start_with(2, 222, 0, &address, limits()).await;
    let all = members(&[(1, &one, 1), (2, &again, 44)]);
    again.transport.set_members(&all, true);
    let reason = Reason::Removed { removed_index: 33 };
    again.until_refused(1, false, reason).await;
    one.transport.set_members(&all, false);
    until_connected(&one, &mut again).await;
    until_connected(&again, &mut one).await;
    let pin = Pin {
        incarnation: 222,
        added_index: 44,
    };
    assert_eq!(one.memory.pinned(2), Some(pin));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_queued_for_an_earlier_life_does_not_reach_the_next() {
    let mut one = Peer::start(1).await;
    // It is connected to, and answers only once somebody serves the port.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut all = members(&[(1, &one, 1), (2, &one, 1)]);
    all.members.get_mut(&2).unwrap().url = url.parse().unwrap();
    one.transport.set_members(&all, false);
    one.transport.send(vec![heartbeat(1, 2, 5)]);

    // It was removed and added again, and the view in between was skipped.
    all.members.get_mut(&2).unwrap().added_index = 44;
    one.transport.set_members(&all, false);
    let mut two = Peer::start_on(2, 222, 0, listener, limits());
    two.transport.set_members(&all, true);
    until_connected(&one, &mut two).await;
    until_connected(&two, &mut one).await;
    assert!(two.messages.iter().all(|m| m.index == 0));
}
