//! A write that was in flight when the leader died succeeds under the next one, once.

use crate::harness::{
    Cluster, PATIENCE, PATIENT, SetOnDrop, eventually, leader_and_followers, require,
};
use crate::http::{self, Connection, Response};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Writes one key again and again, each time under the condition that the last write of its own is still the newest.
/// If any command were applied twice or lost, a condition would fail. Gives the number of writes; all were 204.
fn write_a_chain(address: SocketAddr, key: &str, stop: &AtomicBool, written: &AtomicU64) -> u64 {
    let mut connection = Connection::open(address).expect("connect");
    let mut condition = ("If-None-Match", "*".to_owned());
    let mut count = 0;
    while !stop.load(SeqCst) {
        count += 1;
        let response = connection
            .send(
                "PUT",
                &format!("/{key}"),
                &[(condition.0, &condition.1)],
                count.to_string().as_bytes(),
            )
            .expect("a survivor answers");
        assert_eq!(response.status, 204, "write {count} of {key}: {response:?}");
        condition = ("If-Match", format!("\"{}\"", response.etag()));
        written.fetch_add(1, SeqCst);
    }
    count
}

#[test]
fn writes_in_flight_when_the_leader_dies_succeed_under_the_next_one() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    // Twice: the second time the proposals meet a log and sessions that have a history of elections.
    for round in 0..2 {
        let (leader, followers) = leader_and_followers(&cluster);
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let counts = thread::scope(|scope| {
            let _ended = SetOnDrop(&stop);
            let writers: Vec<_> = (0..6)
                .map(|i| {
                    let address = cluster.address(followers[i % 2]);
                    let key = format!("chain-{round}-{i}");
                    let (stop, written) = (&stop, &written);
                    scope.spawn(move || write_a_chain(address, &key, stop, written))
                })
                .collect();
            let reach = |target: u64| {
                eventually("the writers get on", PATIENCE, || {
                    let now = written.load(SeqCst);
                    let ended = writers.iter().any(|w| w.is_finished());
                    assert!(!ended, "a writer failed");
                    require(now >= target, || format!("{now} of {target} writes"))
                });
            };
            reach(100);
            cluster.node(leader).kill();
            reach(written.load(SeqCst) + 100);
            stop.store(true, SeqCst);
            let counts = writers.into_iter().map(|w| w.join().expect("a writer"));
            counts.collect::<Vec<_>>()
        });
        for (i, count) in counts.iter().enumerate() {
            let key = format!("chain-{round}-{i}");
            cluster.assert_value(followers[(i + 1) % 2], &key, &count.to_string());
        }
        cluster.node(leader).start();
        cluster.node(leader).wait_ready();
        for (i, count) in counts.iter().enumerate() {
            cluster.assert_value(leader, &format!("chain-{round}-{i}"), &count.to_string());
        }
    }
}

#[test]
fn of_many_creators_exactly_one_succeeds() {
    let cluster = Cluster::start(3);
    for round in 0..20 {
        let path = format!("/created-{round}");
        let created = thread::scope(|scope| {
            let creators: Vec<_> = (0..6)
                .map(|i| {
                    let (address, path) = (cluster.address(i % 3 + 1), &path);
                    scope.spawn(move || {
                        let value = format!("creator {i}");
                        let only_new = [("If-None-Match", "*")];
                        let response =
                            http::request(address, "PUT", path, &only_new, value.as_bytes())
                                .expect("an answer");
                        match response.status {
                            204 => Some((value, response.etag())),
                            412 => None,
                            _ => panic!("{response:?}"),
                        }
                    })
                })
                .collect();
            let created = creators.into_iter().map(|c| c.join().expect("a creator"));
            created.flatten().collect::<Vec<_>>()
        });
        let [(value, etag)] = created.as_slice() else {
            panic!("round {round}: {created:?} all created {path}");
        };
        let read = cluster.send(round % 3 + 1, "GET", &path, &[], b"");
        assert_eq!((&read.text(), read.etag()), (value, *etag));
    }
}

/// How often a client of a node that is down tries again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(15);

/// What the threads of the counter test found.
#[derive(Default)]
struct Tally {
    /// Values whose write was acknowledged.
    acknowledged: Vec<u64>,
    /// Writes whose outcome nobody knows.
    unknown: u64,
}

/// Increments through one node until told to stop: reads, and writes one more under the condition that nobody else
/// did meanwhile.
fn increment(address: SocketAddr, stop: &AtomicBool, acknowledged: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    let mut connection: Option<Connection> = None;
    while !stop.load(SeqCst) {
        // The node may be down for now.
        let mut open = match connection
            .take()
            .map_or_else(|| Connection::open(address), Ok)
        {
            Ok(open) => open,
            Err(_) => {
                thread::park_timeout(RECONNECT_INTERVAL);
                continue;
            }
        };
        let (value, etag) = match open.send("GET", "/counter", &[], b"") {
            Ok(response) if response.status == 200 => {
                let value: u64 = response.text().parse().expect("the counter is a number");
                (value, response.etag())
            }
            // No leader confirmed it in time.
            Ok(response) if response.status == 503 => {
                connection = Some(open);
                continue;
            }
            Ok(response) => panic!("{response:?}"),
            Err(_) => continue,
        };
        let condition = [("If-Match", &*format!("\"{etag}\""))];
        let next = value + 1;
        let written: std::io::Result<Response> =
            open.send("PUT", "/counter", &condition, next.to_string().as_bytes());
        match written {
            Ok(response) => {
                match response.status {
                    204 => {
                        tally.acknowledged.push(next);
                        acknowledged.fetch_add(1, SeqCst);
                    }
                    // Surely without effect: somebody else was first, or there is no leader.
                    412 | 503 => {}
                    504 => tally.unknown += 1,
                    _ => panic!("{response:?}"),
                }
                connection = Some(open);
            }
            // The node died under it.
            Err(_) => tally.unknown += 1,
        }
    }
    tally
}

#[test]
fn no_increment_is_lost_or_counted_twice_while_leaders_die() {
    let mut cluster = Cluster::start(3);
    cluster.put(1, "counter", "0");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let tallies = thread::scope(|scope| {
        let _ended = SetOnDrop(&stop);
        let threads: Vec<_> = (0..6)
            .map(|i| {
                let address = cluster.address(i % 3 + 1);
                let (stop, acknowledged) = (&stop, &acknowledged);
                scope.spawn(move || increment(address, stop, acknowledged))
            })
            .collect();
        let more = |n: u64| {
            let target = acknowledged.load(SeqCst) + n;
            eventually("the counter moves", PATIENCE, || {
                let now = acknowledged.load(SeqCst);
                let ended = threads.iter().any(|t| t.is_finished());
                assert!(!ended, "a thread failed");
                require(now >= target, || format!("{now} of {target}"))
            });
        };
        more(50);
        for _ in 0..3 {
            let leader = cluster.leader();
            cluster.node(leader).kill();
            more(50);
            cluster.node(leader).start();
            cluster.node(leader).wait_ready();
            more(20);
        }
        stop.store(true, SeqCst);
        let tallies = threads.into_iter().map(|t| t.join().expect("a thread"));
        tallies.collect::<Vec<_>>()
    });

    let acknowledged: Vec<u64> = tallies
        .iter()
        .flat_map(|tally| tally.acknowledged.iter().copied())
        .collect();
    let unknown: u64 = tallies.iter().map(|tally| tally.unknown).sum();
    let distinct: BTreeSet<u64> = acknowledged.iter().copied().collect();
    assert_eq!(
        distinct.len(),
        acknowledged.len(),
        "one value was acknowledged twice"
    );
    let value = cluster.get(1, "counter").expect("the counter is there");
    let value: u64 = String::from_utf8(value)
        .expect("the counter is a number")
        .parse()
        .expect("the counter is a number");
    let counted = acknowledged.len() as u64;
    assert!(
        (counted..=counted + unknown).contains(&value),
        "the counter is {value}, with {counted} acknowledged and {unknown} unknown increments"
    );
    for id in 1..=3 {
        cluster.assert_value(id, "counter", &value.to_string());
    }
}
