//! Round trips of snapshot files, and the files that are refused.

use super::*;
use crate::storage::SnapshotMeta;
use crate::storage::fake_disk::{FakeDisk, Random};

type Entries = Vec<(Vec<u8>, u64, Vec<u8>)>;

fn snapshots(disk: &FakeDisk) -> Snapshots {
    let dir = DataDir::new(Arc::new(disk.clone()), "/");
    disk.create_dir_all(&dir.snap_path()).unwrap();
    disk.sync_dir(dir.path()).unwrap();
    Snapshots::new(&dir)
}

fn meta(index: u64) -> SnapshotMeta {
    let mut meta = SnapshotMeta {
        index,
        term: 3,
        ..SnapshotMeta::default()
    };
    meta.conf_state.set_voters(vec![1, 2, 3]);
    meta
}

fn entries(count: u64, bytes: usize) -> Entries {
    (0..count)
        .map(|i| {
            let value = vec![i as u8; bytes + i as usize % 7];
            (format!("key {i:05}").into_bytes(), i % 9 + 1, value)
        })
        .collect()
}

fn write(snapshots: &Snapshots, index: u64, entries: &Entries) -> u64 {
    let entries = entries.iter().map(|(k, i, v)| (&k[..], *i, &v[..]));
    snapshots.write(&meta(index), 77, entries).unwrap()
}

fn load(snapshots: &Snapshots, index: u64) -> Result<Entries, StorageError> {
    let found = Mutex::new(Vec::new());
    let mut told = (0, 0);
    let visit = |k: &[u8], i: u64, v: &[u8]| {
        found.lock().push((k.to_vec(), i, v.to_vec()));
    };
    let (header, bytes) = snapshots.load(index, 3, visit, |done, total| {
        assert!(
            told.0 < done && done <= total,
            "{done} of {total} after {told:?}"
        );
        told = (done, total);
    })?;
    assert_eq!(SnapshotMeta::from_header(&header), meta(index));
    let mut found = found.into_inner();
    if !found.is_empty() {
        assert_eq!(told, (bytes - FOOTER_BYTES as u64, bytes));
    }
    // The order of visits depends on the threads.
    found.sort();
    Ok(found)
}

/// Sends a file from one disk to another, in pieces of odd sizes.
fn send(bytes: &[u8], to: &Snapshots, cluster: u64) -> Result<(), ReceiveError> {
    let mut sink = to.receive(cluster)?;
    for piece in bytes.chunks(70_001) {
        sink.write(piece)?;
    }
    sink.finish(&meta(9))
}

fn file(snapshots: &Snapshots, index: u64) -> Vec<u8> {
    let mut source = snapshots.open(index, 3).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        match source.read(&mut buffer).unwrap() {
            0 => break,
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    assert_eq!(bytes.len() as u64, source.bytes);
    bytes
}

#[test]
fn what_is_written_is_loaded_sent_and_received() {
    for (count, bytes) in [
        (0, 0),
        (1, 0),
        (3, 10),
        (2000, 600),
        (2, 3 << 20),
        (40_000, 1_000),
    ] {
        let (from, to) = (FakeDisk::new(1), FakeDisk::new(2));
        let (sender, receiver) = (snapshots(&from), snapshots(&to));
        let entries = entries(count, bytes);
        let size = write(&sender, 9, &entries);
        let sent = file(&sender, 9);
        assert_eq!(sent.len() as u64, size);
        send(&sent, &receiver, 77).unwrap();
        // The file is durable on both disks, and is the only file.
        for disk in [from, to] {
            let disk = disk.after_power_loss(5);
            assert_eq!(load(&snapshots(&disk), 9).unwrap(), entries);
            assert_eq!(disk.paths().len(), 1);
        }
    }
}

#[test]
fn every_flipped_or_missing_byte_is_caught() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    write(&own, 9, &entries(40, 20));
    let good = file(&own, 9);
    let path = own.path(9, 3);
    let caught = |bad: Vec<u8>| {
        let what = send(&bad, &own, 77);
        assert!(matches!(what, Err(ReceiveError::Invalid(_))), "{what:?}");
        disk.tamper(&path, |bytes| *bytes = bad);
        let error = load(&own, 9).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
    };
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            caught(bad);
        }
        caught(good[..at].to_vec());
    }
    caught([&good[..], &[0]].concat());
    assert_eq!(disk.paths(), [path], "temporary files are left");
}

#[test]
fn damage_is_caught_by_any_loading_thread() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    let path = own.path(9, 3);
    let size = write(&own, 9, &entries(40_000, 1_000));
    assert!(size > 4 * limits::LOAD_BYTES_PER_THREAD);
    for at in [size / 3, size / 2, size - 100, size - 1] {
        disk.tamper(&path, |bytes| bytes[at as usize] ^= 1);
        let error = load(&own, 9).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        disk.tamper(&path, |bytes| bytes[at as usize] ^= 1);
    }
    assert_eq!(load(&own, 9).unwrap().len(), 40_000);
    assert_eq!(own.claimed_entries(9, 3).unwrap(), 40_000);
    disk.tamper(&path, |bytes| bytes[size as usize - 14] = 0xff);
    assert!(own.claimed_entries(9, 3).unwrap() <= size / ENTRY_HEAD_BYTES as u64);
    assert_eq!(own.claimed_entries(8, 3).unwrap(), 0);
}

#[test]
fn blocks_in_another_order_are_caught() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    // Two blocks of the same length, after a header of known length.
    let block = limits::SNAPSHOT_BLOCK_BYTES + 17 + BLOCK_HEAD_BYTES;
    let value = vec![7; limits::SNAPSHOT_BLOCK_BYTES];
    let entries = vec![(vec![b'a'], 1, value.clone()), (vec![b'b'], 2, value)];
    write(&own, 9, &entries);
    let good = file(&own, 9);
    let start = good.len() - FOOTER_BYTES - 2 * block;
    let (first, second) = (start..start + block, start + block..start + 2 * block);
    let swapped = [
        &good[..start],
        &good[second.clone()],
        &good[first.clone()],
        &good[second.end..],
    ]
    .concat();
    assert_eq!(swapped.len(), good.len());
    let without = [&good[..first.start], &good[second.start..]].concat();
    for bad in [swapped, without] {
        assert!(matches!(
            send(&bad, &own, 77),
            Err(ReceiveError::Invalid(_))
        ));
    }
    assert!(send(&good, &own, 77).is_ok());
}

#[test]
fn a_file_with_entries_that_no_member_would_write_is_neither_received_nor_loaded() {
    let entry = |key: &str, index| (key.as_bytes().to_vec(), index, b"v".to_vec());
    let far_apart = |first, last| {
        let mut all = entries(2_000, 600);
        all.insert(0, first);
        all.push(last);
        all
    };
    for (bad, why) in [
        (vec![entry("", 1)], "without a key"),
        (far_apart(entry("a", 1), entry("", 2)), "without a key"),
        (far_apart(entry("a", 1), entry("a", 2)), "already"),
        (far_apart(entry("a", 2), entry("a", 2)), "already"),
        (vec![entry("a", 1), entry("a", 1)], "already"),
        (far_apart(entry("a", 1), entry("b", 10)), "index"),
        (vec![entry("a", 0)], "index"),
    ] {
        let disk = FakeDisk::new(1);
        let own = snapshots(&disk);
        write(&own, 9, &bad);
        let what = send(&file(&own, 9), &own, 77);
        match what {
            Err(ReceiveError::Invalid(line)) => assert!(line.contains(why), "{line}"),
            other => panic!("{why}: {other:?}"),
        }
        let mut contents = SnapshotContents::default();
        let path = own.path(9, 3);
        let read = read_file(&disk, &path, &mut contents, |_, _, _| Ok(()), |_, _| ());
        let error = read.unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        // Load into the map, which detects a duplicate key.
        let store = crate::store::Store::new();
        let restore = store.begin_restore(0);
        let insert = |key: &[u8], index, value: &[u8]| restore.insert(key, index, value);
        let loaded = own.load_with(4, 9, 3, insert, |_, _| ());
        let error = loaded.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_length_in_a_file_reserves_no_memory_beyond_the_file() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    write(&own, 9, &entries(3, 20));
    let good = file(&own, 9);
    let mut random = Random(1);
    for _ in 0..500 {
        let mut bad = good.clone();
        let at = random.below(bad.len() as u64 - 4) as usize;
        bad[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(send(&bad, &own, 77).is_err() || bad == good);
    }
}

#[test]
fn a_snapshot_of_another_cluster_is_not_received() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    write(&own, 9, &entries(3, 20));
    let what = send(&file(&own, 9), &own, 78);
    assert!(matches!(what, Err(ReceiveError::Invalid(_))), "{what:?}");
    drop(own.receive(77).unwrap());
    assert_eq!(disk.paths().len(), 1);
}

#[test]
fn a_snapshot_that_differs_from_its_message_does_not_get_its_name() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    write(&own, 9, &entries(3, 20));
    let bytes = file(&own, 9);
    own.delete_below(10, |_| ()).unwrap();
    let mut other_state = meta(9);
    let removed = crate::command::RemovedMember::default();
    other_state.state.removed.push(removed);
    let other_term = SnapshotMeta { term: 4, ..meta(9) };
    for promised in [meta(8), other_term, other_state] {
        let mut sink = own.receive(77).unwrap();
        sink.write(&bytes).unwrap();
        let what = sink.finish(&promised);
        assert!(matches!(what, Err(ReceiveError::Invalid(_))), "{what:?}");
        assert_eq!(disk.paths().len(), 0);
    }
}

#[test]
fn a_deleted_snapshot_can_be_sent_to_its_end() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    write(&own, 9, &entries(300, 20));
    let mut source = own.open(9, 3).unwrap();
    own.delete_below(10, |_| ()).unwrap();
    assert_eq!(disk.paths().len(), 0);
    let mut buffer = vec![0; 1 << 20];
    assert_eq!(source.read(&mut buffer).unwrap() as u64, source.bytes);
    assert_eq!(own.open(9, 3).unwrap_err().exit_code(), 4);
}

#[test]
fn data_of_a_later_version_is_distinguished_from_damage() {
    let disk = FakeDisk::new(1);
    let own = snapshots(&disk);
    let later = |bytes: Vec<u8>, needed: u64| {
        disk.tamper(&own.path(9, 3), |file| *file = bytes.clone());
        let error = own.load(9, 3, |_, _, _| (), |_, _| ()).unwrap_err();
        assert_eq!(error.exit_code(), 8, "{error}");
        assert!(error.to_string().contains(&format!("version {needed},")));
        let what = send(&bytes, &own, 77);
        assert!(matches!(what, Err(ReceiveError::Invalid(_))), "{what:?}");
    };
    write(&own, 9, &entries(1, 20));
    let good = file(&own, 9);

    let mut header = meta(9).to_header(77);
    header.mut_state().version = 9;
    later(SnapshotEncoder::new().header(&header), 9);

    let mut format = good.clone();
    format[8] = 3;
    let header_end = 16 + u32::from_le_bytes(*format[12..].first_chunk().unwrap()) as usize;
    let crc = crc32c::crc32c(&format[..header_end]);
    format[header_end..header_end + 4].copy_from_slice(&crc.to_le_bytes());
    disk.tamper(&own.path(9, 3), |file| *file = format);
    let error = own.load(9, 3, |_, _, _| (), |_, _| ()).unwrap_err();
    assert_eq!(error.exit_code(), 8, "{error}");

    let mut flagged = good.clone();
    let (block, footer) = (header_end + 4, good.len() - FOOTER_BYTES);
    flagged[block + BLOCK_HEAD_BYTES + FLAGS_OFFSET] = 1;
    let seed = u32::from_le_bytes(*good[header_end..].first_chunk().unwrap());
    let crc = block_crc(seed, &flagged[block..footer]);
    flagged[block + 8..block + 12].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c_append(crc, &flagged[footer..good.len() - 4]);
    flagged[good.len() - 4..].copy_from_slice(&crc.to_le_bytes());
    later(flagged, crate::command::version::VERSION + 1);
}

/// Feeds a file in pieces. Gives the error, and how many bytes were taken before it.
fn arrives(bytes: &[u8]) -> (u64, Option<String>) {
    let mut arriving = ArrivingSnapshot::new(Path::new("it"));
    let mut taken = 0;
    for piece in bytes.chunks(1_000) {
        match arriving.take(piece) {
            Ok(()) => taken += piece.len() as u64,
            Err(error) => return (taken, Some(error.to_string())),
        }
    }
    (taken, None)
}

#[test]
fn what_is_wrong_with_a_file_that_arrives_is_said_when_its_block_has() {
    let disk = FakeDisk::new(1);
    let snapshots = snapshots(&disk);
    write(&snapshots, 9, &entries(3_000, 300));
    let mut source = snapshots.open(9, 3).unwrap();
    let mut bytes = vec![0; source.bytes as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += source.read(&mut bytes[filled..]).unwrap();
    }
    let len = bytes.len() as u64;
    assert!(len > 3 * limits::SNAPSHOT_BLOCK_BYTES as u64, "{len}");
    assert_eq!(arrives(&bytes), (len, None));
    for at in [20, 400, 5_000, bytes.len() / 2, bytes.len() - 5] {
        bytes[at] ^= 1;
        let (taken, why) = arrives(&bytes);
        let why = why.unwrap();
        assert!(why.contains("CRC") || why.contains("longer"), "{at}: {why}");
        let most = at as u64 + 2 * limits::SNAPSHOT_BLOCK_BYTES as u64;
        assert!(taken < most, "{at}: {taken} bytes were taken first");
        bytes[at] ^= 1;
    }
    bytes.push(0);
    let (_, why) = arrives(&bytes);
    assert!(why.unwrap().contains("something follows its footer"));
    assert!(arrives(b"<html>not a snapshot at all</html>").1.is_some());
}
