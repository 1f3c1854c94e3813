//! What the WAL thread logs and counts while the log can't get its next segment.

use super::*;
use crate::channels::inbox::Inbox;
use crate::metrics::Counter;
use crate::node::Job;
use crate::threads::wal::{self, Jobs, Meanwhile, Step, WalWriter};

use slog::{Drain, OwnedKVList, Record};
use std::cell::Cell;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

const FULL: &str = "the disk has no room for the next segment of the log";
const FAILS: &str = "can't make the next segment of the log: ";
const DELAYED: &str = "can't make the next segment of the log yet";
const AGAIN: &str = "the log has its next segment again";

thread_local! {
    static NOW: Cell<Instant> = Cell::new(Instant::now());
}

/// The messages that were logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        self.0.lock().unwrap().push(record.msg().to_string());
        Ok(())
    }
}

/// The WAL thread of a member that has a spare segment. The test does the steps of the thread.
struct Writing {
    disk: FakeDisk,
    writer: WalWriter,
    jobs: Jobs,
    lines: Lines,
    denied: Counter,
    last: u64,
}

impl Writing {
    fn new() -> Writing {
        let disk = FakeDisk::new(1);
        let opened = start(&disk, SMALL).unwrap();
        let lines = Lines::default();
        let logger = Logger::root(lines.clone().fuse(), slog::o!());
        let denied = opened.wal.metrics().spares_failed.clone();
        let (writer, jobs) = wal::channel(opened.wal, || NOW.get(), &logger);
        jobs.keep_spare();
        Writing {
            disk,
            writer,
            jobs,
            lines,
            denied,
            last: 1,
        }
    }

    /// Writes an entry. Returns false if there is no room for it: then it waits.
    fn write(&mut self, bytes: usize) -> bool {
        self.last += 1;
        let job = Job {
            number: self.last,
            save: append([entry(self.last, 1, vec![7; bytes])]),
            messages: Vec::new(),
            is_lone: false,
            compacted: 0,
        };
        self.writer.hand_over(job, Meanwhile::Other).unwrap();
        self.write_waiting()
    }

    fn write_waiting(&self) -> bool {
        match self.jobs.write_waiting(1).unwrap() {
            Step::Durable(durable) => {
                let (purges, _received) = mpsc::channel();
                let told = self
                    .jobs
                    .tell(durable, &Inbox::default(), |_| (), &purges)
                    .unwrap();
                assert!(told.is_continue());
                true
            }
            Step::NoRoom => false,
            Step::Nothing => panic!("no job waits"),
        }
    }

    /// The thread tries again, after its pause.
    fn try_again(&self) -> bool {
        NOW.set(NOW.get() + limits::SPARE_RETRY_INTERVAL);
        self.jobs.keep_spare();
        self.write_waiting()
    }

    /// Writes entries until one does not fit into the current segment.
    fn fill(&mut self) {
        let mut other = Writing::new();
        while segments(&other.disk).len() == 1 {
            assert!(other.write(100));
        }
        for _ in 2..other.last {
            assert!(self.write(100));
        }
        assert_eq!(segments(&self.disk).len(), 1);
    }

    fn assert_logged(&self, expected: &[&str]) {
        let lines = self.lines.0.lock().unwrap();
        let same = lines.len() == expected.len()
            && lines
                .iter()
                .zip(expected)
                .all(|(line, start)| line.starts_with(start));
        assert!(same, "{lines:?} instead of {expected:?}");
    }

    /// Tries again in vain, and logs nothing. Each attempt is counted.
    fn assert_tries_in_silence(&self, logged: &[&str]) {
        for _ in 0..3 {
            let before = self.denied.get();
            assert!(!self.try_again());
            assert!(self.denied.get() > before, "{before} are counted");
            self.assert_logged(logged);
        }
    }

    /// The job that waits is written.
    fn assert_goes_on(&self, logged: &[&str]) {
        self.disk.clear_faults();
        assert!(self.try_again());
        self.assert_logged(logged);
        let found = start(&self.disk.after_power_loss(1), SMALL).unwrap();
        assert_eq!(
            indexes(&found.recovered),
            (2..=self.last).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_longer_spare_without_room_is_logged_once() {
    let mut writing = Writing::new();
    writing.disk.set_free(Some(0));
    assert!(!writing.write(10_000));
    writing.assert_logged(&[FULL]);
    assert_eq!(writing.denied.get(), 1);
    writing.assert_tries_in_silence(&[FULL]);
    writing.disk.set_free(None);
    writing.assert_goes_on(&[FULL, AGAIN]);
}

#[test]
fn a_segment_without_room_for_its_name_is_logged_once() {
    let mut writing = Writing::new();
    writing.fill();
    writing.disk.inject_lasting(Operation::Rename, Fault::Full);
    assert!(!writing.write(100));
    writing.assert_logged(&[FULL]);
    assert_eq!(writing.denied.get(), 1);
    writing.assert_tries_in_silence(&[FULL]);
    writing.assert_goes_on(&[FULL, AGAIN]);
}

#[test]
fn a_spare_whose_blocks_can_not_be_written_is_logged_once() {
    let mut writing = Writing::new();
    writing.fill();
    writing.disk.inject_lasting(Operation::Write, Fault::Full);
    assert!(!writing.write(100));
    writing.assert_logged(&[FULL]);
    assert_eq!(writing.denied.get(), 1);
    // Each time another spare can be made, but nothing can be written to it.
    writing.assert_tries_in_silence(&[FULL]);
    writing.assert_goes_on(&[FULL, AGAIN]);
}

#[test]
fn another_kind_of_failure_is_logged_too() {
    let mut writing = Writing::new();
    writing.disk.set_lacks_descriptors(true);
    // The spare that is there is used first.
    while writing.write(100) {}
    assert_eq!(segments(&writing.disk).len(), 2);
    writing.assert_logged(&[DELAYED]);
    writing.assert_tries_in_silence(&[DELAYED]);
    writing.disk.set_lacks_descriptors(false);
    writing
        .disk
        .inject_lasting(Operation::Allocate, Fault::Fail);
    assert!(!writing.try_again());
    writing.assert_logged(&[DELAYED, FAILS]);
    writing.assert_tries_in_silence(&[DELAYED, FAILS]);
    writing.assert_goes_on(&[DELAYED, FAILS, AGAIN]);
}
