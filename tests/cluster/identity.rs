//! Who is who: wiped data directories, swapped ones, and two clusters whose ports were mixed up.

use crate::harness::{Cluster, PATIENCE, PATIENT, eventually, leader_and_followers, require};

/// Starts a wiped member with or without `--join`: it is refused, and the others do not even notice.
fn wiped(join: bool) {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    let id = followers[0];
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
        format!("DELETE /{id}"),
        format!("POST /{id}"),
        "--join".to_owned(),
    ] {
        assert!(mentions(&said, &command), "no {command:?} in:\n{said}");
    }
    // Trying again changes nothing.
    cluster.node(id).start_expecting_exit(5);

    for &other in &[leader, followers[1]] {
        cluster.node(other).assert_alive();
        let status = cluster.nodes[&other].status().expect("status");
        assert_eq!((status.leader, status.term), (leader, term), "{status:?}");
    }
    cluster.put(leader, "foo", "without it");
    cluster.assert_value(followers[1], "foo", "without it");

    // What the message says works.
    cluster.remove_member(leader, id);
    cluster.add_member(leader, id);
    cluster.node(id).wipe();
    if !join {
        cluster.node(id).arguments.push("--join".to_owned());
    }
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    cluster.wait_voters(id, &[1, 2, 3]);
    cluster.assert_value(id, "foo", "without it");
}

/// The text contains a request like `DELETE /3`, be it as `DELETE /3`, `-X DELETE http://.../3` or `-XDELETE ...`.
fn mentions(text: &str, request: &str) -> bool {
    let Some((method, path)) = request.split_once(' ') else {
        return text.contains(request);
    };
    text.match_indices(method).any(|(at, _)| {
        let rest = &text[at + method.len()..];
        let command = rest.lines().next().unwrap_or("");
        command.split_whitespace().any(|word| {
            let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '/');
            word == path || word.ends_with(path)
        })
    })
}

#[test]
fn a_wiped_member_is_refused_and_told_how_to_replace_it() {
    wiped(false);
}

#[test]
fn a_wiped_member_is_refused_with_join_as_well() {
    wiped(true);
}

#[test]
fn a_wiped_leader_is_refused() {
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
fn two_clusters_that_were_mixed_up_refuse_each_other() {
    let mut ours = Cluster::start(3);
    ours.put(1, "whose", "ours");
    let our_leader = ours.leader();
    let our_term = ours.nodes[&our_leader].status().expect("status").term;

    // The other cluster's list names our node 3 as its third member. Its first two are a majority, and serve.
    let mut theirs = Cluster::prepare_beside(&ours, 3, &[]);
    let wrong = theirs.nodes[&3].url();
    let ours_third = ours.nodes[&3].url();
    for id in [1, 2] {
        for argument in &mut theirs.node(id).arguments {
            *argument = argument.replace(&wrong, &ours_third);
        }
        theirs.node(id).start();
    }
    for id in [1, 2] {
        theirs.node(id).wait_ready();
    }
    theirs.put(1, "whose", "theirs");
    log_refuses_a_cluster(&theirs, &[1, 2]);
    log_refuses_a_cluster(&ours, &[3]);

    for id in 1..=3 {
        ours.node(id).assert_alive();
        ours.assert_value(id, "whose", "ours");
    }
    for id in [1, 2] {
        theirs.node(id).assert_alive();
        theirs.assert_value(id, "whose", "theirs");
    }
    let status = ours.nodes[&our_leader].status().expect("status");
    assert_eq!(
        (status.leader, status.term),
        (our_leader, our_term),
        "no election"
    );
    assert_ne!(
        status.cluster,
        theirs.nodes[&1].status().expect("status").cluster
    );
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
