//! Transfers of leadership that clients ask for.

use super::*;

#[test]
fn leadership_goes_where_a_client_wants_it_whoever_was_asked() {
    let (mut cluster, mut from) = Cluster::elected(3);
    cluster.tick(3);
    for (via, to) in [(1, 2), (1, 3), (2, 1), (3, 3), (3, 2), (2, 2)] {
        let mut outcome = cluster.hand_over(via, to);
        assert_eq!(
            outcome.try_recv(),
            Ok(Some(Ok(()))),
            "{via}: {from} to {to}"
        );
        assert_eq!(cluster.leader(), to);
        cluster.tick(3);
        from = to;
    }
    drop(cluster.put(1, "a"));
    cluster.tick(10);
    cluster.assert_same_maps();
}

#[test]
fn a_member_far_behind_does_not_get_leadership_until_it_has_caught_up() {
    let (mut cluster, led) = Cluster::elected(3);
    cluster.tick(3);
    let [behind, via] = cluster.others(led);
    cluster.host(behind).slow_disk = true;
    for i in 0..limits::PROMOTION_LAG_ENTRIES_MAX + 10 {
        drop(cluster.put(led, &i.to_string()));
        cluster.settle();
    }
    for asked in [led, via] {
        let mut outcome = cluster.hand_over(asked, behind);
        assert_eq!(outcome.try_recv(), Ok(None), "it may catch up in a moment");
        cluster.tick(15);
        assert_eq!(
            outcome.try_recv(),
            Ok(Some(Err(NotTransferred::Behind))),
            "through {asked}"
        );
    }
    assert_eq!(cluster.leader(), led);
    let mut outcome = cluster.hand_over(via, behind);
    cluster.host(behind).slow_disk = false;
    cluster.tick(9);
    done(&mut outcome);
    assert_eq!(cluster.leader(), behind);
}

#[test]
fn an_unanswered_transfer_is_unknown_and_one_that_was_never_asked_is_not() {
    let (mut cluster, led) = Cluster::elected(3);
    cluster.tick(3);
    let [via, to] = cluster.others(led);
    // The question may have been lost, and the member that asked can't know.
    cluster.cut = vec![(via, led)];
    let mut outcome = cluster.hand_over(via, to);
    cluster.tick(51);
    let got = outcome.try_recv();
    assert_eq!(got, Ok(Some(Err(NotTransferred::Unknown))));

    cluster.cut.clear();
    cluster.crash(led);
    cluster.crash(to);
    cluster.tick(60);
    let mut outcome = cluster.hand_over(via, to);
    cluster.tick(51);
    let no_leader = NotTransferred::NotProposed(NotProposed::NoLeader);
    assert_eq!(outcome.try_recv(), Ok(Some(Err(no_leader))));

    let mut outcome = cluster.hand_over(via, to);
    cluster.node(via).stop();
    let stopping = NotTransferred::NotProposed(NotProposed::Stopping);
    assert_eq!(outcome.try_recv(), Ok(Some(Err(stopping))));
}

#[test]
fn a_refusal_of_another_question_and_a_question_of_an_older_term_change_nothing() {
    let (mut cluster, led) = Cluster::elected(3);
    cluster.tick(3);
    let [via, to] = cluster.others(led);
    let term = cluster.term(led);
    let question = |from, receiver, term| {
        let mut question = message(MessageType::MsgTransferLeader, from, receiver, term);
        question.index = to;
        question
    };
    cluster.cut = vec![(via, led)];
    let mut outcome = cluster.hand_over(via, to);
    // A refusal of an earlier question in the same term, for the same target.
    let mut refusal = question(led, via, term);
    refusal.log_term = cluster.node(via).transfers.asked - 1;
    refusal.reject = true;
    refusal.reject_hint = 1;
    cluster.hear(refusal.clone());
    cluster.tick(20);
    assert_eq!(outcome.try_recv(), Ok(None));
    refusal.log_term += 1;
    cluster.hear(refusal);
    let not_found = NotTransferred::NotFound;
    assert_eq!(outcome.try_recv(), Ok(Some(Err(not_found))));

    cluster.cut.clear();
    cluster.hear(question(via, led, term - 1));
    cluster.tick(5);
    assert_eq!(cluster.leader(), led);
    cluster.hear(question(via, led, term));
    cluster.tick(5);
    assert_eq!(cluster.leader(), to);
}
