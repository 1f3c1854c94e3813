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

/// Writes until the end, on one connection or on a new one for each write. Returns how many were acknowledged, or the
/// first failure.
fn write(
    name: &str,
    address: SocketAddr,
    keeps: bool,
    ended: &AtomicBool,
    acknowledged: &AtomicU64,
) -> Result<u64, String> {
    let mut kept = None;
    for number in 0.. {
        if ended.load(SeqCst) {
            return Ok(number);
        }
        let failed = |why: String| format!("write {number} of {name}: {why}");
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
        acknowledged.fetch_add(1, SeqCst);
        kept = keeps.then_some(connection);
    }
    unreachable!("there is no end of numbers")
}

/// Runs `raftkvd cert` with these words, and waits until all members use what it has made.
fn change(cluster: &Cluster, words: &[&str], acknowledged: &AtomicU64) {
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
    let goal = acknowledged.load(SeqCst) + WRITES;
    eventually("writes go on", PATIENCE, || {
        let now = acknowledged.load(SeqCst);
        require(now >= goal, || format!("{now} of {goal}"))
    });
}

#[test]
fn certificates_are_renewed_and_the_ca_replaced_under_load_without_a_failed_request() {
    let mut cluster = Cluster::start_secure(3, &[]);
    let old = certificates(&cluster).admin();
    let (ended, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let written = thread::scope(|scope| {
        let end = SetOnDrop(&ended);
        let mut writers = Vec::new();
        for (&id, node) in &cluster.nodes {
            for keeps in [true, false] {
                let how = if keeps { "kept" } else { "new" };
                let (name, address) = (format!("{how}-{id}"), node.address);
                let (ended, acknowledged) = (&ended, &acknowledged);
                let writer = scope.spawn(move || {
                    let count = write(&name, address, keeps, ended, acknowledged);
                    count.map(|count| (name, count))
                });
                writers.push(writer);
            }
        }
        for words in [
            &["renew", "--days", "80"][..],
            &["rotate"][..],
            &["renew", "--days", "70"][..],
            &["rotate", "--finish"][..],
        ] {
            change(&cluster, words, &acknowledged);
        }
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
    // The certificates of the old CA are refused, and members that start accept each other by the new ones.
    let refused = super::ask(cluster.address(1), &old, "GET", "/a", b"");
    assert!(refused.is_err(), "{refused:?}");
    cluster.node(3).kill();
    cluster.start_all();
    cluster.put(3, "after", "x");
    for id in 1..=3 {
        let said = cluster.nodes[&id].last_log();
        assert_eq!(lines_with(&said, "refused a peer"), 0, "{said}");
    }
}
