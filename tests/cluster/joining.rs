//! Members that join by the address of another one, as those of hraftd do.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use rustix::process::Signal;

fn start(cluster: &mut Cluster, id: u64) {
    cluster.node(id).start();
    cluster.node(id).wait_ready();
}

#[test]
fn the_walkthrough_of_hraftd_works_and_the_same_lines_start_it_again() {
    let mut cluster = Cluster::prepare(0, &[]);
    cluster.lay_out_alone(1, &[]);
    start(&mut cluster, 1);
    let pair = b"{\"user1\": \"batman\"}";
    let response = cluster.send(1, "POST", "/key", &[], pair);
    assert_eq!(response.status, 200, "{response:?}");
    cluster.lay_out_alone(2, &[1]);
    start(&mut cluster, 2);
    // It asks whom it can reach, also a member that does not lead.
    cluster.lay_out_alone(3, &[2]);
    start(&mut cluster, 3);
    for id in 1..=3 {
        cluster.wait_voters(id, &[1, 2, 3]);
        let response = cluster.send(id, "GET", "/key/user1", &[], b"");
        assert_eq!(response.text().trim(), "{\"user1\":\"batman\"}", "on {id}");
    }
    cluster.node(1).kill();
    cluster.put(3, "with", "two of three");
    cluster.kill_all();
    cluster.start_all();
    for id in 1..=3 {
        cluster.wait_voters(id, &[1, 2, 3]);
        cluster.assert_value(id, "with", "two of three");
        let said = cluster.nodes[&id].last_log();
        assert!(!said.contains("differs"), "nothing to warn of:\n{said}");
    }
}

#[test]
fn a_joiner_waits_for_whom_it_asks_and_can_be_stopped_meanwhile() {
    let mut cluster = Cluster::prepare(0, &[]);
    cluster.lay_out_alone(1, &[]);
    cluster.lay_out_alone(2, &[]);
    cluster.lay_out_alone(3, &[2, 1]);
    let waits = |cluster: &Cluster| {
        eventually("it says what it waits for", PATIENCE, || {
            let said = cluster.nodes[&3].last_log();
            require(said.contains("not added to the cluster yet"), || said)
        });
    };
    cluster.node(3).start();
    waits(&cluster);
    cluster.node(3).signal(Signal::TERM);
    assert_eq!(cluster.node(3).exit_code(PATIENCE), Some(0));
    cluster.node(3).start();
    waits(&cluster);
    // Whoever else it is told to ask may be down.
    start(&mut cluster, 1);
    cluster.node(3).wait_ready();
    cluster.wait_voters(3, &[1, 3]);
    cluster.put(3, "foo", "bar");
    cluster.assert_value(1, "foo", "bar");
    // The same reason is said once in a row.
    let said = cluster.nodes[&3].last_log();
    let reasons = said.split("not added to the cluster yet").skip(1);
    let reasons: Vec<_> = reasons.filter_map(|text| text.lines().next()).collect();
    assert!(!reasons.is_empty(), "{said}");
    assert!(reasons.windows(2).all(|two| two[0] != two[1]), "{said}");
}

#[test]
fn an_id_that_another_member_has_ends_the_start_and_an_emptied_member_is_found_out() {
    let mut cluster = Cluster::grow(3, &[]);
    cluster.lay_out_alone(4, &[1]);
    let usurper = cluster.node(4);
    usurper.set_flag("--id", "2");
    usurper.start_expecting_exit(2);
    let said = usurper.last_log();
    assert!(said.contains("needs an id of its own"), "{said}");

    cluster.put(2, "foo", "bar");
    cluster.node(2).kill();
    cluster.node(2).wipe();
    cluster.node(2).start_expecting_exit(5);
    let said = cluster.nodes[&2].last_log();
    assert!(said.contains("DELETE http://"), "{said}");
    cluster.assert_value(3, "foo", "bar");
    // What it says works.
    cluster.remove_member(1, 2);
    cluster.node(2).wipe();
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.wait_voters(2, &[1, 2, 3]);
    cluster.assert_value(2, "foo", "bar");
}

#[test]
fn a_promotion_outlasts_a_power_cut_with_nothing_written_behind_it() {
    for back in [[1, 2], [1, 3], [2, 3]] {
        let mut cluster = Cluster::prepare(0, &[]);
        cluster.lay_out_alone(1, &[]);
        start(&mut cluster, 1);
        cluster.put(1, "k", "precious");
        for id in [2, 3] {
            cluster.lay_out_alone(id, &[1]);
            start(&mut cluster, id);
            cluster.wait_voters(1, &(1..=id).collect::<Vec<_>>());
        }
        cluster.kill_all();
        for id in back {
            cluster.node(id).start();
        }
        for id in back {
            cluster.node(id).wait_ready();
            cluster.assert_value(id, "k", "precious");
            cluster.put(id, "by", id.to_string());
        }
    }
}

#[test]
fn a_joiner_at_another_url_does_not_take_the_id_and_the_rightful_member_gets_in() {
    let mut cluster = Cluster::start(1);
    assert_eq!(cluster.lay_out_joiner(), 2);
    // Another list, and so another place for the same id.
    let url = cluster.nodes[&2].url();
    let mut elsewhere = Cluster::prepare_beside(&cluster, 0, &[]);
    elsewhere.lay_out_alone(2, &[]);
    let list = format!("{},{}", cluster.nodes[&1].url(), elsewhere.nodes[&2].url());
    let stranger = elsewhere.node(2);
    stranger
        .arguments
        .retain(|a| a != "--peer-url" && !a.starts_with("http://"));
    stranger
        .arguments
        .extend(["--cluster".to_owned(), list, "--join".to_owned()]);
    stranger.start();
    stranger.wait_closed("joining");
    cluster.add_member(1, 2);
    // The member continues to try, and is refused. Only the log of the cluster says why, because any process can ask to join.
    eventually("the cluster says so", PATIENCE, || {
        let said = cluster.nodes[&1].last_log();
        require(said.contains("added at another peer URL"), || said)
    });
    let said = elsewhere.nodes[&2].last_log();
    assert!(said.contains("waiting to be added"), "{said}");
    assert!(!said.contains("another peer URL"), "{said}");
    let where_to_look = "; the log of member 1 says why member 1 refuses this member";
    assert!(said.contains(where_to_look), "{said}");
    cluster.put(1, "foo", "bar");
    let status = cluster.nodes[&1].status().expect("status");
    let row = status.member(2).expect("it was added");
    assert!(row.learner && row.url == url, "{status:?}");

    start(&mut cluster, 2);
    cluster.wait_voters(2, &[1, 2]);
    cluster.assert_value(2, "foo", "bar");
    elsewhere.node(2).assert_alive();
    let refused = elsewhere.send(2, "GET", "/foo", &[], b"");
    assert_eq!(refused.status, 503, "{refused:?}");
}

#[test]
fn of_two_joiners_of_one_id_one_gets_in_and_the_other_ends() {
    let mut cluster = Cluster::start(1);
    cluster.lay_out_alone(2, &[1]);
    let mut rivals = Cluster::prepare_beside(&cluster, 0, &[]);
    rivals.lay_out_alone(2, &[]);
    rivals.node(2).let_it_ask(&[cluster.client_url(1)]);
    cluster.node(2).start();
    rivals.node(2).start();
    let ended = eventually("one of the two ends", PATIENCE, || {
        let ended = [cluster.node(2).ended(), rivals.node(2).ended()];
        require(ended != [None, None], || "both run".to_owned())?;
        Ok(ended)
    });
    let (winner, loser) = match ended {
        [None, Some(code)] => (cluster.node(2), code),
        [Some(code), None] => (rivals.node(2), code),
        both => panic!("both have ended: {both:?}"),
    };
    assert_eq!(loser, Some(2), "id-taken");
    winner.wait_ready();
    let url = winner.url();
    cluster.wait_voters(1, &[1, 2]);
    let status = cluster.nodes[&1].status().expect("status");
    assert_eq!(status.member(2).map(|m| &*m.url), Some(&*url));
}

#[test]
fn who_joins_as_a_bound_member_with_another_directory_ends_with_5() {
    let mut cluster = Cluster::start(3);
    cluster.put(1, "foo", "bar");
    cluster.node(2).kill();
    cluster.node(2).wipe();
    // It asks by address, at the very place where the member was.
    let asked = [cluster.client_url(1), cluster.client_url(3)];
    let url = cluster.nodes[&2].url();
    let node = cluster.node(2);
    let at = node.arguments.iter().position(|a| a == "--cluster");
    let at = at.expect("it has its list");
    node.arguments.drain(at..at + 2);
    node.set_flag("--peer-url", &url);
    node.let_it_ask(&asked);
    node.start_expecting_exit(5);
    let said = node.last_log();
    assert!(said.contains("DELETE http://"), "{said}");
    cluster.assert_value(3, "foo", "bar");
}

#[test]
fn post_join_takes_what_hraftds_members_send() {
    let cluster = Cluster::start(1);
    for (body, status, names) in [
        ("{\"id\":\"4\",\"addr\":\"http://127.0.0.1:1\"}", 204, ""),
        ("{\"id\":4,\"addr\":\"127.0.0.1:1\"}", 204, ""),
        ("{\"id\":4,\"addr\":\"127.0.0.1:2\"}", 409, "member 4 is at"),
        ("{\"id\":5,\"addr\":\"127.0.0.1:1\"}", 409, "member 4;"),
        ("{\"id\":\"node4\",\"addr\":\"127.0.0.1:3\"}", 400, "id"),
        ("{\"id\":6,\"addr\":\"127.0.0.1\"}", 400, "no port"),
        ("{\"id\":6}", 400, "addr"),
        ("http://127.0.0.1:3", 400, "JSON"),
    ] {
        let response = cluster.send(1, "POST", "/join", &[], body.as_bytes());
        let said = response.text();
        assert_eq!(response.status, status, "{body}: {said}");
        assert!(said.contains(names) && said.lines().count() <= 1, "{said}");
    }
    let status = cluster.nodes[&1].status().expect("status");
    let member = status.member(4).expect("it was added");
    assert_eq!((&*member.url, member.learner), ("http://127.0.0.1:1", true));
    // An id that is open takes any incarnation, one that is bound only its own.
    for (body, status, code) in [
        (
            "{\"id\":4,\"addr\":\"127.0.0.1:1\",\"incarnation\":\"00000000000000ab\"}",
            204,
            "",
        ),
        (
            "{\"id\":5,\"addr\":\"127.0.0.1:5\",\"incarnation\":\"00000000000000ab\"}",
            204,
            "",
        ),
        (
            "{\"id\":5,\"addr\":\"127.0.0.1:5\",\"incarnation\":\"00000000000000ab\"}",
            204,
            "",
        ),
        ("{\"id\":5,\"addr\":\"127.0.0.1:5\"}", 204, ""),
        (
            "{\"id\":5,\"addr\":\"127.0.0.1:5\",\"incarnation\":\"00000000000000ac\"}",
            409,
            "other-incarnation",
        ),
        (
            "{\"id\":5,\"addr\":\"127.0.0.1:6\",\"incarnation\":\"00000000000000ab\"}",
            409,
            "id-taken",
        ),
        (
            "{\"id\":6,\"addr\":\"127.0.0.1:5\",\"incarnation\":\"00000000000000ad\"}",
            409,
            "url-taken",
        ),
        (
            "{\"id\":6,\"addr\":\"127.0.0.1:6\",\"incarnation\":\"0\"}",
            400,
            "bad-body",
        ),
    ] {
        let headers = [("Accept", "application/json")];
        let response = cluster.send(1, "POST", "/join", &headers, body.as_bytes());
        assert_eq!(response.status, status, "{body}: {response:?}");
        let problem = serde_json::from_slice(&response.body).unwrap_or(serde_json::Value::Null);
        assert_eq!(
            problem["code"].as_str().unwrap_or(""),
            code,
            "{body}: {response:?}"
        );
    }
    // It is a key as any other for all else.
    cluster.put(1, "join", "a value");
    cluster.assert_value(1, "join", "a value");
}

#[test]
fn who_accepts_json_gets_a_code_with_every_refusal() {
    let cluster = Cluster::start_with(1, &["--max-value-bytes", "10"]);
    let problem = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let headers = [&[("Accept", "application/json")], headers].concat();
        let response = cluster.send(1, method, path, &headers, body);
        let kind = response.header("content-type").map(str::to_owned);
        assert_eq!(
            kind.as_deref(),
            Some("application/problem+json"),
            "{response:?}"
        );
        let problem: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["status"], response.status);
        let outcome = response.header("x-raftkvd-outcome").unwrap_or("");
        assert_eq!(problem["outcome"].as_str().unwrap_or(""), outcome);
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        (
            response.status,
            problem["code"].as_str().expect("a code").to_owned(),
        )
    };
    for (method, path, headers, body, expected) in [
        ("GET", "/absent", &[][..], "", (404, "no-such-key")),
        (
            "PUT",
            "/k",
            &[("If-Match", "*")],
            "x",
            (412, "condition-failed"),
        ),
        ("PUT", "/k", &[], "more than ten", (413, "too-large")),
        ("PUT", "/k?x", &[], "x", (400, "bad-option")),
        ("PUT", "/-/k", &[], "x", (403, "reserved-path")),
        ("PATCH", "/k", &[], "", (405, "method-not-allowed")),
        ("DELETE", "/1", &[], "", (409, "last-voter")),
        ("POST", "/-/leader", &[], "7", (404, "no-such-member")),
    ] {
        let (status, code) = problem(method, path, headers, body.as_bytes());
        assert_eq!((status, &*code), expected, "{method} {path}");
    }
    let plain = cluster.send(1, "GET", "/absent", &[("Accept", "*/*")], b"");
    assert_eq!(plain.text(), "there is no such key\n");
    // What succeeds is what it always is.
    cluster.put(1, "k", "v");
    let found = cluster.send(1, "GET", "/k", &[("Accept", "application/json")], b"");
    assert_eq!((found.status, &*found.body), (200, &b"v"[..]));
}

#[test]
fn an_added_member_that_is_started_without_join_ends_with_5_and_is_asked_about_it() {
    let mut cluster = Cluster::start(3);
    cluster.remove_member(2, 1);
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
    cluster.add_member(2, 1);
    cluster.node(1).set_flag("--data-dir", "without-join");
    cluster.node(1).start_expecting_exit(5);
    let said = cluster.nodes[&1].last_log();
    assert!(said.contains("did you forget --join?"), "{said}");
    // What the line says to do works at the first try.
    cluster.node(1).set_flag("--data-dir", "with-join");
    cluster.node(1).arguments.push("--join".to_owned());
    start(&mut cluster, 1);
    cluster.wait_voters(1, &[1, 2, 3]);
}

#[test]
fn a_member_that_lost_its_disk_comes_back_by_the_line_of_its_exit() {
    let mut cluster = Cluster::start(3);
    cluster.node(3).kill();
    cluster.node(3).wipe();
    cluster.node(3).start_expecting_exit(5);
    let said = cluster.nodes[&3].last_log();
    assert!(said.contains("a new --data-dir"), "{said}");
    cluster.remove_member(1, 3);
    let asked = cluster.client_url(1);
    cluster.node(3).let_it_ask(&[asked]);
    // The ended start has left its files here, and they do no harm.
    start(&mut cluster, 3);
    cluster.wait_voters(3, &[1, 2, 3]);
}

#[test]
fn a_join_that_succeeds_calls_nobody_down_and_a_restart_changes_no_members() {
    let mut cluster = Cluster::prepare(0, &[]);
    cluster.lay_out_alone(1, &[]);
    start(&mut cluster, 1);
    cluster.lay_out_alone(2, &[1]);
    start(&mut cluster, 2);
    cluster.wait_voters(1, &[1, 2]);
    for id in [1, 2] {
        let said = cluster.nodes[&id].log_text();
        assert!(!said.contains("peer is down"), "member {id}: {said}");
        let changed = said.matches("membership changed, change: \"made a voter\"");
        assert_eq!(changed.count(), 1, "member {id}: {said}");
    }
    eventually("both know that the changes are settled", PATIENCE, || {
        for id in [1, 2] {
            let said = cluster.nodes[&id].log_text();
            let last = |words| said.rfind(words);
            let (changed, settled) = (last("membership changed"), last("members is settled"));
            require(changed < settled, || said.clone())?;
        }
        Ok(())
    });
    cluster.kill_all();
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    for id in [1, 2] {
        let said = cluster.nodes[&id].last_log();
        for old in [
            "membership changed",
            "the change of members is settled",
            "knows another command version",
            "the cluster has formed",
            "cannot campaign",
        ] {
            assert!(!said.contains(old), "member {id}: {said}");
        }
    }
}

#[test]
fn a_member_that_waits_to_be_added_says_once_what_to_do() {
    for level in ["info", "error"] {
        let mut cluster = Cluster::prepare(0, &["--log-level", level]);
        cluster.lay_out_alone(1, &[]);
        // It asks no member to add it, so a person has to.
        assert_eq!(cluster.lay_out_joiner(), 2);
        cluster.node(2).start();
        let address = cluster.address(2);
        let listening = format!("raftkvd 2 is listening at http://{address}; joining: ");
        let said = eventually("it says where it listens", PATIENCE, || {
            let said = cluster.nodes[&2].log_text();
            require(said.contains(&listening), || said.clone()).map(|()| said)
        });
        let to_do = "http://CLIENT_ADDRESS/-/members/2";
        assert_eq!(said.matches(to_do).count(), 1, "{level}: {said}");
    }
}
