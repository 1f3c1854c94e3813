//! Certificates that are refused on the two ports, and handshakes that never end.

use super::{SHORT, ask, certificates, lines_with, metric, wait_line, wait_lines};
use crate::certificates::{client, client_config, expired, future, validity};
use crate::forgeries::{Claims, claim, cluster_id, incarnation_of};
use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::Connection;
use raftkvd::certificates::{Order, Subject, ca};
use rustls::ClientConfig;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Claims of member 3 to member 1 that are true.
fn claims(cluster: &Cluster) -> Claims {
    Claims {
        cluster: cluster_id(cluster),
        from: 3,
        to: 1,
        bound: 0,
        receiver: incarnation_of(cluster, 1),
    }
}

/// The reason with which the peer port refuses a certificate, and the certificate.
fn bad_peers(cluster: &Cluster) -> Vec<(String, Arc<ClientConfig>)> {
    let certificates = certificates(cluster);
    let member = Order::member(3, []);
    let other_tag = ca::new_tag().expect("a tag");
    let by = |directory: &std::path::Path| client_config(directory, Some("member"));
    let client_of = certificates.issue(&client("ops"), validity(9));
    vec![
        (
            "its certificate is not accepted: it expired on ".to_owned(),
            by(&certificates.issue(&member, expired())),
        ),
        (
            "its certificate is not accepted: it is valid from ".to_owned(),
            by(&certificates.issue(&member, future())),
        ),
        (
            "its certificate is not accepted: no CA in ca.pem has signed it".to_owned(),
            by(&certificates.forge(&member)),
        ),
        (
            format!(
                "its certificate is not accepted: the certificate belongs to another cluster: its tag is {other_tag}, and the tag of this cluster is {}",
                certificates.tag()
            ),
            by(&certificates.issue_with_tag(other_tag, Subject::Member(3))),
        ),
        (
            "its certificate is not accepted: it is the certificate of a client, and only members are accepted here".to_owned(),
            client_config(&client_of, Some("client")),
        ),
        (
            "it has no certificate, and this port needs that of a member".to_owned(),
            certificates.nobody(),
        ),
    ]
}

#[test]
fn the_peer_port_refuses_each_bad_certificate_with_one_line() {
    let cluster = Cluster::start_secure(3, &[]);
    let address = cluster.nodes[&1].peer_address;
    let claims = claims(&cluster);
    let term = cluster.nodes[&1].status().expect("a status").term;
    let series = "raftkvd_tls_handshakes_failed_total{port=\"peer\"}";
    for (number, (why, config)) in (1..).zip(bad_peers(&cluster)) {
        let answer = Connection::tls(address, SHORT, config)
            .and_then(|mut connection| claim(&mut connection, claims, "control"));
        assert!(answer.is_err(), "{why}: {answer:?}");
        wait_lines(&cluster, 1, &why, 1);
        wait_lines(&cluster, 1, "refused a peer's connection", number);
        assert_eq!(metric(&cluster, 1, series), number as u64, "{why}");
    }
    // The certificate is valid, and the claim is that of another member.
    let other = certificates(&cluster).member(2);
    let mut connection = Connection::tls(address, SHORT, other).expect("a handshake");
    let answer = claim(&mut connection, claims, "control").expect("an answer");
    assert_eq!(answer.status, 403, "{answer:?}");
    let why = "the certificate is not that of the member that this peer claims to be";
    assert_eq!(answer.text().trim_end(), why);
    wait_lines(&cluster, 1, why, 1);
    for id in 1..=3 {
        cluster.put(id, "undisturbed", id.to_string());
    }
    assert_eq!(cluster.nodes[&1].status().expect("a status").term, term);
}

#[test]
fn the_client_port_refuses_each_bad_certificate_with_one_line() {
    let cluster = Cluster::start_secure(1, &[]);
    let certificates = certificates(&cluster);
    let order = client("ops");
    let other_tag = ca::new_tag().expect("a tag");
    let by = |directory: &std::path::Path| client_config(directory, Some("client"));
    let bad = [
        ("it expired on ", certificates.issue(&order, expired())),
        ("it is valid from ", certificates.issue(&order, future())),
        ("no CA in ca.pem has signed it", certificates.forge(&order)),
        (
            "the certificate belongs to another cluster: its tag is ",
            certificates.issue_with_tag(other_tag, order.subject.clone()),
        ),
    ];
    for (number, (why, directory)) in (1..).zip(bad) {
        let answer = ask(cluster.address(1), &by(&directory), "GET", "/a", b"");
        assert!(answer.is_err(), "{why}: {answer:?}");
        wait_lines(
            &cluster,
            1,
            &format!("its certificate is not accepted: {why}"),
            1,
        );
        wait_lines(&cluster, 1, "refused a client's connection", number);
    }
    let series = "raftkvd_tls_handshakes_failed_total{port=\"client\"}";
    assert_eq!(metric(&cluster, 1, series), 4);
}

/// A member of another CA, or with the files of another cluster, is refused by the members that it dials, and refuses
/// them.
#[test]
fn a_member_with_the_files_of_another_ca_stays_out_and_says_why() {
    let mut cluster = Cluster::start_secure(3, &[]);
    cluster.node(3).kill();
    let files = certificates(&cluster).forge(&Order::member(3, []));
    // Its own CA is in its ca.pem, so that it starts.
    let other = crate::certificates::Certificates::make(&files, &[]);
    other.add_member(3);
    let directory = other.of_member(3).display().to_string();
    cluster.node(3).set_flag("--tls", &directory);
    cluster.node(3).start();
    wait_line(
        &cluster,
        1,
        "its certificate is not accepted: no CA in ca.pem has signed it",
    );
    wait_line(&cluster, 3, "no CA in ca.pem has signed it");
    cluster.put(1, "a", "of two");
    cluster.node(3).kill();
    cluster.secure_node(3);
    cluster.start_all();
    cluster.assert_value(3, "a", "of two");
}

/// The start of a ClientHello without its rest.
const HALF: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7];

fn half(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("connect");
    socket.write_all(bytes).expect("send");
    socket
}

#[test]
fn half_handshakes_end_and_are_counted() {
    let cluster = Cluster::start_secure(1, &[]);
    let node = &cluster.nodes[&1];
    // A probe that only connects is no handshake.
    drop(TcpStream::connect(node.address).expect("connect"));
    let mut open = Vec::new();
    let begun = Instant::now();
    for address in [node.address, node.peer_address] {
        open.extend([half(address, b""), half(address, HALF)]);
    }
    for mut socket in open {
        socket.set_read_timeout(Some(SHORT)).expect("set a time");
        let end = socket.read(&mut [0; 16]);
        // By a close or by a reset.
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        let kind = end.err().map(|error| error.kind());
        assert!(
            kind != Some(std::io::ErrorKind::WouldBlock),
            "it stays open"
        );
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(4) && took < SHORT, "{took:?}");
    for port in ["client", "peer"] {
        let series = format!("raftkvd_tls_handshakes_failed_total{{port=\"{port}\"}}");
        eventually("both are counted", PATIENCE, || {
            let count = metric(&cluster, 1, &series);
            require(count == 2, || format!("{port}: {count}"))
        });
    }
    let said = cluster.nodes[&1].last_log();
    assert_eq!(
        lines_with(&said, "it did not complete the TLS handshake in time"),
        4,
        "{said}"
    );
}

#[test]
fn a_thousand_half_handshakes_keep_nobody_out() {
    let mut cluster = Cluster::start_secure(3, &[]);
    let node = &cluster.nodes[&1];
    let mut open = Vec::new();
    for address in [node.address, node.peer_address] {
        for number in 0..1_000 {
            open.push(half(address, if number % 2 == 0 { HALF } else { b"" }));
        }
    }
    let begun = Instant::now();
    cluster.put(1, "a", "b");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "a client waits {took:?}");
    cluster.node(2).kill();
    let begun = Instant::now();
    cluster.start_all();
    cluster.assert_value(2, "a", "b");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "a member waits {took:?}");
    drop(open);
    cluster.put(2, "a", "c");
    cluster.assert_value(1, "a", "c");
}
