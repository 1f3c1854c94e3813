//! Renewals and a new CA while clients write: no request fails, and nothing that was acknowledged is lost.

use super::{certificates, lines_with};
use crate::harness::{Cluster, PATIENCE, SetOnDrop, eventually, require};
use crate::http::{self, Connection};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

const READ_AGAIN: &str = "read the certificates again";
/// Each step lasts until this number of further writes is acknowledged.
const WRITES: u64 = 100;

/// What the writers and the test share.
#[derive(Default)]
struct Course {
    ended: AtomicBool,
    acknowledged: AtomicU64,
    /// Connections that are kept are made again when this number changes.
    epoch: AtomicU64,
    /// The connections that were made again.
    made_again: AtomicU64,
}

/// Writes until the end, on one connection or on a new one for each write. Returns how many were acknowledged, or the
/// first failure.
fn write(name: &str, address: SocketAddr, keeps: bool, course: &Course) -> Result<u64, String> {
    let (mut kept, mut epoch) = (None, 0);
    for number in 0.. {
        if course.ended.load(SeqCst) {
            return Ok(number);
        }
        let failed = |why: String| format!("write {number} of {name}: {why}");
        let now = course.epoch.load(SeqCst);
        if std::mem::replace(&mut epoch, now) != now && kept.take().is_some() {
            course.made_again.fetch_add(1, SeqCst);
        }
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(address).map_err(|error| failed(error.to_string()))?,
        };
        let key = format!("/{name}/{number}");
        let answer = connection.send("PUT", &key, &[], number.to_string().as_bytes());
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        if answer.status != 204 {
            return Err(failed(format!("{answer:?}")));
        }
        course.acknowledged.fetch_add(1, SeqCst);
        kept = keeps.then_some(connection);
    }
    unreachable!("there is no end of numbers")
}

/// Runs `raftkvd cert` with these words, and waits until all members use what it has made.
fn change(cluster: &Cluster, words: &[&str], course: &Course) {
    let counts = |cluster: &Cluster| {
        let nodes = cluster.nodes.values();
        let counts = nodes.map(|node| lines_with(&node.last_log(), READ_AGAIN));
        counts.collect::<Vec<_>>()
    };
    let before = counts(cluster);
    certificates(cluster).run(words);
    // Clients copy their files too.
    for node in cluster.nodes.values() {
        http::secure(node.address, Some(certificates(cluster).admin()));
    }
    eventually("all members have read the files again", PATIENCE, || {
        let now = counts(cluster);
        let all = before.iter().zip(&now).all(|(before, now)| now > before);
        require(all, || format!("{before:?}, {now:?}"))
    });
    let goal = course.acknowledged.load(SeqCst) + WRITES;
    eventually("writes go on", PATIENCE, || {
        let now = course.acknowledged.load(SeqCst);
        require(now >= goal, || format!("{now} of {goal}"))
    });
}

/// Lets the clients that keep a connection make it again.
fn connect_again(cluster: &Cluster, course: &Course) {
    course.epoch.fetch_add(1, SeqCst);
    let goal = cluster.nodes.len() as u64;
    eventually("clients have connected again", PATIENCE, || {
        let now = course.made_again.load(SeqCst);
        require(now == goal, || format!("{now} of {goal}"))
    });
}

/// A connection from before the renewal shows a certificate of the old CA.
fn assert_stale(cluster: &Cluster, mut stale: Connection) {
    let answer = stale.send("PUT", "/stale", &[], b"y").expect("an answer");
    assert_eq!(answer.status, 403, "{answer:?}");
    let why = "no CA in ca.pem has signed it; connect again with one that is valid";
    assert!(answer.text().contains(why), "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(stale.send("GET", "/stale", &[], b"").is_err());
    cluster.assert_value(1, "stale", "x");
}

#[test]
fn certificates_are_renewed_and_the_ca_replaced_under_load_without_a_failed_request() {
    let mut cluster = Cluster::start_secure(3, &[]);
    let old = certificates(&cluster).admin();
    let mut stale = Connection::open(cluster.address(1)).expect("connect");
    let course = Course::default();
    let written = thread::scope(|scope| {
        let end = SetOnDrop(&course.ended);
        let mut writers = Vec::new();
        for (&id, node) in &cluster.nodes {
            for keeps in [true, false] {
                let how = if keeps { "kept" } else { "new" };
                let (name, address) = (format!("{how}-{id}"), node.address);
                let course = &course;
                let writer = scope.spawn(move || {
                    let count = write(&name, address, keeps, course);
                    count.map(|count| (name, count))
                });
                writers.push(writer);
            }
        }
        for words in [
            &["renew", "--days", "80"][..],
            &["rotate"][..],
            &["renew", "--days", "70"][..],
        ] {
            change(&cluster, words, &course);
        }
        connect_again(&cluster, &course);
        let before = stale.send("PUT", "/stale", &[], b"x").expect("an answer");
        assert_eq!(before.status, 204);
        change(&cluster, &["rotate", "--finish"], &course);
        drop(end);
        let results = writers.into_iter().map(|w| w.join().expect("a writer"));
        results
            .collect::<Result<Vec<_>, _>>()
            .expect("no failed request")
    });
    for (name, count) in written {
        assert!(count > 0, "{name} wrote nothing");
        let page = cluster.send(
            2,
            "GET",
            &format!("/-/kv?prefix={name}/&values=true&limit=10000"),
            &[],
            b"",
        );
        let page: serde_json::Value = serde_json::from_slice(&page.body).expect("a list");
        let keys = page["keys"].as_array().expect("keys");
        assert_eq!(keys.len() as u64, count, "{name}");
        for key in keys {
            let end = key["key"].as_str().and_then(|key| key.rsplit('/').next());
            assert_eq!(end, key["value"].as_str(), "{key}");
        }
    }
    assert_stale(&cluster, stale);
    // The certificates of the old CA are refused, and members that start accept each other by the new ones.
    let refused = super::ask(cluster.address(1), &old, "GET", "/a", b"");
    assert!(refused.is_err(), "{refused:?}");
    cluster.node(3).kill();
    cluster.start_all();
    cluster.put(3, "after", "x");
    for id in 1..=3 {
        let said = cluster.nodes[&id].last_log();
        for end in ["refused a peer", "closed a peer's stream"] {
            assert_eq!(lines_with(&said, end), 0, "{said}");
        }
    }
}
