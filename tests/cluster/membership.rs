//! Members that come and go while the cluster serves.

use crate::harness::{Cluster, PATIENCE, PATIENT, eventually, leader_and_followers, require};
use raftkvd::limits::{MEMBERS_MAX, REMOVED_MAX};
use std::time::{Duration, Instant};

/// The others tell it at once; the rest is for a noisy machine.
const EXIT_AFTER_REMOVAL: Duration = Duration::from_secs(10);

/// Adds a fourth node to three and checks that it becomes a full member.
fn join_a_fourth(flags: &[&str], writes: usize, value_bytes: usize) -> Cluster {
    let mut cluster = Cluster::start_with(3, &[flags, &PATIENT].concat());
    for i in 0..writes {
        cluster.put(
            i as u64 % 3 + 1,
            &format!("key-{i}"),
            i.to_string().repeat(value_bytes),
        );
    }
    let id = cluster.lay_out_joiner();
    assert_eq!(id, 4);
    // One trailing slash makes no difference, and repeating the request neither.
    let url = cluster.nodes[&4].url() + "/";
    for via in [1, 2, 2] {
        let response = cluster.send(via, "POST", "/4", &[], url.as_bytes());
        assert_eq!(response.status, 204, "{response:?}");
    }
    cluster.node(4).start();
    cluster.node(4).wait_ready();
    cluster.wait_voters(1, &[1, 2, 3, 4]);
    cluster.wait_voters(4, &[1, 2, 3, 4]);
    for i in 0..writes {
        let expected = i.to_string().repeat(value_bytes);
        cluster.assert_value(4, &format!("key-{i}"), &expected);
    }
    cluster.put(4, "through", "the fourth");
    cluster.assert_value(1, "through", "the fourth");

    // It votes and counts: of four, three are a majority, so with another one down it is needed.
    let other = cluster.others(4)[0];
    cluster.node(other).kill();
    let still = cluster.others(4)[0];
    cluster.put(still, "with", "three of four");
    cluster.assert_value(4, "with", "three of four");
    cluster.node(other).start();
    cluster.node(other).wait_ready();
    cluster
}

#[test]
fn a_cluster_has_only_so_many_members() {
    let cluster = Cluster::start(1);
    let add = |id: usize| {
        let url = format!("http://127.0.0.1:{}", 1 + id);
        cluster.send(1, "POST", &format!("/{id}"), &[], url.as_bytes())
    };
    for id in 2..=MEMBERS_MAX {
        let added = add(id);
        assert_eq!(added.status, 204, "{id}: {added:?}");
    }
    let refused = add(MEMBERS_MAX + 1);
    assert_eq!(refused.status, 409, "{refused:?}");
    let said = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(said.contains("remove one first"), "{said}");
    assert_eq!(add(2).status, 204, "it is a member already");
    cluster.put(1, "foo", "bar");
    cluster.remove_member(1, 2);
    let added = add(MEMBERS_MAX + 1);
    assert_eq!(added.status, 204, "{added:?}");
}

#[test]
fn a_member_that_was_removed_so_long_ago_that_its_record_is_gone_still_learns_of_it() {
    let mut cluster = Cluster::start(3);
    cluster.node(3).kill();
    cluster.remove_member(1, 3);
    for id in (100..).take(REMOVED_MAX + 1) {
        let url = format!("http://127.0.0.1:{id}");
        let added = cluster.send(1, "POST", &format!("/{id}"), &[], url.as_bytes());
        assert_eq!(added.status, 204, "{added:?}");
        cluster.remove_member(1, id);
    }
    cluster.node(3).start();
    assert_eq!(cluster.node(3).exit_code(PATIENCE), Some(0));
    assert!(cluster.node(3).last_log().contains("was removed"));
    cluster.node(3).start_expecting_exit(7);
}

#[test]
fn an_address_to_listen_on_is_taken_for_no_member() {
    let cluster = Cluster::start(1);
    let before = cluster.nodes[&1].url();
    for host in ["0.0.0.0", "[::]", "[0:0::0]", "[::ffff:0.0.0.0]", "0"] {
        let url = format!("http://{host}:9021");
        let join = format!("{{\"id\":5,\"addr\":\"{url}\"}}");
        for (method, path, body) in [
            ("POST", "/5", &url),
            ("POST", "/join", &join),
            ("PUT", "/-/members/1", &url),
        ] {
            let refused = cluster.send(1, method, path, &[], body.as_bytes());
            assert_eq!(refused.status, 400, "{method} {path} {body}: {refused:?}");
        }
    }
    assert_eq!(cluster.nodes[&1].url(), before);
    let status = cluster.nodes[&1].status().expect("a status");
    assert_eq!(status.members.len(), 1, "{status:?}");
}

#[test]
fn a_joiner_catches_up_and_becomes_a_voter_by_itself() {
    let mut cluster = join_a_fourth(&[], 20, 1);
    // A restart keeps its flags; --join and the list mean nothing once it has data.
    cluster.node(4).kill();
    cluster.put(1, "while", "it was down");
    cluster.node(4).start();
    cluster.node(4).wait_ready();
    cluster.assert_value(4, "while", "it was down");
}

#[test]
fn a_joiner_gets_by_snapshot_what_the_log_no_longer_has() {
    let cluster = join_a_fourth(&["--snapshot-bytes", "16384"], 200, 300);
    let status = cluster.nodes[&4].status().expect("status");
    assert!(status.snapshot > 1, "it began from a snapshot: {status:?}");
    assert!(!cluster.nodes[&4].files("snap", ".snap").is_empty());
}

#[test]
fn a_member_that_fell_behind_the_compacted_log_gets_a_snapshot() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-bytes", "16384"]);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.put(leader, "key-0", "old");
    cluster.node(followers[0]).kill();
    for i in 0..200 {
        cluster.put(
            leader,
            &format!("key-{}", i % 50),
            format!("{i}-{}", "x".repeat(1_000)),
        );
    }
    eventually("the leader takes a snapshot", PATIENCE, || {
        let status = cluster.nodes[&leader].status()?;
        require(status.snapshot > 1, || format!("{status:?}"))
    });
    cluster.node(followers[0]).start();
    cluster.node(followers[0]).wait_ready();
    for i in 150..200 {
        let expected = format!("{i}-{}", "x".repeat(1_000));
        cluster.assert_value(followers[0], &format!("key-{}", i % 50), &expected);
    }
    // What came by snapshot is there after a restart, too.
    cluster.node(followers[0]).kill();
    cluster.node(followers[0]).start();
    cluster.node(followers[0]).wait_ready();
    cluster.assert_value(
        followers[0],
        "key-49",
        &format!("199-{}", "x".repeat(1_000)),
    );
}

#[test]
fn a_single_node_serves_on_while_its_new_member_is_not_running() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "before", "x");
    cluster.lay_out_joiner();
    cluster.add_member(1, 2);
    for i in 0..20 {
        cluster.put(1, "during", i.to_string());
        cluster.assert_value(1, "during", &i.to_string());
    }
    let status = cluster.nodes[&1].status().expect("status");
    assert!(status.member(2).is_some_and(|m| m.learner), "{status:?}");
    // Also after a restart, alone.
    cluster.node(1).kill();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.put(1, "after", "y");

    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.wait_voters(2, &[1, 2]);
    for (key, value) in [("before", "x"), ("during", "19"), ("after", "y")] {
        cluster.assert_value(2, key, value);
    }
    cluster.put(2, "through", "2");
    cluster.assert_value(1, "through", "2");
}

#[test]
fn taken_ids_and_urls_are_409() {
    let mut cluster = Cluster::start(2);
    let joiner = cluster.lay_out_joiner();
    let taken_id = cluster.nodes[&joiner].url();
    let response = cluster.send(1, "POST", "/2", &[], taken_id.as_bytes());
    assert_eq!(response.status, 409, "{response:?}");
    let taken_url = cluster.nodes[&1].url();
    let response = cluster.send(2, "POST", "/3", &[], taken_url.as_bytes());
    assert_eq!(response.status, 409, "{response:?}");
    // Adding what is a member already is no change.
    let same = cluster.nodes[&2].url();
    let response = cluster.send(1, "POST", "/2", &[], same.as_bytes());
    assert_eq!(response.status, 204, "{response:?}");
    cluster.wait_voters(1, &[1, 2]);
}

#[test]
fn another_url_for_a_bound_id_is_409_and_says_so() {
    let mut cluster = Cluster::start(2);
    let joiner = cluster.lay_out_joiner();
    let json = [("Accept", "application/json")];
    let code = |cluster: &Cluster, method: &str, path: &str, body: &str| {
        let response = cluster.send(1, method, path, &json, body.as_bytes());
        let problem = serde_json::from_slice(&response.body).unwrap_or(serde_json::Value::Null);
        let code = problem["code"].as_str().unwrap_or("").to_owned();
        (response.status, code)
    };
    let (free, taken) = (cluster.nodes[&joiner].url(), cluster.nodes[&1].url());
    let answered = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(
        code(&cluster, "POST", "/2", &free),
        answered(409, "id-taken")
    );
    assert_eq!(
        code(&cluster, "POST", "/3", &taken),
        answered(409, "url-taken")
    );
    let member = "/-/members/2";
    assert_eq!(
        code(&cluster, "PUT", member, &taken),
        answered(409, "url-taken")
    );
    assert_eq!(
        code(&cluster, "PUT", "/-/members/9", &free),
        answered(404, "no-such-member")
    );
    for path in ["/-/members/x", "/-/members/0", "/-/members/02"] {
        assert_eq!(
            code(&cluster, "PUT", path, &free),
            answered(400, "bad-member"),
            "{path}"
        );
    }
    assert_eq!(
        code(&cluster, "PUT", member, "nowhere"),
        answered(400, "bad-member")
    );
    assert_eq!(code(&cluster, "GET", member, "").0, 405);
    cluster.wait_voters(1, &[1, 2]);
}

#[test]
fn changes_straight_after_each_other_wait_for_each_other() {
    let mut cluster = Cluster::start(3);
    let joiner = cluster.lay_out_joiner();
    let (leader, followers) = leader_and_followers(&cluster);
    // Through the leader, and through others.
    for via in [leader, followers[0]] {
        cluster.node(joiner).start();
        let url = cluster.nodes[&joiner].url();
        let added = cluster.send(via, "POST", "/4", &[], url.as_bytes());
        assert_eq!(added.status, 204, "{added:?}");
        let removed = cluster.send(via, "DELETE", "/4", &[], b"");
        assert_eq!(removed.status, 204, "{removed:?}");
        // It was not let in, or has just begun to learn of its end.
        cluster.node(joiner).kill();
        if cluster.nodes[&joiner].data_dir.exists() {
            cluster.node(joiner).wipe();
        }
    }
    cluster.add_member(leader, joiner);
    cluster.remove_member(leader, followers[1]);
    cluster.remove_member(followers[0], joiner);
    cluster.wait_voters(leader, &sorted(&[leader, followers[0]]));
}

#[test]
fn changes_at_the_same_time_through_all_members_are_all_made() {
    let cluster = Cluster::start(3);
    std::thread::scope(|scope| {
        for id in 1..=3 {
            let cluster = &cluster;
            scope.spawn(move || {
                let (member, url) = (id + 10, format!("http://127.0.0.1:{id}"));
                for (method, body) in [("POST", &*url), ("DELETE", "")] {
                    let path = format!("/{member}");
                    let response = cluster.send(id, method, &path, &[], body.as_bytes());
                    assert_eq!(response.status, 204, "{method} {path}: {response:?}");
                }
            });
        }
    });
    cluster.wait_voters(1, &[1, 2, 3]);
}

/// The node was removed: it ends with 0 by itself, and refuses to start again.
fn assert_ends_as_removed(cluster: &mut Cluster, id: u64) {
    let node = cluster.node(id);
    let code = node.exit_code(EXIT_AFTER_REMOVAL);
    assert_eq!(code, Some(0), "it said:\n{}", node.last_log());
    node.start_expecting_exit(7);
    let said = node.last_log();
    assert!(
        said.contains("removed") && said.contains(node.data_dir.to_str().expect("UTF-8")),
        "the message names cause and file:\n{said}"
    );
}

#[test]
fn a_removed_follower_ends_and_refuses_to_start_again() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.put(leader, "foo", "bar");
    cluster.remove_member(followers[1], followers[0]);
    assert_ends_as_removed(&mut cluster, followers[0]);
    cluster.wait_voters(leader, &sorted(&[leader, followers[1]]));
    cluster.wait_voters(followers[1], &sorted(&[leader, followers[1]]));
    cluster.put(followers[1], "foo", "after");
    cluster.assert_value(leader, "foo", "after");
    let again = cluster.send(leader, "DELETE", &format!("/{}", followers[0]), &[], b"");
    assert_eq!(again.status, 404, "{again:?}");
}

#[test]
fn a_follower_removed_through_itself_ends_too() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.remove_member(followers[0], followers[0]);
    assert_ends_as_removed(&mut cluster, followers[0]);
    cluster.put(leader, "foo", "bar");
    cluster.assert_value(followers[1], "foo", "bar");
}

#[test]
fn a_member_removed_while_it_was_down_learns_it_when_it_starts() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.node(followers[0]).kill();
    cluster.remove_member(leader, followers[0]);
    cluster.put(leader, "foo", "bar");
    let term = cluster.nodes[&leader].status().expect("status").term;
    cluster.node(followers[0]).start();
    assert_ends_as_removed(&mut cluster, followers[0]);
    let after = cluster.nodes[&leader].status().expect("status");
    assert_eq!((after.leader, after.term), (leader, term), "no election");
    cluster.assert_value(followers[1], "foo", "bar");
}

/// Removes the leader of three, by a request to itself or to another member.
fn remove_the_leader(through_itself: bool) {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.put(leader, "foo", "bar");
    let via = if through_itself { leader } else { followers[0] };
    cluster.remove_member(via, leader);
    let begin = Instant::now();
    // "A new leader within 2 election timeouts", 2 s; twice that on a noisy machine. A write proves it.
    cluster.put(followers[0], "foo", "after");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(4), "a new leader took {took:?}");
    assert_ends_as_removed(&mut cluster, leader);
    cluster.assert_value(followers[1], "foo", "after");
    assert!(followers.contains(&cluster.leader()));
    cluster.wait_voters(followers[1], &sorted(&followers));
}

#[test]
fn a_leader_removed_through_itself_is_replaced() {
    remove_the_leader(true);
}

#[test]
fn a_leader_removed_through_a_follower_is_replaced() {
    remove_the_leader(false);
}

/// From two members to one.
fn remove_one_of_two(remove_the_leader: bool, through_the_removed: bool) {
    let mut cluster = Cluster::start(2);
    let (leader, followers) = leader_and_followers(&cluster);
    let (removed, survivor) = if remove_the_leader {
        (leader, followers[0])
    } else {
        (followers[0], leader)
    };
    cluster.put(removed, "foo", "bar");
    let via = if through_the_removed {
        removed
    } else {
        survivor
    };
    cluster.remove_member(via, removed);
    assert_ends_as_removed(&mut cluster, removed);
    cluster.put(survivor, "foo", "alone");
    cluster.assert_value(survivor, "foo", "alone");
    cluster.wait_voters(survivor, &[survivor]);

    let last = cluster.send(survivor, "DELETE", &format!("/{survivor}"), &[], b"");
    assert_eq!(last.status, 409, "the last voter stays: {last:?}");

    cluster.node(survivor).kill();
    cluster.node(survivor).start();
    cluster.node(survivor).wait_ready();
    cluster.assert_value(survivor, "foo", "alone");
    cluster.put(survivor, "foo", "restarted");
    cluster.assert_value(survivor, "foo", "restarted");
}

#[test]
fn of_two_members_the_leader_is_removed_through_itself() {
    remove_one_of_two(true, true);
}

#[test]
fn of_two_members_the_leader_is_removed_through_the_follower() {
    remove_one_of_two(true, false);
}

#[test]
fn of_two_members_the_follower_is_removed_through_the_leader() {
    remove_one_of_two(false, false);
}

#[test]
fn of_two_members_the_follower_is_removed_through_itself() {
    remove_one_of_two(false, true);
}

#[test]
fn a_removed_member_comes_back_under_its_id_with_an_empty_data_directory() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    let id = followers[0];
    cluster.put(leader, "foo", "bar");
    cluster.remove_member(leader, id);
    assert_ends_as_removed(&mut cluster, id);
    cluster.add_member(followers[1], id);
    // The old data directory is of the removed member still.
    cluster.node(id).start_expecting_exit(7);
    cluster.node(id).wipe();
    cluster.node(id).arguments.push("--join".to_owned());
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    cluster.wait_voters(id, &[1, 2, 3]);
    cluster.assert_value(id, "foo", "bar");
    cluster.put(id, "foo", "back");
    cluster.assert_value(leader, "foo", "back");
    // A restart of it, and of all.
    cluster.kill_all();
    cluster.start_all();
    cluster.assert_value(id, "foo", "back");
}

#[test]
fn members_added_by_post_are_reachable_after_all_restarted_from_a_snapshot() {
    let mut cluster = Cluster::start_with(1, &["--snapshot-bytes", "16384"]);
    for id in [2, 3] {
        assert_eq!(cluster.lay_out_joiner(), id);
        cluster.add_member(1, id);
        cluster.node(id).start();
        cluster.node(id).wait_ready();
        let voters: Vec<u64> = (1..=id).collect();
        cluster.wait_voters(1, &voters);
    }
    let added = cluster.nodes[&1].status().expect("status").applied;
    let mut writes = 0;
    eventually(
        "every node took a snapshot with all members",
        PATIENCE,
        || {
            for _ in 0..20 {
                cluster.put(1, &format!("key-{}", writes % 10), "x".repeat(1_000));
                writes += 1;
            }
            for id in 1..=3 {
                let status = cluster.nodes[&id].status()?;
                require(status.snapshot > added, || format!("{status:?}"))?;
            }
            Ok(())
        },
    );
    // Node 1 still has the flags of its first start, which name nobody but itself.
    cluster.kill_all();
    cluster.start_all();
    for id in 1..=3 {
        cluster.wait_voters(id, &[1, 2, 3]);
        cluster.put(id, "from", id.to_string());
        cluster.assert_value(id % 3 + 1, "from", &id.to_string());
    }
}

fn sorted(ids: &[u64]) -> Vec<u64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}
