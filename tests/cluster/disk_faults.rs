//! Disks that fail or slow down under the real binary. `strace` makes system calls fail; where it is missing the tests
//! say so and check nothing.

use crate::harness::{Cluster, PATIENCE, PATIENT, eventually, leader_and_followers, require};
use crate::http::{self, Connection};
use crate::skipped::skipped;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// A process that a member's disk made stop.
const DISK_FAILED: Option<i32> = Some(6);

/// The words that start a program with this done to its calls of fdatasync, if there is an strace that can.
fn fdatasync_with(injection: &str) -> Option<Vec<String>> {
    call_with("fdatasync", injection)
}

/// The same for any system call.
pub fn call_with(call: &str, injection: &str) -> Option<Vec<String>> {
    let wrapper: Vec<String> = [
        "/usr/bin/env",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        // -D: strace runs beside, so that the daemon is the child that we signal and whose exit code we get.
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={call}:{injection}"),
    ]
    .map(str::to_owned)
    .into();
    let works = Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status();
    if works.is_ok_and(|status| status.success()) {
        return Some(wrapper);
    }
    skipped("strace that may trace");
    None
}

/// Writes through a node from several connections until each got an answer other than 204, or none. Gives what was
/// acknowledged.
fn write_until_it_fails(cluster: &Cluster, id: u64) -> BTreeMap<String, String> {
    let address = cluster.address(id);
    let acknowledged = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for writer in 0..4 {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let mut connection = Connection::open(address).expect("connect");
                for number in 0.. {
                    let (key, value) = (format!("{writer}/{number}"), format!("value {number}"));
                    let path = http::encode(key.as_bytes());
                    match connection.send("PUT", &path, &[], value.as_bytes()) {
                        Ok(response) if response.status == 204 => {
                            acknowledged.lock().expect("the list").insert(key, value);
                        }
                        _ => break,
                    }
                }
            });
        }
    });
    acknowledged.into_inner().expect("the list")
}

#[test]
fn a_failed_fdatasync_ends_the_node_and_acknowledges_nothing() {
    let Some(wrapper) = fdatasync_with("error=EIO:when=40+") else {
        return;
    };
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.node(1).wrapper = wrapper;
    cluster.start_all();
    let acknowledged = write_until_it_fails(&cluster, 1);
    let node = cluster.node(1);
    assert_eq!(node.exit_code(PATIENCE), DISK_FAILED);
    let said = node.last_log();
    let last = said.lines().last().unwrap_or_default();
    assert!(
        last.contains("fdatasync") && last.contains(".wal"),
        "{said}"
    );
    assert!(!acknowledged.is_empty(), "it failed too early: {said}");

    node.wrapper.clear();
    cluster.start_all();
    for (key, value) in &acknowledged {
        cluster.assert_value(1, key, value);
    }
    // Of each writer at most the write that had no answer is there as well, not one later.
    for writer in 0..4 {
        let prefix = format!("{writer}/");
        let count = acknowledged
            .keys()
            .filter(|k| k.starts_with(&prefix))
            .count();
        assert_eq!(cluster.get(1, &format!("{writer}/{}", count + 1)), None);
    }
}

#[test]
fn a_signal_that_interrupts_an_allocation_ends_nothing() {
    // Each first attempt.
    let Some(wrapper) = call_with("fallocate", "error=EINTR:when=1+2") else {
        return;
    };
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.node(1).wrapper = wrapper;
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.kill_all();
    cluster.start_all();
    cluster.assert_value(1, "foo", "bar");
}

#[test]
fn a_leader_whose_disk_fails_ends_and_the_others_go_on() {
    let Some(wrapper) = fdatasync_with("error=EIO:when=200+") else {
        return;
    };
    let mut cluster = Cluster::prepare(3, &PATIENT);
    for id in 1..=3 {
        cluster.node(id).start();
    }
    for id in 1..=3 {
        cluster.node(id).wait_ready();
    }
    // The one with the bad disk shall lead: the others give way until it does, in few steps, for its syncs are counted.
    let bad = cluster.leader();
    cluster.node(bad).kill();
    cluster.node(bad).wrapper = wrapper;
    cluster.node(bad).start();
    cluster.node(bad).wait_ready();
    let deadline = Instant::now() + PATIENCE;
    while cluster.leader() != bad {
        assert!(
            Instant::now() < deadline,
            "node {bad} does not come to lead"
        );
        // With the third one down, the leader can hand over to nobody else.
        let leader = cluster.leader();
        let other = 6 - bad - leader;
        cluster.node(other).kill();
        cluster.node(leader).signal(rustix::process::Signal::TERM);
        assert_eq!(cluster.node(leader).exit_code(PATIENCE), Some(0));
        cluster.node(leader).start();
        cluster.node(other).start();
        cluster.node(leader).wait_ready();
        cluster.node(other).wait_ready();
    }
    let acknowledged = write_until_it_fails(&cluster, bad);
    assert_eq!(cluster.node(bad).exit_code(PATIENCE), DISK_FAILED);
    assert!(!acknowledged.is_empty());
    let survivor = cluster.running()[0];
    for (key, value) in &acknowledged {
        cluster.assert_value(survivor, key, value);
    }
    cluster.put(survivor, "after", "the failure");
    cluster.node(bad).wrapper.clear();
    cluster.node(bad).start();
    cluster.node(bad).wait_ready();
    cluster.assert_value(bad, "after", "the failure");
    cluster.assert_hashes_agree(&[1, 2, 3]);
}

#[test]
fn a_leader_with_a_slow_disk_still_acknowledges_many_writes_at_a_time() {
    const SYNC: Duration = Duration::from_millis(100);
    const WRITERS: u32 = 16;
    const EACH: u32 = 8;
    let Some(wrapper) = fdatasync_with(&format!("delay_enter={}", SYNC.as_micros())) else {
        return;
    };
    let mut cluster = Cluster::prepare(3, &PATIENT);
    for id in 1..=3 {
        cluster.node(id).wrapper = wrapper.clone();
    }
    cluster.start_all();
    let (leader, _) = leader_and_followers(&cluster);
    let begin = Instant::now();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let cluster = &cluster;
            scope.spawn(move || {
                for number in 0..EACH {
                    cluster.put(leader, &format!("{writer}/{number}"), number.to_string());
                }
            });
        }
    });
    let took = begin.elapsed();
    // A sync for each write would take twice as long as this allows.
    let allowed = SYNC * WRITERS * EACH / 2;
    assert!(took < allowed, "{took:?}");
    for writer in 0..WRITERS {
        cluster.assert_value(leader, &format!("{writer}/7"), "7");
    }
    cluster.assert_hashes_agree(&[1, 2, 3]);
}

#[test]
fn a_slow_fdatasync_is_logged_with_its_time() {
    let Some(wrapper) = fdatasync_with("delay_enter=600000:when=30+") else {
        return;
    };
    let mut cluster = Cluster::prepare(1, &PATIENT);
    cluster.node(1).wrapper = wrapper;
    cluster.start_all();
    let mut number = 0;
    eventually("a slow write is logged", PATIENCE, || {
        number += 1;
        cluster.put(1, "foo", number.to_string());
        let log = cluster.nodes[&1].last_log();
        let line = log.lines().find(|line| line.contains("the disk is slow"));
        let ms = line.and_then(|line| line.split("ms: ").nth(1)?.split(',').next()?.parse().ok());
        let is_told = ms.is_some_and(|ms: u32| (600..30_000).contains(&ms));
        require(is_told, || log)
    });
}

#[test]
fn a_file_that_can_not_be_deleted_is_tried_again() {
    for error in ["ENOSPC", "EIO"] {
        // Three attempts fail.
        let Some(wrapper) = call_with("unlink", &format!("error={error}:when=1..3")) else {
            return;
        };
        let mut cluster = Cluster::prepare(1, &["--snapshot-bytes", "65536"]);
        cluster.node(1).wrapper = wrapper;
        cluster.start_all();
        let mut number = 0;
        eventually("the files are deleted at last", 2 * PATIENCE, || {
            number += 1;
            cluster.put(1, "foo", vec![7; 20_000]);
            let log = cluster.nodes[&1].last_log();
            let is_deleted = log.contains("deleted the files that could not be deleted before");
            require(is_deleted, || log)
        });
        let log = cluster.nodes[&1].last_log();
        let failure = "can't delete a file that is no longer needed";
        assert_eq!(log.matches(failure).count(), 1, "{log}");
        let shown = cluster.send(1, "GET", "/-/metrics", &[], b"").text();
        let failed = "\nraftkvd_file_work_failed_total{work=\"delete\"} ";
        let failed = shown
            .split(failed)
            .nth(1)
            .and_then(|rest| rest.lines().next());
        assert!(failed.is_some_and(|failed| failed != "0"), "{shown}");
        eventually("two snapshots stay", PATIENCE, || {
            let snapshots = cluster.nodes[&1].files("snap", ".snap");
            require(snapshots.len() <= 2, || format!("{snapshots:?}"))
        });
        cluster.kill_all();
    }
}
