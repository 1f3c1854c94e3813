//! The peers that may communicate: each refusal reaches the side that it concerns.

use super::*;
use crate::channels::status::Waiting;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_gets_its_last_messages_and_is_told() {
    let (mut one, mut two) = pair().await;
    until_connected(&one, &mut two).await;
    until_connected(&two, &mut one).await;
    let mut without = members(&[(1, &one, 1)]);
    without.removed.insert(2, 33);
    one.transport
        .send((100..200).map(|index| heartbeat(1, 2, index)).collect());
    one.transport.set_members(CLUSTER, &without);
    one.transport.set_applied(33);
    two.until("the last message", |two| {
        two.messages.iter().any(|m| m.index == 199)
    })
    .await;
    two.until_refused(1, Reason::Removed { removed_index: 33 })
        .await;
    assert!(two.unreachable(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_is_refused_by_those_that_it_dials_and_told_by_those_that_dial_it() {
    let (one, mut two) = pair().await;
    until_connected(&one, &mut two).await;
    let mut forming = members(&[(1, &one, 1), (2, &two, 7)]);
    let address = two.stop().await.to_string();
    for formed in [false, true] {
        forming.forming = match formed {
            true => BTreeMap::new(),
            false => BTreeMap::from([(1, one.url())]),
        };
        one.transport.set_members(CLUSTER, &forming);
        let mut wiped = TestPeer::start_with(2, 666, 0, &address, limits()).await;
        let reason = |same_url, bound_index| Reason::OtherIncarnation {
            bound_index,
            same_url,
        };
        wiped.until_told_by_stranger(1, reason(true, 1)).await;
        wiped.list(&[&one]);
        // The wiped member can't prove that it was a member, so it learns no index.
        wiped.until_refused(1, reason(true, 0)).await;
        let told = |notice: &Notice| match notice {
            Notice::Refused(refusal) => refusal.formed == formed,
            _ => true,
        };
        assert!(wiped.notices.iter().all(told), "{:?}", wiped.notices);
        assert!(wiped.messages.is_empty());
        wiped.stop().await;

        let mut elsewhere = TestPeer::start_with(2, 667, 0, "127.0.0.1:0", limits()).await;
        elsewhere.list(&[&one]);
        let refused = match formed {
            true => Reason::Undisclosed,
            false => reason(false, 0),
        };
        elsewhere.until_refused(1, refused).await;
        elsewhere.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_refuse_each_other() {
    let mut one = TestPeer::start_with(1, 100, 0xaaaa, "127.0.0.1:0", limits()).await;
    let mut two = TestPeer::start_with(2, 200, 0xbbbb, "127.0.0.1:0", limits()).await;
    let mut all = members(&[(1, &one, 1), (2, &two, 1)]);
    one.transport.set_members(0xaaaa, &all);
    // The other cluster has another member 1 at that URL.
    all.members.get_mut(&1).unwrap().incarnation = 101;
    two.transport.set_members(0xbbbb, &all);
    let reason = |other_life| Reason::WrongCluster { other_life };
    one.until_refused(2, reason(true)).await;
    one.until_told_by_stranger(2, reason(true)).await;
    two.until_refused(1, reason(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_up_addresses_are_named() {
    let (mut one, two) = pair().await;
    let mut mixed = members(&[(1, &one, 1), (2, &two, 1)]);
    mixed
        .members
        .insert(3, mixed.members.get(&2).unwrap().clone());
    one.transport.set_members(CLUSTER, &mixed);
    one.until_refused(2, Reason::WrongReceiver { actual: 2 })
        .await;
    one.until("it is out of reach", |one| one.unreachable(3))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_id_is_for_the_place_at_which_it_was_added() {
    let one = TestPeer::start(1).await;
    let mut four = TestPeer::start_empty(4).await;
    let mut all = members(&[(1, &one, 1), (4, &one, 40)]);
    all.members.get_mut(&4).unwrap().incarnation = 0;
    one.transport.set_members(CLUSTER, &all);
    one.transport.set_applied(50);
    four.list(&[&one]);
    four.until_refused(1, Reason::Undisclosed).await;
    // The member that was bound to the id before was removed.
    let mut earlier = TestPeer::start_with(4, 444, CLUSTER, "127.0.0.1:0", limits()).await;
    let before = members(&[(1, &one, 1), (4, &earlier, 20)]);
    earlier.transport.set_members(CLUSTER, &before);
    earlier
        .until_refused(1, Reason::Removed { removed_index: 40 })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_learns_its_removal_from_a_member_whose_id_is_open_to_it() {
    let mut two = TestPeer::start(2).await;
    let four = TestPeer::start(4).await;
    let mut before = members(&[(2, &two, 1), (4, &four, 20)]);
    before.members.insert(1, absent(100));
    before.members.get_mut(&4).unwrap().incarnation = 0;
    let mut now = members(&[(4, &four, 30)]);
    now.removed.insert(2, 33);
    four.transport.set_members(CLUSTER, &now);
    four.transport.set_applied(33);
    two.transport.set_members(CLUSTER, &before);
    two.until("the open URL is dialled", |two| two.unreachable(4))
        .await;
    let refusals = |two: &TestPeer| {
        let is = |notice: &&Notice| matches!(notice, Notice::Refused(refusal) if refusal.by == 4);
        two.notices.iter().filter(is).count()
    };
    assert_eq!(refusals(&two), 0, "it has a leader, and shows no claims");
    two.inbox.set_waiting(Some(Arc::new(Waiting {
        why: "1 of 2 members reachable".to_owned(),
        is_long: true,
    })));
    two.until_refused(4, Reason::Removed { removed_index: 33 })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_member_waits_to_be_added_and_then_belongs_to_the_cluster() {
    let mut one = TestPeer::start(1).await;
    let mut four = TestPeer::start_empty(4).await;
    one.transport
        .set_members(CLUSTER, &members(&[(1, &one, 1)]));
    four.list(&[&one]);
    four.until_refused(1, Reason::Undisclosed).await;

    let all = members(&[(1, &one, 1), (4, &four, 40)]);
    one.transport.set_members(CLUSTER, &all);
    until_connected(&one, &mut four).await;
    until_connected(&four, &mut one).await;
    assert!(four.transport.is_empty());
    assert_eq!(four.memory.cluster(), 0);
    assert!(one.bound.iter().all(|bound| *bound));
    assert!(four.bound.iter().all(|bound| !bound));

    four.transport.set_members(CLUSTER, &all);
    until_bound(&one, &mut four).await;
    until_connected(&four, &mut one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_removed_comes_back_with_a_new_directory() {
    let (mut one, two) = pair().await;
    until_connected(&two, &mut one).await;
    let mut without = members(&[(1, &one, 1)]);
    without.removed.insert(2, 33);
    one.transport.set_members(CLUSTER, &without);
    let address = two.stop().await.to_string();

    let mut again = TestPeer::start_with(2, 222, 0, &address, limits()).await;
    again.list(&[&one]);
    again.until_refused(1, Reason::Undisclosed).await;
    let all = members(&[(1, &one, 1), (2, &again, 44)]);
    one.transport.set_members(CLUSTER, &all);
    until_connected(&one, &mut again).await;
    until_connected(&again, &mut one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_queued_for_an_earlier_life_does_not_reach_the_next() {
    let mut one = TestPeer::start(1).await;
    // The listener accepts connections, but answers only once the port is served.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut all = members(&[(1, &one, 1), (2, &one, 1)]);
    all.members.get_mut(&2).unwrap().url = url.parse().unwrap();
    one.transport.set_members(CLUSTER, &all);
    one.transport.send(vec![heartbeat(1, 2, 5)]);

    // The member was removed and added again, and the view in between was skipped.
    let again = all.members.get_mut(&2).unwrap();
    (again.added_index, again.incarnation, again.learner) = (44, 222, true);
    one.transport.set_members(CLUSTER, &all);
    let mut two = TestPeer::start_on(2, 222, 0, listener, limits());
    two.list(&[&one]);
    until_connected(&one, &mut two).await;
    until_connected(&two, &mut one).await;
    assert!(two.messages.iter().all(|m| m.index == 0));
}
