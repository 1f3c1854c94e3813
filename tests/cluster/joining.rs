//! Members that join by the address of another one, as those of hraftd do.

use crate::harness::{Cluster, Node, PATIENCE, eventually, require};
use crate::ports::free_port;
use rustix::process::Signal;

/// Lays out a member that knows its own peer URL, and asks these members to add it.
fn lay_out(cluster: &mut Cluster, id: u64, asked: &[u64]) {
    let (port, peer_port) = (free_port(), free_port());
    let data_dir = cluster.path().join(format!("data-{id}"));
    let mut arguments = format!(
        "--id {id} --peer-url http://127.0.0.1:{peer_port} --port {port} --data-dir data-{id}"
    );
    if !asked.is_empty() {
        let urls: Vec<String> = asked
            .iter()
            .map(|id| format!("http://{}", cluster.address(*id)))
            .collect();
        arguments += &format!(" --join {}", urls.join(","));
    }
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    let node = Node::with_arguments(id, port, peer_port, cluster.path(), data_dir, arguments);
    cluster.nodes.insert(id, node);
}

fn start(cluster: &mut Cluster, id: u64) {
    cluster.node(id).start();
    cluster.node(id).wait_ready();
}

#[test]
fn the_walkthrough_of_hraftd_works_and_the_same_lines_start_it_again() {
    let mut cluster = Cluster::prepare(0, &[]);
    lay_out(&mut cluster, 1, &[]);
    start(&mut cluster, 1);
    let pair = b"{\"user1\": \"batman\"}";
    let response = cluster.send(1, "POST", "/key", &[], pair);
    assert_eq!(response.status, 200, "{response:?}");
    lay_out(&mut cluster, 2, &[1]);
    start(&mut cluster, 2);
    // It asks whom it can reach, also a member that does not lead.
    lay_out(&mut cluster, 3, &[2]);
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
    lay_out(&mut cluster, 1, &[]);
    lay_out(&mut cluster, 2, &[]);
    lay_out(&mut cluster, 3, &[2, 1]);
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
    let said = cluster.nodes[&3].last_log();
    assert_eq!(
        said.matches("not added to the cluster yet").count(),
        1,
        "{said}"
    );
}

#[test]
fn an_id_that_another_member_has_ends_the_start_and_an_emptied_member_is_found_out() {
    let mut cluster = Cluster::prepare(0, &[]);
    lay_out(&mut cluster, 1, &[]);
    start(&mut cluster, 1);
    for id in [2, 3] {
        lay_out(&mut cluster, id, &[1]);
        start(&mut cluster, id);
    }
    cluster.wait_voters(1, &[1, 2, 3]);
    lay_out(&mut cluster, 4, &[1]);
    let usurper = cluster.node(4);
    usurper.set_flag("--id", "2");
    usurper.start_expecting_exit(2);
    let said = usurper.last_log();
    assert!(said.contains("choose another --id"), "{said}");

    cluster.node(2).kill();
    cluster.node(2).wipe();
    cluster.node(2).start_expecting_exit(5);
    let said = cluster.nodes[&2].last_log();
    assert!(said.contains("replace the member"), "{said}");
}

#[test]
fn post_join_takes_what_hraftds_members_send() {
    let cluster = Cluster::start(1);
    for (body, status, names) in [
        ("{\"id\":\"4\",\"addr\":\"http://127.0.0.1:1\"}", 204, ""),
        ("{\"id\":4,\"addr\":\"127.0.0.1:1\"}", 204, ""),
        ("{\"id\":4,\"addr\":\"127.0.0.1:2\"}", 409, "another URL"),
        ("{\"id\":5,\"addr\":\"127.0.0.1:1\"}", 409, "another member"),
        ("{\"id\":\"node4\",\"addr\":\"127.0.0.1:3\"}", 400, "id"),
        ("{\"id\":6,\"addr\":\"127.0.0.1\"}", 400, "http://127.0.0.1"),
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
