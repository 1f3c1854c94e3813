//! What each certificate allows, and what is allowed without one.

use super::{ask, certificates, status_and_code};
use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::Connection;

#[test]
fn the_certificate_of_a_member_may_add_that_member_and_nothing_else() {
    let mut cluster = Cluster::start_secure(1, &[]);
    cluster.lay_out_alone(4, &[1]);
    cluster.lay_out_alone(5, &[1]);
    let (address, member) = (cluster.address(1), certificates(&cluster).member(4));
    let urls = [4, 5].map(|id| cluster.nodes[&id].url());
    let join = |id: u64| {
        format!(
            "{{\"id\":\"{id}\",\"addr\":\"{}\"}}",
            cluster.nodes[&id].url()
        )
    };
    for (method, path, body) in [
        ("POST", "/-/members/5", &*urls[1]),
        ("POST", "/5", &*urls[1]),
        ("POST", "/join", &*join(5)),
        ("PUT", "/-/members/4", &*urls[0]),
        ("DELETE", "/-/members/1", ""),
        ("DELETE", "/-/members/4", ""),
        ("DELETE", "/4", ""),
        ("PUT", "/a", "x"),
        ("GET", "/a", ""),
        ("POST", "/key", "{\"a\":\"b\"}"),
        ("GET", "/-/members", ""),
        ("GET", "/-/metrics", ""),
        ("GET", "/-/snapshot", ""),
        ("GET", "/-/nothing", ""),
        ("OPTIONS", "*", ""),
    ] {
        let answer = ask(address, &member, method, path, body.as_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let refused = (403, "not-allowed".to_owned());
        assert_eq!(
            status_and_code(&answer),
            refused,
            "{method} {path}: {answer:?}"
        );
        assert!(
            answer.text().contains(
                "the certificate of member 4 allows only the addition of member 4; use that of a client"
            ),
            "{answer:?}"
        );
    }
    assert_eq!(cluster.get(1, "a"), None);
    for path in ["/-/live", "/-/ready", "/-/status"] {
        let answer = ask(address, &member, "GET", path, b"").expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let added = ask(address, &member, "POST", "/-/members/4", urls[0].as_bytes());
    assert_eq!(added.expect("an answer").status, 204);
    let status = cluster.nodes[&1].status().expect("a status");
    let ids: Vec<u64> = status.members.iter().map(|member| member.id).collect();
    assert_eq!(ids, [1, 4]);
}

#[test]
fn without_a_certificate_there_are_only_the_probes() {
    let cluster = Cluster::start_secure(1, &[]);
    let (address, nobody) = (cluster.address(1), certificates(&cluster).nobody());
    for path in ["/-/live", "/-/ready"] {
        for method in ["GET", "HEAD"] {
            let answer = ask(address, &nobody, method, path, b"").expect("an answer");
            assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        }
    }
    for (method, path, body) in [
        ("GET", "/a", ""),
        ("PUT", "/a", "x"),
        ("DELETE", "/a", ""),
        ("GET", "/", ""),
        ("GET", "/-/nothing", ""),
        ("GET", "/-/status", ""),
        ("GET", "/%2D/status", ""),
        ("GET", "/%2d/%73tatus", ""),
        ("GET", "/-/live/x", ""),
        ("GET", "/-/live%2F", ""),
        ("POST", "/-/live", ""),
        ("PUT", "/-/ready", "x"),
        ("DELETE", "/-/live", ""),
        ("GET", "/-/members", ""),
        ("GET", "/-/metrics", ""),
        ("GET", "/-/kv", ""),
        ("GET", "/-/watch", ""),
        ("GET", "/-/hash", ""),
        ("GET", "/-/snapshot", ""),
        ("GET", "/-/", ""),
        ("POST", "/-/txn", "{}"),
        ("POST", "/-/leader", "1"),
        ("POST", "/2", "http://127.0.0.1:1"),
        ("DELETE", "/1", ""),
        ("POST", "/join", "{}"),
        ("POST", "/key", "{\"a\":\"b\"}"),
        ("GET", "/key/a", ""),
        ("OPTIONS", "*", ""),
        ("OPTIONS", "/-/live", ""),
        ("TRACE", "/a", ""),
        ("FOO", "/-/live", ""),
        ("CONNECT", "localhost:1", ""),
    ] {
        let answer = ask(address, &nobody, method, path, body.as_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let refused = (403, "no-certificate".to_owned());
        assert_eq!(
            status_and_code(&answer),
            refused,
            "{method} {path}: {answer:?}"
        );
        assert!(answer.header("allow").is_none(), "{answer:?}");
    }
    for path in ["/a", "/-/status", "/-/members"] {
        let answer = ask(address, &nobody, "HEAD", path, b"").expect("an answer");
        assert_eq!(answer.status, 403, "HEAD {path}: {answer:?}");
    }
    assert_eq!(cluster.get(1, "a"), None);
    let plain = Connection::tls(address, super::SHORT, nobody);
    let plain = plain.and_then(|mut connection| connection.send("GET", "/a", &[], b""));
    let line = "this request needs the certificate of a client: curl --cacert ca.pem --cert client.pem --key client.key";
    assert_eq!(plain.expect("an answer").text().trim_end(), line);
}

#[test]
fn a_stranger_does_not_learn_for_whom_a_member_waits() {
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.secure();
    cluster.node(1).start();
    let address = cluster.address(1);
    let (admin, nobody) = (
        certificates(&cluster).admin(),
        certificates(&cluster).nobody(),
    );
    let ready = |config| ask(address, config, "GET", "/-/ready", b"");
    let url = cluster.nodes[&2].url();
    eventually("member 1 waits for member 2", PATIENCE, || {
        let answer = ready(&admin).map_err(|error| error.to_string())?;
        let names = answer.text().contains(&url);
        require(names, || format!("no {url} in {answer:?}"))
    });
    let (to_admin, to_nobody) = (ready(&admin).unwrap(), ready(&nobody).unwrap());
    assert_eq!(status_and_code(&to_nobody), status_and_code(&to_admin));
    let text = to_nobody.text();
    let line = "not ready: the reason is in the log, and for clients with a certificate";
    assert!(text.contains(line), "{text}");
    for member in [1, 2, 3] {
        let url = cluster.nodes[&member].url();
        assert!(!text.contains(&url), "{text}");
    }
}

#[test]
fn an_administrator_may_do_everything() {
    let mut cluster = Cluster::start_secure(1, &[]);
    certificates(&cluster).run(&["client", "ops"]);
    let ops = certificates(&cluster).of_client("ops");
    let ops = crate::certificates::client_config(&ops, Some("client"));
    cluster.lay_out_alone(4, &[1]);
    let url = cluster.nodes[&4].url();
    let address = cluster.address(1);
    for (method, path, body, status) in [
        ("PUT", "/a", "x", 204),
        ("GET", "/a", "", 200),
        ("POST", "/key", "{\"b\":\"c\"}", 200),
        ("GET", "/-/status", "", 200),
        ("GET", "/-/members", "", 200),
        ("GET", "/-/metrics", "", 200),
        ("GET", "/-/snapshot", "", 200),
        ("POST", "/-/members/4", &*url, 204),
        ("DELETE", "/-/members/4", "", 204),
        ("GET", "/-/nothing", "", 404),
    ] {
        let answer = ask(address, &ops, method, path, body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
}
