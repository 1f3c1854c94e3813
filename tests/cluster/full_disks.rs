//! Disks that fill up under the real binary. A small tmpfs is a disk that is soon full; where none may be mounted the
//! tests say so and check nothing.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{Connection, Response};
use crate::skipped::skipped;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

const VALUE_BYTES: usize = 500_000;
/// Room for the first file of the log, and little more.
const SMALL_MEGABYTES: u32 = 76;
const LARGE_MEGABYTES: u32 = 600;

/// A file system in memory, mounted for a test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Option<SmallDisk> {
        fs::create_dir(at).expect("create the mount point");
        let options = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(SmallDisk(at.to_owned()));
        }
        skipped("permission to mount a file system");
        None
    }

    fn grow(&self, megabytes: u32) {
        let grown = Command::new("mount")
            .args(["-o", &format!("remount,size={megabytes}m")])
            .arg(&self.0)
            .status();
        assert!(grown.expect("run mount").success(), "grow the disk");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // After a failed test the node still runs: then the disk goes when that has ended.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Gives a member a small disk of its own.
fn on_small_disk(cluster: &mut Cluster, id: u64) -> Option<SmallDisk> {
    let mount_point = cluster.path().join(format!("disk-{id}"));
    let disk = SmallDisk::mount(&mount_point, SMALL_MEGABYTES)?;
    let data_dir = mount_point.join("data");
    let node = cluster.node(id);
    node.set_flag("--data-dir", data_dir.to_str().expect("an ASCII path"));
    node.data_dir = data_dir;
    Some(disk)
}

fn value(number: usize) -> String {
    format!("{number:04}").repeat(VALUE_BYTES / 4)
}

/// Writes through a member until a write is not answered with 204. Returns how many were, and the other answer.
fn write_until_refused(cluster: &Cluster, id: u64, prefix: &str) -> (usize, Response) {
    let mut connection = Connection::open(cluster.address(id)).expect("connect");
    for number in 0..2_000 {
        let path = format!("/{prefix}-{number}");
        let response = connection.send("PUT", &path, &[], value(number).as_bytes());
        let response = response.expect("an answer");
        if response.status != 204 {
            return (number, response);
        }
    }
    panic!("the disk does not fill up");
}

#[track_caller]
fn assert_disk_full(response: &Response) {
    assert_eq!(response.status, 507, "{response:?}");
    assert_eq!(response.header("x-raftkvd-outcome"), Some("none"));
    let text = response.text();
    assert!(text.contains("disk of this member is full"), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}

#[track_caller]
fn assert_ready_for_reads(cluster: &Cluster, id: u64) {
    let ready = cluster.send(id, "GET", "/-/ready", &[], b"");
    assert_eq!(ready.status, 200, "{ready:?}");
    assert!(ready.text().contains("disk of this member is full"));
    let metrics = cluster.send(id, "GET", "/-/metrics", &[], b"").text();
    assert!(metrics.contains("\nraftkvd_disk_full 1\n"), "{metrics}");
}

/// Fills the disk of a single member, whichever of its files is the one that does not fit, and gives it room again.
fn fill_the_disk(snapshot_bytes: &str) {
    let mut cluster = Cluster::prepare(1, &["--snapshot-bytes", snapshot_bytes]);
    let Some(disk) = on_small_disk(&mut cluster, 1) else {
        return;
    };
    cluster.start_all();
    let (acknowledged, refusal) = write_until_refused(&cluster, 1, "big");
    assert!(acknowledged > 20, "{acknowledged}");
    assert_disk_full(&refusal);
    assert_ready_for_reads(&cluster, 1);
    for number in 0..acknowledged {
        cluster.assert_value(1, &format!("big-{number}"), &value(number));
    }
    // It starts without room, again and again.
    for _ in 0..3 {
        cluster.node(1).kill();
        cluster.node(1).start();
        cluster.node(1).wait_ready();
    }
    cluster.assert_value(1, "big-0", &value(0));
    assert_disk_full(&cluster.send(1, "PUT", "/more", &[], &[7; VALUE_BYTES]));

    disk.grow(LARGE_MEGABYTES);
    eventually("writes return by themselves", PATIENCE, || {
        let response = cluster.send(1, "PUT", "/more", &[], &[7; VALUE_BYTES]);
        require(response.status == 204, || format!("{response:?}"))
    });
    let said = cluster.node(1).last_log();
    assert!(said.contains("has room again"), "{said}");
    for number in 0..acknowledged {
        cluster.assert_value(1, &format!("big-{number}"), &value(number));
    }
    cluster.node(1).assert_alive();
    // The disk goes before the directory that it is mounted in.
    cluster.node(1).kill();
}

#[test]
fn a_disk_that_the_log_fills_refuses_writes_until_there_is_room() {
    fill_the_disk("64M");
}

#[test]
fn a_disk_that_a_snapshot_fills_refuses_writes_until_there_is_room() {
    fill_the_disk("1M");
}

#[test]
fn members_whose_disks_fill_together_serve_reads_and_come_back_together() {
    let mut cluster = Cluster::prepare(3, &["--snapshot-bytes", "1M", "--request-timeout", "20s"]);
    let mut disks = Vec::new();
    for id in 1..=3 {
        let Some(disk) = on_small_disk(&mut cluster, id) else {
            return;
        };
        disks.push(disk);
    }
    cluster.start_all();
    let acknowledged = thread::scope(|scope| {
        let (cluster, all) = (&cluster, 1..=3);
        let writers = all
            .map(|id| scope.spawn(move || write_until_refused(cluster, id, &format!("by-{id}"))));
        let writers: Vec<_> = writers.collect();
        writers
            .into_iter()
            .map(|writer| writer.join().expect("it writes"))
            .collect::<Vec<_>>()
    });
    let refused = acknowledged
        .iter()
        .filter(|(_, refusal)| refusal.status == 507);
    assert!(refused.count() > 0, "{acknowledged:?}");
    for id in 1..=3 {
        cluster.node(id).assert_alive();
        for (writer, (count, _)) in (1..).zip(&acknowledged) {
            assert!(*count > 0);
            let last = count - 1;
            cluster.assert_value(id, &format!("by-{writer}-{last}"), &value(last));
        }
    }
    for disk in &disks {
        disk.grow(LARGE_MEGABYTES);
    }
    for id in 1..=3 {
        eventually("writes return by themselves", PATIENCE, || {
            let response = cluster.send(id, "PUT", "/more", &[], &[7; VALUE_BYTES]);
            require(response.status == 204, || format!("{response:?}"))
        });
    }
    cluster.assert_hashes_agree(&[1, 2, 3]);
    cluster.kill_all();
}

#[test]
fn a_leader_without_room_hands_over_and_full_followers_say_so_while_their_leader_waits() {
    let mut cluster = Cluster::prepare(3, &["--request-timeout", "2s"]);
    let roomy = 3;
    let mut disks = Vec::new();
    for id in 1..=2 {
        let Some(disk) = on_small_disk(&mut cluster, id) else {
            return;
        };
        disks.push(disk);
    }
    cluster.start_all();
    // Whoever leads: in the end only the roomy member can, and its writes find no majority.
    eventually(
        "the followers are full, and the roomy one leads",
        3 * PATIENCE,
        || {
            let response = cluster.send(roomy, "PUT", "/more", &[], &[7; VALUE_BYTES]);
            let leads = cluster.leader() == roomy;
            require(response.status == 504 && leads, || format!("{response:?}"))
        },
    );
    for id in 1..=2 {
        assert_disk_full(&cluster.send(id, "PUT", "/more", &[], &[7; VALUE_BYTES]));
        let ready = cluster.send(id, "GET", "/-/ready", &[], b"").text();
        assert!(ready.contains("disk of this member is full"), "{ready}");
        let said = cluster.node(id).log_text();
        assert!(said.contains("the disk of this member is full"), "{said}");
    }
    assert!(cluster.get(roomy, "more").is_some());
    disks[0].grow(LARGE_MEGABYTES);
    eventually("one of them is enough", PATIENCE, || {
        let response = cluster.send(roomy, "PUT", "/more", &[], b"again");
        require(response.status == 204, || format!("{response:?}"))
    });
    disks[1].grow(LARGE_MEGABYTES);
    cluster.assert_hashes_agree(&[1, 2, 3]);
    cluster.kill_all();
}

#[test]
fn a_directory_that_was_copied_with_holes_waits_for_room_on_a_full_disk() {
    let mut cluster = Cluster::prepare(1, &[]);
    let Some(disk) = on_small_disk(&mut cluster, 1) else {
        return;
    };
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.node(1).kill();
    let data = cluster.node(1).data_dir.clone();
    let copy = disk.0.join("copy");
    let copied = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([&data, &copy])
        .status();
    assert!(copied.expect("run cp").success());
    fs::remove_dir_all(&data).expect("remove the original");
    fs::rename(&copy, &data).expect("put the copy in its place");
    let filler = disk.0.join("filler");
    let mut file = fs::File::create(&filler).expect("create a file");
    let piece = vec![7; 1 << 20];
    while file.write_all(&piece).is_ok() {}
    drop(file);

    cluster.node(1).start();
    eventually("it waits for room", PATIENCE, || {
        let said = cluster.nodes[&1].last_log();
        let waits = said.contains("has no room for the next segment of the log");
        require(waits, || said)
    });
    cluster.node(1).assert_alive();
    fs::remove_file(&filler).expect("make room");
    disk.grow(LARGE_MEGABYTES);
    cluster.node(1).wait_ready();
    cluster.assert_value(1, "foo", "bar");
    cluster.put(1, "foo", vec![7; VALUE_BYTES]);
    cluster.node(1).assert_alive();
    cluster.node(1).kill();
}
