//! Writes the WAL: makes the node's jobs durable, then releases the messages that had to wait for that.
//!
//! The WAL thread writes all waiting jobs with one write and one fdatasync (group commit). The next jobs gather in the
//! meantime. If a job is the only one and the raft loop has nothing else to do, the raft loop writes the job itself.
//! That saves a lone request two thread switches on every member.
//!
//! Another thread deletes the files that are no longer needed: see `remove.rs`.
//!
//! The WAL thread also keeps a segment aside, so that a full disk can't deny the log its room. Jobs for which there is
//! no room wait. The node takes no entries then, so these jobs hold votes, empty entries and marks, for which the log
//! has a reserve. No write has failed, and the thread tries at intervals to reserve a segment.
//!
//! Invariant: jobs are written in the order in which they are handed over. The raft loop writes a job itself only when
//! all earlier jobs are durable, and only the raft loop hands over jobs.

use crate::channels::inbox::Inbox;
use crate::mutants::{Mutant, is_planted};
use crate::node::Job;
use crate::storage::wal::{SpareDone, SpareNews, SpareWork};
use crate::storage::{DiskError, LogRoom, Purge, Save, Wal};
use crate::threads::apply::ThreadEnded;
use crate::transport::Transport;
use crate::{limits, metrics};
use parking_lot::Mutex;
use raft::eraftpb::Message;
use slog::{Logger, info, warn};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

/// The raft loop's end of the queue to the WAL.
pub struct WalWriter {
    shared: Arc<SharedWal>,
    metrics: metrics::WalMetrics,
    jobs: Sender<Job>,
}

/// The WAL thread's end of the queue.
pub struct Jobs {
    shared: Arc<SharedWal>,
    jobs: Receiver<Job>,
    /// Jobs that were taken from the queue and are not written.
    held: RefCell<VecDeque<Job>>,
    /// When the thread tries again to reserve a segment that it could not reserve.
    asks_again: Cell<Option<Instant>>,
    /// There was no room for the first job when it was last tried.
    is_stuck: Cell<bool>,
}

/// The result of writing the jobs that wait.
pub enum Step {
    /// Some jobs are durable, and have to be reported.
    Durable(Durable),
    /// There is no room for the first job, and the others wait behind it.
    NoRoom,
    /// No job waits.
    Nothing,
}

struct SharedWal {
    wal: Mutex<Wal>,
    /// Number of jobs that were sent to the WAL thread and are not finished.
    unfinished: AtomicUsize,
    /// The last write, on either thread, was slow. Until a write is fast again, the WAL thread does all writes, so that
    /// heartbeats do not wait for the disk.
    slow: AtomicBool,
    /// The room after the last write, or after the last attempt to keep a segment aside.
    room: Mutex<LogRoom>,
    clock: Clock,
    logger: Logger,
}

/// The clock that measures writes: `Instant::now`, or the clock of a simulation.
pub type Clock = fn() -> Instant;

/// The result of handing over a job.
pub enum Written {
    /// The job is durable. The caller may send its messages once it has reported the job to the node.
    Here {
        /// The job's number.
        number: u64,
        /// The job's messages.
        messages: Vec<Message>,
    },
    /// The WAL thread has the job, and reports to the inbox when it is durable.
    Queued,
}

/// Creates both ends of the queue to this WAL. The node bounds the queue, also while a write hangs: the entries of all
/// waiting jobs fit into the room that the last write left (`node/room.rs`), and [`limits::JOBS_UNWRITTEN_MAX`] bounds
/// the number of jobs.
pub fn channel(wal: Wal, clock: Clock, logger: &Logger) -> (WalWriter, Jobs) {
    let (sender, receiver) = mpsc::channel();
    let metrics = wal.metrics().clone();
    let shared = Arc::new(SharedWal {
        room: Mutex::new(wal.room()),
        wal: Mutex::new(wal),
        unfinished: AtomicUsize::new(0),
        slow: AtomicBool::new(false),
        clock,
        logger: logger.clone(),
    });
    let writer = WalWriter {
        shared: shared.clone(),
        metrics,
        jobs: sender,
    };
    let jobs = Jobs {
        shared,
        jobs: receiver,
        held: RefCell::default(),
        asks_again: Cell::new(None),
        is_stuck: Cell::new(false),
    };
    (writer, jobs)
}

/// Other work that the raft loop has while a job is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// There is no other work, so the loop may write the job itself.
    Nothing,
    /// There is other work, or there may be some soon.
    Other,
}

impl WalWriter {
    /// Writes the job on the calling thread if all earlier jobs are durable, the disk is fast, and the loop has nothing
    /// else to do. The job must also be small and lone (see `Job::is_lone`), and must not mark a snapshot. Otherwise
    /// hands the job to the WAL thread.
    pub fn hand_over(&mut self, job: Job, meanwhile: Meanwhile) -> Result<Written, WalWriterError> {
        let small = entry_bytes(&job.save) <= limits::LONE_WRITE_BYTES_MAX;
        let finished = self.shared.unfinished.load(Ordering::Acquire) == 0;
        let alone = (job.is_lone && finished) || is_planted(Mutant::LoneWriteOvertakes);
        let fast = !self.shared.slow.load(Ordering::Relaxed);
        let quick = meanwhile == Meanwhile::Nothing && alone && fast && small;
        if quick && job.save.mark.is_none() && self.shared.save_if_it_fits(&job.save)? {
            return Ok(Written::Here {
                number: job.number,
                messages: job.messages,
            });
        }
        self.shared.unfinished.fetch_add(1, Ordering::Relaxed);
        self.jobs.send(job).map_err(|_| ThreadEnded)?;
        Ok(Written::Queued)
    }

    /// How much the log can store.
    pub fn room(&self) -> LogRoom {
        *self.shared.room.lock()
    }

    /// Metrics of the WAL's writes.
    pub fn written(&self) -> &metrics::WalMetrics {
        &self.metrics
    }
}

impl SharedWal {
    /// Saves, and returns true, if the save fits into the current segment. Otherwise the log has to continue in another
    /// segment first, which is the work of the WAL thread.
    fn save_if_it_fits(&self, save: &Save) -> Result<bool, DiskError> {
        let mut wal = self.wal.lock();
        let fits = wal.fits(save);
        if fits {
            self.save(&mut wal, std::slice::from_ref(save))?;
        }
        Ok(fits)
    }

    fn save(&self, wal: &mut Wal, saves: &[Save]) -> Result<(), DiskError> {
        let begun = (self.clock)();
        wal.save(saves)?;
        *self.room.lock() = wal.room();
        let took = (self.clock)() - begun;
        self.slow
            .store(took > limits::LONE_WRITE_SLOW, Ordering::Relaxed);
        if took > limits::SLOW_WRITE_TOLD {
            warn!(self.logger, "the disk is slow: a write to the log and its fdatasync took long; check the disk, \
                and what else uses it";
                "ms" => took.as_millis() as u64, "writes" => saves.len());
        }
        Ok(())
    }
}

/// Why a job could not be handed over.
#[derive(Debug)]
pub enum WalWriterError {
    /// The disk has failed. No message of the job was sent.
    Disk(DiskError),
    /// The WAL thread has ended, because the process is stopping.
    ThreadEnded,
}

impl From<ThreadEnded> for WalWriterError {
    fn from(ThreadEnded: ThreadEnded) -> WalWriterError {
        WalWriterError::ThreadEnded
    }
}

impl From<DiskError> for WalWriterError {
    fn from(error: DiskError) -> WalWriterError {
        WalWriterError::Disk(error)
    }
}

fn entry_bytes(save: &Save) -> usize {
    save.entries.iter().map(|entry| entry.data.len()).sum()
}

/// Jobs that are durable and not yet reported.
#[must_use = "the node and the peers wait for a report of these jobs"]
pub struct Durable {
    jobs: usize,
    /// Number of the newest job.
    number: u64,
    compacted: u64,
    /// The messages of all jobs, which may be sent now.
    messages: Vec<Message>,
}

impl Durable {
    /// The number of the newest job.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Jobs {
    /// The WAL thread. Runs until the raft loop has ended or the disk has failed. If a write fails, no message of its
    /// jobs is sent.
    pub fn run(
        &self,
        inbox: &Inbox,
        transport: &Transport,
        purges: &Sender<Purge>,
    ) -> Result<(), DiskError> {
        loop {
            self.keep_spare();
            if self.wait().is_break() {
                return Ok(());
            }
            if let Step::Durable(durable) = self.write_waiting(limits::JOBS_PER_WRITE_MAX)? {
                let send = |messages| transport.send(messages);
                if self.tell(durable, inbox, send, purges)?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for a job, or until it is time to try again to reserve a segment. `Break`: the raft loop has ended.
    fn wait(&self) -> ControlFlow<()> {
        let is_short = self.asks_again.get().is_some();
        if !(self.held.borrow().is_empty() || is_short && self.is_stuck.get()) {
            return ControlFlow::Continue(());
        }
        let received = match is_short {
            true => self.jobs.recv_timeout(limits::SPARE_RETRY_INTERVAL),
            false => self.jobs.recv().map_err(RecvTimeoutError::from),
        };
        match received {
            Ok(job) => self.held.borrow_mut().push_back(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Reserves the next segment of the log, if there is none yet. The log can be written meanwhile. If the segment
    /// can't be reserved, later calls try again, at intervals.
    pub fn keep_spare(&self) {
        if let Some(work) = self.wants_spare() {
            self.took_spare(work.carry_out());
        }
    }

    /// The first half of [`Jobs::keep_spare`]: the work that has to be done, if any. Until [`Jobs::took_spare`] is
    /// called, only the raft loop may write.
    pub fn wants_spare(&self) -> Option<SpareWork> {
        let now = (self.shared.clock)();
        if self.asks_again.get().is_some_and(|at| now < at) {
            return None;
        }
        let mut wal = self.shared.wal.lock();
        let work = wal.wants_spare();
        let news = wal.take_news();
        if work.is_none() {
            *self.shared.room.lock() = wal.room();
            self.asks_again.set(None);
        }
        drop(wal);
        self.log(news);
        work
    }

    /// The second half of [`Jobs::keep_spare`].
    pub fn took_spare(&self, done: SpareDone) {
        let mut wal = self.shared.wal.lock();
        wal.took_spare(done);
        let news = wal.take_news();
        *self.shared.room.lock() = wal.room();
        let is_short = wal.is_short();
        drop(wal);
        let again = (self.shared.clock)() + limits::SPARE_RETRY_INTERVAL;
        self.asks_again.set(is_short.then_some(again));
        self.log(news);
    }

    fn log(&self, news: Option<SpareNews>) {
        let logger = &self.shared.logger;
        match news {
            None => {}
            Some(SpareNews::Denied(error)) if error.is_full() => {
                warn!(logger, "the disk has no room for the next segment of the log: writes are refused when the current segment \
                    is full; make room"; "error" => %error);
            }
            Some(SpareNews::Denied(error)) => {
                warn!(logger, "can't make the next segment of the log: writes are refused when the current segment is full; check \
                    the disk and the permissions"; "error" => %error);
            }
            Some(SpareNews::Delayed(error)) => {
                warn!(logger, "can't make the next segment of the log yet: writes wait when the current segment is full; this member \
                    tries again every second"; "error" => %error);
            }
            Some(SpareNews::Made) => info!(logger, "the log has its next segment again"),
        }
    }

    /// Whether no segment is kept aside.
    pub fn lacks_spare(&self) -> bool {
        self.shared.wal.lock().lacks_spare()
    }

    /// Writes up to `jobs_max` waiting jobs. The simulation calls this in place of the WAL thread.
    pub fn write_waiting(&self, jobs_max: usize) -> Result<Step, DiskError> {
        let mut held = self.held.borrow_mut();
        let more = jobs_max.saturating_sub(held.len());
        held.extend(self.jobs.try_iter().take(more));
        if held.is_empty() {
            return Ok(Step::Nothing);
        }
        let mut wal = self.shared.wal.lock();
        let sizes = || held.iter().map(|job| job.save.log_bytes());
        let bytes = |count| sizes().take(count).sum::<u64>();
        // Several jobs never need a segment that is longer than usual.
        let mut together = 0;
        let fits = |size: &u64| {
            together += size;
            together <= wal.together_max()
        };
        let count = sizes().take(jobs_max).take_while(fits).count().max(1);
        let count = match wal.make_room(bytes(count))? {
            true => count,
            // The jobs before an entry that is larger than a segment may fit.
            false if count > 1 && wal.make_room(bytes(1))? => 1,
            false => {
                *self.shared.room.lock() = wal.room();
                let again = (self.shared.clock)() + limits::SPARE_RETRY_INTERVAL;
                self.asks_again.set(self.asks_again.get().or(Some(again)));
                self.is_stuck.set(true);
                let news = wal.take_news();
                drop(wal);
                self.log(news);
                return Ok(Step::NoRoom);
            }
        };
        self.is_stuck.set(false);
        let mut saves: Vec<Save> = Vec::new();
        let mut durable = Durable {
            jobs: count,
            number: 0,
            compacted: 0,
            messages: Vec::new(),
        };
        for job in held.drain(..count) {
            durable.number = job.number;
            durable.compacted = job.compacted;
            saves.push(job.save);
            durable.messages.extend(job.messages);
        }
        self.shared.save(&mut wal, &saves)?;
        let news = wal.take_news();
        drop(wal);
        self.log(news);
        Ok(Step::Durable(durable))
    }

    /// The jobs that were taken from the queue and wait for room.
    pub fn held(&self) -> Vec<Save> {
        self.held
            .borrow()
            .iter()
            .map(|job| job.save.clone())
            .collect()
    }

    /// Whether the WAL thread has not finished all jobs that were sent.
    pub fn are_unfinished(&self) -> bool {
        self.shared.unfinished.load(Ordering::Acquire) > 0
    }

    /// Reports the jobs to the raft loop and sends their messages. `Break`: the thread that deletes files has ended
    /// with an error, and reports that error itself.
    pub fn tell(
        &self,
        durable: Durable,
        inbox: &Inbox,
        send: impl FnOnce(Vec<Message>),
        purges: &Sender<Purge>,
    ) -> Result<ControlFlow<()>, DiskError> {
        // Report before sending: the answer to a message must not reach the node before the node knows of the save that
        // the message relied on. raft-rs asserts that a candidate that wins has a durable log.
        inbox.persisted(durable.number);
        if !durable.messages.is_empty() {
            send(durable.messages);
        }
        let mut wal = self.shared.wal.lock();
        let purge = wal.purge(durable.compacted)?;
        drop(wal);
        if !purge.is_empty() && purges.send(purge).is_err() {
            return Ok(ControlFlow::Break(()));
        }
        // Release: the writes and messages here happen before anything that the raft loop writes itself afterwards.
        self.shared
            .unfinished
            .fetch_sub(durable.jobs, Ordering::Release);
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{DataDir, RealDisk, Start};
    use raft::eraftpb::Entry;
    use slog::o;

    fn wal(dir: &std::path::Path) -> Wal {
        let url = "http://127.0.0.1:9021".parse().unwrap();
        let start = Start::First([(1, url)].into());
        let logger = Logger::root(slog::Discard, o!());
        let disk = Arc::new(RealDisk);
        DataDir::new(disk, dir).open(1, start, &logger).unwrap().wal
    }

    /// A job with one entry. Job number and index are equal.
    fn job(index: u64, bytes: usize) -> Job {
        let mut entry = Entry::default();
        entry.index = index;
        entry.term = 1;
        entry.data = vec![7; bytes].into();
        Job {
            number: index,
            save: Save {
                entries: vec![entry],
                sync: true,
                ..Default::default()
            },
            messages: Vec::new(),
            is_lone: true,
            compacted: 0,
        }
    }

    fn is_written_here(written: Result<Written, WalWriterError>) -> bool {
        matches!(written, Ok(Written::Here { .. }))
    }

    #[test]
    fn only_a_small_lone_job_is_written_by_the_loop() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, Jobs { shared, jobs, .. }) = channel(
            wal(dir.path()),
            Instant::now,
            &Logger::root(slog::Discard, o!()),
        );
        // The work of the WAL thread.
        let finish = || {
            let job = jobs.try_recv().expect("the thread was given nothing");
            shared.wal.lock().save(&[job.save]).unwrap();
            shared.unfinished.fetch_sub(1, Ordering::Release);
        };
        let syncs = writer.written().syncs.count();
        assert!(is_written_here(
            writer.hand_over(job(2, 10), Meanwhile::Nothing)
        ));
        assert_eq!(writer.written().syncs.count(), syncs + 1);
        assert!(jobs.try_recv().is_err());
        // The write above may have been slow on this machine.
        shared.slow.store(false, Ordering::Relaxed);

        assert!(!is_written_here(
            writer.hand_over(job(3, 10), Meanwhile::Other)
        ));
        // The WAL thread has not finished the earlier job.
        assert!(!is_written_here(
            writer.hand_over(job(4, 10), Meanwhile::Nothing)
        ));
        finish();
        finish();
        let mut second = job(5, 10);
        second.is_lone = false;
        assert!(!is_written_here(
            writer.hand_over(second, Meanwhile::Nothing)
        ));
        finish();
        let large = job(6, limits::LONE_WRITE_BYTES_MAX + 1);
        assert!(!is_written_here(
            writer.hand_over(large, Meanwhile::Nothing)
        ));
        finish();
        shared.slow.store(true, Ordering::Relaxed);
        assert!(!is_written_here(
            writer.hand_over(job(7, 10), Meanwhile::Nothing)
        ));
        finish();
        shared.slow.store(false, Ordering::Relaxed);
        assert!(is_written_here(
            writer.hand_over(job(8, 10), Meanwhile::Nothing)
        ));
    }
}
