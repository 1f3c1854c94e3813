//! Entries read back from the WAL are exactly those of the log, from any index, across segments, conflicts, restarts
//! and deletions.

use super::*;
use crate::channels::inbox::{Held, Inbox};
use crate::channels::notice::Notice;
use crate::metrics::Counter;
use crate::storage::log_index::entry_bytes;
use crate::storage::wal::read_back::{ReadBack, Request};
use crate::threads::read_back::Reader;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Reads every entry of a log index, piece by piece.
pub(super) fn all(wal: &Wal, log_index: &LogIndex) -> Vec<Entry> {
    from(&wal.read_back(), log_index, log_index.start().0 + 1)
}

fn from(reader: &ReadBack, log_index: &LogIndex, mut first: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    while first <= log_index.last() {
        let request = Request::new(log_index, first, log_index.last() + 1, 1500);
        let piece = reader.read(&request).unwrap();
        let piece = piece.unwrap_or_else(|| panic!("entry {first} of {log_index:?} is gone"));
        let all_but_one = &piece[..piece.len() - 1];
        assert!(all_but_one.iter().map(entry_bytes).sum::<u64>() < 1500);
        first += piece.len() as u64;
        entries.extend(piece);
    }
    entries
}

/// A member, and a copy of its log beside the WAL.
struct Writer {
    disk: FakeDisk,
    opened: Opened,
    /// Starts after the older of two snapshots.
    log: Vec<Entry>,
    log_index: LogIndex,
    commit: u64,
    term: u64,
}

impl Writer {
    fn new(options: WalOptions) -> Writer {
        let disk = FakeDisk::new(1);
        Writer {
            opened: start(&disk, options).unwrap(),
            disk,
            log: Vec::new(),
            log_index: LogIndex::new(1, 1),
            commit: 1,
            term: 1,
        }
    }

    fn append(&mut self, first: u64, sizes: &[usize]) {
        while self.log_index.last() >= first {
            self.log_index.pop(&self.log.pop().unwrap());
        }
        let term = self.term;
        let entries = (first..).zip(sizes);
        let entries: Vec<_> = entries
            .map(|(index, size)| entry(index, term, vec![(index ^ term) as u8; *size]))
            .collect();
        for entry in &entries {
            self.log_index.push(entry);
            self.log.push(entry.clone());
        }
        let save = [append(entries), state(term, 0, self.commit, false)];
        self.opened.wal.save(&save).unwrap();
    }

    fn snapshot(&mut self, index: u64, compacted: u64) {
        let term = self.log_index.term(index).unwrap();
        write_snapshot(&self.opened, index, term).unwrap();
        let hard_state = hard_state(self.term, 0, self.commit);
        let save = mark(index, term, hard_state, false);
        self.opened.wal.save(&[save]).unwrap();
        self.opened
            .wal
            .purge(compacted)
            .unwrap()
            .remove_at_once()
            .unwrap();
    }

    fn compact(&mut self, index: u64) {
        self.log.retain(|entry| entry.index > index);
        let term = self.log_index.term(index).unwrap();
        self.log_index.drop_to(index, term);
    }

    fn check(&self) {
        let reader = self.opened.wal.read_back();
        assert_eq!(all(&self.opened.wal, &self.log_index), self.log);
        // Reads from each of them.
        for (at, entry) in self.log.iter().enumerate() {
            let request = Request::new(&self.log_index, entry.index, entry.index + 1, u64::MAX);
            let found = reader.read(&request).unwrap().unwrap();
            assert_eq!(found, [self.log[at].clone()]);
        }
    }

    /// Restarts. The new process can read back the same part of the log.
    fn restart(&mut self, options: WalOptions) {
        let disk = self.disk.after_power_loss(7);
        self.opened = start(&disk, options).unwrap();
        self.disk = disk;
        let found = self.opened.recovered.log_index.clone().unwrap();
        let (start, _) = found.start();
        if start > self.log_index.start().0 {
            self.compact(start);
        }
        assert_eq!(
            (start, found.last()),
            (self.log_index.start().0, self.log_index.last())
        );
        for entry in &self.log {
            assert_eq!(found.term(entry.index), Some(entry.term));
        }
        self.check();
    }
}

#[test]
fn entries_are_read_back_over_segments_and_after_a_restart() {
    let mut writer = Writer::new(SMALL);
    for index in 2..100 {
        writer.append(index, &[index as usize * 37 % 900]);
    }
    writer.append(100, &[700, 10, 20_000, 300]);
    assert!(segments(&writer.disk).len() > 8);
    writer.check();
    writer.restart(SMALL);
    writer.append(104, &[5]);
    writer.check();
}

#[test]
fn replaced_entries_are_never_read_back() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut writer = Writer::new(SMALL);
        for _ in 0..60 {
            let last = writer.log_index.last();
            let conflict = random.below(3) == 0;
            let first = match conflict {
                // Another leader replaces entries, perhaps far back and across segments.
                true => writer.commit + 1 + random.below(last - writer.commit + 1),
                false => last + 1,
            };
            writer.term += u64::from(conflict);
            let sizes: Vec<_> = (0..1 + random.below(4))
                .map(|_| [0, 50, 500, 1900][random.below(4) as usize])
                .collect();
            writer.append(first, &sizes);
            if random.below(12) == 0 {
                let last = writer.log_index.last();
                writer.commit += random.below(last - writer.commit + 1);
            }
            writer.check();
        }
        writer.restart(SMALL);
    }
}

#[test]
fn a_save_that_replaces_its_own_entries_is_read_back_correctly() {
    let mut writer = Writer::new(SMALL);
    writer.append(2, &[10; 8]);
    let saves = [
        append((6..12).map(|i| entry(i, 2, vec![2; 30]))),
        append((4..9).map(|i| entry(i, 3, vec![3; 30]))),
        append((8..10).map(|i| entry(i, 4, vec![4; 30]))),
    ];
    for save in &saves {
        let first = save.entries[0].index;
        while writer.log_index.last() >= first {
            writer.log_index.pop(&writer.log.pop().unwrap());
        }
        for entry in &save.entries {
            writer.log_index.push(entry);
            writer.log.push(entry.clone());
        }
    }
    writer.opened.wal.save(&saves).unwrap();
    writer.check();
    let found = start(&writer.disk.after_power_loss(1), SMALL).unwrap();
    assert_eq!(all(&found.wal, &writer.log_index), writer.log);
}

#[test]
fn the_log_reaches_back_to_the_older_snapshot_or_further_when_it_is_pinned() {
    let mut writer = Writer::new(SMALL);
    for index in 2..60 {
        writer.append(index, &[300]);
    }
    writer.commit = 59;
    let before = segments(&writer.disk).len();
    for index in [20, 30, 40] {
        writer.snapshot(index, 5);
    }
    assert_eq!(segments(&writer.disk).len(), before, "entry 6 is pinned");
    writer.check();
    // A request for entries that are deleted before they are read.
    let reader = writer.opened.wal.read_back();
    let old = Request::new(&writer.log_index, 6, 20, u64::MAX);
    assert_eq!(reader.read(&old).unwrap().unwrap().len(), 14);
    purge(&mut writer.opened);
    assert!(segments(&writer.disk).len() < before);
    assert_eq!(reader.read(&old).unwrap(), None);
    writer.compact(30);
    writer.check();
    writer.restart(SMALL);
}

#[test]
fn a_deleted_segment_gives_none_and_a_vanished_segment_is_damage() {
    let mut writer = Writer::new(SMALL);
    for index in 2..60 {
        writer.append(index, &[300]);
    }
    let reader = writer.opened.wal.read_back();
    let request = Request::new(&writer.log_index, 3, 40, u64::MAX);
    let first = segments(&writer.disk)[0].clone();
    writer.disk.remove(&first).unwrap();
    let error = reader.read(&request).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("vanished"), "{error}");
}

#[test]
fn damage_is_found_and_never_sent() {
    let mut writer = Writer::new(SMALL);
    for index in 2..30 {
        writer.append(index, &[300]);
    }
    let reader = writer.opened.wal.read_back();
    let request = Request::new(&writer.log_index, 2, 30, u64::MAX);
    let (mut refused, mut harmless) = (0, 0);
    for segment in segments(&writer.disk) {
        let good = writer.disk.read(&segment);
        for at in 0..good.len() {
            writer.disk.tamper(&segment, |bytes| bytes[at] ^= 0x10);
            match reader.read(&request) {
                Ok(found) => {
                    assert_eq!(found.as_ref(), Some(&writer.log), "byte {at}");
                    harmless += 1;
                }
                Err(StorageError::Corrupt { path, .. }) => {
                    assert_eq!(path, segment);
                    refused += 1;
                }
                Err(StorageError::UnknownVersion { path, .. }) => assert_eq!(path, segment),
                Err(error) => panic!("{error}"),
            }
            writer.disk.tamper(&segment, |bytes| bytes[at] ^= 0x10);
        }
    }
    assert!(refused > 9_000, "{refused} refused, {harmless} harmless");
    let error = {
        let disk = writer.disk.clone();
        disk.inject(disk.operations() + 1, Fault::CrashBefore);
        disk.sync_dir(dir()).unwrap_err();
        reader.read(&request).unwrap_err()
    };
    assert_eq!(error.exit_code(), 6, "{error}");
}

#[test]
fn after_an_installed_snapshot_the_log_is_empty() {
    let mut writer = Writer::new(SMALL);
    writer.append(2, &[300; 20]);
    write_snapshot(&writer.opened, 40, 2).unwrap();
    let mut save = mark(40, 2, hard_state(2, 0, 40), true);
    save.entries = (41..50).map(|i| entry(i, 2, vec![1; 300])).collect();
    let log = save.entries.clone();
    let mut log_index = LogIndex::new(40, 2);
    log.iter().for_each(|entry| log_index.push(entry));
    writer.opened.wal.save(&[save]).unwrap();
    assert_eq!(all(&writer.opened.wal, &log_index), log);
    let old = Request::new(&writer.log_index, 5, 6, 1);
    assert_eq!(writer.opened.wal.read_back().read(&old).unwrap(), None);
    let found = start(&writer.disk.after_power_loss(1), SMALL).unwrap();
    assert_eq!(found.recovered.log_index, Some(log_index.clone()));
    assert_eq!(all(&found.wal, &log_index), log);
}

#[test]
fn a_start_takes_the_newest_entries_into_memory_and_those_that_may_be_replaced() {
    let options = WalOptions {
        cache_bytes: 2_000,
        ..SMALL
    };
    let mut writer = Writer::new(SMALL);
    for index in 2..60 {
        writer.commit = index - 1;
        writer.append(index, &[300]);
    }
    for index in 60..80 {
        writer.append(index, &[300]);
    }
    let found = start(&writer.disk.after_power_loss(1), options).unwrap();
    let recovered = &found.recovered;
    assert_eq!(recovered.hard_state.commit, 58);
    // Entries that are not known to be committed stay in memory, even beyond the size of the cache.
    assert_eq!(indexes(recovered), (59..80).collect::<Vec<_>>());
    assert_eq!(Expected::read_back(&found).entries, writer.log);

    writer.commit = 79;
    writer.append(80, &[300]);
    writer.append(81, &[300]);
    let found = start(&writer.disk.after_power_loss(1), options).unwrap();
    assert_eq!(indexes(&found.recovered), (76..=81).collect::<Vec<_>>());
    assert_eq!(Expected::read_back(&found).entries, writer.log);
    // The member continues, and its old entries are read back as before.
    writer.opened = found;
    writer.append(82, &[300]);
    writer.check();
}

#[test]
fn few_places_are_remembered() {
    let mut writer = Writer::new(LARGE);
    for index in 2..3_000 {
        writer.append(index, &[200]);
    }
    let bytes: u64 = writer.log.iter().map(entry_bytes).sum();
    let segments = segments(&writer.disk).len() as u64;
    let places = writer.opened.wal.places() as u64;
    assert!(
        places <= bytes / limits::READ_BACK_PLACE_BYTES + segments,
        "{places}"
    );
    writer.restart(LARGE);
    assert_eq!(writer.opened.wal.places() as u64, places);
}

#[test]
fn without_descriptors_entries_are_read_back_later() {
    let mut writer = Writer::new(SMALL);
    for index in 2..40 {
        writer.append(index, &[400]);
    }
    let (sender, requests) = mpsc::channel();
    let inbox = Arc::new(Inbox::default());
    let reader = Reader {
        wal: writer.opened.wal.read_back(),
        inbox: inbox.clone(),
        failed: Counter::default(),
        logger: logger(),
    };
    let failed = reader.failed.clone();
    writer.disk.set_lacks_descriptors(true);
    let deadline = Instant::now() + Duration::from_secs(30);
    let thread = std::thread::spawn(move || reader.run(&requests));
    for first in [3, 20] {
        let request = Request::new(&writer.log_index, first, first + 1, u64::MAX);
        sender.send(request).unwrap();
    }
    while failed.get() == 0 {
        assert!(Instant::now() < deadline, "nothing has failed");
        std::thread::yield_now();
    }
    writer.disk.set_lacks_descriptors(false);
    let mut found = Vec::new();
    while found.len() < 2 {
        assert!(Instant::now() < deadline, "{found:?}");
        let events = inbox.take(Instant::now() + Duration::from_millis(50), Held::default());
        for notice in events.notices {
            if let Notice::EntriesRead(read) = notice {
                found.push((read.first, read.entries.map(|entries| entries.len())));
            }
        }
    }
    assert_eq!(found, [(3, Some(1)), (20, Some(1))]);
    drop(sender);
    thread.join().unwrap().unwrap();
}
