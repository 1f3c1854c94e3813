//! Many keys at a time: the walkthrough of hraftd, lists in pages, and transactions that nobody sees half of.

use crate::clients::Random;
use crate::harness::{
    Cluster, PATIENCE, PATIENT, SetOnDrop, eventually, leader_and_followers, require,
};
use crate::http::{Connection, Response, encode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

#[track_caller]
fn post(cluster: &Cluster, via: u64, path: &str, body: &str) -> Response {
    cluster.send(via, "POST", path, &[], body.as_bytes())
}

fn parse(response: &Response) -> Value {
    assert_eq!(
        response.header("content-type"),
        Some("application/json"),
        "{response:?}"
    );
    serde_json::from_slice(&response.body).unwrap_or_else(|why| panic!("{why}: {response:?}"))
}

#[test]
fn the_walkthrough_of_hraftd() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let (leader, followers) = leader_and_followers(&cluster);
    let get = |cluster: &Cluster, via: u64, key: &str| {
        let response = cluster.send(via, "GET", &format!("/key/{key}"), &[], b"");
        (response.status, response.text())
    };
    let shows = |key: &str, value: &str| (200, format!("{{\"{key}\":\"{value}\"}}"));
    let set = post(&cluster, leader, "/key", r#"{"user1": "batman"}"#);
    assert_eq!((set.status, set.body.len()), (200, 0), "{set:?}");
    // Any member takes writes.
    let set = post(
        &cluster,
        followers[0],
        "/key",
        r#"{"user1":"batman","user2":"robin"}"#,
    );
    assert_eq!(set.status, 200, "{set:?}");
    for via in 1..=3 {
        assert_eq!(get(&cluster, via, "user1"), shows("user1", "batman"));
        assert_eq!(get(&cluster, via, "user2"), shows("user2", "robin"));
        assert_eq!(get(&cluster, via, "user3").0, 404);
        for key in ["/user1", "/user2"] {
            let raw = cluster.send(via, "GET", key, &[], b"");
            assert_eq!(raw.etag(), set.etag(), "one command wrote both");
        }
    }
    let foo = post(&cluster, followers[1], "/key", r#"{"foo":"bar"}"#);
    assert_eq!(foo.status, 200);
    cluster.assert_value(leader, "foo", "bar");
    cluster.put(leader, "foo", "baz");
    assert_eq!(get(&cluster, followers[0], "foo"), shows("foo", "baz"));
    let deleted = cluster.send(followers[0], "DELETE", "/key/user1", &[], b"");
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert_eq!(get(&cluster, leader, "user1").0, 404);

    cluster.node(leader).kill();
    let set = post(
        &cluster,
        followers[0],
        "/key",
        r#"{"user2":"nightwing","user4":"oracle"}"#,
    );
    assert_eq!(set.status, 200, "{set:?}");
    // What one command wrote is read again from the logs of all members.
    cluster.kill_all();
    cluster.start_all();
    for via in 1..=3 {
        assert_eq!(get(&cluster, via, "user2"), shows("user2", "nightwing"));
        assert_eq!(get(&cluster, via, "user4"), shows("user4", "oracle"));
    }
    cluster.assert_hashes_agree(&[1, 2, 3]);
}

#[test]
fn binary_keys_are_listed_in_order_page_by_page_while_others_are_written() {
    let cluster = Cluster::start(3);
    let mut random = Random(7);
    let mut keys = BTreeMap::new();
    while keys.len() < 120 {
        let mut key = b"list/".to_vec();
        key.extend((0..random.below(4)).map(|_| random.below(256) as u8));
        let value: Vec<u8> = (0..random.below(9))
            .map(|_| random.below(256) as u8)
            .collect();
        let via = 1 + keys.len() as u64 % 3;
        let put = cluster.send(via, "PUT", &format!("/-/kv{}", encode(&key)), &[], &value);
        assert_eq!(put.status, 204, "{put:?}");
        keys.insert(key, (put.etag(), value));
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        let (cluster, stop) = (&cluster, &stop);
        scope.spawn(move || {
            for i in 0_u64.. {
                cluster.put(1 + i % 3, &format!("other/{}", i % 50), format!("{i}"));
                if stop.load(SeqCst) {
                    return;
                }
            }
        });
        for via in 1..=3 {
            let mut link = Some("/-/kv?prefix=list/&limit=7&values=true".to_owned());
            let mut found = Vec::new();
            while let Some(path) = link {
                let page = cluster.send(via, "GET", &path, &[], b"");
                assert_eq!(page.status, 200, "{path}: {page:?}");
                let page = parse(&page);
                let entries = page["keys"].as_array().unwrap();
                assert!(!entries.is_empty() && entries.len() <= 7);
                for entry in entries {
                    // The list says how the key is written in a path.
                    let key = entry["key"].as_str().unwrap();
                    let path = match entry["encoded"].as_bool() {
                        Some(true) => format!("/-/kv/{key}"),
                        _ => format!("/-/kv{}", encode(key.as_bytes())),
                    };
                    let got = cluster.send(via, "GET", &path, &[], b"");
                    assert_eq!(got.status, 200, "{path}");
                    assert_eq!(entry["etag"], got.etag().to_string());
                    assert_eq!(entry["size"], got.body.len());
                    match entry["value"].as_str() {
                        Some(text) => assert_eq!(text.as_bytes(), got.body),
                        None => assert!(entry["value_base64"].is_string()),
                    }
                    found.push((got.etag(), got.body));
                }
                link = page["next"].as_str().map(str::to_owned);
            }
            // In the order of the bytes of their keys, each once.
            let wanted: Vec<_> = keys.values().cloned().collect();
            assert_eq!(found, wanted, "through node {via}");
        }
    });
    for (status, query) in [
        (400, "?limit=x"),
        (400, "?colour=blue"),
        (200, "?limit=1&values=false"),
    ] {
        let response = cluster.send(1, "GET", &format!("/-/kv{query}"), &[], b"");
        assert_eq!(response.status, status, "{query}: {response:?}");
    }
}

const ACCOUNTS: u64 = 8;
const EACH: u64 = 100;

/// The accounts in a list: balance and etag of each.
fn accounts(list: &Value) -> Vec<(u64, String)> {
    let keys = list["keys"].as_array().unwrap();
    let accounts = keys.iter().map(|entry| {
        let balance = entry["value"].as_str().unwrap().parse().unwrap();
        (balance, entry["etag"].as_str().unwrap().to_owned())
    });
    accounts.collect()
}

/// What the clients of the accounts share.
struct Bank {
    addresses: Vec<SocketAddr>,
    stop: AtomicBool,
    moved: AtomicU64,
    refused: AtomicU64,
    seen: AtomicU64,
}

impl Bank {
    fn open(cluster: &Cluster) -> Bank {
        let begin: BTreeMap<String, String> = (0..ACCOUNTS)
            .map(|i| (format!("account/{i}"), EACH.to_string()))
            .collect();
        let body = json!(begin).to_string();
        assert_eq!(post(cluster, 1, "/key", &body).status, 200);
        Bank {
            addresses: (1..=3).map(|id| cluster.address(id)).collect(),
            stop: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        }
    }

    /// Any answer is right while members fail, but none may show half.
    fn ask(&self, via: usize, method: &str, path: &str, body: &str) -> Option<Response> {
        let connection = Connection::open(self.addresses[via]);
        let response = connection.and_then(|mut c| c.send(method, path, &[], body.as_bytes()));
        response
            .ok()
            .filter(|response| matches!(response.status, 200 | 412))
    }

    fn list(&self, via: usize, consistency: &str) -> Option<Value> {
        let path = format!("/-/kv?prefix=account/&values=true&consistency={consistency}");
        let response = self.ask(via, "GET", &path, "");
        response.map(|response| parse(&response))
    }

    /// Moves money between two accounts, if nobody else changes them meanwhile, until told to stop.
    fn move_money(&self, mut random: Random) {
        while !self.stop.load(SeqCst) {
            let via = random.below(3) as usize;
            let list = self.list(via, "linearizable");
            let Some(accounts) = list.map(|list| checked_accounts(&list)) else {
                continue;
            };
            let from = random.below(ACCOUNTS);
            let to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
            let amount = random.below(accounts[from as usize].0 + 1);
            let condition =
                |i: u64| json!({"key": format!("account/{i}"), "etag": accounts[i as usize].1});
            let put = |i: u64, balance: u64| json!({"op": "put", "key": format!("account/{i}"), "value": balance.to_string()});
            let body = json!({
                "conditions": [condition(from), condition(to)],
                "operations": [
                    put(from, accounts[from as usize].0 - amount),
                    put(to, accounts[to as usize].0 + amount),
                ],
            });
            match self.ask(via, "POST", "/-/txn", &body.to_string()) {
                Some(done) if done.status == 200 => self.moved.fetch_add(1, SeqCst),
                Some(_) => self.refused.fetch_add(1, SeqCst),
                None => 0,
            };
        }
    }

    /// Looks at a member's own map, at whatever index; one that starts again may be before the first.
    fn look_at_the_accounts(&self, via: usize) {
        while !self.stop.load(SeqCst) {
            let list = self.list(via, "stale");
            if let Some(list) = list.filter(|list| list["keys"] != json!([])) {
                checked_accounts(&list);
                self.seen.fetch_add(1, SeqCst);
            }
        }
    }

    /// Keys that are only ever written together, read one after the other by `read_what_is_written_together`.
    fn write_together(&self) {
        for i in 0_u64.. {
            let body = format!(r#"{{"pair/a":"{i}","pair/b":"{i}","pair/c":"{i}"}}"#);
            self.ask((i % 3) as usize, "POST", "/key", &body);
            if self.stop.load(SeqCst) {
                return;
            }
        }
    }

    fn read_what_is_written_together(&self, via: usize) {
        let mut random = Random(via as u64);
        let mut newest = 0;
        while !self.stop.load(SeqCst) {
            let key = random.pick(&["a", "b", "c"]);
            let path = format!("/pair/{key}?consistency=stale");
            match self.ask(via, "GET", &path, "") {
                Some(pair) => {
                    assert!(
                        pair.etag() >= newest,
                        "{key}: {} after {newest}",
                        pair.etag()
                    );
                    newest = pair.etag();
                }
                // A member that starts again has an older map for a moment.
                None => newest = 0,
            }
        }
    }

    fn wait_until_moved(&self, what: &str, more: u64) {
        let goal = self.moved.load(SeqCst) + more;
        eventually(what, PATIENCE, || {
            let moved = self.moved.load(SeqCst);
            require(moved >= goal, || format!("{moved} transfers of {goal}"))
        });
    }
}

/// Nothing was lost or made: this is no half of a transfer.
#[track_caller]
fn checked_accounts(list: &Value) -> Vec<(u64, String)> {
    let accounts = accounts(list);
    let sum: u64 = accounts.iter().map(|(balance, _)| balance).sum();
    assert_eq!(
        (accounts.len() as u64, sum),
        (ACCOUNTS, ACCOUNTS * EACH),
        "{list}"
    );
    accounts
}

#[test]
fn nobody_sees_half_of_a_transaction_whatever_fails() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-bytes", "64K"]);
    let bank = Bank::open(&cluster);
    thread::scope(|scope| {
        let _stop = SetOnDrop(&bank.stop);
        let bank = &bank;
        for client in 0..3 {
            scope.spawn(move || bank.move_money(Random(client)));
        }
        for via in 0..3 {
            scope.spawn(move || bank.look_at_the_accounts(via));
        }
        scope.spawn(|| bank.write_together());
        for via in 0..3 {
            scope.spawn(move || bank.read_what_is_written_together(via));
        }
        let mut random = Random(99);
        for _ in 0..4 {
            bank.wait_until_moved("money moves", 60);
            let id = 1 + random.below(3);
            cluster.node(id).kill();
            bank.wait_until_moved("the others go on", 20);
            cluster.start_all();
        }
    });
    let counts = [&bank.moved, &bank.refused, &bank.seen].map(|count| count.load(SeqCst));
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let last = bank.list(0, "linearizable").expect("all members run");
    checked_accounts(&last);
    cluster.assert_hashes_agree(&[1, 2, 3]);
}

#[test]
fn transactions_are_all_or_nothing_on_every_member() {
    let cluster = Cluster::start(3);
    let etag = cluster.put(1, "a", "1").to_string();
    let body = |etag: &str| {
        let conditions = json!([{"key": "a", "etag": etag}, {"key": "b", "absent": true}]);
        let operations = json!([
            {"op": "put", "key": "b", "value": "new"},
            {"op": "put", "key": "c", "value_base64": "AP8="},
            {"op": "delete", "key": "a"},
        ]);
        json!({"conditions": conditions, "operations": operations}).to_string()
    };
    let refused = post(&cluster, 2, "/-/txn", &body("1"));
    assert_eq!(refused.status, 412, "{refused:?}");
    let failed = json!([{"condition": 0, "key": "a", "etag": etag}]);
    assert_eq!(
        parse(&refused),
        json!({"succeeded": false, "failed": failed})
    );
    assert_eq!(cluster.get(3, "b"), None);
    let done = post(&cluster, 2, "/-/txn", &body(&etag));
    assert_eq!(done.status, 200, "{done:?}");
    for via in 1..=3 {
        assert_eq!(cluster.get(via, "a"), None);
        assert_eq!(cluster.get(via, "c").as_deref(), Some(&b"\0\xff"[..]));
        let b = cluster.send(via, "GET", "/b", &[], b"");
        assert_eq!((b.text().as_str(), b.etag()), ("new", done.etag()));
    }
    // The same again: both conditions fail now.
    let again = post(&cluster, 3, "/-/txn", &body(&etag));
    let failed = json!([
        {"condition": 0, "key": "a", "etag": null},
        {"condition": 1, "key": "b", "etag": done.etag().to_string()},
    ]);
    assert_eq!((again.status, &parse(&again)["failed"]), (412, &failed));
    let twice = r#"{"operations":[{"op":"put","key":"x","value":"1"},{"op":"delete","key":"x"}]}"#;
    assert_eq!(post(&cluster, 1, "/-/txn", twice).status, 400);
    assert_eq!(cluster.get(1, "x"), None);
    cluster.assert_hashes_agree(&[1, 2, 3]);
}
