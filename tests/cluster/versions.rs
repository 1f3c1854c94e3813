//! Two versions in one cluster: the daemon, and a build of the next command version, which has a kind of command more.
//!
//! That one is made by `cargo build --features later`, and found at `RAFTKVD_LATER`, or beside the daemon as
//! `raftkvd-later`. Without it the test is skipped, and says so. `ci.sh` makes it.
//!
//! Another test runs the daemon together with any other build of the same protocol between peers, which `RAFTKVD_PREVIOUS`
//! names: the newest release, before another one is made.

use crate::harness::{Cluster, PATIENCE, SetOnDrop, eventually, require};
use crate::http;
use crate::process::BINARY;
use crate::skipped::skipped;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const PROPOSED: &str = "proposed a command of the later kind";
const CARRIED_OUT: &str = "carried out a command of the later kind";

fn later_binary() -> Option<PathBuf> {
    let path = match std::env::var_os("RAFTKVD_LATER") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(format!("{BINARY}-later")),
    };
    let found = path.exists();
    if !found {
        let path = path.display();
        skipped(&format!("{path}, which cargo build --features later makes"));
    }
    found.then_some(path)
}

/// Writes one key after the other through any member, until told to stop. Gives those that were acknowledged.
fn write(addresses: &[SocketAddr], stop: &AtomicBool, acknowledged: &Mutex<Vec<String>>) {
    for (number, address) in addresses.iter().cycle().enumerate() {
        if stop.load(SeqCst) {
            return;
        }
        let key = format!("rolling-{number}");
        // One that is just restarted answers nothing.
        let answer = http::request(*address, "PUT", &format!("/{key}"), &[], key.as_bytes());
        if answer.is_ok_and(|response| response.status == 204) {
            acknowledged
                .lock()
                .expect("nobody panics with it")
                .push(key);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn restart(cluster: &mut Cluster, id: u64, binary: &Path) {
    cluster.node(id).signal(Signal::TERM);
    assert_eq!(cluster.node(id).exit_code(PATIENCE), Some(0));
    cluster.node(id).binary = binary.to_owned();
    cluster.node(id).start();
    cluster.node(id).wait_ready();
}

/// Waits until this member has heard that a member runs this version.
fn wait_for_version(cluster: &Cluster, on: u64, member: u64, version: u64) {
    let line = format!(
        "a member knows another command version, member: {member}, command_version: {version}"
    );
    eventually("the table has the version", PATIENCE, || {
        let text = cluster.nodes[&on].log_text();
        let last = text.lines().rev();
        let of_member = |line: &&str| line.contains(&format!("command version, member: {member},"));
        let last = last
            .filter(|line| line.contains("another command version"))
            .find(of_member);
        require(last.is_some_and(|last| last.contains(&line)), || {
            format!("{last:?}")
        })
    });
}

fn make_leader(cluster: &Cluster, id: u64) {
    eventually("it leads", PATIENCE, || {
        let body = id.to_string();
        let response = cluster.send(id, "POST", "/-/leader", &[], body.as_bytes());
        require(response.status == 204, || format!("{response:?}"))
    });
}

fn assert_not_proposed(cluster: &Cluster) {
    for node in cluster.nodes.values() {
        let text = node.log_text();
        assert!(
            !text.contains(PROPOSED) && !text.contains(CARRIED_OUT),
            "{}",
            node.id
        );
    }
}

#[test]
fn two_versions_run_together_and_there_is_no_way_back_once_all_have_used_the_later_one() {
    let Some(later) = later_binary() else {
        return;
    };
    let normal = Path::new(BINARY);
    let mut cluster = Cluster::start(3);
    cluster.put(1, "before", "v");
    let addresses: Vec<SocketAddr> = (1..=3).map(|id| cluster.address(id)).collect();
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let _ended = SetOnDrop(&stop);
        scope.spawn(|| write(&addresses, &stop, &acknowledged));

        restart(&mut cluster, 3, &later);
        wait_for_version(&cluster, 1, 3, 4);
        make_leader(&cluster, 3);
        cluster.put(1, "led-by-the-later-one", "v");
        assert_not_proposed(&cluster);
        // There still is a way back.
        restart(&mut cluster, 3, normal);
        wait_for_version(&cluster, 1, 3, 3);
        restart(&mut cluster, 3, &later);
        wait_for_version(&cluster, 1, 3, 4);
        restart(&mut cluster, 1, &later);
        wait_for_version(&cluster, 2, 1, 4);
        make_leader(&cluster, 3);
        cluster.put(2, "two-of-three", "v");
        assert_not_proposed(&cluster);
        restart(&mut cluster, 2, &later);
        for id in 1..=3 {
            eventually("the later kind is carried out", PATIENCE, || {
                let text = cluster.nodes[&id].log_text();
                require(text.contains(CARRIED_OUT), || format!("not on {id}"))
            });
        }
        eventually("many writes are acknowledged", PATIENCE, || {
            let count = acknowledged.lock().expect("nobody panics with it").len();
            require(count > 50, || format!("{count} writes"))
        });
    });
    let proposed = cluster
        .nodes
        .values()
        .filter(|node| node.log_text().contains(PROPOSED));
    assert!(proposed.count() >= 1);

    cluster.node(2).signal(Signal::TERM);
    assert_eq!(cluster.node(2).exit_code(PATIENCE), Some(0));
    cluster.node(2).binary = normal.to_owned();
    cluster.node(2).start_expecting_exit(8);
    let said = cluster.node(2).last_log();
    let line = "needs raftkvd of command version 4, and this one knows 3";
    assert!(said.contains(line), "{said}");
    cluster.put(1, "meanwhile", "v");
    cluster.node(2).start_expecting_exit(8);

    cluster.node(2).binary = later;
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.assert_hashes_agree(&[1, 2, 3]);
    for key in [
        "before",
        "led-by-the-later-one",
        "two-of-three",
        "meanwhile",
    ] {
        cluster.assert_value(2, key, "v");
    }
    let acknowledged = acknowledged.into_inner().expect("nobody panics with it");
    for key in acknowledged {
        cluster.assert_value(2, &key, &key);
    }
}

/// A member of one build adds a member of the other build. That member is emptied, replaced, and removed.
fn identity_across(first: &Path, second: &Path) {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.node(1).binary = first.to_owned();
    cluster.start_all();
    let id = cluster.lay_out_joiner();
    cluster.node(id).binary = second.to_owned();
    cluster.add_member(1, id);
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    cluster.wait_voters(1, &[1, id]);
    let third = cluster.lay_out_joiner();
    cluster.node(third).binary = first.to_owned();
    cluster.node(third).start();
    cluster.add_member(id, third);
    cluster.node(third).wait_ready();
    cluster.wait_voters(id, &[1, id, third]);
    cluster.put(1, "k", "v");

    cluster.node(id).kill();
    cluster.node(id).wipe();
    cluster.node(id).start_expecting_exit(5);
    cluster.remove_member(1, id);
    cluster.node(id).wipe();
    cluster.node(id).start();
    cluster.add_member(third, id);
    cluster.node(id).wait_ready();
    cluster.wait_voters(1, &[1, id, third]);
    cluster.assert_value(id, "k", "v");

    cluster.node(id).kill();
    cluster.remove_member(1, id);
    cluster.node(id).start();
    assert_eq!(cluster.node(id).exit_code(PATIENCE), Some(0));
    cluster.node(id).start_expecting_exit(7);
}

#[test]
fn members_of_this_build_and_of_another_know_who_is_who() {
    let Some(previous) = std::env::var_os("RAFTKVD_PREVIOUS") else {
        return skipped("RAFTKVD_PREVIOUS, another build of raftkvd");
    };
    let (this, previous) = (Path::new(BINARY), Path::new(&previous));
    identity_across(this, previous);
    identity_across(previous, this);
}
