//! Watching: server-sent events, where they start, and how they end.

use super::*;
use crate::channels::status::{Closed, ClosedKind};
use crate::store::history::Changes;
use bytes::Bytes;
use serde_json::json;

/// A response with more events to come.
struct Watching {
    client: Client,
    text: String,
}

impl Cluster {
    /// Opens a watch that must succeed, past the block that states where the watch starts. Returns that index too.
    fn watch(&self, query: &str, headers: &[&str]) -> (Watching, u64) {
        let mut client = self.connect();
        let response = client.send("GET", &format!("/-/watch{query}"), headers, b"");
        assert_eq!(response.status, 200, "{query}");
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        let text = String::new();
        let mut watching = Watching { client, text };
        let first = watching.block().unwrap();
        let id = first
            .strip_prefix("retry: 1000\nid: ")
            .unwrap_or_else(|| panic!("{first:?}"));
        let id = id.parse().unwrap();
        (watching, id)
    }

    /// Writes a key, and returns the ETag of the write.
    fn write(&self, target: &str, value: &[u8]) -> u64 {
        let response = self.put(target, value);
        assert_eq!(response.status, 204, "{target}");
        response.etag().trim_matches('"').parse().unwrap()
    }
}

impl Watching {
    /// The text before the next empty line, or `None` when the response has ended properly.
    fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let length = usize::from_str_radix(&self.client.line(), 16).expect("a chunk");
            let mut chunk = vec![0; length + 2];
            self.client.reader.read_exact(&mut chunk).unwrap();
            assert!(chunk.ends_with(b"\r\n"), "{length}");
            if length == 0 {
                assert_eq!(self.text, "", "the rest of an event");
                return None;
            }
            self.text += std::str::from_utf8(&chunk[..length]).unwrap();
        }
    }

    /// The next event, which must be a change, with its id.
    fn change(&mut self) -> (Value, Option<u64>) {
        let block = self.block().expect("another event");
        let mut lines = block.lines();
        let data = lines.next().and_then(|line| line.strip_prefix("data: "));
        let data = data.unwrap_or_else(|| panic!("{block:?}"));
        let id = lines.next().map(|line| {
            let id = line
                .strip_prefix("id: ")
                .unwrap_or_else(|| panic!("{block:?}"));
            id.parse().unwrap()
        });
        assert_eq!(lines.next(), None, "{block:?}");
        (serde_json::from_str(data).unwrap(), id)
    }
}

fn put(key: &str, index: u64, value: &str) -> Value {
    let etag = index.to_string();
    json!({"op": "put", "index": index, "key": key, "size": value.len(), "etag": etag, "value": value})
}

fn delete(key: &str, index: u64) -> Value {
    json!({"op": "delete", "index": index, "key": key})
}

#[test]
fn changes_are_told_in_order_and_what_changed_nothing_is_not() {
    let cluster = Cluster::start();
    let before = cluster.write("/before", b"x");
    let (mut watching, begin) = cluster.watch("", &[]);
    assert_eq!(begin, before);
    let first = cluster.write("/a%20b", b"line 1\nline \"2\"\r");
    assert_eq!(cluster.send("DELETE", "/absent", &[], b"").status, 204);
    let refused = cluster.send("PUT", "/a%20b", &["If-None-Match: *"], b"refused");
    assert_eq!(refused.status, 412);
    let deleted = cluster.send("DELETE", "/before", &[], b"");
    assert_eq!(deleted.status, 204);
    let binary = cluster.write("/%FF%00", b"\xff\xfe");
    let failed = r#"{"conditions":[{"key":"absent","exists":true}],"operations":[{"op":"put","key":"a","value":"1"}]}"#;
    assert_eq!(
        cluster
            .send("POST", "/-/txn", &[], failed.as_bytes())
            .status,
        412
    );
    let body = r#"{"operations":[{"op":"put","key":"k1","value":"1"},{"op":"delete","key":"absent"},
        {"op":"delete","key":"a b"},{"op":"put","key":"k2","value":""}]}"#;
    let done = cluster.send("POST", "/-/txn", &[], body.as_bytes());
    let done: u64 = done.etag().trim_matches('"').parse().unwrap();

    assert_eq!(
        watching.change(),
        (put("a b", first, "line 1\nline \"2\"\r"), Some(first))
    );
    let (change, id) = watching.change();
    assert_eq!(change, delete("before", id.unwrap()));
    let odd = json!({"op": "put", "index": binary, "key": "%FF%00", "encoded": true, "size": 2,
        "etag": binary.to_string(), "value_base64": "//4="});
    assert_eq!(watching.change(), (odd, Some(binary)));
    // A client that is cut off before the last event gets all events of the entry again, so only the last event has an
    // id.
    assert_eq!(watching.change(), (put("k1", done, "1"), None));
    assert_eq!(watching.change(), (delete("a b", done), None));
    assert_eq!(watching.change(), (put("k2", done, ""), Some(done)));
}

#[test]
fn a_watch_goes_on_behind_the_index_that_it_is_told() {
    let cluster = Cluster::start();
    let first = cluster.write("/a", b"1");
    let second = cluster.write("/b", b"2");
    let third = cluster.write("/a", b"3");
    for after in [1, first, second, third] {
        let query = format!("?after={after}");
        // The position that an EventSource sends when it reconnects takes precedence over the URL.
        let header = format!("Last-Event-ID: {after}");
        for (query, headers) in [(&*query, vec![]), ("?after=1", vec![&*header])] {
            let (mut watching, begin) = cluster.watch(query, &headers);
            assert_eq!(begin, after);
            let all = [
                put("a", first, "1"),
                put("b", second, "2"),
                put("a", third, "3"),
            ];
            for expected in all
                .into_iter()
                .filter(|change| change["index"].as_u64() > Some(after))
            {
                assert_eq!(watching.change().0, expected, "{query}");
            }
        }
    }
    // Changes in memory need no leader. "From now on" needs a leader.
    cluster.set(Mode::Refuse(NotProposed::NoLeader));
    assert_eq!(cluster.watch(&format!("?after={third}"), &[]).1, third);
    assert_eq!(cluster.get("/-/watch").status, 503);
}

#[test]
fn an_index_that_is_gone_is_410_with_the_oldest_and_one_that_never_was_is_400() {
    let cluster = Cluster::start();
    let first = cluster.write("/a", b"1");
    let value = vec![b'x'; HISTORY_BYTES as usize];
    let large = cluster.write("/app/b", &value);
    cluster.write("/a", b"3");
    for after in [0, 1, first] {
        let gone = cluster.get(&format!("/-/watch?after={after}&prefix=app/"));
        assert_eq!(gone.status, 410, "{after}");
        assert_eq!(gone.header("x-raftkvd-oldest"), Some(&*large.to_string()));
        assert!(
            gone.text().contains("GET /-/kv?values=true&prefix=app/"),
            "{}",
            gone.text()
        );
    }
    assert_eq!(cluster.watch(&format!("?after={large}"), &[]).1, large);
    let accept = "Accept: application/json";
    let gone = cluster.send("GET", "/-/watch?after=1", &[accept], b"");
    let problem: Value = serde_json::from_slice(&gone.body).unwrap();
    assert_eq!(
        (&problem["code"], &problem["oldest"]),
        (&json!("compacted"), &json!(large))
    );
    let future = cluster.get("/-/watch?after=1000");
    assert_eq!(future.status, 400);
    assert!(
        future.text().contains("ahead of this cluster"),
        "{}",
        future.text()
    );
    for (query, words) in [
        ("?after=", "an index"),
        ("?after=+1", "an index"),
        ("?after=1&after=2", "twice"),
        ("?prefix=%zz", "percent-encoded"),
        ("?key=a", "accepts prefix and after"),
    ] {
        let refused = cluster.get(&format!("/-/watch{query}"));
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    let odd = cluster.send("GET", "/-/watch", &["Last-Event-ID: seven"], b"");
    assert_eq!(
        (odd.status, odd.text().contains("Last-Event-ID")),
        (400, true)
    );
    assert_eq!(cluster.put("/-/watch", b"").status, 403);
    let head = cluster.send("HEAD", "/-/watch", &[], b"");
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
}

#[test]
fn a_watch_of_a_prefix_is_told_where_it_is() {
    let often = Limits {
        watch_id_interval: Duration::from_millis(50),
        ..limits()
    };
    let cluster = Cluster::with(often);
    let (mut watching, begin) = cluster.watch("?prefix=app/%25", &[]);
    let other = cluster.write("/app/other", b"1");
    let deadline = StdInstant::now() + Duration::from_secs(10);
    let mut told = begin;
    while told < other {
        assert!(StdInstant::now() < deadline);
        let block = watching.block().unwrap();
        told = block.strip_prefix("id: ").unwrap().parse().unwrap();
    }
    let wanted = cluster.write("/app/%25", b"2");
    loop {
        let block = watching.block().unwrap();
        if block.starts_with("data: ") {
            assert!(block.ends_with(&format!("\nid: {wanted}")), "{block:?}");
            break;
        }
        assert_eq!(block, format!("id: {other}"));
    }
}

#[test]
fn much_that_is_not_watched_moves_the_id_along() {
    let cluster = Cluster::start();
    let (mut watching, _) = cluster.watch("?prefix=app/", &[]);
    // The history holds eight of the smaller values and one of the larger values. An id is sent after two smaller
    // values, and after one larger value.
    for (size, at_once) in [(7_000, 2), (100_000, 1)] {
        for _ in 0..10 {
            let written = (0..at_once).map(|_| cluster.write("/other", &vec![b'x'; size]));
            let first = written.min().unwrap();
            loop {
                let block = watching.block().unwrap();
                let id = block.strip_prefix("id: ");
                let id = id.unwrap_or_else(|| panic!("{block:?}"));
                if id.parse::<u64>().unwrap() >= first {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_large_value_is_one_event() {
    let cluster = Cluster::start();
    let (mut watching, _) = cluster.watch("", &[]);
    for byte in ["x", "\u{1}"] {
        let value = byte.repeat(99_999);
        let index = cluster.write("/large", value.as_bytes());
        assert_eq!(
            watching.change(),
            (put("large", index, &value), Some(index))
        );
    }
}

#[test]
fn a_reader_that_falls_behind_is_told_and_cut() {
    let cluster = Cluster::start();
    let (mut watching, begin) = cluster.watch("?prefix=a", &[]);
    // This is more than the sockets hold.
    for _ in 0..300 {
        cluster.write("/a", &[b'x'; 99_999]);
    }
    let mut last = begin.to_string();
    let cut = loop {
        let block = watching.block().expect("a last event");
        match block.strip_prefix("event: cut\ndata: ") {
            Some(data) => break serde_json::from_str::<Value>(data).unwrap(),
            None => {
                let id = block.rsplit_once("\nid: ");
                last = id.map_or(last, |(_, id)| id.to_owned());
            }
        }
    };
    assert_eq!(cut["after"].to_string(), last);
    assert!(cut["oldest"].as_u64() > cut["after"].as_u64(), "{cut}");
    assert_eq!(cut["list"], "/-/kv?values=true&prefix=a");
    assert_eq!(watching.block(), None);
    // The connection can still be used.
    assert_eq!(
        watching
            .client
            .send("GET", "/-/watch?after=1", &[], b"")
            .status,
        410
    );
}

#[test]
fn a_snapshot_in_the_place_of_the_log_cuts_who_is_behind_it() {
    let cluster = Cluster::start();
    let (mut watching, begin) = cluster.watch("", &[]);
    cluster.history.begin(begin + 10, begin + 10);
    let block = watching.block().unwrap();
    assert!(block.starts_with("event: cut\n"), "{block:?}");
    assert_eq!(watching.block(), None);
}

#[test]
fn watchers_are_counted_and_end_when_the_server_stops() {
    let often = Limits {
        watchers_max: 3,
        watch_id_interval: Duration::from_millis(20),
        ..limits()
    };
    let mut cluster = Cluster::with(often);
    let mut watching: Vec<_> = (0..3).map(|_| cluster.watch("", &[]).0).collect();
    let refused = cluster.get("/-/watch");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    watching.pop();
    eventually("the one that has gone is not counted", || {
        cluster.get("/-/watch?after=1000").status == 400
    });
    let begin = StdInstant::now();
    cluster.stop();
    for mut watching in watching {
        while let Some(block) = watching.block() {
            assert!(block.starts_with("id: "), "{block:?}");
        }
    }
    cluster.wait();
    assert!(
        begin.elapsed() < limits::CONNECTION_END_TIMEOUT,
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_member_that_is_closed_tells_its_watchers_nothing_more() {
    let often = Limits {
        watch_id_interval: Duration::from_millis(20),
        ..limits()
    };
    for limits in [limits(), often] {
        let idle = limits.watch_id_interval < Duration::from_secs(1);
        let cluster = Cluster::with(limits);
        let (mut watching, begin) = cluster.watch("", &[]);
        cluster.inbox.set_closed(Some(Arc::new(Closed {
            kind: ClosedKind::OtherLife,
            why: "not served".to_owned(),
        })));
        if !idle {
            // A change that is applied after the member was closed wakes the watcher.
            let data = Bytes::from_static(b"kv");
            let mut changes = Changes::of(data.clone(), 1);
            changes.put(&data[..1], &data[1..]);
            cluster.history.append(begin + 1, changes);
        }
        while let Some(block) = watching.block() {
            assert_eq!(block, format!("id: {begin}"));
        }
        // An EventSource reconnects until it is served again.
        let events = "Accept: text/event-stream";
        let again = cluster.send("GET", "/-/watch", &[events], b"");
        assert_eq!((again.status, &*again.body), (200, &b"retry: 1000\n"[..]));
        cluster.inbox.set_closed(None);
        let (_, resumed) = cluster.watch(&format!("?after={begin}"), &[]);
        assert_eq!(resumed, begin);
    }
}

#[test]
fn an_event_source_is_told_to_come_again_where_others_are_refused_for_now() {
    let cluster = Cluster::start();
    cluster.set(Mode::Refuse(NotProposed::NoLeader));
    assert_eq!(cluster.get("/-/watch").status, 503);
    let events = "Accept: text/event-stream";
    let again = cluster.send("GET", "/-/watch", &[events], b"");
    assert_eq!((again.status, &*again.body), (200, &b"retry: 1000\n"[..]));
    assert_eq!(again.header("content-type"), Some("text/event-stream"));
    // A refusal that a retry would meet again keeps its status.
    let wrong = cluster.send("GET", "/-/watch?before=1", &[events], b"");
    assert_eq!(wrong.status, 400);
    let other = cluster.send("GET", "/-/kv", &[events], b"");
    assert_eq!(other.status, 503);
}
