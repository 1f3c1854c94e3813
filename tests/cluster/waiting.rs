//! Waiting: a member that can't serve clients names the members that are missing.

use crate::harness::{Cluster, PATIENCE, eventually, leader_and_followers, require};
use serde_json::Value;

/// The line of a member that reaches no other member of three.
fn expected(cluster: &Cluster, missing: &[u64]) -> String {
    let names = missing
        .iter()
        .map(|id| format!("{id} ({})", cluster.nodes[id].url()));
    let names: Vec<_> = names.collect();
    format!(
        "waiting: 1 of 3 members reachable, 2 needed; start member {}",
        names.join(" or ")
    )
}

#[test]
fn a_member_without_the_others_says_whom_to_start() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    let left = followers[0];
    let missing = cluster.others(left);
    // The log of this member then knows that the cluster has formed.
    for round in 0..3 {
        let last = cluster.put(leader, "round", round.to_string());
        eventually("the follower has it", PATIENCE, || {
            let applied = cluster.nodes[&left].status()?.applied;
            require(applied >= last, || applied.to_string())
        });
    }
    let line = expected(&cluster, &missing);
    for id in [leader, followers[1]] {
        cluster.node(id).kill();
    }
    let ready = eventually("it waits", PATIENCE, || {
        let response = cluster.send(left, "GET", "/-/ready", &[], b"");
        let text = response.text().to_owned();
        require(text.contains("waiting: 1 of 3"), || text.clone()).map(|()| text)
    });
    assert_eq!(ready.trim_end(), format!("not ready: {line}"));
    // On a machine that is very busy, the API may give up before the node does, and then it does not know the outcome.
    let response = eventually("it refuses the write", PATIENCE, || {
        let response = cluster.send(left, "PUT", "/name", &[], b"value");
        require(response.status != 504, || format!("{response:?}")).map(|()| response)
    });
    assert_eq!(response.status, 503, "{response:?}");
    let refusal = format!("not written: no leader is known; {line}; it is safe to send it again");
    assert_eq!(response.text().trim_end(), refusal);
    let log = cluster.nodes[&left].log_text();
    assert!(log.contains(&format!("WARN {line}")), "{log}");

    // After a restart, the line about the address says the same, and does not recommend a request that would fail.
    let node = cluster.node(left);
    node.kill();
    node.start();
    let address = node.address;
    let start = format!("raftkvd {left} is listening at http://{address}; {line}");
    eventually("it says so at the start", PATIENCE, || {
        let log = cluster.nodes[&left].log_text();
        require(log.contains(&start), || log)
    });
    cluster.node(missing[0]).start();
    cluster.node(left).wait_ready();
    let serves = format!(
        "raftkvd {left} serves clients: try curl -X PUT -d hello http://{address}/greeting"
    );
    eventually("it says that it serves clients", PATIENCE, || {
        let log = cluster.nodes[&left].log_text();
        require(log.contains(&serves), || log)
    });
}

/// The rows of `/-/status` of a member.
fn rows(cluster: &Cluster, id: u64) -> Vec<Value> {
    let response = cluster.send(id, "GET", "/-/status", &[], b"");
    let status: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    status["members"].as_array().expect("members").clone()
}

#[test]
fn every_member_shows_who_is_reachable_and_how_far_behind() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    let gone = followers[1];
    cluster.put(leader, "key-1", "value");
    for id in 1..=3 {
        eventually("it shows all members", PATIENCE, || {
            let rows = rows(&cluster, id);
            for row in &rows {
                let member = row["id"].as_u64().expect("an id");
                let is_right = row["reachable"] == true
                    && row["behind"] == 0
                    && row["version"] == env!("CARGO_PKG_VERSION")
                    && row["client_url"] == cluster.client_url(member)
                    && (member == id) == row["since"].is_null();
                require(is_right, || format!("{id} of {row}"))?;
            }
            require(rows.len() == 3, || format!("{rows:?}"))
        });
    }
    cluster.node(gone).kill();
    for round in 0..5 {
        cluster.put(leader, "round", round.to_string());
    }
    for id in [leader, followers[0]] {
        eventually("it shows that a member is away", PATIENCE, || {
            let rows = rows(&cluster, id);
            let row = rows.iter().find(|row| row["id"] == gone).expect("its row");
            let behind = row["behind"].as_u64().unwrap_or_default();
            let is_right = row["reachable"] == false && behind >= 5 && row["since"].is_string();
            require(is_right, || row.to_string())
        });
    }
}
