//! Transfers of leadership that a client asks for.

use super::*;

type Handed = oneshot::Receiver<Result<(), NotTransferred>>;

fn hand_to(cluster: &mut Cluster, via: u64, to: u64) -> Handed {
    let (reply, outcome) = oneshot::channel();
    cluster.node(via).transfer(Transfer {
        to,
        deadline_ticks: 50,
        reply,
    });
    cluster.settle();
    outcome
}

#[test]
fn leadership_goes_where_a_client_wants_it_whoever_was_asked() {
    let mut cluster = Cluster::new(3);
    let mut from = cluster.elect();
    cluster.tick(3);
    for (via, to) in [(1, 2), (1, 3), (2, 1), (3, 3), (3, 2), (2, 2)] {
        let mut outcome = hand_to(&mut cluster, via, to);
        assert_eq!(
            outcome.try_recv(),
            Ok(Some(Ok(()))),
            "{via}: {from} to {to}"
        );
        assert_eq!(leader(&mut cluster), to);
        cluster.tick(3);
        from = to;
    }
    drop(cluster.put(1, "a"));
    cluster.tick(10);
    cluster.assert_same_maps();
}

#[test]
fn a_member_far_behind_does_not_get_leadership_until_it_has_caught_up() {
    let mut cluster = Cluster::new(3);
    let led = cluster.elect();
    cluster.tick(3);
    let others: Vec<u64> = (1..=3).filter(|id| *id != led).collect();
    let (behind, via) = (others[0], others[1]);
    cluster.hosts.get_mut(&behind).unwrap().slow_disk = true;
    for i in 0..config::PROMOTION_LAG_ENTRIES_MAX + 10 {
        drop(cluster.put(led, &i.to_string()));
        cluster.settle();
    }
    for asked in [led, via] {
        let mut outcome = hand_to(&mut cluster, asked, behind);
        assert_eq!(outcome.try_recv(), Ok(None), "it may catch up in a moment");
        cluster.tick(15);
        assert_eq!(
            outcome.try_recv(),
            Ok(Some(Err(NotTransferred::Behind))),
            "through {asked}"
        );
    }
    assert_eq!(leader(&mut cluster), led);
    let mut outcome = hand_to(&mut cluster, via, behind);
    cluster.hosts.get_mut(&behind).unwrap().slow_disk = false;
    cluster.tick(9);
    assert_eq!(outcome.try_recv(), Ok(Some(Ok(()))));
    assert_eq!(leader(&mut cluster), behind);
}

#[test]
fn what_nobody_refused_is_unknown_and_what_nobody_was_asked_is_not() {
    let mut cluster = Cluster::new(3);
    let led = cluster.elect();
    cluster.tick(3);
    let others: Vec<u64> = (1..=3).filter(|id| *id != led).collect();
    let (via, to) = (others[0], others[1]);
    // The question is lost, as far as the asker can tell.
    cluster.cut = vec![(via, led)];
    let mut outcome = hand_to(&mut cluster, via, to);
    cluster.tick(51);
    let got = outcome.try_recv();
    assert_eq!(got, Ok(Some(Err(NotTransferred::Unknown))));

    cluster.cut.clear();
    cluster.crash(led);
    cluster.crash(to);
    cluster.tick(60);
    let mut outcome = hand_to(&mut cluster, via, to);
    cluster.tick(51);
    let no_leader = NotTransferred::NotProposed(NotProposed::NoLeader);
    assert_eq!(outcome.try_recv(), Ok(Some(Err(no_leader))));

    let mut outcome = hand_to(&mut cluster, via, to);
    cluster.node(via).stop();
    let stopping = NotTransferred::NotProposed(NotProposed::Stopping);
    assert_eq!(outcome.try_recv(), Ok(Some(Err(stopping))));
}

#[test]
fn a_refusal_of_another_question_and_a_question_of_an_older_term_change_nothing() {
    let mut cluster = Cluster::new(3);
    let led = cluster.elect();
    cluster.tick(3);
    let others: Vec<u64> = (1..=3).filter(|id| *id != led).collect();
    let (via, to) = (others[0], others[1]);
    let term = cluster.node(led).raw.raft.term;
    let message = |from, receiver, term| {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgTransferLeader);
        message.from = from;
        message.to = receiver;
        message.term = term;
        message.index = to;
        message
    };
    cluster.cut = vec![(via, led)];
    let mut outcome = hand_to(&mut cluster, via, to);
    // Of one that was asked for the same member, in the same term, before.
    let mut refusal = message(led, via, term);
    refusal.log_term = cluster.node(via).transfers_asked - 1;
    refusal.reject = true;
    refusal.reject_hint = 1;
    cluster.node(via).step(of_member(refusal.clone()));
    cluster.tick(20);
    assert_eq!(outcome.try_recv(), Ok(None));
    refusal.log_term += 1;
    cluster.node(via).step(of_member(refusal));
    let not_found = NotTransferred::NotFound;
    assert_eq!(outcome.try_recv(), Ok(Some(Err(not_found))));

    cluster.cut.clear();
    cluster
        .node(led)
        .step(of_member(message(via, led, term - 1)));
    cluster.tick(5);
    assert_eq!(leader(&mut cluster), led);
    cluster.node(led).step(of_member(message(via, led, term)));
    cluster.tick(5);
    assert_eq!(leader(&mut cluster), to);
}
