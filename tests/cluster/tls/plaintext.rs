//! Plaintext to a port with TLS, and TLS to a port without: one line at both ends.

use super::{SHORT, certificates, lines_with, wait_line, wait_lines};
use crate::certificates::Certificates;
use crate::harness::{Cluster, PATIENCE, daemon, eventually, require, run_to_end};
use crate::http::{self, Connection};

/// The answer of a port with TLS to plaintext.
const ANSWER: &str = "this port speaks TLS only: use https:// and certificates, as in curl --cacert ca.pem --cert client.pem --key client.key; raftkvd itself takes --tls DIR";
/// The line in the log of a port with TLS.
const PLAINTEXT: &str =
    "it speaks no TLS: it needs https:// and the certificates, or --tls if it is a member";
/// The line in the log of a client port without TLS.
const TLS_CLIENT: &str = "a client speaks TLS to the client port, which has none: it must use http://, or this member needs --tls";
/// The line in the log of a peer port without TLS.
const TLS_PEER: &str = "a peer speaks TLS to the peer port, which has none: start this member with --tls too, or that one without";
/// The error of the side with TLS then.
const NO_TLS: &str = "it does not speak TLS: start it with --tls too, or this side without";

#[test]
fn a_client_with_plaintext_at_ports_with_tls_gets_one_line() {
    let cluster = Cluster::start_secure(1, &[]);
    let node = &cluster.nodes[&1];
    for (address, line) in [
        (node.address, "refused a client's connection"),
        (node.peer_address, "refused a peer's connection"),
    ] {
        let mut connection = Connection::plain(address, SHORT).expect("connect");
        let answer = connection.send("PUT", "/a", &[], &[b'x'; 100_000]);
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.text().trim_end()), (400, ANSWER));
        wait_lines(&cluster, 1, line, 1);
    }
    wait_lines(&cluster, 1, PLAINTEXT, 2);
}

#[test]
fn a_client_with_tls_at_ports_without_gets_an_error_and_the_member_logs_one_line() {
    let cluster = Cluster::start(1);
    let certificates = Certificates::make(cluster.path(), &[]);
    let node = &cluster.nodes[&1];
    for (address, line) in [(node.address, TLS_CLIENT), (node.peer_address, TLS_PEER)] {
        let refused = Connection::tls(address, SHORT, certificates.admin());
        assert!(refused.is_err(), "{refused:?}");
        wait_lines(&cluster, 1, line, 1);
    }
}

#[test]
fn a_backup_says_which_side_lacks_tls() {
    let mut cluster = Cluster::start_secure(1, &[]);
    let address = cluster.address(1);
    let admin = certificates(&cluster).of_client("admin");
    let back_up = |cluster: &Cluster, arguments: &[&str]| {
        let url = format!("https://{address}");
        let ended = run_to_end(
            daemon(cluster.path())
                .args(["backup", &url, "copy"])
                .args(arguments),
        );
        assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{ended:?}");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        ended.stderr
    };
    let said = back_up(&cluster, &[]);
    let needed = format!(
        "raftkvd: no backup: https://{address}: this member speaks TLS only; give --tls DIR, for example --tls certs/admin\n"
    );
    assert_eq!(said, needed);
    cluster.node(1).kill();
    cluster.node(1).remove_flag("--tls");
    http::secure(address, None);
    cluster.start_all();
    let said = back_up(&cluster, &["--tls", &admin.display().to_string()]);
    assert!(said.contains(NO_TLS), "{said}");
    wait_lines(&cluster, 1, TLS_CLIENT, 1);
}

#[test]
fn a_joiner_says_which_side_lacks_tls() {
    let mut cluster = Cluster::start_secure(1, &[]);
    cluster.lay_out_alone(2, &[1]);
    cluster.node(2).remove_flag("--tls");
    cluster.node(2).start();
    wait_line(&cluster, 2, ANSWER);
    wait_line(&cluster, 1, PLAINTEXT);
    cluster.node(2).kill();
    cluster.node(1).kill();
    // The other way round.
    cluster.node(1).remove_flag("--tls");
    cluster.secure_node(2);
    http::secure(cluster.address(1), None);
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.node(2).start();
    wait_line(&cluster, 2, NO_TLS);
    wait_line(&cluster, 1, TLS_CLIENT);
}

#[test]
fn a_member_with_tls_beside_two_without_is_named_at_both_ends() {
    let mut cluster = Cluster::start(3);
    cluster.put(1, "a", "b");
    cluster.node(3).kill();
    let urls: Vec<String> = cluster.nodes.values().map(|node| node.url()).collect();
    cluster.certificates = Some(Certificates::make(cluster.path(), &urls));
    cluster.secure_node(3);
    cluster.node(3).start();
    for id in [1, 2] {
        wait_line(&cluster, id, TLS_PEER);
        // The error of its own attempts to dial.
        wait_line(&cluster, id, ANSWER);
    }
    wait_line(&cluster, 3, PLAINTEXT);
    wait_line(&cluster, 3, NO_TLS);
    cluster.put(1, "a", "c");
    eventually("the lines do not go on without end", PATIENCE, || {
        let said = cluster.nodes[&3].last_log();
        require(lines_with(&said, NO_TLS) <= 4, || said)
    });
    cluster.node(3).kill();
    cluster.node(3).remove_flag("--tls");
    http::secure(cluster.address(3), None);
    cluster.start_all();
    cluster.assert_value(3, "a", "c");
}
