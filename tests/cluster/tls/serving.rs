//! Clusters with TLS, members that join, and switching a cluster over and back.

use super::{certificates, lines_with, metric};
use crate::harness::{Cluster, PATIENCE, PATIENT, eventually, leader_and_followers, require};
use rustix::process::Signal;
use std::fs;

/// No line holds a part of a private key.
#[track_caller]
fn assert_no_key_in_logs(cluster: &Cluster) {
    for id in cluster.nodes.keys() {
        let said = cluster.nodes[id].log_text();
        assert!(!said.contains("PRIVATE KEY"), "{said}");
        for owner in fs::read_dir(certificates(cluster).path()).expect("the certificates") {
            let owner = owner.expect("an entry").path();
            for key in ["member.key", "client.key"] {
                let text = fs::read_to_string(owner.join(key)).unwrap_or_default();
                let lines = text.lines().filter(|line| !line.contains("PRIVATE KEY"));
                for line in lines {
                    assert!(
                        !said.contains(line),
                        "a key of {} is logged",
                        owner.display()
                    );
                }
            }
        }
    }
}

#[test]
fn three_members_form_serve_and_survive_the_loss_of_one() {
    let flags = [&PATIENT[..], &["--log-level", "trace"]].concat();
    let mut cluster = Cluster::start_secure(3, &flags);
    for id in 1..=3 {
        cluster.put(id, &format!("of-{id}"), "x");
        assert!(metric(&cluster, id, "raftkvd_tls_handshakes_total{port=\"peer\"}") > 0);
        let failed = metric(
            &cluster,
            id,
            "raftkvd_tls_handshakes_failed_total{port=\"peer\"}",
        );
        assert_eq!(failed, 0, "on {id}");
    }
    let (leader, rest) = leader_and_followers(&cluster);
    cluster.node(leader).kill();
    cluster.put(rest[0], "without-one", "y");
    cluster.assert_value(rest[1], "without-one", "y");
    cluster.start_all();
    cluster.assert_value(leader, "without-one", "y");
    cluster.assert_value(leader, "of-1", "x");
    cluster.assert_hashes_agree(&[1, 2, 3]);
    for id in 1..=3 {
        let said = cluster.nodes[&id].log_text();
        assert_eq!(lines_with(&said, "refused a"), 0, "{said}");
    }
    assert_no_key_in_logs(&cluster);
}

#[test]
fn members_join_by_the_address_of_another_with_either_scheme() {
    let mut cluster = Cluster::prepare(0, &[]);
    cluster.secure();
    for id in 1..=3 {
        let asked: &[u64] = if id == 1 { &[] } else { &[1] };
        cluster.lay_out_alone(id, asked);
        if id == 3 {
            let node = cluster.node(id);
            node.replace_in_arguments("https://", "http://");
        }
        cluster.node(id).start();
        cluster.node(id).wait_ready();
        cluster.wait_voters(1, &(1..=id).collect::<Vec<_>>());
    }
    cluster.put(3, "a", "b");
    cluster.assert_value(2, "a", "b");
}

#[test]
fn a_member_joins_with_the_files_of_the_administrator_in_place_of_its_own() {
    let mut cluster = Cluster::prepare(0, &[]);
    cluster.secure();
    cluster.lay_out_alone(1, &[]);
    cluster.start_all();
    cluster.lay_out_alone(2, &[1]);
    let admin = certificates(&cluster).of_client("admin");
    for (flag, file) in [
        ("--cacert", "ca.pem"),
        ("--cert", "client.pem"),
        ("--key", "client.key"),
    ] {
        let path = admin.join(file).display().to_string();
        cluster.node(2).set_flag(flag, &path);
    }
    cluster.start_all();
    cluster.wait_voters(1, &[1, 2]);
}

#[test]
fn a_cluster_is_switched_over_to_tls_and_back() {
    let mut cluster = Cluster::start(3);
    cluster.put(1, "before", "1");
    let stop_all = |cluster: &mut Cluster| {
        for node in cluster.nodes.values_mut() {
            node.signal(Signal::TERM);
        }
        for node in cluster.nodes.values_mut() {
            assert_eq!(node.exit_code(PATIENCE), Some(0));
        }
    };
    stop_all(&mut cluster);
    cluster.secure();
    cluster.start_all();
    cluster.assert_value(2, "before", "1");
    cluster.put(3, "with-tls", "2");
    stop_all(&mut cluster);
    cluster.expose();
    cluster.start_all();
    cluster.assert_value(1, "before", "1");
    cluster.assert_value(1, "with-tls", "2");
    cluster.put(2, "after", "3");
    cluster.assert_hashes_agree(&[1, 2, 3]);
}

#[test]
fn a_snapshot_reaches_a_member_that_joins() {
    let mut cluster = Cluster::prepare(0, &["--snapshot-bytes", "1M"]);
    cluster.secure();
    cluster.lay_out_alone(1, &[]);
    cluster.start_all();
    let value = |number: u8| vec![number; 900_000];
    for number in 0..12 {
        cluster.put(1, &format!("key-{number}"), value(number));
    }
    eventually("the log starts with a snapshot", PATIENCE, || {
        let status = cluster.nodes[&1].status()?;
        require(status.snapshot > 5, || format!("{status:?}"))
    });
    cluster.lay_out_alone(2, &[1]);
    cluster.start_all();
    cluster.wait_voters(1, &[1, 2]);
    for number in 0..12 {
        let got = cluster.get_stale(2, &format!("key-{number}"));
        assert_eq!(got, Some(value(number)), "{number}");
    }
    let got = cluster.nodes[&2].log_text();
    assert!(got.contains("snapshot"), "{got}");
    cluster.assert_hashes_agree(&[1, 2]);
}
