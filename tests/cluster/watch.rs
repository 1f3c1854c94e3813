//! Watching: whoever listens to one member, and resumes where it was, hears of every change, once the history has it.

use crate::event_source::Watch;
use crate::harness::{
    Cluster, PATIENCE, PATIENT, SetOnDrop, eventually, leader_and_followers, require,
};
use crate::http::{self, Connection};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

fn index(change: &Value) -> u64 {
    change["index"].as_u64().expect("a change has an index")
}

fn put(address: SocketAddr, path: &str, value: &[u8]) -> u64 {
    let response = http::request(address, "PUT", path, &[], value).expect("an answer");
    assert_eq!(response.status, 204, "{response:?}");
    response.etag()
}

#[test]
fn a_follower_tells_all_that_three_members_write() {
    const ROUNDS: usize = 120;
    let cluster = Cluster::start_with(3, &PATIENT);
    let (_, followers) = leader_and_followers(&cluster);
    let address = cluster.address(followers[0]);
    let mut all = Watch::open(address, "", None).expect("watch");
    let mut some = Watch::open(address, "?prefix=%23", None).expect("watch a prefix");
    let begin = all.id;
    thread::scope(|scope| {
        for writer in 0..6_usize {
            let address = cluster.address(writer as u64 % 3 + 1);
            scope.spawn(move || {
                let mut connection = Connection::open(address).expect("connect");
                for round in 0..ROUNDS {
                    // Few keys: they meet, conditions fail, and there is nothing to delete.
                    let key = |i: usize| (writer * 7 + round * 5 + i) % 9;
                    let path = format!("/%23{}", key(0));
                    let value = format!("{writer}/{round}");
                    let only_new = [("If-None-Match", "*")];
                    let transaction = format!(
                        r##"{{"operations":[{{"op":"put","key":"{}","value":"{value}"}},
                        {{"op":"delete","key":"#{}"}},{{"op":"put","key":"%FF","encoded":true,"value_base64":"/w=="}}]}}"##,
                        key(1),
                        key(2)
                    );
                    let response = match round % 4 {
                        0 => connection.send("PUT", &path, &[], value.as_bytes()),
                        1 => connection.send("DELETE", &path, &[], b""),
                        2 => connection.send("PUT", &path, &only_new, value.as_bytes()),
                        _ => connection.send("POST", "/-/txn", &[], transaction.as_bytes()),
                    };
                    let response = response.expect("an answer");
                    let expected = [&[204][..], &[204], &[204, 412], &[200]][round % 4];
                    assert!(expected.contains(&response.status), "{response:?}");
                }
            });
        }
    });
    let last = put(cluster.address(1), "/%23end", b"");
    let mut maps = [&mut all, &mut some].map(|watch| {
        let mut map = BTreeMap::new();
        let mut newest = begin;
        loop {
            let change = watch.change().expect("a change");
            assert!(index(&change) >= newest, "{change} after {newest}");
            newest = index(&change);
            let key = change["key"].to_string();
            if change["op"] == "put" {
                let value = change["value"].as_str().or(change["value_base64"].as_str());
                map.insert(key, (change["etag"].clone(), value.map(str::to_owned)));
            } else {
                assert_eq!(change["op"], "delete");
                assert!(map.remove(&key).is_some(), "{change}: it was not there");
            }
            if newest == last {
                break map;
            }
        }
    });
    let list = cluster.send(3, "GET", "/-/kv?values=true", &[], b"");
    let list: Value = serde_json::from_slice(&list.body).expect("JSON");
    let keys = list["keys"].as_array().expect("a list").iter();
    let held: BTreeMap<_, _> = keys
        .map(|key| {
            let value = key["value"].as_str().or(key["value_base64"].as_str());
            let value = value.map(str::to_owned);
            (key["key"].to_string(), (key["etag"].clone(), value))
        })
        .collect();
    assert_eq!(maps[0], held);
    maps[0].retain(|key, _| key.starts_with("\"#"));
    assert_eq!(maps[0], maps[1]);
}

#[test]
fn who_resumes_misses_nothing_when_the_member_is_killed() {
    const KILLS: usize = 3;
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let (leader, followers) = leader_and_followers(&cluster);
    let addresses = [leader, followers[0], followers[1]].map(|id| cluster.address(id));
    let begin = Watch::open(addresses[1], "", None).expect("watch").id;
    let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let ended = SetOnDrop(&stop);
        let writer = scope.spawn(|| {
            let mut connection = Connection::open(addresses[0]).expect("connect");
            let mut written = Vec::new();
            while !stop.load(SeqCst) {
                let path = format!("/key-{}", written.len());
                let response = connection.send("PUT", &path, &[], b"x").expect("an answer");
                assert_eq!(response.status, 204, "{response:?}");
                written.push(response.etag());
            }
            written
        });
        let watcher = scope.spawn(|| {
            let mut changes = BTreeMap::new();
            let mut id = begin;
            // At one member after the other, as soon as it answers again.
            for address in addresses.into_iter().skip(1).cycle() {
                let Ok(mut watch) = Watch::open(address, "", Some(id)) else {
                    continue;
                };
                while let Ok(change) = watch.change() {
                    let key = change["key"].as_str().expect("a key").to_owned();
                    if key == "end" {
                        return changes;
                    }
                    let before = changes.insert(key, index(&change));
                    assert!(before.is_none_or(|before| before == index(&change)));
                    seen.store(changes.len(), SeqCst);
                }
                id = watch.id;
            }
            unreachable!("the members are tried for ever")
        });
        for kill in 0..KILLS {
            let more = seen.load(SeqCst) + 50;
            eventually("the watcher gets on", PATIENCE, || {
                assert!(!writer.is_finished() && !watcher.is_finished());
                require(seen.load(SeqCst) >= more, || format!("not {more}"))
            });
            let id = followers[kill % 2];
            cluster.node(id).kill();
            cluster.node(id).start();
            cluster.node(id).wait_ready();
        }
        drop(ended);
        let written = writer.join().expect("the writer");
        cluster.put(leader, "end", "");
        let changes = watcher.join().expect("the watcher");
        let missed: BTreeSet<_> = written
            .iter()
            .enumerate()
            .filter(|(number, index)| changes.get(&format!("key-{number}")) != Some(index))
            .collect();
        assert!(missed.is_empty(), "{missed:?} of {}", written.len());
    });
}

#[test]
fn an_index_that_another_member_gave_is_waited_for() {
    let cluster = Cluster::start(3);
    for round in 0..30_u64 {
        let index = cluster.put(round % 3 + 1, "name", "value");
        let watch = Watch::open(cluster.address((round + 1) % 3 + 1), "", Some(index));
        assert_eq!(watch.expect("watch").id, index);
    }
}

#[test]
fn what_is_gone_is_410_and_the_list_tells_where_to_go_on() {
    let cluster = Cluster::start_with(1, &["--log-cache-bytes", "64K"]);
    let first = cluster.put(1, "key-0", "");
    for i in 1..100 {
        cluster.put(1, &format!("key-{i}"), [b'x'; 1_000]);
    }
    let path = format!("/-/watch?after={first}");
    let gone = cluster.send(1, "GET", &path, &[("Accept", "application/json")], b"");
    assert_eq!(gone.status, 410, "{gone:?}");
    let oldest: u64 = gone
        .header("x-raftkvd-oldest")
        .expect("the oldest")
        .parse()
        .expect("a number");
    let problem: Value = serde_json::from_slice(&gone.body).expect("JSON");
    assert_eq!(
        (&problem["code"], problem["oldest"].as_u64()),
        (&"compacted".into(), Some(oldest))
    );
    let mut watch = Watch::open(cluster.address(1), "", Some(oldest)).expect("watch");
    // 16 KiB.
    let left: Vec<Value> = (oldest..first + 99)
        .map(|_| watch.change().expect("a change"))
        .collect();
    assert!((10..16).contains(&left.len()), "{}", left.len());
    assert!(left.iter().map(index).eq(oldest + 1..first + 100));

    let list = cluster.send(1, "GET", "/-/kv", &[], b"");
    let list: Value = serde_json::from_slice(&list.body).expect("JSON");
    let query = format!("?after={}", list["index"]);
    let mut watch = Watch::open(cluster.address(1), &query, None).expect("watch");
    let next = cluster.put(1, "name", "value");
    assert_eq!(index(&watch.change().expect("a change")), next);
}

#[test]
fn readers_that_do_not_read_are_cut_and_hold_up_nobody() {
    let flags = ["--log-cache-bytes", "4M"];
    let cluster = Cluster::start_with(1, &flags);
    let address = cluster.address(1);
    let mut slow: Vec<Watch> = (0..20)
        .map(|_| Watch::open(address, "", None).expect("watch"))
        .collect();
    let mut connection = Connection::open(address).expect("connect");
    let value = vec![b'x'; 300_000];
    let mut last = 0;
    for _ in 0..100 {
        let begin = Instant::now();
        let response = connection
            .send("PUT", "/name", &[], &value)
            .expect("an answer");
        assert_eq!(response.status, 204, "{response:?}");
        last = response.etag();
        // It would wait for them for half a minute.
        assert!(
            begin.elapsed() < Duration::from_secs(4),
            "{:?}",
            begin.elapsed()
        );
    }
    // What a client sends during a watch is its next request.
    let ahead = b"GET /-/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for watch in &mut slow[10..] {
        watch.connection.write(ahead).expect("the next request");
    }
    for (position, watch) in slow.iter_mut().enumerate() {
        let cut = loop {
            let block = watch.block().expect("events").expect("a last event");
            if block.event.is_some() {
                break block;
            }
        };
        assert_eq!(cut.event.as_deref(), Some("cut"));
        let data = cut.data.expect("what to do");
        let (after, oldest) = (data["after"].as_u64(), data["oldest"].as_u64());
        assert!(
            after == Some(watch.id) && oldest > after && oldest < Some(last),
            "{data}"
        );
        assert!(watch.block().expect("the end").is_none());
        if position >= 10 {
            let live = watch.connection.response(false).expect("an answer");
            assert_eq!(live.status, 200, "{live:?}");
        }
        let list = data["list"].as_str().expect("a link");
        let list = watch
            .connection
            .send("GET", list, &[], b"")
            .expect("an answer");
        assert_eq!(list.status, 200, "{list:?}");
    }
}

#[test]
fn a_snapshot_from_the_leader_cuts_whoever_watches_the_follower() {
    let flags = [
        "--snapshot-bytes",
        "64K",
        "--log-cache-bytes",
        "64K",
        "--request-timeout",
        "20s",
    ];
    let mut cluster = Cluster::start_with(3, &flags);
    let (leader, followers) = leader_and_followers(&cluster);
    let id = followers[0];
    let mut watch = Watch::open(cluster.address(id), "?prefix=watched", None).expect("watch");
    cluster.node(id).pause();
    // The log is kept back to the older of two snapshots, and each is due by what the last one weighs.
    for i in 0..300 {
        cluster.put(leader, &format!("key-{}", i % 10), [b'x'; 5_000]);
    }
    let status = cluster.nodes[&leader].status().expect("status");
    assert!(status.snapshot > watch.id, "{status:?}");
    cluster.node(id).resume();
    let cut = loop {
        let block = watch.block().expect("events").expect("a last event");
        if block.event.is_some() {
            break block;
        }
    };
    assert_eq!(cut.event.as_deref(), Some("cut"));
    assert!(watch.block().expect("the end").is_none());
    let mut again = Watch::open(cluster.address(id), "", None).expect("watch");
    let next = cluster.put(leader, "watched", "value");
    assert_eq!(index(&again.change().expect("a change")), next);
}

#[test]
fn a_value_of_64_mib_is_one_event_and_disturbs_no_heartbeat() {
    const VALUE_BYTES: usize = 64 << 20;
    let flags = ["--max-value-bytes", "64M", "--request-timeout", "40s"];
    let cluster = Cluster::start_with(3, &flags);
    let (leader, followers) = leader_and_followers(&cluster);
    let term = cluster.nodes[&leader].status().expect("status").term;
    let mut watches: Vec<Watch> = [leader, followers[0]]
        .map(|id| Watch::open(cluster.address(id), "", None).expect("watch"))
        .into();
    let mut value = vec![b'x'; VALUE_BYTES];
    value[VALUE_BYTES - 1] = 0xff;
    let index = cluster.put(leader, "large", &value);
    for watch in &mut watches {
        let change = watch.change().expect("the large one");
        assert_eq!(
            (change["index"].as_u64(), change["size"].as_u64()),
            (Some(index), Some(VALUE_BYTES as u64))
        );
        let text = change["value_base64"].as_str().expect("base64");
        assert_eq!(text.len(), VALUE_BYTES.div_ceil(3) * 4);
        assert!(
            text.starts_with("eHh4eHh4") && text.ends_with("eHh4/w=="),
            "{}",
            &text[text.len() - 8..]
        );
    }
    // Only now: the history holds one that is so large, and the next one takes its place.
    let small = cluster.put(leader, "small", "x");
    for watch in &mut watches {
        let change = watch.change().expect("the small one");
        assert_eq!(change["index"].as_u64(), Some(small));
    }
    let status = cluster.nodes[&leader].status().expect("status");
    assert_eq!((status.leader, status.term), (leader, term));
}

#[test]
fn watches_end_in_order_when_the_member_stops() {
    let mut cluster = Cluster::start(1);
    let address = cluster.address(1);
    let watches: Vec<Watch> = (0..10)
        .map(|_| Watch::open(address, "", None).expect("watch"))
        .collect();
    cluster.put(1, "name", "value");
    let node = cluster.node(1);
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(Duration::from_secs(4)), Some(0));
    for mut watch in watches {
        assert_eq!(watch.change().expect("a change")["key"], "name");
        // And not because a connection was dropped that had not ended in time.
        assert!(watch.block().expect("the end").is_none());
    }
}

#[test]
fn a_watch_on_a_member_without_a_leader_says_so_and_ends() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    let left = followers[0];
    let mut watch = Watch::open(cluster.address(left), "", None).expect("watch");
    let last = cluster.put(leader, "last", "value");
    assert_eq!(index(&watch.change().expect("a change")), last);
    for id in [leader, followers[1]] {
        cluster.node(id).kill();
    }
    let event = watch.block().expect("an event").expect("an event");
    assert_eq!(event.event.as_deref(), Some("no-leader"), "{event:?}");
    let data = event.data.expect("data");
    assert_eq!(data["after"].as_u64(), Some(watch.id), "{data}");
    assert!(watch.block().expect("the end").is_none());
    // A later watcher gets what the member has, and the same event.
    let mut late = Watch::open(cluster.address(left), "", Some(last - 1)).expect("watch");
    assert_eq!(index(&late.change().expect("a change")), last);
    let event = late.block().expect("an event").expect("an event");
    assert_eq!(event.event.as_deref(), Some("no-leader"), "{event:?}");
}

#[test]
fn many_watchers_of_a_large_value_share_its_text() {
    const WATCHES: usize = 100;
    const VALUE_BYTES: usize = 900_000;
    let cluster = Cluster::start(1);
    let address = cluster.address(1);
    let mut watches: Vec<Watch> = (0..WATCHES)
        .map(|_| Watch::open(address, "", None).expect("watch"))
        .collect();
    // Each byte takes six bytes as an escape.
    let written = cluster.put(1, "large", vec![1; VALUE_BYTES]);
    let other = cluster.put(1, "small", "x");
    for watch in &mut watches {
        let large = watch.change().expect("the large change");
        assert_eq!(index(&large), written);
        assert_eq!(large["value"].as_str().map(str::len), Some(VALUE_BYTES));
        assert_eq!(index(&watch.change().expect("the small change")), other);
    }
    // Without sharing, each text takes its part of the budget of 256 MiB, so 54 texts at most are sent at one time.
    let peak = peak_memory_bytes(cluster.nodes[&1].pid());
    assert!(peak < 200 << 20, "{peak} bytes");
}

/// The most memory that the process has used.
fn peak_memory_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line
        .expect("a line with the peak")
        .trim()
        .trim_end_matches(" kB");
    line.parse::<usize>().expect("a number") << 10
}
