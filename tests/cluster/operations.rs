//! What an operator does beside running the daemon: backups, restores, inspection.

use crate::harness::{Cluster, Node, PATIENCE, SetOnDrop, daemon, eventually, require, run_to_end};
use crate::http::Connection;
use crate::process::Ended;
use protobuf::Message as _;
use raftkvd::command::SnapshotHeader;
use raftkvd::limits::{INDEX_MAX, RESTORE_SKIP, RESTORED_INDEX_MAX};
use raftkvd::storage::SnapshotEncoder;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use tempfile::TempDir;

/// Runs a subcommand.
#[track_caller]
fn operate(directory: &Path, arguments: &[&str]) -> Ended {
    run_to_end(daemon(directory).args(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

fn client_url(cluster: &Cluster, id: u64) -> String {
    format!("http://{}", cluster.address(id))
}

/// `raftkvd backup` of this member into this directory; gives the file, and the index in its name.
#[track_caller]
fn back_up(cluster: &Cluster, id: u64, directory: &Path) -> (PathBuf, u64) {
    let url = client_url(cluster, id);
    let ended = operate(Path::new("/"), &["backup", &url, text(directory)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (path, _) = ended.stdout.split_once(':').expect("the name of the file");
    let path = PathBuf::from(path);
    let index = text(&path)
        .strip_suffix(".snap")
        .and_then(|name| name.rsplit('-').next())
        .and_then(|index| index.parse().ok())
        .expect("the index is in the file name");
    (path, index)
}

/// Restores a member that was laid out and not started.
#[track_caller]
fn restore(node: &Node, file: &Path, urls: &str) -> Ended {
    let id = node.id.to_string();
    let arguments = [
        "restore",
        text(file),
        "--data-dir",
        text(&node.data_dir),
        "--id",
        &id,
        "--cluster",
        urls,
    ];
    operate(Path::new("/"), &arguments)
}

/// What `inspect` says of a snapshot that is sound: its hash, as `GET /-/hash` writes it.
#[track_caller]
fn hash_of(file: &Path) -> String {
    let ended = operate(Path::new("/"), &["inspect", text(file)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (_, rest) = ended.stdout.split_once("hash ").expect("a hash");
    rest[..16].to_owned()
}

/// Names and bytes of all files below a directory.
fn files_below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("list") {
        let path = entry.expect("list").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            let bytes = fs::read(&path).expect("read");
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn backups_under_load_hold_all_that_was_acknowledged_and_no_half_of_a_transaction() {
    let cluster = Cluster::start_with(3, &["--snapshot-bytes", "256K"]);
    let directory = TempDir::new().expect("create a directory");
    let stop = AtomicBool::new(false);
    // Writer i sets left-i and right-i to the same number, again and again.
    let acknowledged: [AtomicU64; 3] = Default::default();
    let mut backups = Vec::new();
    thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        for (id, acknowledged) in (1..).zip(&acknowledged) {
            let (cluster, stop) = (&cluster, &stop);
            scope.spawn(move || {
                for number in 1_u64.. {
                    if stop.load(SeqCst) {
                        return;
                    }
                    let body = format!(
                        r#"{{"conditions":[],"operations":[
                            {{"op":"put","key":"left-{id}","value":"{number}"}},
                            {{"op":"put","key":"filler-{id}-{number}","value":"{}"}},
                            {{"op":"put","key":"right-{id}","value":"{number}"}}]}}"#,
                        "x".repeat(1000)
                    );
                    let done = cluster.send(id, "POST", "/-/txn", &[], body.as_bytes());
                    assert_eq!(done.status, 200, "{done:?}");
                    acknowledged.store(number, SeqCst);
                }
            });
        }
        let begun = || acknowledged.iter().all(|number| number.load(SeqCst) > 20);
        eventually("there is load", PATIENCE, || {
            require(begun(), || "not yet".to_owned())
        });
        for round in 0..6 {
            let before = acknowledged.each_ref().map(|number| number.load(SeqCst));
            let (file, _) = back_up(&cluster, 1 + round % 3, directory.path());
            backups.push((before, file));
            // Also while files change, come and go.
            let dir = &cluster.nodes[&(1 + round % 3)].data_dir;
            let inspected = operate(directory.path(), &["inspect", text(dir)]);
            assert_eq!(inspected.code, Some(0), "{inspected:?}");
            assert!(inspected.stdout.contains("a process uses it"));
        }
    });

    // Now that nothing is written, the hash that a member tells is that of the backup.
    let (file, index) = back_up(&cluster, 2, directory.path());
    cluster.assert_hashes_agree(&[1, 2, 3]);
    let hash = cluster.nodes[&1].hash().expect("a hash");
    assert_eq!((index, hash_of(&file)), hash);

    for (before, file) in &backups[4..] {
        let mut new = Cluster::prepare_beside(&cluster, 1, &[]);
        let urls = new.nodes[&1].url();
        let restored = restore(&new.nodes[&1], file, &urls);
        assert_eq!(restored.code, Some(0), "{restored:?}");
        new.start_all();
        assert_eq!(new.nodes[&1].hash().expect("a hash").1, hash_of(file));
        for (id, before) in (1..).zip(before) {
            let number = |side: &str| {
                let value = new.get(1, &format!("{side}-{id}")).expect("it was written");
                let value = String::from_utf8(value).expect("digits");
                value.parse::<u64>().expect("a number")
            };
            let (left, right) = (number("left"), number("right"));
            assert_eq!(left, right, "a half of a transaction");
            assert!(
                left >= *before,
                "{left} is in it, {before} was acknowledged"
            );
            let filler = new.get(1, &format!("filler-{id}-{left}"));
            assert!(filler.is_some(), "a part of a transaction is missing");
        }
    }
}

#[test]
fn a_backup_restores_to_a_new_cluster_that_is_no_part_of_the_old_one() {
    let mut old = Cluster::start(3);
    for i in 0..100 {
        old.put(1 + i % 3, &format!("key-{i}"), format!("value {i}"));
    }
    let large = vec![7_u8; 900_000];
    let etag = old.put(2, "large", &large);
    old.remove_member(1, 3);
    assert_eq!(old.node(3).exit_code(PATIENCE), Some(0));
    let directory = TempDir::new().expect("create a directory");
    let (file, index) = back_up(&old, 2, directory.path());
    assert!(index >= etag, "all that was acknowledged is in it: {index}");
    old.put(1, "key-0", "after the backup");
    let inspected = operate(directory.path(), &["inspect", text(&file)]);
    assert!(inspected.stdout.contains("101 keys"), "{inspected:?}");
    assert!(inspected.stdout.contains("member 3 was removed"));

    // With one member more than there are now: who they are is not in the file.
    let mut new = Cluster::prepare_beside(&old, 3, &[]);
    let urls: Vec<String> = new.nodes.values().map(Node::url).collect();
    let urls = urls.join(",");
    let first = &new.nodes[&1];
    let restored = restore(first, &file, &urls);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let before = files_below(&first.data_dir);
    let again = restore(first, &file, &urls);
    assert_eq!(again.code, Some(2), "it is not empty any more: {again:?}");
    assert!(files_below(&first.data_dir) == before, "and was changed");
    let inspected = operate(directory.path(), &["inspect", text(&first.data_dir)]);
    assert_eq!(inspected.code, Some(0), "{inspected:?}");
    let (_, said) = restored
        .stdout
        .split_once("it goes on at index ")
        .expect("where");
    let begins: String = said.chars().take_while(char::is_ascii_digit).collect();
    let begins_at: u64 = begins.parse().expect("an index");
    assert!(begins_at - index >= RESTORE_SKIP, "{restored:?}");
    let begins = format!("a start begins with snapshot {begins}");
    assert!(inspected.stdout.contains(&begins), "{inspected:?}");
    // The others start empty, and are sent everything.
    for id in [2, 3] {
        assert_is_not_restored(&new.nodes[&id], &file, &urls);
    }
    // Until all are there, clients see nothing of it.
    new.node(1).start();
    new.node(2).start();
    for id in [1, 2] {
        new.node(id).wait_closed("forming");
        let refused = new.send(id, "GET", "/key-1?consistency=stale", &[], b"");
        assert_eq!(refused.status, 503, "{refused:?}");
    }
    new.start_all();
    for i in 0..100 {
        new.assert_value(1 + i % 3, &format!("key-{i}"), &format!("value {i}"));
    }
    let get = new.send(3, "GET", "/large", &[], b"");
    assert_eq!((get.etag(), get.body == large), (etag, true));
    let condition = format!("\"{etag}\"");
    let condition = [("If-Match", &*condition)];
    let later = new.send(1, "PUT", "/large", &condition, b"small");
    assert_eq!(later.status, 204, "{later:?}");
    assert!(later.etag() > begins_at, "{later:?}");
    new.assert_hashes_agree(&[1, 2, 3]);
    old.assert_value(2, "key-0", "after the backup");
    let cluster = |cluster: &Cluster| cluster.nodes[&1].status().expect("a status").cluster;
    assert_ne!(cluster(&old), cluster(&new));
    // And they go on as any cluster does.
    new.kill_all();
    new.start_all();
    new.assert_value(2, "large", "small");
    restore_does_not_make_a_lost_member_anew(&mut new, &file, &urls);
}

/// Only the first member of the list takes a backup.
#[track_caller]
fn assert_is_not_restored(other: &Node, file: &Path, urls: &str) {
    let refused = restore(other, file, urls);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("member 1 only"), "{refused:?}");
    assert!(!other.data_dir.exists(), "something was made");
}

/// Of a member that lost its disk: another restore begins another cluster, which does not form.
#[track_caller]
fn restore_does_not_make_a_lost_member_anew(new: &mut Cluster, file: &Path, urls: &str) {
    new.node(1).kill();
    new.node(1).wipe();
    let restored = restore(&new.nodes[&1], file, urls);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    new.node(1).start_expecting_exit(5);
    new.remove_member(2, 1);
    new.wait_voters(3, &[2, 3]);
}

#[test]
fn what_the_old_cluster_gave_after_the_backup_means_nothing_after_a_restore() {
    let cluster = Cluster::start(1);
    let backed_up = cluster.put(1, "lock", "free");
    let (file, index) = back_up(&cluster, 1, cluster.path());
    let later: Vec<u64> = (0..20)
        .map(|i| cluster.put(1, "lock", format!("{i}")))
        .collect();
    let mut begun = BTreeSet::new();
    for _ in 0..2 {
        let mut new = Cluster::prepare_beside(&cluster, 1, &[]);
        let urls = new.nodes[&1].url();
        let restored = restore(&new.nodes[&1], &file, &urls);
        assert_eq!(restored.code, Some(0), "{restored:?}");
        new.start_all();
        // That of the backup is still the value's, until it is written.
        let held = format!("\"{backed_up}\"");
        let put = |etag: &str| new.send(1, "PUT", "/lock", &[("If-Match", etag)], b"mine");
        let taken = put(&held);
        assert_eq!(taken.status, 204, "{taken:?}");
        begun.insert(taken.etag());
        for _ in 0..30 {
            new.put(1, "lock", "free");
        }
        for etag in &later {
            let stale = put(&format!("\"{etag}\""));
            assert_eq!(stale.status, 412, "{stale:?}");
        }
        // A watcher of the old cluster is told that it lacks changes, also after a restart.
        for _ in 0..2 {
            for id in [index, later[8], later[19]] {
                let id = id.to_string();
                let watch = new.send(1, "GET", "/-/watch", &[("Last-Event-ID", &id)], b"");
                assert_eq!(watch.status, 410, "{watch:?}");
            }
            new.kill_all();
            new.start_all();
        }
    }
    assert_eq!(
        begun.len(),
        2,
        "two restores give the same ETags: {begun:?}"
    );
}

/// A snapshot file with right CRCs and these entries.
fn forged(header: &SnapshotHeader, entries: &[(&str, u64)]) -> Vec<u8> {
    let mut encoder = SnapshotEncoder::new();
    let mut bytes = encoder.header(header);
    for (key, index) in entries {
        // Each in a block of its own.
        encoder.entry(key.as_bytes(), *index, b"forged");
        bytes.extend(encoder.block().expect("an entry"));
    }
    bytes.extend(encoder.footer());
    bytes
}

fn header_of(file: &Path) -> SnapshotHeader {
    let bytes = fs::read(file).expect("read");
    let length = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
    SnapshotHeader::parse_from_bytes(&bytes[16..16 + length]).expect("a header")
}

#[test]
fn keys_that_no_member_wrote_are_refused_by_all_who_read_the_file() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let here = cluster.path().to_owned();
    cluster.node(1).kill();
    let dir = &cluster.nodes[&1].data_dir;
    let own = dir
        .join("snap")
        .join(&cluster.nodes[&1].files("snap", ".snap")[0]);
    let before = fs::read(&own).expect("read");
    let header = header_of(&own);
    let new = Cluster::prepare_beside(&cluster, 1, &[]);
    let urls = new.nodes[&1].url();
    for entries in [
        &[("", 1)][..],
        &[("a", 1), ("b", 1), ("", 1)],
        &[("a", 1), ("b", 1), ("a", 1)],
        &[("a", 2)],
    ] {
        let bytes = forged(&header, entries);
        let file = here.join("forged.snap");
        fs::write(&file, &bytes).expect("write");
        let inspected = operate(&here, &["inspect", text(&file)]);
        let restored = restore(&new.nodes[&1], &file, &urls);
        for refused in [inspected, restored] {
            assert_eq!(refused.code, Some(4), "{entries:?}: {refused:?}");
            assert!(refused.stderr.contains("at byte"), "{refused:?}");
            assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        }
        assert!(!new.nodes[&1].data_dir.exists(), "something was made");
        // And as if a member had been sent it.
        fs::write(&own, &bytes).expect("write");
        cluster.node(1).start_expecting_exit(4);
    }
    fs::write(&own, before).expect("write");
    cluster.start_all();
    cluster.assert_value(1, "foo", "bar");
}

#[test]
fn an_index_without_room_behind_it_is_not_restored() {
    let cluster = Cluster::start(1);
    let here = cluster.path().to_owned();
    let (backup, _) = back_up(&cluster, 1, &here);
    let new = Cluster::prepare_beside(&cluster, 1, &[]);
    let urls = new.nodes[&1].url();
    let mut header = header_of(&backup);
    for index in [
        RESTORED_INDEX_MAX - RESTORE_SKIP,
        INDEX_MAX - 1,
        u64::MAX / 2 - 2,
    ] {
        header.index = index;
        let file = here.join("forged.snap");
        fs::write(&file, forged(&header, &[("a", 1)])).expect("write");
        let refused = restore(&new.nodes[&1], &file, &urls);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert!(refused.stderr.contains("its index is"), "{refused:?}");
        assert!(!new.nodes[&1].data_dir.exists(), "something was made");
    }
}

#[test]
fn the_last_member_of_a_lost_cluster_gives_a_backup_of_what_it_has() {
    let mut cluster = Cluster::start_with(3, &["--request-timeout", "1s"]);
    cluster.put(1, "foo", "bar");
    cluster.assert_value(2, "foo", "bar");
    cluster.node(1).kill();
    cluster.node(3).kill();
    let directory = TempDir::new().expect("create a directory");
    let url = client_url(&cluster, 2);
    let refused = operate(directory.path(), &["backup", &url]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let given = operate(directory.path(), &["backup", "--stale", &url, "b.snap"]);
    assert_eq!(given.code, Some(0), "{given:?}");
    let mut new = Cluster::prepare_beside(&cluster, 1, &[]);
    let urls = new.nodes[&1].url();
    let restored = restore(&new.nodes[&1], &directory.path().join("b.snap"), &urls);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    new.start_all();
    new.assert_value(1, "foo", "bar");
}

#[test]
fn inspect_exits_with_4_on_every_kind_of_damaged_file_and_changes_nothing() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let dir = cluster.nodes[&1].data_dir.clone();
    let here = cluster.path().to_owned();
    let live = operate(&here, &["inspect", text(&dir)]);
    assert_eq!(live.code, Some(0), "{live:?}");
    assert!(live.stdout.contains("a process uses it"), "{live:?}");
    let (backup, _) = back_up(&cluster, 1, &here);
    cluster.node(1).kill();
    let all = files_below(&dir);
    let sound = operate(&here, &["inspect", text(&dir)]);
    assert_eq!(sound.code, Some(0), "{sound:?}");
    assert!(sound.stdout.contains("a start begins with"), "{sound:?}");
    assert!(files_below(&dir) == all, "inspect changed something");
    let only = |part: &str| {
        let found = fs::read_dir(dir.join(part)).expect("list");
        let mut found = found.map(|file| file.expect("a file").path());
        let is_read = |path: &PathBuf| path.extension().is_some_and(|kind| kind == part);
        found.find(is_read).expect("a file")
    };
    let whole = fs::read(&backup).expect("read");
    for (file, at, good) in [
        (dir.join("meta"), 20, None),
        // In the header, in the first batch, in a later one.
        (only("wal"), 20, Some("good up to byte 0")),
        (only("wal"), 80, Some("good up to byte 72")),
        (only("wal"), 220, Some("1 batches, 0 entries")),
        (only("snap"), 20, Some("good up to byte 0")),
        (backup.clone(), 30, Some("good up to byte 0")),
        (backup, whole.len() - 40, Some("0 keys")),
    ] {
        let before = fs::read(&file).expect("read");
        let mut damaged = before.clone();
        damaged[at] ^= 0x40;
        fs::write(&file, &damaged).expect("damage");
        let alone = operate(&here, &["inspect", text(&file)]);
        assert_eq!(alone.code, Some(4), "{at}: {alone:?}");
        assert_eq!(alone.stderr.lines().count(), 1, "{alone:?}");
        assert!(alone.stderr.contains(text(&file)), "{alone:?}");
        assert!(alone.stderr.contains("at byte"), "{alone:?}");
        assert!(alone.stdout.contains(good.unwrap_or("")), "{alone:?}");
        if file.starts_with(&dir) {
            let all = operate(&here, &["inspect", text(&dir)]);
            assert_eq!(all.code, Some(4), "{all:?}");
        }
        assert_eq!(fs::read(&file).expect("read"), damaged);
        fs::write(&file, &before).expect("repair");
    }
    for nothing in ["nothing-here", "."] {
        let ended = operate(&here, &["inspect", nothing]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
    }
    // Whose the rest is can't be told without.
    fs::rename(dir.join("meta"), here.join("meta")).expect("rename");
    let ended = operate(&here, &["inspect", text(&dir)]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    fs::rename(here.join("meta"), dir.join("meta")).expect("rename");
    cluster.start_all();
    cluster.assert_value(1, "foo", "bar");
}

#[test]
fn a_damaged_backup_is_not_restored_and_a_killed_restore_is_refused_or_cleared() {
    let cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let here = cluster.path().to_owned();
    let (file, _) = back_up(&cluster, 1, &here);
    let bytes = fs::read(&file).expect("read");
    let mut new = Cluster::prepare_beside(&cluster, 1, &[]);
    let urls = new.nodes[&1].url();
    let bad = here.join("bad.snap");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    for damaged in [&bytes[..bytes.len() - 1], &flipped, b""] {
        fs::write(&bad, damaged).expect("write");
        let refused = restore(&new.nodes[&1], &bad, &urls);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(!new.nodes[&1].data_dir.exists(), "something was made");
    }
    let restored = restore(&new.nodes[&1], &file, &urls);
    assert_eq!(restored.code, Some(0), "{restored:?}");

    // As a restore leaves it that was killed: its meta says so, whatever else there is.
    let meta = new.nodes[&1].data_dir.join("meta");
    let mut bytes = fs::read(&meta).expect("read");
    bytes[12] = 3;
    let end = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&meta, &bytes).expect("write");
    new.node(1).start_expecting_exit(2);
    let said = new.nodes[&1].last_log();
    assert!(said.contains("run raftkvd restore again"), "{said}");
    let restored = restore(&new.nodes[&1], &file, &urls);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    new.start_all();
    new.assert_value(1, "foo", "bar");
}

#[test]
fn one_backup_at_a_time_and_one_whose_client_hangs_or_goes_makes_room() {
    let mut cluster = Cluster::start(1);
    for i in 0..30_u8 {
        cluster.put(1, &format!("key-{i}"), vec![i; 1_000_000]);
    }
    let begin = |cluster: &Cluster| {
        let mut client = Connection::open(cluster.address(1)).expect("connect");
        let request = b"GET /-/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.write(request).expect("send");
        let head = client.head().expect("the head of a backup");
        assert_eq!(head.status, 200, "{head:?}");
        let estimate = head.header("x-raftkvd-estimated-bytes");
        let estimate = estimate.expect("an estimate").parse::<u64>();
        assert!(estimate.expect("a number") > 30_000_000);
        client
    };
    // The rest is more than the sockets hold.
    let hanging = begin(&cluster);
    let json = [("Accept", "application/json")];
    let second = cluster.send(1, "GET", "/-/snapshot", &json, b"");
    assert_eq!(second.status, 503, "{second:?}");
    assert!(second.text().contains("backup-under-way"), "{second:?}");
    assert!(second.header("retry-after").is_some(), "{second:?}");
    let url = client_url(&cluster, 1);
    let refused = operate(cluster.path(), &["backup", &url]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("another backup"), "{refused:?}");
    // A stale backup does not wait for the other kind.
    let stale = operate(cluster.path(), &["backup", "--stale", &url, "stale.snap"]);
    assert_eq!(stale.code, Some(0), "{stale:?}");
    let room = |cluster: &Cluster| {
        // The member waits 30 s for the client that hangs.
        eventually("there is room for a backup", 4 * PATIENCE, || {
            let head = cluster.send(1, "HEAD", "/-/snapshot", &[], b"");
            require(head.status == 200, || format!("{head:?}"))
        });
    };
    room(&cluster);
    drop(hanging);
    drop(begin(&cluster));
    room(&cluster);
    let directory = TempDir::new().expect("create a directory");
    let (file, _) = back_up(&cluster, 1, directory.path());
    let inspected = operate(directory.path(), &["inspect", text(&file)]);
    assert!(inspected.stdout.contains("30 keys"), "{inspected:?}");
    // And none keeps a member from stopping.
    let hanging = begin(&cluster);
    cluster.nodes[&1].signal(Signal::TERM);
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
    drop(hanging);
}

/// Answers one request with this, and closes the connection. Gives the URL.
fn answer_once(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(&answer);
    });
    url
}

#[test]
fn a_backup_that_breaks_off_or_is_damaged_leaves_no_file() {
    let cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let directory = TempDir::new().expect("create a directory");
    let whole = cluster.send(1, "GET", "/-/snapshot", &[], b"");
    let disposition = whole.header("content-disposition").expect("a file name");
    let name = "attachment; filename=\"raftkvd-";
    assert!(disposition.starts_with(name), "{disposition}");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Disposition: {disposition}\r\n");
    let chunked = |body: &[u8], end: &str| {
        let head = format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            body.len()
        );
        [head.as_bytes(), body, b"\r\n", end.as_bytes()].concat()
    };
    let mut flipped = whole.body.clone();
    flipped[whole.body.len() - 40] ^= 1;
    let elsewhere = disposition.replace("raftkvd-", "../raftkvd-");
    for (answer, code, says) in [
        (chunked(&whole.body, ""), 1, "broke off after"),
        (chunked(&flipped, "0\r\n\r\n"), 4, "the CRC of a block"),
        (chunked(&whole.body[..50], "0\r\n\r\n"), 4, "ends too early"),
        (Vec::new(), 1, "no backup"),
        (
            format!(
                "HTTP/1.1 200 OK\r\nContent-Disposition: {elsewhere}\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes(),
            1,
            "names no backup file",
        ),
    ] {
        let url = answer_once(answer);
        let ended = operate(directory.path(), &["backup", &url]);
        assert_eq!(ended.code, Some(code), "{says}: {ended:?}");
        assert!(ended.stderr.contains(says), "{says}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert_eq!(files_below(directory.path()), [], "{says}");
    }
    let url = answer_once(chunked(&whole.body, "0\r\n\r\n"));
    let ended = operate(directory.path(), &["backup", &url, "mine.snap"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mine = [(directory.path().join("mine.snap"), whole.body)];
    assert!(files_below(directory.path()) == mine);
    let again = operate(directory.path(), &["backup", &url, "mine.snap"]);
    assert_eq!(again.code, Some(2), "{again:?}");
}

#[test]
fn a_backup_goes_through_a_pipe_with_its_summary_on_stderr() {
    let cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let whole = cluster.send(1, "GET", "/-/snapshot", &[], b"").body;
    let directory = TempDir::new().expect("create a directory");
    let to_stdout = |url: &str, stdout: File| {
        let mut command = daemon(directory.path());
        command.args(["backup", url, "-"]);
        command.stdout(stdout).stderr(Stdio::piped());
        let output = command.output().expect("run it");
        let stderr = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), stderr)
    };
    let path = directory.path().join("piped");
    let create = || File::create(&path).expect("create a file");
    let (code, stderr) = to_stdout(&client_url(&cluster, 1), create());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("stdout: 1 key as of index"), "{stderr}");
    assert_eq!(fs::read(&path).expect("read"), whole);
    let inspected = operate(directory.path(), &["inspect", text(&path)]);
    assert_eq!(inspected.code, Some(0), "{inspected:?}");

    // A reader that sees the end of the bytes learns of a broken backup by the missing footer and by the code.
    let head =
        "HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename=\"raftkvd-1-1.snap\"\r\n";
    let mut answer = format!("{head}Content-Length: {}\r\n\r\n", whole.len()).into_bytes();
    answer.extend_from_slice(&whole[..whole.len() - 1]);
    let (code, stderr) = to_stdout(&answer_once(answer), create());
    assert_eq!(code, Some(1), "{stderr}");
    let inspected = operate(directory.path(), &["inspect", text(&path)]);
    assert_eq!(inspected.code, Some(4), "{inspected:?}");

    // The standard library makes /dev/null of a stdout that is closed.
    let null = OpenOptions::new().write(true).open("/dev/null");
    let (code, stderr) = to_stdout(&client_url(&cluster, 1), null.expect("open /dev/null"));
    assert_eq!(code, Some(1), "{stderr}");
    let full = OpenOptions::new().write(true).open("/dev/full");
    let (code, stderr) = to_stdout(&client_url(&cluster, 1), full.expect("open /dev/full"));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("can't write to stdout"), "{stderr}");
}

/// Runs a subcommand whose stderr is a terminal; gives what that showed.
#[track_caller]
fn on_terminal(directory: &Path, arguments: &[&str]) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).expect("open a terminal");
    grantpt(&ours).expect("grant the terminal");
    unlockpt(&ours).expect("unlock the terminal");
    let name = ptsname(&ours, Vec::new()).expect("the terminal's name");
    let name = name.into_string().expect("its name is ASCII");
    let theirs = OpenOptions::new().read(true).write(true).open(name);
    let mut child = daemon(directory)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(theirs.expect("open the other side"))
        .spawn()
        .expect("start it");
    let status = child.wait().expect("wait for it");
    assert!(status.success(), "{arguments:?}: {status}");
    // What was written waits there, and there is no other end any more: then comes an error.
    let mut shown = Vec::new();
    let _ = File::from(ours).read_to_end(&mut shown);
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn backup_restore_and_inspect_show_a_bar_on_a_terminal_and_clear_it() {
    let cluster = Cluster::start(1);
    for i in 0..4_u8 {
        cluster.put(1, &format!("key-{i}"), vec![i; 1_000_000]);
    }
    let here = cluster.path();
    let url = client_url(&cluster, 1);
    for (arguments, what) in [
        (&["backup", &url, "b.snap"][..], "backing up: "),
        (&["inspect", "b.snap"], "checking a snapshot: "),
        (&["restore", "b.snap", "--data-dir", "new"], "restoring: "),
    ] {
        let shown = on_terminal(here, arguments);
        let bar = shown
            .split_once("\r[")
            .map(|(_, rest)| rest.starts_with(['#', '-']));
        assert_eq!(bar, Some(true), "{shown:?}");
        assert!(shown.contains(what), "{shown:?}");
        assert!(shown.ends_with("\r\x1b[K"), "it stays: {shown:?}");
    }
    // Others see the end of it alone.
    let quiet = operate(here, &["restore", "b.snap", "--data-dir", "again"]);
    assert_eq!((quiet.code, &*quiet.stderr), (Some(0), ""), "{quiet:?}");
}
