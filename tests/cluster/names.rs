//! One name, one thing: members are at `/-/members`, keys at the root and at `/-/kv`, and a number that may be either is
//! not taken for one of them. And limits are for what is written from now on.

use crate::harness::{Cluster, leader_and_followers};
use crate::http::Response;
use serde_json::{Value, json};

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

/// The ids in `GET /-/members` of a member.
fn listed(cluster: &Cluster, via: u64) -> Vec<u64> {
    let answer = cluster.send(via, "GET", "/-/members", &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    let members = json_of(&answer)["members"].clone();
    let members = members.as_array().expect("a list").iter();
    members
        .map(|member| member["id"].as_u64().expect("an id"))
        .collect()
}

#[test]
fn members_are_listed_added_moved_and_removed_at_one_place() {
    let cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    assert_eq!(listed(&cluster, leader), [1, 2, 3]);
    let answer = cluster.send(followers[0], "GET", "/-/members", &[], b"");
    let first = json_of(&answer)["members"][0].clone();
    let url = cluster.nodes[&1].url();
    for (name, value) in [
        ("id", json!(1)),
        ("url", json!(url)),
        ("role", json!("voter")),
    ] {
        assert_eq!(first[name], value, "{first}");
    }

    let send = |method: &str, path: &str, body: &str| {
        cluster.send(followers[0], method, path, &[], body.as_bytes())
    };
    let added = send("POST", "/-/members/4", "http://127.0.0.1:1");
    assert_eq!(added.status, 204, "{added:?}");
    // A linearizable list on another member shows what was acknowledged.
    assert_eq!(listed(&cluster, followers[1]), [1, 2, 3, 4]);
    let taken = send("POST", "/-/members/4", "http://127.0.0.1:2");
    assert_eq!(taken.status, 409, "{taken:?}");
    assert_eq!(
        send("PUT", "/-/members/4", "http://127.0.0.1:2").status,
        204
    );
    let removed = send("DELETE", "/-/members/4", "");
    assert_eq!(removed.status, 204, "{removed:?}");
    assert_eq!(listed(&cluster, followers[1]), [1, 2, 3]);
    assert_eq!(send("DELETE", "/-/members/4", "").status, 404);
    // raftexample's requests do the same.
    assert_eq!(send("POST", "/4", "http://127.0.0.1:1").status, 204);
    assert_eq!(listed(&cluster, leader), [1, 2, 3, 4]);
    assert_eq!(send("DELETE", "/4", "").status, 204);
    assert_eq!(listed(&cluster, leader), [1, 2, 3]);

    for id in ["0", "04", "x", "", "4/", "18446744073709551616"] {
        for method in ["POST", "PUT", "DELETE"] {
            let refused = send(method, &format!("/-/members/{id}"), "http://127.0.0.1:1");
            assert_eq!(refused.status, 400, "{method} {id}: {refused:?}");
        }
    }
    let wrong = send("PATCH", "/-/members/4", "");
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("PUT, DELETE, POST"))
    );
    let wrong = send("DELETE", "/-/members", "");
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("GET, HEAD"))
    );
    assert_eq!(send("GET", "/-/members?consistency=stale", "").status, 200);
    assert_eq!(send("GET", "/-/members?x", "").status, 400);
}

#[test]
fn a_number_that_is_a_key_does_not_remove_the_member() {
    let cluster = Cluster::start(3);
    let (_, followers) = leader_and_followers(&cluster);
    let via = followers[0];
    for key in ["1", "3"] {
        cluster.put(via, key, "value");
        for path in [format!("/{key}"), format!("/%3{key}")] {
            let json = [("Accept", "application/json")];
            let refused = cluster.send(followers[1], "DELETE", &path, &json, b"");
            assert_eq!(refused.status, 409, "{path}: {refused:?}");
            let problem = json_of(&refused);
            assert_eq!(problem["code"], "ambiguous", "{problem}");
            let detail = problem["detail"].as_str().expect("a line");
            assert!(detail.contains(&format!("/-/kv/{key}")), "{detail}");
            assert!(detail.contains(&format!("/-/members/{key}")), "{detail}");
        }
        assert_eq!(cluster.get(via, key).as_deref(), Some(&b"value"[..]));
    }
    cluster.wait_voters(via, &[1, 2, 3]);
    // Each of the two URLs names one of them.
    for value in [None, Some("value")] {
        // No member has this id, with or without a key of this name.
        value.map(|value| cluster.put(via, "7", value));
        let absent = cluster.send(via, "DELETE", "/7", &[], b"");
        assert_eq!(absent.status, 404, "{absent:?}");
        assert!(absent.text().contains("/-/kv/7"), "{absent:?}");
        assert_eq!(cluster.get(via, "7").as_deref(), value.map(str::as_bytes));
    }
    assert_eq!(cluster.send(via, "DELETE", "/-/kv/7", &[], b"").status, 204);
    assert_eq!(cluster.get(via, "7"), None);
    let (leader, followers) = leader_and_followers(&cluster);
    let other = followers[0].to_string();
    cluster.put(leader, &other, "value");
    let path = format!("/-/members/{other}");
    assert_eq!(cluster.send(leader, "DELETE", &path, &[], b"").status, 204);
    let left: Vec<u64> = (1..=3).filter(|id| *id != followers[0]).collect();
    cluster.wait_voters(leader, &left);
    assert_eq!(cluster.get(leader, &other).as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_lowered_limit_of_keys_is_for_keys_that_are_written() {
    let mut cluster = Cluster::start(1);
    let keys: Vec<String> = (0..5).map(|i| format!("{i}{}", "k".repeat(300))).collect();
    for key in &keys {
        cluster.put(1, key, "value");
    }
    cluster.kill_all();
    cluster.node(1).set_flag("--max-key-bytes", "100");
    cluster.node(1).set_flag("--max-value-bytes", "3");
    cluster.start_all();
    let send =
        |method: &str, path: &str, body: &str| cluster.send(1, method, path, &[], body.as_bytes());
    for path in [format!("/{}", keys[0]), format!("/-/kv/{}", keys[0])] {
        assert_eq!(send("GET", &path, "").text(), "value");
        assert_eq!(send("HEAD", &path, "").status, 200);
        let refused = send("PUT", &path, "new");
        assert_eq!(refused.status, 414, "{refused:?}");
        assert!(refused.text().contains("--max-key-bytes"), "{refused:?}");
    }
    let pair = send("GET", &format!("/key/{}", keys[0]), "");
    assert_eq!(pair.status, 200, "{pair:?}");
    for query in [
        "limit=2&values=true".to_owned(),
        format!("after={}", keys[1]),
        format!("prefix={}", keys[1]),
    ] {
        let page = send("GET", &format!("/-/kv?{query}"), "");
        assert_eq!(page.status, 200, "{page:?}");
        assert!(!json_of(&page)["keys"].as_array().expect("keys").is_empty());
    }
    let refused = send("PUT", "/short", "four");
    assert_eq!(refused.status, 413, "{refused:?}");
    assert!(refused.text().contains("--max-value-bytes"), "{refused:?}");
    let transact = |operation: Value| {
        let condition = json!({"key": keys[1], "exists": true});
        let body = json!({"conditions": [condition], "operations": [operation]});
        send("POST", "/-/txn", &body.to_string())
    };
    let put = transact(json!({"op": "put", "key": keys[1], "value": "new"}));
    assert_eq!(put.status, 413, "{put:?}");
    assert!(put.text().contains("--max-key-bytes"), "{put:?}");
    let put = transact(json!({"op": "put", "key": "short", "value": "four"}));
    assert_eq!(put.status, 413, "{put:?}");
    assert!(put.text().contains("--max-value-bytes"), "{put:?}");
    let pairs = json!({ &keys[1]: "new" }).to_string();
    let put = send("POST", "/key", &pairs);
    assert_eq!(put.status, 413, "{put:?}");
    assert!(put.text().contains("--max-key-bytes"), "{put:?}");

    let deleted = transact(json!({"op": "delete", "key": keys[1]}));
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert_eq!(send("DELETE", &format!("/{}", keys[2]), "").status, 204);
    assert_eq!(send("DELETE", &format!("/key/{}", keys[3]), "").status, 200);
    assert_eq!(
        send("DELETE", &format!("/-/kv/{}", keys[4]), "").status,
        204
    );
    for key in &keys[1..] {
        assert_eq!(cluster.get(1, key), None, "{key}");
    }
    let too_long = format!("/{}", "k".repeat((16 << 10) + 1));
    for method in ["GET", "DELETE"] {
        assert_eq!(send(method, &too_long, "").status, 414);
    }
}
