//! Who is who: emptied data directories, swapped ones, and two clusters whose ports were mixed up.

use crate::harness::{
    Cluster, PATIENCE, PATIENT, POLL_INTERVAL, eventually, leader_and_followers, require,
};
use std::time::{Duration, Instant};

/// So long a sole member believes that another cluster knows it, when it hears no more of it: five election timeouts.
const BELIEVED: Duration = Duration::from_secs(5);

/// Starts an emptied member by its old line, or with `--join`: it is refused, and the others do not even notice.
fn emptied(id: u64, join: bool) {
    let mut cluster = Cluster::start(3);
    let others = cluster.others(id);
    // The one that is about to be emptied does not lead.
    let to = others[0].to_string();
    let handed = cluster.send(id, "POST", "/-/leader", &[], to.as_bytes());
    assert_eq!(handed.status, 204, "{handed:?}");
    let leader = cluster.leader();
    cluster.put(id, "foo", "bar");
    cluster.node(id).kill();
    cluster.node(id).wipe();
    if join {
        cluster.node(id).arguments.push("--join".to_owned());
    }
    let term = cluster.nodes[&leader].status().expect("status").term;
    cluster.node(id).start_expecting_exit(5);
    let said = cluster.nodes[&id].last_log();
    for command in [
        format!("DELETE http://CLIENT_ADDRESS/-/members/{id}"),
        "--join".to_owned(),
    ] {
        assert!(said.contains(&command), "no {command:?} in:\n{said}");
    }
    // Trying again changes nothing.
    cluster.node(id).start_expecting_exit(5);

    for &other in &others {
        cluster.node(other).assert_alive();
        let status = cluster.nodes[&other].status().expect("status");
        assert_eq!((status.leader, status.term), (leader, term), "{status:?}");
    }
    cluster.put(others[0], "foo", "without it");
    cluster.assert_value(others[1], "foo", "without it");

    // What the message says works.
    cluster.remove_member(leader, id);
    cluster.node(id).wipe();
    let asked = others
        .iter()
        .map(|id| cluster.client_url(*id))
        .collect::<Vec<_>>();
    cluster.node(id).let_it_ask(&asked);
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    cluster.wait_voters(id, &[1, 2, 3]);
    cluster.assert_value(id, "foo", "without it");
}

#[test]
fn an_emptied_member_ends_and_is_told_how_to_replace_it() {
    emptied(2, false);
}

#[test]
fn an_emptied_member_ends_with_join_as_well() {
    emptied(3, true);
}

#[test]
fn the_emptied_first_member_of_a_list_ends_and_begins_no_cluster() {
    emptied(1, false);
}

#[test]
fn an_emptied_member_ends_whomever_of_the_others_it_meets() {
    for (id, met) in [(1, 3), (2, 1), (3, 2)] {
        let mut cluster = Cluster::start(3);
        cluster.put(1, "foo", "bar");
        for member in 1..=3 {
            cluster.assert_value(member, "foo", "bar");
        }
        cluster.kill_all();
        cluster.node(id).wipe();
        cluster.node(met).start();
        cluster.node(id).start_expecting_exit(5);
        cluster.node(6 - id - met).start();
        cluster.node(met).wait_ready();
        cluster.assert_value(met, "foo", "bar");
    }
}

#[test]
fn an_emptied_leader_is_refused() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.put(leader, "foo", "bar");
    cluster.node(leader).kill();
    cluster.node(leader).wipe();
    cluster.put(followers[0], "foo", "next");
    cluster.node(leader).start_expecting_exit(5);
    cluster.assert_value(followers[1], "foo", "next");
}

#[test]
fn the_emptied_first_member_of_a_grown_cluster_serves_nothing_while_that_is_heard() {
    let mut cluster = Cluster::grow(3, &[]);
    cluster.put(1, "k", "precious");
    cluster.node(1).kill();
    cluster.node(1).wipe();
    cluster.put(2, "k2", "without it");
    cluster.node(1).start();
    let why = cluster.node(1).wait_closed("other-life");
    assert!(
        why.contains("DELETE /-/members/1") && why.contains("--join"),
        "{why}"
    );
    let live = cluster.send(1, "GET", "/-/live", &[], b"");
    assert_eq!(live.status, 200, "{live:?}");
    for (method, path) in [
        ("GET", "/k"),
        ("GET", "/k?consistency=stale"),
        ("PUT", "/k3"),
        ("DELETE", "/k"),
        ("GET", "/-/kv"),
        ("GET", "/-/watch"),
        ("GET", "/-/hash"),
        ("GET", "/-/snapshot"),
        ("POST", "/4"),
    ] {
        let headers = [("Accept", "application/json")];
        let refused = cluster.send(1, method, path, &headers, b"");
        assert_eq!(refused.status, 503, "{method} {path}: {refused:?}");
        assert!(
            refused.text().contains("other-life"),
            "{method} {path}: {refused:?}"
        );
    }
    let begin = Instant::now();
    while begin.elapsed() < BELIEVED + BELIEVED / 2 {
        let refused = cluster.send(1, "PUT", "/k", &[], b"split");
        assert_eq!(refused.status, 503, "{refused:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
    for id in [2, 3] {
        cluster.assert_value(id, "k", "precious");
        cluster.assert_value(id, "k2", "without it");
    }
    // What it says works.
    cluster.node(1).kill();
    cluster.remove_member(2, 1);
    cluster.node(1).wipe();
    let asked = [2, 3].map(|id| cluster.client_url(id));
    cluster.node(1).let_it_ask(&asked);
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.assert_value(1, "k", "precious");
}

#[test]
fn the_data_directory_of_another_member_is_refused() {
    let mut cluster = Cluster::start(2);
    cluster.put(1, "foo", "bar");
    cluster.kill_all();
    let of_the_other = cluster.nodes[&2].data_dir.clone();
    let path = of_the_other.to_str().expect("UTF-8").to_owned();
    let own = cluster.nodes[&1]
        .data_dir
        .to_str()
        .expect("UTF-8")
        .to_owned();
    cluster.node(1).set_flag("--data-dir", &path);
    cluster.node(1).start_expecting_exit(5);
    let said = cluster.nodes[&1].last_log();
    assert!(
        said.contains(&path),
        "the message names the directory:\n{said}"
    );
    // Nothing was spoiled.
    cluster.node(1).set_flag("--data-dir", &own);
    cluster.start_all();
    cluster.assert_value(2, "foo", "bar");
}

/// Some line of the log says that a cluster was refused, whatever the exact words.
fn log_refuses_a_cluster(cluster: &Cluster, ids: &[u64]) {
    eventually(
        "a log says that another cluster was refused",
        PATIENCE,
        || {
            let clear = ids.iter().any(|id| {
                let text = cluster.nodes[id].log_text().to_lowercase();
                text.lines()
                    .any(|line| line.contains("cluster") && line.contains("refus"))
            });
            require(clear, || "no such line".to_owned())
        },
    );
}

#[test]
fn a_cluster_whose_list_names_a_member_of_another_does_not_form_and_disturbs_nobody() {
    let mut ours = Cluster::start(3);
    ours.put(1, "whose", "ours");
    let our_leader = ours.leader();
    let our_term = ours.nodes[&our_leader].status().expect("status").term;

    let mut theirs = Cluster::prepare_beside(&ours, 3, &[]);
    let right = theirs.nodes[&3].url();
    let wrong = ours.nodes[&3].url();
    for id in [1, 2] {
        theirs.node(id).replace_in_arguments(&right, &wrong);
        theirs.node(id).start();
    }
    log_refuses_a_cluster(&theirs, &[1, 2]);
    log_refuses_a_cluster(&ours, &[3]);
    eventually("it says which member is another's", PATIENCE, || {
        let why = theirs.node(1).wait_closed("forming");
        let named = format!("member 3 ({wrong}) belongs to another cluster");
        require(why.contains(&named), || why)
    });
    theirs.node(2).wait_closed("forming");

    for id in 1..=3 {
        ours.node(id).assert_alive();
        ours.assert_value(id, "whose", "ours");
    }
    let status = ours.nodes[&our_leader].status().expect("status");
    assert_eq!(
        (status.leader, status.term),
        (our_leader, our_term),
        "no election"
    );
    // With the right list it forms: nothing of the wrong one was kept but its own list, which is that of member 1.
    theirs.kill_all();
    for id in [1, 2] {
        theirs.node(id).replace_in_arguments(&wrong, &right);
    }
    theirs.node(1).wipe();
    theirs.start_all();
    theirs.put(3, "whose", "theirs");
    theirs.assert_value(1, "whose", "theirs");
    ours.assert_value(3, "whose", "ours");
    let cluster = |cluster: &Cluster| cluster.nodes[&1].status().expect("status").cluster;
    assert_ne!(cluster(&ours), cluster(&theirs));
}

#[test]
fn two_fresh_clusters_of_one_list_have_two_ids() {
    let mut cluster = Cluster::start(1);
    let before = cluster.nodes[&1].status().expect("status").cluster;
    cluster.node(1).kill();
    cluster.node(1).wipe();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    assert_ne!(cluster.nodes[&1].status().expect("status").cluster, before);
}

#[test]
fn a_member_of_another_cluster_can_be_neither_added_nor_removed() {
    let ours = Cluster::start(1);
    ours.put(1, "whose", "ours");
    let mut theirs = Cluster::prepare_beside(&ours, 2, &[]);
    theirs.start_all();
    theirs.put(1, "whose", "theirs");

    // Even the id is right, only the cluster is not. The request itself is taken, nobody knows yet who answers
    // there; but the member stays a learner for ever.
    let url = theirs.nodes[&2].url();
    let added = ours.send(1, "POST", "/2", &[], url.as_bytes());
    assert_eq!(added.status, 204, "{added:?}");
    log_refuses_a_cluster(&ours, &[1]);
    ours.put(1, "whose", "still ours");
    let status = ours.nodes[&1].status().expect("status");
    assert!(status.member(2).is_some_and(|m| m.learner), "{status:?}");

    ours.remove_member(1, 2);
    ours.wait_voters(1, &[1]);
    ours.assert_value(1, "whose", "still ours");
    for id in [1, 2] {
        theirs.node(id).assert_alive();
        theirs.put(id, "whose", "still theirs");
        theirs.assert_value(id, "whose", "still theirs");
    }
}

#[test]
fn members_whose_data_directories_are_of_two_clusters_do_not_mix() {
    // Node 3 of one cluster comes up in the place of the other cluster's node 3: its flags, its ports.
    let mut ours = Cluster::start(3);
    let mut theirs = Cluster::prepare_beside(&ours, 3, &[]);
    theirs.start_all();
    ours.put(1, "whose", "ours");
    theirs.put(1, "whose", "theirs");
    ours.node(3).kill();
    theirs.node(3).kill();
    let foreign = theirs.nodes[&3]
        .data_dir
        .to_str()
        .expect("UTF-8")
        .to_owned();
    ours.node(3).set_flag("--data-dir", &foreign);
    ours.node(3).start();
    // Whether it ends (exit 5) or stands alone is its own matter; our data must not be changed by it, nor be shown.
    for round in 0..20 {
        ours.put(round % 2 + 1, "whose", format!("ours {round}"));
        let foreign = ours.nodes[&3].address;
        if let Ok(read) = crate::http::request(foreign, "GET", "/whose?consistency=stale", &[], b"")
            && read.status == 200
        {
            assert_eq!(read.text(), "theirs", "data of two clusters mixed");
        }
    }
    for id in [1, 2] {
        ours.node(id).assert_alive();
        ours.assert_value(id, "whose", "ours 19");
        theirs.node(id).assert_alive();
        theirs.assert_value(id, "whose", "theirs");
    }
}
