//! Files that change while a member runs.

use super::{SHORT, ask, certificates, lines_with, metric, status_and_code, wait_line, wait_lines};
use crate::certificates::{client, client_config, validity};
use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::Connection;
use raftkvd::certificates::Validity;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

const NOT_AFTER: &str = "raftkvd_tls_certificate_not_after_seconds";
const READ_AGAIN: &str = "read the certificates again";
const KEPT: &str = "can't use the changed certificates; the earlier certificates stay in use";

/// Replaces a file by a rename, so that a member sees the old content or the new one and no part.
fn replace(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    let next = path.with_extension("next");
    fs::write(&next, content).expect("write a file");
    fs::rename(&next, path).expect("rename a file");
}

/// Days until the end of the certificate that the metric of the member shows, rounded.
fn days_left(cluster: &Cluster, id: u64) -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a time past 1970");
    let left = metric(cluster, id, NOT_AFTER) - now.as_secs();
    (left + 43_200) / 86_400
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart_and_a_signal_reads_it_at_once() {
    let cluster = Cluster::start_secure(1, &[]);
    assert_eq!(days_left(&cluster, 1), 90);
    let mut before = Connection::open(cluster.address(1)).expect("connect");
    certificates(&cluster).run(&["renew", "--days", "80"]);
    eventually(
        "the new certificate is used",
        Duration::from_secs(5),
        || {
            let days = days_left(&cluster, 1);
            require(days == 80, || format!("{days}"))
        },
    );
    wait_lines(&cluster, 1, READ_AGAIN, 1);
    // A connection from before the change continues.
    assert_eq!(
        before
            .send("PUT", "/a", &[], b"b")
            .expect("an answer")
            .status,
        204
    );
    // The signal reads the files also if nothing has changed.
    cluster.nodes[&1].signal(Signal::HUP);
    wait_lines(&cluster, 1, READ_AGAIN, 2);
    assert_eq!(
        before
            .send("PUT", "/a", &[], b"c")
            .expect("an answer")
            .status,
        204
    );
}

#[test]
fn a_bad_file_keeps_what_was_there_and_is_logged_and_counted() {
    let cluster = Cluster::start_secure(1, &[]);
    let series = "raftkvd_tls_reloads_failed_total";
    let directory = certificates(&cluster).of_member(1);
    for (number, file) in (1..).zip(["member.pem", "ca.pem", "member.key"]) {
        let good = fs::read(directory.join(file)).expect("read a file");
        replace(directory.join(file), "garbage");
        eventually("it is counted", PATIENCE, || {
            let count = metric(&cluster, 1, series);
            require(count == number, || format!("{count}"))
        });
        let said = cluster.nodes[&1].last_log();
        assert_eq!(lines_with(&said, KEPT) as u64, number, "{said}");
        cluster.put(1, "a", file);
        replace(directory.join(file), good);
        wait_lines(&cluster, 1, READ_AGAIN, number as usize);
    }
    // A directory that is missing for a moment does not end the member either.
    let away = directory.with_extension("away");
    fs::rename(&directory, &away).expect("rename the directory");
    wait_lines(&cluster, 1, KEPT, 4);
    cluster.put(1, "a", "b");
    fs::rename(&away, &directory).expect("rename the directory");
    wait_lines(&cluster, 1, READ_AGAIN, 4);
}

#[test]
fn a_revoked_client_is_refused_on_its_live_connection_and_on_new_ones() {
    let cluster = Cluster::start_secure(1, &[]);
    let certificates = certificates(&cluster);
    certificates.run(&["client", "ops"]);
    let ops = certificates.of_client("ops");
    let config = client_config(&ops, Some("client"));
    let address = cluster.address(1);
    let mut live = Connection::tls(address, SHORT, config.clone()).expect("connect");
    assert_eq!(
        live.send("PUT", "/a", &[], b"b").expect("an answer").status,
        204
    );
    let list = certificates.of_member(1).join("revoked");
    replace(&list, format!("{}\n", certificates.fingerprint(&ops)));
    wait_line(&cluster, 1, READ_AGAIN);
    let accept = [("Accept", "application/json")];
    let answer = live.send("PUT", "/a", &accept, b"c").expect("an answer");
    assert_eq!(status_and_code(&answer), (403, "not-allowed".to_owned()));
    let line = "the key of this certificate is revoked; make a certificate with a new key";
    assert!(answer.text().contains(line), "{answer:?}");
    let refused = ask(address, &config, "GET", "/a", b"");
    assert!(refused.is_err(), "{refused:?}");
    wait_lines(
        &cluster,
        1,
        "its certificate is not accepted: its key is revoked",
        1,
    );
    cluster.assert_value(1, "a", "b");
    fs::remove_file(&list).expect("remove the list");
    wait_lines(&cluster, 1, READ_AGAIN, 2);
    wait_lines(&cluster, 1, "fewer keys are revoked than before", 1);
    let answer = ask(address, &config, "GET", "/a", b"").expect("an answer");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_connection_is_refused_when_its_certificate_has_ended() {
    let cluster = Cluster::start_secure(1, &[]);
    let now = SystemTime::now();
    let soon = Validity {
        not_before: now - Duration::from_secs(60),
        not_after: now + Duration::from_secs(8),
    };
    let ops = certificates(&cluster).issue(&client("ops"), soon);
    let config = client_config(&ops, Some("client"));
    let mut live = Connection::tls(cluster.address(1), SHORT, config).expect("connect");
    let accept = [("Accept", "application/json")];
    let put = live.send("PUT", "/a", &accept, b"b").expect("an answer");
    assert_eq!(put.status, 204, "{put:?}");
    eventually("the client is refused", PATIENCE, || {
        let put = live.send("PUT", "/a", &accept, b"b").expect("an answer");
        require(put.status != 204, || format!("{put:?}"))?;
        assert_eq!(status_and_code(&put), (403, "not-allowed".to_owned()));
        assert!(put.text().contains("it has expired"), "{put:?}");
        assert_eq!(put.header("connection"), Some("close"));
        Ok(())
    });
}

/// All members may share one list, also after one of them got a new key.
#[test]
fn a_list_that_names_the_member_itself_still_revokes_the_others() {
    let cluster = Cluster::start_secure(1, &[]);
    let certificates = certificates(&cluster);
    certificates.run(&["client", "ops"]);
    let ops = certificates.of_client("ops");
    let config = client_config(&ops, Some("client"));
    let address = cluster.address(1);
    let mut live = Connection::tls(address, SHORT, config.clone()).expect("connect");
    let put = live.send("PUT", "/a", &[], b"b").expect("an answer");
    assert_eq!(put.status, 204);
    let directory = certificates.of_member(1);
    let keys = [&directory, &ops].map(|of| certificates.fingerprint(of).to_string());
    replace(directory.join("revoked"), keys.join("\n"));
    wait_line(&cluster, 1, KEPT);
    wait_line(&cluster, 1, "revoked the keys in the file revoked");
    let accept = [("Accept", "application/json")];
    let answer = live.send("PUT", "/a", &accept, b"c").expect("an answer");
    assert_eq!(status_and_code(&answer), (403, "not-allowed".to_owned()));
    let refused = ask(address, &config, "GET", "/a", b"");
    assert!(refused.is_err(), "{refused:?}");
    cluster.assert_value(1, "a", "b");
    assert_eq!(metric(&cluster, 1, "raftkvd_tls_reloads_failed_total"), 1);
}

#[test]
fn the_watch_of_a_revoked_client_ends() {
    let cluster = Cluster::start_secure(1, &[]);
    let certificates = certificates(&cluster);
    certificates.run(&["client", "ops"]);
    let ops = certificates.of_client("ops");
    let config = client_config(&ops, Some("client"));
    let mut watch = Connection::tls(cluster.address(1), SHORT, config).expect("connect");
    let request = b"GET /-/watch HTTP/1.1\r\nHost: localhost\r\n\r\n";
    watch.write(request).expect("send");
    assert_eq!(watch.head().expect("a head").status, 200);
    cluster.put(1, "seen", "x");
    let mut seen = String::new();
    while !seen.contains("seen") {
        let chunk = watch.chunk().expect("an event").expect("no end");
        seen += &String::from_utf8_lossy(&chunk);
    }
    let list = certificates.of_member(1).join("revoked");
    replace(&list, format!("{}\n", certificates.fingerprint(&ops)));
    wait_line(&cluster, 1, READ_AGAIN);
    cluster.put(1, "hidden", "x");
    let mut rest = String::new();
    while let Ok(Some(chunk)) = watch.chunk() {
        rest += &String::from_utf8_lossy(&chunk);
        assert!(!rest.contains("hidden"), "a revoked client hears: {rest}");
    }
}

#[test]
fn the_streams_of_a_revoked_member_end_and_come_back() {
    let cluster = Cluster::start_secure(3, &["--request-timeout", "2s"]);
    let certificates = certificates(&cluster);
    let print = certificates.fingerprint(&certificates.of_member(3));
    let lists = [1, 2].map(|id| certificates.of_member(id).join("revoked"));
    for list in &lists {
        replace(list, format!("{print}\n"));
    }
    for id in [1, 2] {
        wait_line(&cluster, id, READ_AGAIN);
    }
    wait_line(&cluster, 3, "the key of our certificate is revoked there");
    eventually("member 3 knows no leader", PATIENCE, || {
        let status = cluster.nodes[&3].status()?;
        require(status.leader == 0 || status.leader == 3, || {
            format!("{status:?}")
        })
    });
    let refused = cluster.send(3, "PUT", "/a", &[], b"x");
    assert!(matches!(refused.status, 503 | 504), "{refused:?}");
    eventually("two of three serve", PATIENCE, || {
        let put = cluster.send(1, "PUT", "/a", &[], b"b");
        require(put.status == 204, || format!("{put:?}"))
    });
    for list in &lists {
        fs::remove_file(list).expect("remove the list");
    }
    eventually("member 3 is back", PATIENCE, || {
        let got = cluster.send(3, "GET", "/a", &[], b"");
        require(got.status == 200 && got.body == b"b", || format!("{got:?}"))
    });
}

#[test]
fn the_end_of_a_certificate_is_logged_from_30_days_before() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.secure();
    let warning = "the certificate of this member ends soon; renew it with `raftkvd cert renew` where the CA is, and copy it here";
    let directory = certificates(&cluster).of_member(1);
    certificates(&cluster).reissue(&directory, validity(20));
    cluster.start_all();
    wait_lines(&cluster, 1, warning, 1);
    assert_eq!(days_left(&cluster, 1), 20);
    certificates(&cluster).reissue(&directory, validity(31));
    wait_line(&cluster, 1, READ_AGAIN);
    assert_eq!(days_left(&cluster, 1), 31);
    assert_eq!(lines_with(&cluster.nodes[&1].last_log(), warning), 1);
    certificates(&cluster).reissue(&directory, validity(29));
    wait_lines(&cluster, 1, warning, 2);
}
