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

/// In whatever is secret, and short enough to be found also in parts of what was sent.
const SECRET: &str = "hunter2";
const SECRET_BASE64: &str = "aHVudGVyM";

/// Method, path, headers, body.
type Request = (&'static str, String, Headers, Vec<u8>);
type Headers = Vec<(&'static str, &'static str)>;

/// Requests of every kind, good and bad, with the secret in their paths, headers and bodies.
fn secret_requests() -> Vec<Request> {
    let pairs = format!("{{\"{SECRET}-a\":\"{SECRET}\"}}");
    let transaction = format!(
        "{{\"conditions\":[{{\"key\":\"{SECRET}\",\"exists\":true}}],\"operations\":[{{\"op\":\"put\",\"key\":\
         \"{SECRET}-t\",\"value\":\"{SECRET}\"}},{{\"op\":\"delete\",\"key\":\"{SECRET}-d\"}}]}}"
    );
    let large = SECRET.repeat(1_000);
    let broken_json = format!("{{\"{SECRET}\":{SECRET}");
    let twice = format!("{{\"{SECRET}\":\"{SECRET}\",\"{SECRET}\":\"\"}}");
    let key = format!("/{SECRET}");
    let put = |path: String| ("PUT", path, vec![], SECRET.into());
    let put_if = |header, body: &str| ("PUT", key.clone(), vec![header], body.into());
    let get = |path: String| ("GET", path, vec![], vec![]);
    let post = |path: &str, body: &str| ("POST", path.to_owned(), vec![], body.into());
    vec![
        put(key.clone()),
        put(format!("/-/kv{key}")),
        put_if(("If-Match", SECRET), "x"),
        put_if(("If-None-Match", "*"), SECRET),
        put(format!("/{}", SECRET.repeat(100))),
        ("PUT", key.clone(), vec![], large.into()),
        put(format!("{key}%zz")),
        put(format!("/-/{SECRET}")),
        put(format!("{key}?{SECRET}=1")),
        get(key.clone()),
        get(format!("{key}?consistency={SECRET}")),
        get(format!("/-/kv?prefix={SECRET}&values=true")),
        get(format!("/-/kv?limit={SECRET}")),
        get(format!("/key/{SECRET}-a")),
        ("BREW", key.clone(), vec![], SECRET.into()),
        post(&key, SECRET),
        post("/key", &pairs),
        post("/key", &broken_json),
        post("/key", &twice),
        post("/-/txn", &transaction),
        post("/-/txn", &broken_json),
        post("/-/leader", SECRET),
        ("DELETE", format!("/key/{SECRET}-a"), vec![], vec![]),
        ("DELETE", format!("{key}-d"), vec![], vec![]),
    ]
}

/// Sends all of them through a member, and gives the statuses of the answers.
fn send_secrets(cluster: &Cluster, id: u64) -> Vec<u16> {
    let requests = secret_requests().into_iter();
    let statuses = requests.map(|(method, path, headers, body)| {
        let response = cluster.send(id, method, &path, &headers, &body);
        response.status
    });
    let statuses = statuses.collect();
    // A head that is none, and a body that ends too soon.
    for text in [
        format!("PUT /{SECRET}\r\n{SECRET}\r\n\r\n"),
        format!("PUT /{SECRET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{SECRET}"),
    ] {
        let mut connection = Connection::open(cluster.address(id)).expect("connect");
        connection.write(text.as_bytes()).expect("write");
    }
    statuses
}

/// Until the quota refuses a write, so that snapshots are written too.
fn fill_with_secrets(cluster: &Cluster, via: u64) {
    let full = (0..200).find(|number| {
        let path = format!("/{SECRET}-{number}");
        let value = SECRET.repeat(140);
        let response = cluster.send(via, "PUT", &path, &[], value.as_bytes());
        response.status == 507
    });
    assert!(full.is_some());
}

#[test]
fn no_key_and_no_value_is_ever_logged() {
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
    let mut statuses = send_secrets(&cluster, leader);
    statuses.extend(send_secrets(&cluster, followers[0]));
    for status in [200, 204, 400, 403, 404, 405, 412, 413, 414] {
        assert!(statuses.contains(&status), "no {status} among {statuses:?}");
    }
    // Behind the snapshots that are written, one is sent, and one is loaded.
    cluster.node(followers[1]).kill();
    fill_with_secrets(&cluster, leader);
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
    let peer = format!("member: {gone},");
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

/// All that a member has logged in JSON.
fn json_log(cluster: &Cluster, id: u64) -> Vec<Value> {
    let log = cluster.nodes[&id].log_text();
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// There is a line with this message that has all of these fields, with these values where there is one.
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

/// What a snapshot's line tells of it.
const SIZE: [(&str, Option<Value>); 3] = [("index", None), ("bytes", None), ("ms", None)];

/// Of a member that led, changed members, was stopped and started again.
#[track_caller]
fn assert_a_life_is_told(log: &[Value], joiner: u64) {
    let version = Some(Value::from(env!("CARGO_PKG_VERSION")));
    assert_told(
        log,
        "starting",
        &[
            ("version", version),
            ("dir", None),
            ("client_address", None),
            ("peer_address", None),
        ],
    );
    assert_told(log, "started", &[("cluster", None), ("ms", None)]);
    assert_told(log, "became leader", &[("term", None)]);
    assert_told(log, "wrote a snapshot", &SIZE);
    assert_told(log, "sent a snapshot", &SIZE);
    for change in ["added as a learner", "made a voter", "removed"] {
        assert_told(
            log,
            "membership changed",
            &[
                ("change", Some(change.into())),
                ("member", Some(joiner.into())),
                ("url", None),
                ("index", None),
            ],
        );
    }
    assert_told(log, "stopping", &[("signal", Some("SIGTERM".into()))]);
    assert_told(log, "stopped", &[("ms", None)]);
    assert_told(
        log,
        "recovered",
        &[("snapshot", None), ("last", None), ("term", None)],
    );
    assert_told(log, "loaded a snapshot", &SIZE);
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

    let logs = [leader, followers[0], joiner, new_leader].map(|id| json_log(&cluster, id));
    for line in logs.iter().flatten() {
        assert!(
            line["ts"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    assert_a_life_is_told(&logs[0], joiner);
    let leader_line = format!("the leader is {leader}");
    assert_told(&logs[1], &leader_line, &[("term", None)]);
    assert_told(&logs[2], "received a snapshot", &SIZE);
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
