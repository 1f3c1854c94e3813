//! Leadership that is handed over by name.

use crate::harness::{Cluster, PATIENCE, eventually, leader_and_followers, require};

#[test]
fn leadership_goes_to_the_named_member_through_any_member() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let mut writes = 0;
    for via in 1..=3 {
        for to in [2, 3, 1, 1] {
            let response = cluster.send(via, "POST", "/-/leader", &[], to.to_string().as_bytes());
            assert_eq!(response.status, 204, "{to} through {via}: {response:?}");
            let status = cluster.nodes[&via].status().expect("status");
            assert_eq!(status.leader, to, "as the member that answered sees it");
            // Nothing is lost on the way, and the cluster writes at once.
            writes += 1;
            cluster.put(via, "count", writes.to_string());
            cluster.assert_value(to, "count", &writes.to_string());
        }
    }
}

#[test]
fn members_that_can_not_lead_are_refused_and_the_leader_stays() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    let ask = |cluster: &Cluster, via: u64, body: &str| {
        let response = cluster.send(via, "POST", "/-/leader", &[], body.as_bytes());
        (response.status, response.text())
    };
    let term = cluster.nodes[&leader].status().expect("status").term;
    for via in [leader, followers[0]] {
        let (status, said) = ask(&cluster, via, "9");
        assert_eq!(status, 404, "{said}");
        assert!(said.contains("no such member"), "{said}");
        for wrong in ["", "x", "0", "02", "-1", "{\"id\":2}"] {
            let (status, said) = ask(&cluster, via, wrong);
            assert_eq!(status, 400, "{wrong:?}: {said}");
        }
    }
    let id = cluster.lay_out_joiner();
    cluster.add_member(leader, id);
    for via in [leader, followers[0]] {
        let (status, said) = ask(&cluster, via, &id.to_string());
        assert_eq!(status, 409, "{said}");
        assert!(said.contains("learner"), "{said}");
    }
    cluster.node(followers[1]).kill();
    for via in [leader, followers[0]] {
        // Asked before the leader has noticed, it tries, and cannot say what came of it.
        eventually("the leader has noticed", PATIENCE, || {
            let (status, said) = ask(&cluster, via, &followers[1].to_string());
            let refused = status == 409 && said.contains("does not hear from the member");
            require(refused, || format!("{status}: {said}"))
        });
    }
    let status = cluster.nodes[&leader].status().expect("status");
    assert_eq!((status.leader, status.term), (leader, term), "no election");
    cluster.put(followers[0], "still", "here");
}

#[test]
fn without_a_leader_nothing_is_begun() {
    let mut cluster = Cluster::start_with(3, &["--request-timeout", "1s"]);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.node(leader).kill();
    cluster.node(followers[0]).kill();
    let survivor = followers[1];
    eventually("it knows of no leader", PATIENCE, || {
        let status = cluster.nodes[&survivor].status()?;
        require(status.leader == 0, || format!("{status:?}"))
    });
    let to = leader.to_string();
    // On a machine that stalls the API may give up before the node has answered, and then nobody knows.
    eventually("it says that nothing was begun", PATIENCE, || {
        let response = cluster.send(survivor, "POST", "/-/leader", &[], to.as_bytes());
        let nothing = response.header("x-raftkvd-outcome") == Some("none");
        require(response.status == 503 && nothing, || {
            format!("{response:?}")
        })
    });
    let response = cluster.send(survivor, "GET", "/-/leader", &[], b"");
    assert_eq!(response.status, 405, "{response:?}");
    assert_eq!(response.header("allow"), Some("POST"));
}
