//! Messages between members whose tables differ in age, and between two processes of one member.

use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn snapshot(from: u64, to: u64) -> Message {
    message(MessageType::MsgSnapshot, from, to, 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_to_one_that_waits_until_it_is_bound() {
    let mut one = TestPeer::start(1).await;
    let mut four = TestPeer::start_empty(4).await;
    let all = members(&[(1, &one, 1), (4, &four, 40)]);
    let mut open = all.clone();
    let row = open.members.get_mut(&4).unwrap();
    (row.incarnation, row.bound_index) = (0, 0);
    one.transport.set_members(CLUSTER, &open);
    one.transport.set_applied(45);
    four.list(&[&one]);
    one.until("both have met", |one| {
        one.met_dialled(4) > 0 && one.met_caller(4) > 0
    })
    .await;
    four.until("the way back", |four| four.greeted_by_member(1))
        .await;
    let waiting = |one: &TestPeer| one.transport.shared.peers().by_id[&4].waits;
    one.until("its claims are judged", waiting).await;
    one.until("both lanes", |one| connections(one, 4) == 2)
        .await;

    one.notices.clear();
    one.transport.send(vec![heartbeat(1, 4, 5)]);
    one.transport.send(vec![snapshot(1, 4)]);
    let dropped = |notice: &Notice| matches!(notice, Notice::SnapshotSent { to: 4, ok: false });
    one.until("both are dropped", |one| {
        one.unreachable(4) && one.notices.iter().any(dropped)
    })
    .await;
    let mut frame = Vec::new();
    frame::encode(&[heartbeat(4, 1, 5)], &mut frame);
    let url = format!("url: {}", four.url());
    let head = intruders::good_head()
        .replace("from: 2", "from: 4")
        .replace("incarnation: c8", "incarnation: 191")
        .replace("cluster: c1", "cluster: 0")
        .replace("bound: 1", "bound: 0")
        .replace("url: http://x:1", &url);
    // The stream is read to its end and then closed.
    let answer = intruders::talk_and_finish(&one, &[head.as_bytes(), &frame].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(!one.reached(4));

    one.transport.set_members(CLUSTER, &all);
    one.until("it can be reached", |one| one.reached(4)).await;
    until_connected(&one, &mut four).await;
    until_connected(&four, &mut one).await;
    // The claims of member 1 name member 4 only now, so both lanes were connected again.
    assert_eq!(connections(&one, 4), 4);
    assert_eq!(connections(&four, 1), 2);
    let passed = [&one.messages, &four.messages].into_iter().flatten();
    assert_eq!(passed.filter(|m| m.index == 5).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_hears_and_answers_a_leader_it_does_not_know() {
    let mut one = TestPeer::start(1).await;
    let mut nine = TestPeer::start(9).await;
    let all = members(&[(1, &one, 1), (9, &nine, 90)]);
    one.transport
        .set_members(CLUSTER, &members(&[(1, &one, 1)]));
    one.transport.set_applied(89);
    nine.transport.set_members(CLUSTER, &all);
    until_connected(&nine, &mut one).await;
    until_connected(&one, &mut nine).await;
    assert!(one.bound.iter().all(|bound| !bound));
    assert!(nine.bound.iter().all(|bound| *bound));

    // When the table arrives at the lagging member, the leader is a member like any other. When the leader is removed,
    // it is disconnected.
    let made = connections(&one, 9);
    one.transport.set_members(CLUSTER, &all);
    one.transport.set_applied(90);
    until_connected(&one, &mut nine).await;
    until_bound(&nine, &mut one).await;
    assert_eq!(connections(&one, 9), made);
    let mut without = members(&[(1, &one, 1)]);
    without.removed.insert(9, 95);
    one.transport.set_members(CLUSTER, &without);
    nine.until_refused(1, Reason::Removed { removed_index: 95 })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_claims_what_is_to_come_is_judged_when_it_has_come() {
    let mut one = TestPeer::start(1).await;
    let mut nine = TestPeer::start(9).await;
    one.transport
        .set_members(CLUSTER, &members(&[(1, &one, 1)]));
    let all = members(&[(1, &one, 1), (9, &nine, 90)]);
    nine.transport.set_members(CLUSTER, &all);
    until_connected(&nine, &mut one).await;
    until_connected(&one, &mut nine).await;
    one.transport.set_applied(90);
    nine.until_refused(1, Reason::NotAMember).await;
    one.notices.clear();
    one.transport.send(vec![heartbeat(1, 9, 5)]);
    one.until("nobody", |one| one.unreachable(9)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_bound_says_so_to_those_that_lag_and_gets_their_answers() {
    let mut three = TestPeer::start(3).await;
    let mut four = TestPeer::start_empty(4).await;
    // The older table contains one of the two members, and forms a cluster with the other.
    let mut older = members(&[(3, &three, 1)]);
    older.forming = BTreeMap::from([(3, three.url()), (4, four.url())]);
    three.transport.set_members(CLUSTER, &older);
    three.transport.set_applied(50);
    four.list(&[&three]);
    three
        .until("it waits", |three| {
            three.met_dialled(4) > 0 && three.transport.shared.peers().by_id[&4].waits
        })
        .await;
    let all = members(&[(3, &three, 1), (4, &four, 117)]);
    let since = Instant::now();
    four.transport.set_members(CLUSTER, &all);
    until_connected(&four, &mut three).await;
    until_connected(&three, &mut four).await;
    assert!(three.bound.iter().all(|bound| !bound));
    let took = since.elapsed();
    assert!(took < limits::PEER_BACKOFF_MAX, "it took {took:?}");

    // Both members may be empty when they meet, and be added one after the other.
    let mut five = TestPeer::start_empty(5).await;
    let mut six = TestPeer::start_empty(6).await;
    five.list(&[&six]);
    six.list(&[&five]);
    six.until("they have met", |six| six.met_dialled(5) > 0)
        .await;
    let both = members(&[(5, &five, 94), (6, &six, 117)]);
    six.transport.set_members(CLUSTER, &both);
    until_connected(&six, &mut five).await;
    until_connected(&five, &mut six).await;

    // A copy from before the binding is refused, and has no effect on the member that is connected.
    let shared = &three.transport.shared;
    let mut copy = {
        let peers = shared.peers();
        let claimed = peers.claimed.values().find(|claims| claims.from == 4);
        claimed.expect("it is ahead of the table").clone()
    };
    copy.bound_index = 0;
    shared.forget(&copy);
    assert!(!shared.peers().by_id[&4].waits);
    copy.bound_index = 117;
    shared.forget(&copy);
    assert!(shared.peers().by_id[&4].waits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_waits_or_meets_an_empty_member_learns_no_incarnation() {
    let mut one = TestPeer::start(1).await;
    let four = TestPeer::start_empty(4).await;
    let mut open = members(&[(1, &one, 1), (4, &four, 40)]);
    let row = open.members.get_mut(&4).unwrap();
    (row.incarnation, row.bound_index) = (0, 0);
    one.transport.set_members(CLUSTER, &open);
    one.transport.set_applied(45);
    let secrets = [&one, &four].map(|peer| format!("{:016x}", peer.memory.incarnation));
    let cluster = format!("{CLUSTER:016x}");
    // Connects as the waiting id, with an arbitrary data directory.
    let to_one = intruders::good_head()
        .replace("from: 2", "from: 4")
        .replace("incarnation: c8", "incarnation: 777")
        .replace("cluster: c1", "cluster: 0")
        .replace("bound: 1", "bound: 0")
        .replace("url: http://x:1", &format!("url: {}", four.url()));
    let to_four = intruders::good_head().replace("to: 1", "to: 4");
    for (peer, head) in [(&one, to_one), (&four, to_four)] {
        // Bytes that are not a frame end the stream.
        let talk = [head.as_bytes(), &[0; 64]].concat();
        let answer = intruders::talk(peer, &talk).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        for secret in secrets.iter().chain([&cluster]) {
            assert!(!answer.contains(secret), "{answer}");
        }
    }
    // The stranger has connected, but the fingerprint at the dialled URL is another.
    one.until("the place has answered", |one| one.greeted_by_empty(4))
        .await;
    assert_eq!(one.met_dialled(4), 0);
    four.list(&[&one]);
    one.until("it is recognized", |one| one.met_dialled(4) > 0)
        .await;
    let met = one.notices.iter().find_map(|notice| match notice {
        Notice::Met(met) if met.dialled => Some((met.incarnation, met.url.clone())),
        _ => None,
    });
    assert_eq!(met, Some((four.memory.incarnation, four.url())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_member_dials_the_leader_that_it_is_told_of() {
    let (one, mut five) = (TestPeer::start(1).await, TestPeer::start(5).await);
    let four = TestPeer::start_empty(4).await;
    let mut open = members(&[(1, &one, 1), (4, &four, 40), (5, &five, 30)]);
    let row = open.members.get_mut(&4).unwrap();
    (row.incarnation, row.bound_index) = (0, 0);
    for peer in [&one, &five] {
        peer.transport.set_members(CLUSTER, &open);
        peer.transport.set_applied(45);
    }
    // Member 4 knows only member 1, and member 1 has not heard of a leader yet.
    four.list(&[&one]);
    five.until("its place has answered", |five| five.greeted_by_empty(4))
        .await;
    assert_eq!(five.met_dialled(4), 0);
    one.transport.set_leader(5);
    five.until("it has come", |five| five.met_dialled(4) > 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_moved_and_a_leader_that_it_does_not_know_find_each_other() {
    let (one, three) = (TestPeer::start(1).await, TestPeer::start(3).await);
    let mut four = TestPeer::start(4).await;
    let older = members(&[(1, &one, 1), (3, &three, 30)]);
    let mut newer = members(&[(1, &one, 1), (3, &three, 30), (4, &four, 40)]);
    newer.members.get_mut(&3).unwrap().url = "http://127.0.0.1:1".parse().unwrap();
    one.transport.set_leader(4);
    for peer in [&one, &four] {
        peer.transport.set_members(CLUSTER, &newer);
        peer.transport.set_applied(45);
    }
    three.transport.set_members(CLUSTER, &older);
    three.transport.set_applied(35);
    four.until("it has come", |four| four.met_dialled(3) > 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_one_that_was_bound_says_so() {
    let mut one = TestPeer::start(1).await;
    let mut four = TestPeer::start_empty(4).await;
    let all = members(&[(1, &one, 1), (4, &four, 40)]);
    one.transport.set_members(CLUSTER, &all);
    four.list(&[&one]);
    until_connected(&four, &mut one).await;
    let before = one.messages.len();
    four.notices.clear();
    for index in 1..=1000 {
        if index == 500 {
            four.transport.set_members(CLUSTER, &all);
        }
        four.transport.send(vec![heartbeat(4, 1, index)]);
        tokio::task::yield_now().await;
    }
    one.until("the last message", |one| {
        one.messages.iter().any(|m| m.index == 1000)
    })
    .await;
    let indexes = one.messages[before..].iter().map(|m| m.index);
    let indexes: Vec<_> = indexes.filter(|index| *index > 0).collect();
    assert_eq!(indexes, (1..=1000).collect::<Vec<_>>());
    four.until("it was made again", |four| connections(four, 1) == 4)
        .await;
    assert!(!four.unreachable(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_processes_of_one_member_is_told_while_the_first_is_heard() {
    let (mut one, mut two) = pair().await;
    until_connected(&two, &mut one).await;
    let mut copy = TestPeer::start_with(2, 200, CLUSTER, "127.0.0.1:0", limits()).await;
    let all = members(&[(1, &one, 1), (2, &two, 1)]);
    copy.transport.set_members(CLUSTER, &all);
    let transport = two.transport.clone();
    let twice = |notice: &Notice| match notice {
        Notice::Refused(refusal) => refusal.reason == Reason::Twice && refusal.dialled,
        _ => false,
    };
    copy.until("it is told", |copy| {
        transport.send(vec![heartbeat(2, 1, 7)]);
        copy.notices.iter().any(twice)
    })
    .await;
    copy.stop().await;
    until_connected(&two, &mut one).await;
    until_connected(&one, &mut two).await;
    assert!(!two.notices.iter().any(twice));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_the_place_of_a_process_that_is_silent() {
    let mut one = TestPeer::start(1).await;
    let mut two = TestPeer::start(2).await;
    let mut all = members(&[(1, &one, 1)]);
    all.members.insert(2, absent(200));
    one.transport.set_members(CLUSTER, &all);
    let mut dead = TcpStream::connect(one.address).await.unwrap();
    let head = intruders::good_head();
    dead.write_all(head.as_bytes()).await.unwrap();
    dead.read_exact(&mut [0; 12]).await.unwrap();
    let since = Instant::now();
    two.transport.set_members(CLUSTER, &all);
    until_connected(&two, &mut one).await;
    assert!(since.elapsed() >= limits::PEER_RIVAL_SILENCE);
    dead.read_to_end(&mut Vec::new()).await.unwrap();
    until_connected(&one, &mut two).await;
    let refused = |notice: &Notice| matches!(notice, Notice::Refused(_));
    assert!(!two.notices.iter().any(refused), "{:?}", two.notices);
}
