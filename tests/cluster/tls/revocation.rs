//! The key of a removed member, and a key that a member has replaced, prove nothing any more.

use super::{ask, certificates, status_and_code, wait_line};
use crate::certificates::validity;
use crate::harness::{Cluster, PATIENCE, eventually, require};
use raftkvd::certificates::Order;
use rustls::ClientConfig;
use std::fs;
use std::sync::Arc;

/// Waits until each running member refuses this certificate.
#[track_caller]
fn assert_revoked(cluster: &Cluster, ids: &[u64], certificate: &Arc<ClientConfig>) {
    for &id in ids {
        eventually("the certificate is refused", PATIENCE, || {
            let answer = ask(cluster.address(id), certificate, "GET", "/-/status", b"");
            let answer = answer.map_err(|error| error.to_string())?;
            let refused = status_and_code(&answer) == (403, "not-allowed".to_owned());
            require(refused, || format!("{id}: {answer:?}"))
        });
    }
}

fn ids(cluster: &Cluster) -> Vec<u64> {
    let status = cluster.nodes[&1].status().expect("a status");
    status.members.iter().map(|member| member.id).collect()
}

#[test]
fn a_member_that_was_added_and_never_started_can_not_add_itself_again() {
    let mut cluster = Cluster::start_secure(1, &[]);
    // The second one names a data directory.
    for (id, incarnation) in [(4, ""), (5, ",\"incarnation\":\"00000000000000ab\"")] {
        cluster.lay_out_alone(id, &[1]);
        let member = certificates(&cluster).member(id);
        let url = cluster.nodes[&id].url();
        let body = format!("{{\"id\":\"{id}\",\"addr\":\"{url}\"{incarnation}}}");
        let join = || {
            ask(
                cluster.address(1),
                &member,
                "POST",
                "/join",
                body.as_bytes(),
            )
        };
        let added = join().expect("an answer");
        assert_eq!(added.status, 204, "{added:?}");
        assert_eq!(ids(&cluster), [1, id]);
        let removed = cluster.send(1, "DELETE", &format!("/-/members/{id}"), &[], b"");
        assert_eq!(removed.status, 204, "{removed:?}");
        assert_revoked(&cluster, &[1], &member);
        let refused = join().expect("an answer");
        let expected = (403, "not-allowed".to_owned());
        assert_eq!(status_and_code(&refused), expected, "{refused:?}");
        assert_eq!(ids(&cluster), [1]);
    }
}

#[test]
fn a_key_that_a_member_has_replaced_proves_nothing_and_the_member_goes_on() {
    let mut cluster = Cluster::start_secure(3, &[]);
    let old = certificates(&cluster).member(3);
    wait_for_key(&cluster, &old);
    let renewed = certificates(&cluster).issue(&Order::member(3, []), validity(9));
    let directory = certificates(&cluster).of_member(3);
    for file in ["member.key", "member.pem"] {
        let next = directory.join("next");
        fs::copy(renewed.join(file), &next).expect("copy a file");
        fs::rename(&next, directory.join(file)).expect("rename a file");
    }
    wait_line(&cluster, 3, "read the certificates again");
    assert_revoked(&cluster, &[1, 2, 3], &old);
    for id in 1..=3 {
        wait_line(&cluster, id, "revoked the former key of a member");
    }
    // The member goes on with the new key, also after a restart.
    cluster.put(3, "a", "b");
    cluster.node(3).kill();
    cluster.put(1, "c", "d");
    cluster.start_all();
    cluster.put(3, "e", "f");
    let body = cluster.nodes[&3].url();
    let removed = cluster.send(1, "DELETE", "/-/members/3", &[], b"");
    assert_eq!(removed.status, 204, "{removed:?}");
    let new = certificates(&cluster).member(3);
    for certificate in [&old, &new] {
        assert_revoked(&cluster, &[1, 2], certificate);
        let path = "/-/members/3";
        let refused = ask(
            cluster.address(1),
            certificate,
            "POST",
            path,
            body.as_bytes(),
        );
        let expected = (403, "not-allowed".to_owned());
        assert_eq!(status_and_code(&refused.expect("an answer")), expected);
    }
}

/// Waits until the table has the key of member 3. All members let the certificate in.
#[track_caller]
fn wait_for_key(cluster: &Cluster, certificate: &Arc<ClientConfig>) {
    for id in 1..=3 {
        let answer = ask(cluster.address(id), certificate, "GET", "/-/status", b"");
        assert_eq!(answer.expect("an answer").status, 200);
    }
    // The first member adds the others, and they get the keys with the snapshot.
    let certificates = certificates(cluster);
    let print = certificates.fingerprint(&certificates.of_member(3));
    wait_line(cluster, 1, &print.to_string());
}
