//! Requests that end in another way than a plain success.

use super::*;

fn quick() -> Limits {
    Limits {
        request_timeout: Duration::from_millis(300),
        ..limits()
    }
}

const REQUESTS: [(&str, &str, &[u8]); 4] = [
    ("PUT", "/a", b"1"),
    ("DELETE", "/a", b""),
    ("POST", "/-/members/4", b"http://h:1"),
    ("DELETE", "/-/members/4", b""),
];

/// An addition is proposed only when the member has caught up.
fn proposes_at_once((method, ..): &(&str, &str, &[u8])) -> bool {
    *method != "POST"
}

#[test]
fn what_was_not_proposed_is_503_and_says_so() {
    let cluster = Cluster::start();
    for why in [
        NotProposed::NoLeader,
        NotProposed::NoQuorum,
        NotProposed::QueueFull,
        NotProposed::Stopping,
    ] {
        cluster.set(Mode::Refuse(why));
        for (method, target, body) in REQUESTS.into_iter().chain([("GET", "/a", &b""[..])]) {
            let refused = cluster.send(method, target, &[], body);
            assert_eq!(refused.status, 503, "{method} {target}");
            assert_eq!(refused.header("retry-after"), Some("1"));
            assert_eq!(refused.header("x-raftkvd-outcome"), Some("none"));
            assert!(refused.text().contains(&why.to_string()));
            assert!(refused.text().starts_with("not "));
        }
        assert_eq!(cluster.get("/a?consistency=stale").status, 404);
        let ready = cluster.get("/-/ready");
        assert_eq!(ready.status, 503);
        assert!(ready.text().starts_with("not ready: "));
        assert_eq!(cluster.get("/-/live").status, 200);
    }
}

#[test]
fn a_dropped_reply_is_unknown() {
    let cluster = Cluster::start();
    cluster.set(Mode::Drop);
    for (method, target, body) in REQUESTS.into_iter().filter(proposes_at_once) {
        let unknown = cluster.send(method, target, &[], body);
        assert_eq!(unknown.status, 504, "{method} {target}");
        assert_eq!(unknown.header("x-raftkvd-outcome"), Some("unknown"));
        assert_eq!(unknown.header("retry-after"), None);
        assert!(unknown.text().contains("may or may not"));
    }
    assert_eq!(cluster.get("/a").status, 503);
    assert_eq!(cluster.get("/-/status").status, 503);
}

#[test]
fn a_loop_that_is_stuck_does_not_keep_requests_beyond_their_deadline() {
    let cluster = Cluster::with(quick());
    cluster.put("/a", b"1");
    cluster.set(Mode::Silent);
    let began = StdInstant::now();
    for (method, target, body) in REQUESTS.into_iter().filter(proposes_at_once) {
        let unknown = cluster.send(method, target, &[], body);
        assert_eq!(unknown.status, 504, "{method} {target}");
        assert_eq!(unknown.header("x-raftkvd-outcome"), Some("unknown"));
    }
    let addition = cluster.send("POST", "/-/members/4", &[], b"http://h:1");
    for unread in [cluster.get("/a"), addition] {
        let outcome = unread.header("x-raftkvd-outcome");
        assert_eq!((unread.status, outcome), (503, Some("none")));
    }
    assert_eq!(cluster.get("/a?consistency=stale").body, b"1");
    for target in ["/-/status", "/-/hash", "/-/live", "/-/ready"] {
        let stuck = cluster.get(target);
        assert_eq!(stuck.status, 503);
        assert!(!stuck.text().is_empty());
    }
    assert!(began.elapsed() > Duration::from_millis(8 * 300));
    // The scripted loop asserts that the questions that timed out left one question behind, not several.
    cluster.set(Mode::Serve);
    assert_eq!(cluster.get("/-/status").status, 200);
    assert_eq!(cluster.get("/-/live").status, 200);
}

#[test]
fn the_hash_tells_maps_apart_and_names_its_index() {
    let cluster = Cluster::start();
    let hash = || {
        let response = cluster.get("/-/hash");
        assert_eq!(response.status, 200);
        let json: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        let hash = json["hash"].as_str().unwrap().to_owned();
        assert!(hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        (json["index"].as_u64().unwrap(), hash)
    };
    let before = hash();
    assert_eq!(before, hash());
    cluster.put("/a", b"1");
    let after = hash();
    assert!(after.0 > before.0 && after.1 != before.1, "{after:?}");
    let refused = cluster.put("/-/hash", b"x");
    assert_eq!(refused.status, 403);
    assert_eq!(cluster.get("/-/hash?x=1").status, 400);
}

#[test]
fn the_node_gives_up_two_ticks_before_the_api_does() {
    let cluster = Cluster::with(Limits {
        request_timeout: Duration::from_secs(2),
        ..limits()
    });
    cluster.put("/a", b"1");
    cluster.get("/a");
    for ticks in cluster.deadlines.lock().unwrap().drain(..) {
        // 2 s are 100 ticks of 20 ms, and some time passes before the question.
        assert!((50..=98).contains(&ticks), "{ticks}");
    }
    let short = Cluster::with(Limits {
        request_timeout: Duration::from_millis(30),
        ..limits()
    });
    short.put("/a", b"1");
    assert_eq!(*short.deadlines.lock().unwrap(), [1]);
}

#[test]
fn bodies_that_exceed_the_common_budget_are_refused_and_give_it_back() {
    let cluster = Cluster::with(Limits {
        body_bytes_max: 100,
        ..limits()
    });
    let full = cluster.put("/a", &[b'x'; 101]);
    assert_eq!((full.status, full.header("retry-after")), (503, Some("1")));
    assert!(full.text().contains("too many"));
    // One body takes most of the budget and waits for its outcome.
    cluster.set(Mode::Silent);
    let mut waiting = cluster.connect();
    waiting.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n");
    waiting.write(&[b'x'; 90]);
    eventually("the write is with the node", || {
        !cluster.deadlines.lock().unwrap().is_empty()
    });
    assert_eq!(cluster.put("/b", &[b'x'; 11]).status, 503);
    cluster.set(Mode::Serve);
    assert_eq!(cluster.put("/b", &[b'x'; 10]).status, 204);
    assert_eq!(waiting.receive("PUT").status, 504);
    eventually("the share is given back", || {
        cluster.put("/c", &[b'x'; 100]).status == 204
    });
}

#[test]
fn while_the_snapshot_loads_live_is_200_and_all_else_says_how_far_it_is() {
    let replay = Arc::new(Replay::new());
    let cluster = Cluster::replaying(limits(), Arc::clone(&replay));
    replay.loaded(431, 1_000);
    let live = cluster.get("/-/live");
    assert_eq!((live.status, live.text()), (200, "live"));
    // A local read is refused too, because there is no map to read.
    let others = [
        cluster.get("/-/ready"),
        cluster.get("/-/status"),
        cluster.get("/-/hash"),
        cluster.get("/some?consistency=stale"),
        cluster.put("/some", b"value"),
        cluster.send("DELETE", "/some", &[], b""),
        cluster.send("POST", "/2", &[], b"http://127.0.0.1:1"),
    ];
    for response in others {
        let line = "not ready: replaying 43 % of the snapshot; try again";
        assert_eq!((response.status, response.text()), (503, line));
        assert_eq!(response.header("retry-after"), Some("1"));
        assert_eq!(response.header("x-raftkvd-outcome"), Some("none"));
    }
    assert!(
        cluster.deadlines.lock().unwrap().is_empty(),
        "the loop was asked"
    );

    replay.begin_log(10, 110, &Logger::root(slog::Discard, slog::o!()));
    replay.applied(53);
    let ready = cluster.get("/-/ready");
    let line = "not ready: replaying 43 % of the log";
    assert_eq!((ready.status, ready.text()), (503, line));
    assert_eq!(ready.header("retry-after"), Some("1"));
    // A write that can wait for its turn in the log is served while the log is replayed.
    assert_eq!(cluster.put("/some", b"value").status, 204);
    replay.applied(110);
    assert_eq!(cluster.get("/-/ready").status, 200);
    assert_eq!(cluster.get("/some").body, b"value");
}

#[test]
fn over_the_quota_writes_are_507_and_deletions_make_room() {
    let cluster = Cluster::with(Limits {
        store_bytes_max: 1_000,
        ..limits()
    });
    let full = |response: Response| {
        assert_eq!(response.status, 507, "{response:?}");
        assert_eq!(response.header("x-raftkvd-outcome"), Some("none"));
        assert_eq!(response.header("retry-after"), None);
        let text = response.text();
        assert!(text.contains("--max-store-bytes 1000;"), "{text}");
        assert_eq!(text.lines().count(), 1);
    };
    // Keys count: three entries of 1 + 332 bytes are 999 bytes, and 1,000 are allowed.
    for key in ["/a", "/b", "/c"] {
        assert_eq!(cluster.put(key, &[7; 332]).status, 204);
    }
    full(cluster.put("/d", b"x"));
    assert_eq!(cluster.put("/d", b"").status, 204);
    full(cluster.put("/e", b""));
    // A write that replaces a value is refused too, because the size of the old value is not deducted.
    full(cluster.put("/a", &[8; 332]));
    assert_eq!(cluster.get("/a").body, [7; 332]);
    assert_eq!(cluster.get("/e").status, 404);
    assert_eq!(cluster.send("DELETE", "/b", &[], b"").status, 204);
    assert_eq!(cluster.put("/b", &[9; 332]).status, 204);
    full(cluster.put("/e", b""));
}

#[test]
fn what_is_on_its_way_counts_towards_the_quota() {
    let cluster = Cluster::with(Limits {
        store_bytes_max: 1_000,
        request_timeout: Duration::from_secs(1),
        ..limits()
    });
    cluster.set(Mode::Silent);
    let mut waiting = cluster.connect();
    waiting.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n");
    waiting.write(&[7; 900]);
    eventually("the loop takes it", || {
        !cluster.deadlines.lock().unwrap().is_empty()
    });
    assert_eq!(cluster.put("/b", &[7; 100]).status, 507);
    assert_eq!(waiting.receive("PUT").status, 504);
    // The request was given up, so its room is free.
    cluster.set(Mode::Serve);
    assert_eq!(cluster.put("/b", &[7; 100]).status, 204);
}

#[test]
fn failed_is_not_unknown_for_many_keys_either() {
    let cluster = Cluster::start();
    let txn = r#"{"operations":[{"op":"put","key":"a","value":"1"}]}"#;
    for (mode, status, outcome) in [
        (Mode::Refuse(NotProposed::QueueFull), 503, "none"),
        (Mode::Drop, 504, "unknown"),
    ] {
        cluster.set(mode);
        for (target, body) in [("/-/txn", txn), ("/key", r#"{"a":"1"}"#)] {
            let response = cluster.post(target, body);
            assert_eq!(response.status, status, "{target}");
            assert_eq!(
                response.header("x-raftkvd-outcome"),
                Some(outcome),
                "{target}"
            );
        }
    }
}
