//! Lists of keys, page by page.

use super::*;
use serde_json::json;

/// The keys of all pages of `limit` keys, and the number of these pages.
fn all_pages(cluster: &Cluster, limit: usize) -> (Value, usize) {
    let mut link = format!("?limit={limit}&consistency=stale");
    let mut found = Vec::new();
    let mut pages = 0;
    loop {
        let page = cluster.list(&link);
        found.extend(page["keys"].as_array().unwrap().iter().cloned());
        pages += 1;
        match page["next"].as_str() {
            Some(next) => link = next.strip_prefix("/-/kv").unwrap().to_owned(),
            None => return (Value::from(found), pages),
        }
    }
}

fn assert_wrong_options_are_refused(cluster: &Cluster) {
    for (query, words) in [
        ("?limit=0", "from 1 to 10000"),
        ("?limit=10001", "from 1 to 10000"),
        ("?limit=", "from 1 to 10000"),
        ("?limit=1&limit=2", "twice"),
        ("?prefix=%zz", "percent-encoded"),
        ("?values=yes", "true or false"),
        ("?consistency=eventual", "stale or linearizable"),
        ("?keys=1", "unknown option \"keys\""),
    ] {
        let refused = cluster.get(&format!("/-/kv{query}"));
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.text().contains(words), "{}", refused.text());
    }
}

#[test]
fn keys_are_listed_page_by_page() {
    let cluster = Cluster::start();
    let empty = cluster.list("");
    assert_eq!((&empty["keys"], &empty["next"]), (&json!([]), &json!(null)));
    let mut etags = std::collections::BTreeMap::new();
    for (target, value) in [
        ("/a", &b"one"[..]),
        ("/b/1", b""),
        ("/b/%FF%00", b"\xff"),
        ("/b/%25FF", b"quote \" here"),
        ("/%00", b"x"),
        ("/c", b"x"),
    ] {
        let put = cluster.put(target, value);
        etags.insert(target, put.etag().trim_matches('"').to_owned());
    }
    let all = json!([
        {"key": "\u{0}", "size": 1, "etag": etags["/%00"]},
        {"key": "a", "size": 3, "etag": etags["/a"]},
        {"key": "b/%FF", "size": 12, "etag": etags["/b/%25FF"]},
        {"key": "b/1", "size": 0, "etag": etags["/b/1"]},
        {"key": "b/%FF%00", "encoded": true, "size": 1, "etag": etags["/b/%FF%00"]},
        {"key": "c", "size": 1, "etag": etags["/c"]},
    ]);
    let list = cluster.list("");
    assert_eq!((&list["keys"], &list["next"]), (&all, &json!(null)));
    assert_eq!(list["index"].to_string(), etags["/c"]);
    for limit in 1..=7 {
        let (found, pages) = all_pages(&cluster, limit);
        assert_eq!((&found, pages), (&all, 6_usize.div_ceil(limit)));
    }
    let values = cluster.list("?prefix=b%2F&values=true&limit=2");
    let keys = values["keys"].as_array().unwrap();
    assert_eq!(keys[0]["value"], "quote \" here");
    assert_eq!(keys[1]["value"], "");
    let next = values["next"].as_str().unwrap();
    assert_eq!(next, "/-/kv?after=b/1&prefix=b/&limit=2&values=true");
    let rest = cluster.get(next).json();
    assert_eq!(
        rest["keys"],
        json!([
            {"key": "b/%FF%00", "encoded": true, "size": 1, "etag": etags["/b/%FF%00"], "value_base64": "/w=="},
        ])
    );
    let after = cluster.list("?prefix=b/&after=b/%FF");
    assert_eq!(after["keys"][0]["key"], "b/%FF%00");
    let head = cluster.send("HEAD", "/-/kv", &[], b"");
    assert_eq!(head.status, 200);
    assert_wrong_options_are_refused(&cluster);
    cluster.set(Mode::Refuse(NotProposed::NoLeader));
    assert_eq!(cluster.get("/-/kv").status, 503);
    assert_eq!(cluster.get("/-/kv?consistency=stale").status, 200);
}

#[test]
fn a_list_of_large_values_ends_early_and_goes_on() {
    let cluster = Cluster::start();
    let value = vec![0xff; 100_000];
    for i in 0..50 {
        assert_eq!(cluster.put(&format!("/key{i:02}"), &value).status, 204);
    }
    let first = cluster.get("/-/kv?values=true");
    assert!(first.body.len() < limits::LIST_BYTES_MAX + 1_000);
    let first = first.json();
    let count = first["keys"].as_array().unwrap().len();
    assert!((25..50).contains(&count), "{count}");
    let second = cluster.get(first["next"].as_str().unwrap()).json();
    assert_eq!(second["keys"].as_array().unwrap().len(), 50 - count);
    assert_eq!(second["next"], json!(null));
}
