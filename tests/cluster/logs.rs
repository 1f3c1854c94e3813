//! The log as an operator reads it: a line for each thing, once; no flood; and never a key or a value.

use crate::harness::{Cluster, PATIENCE, PATIENT, eventually, leader_and_followers, require};
use crate::http::{self, Connection};
use rustix::process::Signal;
use serde_json::Value;

/// The lines that hold all of these words.
fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    log.lines()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .collect()
}

/// Method, path, headers, body.
type Request<'a> = (&'a str, String, Vec<(&'a str, &'a str)>, &'a [u8]);

#[test]
fn no_key_and_no_value_is_ever_logged() {
    // In whatever is secret, and short enough to be found also in parts of what was sent.
    const SECRET: &str = "hunter2";
    const SECRET_BASE64: &str = "aHVudGVyM";
    let mut cluster = Cluster::start_with(
        3,
        &[
            "--log-level",
            "trace",
            "--snapshot-bytes",
            "2K",
            "--max-value-bytes",
            "1K",
            "--max-key-bytes",
            "100",
            "--max-store-bytes",
            "100K",
            PATIENT[0],
            PATIENT[1],
        ],
    );
    let (leader, followers) = leader_and_followers(&cluster);
    let pairs = format!("{{\"{SECRET}-a\":\"{SECRET}\"}}");
    let transaction = format!(
        "{{\"conditions\":[{{\"key\":\"{SECRET}\",\"exists\":true}}],\"operations\":[{{\"op\":\"put\",\"key\":\
         \"{SECRET}-t\",\"value\":\"{SECRET}\"}},{{\"op\":\"delete\",\"key\":\"{SECRET}-d\"}}]}}"
    );
    let key = format!("/{SECRET}");
    let long_key = format!("/{}", SECRET.repeat(100));
    let large = SECRET.repeat(1_000);
    let broken_json = format!("{{\"{SECRET}\":{SECRET}");
    let twice = format!("{{\"{SECRET}\":\"{SECRET}\",\"{SECRET}\":\"\"}}");
    let requests: Vec<Request<'_>> = vec![
        ("PUT", key.clone(), vec![], SECRET.as_bytes()),
        ("PUT", format!("/-/kv{key}"), vec![], SECRET.as_bytes()),
        ("PUT", key.clone(), vec![("If-Match", SECRET)], b"x"),
        (
            "PUT",
            key.clone(),
            vec![("If-None-Match", "*")],
            SECRET.as_bytes(),
        ),
        ("PUT", long_key, vec![], SECRET.as_bytes()),
        ("PUT", key.clone(), vec![], large.as_bytes()),
        ("PUT", format!("{key}%zz"), vec![], SECRET.as_bytes()),
        ("PUT", format!("/-/{SECRET}"), vec![], SECRET.as_bytes()),
        (
            "PUT",
            format!("{key}?{SECRET}=1"),
            vec![],
            SECRET.as_bytes(),
        ),
        ("GET", key.clone(), vec![], b""),
        ("GET", format!("{key}?consistency={SECRET}"), vec![], b""),
        (
            "GET",
            format!("/-/kv?prefix={SECRET}&values=true"),
            vec![],
            b"",
        ),
        ("GET", format!("/-/kv?limit={SECRET}"), vec![], b""),
        ("GET", format!("/key/{SECRET}-a"), vec![], b""),
        ("BREW", key.clone(), vec![], SECRET.as_bytes()),
        ("POST", key.clone(), vec![], SECRET.as_bytes()),
        ("POST", "/key".to_owned(), vec![], pairs.as_bytes()),
        ("POST", "/key".to_owned(), vec![], broken_json.as_bytes()),
        ("POST", "/key".to_owned(), vec![], twice.as_bytes()),
        ("POST", "/-/txn".to_owned(), vec![], transaction.as_bytes()),
        ("POST", "/-/txn".to_owned(), vec![], broken_json.as_bytes()),
        ("POST", "/-/leader".to_owned(), vec![], SECRET.as_bytes()),
        ("DELETE", format!("/key/{SECRET}-a"), vec![], b""),
        ("DELETE", format!("{key}-d"), vec![], b""),
    ];
    let mut statuses = Vec::new();
    for id in [leader, followers[0]] {
        for (method, path, headers, body) in &requests {
            let response = cluster.send(id, method, path, headers, body);
            statuses.push(response.status);
        }
        // A head that is none, and a body that ends too soon.
        for text in [
            format!("PUT /{SECRET}\r\n{SECRET}\r\n\r\n"),
            format!("PUT /{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{SECRET}"),
        ] {
            let mut connection = Connection::open(cluster.address(id)).expect("connect");
            connection.write(text.as_bytes()).expect("write");
        }
    }
    for status in [200, 204, 400, 403, 404, 405, 412, 413, 414] {
        assert!(statuses.contains(&status), "no {status} among {statuses:?}");
    }
    // Until it is full, so that snapshots are written and the quota refuses; then one is sent, and one is loaded.
    cluster.node(followers[1]).kill();
    let full = (0..200).find(|number| {
        let path = format!("/{SECRET}-{number}");
        cluster
            .send(leader, "PUT", &path, &[], SECRET.repeat(140).as_bytes())
            .status
            == 507
    });
    assert!(full.is_some());
    cluster.start_all();
    let joiner = cluster.lay_out_joiner();
    cluster.add_member(leader, joiner);
    cluster.start_all();
    cluster.wait_voters(leader, &[1, 2, 3, joiner]);
    cluster.node(leader).signal(Signal::TERM);
    assert_eq!(cluster.node(leader).exit_code(PATIENCE), Some(0));
    cluster.start_all();

    let mut all = String::new();
    for node in cluster.nodes.values() {
        all += &node.log_text();
    }
    for word in [
        "wrote a snapshot",
        "sent a snapshot",
        "Sending from",
        "store-full",
        "bad-body",
    ] {
        assert!(all.contains(word), "nothing of {word:?} was logged");
    }
    for secret in [SECRET, SECRET_BASE64] {
        let found = lines(&all, &[secret]);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn a_member_that_fails_and_returns_is_two_lines_on_the_others() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let (leader, followers) = leader_and_followers(&cluster);
    let (gone, other) = (followers[0], followers[1]);
    let peer = format!("peer: {gone},");
    // At the start, a member that was not there yet may have been down.
    let before: Vec<usize> = [leader, other]
        .iter()
        .map(|id| lines(&cluster.nodes[id].last_log(), &["peer is down", &peer]).len())
        .collect();
    assert!(before.iter().all(|count| *count <= 1), "{before:?}");
    cluster.node(gone).kill();
    for (id, before) in [leader, other].into_iter().zip(&before) {
        eventually("it is down", PATIENCE, || {
            let log = cluster.nodes[&id].last_log();
            let found = lines(&log, &["peer is down", &peer]).len();
            require(found == before + 1, || log)
        });
    }
    cluster.start_all();
    for (id, before) in [leader, other].into_iter().zip(&before) {
        eventually("it is up again", PATIENCE, || {
            let log = cluster.nodes[&id].last_log();
            let found = lines(&log, &["peer is up again", "was_down_ms", &peer]).len();
            require(found == before + 1, || log)
        });
    }
    // In many attempts nothing else was said of it.
    for (id, before) in [leader, other].into_iter().zip(&before) {
        let log = cluster.nodes[&id].last_log();
        let down = lines(&log, &["peer is down", &peer]).len();
        assert_eq!(down, before + 1, "{log}");
    }
}

#[test]
fn json_lines_tell_what_an_operator_asks_about() {
    let mut cluster = Cluster::start_with(
        3,
        &[
            "--log-format",
            "json",
            "--snapshot-bytes",
            "64K",
            PATIENT[0],
            PATIENT[1],
        ],
    );
    let (leader, followers) = leader_and_followers(&cluster);
    for number in 0..4 {
        cluster.put(leader, &format!("key-{number}"), vec![7; 50 << 10]);
    }
    let joiner = cluster.lay_out_joiner();
    cluster.add_member(leader, joiner);
    cluster.start_all();
    cluster.wait_voters(leader, &[1, 2, 3, joiner]);
    cluster.remove_member(leader, joiner);
    assert_eq!(cluster.node(joiner).exit_code(PATIENCE), Some(0));
    cluster.node(leader).signal(Signal::TERM);
    assert_eq!(cluster.node(leader).exit_code(PATIENCE), Some(0));
    let new_leader = cluster.leader();
    cluster.node(leader).start();
    cluster.node(leader).wait_ready();

    let read = |id: u64| -> Vec<Value> {
        let log = cluster.nodes[&id].log_text();
        // One line of a start is for whoever has just typed the command.
        let lines = log.lines().filter(|line| !line.contains("is listening"));
        lines
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    };
    let logs: Vec<Vec<Value>> = [leader, followers[0], joiner, new_leader].map(read).into();
    #[track_caller]
    fn assert_told(log: &[Value], message: &str, fields: &[(&str, Option<Value>)]) {
        let is_it = |line: &&Value| {
            line["msg"] == message
                && fields.iter().all(|(name, wanted)| match wanted {
                    Some(wanted) => line[name] == *wanted,
                    None => !line[name].is_null(),
                })
        };
        assert!(
            log.iter().find(is_it).is_some(),
            "no {message:?} {fields:?} in {log:#?}"
        );
    }
    for log in &logs {
        for line in log {
            assert!(
                line["ts"].is_string() && line["level"].is_string(),
                "{line}"
            );
        }
    }
    let version = Some(Value::from(env!("CARGO_PKG_VERSION")));
    let (any, id) = (None, Some(Value::from(joiner)));
    let lead = &logs[0];
    assert_told(
        lead,
        "starting",
        &[
            ("version", version),
            ("data", None),
            ("clients", None),
            ("peers", None),
        ],
    );
    assert_told(
        lead,
        "started",
        &[("cluster", None), ("term", None), ("ms", None)],
    );
    assert_told(lead, "became leader", &[("term", None)]);
    let size = [("index", None), ("bytes", None), ("ms", None)];
    assert_told(lead, "wrote a snapshot", &size);
    assert_told(lead, "sent a snapshot", &size);
    for change in ["added as a learner", "made a voter", "removed"] {
        assert_told(
            lead,
            "membership changed",
            &[
                ("change", Some(change.into())),
                ("member", id.clone()),
                ("url", None),
                ("index", None),
            ],
        );
    }
    assert_told(lead, "stopping", &[("signal", Some("SIGTERM".into()))]);
    assert_told(lead, "stopped", &[("ms", any)]);
    assert_told(
        lead,
        "recovered",
        &[("snapshot", None), ("last", None), ("term", None)],
    );
    assert_told(lead, "loaded a snapshot", &size);
    let leader_line = format!("the leader is {leader}");
    assert_told(&logs[1], &leader_line, &[("term", None)]);
    assert_told(&logs[2], "received a snapshot", &size);
    assert_told(&logs[3], "became leader", &[("term", None)]);
}

#[test]
fn a_flood_is_a_few_lines_and_a_count_and_a_file_gets_no_colours() {
    const STRANGERS: usize = 300;
    let mut cluster = Cluster::start(1);
    for _ in 0..STRANGERS {
        let answer = http::request(cluster.nodes[&1].peer_address, "GET", "/", &[], b"");
        assert_eq!(answer.expect("an answer").status, 404);
    }
    cluster.node(1).signal(Signal::TERM);
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
    let log = cluster.nodes[&1].log_text();
    let refused = lines(&log, &["refused a request at the peer port"]);
    assert!(refused.len() <= 20, "{refused:#?}");
    let counted = refused
        .iter()
        .map(|line| match line.split_once("(repeated ") {
            None => 1,
            Some((_, rest)) => rest.split(' ').next().unwrap().parse().unwrap(),
        });
    assert_eq!(counted.sum::<usize>(), STRANGERS, "{refused:#?}");
    assert!(!log.contains('\x1b'));
}
