//! Writing the WAL: makes durable what the node asks for, then lets out what had to wait for it.
//!
//! The WAL thread takes all jobs that wait into one write and one fdatasync: group commit. While it runs, the next jobs
//! gather. A job that comes alone takes no such detour: with nothing else to do meanwhile the raft loop writes it
//! itself, which saves a lone request two changes of thread on every member that it passes.
//!
//! Invariant: jobs are written in the order in which they were handed over. The loop writes only when all before it are
//! durable, and there is no other source of jobs.

use crate::apply::ThreadEnded;
use crate::config;
use crate::inbox::Inbox;
use crate::node::Job;
use crate::storage::{self, DiskError, Save, Wal};
use crate::transport::Transport;
use raft::eraftpb::Message;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

/// The WAL, shared by the thread and the loop.
pub type SharedWal = Arc<Mutex<Wal>>;

/// The raft loop's way to the WAL.
pub struct Writer {
    wal: SharedWal,
    written: Arc<storage::Written>,
    jobs: Sender<Job>,
    /// A write of the loop's own took long: until then, the thread does it all, and heartbeats do not wait for the disk.
    slow_until: Option<Instant>,
}

/// What became of a job.
pub enum Written {
    /// It is durable, and these of its messages may go once the node knows that.
    Here {
        /// The job's number.
        number: u64,
        /// Its messages.
        messages: Vec<Message>,
    },
    /// The WAL thread has it, and tells the inbox.
    Queued,
}

impl Writer {
    /// Writes here what is alone, and puts everything else into `jobs`, for [`run`].
    pub fn new(wal: SharedWal, jobs: Sender<Job>) -> Writer {
        let written = wal.lock().expect(PANICKED).written();
        Writer {
            wal,
            written,
            jobs,
            slow_until: None,
        }
    }

    /// Hands a job over, or writes it at once if that is as good: nothing before it is still to be written, it is
    /// small, and `quiet`: nothing waits for the loop that could be done meanwhile.
    pub fn hand_over(&mut self, job: Job, quiet: bool) -> Result<Written, WriterError> {
        let small = entry_bytes(&job.save) <= config::LONE_WRITE_BYTES_MAX;
        if quiet && job.is_lone && small && job.save.mark.is_none() && self.disk_is_fast() {
            // The thread may still be removing old files.
            let begun = Instant::now();
            let written = match self.wal.try_lock() {
                Ok(mut wal) => wal.save(std::slice::from_ref(&job.save)).map(|()| true)?,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Poisoned(_)) => panic!("{PANICKED}"),
            };
            let ended = Instant::now();
            if ended - begun > config::LONE_WRITE_SLOW {
                self.slow_until = Some(ended + config::LONE_WRITE_PAUSE);
            }
            if written {
                return Ok(Written::Here {
                    number: job.number,
                    messages: job.messages,
                });
            }
        }
        self.jobs.send(job).map_err(|_| ThreadEnded)?;
        Ok(Written::Queued)
    }

    /// What the WAL has written.
    pub fn written(&self) -> &storage::Written {
        &self.written
    }

    fn disk_is_fast(&mut self) -> bool {
        self.slow_until.take_if(|until| *until <= Instant::now());
        self.slow_until.is_none()
    }
}

const PANICKED: &str = "a thread panicked while it wrote the WAL";

/// Why a job could not be handed over.
#[derive(Debug)]
pub enum WriterError {
    /// The disk failed. Nothing of the job was said to anybody.
    Disk(DiskError),
    /// The WAL thread has ended: the process is stopping.
    ThreadEnded,
}

impl From<ThreadEnded> for WriterError {
    fn from(ThreadEnded: ThreadEnded) -> WriterError {
        WriterError::ThreadEnded
    }
}

impl From<DiskError> for WriterError {
    fn from(error: DiskError) -> WriterError {
        WriterError::Disk(error)
    }
}

fn entry_bytes(save: &Save) -> usize {
    save.entries.iter().map(|entry| entry.data.len()).sum()
}

/// The WAL thread. Runs until the raft loop has ended, or the disk fails: then nothing of the failed batch was said to
/// anybody.
pub fn run(
    wal: &Mutex<Wal>,
    jobs: &Receiver<Job>,
    inbox: &Inbox,
    transport: &Transport,
) -> Result<(), DiskError> {
    while let Ok(first) = jobs.recv() {
        let mut number = 0;
        let mut saves: Vec<Save> = Vec::new();
        let mut messages = Vec::new();
        let mut wal = wal.lock().expect(PANICKED);
        for job in std::iter::once(first).chain(jobs.try_iter().take(config::JOBS_PER_WRITE_MAX)) {
            number = job.number;
            saves.push(job.save);
            messages.extend(job.messages);
        }
        wal.save(&saves)?;
        // In this order: the answer to one of the messages must not reach the node before it knows of the save that
        // the message rested on (raft-rs asserts that a candidate that wins has a durable log).
        inbox.persisted(number);
        if !messages.is_empty() {
            transport.send(messages);
        }
        // Last: nobody shall wait for the removal of files.
        wal.purge()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Members;
    use crate::storage::{RealDisk, Start};
    use raft::eraftpb::Entry;
    use slog::{Logger, o};
    use std::sync::mpsc;

    fn wal(dir: &std::path::Path) -> Wal {
        let url = "http://127.0.0.1:9021".parse().unwrap();
        let start = Start::Bootstrap(Members::initial(&[url]));
        let logger = Logger::root(slog::Discard, o!());
        let disk = Arc::new(RealDisk);
        storage::open(disk, dir, 1, start, &logger).unwrap().wal
    }

    /// A job of one entry, which is also its number.
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
        }
    }

    fn is_written_here(written: Result<Written, WriterError>) -> bool {
        matches!(written, Ok(Written::Here { .. }))
    }

    #[test]
    fn only_a_small_lone_job_is_written_by_the_loop() {
        let dir = tempfile::tempdir().unwrap();
        let shared: SharedWal = Arc::new(Mutex::new(wal(dir.path())));
        let (sender, jobs) = mpsc::channel();
        let mut writer = Writer::new(shared.clone(), sender);
        let drain = || {
            let job = jobs.try_recv().expect("the thread was given nothing");
            shared.lock().unwrap().save(&[job.save]).unwrap();
        };
        let syncs = writer.written().syncs();
        // A slow disk would send it to the thread, so this is the first write, whose time does not count.
        assert!(is_written_here(writer.hand_over(job(2, 10), true)));
        assert_eq!(writer.written().syncs(), syncs + 1);
        assert!(jobs.try_recv().is_err());
        writer.slow_until = None;

        assert!(!is_written_here(writer.hand_over(job(3, 10), false)));
        drain();
        let mut second = job(4, 10);
        second.is_lone = false;
        assert!(!is_written_here(writer.hand_over(second, true)));
        drain();
        let large = job(5, config::LONE_WRITE_BYTES_MAX + 1);
        assert!(!is_written_here(writer.hand_over(large, true)));
        drain();
        // The thread has something to do with the WAL.
        let held = shared.lock().unwrap();
        assert!(!is_written_here(writer.hand_over(job(6, 10), true)));
        drop(held);
        drain();
        // The disk was slow.
        writer.slow_until = Some(Instant::now() + config::LONE_WRITE_PAUSE * 3600);
        assert!(!is_written_here(writer.hand_over(job(7, 10), true)));
        drain();
        writer.slow_until = Some(Instant::now());
        assert!(is_written_here(writer.hand_over(job(8, 10), true)));
    }
}
