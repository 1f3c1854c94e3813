//! The spare segment: a file of reserved blocks, `spare.wal.tmp`, that becomes the next segment.
//!
//! A full disk can't deny the log a segment that it has already. The spare survives restarts, so that a start on a full
//! disk has it too. The spare is not part of the log: a spare that is made, or can't be made, changes nothing in the
//! log.

use super::{HEADER_BYTES, Header, SegmentWriter};
use crate::storage::disk::{Disk, DiskDirectory, DiskError, DiskFile};
use crate::storage::leftovers::Leftovers;
use crate::storage::wal::record::{Batch, is_zero};
use std::path::{Path, PathBuf};

/// The name of the file. A version without spare segments removes the file at its start.
pub const SPARE: &str = "spare.wal.tmp";

/// Bytes that the header and the first batch take, at most. The rest of them is written as zeros: a crash may have left
/// another header there.
pub const FIRST_BYTES_MAX: u64 = 512;
/// Bytes that are examined at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The spare segment.
pub struct Spare {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    len: u64,
}

impl Spare {
    /// Reserves the blocks. Not durable: [`Spare::begin`] syncs the file.
    pub fn make(disk: &dyn Disk, dir: &Path, len: u64) -> Result<Spare, DiskError> {
        let path = dir.join(SPARE);
        let made = disk.create(&path).and_then(|mut file| {
            file.allocate(len)?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok(Spare { file, path, len }),
            Err(error) => {
                // Some blocks may have been reserved. If this fails, the next attempt empties the file.
                let _ = disk.remove(&path);
                Err(error)
            }
        }
    }

    /// The spare that an earlier process left. `None` if there is none of at least this length. A file that can't be a
    /// spare is removed. So is a copy without blocks, if the disk has no room for them: programs that copy files leave
    /// out zeros.
    pub(in crate::storage) fn find(
        disk: &dyn Disk,
        dir: &Path,
        len: u64,
        leftovers: &mut Leftovers<'_>,
    ) -> Result<Option<Spare>, DiskError> {
        let path = dir.join(SPARE);
        let Some(mut file) = disk.open(&path)? else {
            return Ok(None);
        };
        let found = file.len()?;
        let is_spare = found >= len
            && is_unused(&*file, found)?
            && match file.allocate(found) {
                Ok(()) => true,
                Err(error) if error.is_full() => false,
                Err(error) => return Err(error),
            };
        if !is_spare {
            drop(file);
            // If it stays, the next spare replaces it.
            leftovers.remove(&path);
            return Ok(None);
        }
        let len = found;
        Ok(Some(Spare { file, path, len }))
    }

    /// Reserves more blocks. After an error the spare is as long as before.
    pub fn grow(&mut self, len: u64) -> Result<(), DiskError> {
        self.file.allocate(len)?;
        self.len = self.len.max(len);
        Ok(())
    }

    /// The length of the file.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Writes the header, with this spare's length, and the first batch. Durable on return.
    pub fn begin(mut self, mut header: Header, first: &mut Batch) -> Result<Begun, DiskError> {
        header.len = self.len;
        let mut bytes = header.encode().to_vec();
        let crc = first.finish(header.salt, HEADER_BYTES as u64, header.crc());
        bytes.extend_from_slice(first.bytes_mut());
        let end = bytes.len() as u64;
        assert!(
            end <= FIRST_BYTES_MAX,
            "a first batch that ends at {end}, the limit is {FIRST_BYTES_MAX}"
        );
        let zeroed = FIRST_BYTES_MAX.min(self.len.max(end));
        bytes.resize(zeroed as usize, 0);
        self.file.write_at(&bytes, 0)?;
        self.file.sync()?;
        Ok(Begun {
            path: self.path,
            writer: SegmentWriter {
                file: self.file,
                path: PathBuf::new(),
                header,
                end,
                crc,
                zeroed,
                len: self.len.max(end),
            },
        })
    }
}

/// A segment that is complete, but still has the name of the spare.
pub struct Begun {
    path: PathBuf,
    writer: SegmentWriter,
}

impl Begun {
    /// Gives the segment its name. Durable on return. Only then may the caller write its first batch: if a batch were
    /// written to a file whose name is not durable, a crash could remove the whole file although the batch was synced.
    ///
    /// The disk may have no room for the name. Then nothing has happened, and the file is the spare again. A failed
    /// sync of the directory is different: it is unknown which names are durable.
    ///
    /// The file and the directory are open, so nothing here needs a file descriptor.
    pub fn name(
        self,
        disk: &dyn Disk,
        directory: &dyn DiskDirectory,
        dir: &Path,
    ) -> Result<Naming, DiskError> {
        let Begun { path, mut writer } = self;
        writer.path = dir.join(writer.header.name.file_name());
        match disk.rename(&path, &writer.path) {
            Ok(()) => {}
            Err(error) if error.is_shortage() => {
                let (file, len) = (writer.file, writer.len);
                return Ok(Naming::NoRoom(Spare { file, path, len }, error));
            }
            Err(error) => return Err(error),
        }
        writer.file.set_path(&writer.path);
        directory.sync()?;
        Ok(Naming::Named(writer))
    }
}

/// The result of naming a segment.
pub enum Naming {
    /// The segment has its name.
    Named(SegmentWriter),
    /// The disk has no room for the name, or the machine has no memory.
    NoRoom(Spare, DiskError),
}

/// Whether the file is zero behind the part that [`Spare::begin`] writes.
fn is_unused(file: &dyn DiskFile, len: u64) -> Result<bool, DiskError> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = FIRST_BYTES_MAX;
    while offset < len {
        let read = file.read_at(&mut piece, offset)?;
        if read == 0 || !is_zero(&piece[..read]) {
            return Ok(false);
        }
        offset += read as u64;
    }
    Ok(true)
}
