//! The transport's access to the disk: the cluster id in the data directory, and the snapshot files. If `meta` can't be
//! written, the process ends (fail-stop), unless there is only a shortage, as on a full disk. A snapshot that can't be
//! received is thrown away, and its sender tries again: the log has not failed.

use super::stop::StopSender;
use crate::storage::{DiskError, Meta, SnapshotMeta, SnapshotSink, SnapshotSource, Snapshots};
use crate::transport;
use std::io;
use std::sync::Arc;

/// The transport's view of the data directory. A failing disk ends the process.
pub(super) struct FailStopDirectory {
    pub(super) meta: Arc<Meta>,
    pub(super) stop_sender: StopSender,
}

impl transport::IdentityStore for FailStopDirectory {
    fn member(&self) -> u64 {
        self.meta.member()
    }

    fn cluster(&self) -> u64 {
        self.meta.cluster()
    }

    fn pin_cluster(&self, cluster: u64) -> Result<(), transport::FileError> {
        let pinned = self.meta.pin_cluster(cluster);
        pinned.map_err(|error| fail_unless_short(&self.stop_sender, error))
    }
}

/// The snapshot files for the transport.
pub(super) struct SnapshotFiles(pub(super) Arc<Snapshots>);

/// A snapshot file that is being received.
struct IncomingFile(SnapshotSink);

impl transport::SnapshotStore for SnapshotFiles {
    fn open(
        &self,
        index: u64,
        term: u64,
    ) -> Result<Box<dyn transport::OutgoingSnapshot>, transport::FileError> {
        Ok(Box::new(self.0.open(index, term)?))
    }

    fn receive(
        &self,
        cluster: u64,
    ) -> Result<Box<dyn transport::IncomingSnapshot>, transport::FileError> {
        Ok(Box::new(IncomingFile(self.0.receive(cluster)?)))
    }
}

impl transport::OutgoingSnapshot for SnapshotSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        SnapshotSource::read(self, buffer)
    }
}

impl transport::IncomingSnapshot for IncomingFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), transport::FileError> {
        Ok(self.0.write(bytes)?)
    }

    fn finish(self: Box<Self>, promised: &SnapshotMeta) -> Result<(), transport::FileError> {
        Ok(self.0.finish(promised)?)
    }
}

/// Ends the process because its disk has failed. Returns the error for the transport.
fn fail(stop_sender: &StopSender, error: DiskError) -> transport::FileError {
    let text = error.to_string();
    stop_sender.fail(error);
    text.into()
}

/// Ends the process as [`fail`] does, unless there is only a shortage, as on a full disk. In that case the contents in
/// memory have not changed, and the sender of the first state tries again.
fn fail_unless_short(stop_sender: &StopSender, error: DiskError) -> transport::FileError {
    match error.is_shortage() {
        true => error.into(),
        false => fail(stop_sender, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_code::ExitCode;
    use crate::server::stop::{StopReason, stop_reasons};
    use rustix::io::Errno;
    use std::path::Path;

    #[test]
    fn a_disk_that_fails_under_meta_ends_the_process_and_a_shortage_does_not() {
        for (errno, exit_code) in [
            (Errno::IO, Some(ExitCode::DiskFailed)),
            (Errno::ROFS, Some(ExitCode::DiskFailed)),
            (Errno::NOSPC, None),
            (Errno::DQUOT, None),
            (Errno::MFILE, None),
            (Errno::NFILE, None),
            (Errno::NOMEM, None),
        ] {
            let (stop_sender, mut reasons) = stop_reasons();
            let error = DiskError::new("write", Path::new("meta.tmp"), errno);
            fail_unless_short(&stop_sender, error);
            let end = match reasons.0.try_recv() {
                Ok(StopReason::Failed(failure)) => Some(failure.exit_code()),
                _ => None,
            };
            assert_eq!(end, exit_code, "{errno}");
        }
    }
}
