//! What is on disk: `LOCK`, `meta`, `wal/`, `snap/` in the data directory. The only place with crash-ordering rules.
//!
//! [`open`] creates or recovers a data directory. Then the WAL thread owns the [`Wal`], and [`Meta`] and [`Snapshots`]
//! are shared. Everything goes through [`disk::Disk`]; what that promises is stated there.
//!
//! # The orders, and what breaks when one is swapped
//!
//! 1. *Batch durable, then acknowledge, then the next batch.* [`Wal::save`] returns after the fdatasync. Acknowledged
//!    earlier, a write or a vote could be lost; with two batches in flight, a damaged batch could no longer be told
//!    from a torn one by what follows it.
//! 2. *Segment, its name included, durable, then its first own batch.* Otherwise a synced batch stands in a file that
//!    a crash removes.
//! 3. *Snapshot file synced, then renamed, then the directory synced, then the mark.* Renamed before it is synced, a
//!    valid name could stand for half a file; marked before the rename is durable, the mark could name no file.
//! 4. *Mark and hard state in one record.* Apart, a crash between them leaves a snapshot above the commit index, from
//!    which raft can't start.
//! 5. *Mark durable, then older segments and snapshots go.* Otherwise a crash leaves a restart without what the older
//!    mark needs. They go after it was reported that the save is durable, and by a thread of their own: removing
//!    large files takes long. Segments go oldest first, one after the other durably, or a crash could leave a gap.
//! 6. *`meta` says "starting" before anything else is made, and "in use" after everything was.* So what a crash left
//!    of a first start is recognised and cleared, while a lost `meta` beside a log is refused: cleared by mistake it
//!    would be a member that forgot its votes.
//!    The names of all directories on the way to it come before even that: lost, they take everything with them.
//!    A restore says "restoring" in place of "starting", see `restore.rs`.
//! 7. *Boot number durable before it is used.* A number that is used twice makes two proposals look like one.
//! 8. *A cluster id durable before the mark of the first snapshot from a leader.* Otherwise a crash leaves the mark of
//!    a cluster that `meta` does not name, and it can't be told from somebody else's.
//! 9. *A torn tail is copied aside durably, then cut durably, then the log goes on.* See `segment.rs`.
//! 10. *What a restart has read is synced before it is used.* After a mere end of the process the kernel may hold bytes
//!     that are not on the disk; acknowledging on their strength would repeat mistake 1.
//! 11. *A segment out of the index, then its file goes.* Not for a crash: who reads entries back beside it takes a
//!     missing file for damage otherwise.
//! 12. *The list in `meta` durable before the entry that corrects the cluster's list.* The other way round, a crash leaves a
//!     cluster that forms of the corrected list, and a start without options would take the mistaken one back.
//! 13. *An error is final.* No write or sync is tried again; see `disk.rs`.
//!
//! Any prefix of the WAL that ends between two batches is consistent: the log has no gap, no hard state calls an entry
//! committed that is missing, and each mark stands behind the entries it covers.

mod create;
pub mod disk;
mod error;
#[cfg(test)]
#[path = "../../tests/simulation/disk.rs"]
mod fake_disk;
pub mod inspect;
mod known;
pub mod log_index;
pub mod meta;
mod recovery;
pub mod restore;
pub mod snapshot;
mod state;
#[cfg(test)]
mod tests;
pub mod wal;

pub use disk::{Disk, DiskError, Lock, ReadOnlyDisk, RealDisk};
pub use error::StorageError;
pub use known::{known_members, snapshot_members};
pub use log_index::Outline;
pub use meta::{Given, Meta};
pub use snapshot::{
    ReceiveError, SnapshotEncoder, SnapshotSink, SnapshotSource, SnapshotWriter, Snapshots,
};
pub use state::{Mark, Recovered, Save, SnapshotMeta};
pub use wal::read_back::ReadBack;
pub use wal::{Options, Purge, Wal};

use crate::command::SnapshotHeader;
use crate::limits;
use crate::peer_url::PeerUrl;
use crate::storage::create::first_start;
use slog::{Logger, info};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Version of all file formats.
const FORMAT_VERSION: u32 = 2;

/// How a member begins when its data directory is empty. Ignored otherwise.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// As the first member of a new cluster, with this list of first members. It has the lowest id, begins alone, and
    /// adds the others.
    First(BTreeMap<u64, PeerUrl>),
    /// With nothing: the leader of a cluster sends it all.
    Empty,
    /// Not at all. This line says why.
    Existing(String),
}

/// Whose a data directory is to be that is empty, and how this member begins there.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The member. Whose directory it is already, it has to be.
    pub member: u64,
    /// How it begins.
    pub start: Start,
    /// What later starts may leave out.
    pub given: Given,
}

impl Beginning {
    /// With a list, or without any addresses.
    pub fn of(member: u64, start: Start) -> Beginning {
        let list = match &start {
            Start::First(list) => list.clone(),
            Start::Empty | Start::Existing(_) => BTreeMap::new(),
        };
        let url = list.get(&member).cloned();
        let given = Given {
            url,
            list,
            ..Given::default()
        };
        Beginning {
            member,
            start,
            given,
        }
    }
}

/// An open data directory.
#[derive(Debug)]
pub struct Opened {
    /// Who it belongs to.
    pub meta: Arc<Meta>,
    /// The write-ahead log, for the WAL thread.
    pub wal: Wal,
    /// The snapshot files.
    pub snapshots: Arc<Snapshots>,
    /// Where raft goes on.
    pub recovered: Recovered,
    /// The directory was made just now.
    pub first_start: bool,
    /// A random number of this start, never 0. Two processes on copies of one directory may have the same boot number,
    /// and not this.
    pub run: u64,
}

/// Refuses [`Start::Existing`] where no member is. It touches nothing, and whoever calls it before [`lock`] leaves nothing
/// behind; [`open`] asks again.
pub fn check_start(disk: &Arc<dyn Disk>, dir: &Path, start: &Start) -> Result<(), StorageError> {
    let Start::Existing(line) = start else {
        return Ok(());
    };
    match Meta::load(disk.clone(), dir)? {
        Some(meta) if meta.in_use() || meta.is_restoring() => Ok(()),
        Some(_) => Err(StorageError::NoMember(line.clone())),
        None => {
            check_empty(&**disk, dir)?;
            Err(StorageError::NoMember(line.clone()))
        }
    }
}

/// Creates the data directory if need be, and keeps other processes out of it until the lock is dropped.
pub fn lock(disk: &dyn Disk, dir: &Path) -> Result<Lock, StorageError> {
    disk.create_dir_all(dir)?;
    sync_names_above(disk, dir)?;
    let path = dir.join("LOCK");
    // Who inspects the directory has the lock for a moment too.
    for _ in 0..limits::LOCK_TRIES {
        if let Some(lock) = disk.lock(&path)? {
            return Ok(lock);
        }
        std::thread::sleep(limits::LOCK_PAUSE);
    }
    Err(StorageError::Locked { path })
}

/// Makes the name of the data directory durable, and those of all directories above it: whichever of them was new, a
/// crash that lost its name would take the data with it. Which were new is not asked. A process that was killed may
/// have made them and not synced them.
fn sync_names_above(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    let none_of_ours = |error: &DiskError| {
        use std::io::ErrorKind::*;
        // Directories of others, or of file systems that are made once and only read: no new name is in them.
        let kind = error.source.kind();
        matches!(kind, PermissionDenied | InvalidInput | ReadOnlyFilesystem)
    };
    for (distance, above) in dir.ancestors().skip(1).enumerate() {
        let above = match above.as_os_str().is_empty() {
            true => Path::new("."),
            false => above,
        };
        match disk.sync_dir(above) {
            Err(error) if distance > 0 && none_of_ours(&error) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Fills (first start) or recovers the data directory `dir` of this member, which the caller has locked. Everything
/// that it returns is durable, the incremented boot number included.
pub fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    member: u64,
    start: Start,
    logger: &Logger,
) -> Result<Opened, StorageError> {
    open_with(disk, dir, member, start, Options::default(), logger)
}

/// [`open`] with other sizes of the WAL's parts.
pub fn open_with(
    disk: Arc<dyn Disk>,
    dir: &Path,
    member: u64,
    start: Start,
    options: Options,
    logger: &Logger,
) -> Result<Opened, StorageError> {
    let check = &mut |snapshots: &Snapshots, index, term| {
        snapshots.load(index, term, |_, _, _| (), |_, _| ())
    };
    let beginning = Beginning::of(member, start);
    open_and_load(disk, dir, beginning, options, check, logger)
}

/// Loads the snapshot of this index and term, all of it; gives its header and the size of its file. Called again with
/// an older one if the file is damaged.
pub type Load<'a> =
    dyn FnMut(&Snapshots, u64, u64) -> Result<(SnapshotHeader, u64), StorageError> + 'a;

/// [`open_with`], and loads the snapshot to begin from on the way, unless this is a first start: so it is read once.
pub fn open_and_load(
    disk: Arc<dyn Disk>,
    dir: &Path,
    beginning: Beginning,
    options: Options,
    load: &mut Load<'_>,
    logger: &Logger,
) -> Result<Opened, StorageError> {
    check_start(&disk, dir, &beginning.start)?;
    let member = beginning.member;
    let snapshots = Arc::new(Snapshots::new(disk.clone(), dir.join("snap")));
    let (meta, wal, recovered, first_start) = match Meta::load(disk.clone(), dir)? {
        Some(meta) if meta.in_use() => {
            let meta = Arc::new(meta);
            check_owner(dir, &meta, member)?;
            let (wal, recovered) =
                recovery::recover(&disk, dir, &meta, &snapshots, options, load, logger)?;
            meta.next_boot()?;
            (meta, wal, recovered, false)
        }
        Some(meta) if meta.is_restoring() => {
            return Err(StorageError::RestoreUnfinished {
                dir: dir.to_owned(),
            });
        }
        unfinished => {
            if unfinished.is_none() {
                check_empty(&*disk, dir)?;
            }
            let (meta, wal, recovered) = first_start(&disk, dir, beginning, &snapshots, options)?;
            info!(logger, "new data directory"; "dir" => dir.display(), "member" => member);
            (meta, wal, recovered, true)
        }
    };
    Ok(Opened {
        meta,
        wal,
        snapshots,
        recovered,
        first_start,
        run: disk.random()?.max(1),
    })
}

/// Refuses a directory of another member, and one of a member that was removed.
pub fn check_owner(dir: &Path, meta: &Meta, member: u64) -> Result<(), StorageError> {
    if meta.member() != member {
        return Err(StorageError::WrongIdentity {
            path: dir.join("meta"),
            why: format!(
                "the data directory belongs to member {}, this is member {member}",
                meta.member()
            ),
        });
    }
    if let Some(index) = meta.removed() {
        return Err(StorageError::Removed {
            dir: dir.to_owned(),
            member,
            index,
        });
    }
    match meta.is_older_copy() {
        true => Err(StorageError::OlderCopy {
            dir: dir.to_owned(),
            member,
        }),
        false => Ok(()),
    }
}

/// Without `meta` there must be nothing else: a first start writes it before all, so it was lost.
fn check_empty(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    for part in ["wal", "snap"] {
        if !disk.list(&dir.join(part))?.is_empty() {
            return Err(StorageError::WrongIdentity {
                path: dir.join("meta"),
                why: format!(
                    "the file is missing, but {part}/ is not empty: it can't be told whose data this is"
                ),
            });
        }
    }
    Ok(())
}

/// Reads `%016x-%016x`, exactly as it is written.
fn parse_numbers(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let numbers = (number(first)?, number(second)?);
    (format!("{:016x}-{:016x}", numbers.0, numbers.1) == text).then_some(numbers)
}
