//! What the transport reads and writes on the disk: the data directory's own facts, and snapshot files. When the disk
//! fails under what it writes, the process ends (fail-stop).

use super::stop::End;
use crate::storage::{
    DiskError, Meta, ReceiveError, SnapshotMeta, SnapshotSink, SnapshotSource, Snapshots,
};
use crate::transport;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// What the transport asks of the data directory. When its disk fails, the process ends.
pub(super) struct FailStopDirectory {
    pub(super) meta: Arc<Meta>,
    pub(super) ends: UnboundedSender<End>,
}

impl transport::Directory for FailStopDirectory {
    fn member(&self) -> u64 {
        self.meta.member()
    }

    fn cluster(&self) -> u64 {
        self.meta.cluster()
    }

    fn pin_cluster(&self, cluster: u64) -> Result<(), transport::FileError> {
        let pinned = self.meta.pin_cluster(cluster);
        pinned.map_err(|error| fail(&self.ends, error))
    }
}

/// The snapshot files as the transport uses them. When the disk fails while one is received, the process ends.
pub(super) struct FailStopSnapshots {
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) ends: UnboundedSender<End>,
}

/// A snapshot file that is being received.
struct FailStopSink {
    sink: SnapshotSink,
    ends: UnboundedSender<End>,
}

impl transport::SnapshotFiles for FailStopSnapshots {
    fn open(
        &self,
        index: u64,
        term: u64,
    ) -> Result<Box<dyn transport::SnapshotSource>, transport::FileError> {
        Ok(Box::new(self.snapshots.open(index, term)?))
    }

    fn receive(
        &self,
        cluster: u64,
    ) -> Result<Box<dyn transport::SnapshotSink>, transport::FileError> {
        let ends = self.ends.clone();
        match self.snapshots.receive(cluster) {
            Ok(sink) => Ok(Box::new(FailStopSink { sink, ends })),
            Err(error) => Err(fail_unless_full(&ends, error)),
        }
    }
}

impl transport::SnapshotSource for SnapshotSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        SnapshotSource::read(self, buffer)
    }
}

impl transport::SnapshotSink for FailStopSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), transport::FileError> {
        let written = self.sink.write(bytes);
        written.map_err(|error| fail_unless_full(&self.ends, error))
    }

    fn finish(self: Box<Self>, promised: &SnapshotMeta) -> Result<(), transport::FileError> {
        let FailStopSink { sink, ends } = *self;
        sink.finish(promised).map_err(|error| match error {
            ReceiveError::Disk(error) => fail_unless_full(&ends, error),
            ReceiveError::Invalid(_) => error.into(),
        })
    }
}

/// Ends the process because its disk has failed. Gives what the transport is told.
fn fail(ends: &UnboundedSender<End>, error: DiskError) -> transport::FileError {
    let text = error.to_string();
    // The main thread may be ending already.
    let _ = ends.send(End::Failed(error.into()));
    text.into()
}

/// As [`fail`], but a disk that is only full is no reason to end: what was received of the snapshot is removed, and its
/// sender tries again.
fn fail_unless_full(ends: &UnboundedSender<End>, error: DiskError) -> transport::FileError {
    match error.is_full() {
        true => error.into(),
        false => fail(ends, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::path::Path;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn a_disk_that_fails_under_a_received_snapshot_ends_the_process_and_a_full_one_does_not() {
        for (errno, exit_code) in [
            (Errno::IO, Some(6)),
            (Errno::ROFS, Some(6)),
            (Errno::NOSPC, None),
            (Errno::DQUOT, None),
        ] {
            let (ends, mut ended) = unbounded_channel();
            let error = DiskError::new("write", Path::new("0.tmp"), errno);
            fail_unless_full(&ends, error);
            let end = match ended.try_recv() {
                Ok(End::Failed(failure)) => Some(failure.exit_code()),
                _ => None,
            };
            assert_eq!(end, exit_code, "{errno}");
        }
    }
}
