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

pub mod disk;
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
#[cfg(test)]
mod tests;
pub mod wal;

pub use disk::{Disk, DiskError, Lock, ReadOnlyDisk, RealDisk};
pub use known::{known_members, snapshot_members};
pub use log_index::Outline;
pub use meta::{Given, Meta};
pub use snapshot::{
    ReceiveError, SnapshotEncoder, SnapshotSink, SnapshotSource, SnapshotWriter, Snapshots,
};
pub use wal::read_back::ReadBack;
pub use wal::{Options, Purge, Wal};

use crate::command::version::Later;
use crate::command::{ReplicatedState, SnapshotHeader};
use crate::limits;
use crate::members::{Members, cluster_id};
use crate::peer_url::PeerUrl;
use raft::eraftpb::{ConfState, Entry, HardState};
use slog::{Logger, info};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of all file formats.
const FORMAT_VERSION: u32 = 2;

/// What to do about a member whose data can't be used. Right for each of the causes: nothing is thrown away, and no older
/// copy takes the place of what was acknowledged.
const REPLACE: &str = "replace this member: keep the directory aside, DELETE /<id> at another member, and start it with \
    --join on a new --data-dir; a sole member: restore its newest backup into a new cluster";

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

/// The data directory can't be used. One line each: the cause, the file, the next thing to do.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process has it.
    #[error("{} is locked: another process uses this data directory; stop it, or choose another --data-dir",
        path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// What it holds is damaged. Nothing was changed.
    #[error("{} is corrupt at byte {offset}: {why}; nothing was changed; {REPLACE}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// It belongs to somebody else.
    #[error("{}: {why}; nothing was changed; use the right --id and --data-dir, or {REPLACE}", path.display())]
    WrongIdentity {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// This member was removed from its cluster.
    #[error("{} is that of member {member} before entry {index} removed it from the cluster; to add the member again \
        start it with --join on a new --data-dir", dir.display())]
    Removed {
        /// The data directory.
        dir: PathBuf,
        /// This member.
        member: u64,
        /// The entry that removed it.
        index: u64,
    },
    /// A start before this one has found it to be an older copy of this member's directory.
    #[error("{} was found to be an older copy of the directory of member {member}, which lacks what the member has \
        acknowledged since; start with its newest directory, or, if that is lost, keep this one aside, curl -X DELETE \
        http://CLIENT_ADDRESS/{member} at another member, then start member {member} with --join \
        http://CLIENT_ADDRESS on a new --data-dir", dir.display())]
    OlderCopy {
        /// The data directory.
        dir: PathBuf,
        /// This member.
        member: u64,
    },
    /// It was written by another version of this program.
    #[error("{} has format version {found}, and this program reads {known} only; nothing was changed; {}",
        path.display(), other_version(*found, *known))]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// Only a later version knows what is in it.
    #[error("{} {later}; nothing was changed", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// What it needs.
        later: Later,
    },
    /// It holds no member, and none was to be made there: [`Start::Existing`].
    #[error("{0}")]
    NoMember(String),
    /// A restore was to make a data directory where something is already.
    #[error("{} exists: a restore makes a new data directory; choose another --data-dir, or move this one away",
        path.display())]
    NotEmpty {
        /// What was found.
        path: PathBuf,
    },
    /// A restore was killed before it had completed the data directory.
    #[error("{} holds a restore that did not complete; run raftkvd restore again, which begins anew", dir.display())]
    RestoreUnfinished {
        /// The data directory.
        dir: PathBuf,
    },
    /// The disk failed.
    #[error("{0}; check its space, permissions and health, then start again")]
    Io(#[from] DiskError),
}

impl StorageError {
    /// With what the process exits.
    pub fn exit_code(&self) -> i32 {
        match self {
            StorageError::Locked { .. } => 3,
            StorageError::Corrupt { .. } => 4,
            StorageError::WrongIdentity { .. } | StorageError::OlderCopy { .. } => 5,
            StorageError::Removed { .. } => 7,
            StorageError::Io(_) => 6,
            StorageError::NoMember(_)
            | StorageError::NotEmpty { .. }
            | StorageError::RestoreUnfinished { .. } => 2,
            StorageError::UnknownVersion { found, known, .. } if found > known => 8,
            StorageError::UnknownVersion { .. } => 1,
            StorageError::Later { .. } => 8,
        }
    }

    /// What is wrong, in one line, and not what the user of a daemon would do about it.
    pub fn without_advice(&self) -> String {
        match self {
            StorageError::Corrupt { path, offset, why } => {
                format!("{} is corrupt at byte {offset}: {why}", path.display())
            }
            StorageError::WrongIdentity { path, why } => format!("{}: {why}", path.display()),
            StorageError::Io(error) => error.to_string(),
            other => other.to_string(),
        }
    }

    fn corrupt(path: &Path, offset: u64, why: &str) -> StorageError {
        StorageError::Corrupt {
            path: path.to_owned(),
            offset,
            why: why.to_owned(),
        }
    }
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

/// Makes a data directory. A crash at any point leaves one in which the next start begins from here again, or a
/// complete one.
fn first_start(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    beginning: Beginning,
    snapshots: &Arc<Snapshots>,
    options: Options,
) -> Result<(Arc<Meta>, Wal, Recovered), StorageError> {
    let Beginning {
        member,
        start,
        given,
    } = beginning;
    let list = match &start {
        Start::First(list) => Some(list),
        // The latter was refused.
        Start::Empty | Start::Existing(_) => None,
    };
    let cluster = if list.is_some() { cluster_id } else { |_| 0 };
    let meta = Meta::create(disk.clone(), dir, member, cluster, given)?;
    let meta = Arc::new(meta);
    clear_parts(&**disk, dir)?;
    let snapshot = match list {
        Some(list) => {
            let snapshot = first_snapshot(&meta, list, 1);
            let bytes = snapshots.write(&snapshot, meta.cluster(), std::iter::empty())?;
            Some((snapshot, bytes))
        }
        None => None,
    };
    complete(disk, dir, meta, snapshots, options, snapshot)
}

/// Makes the parts of a data directory, or empties them: what is in there are leftovers of a first start, or of a
/// restore, that did not complete. Durable on return.
fn clear_parts(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    for part in ["wal", "snap"] {
        let part = dir.join(part);
        disk.create_dir_all(&part)?;
        for name in disk.list(&part)? {
            disk.remove(&part.join(name))?;
        }
        disk.sync_dir(&part)?;
    }
    disk.sync_dir(dir)
}

/// The last steps of a first start: the WAL, which marks the first snapshot and its size in bytes, and the word that the
/// directory is in use.
fn complete(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    meta: Arc<Meta>,
    snapshots: &Arc<Snapshots>,
    options: Options,
    snapshot: Option<(SnapshotMeta, u64)>,
) -> Result<(Arc<Meta>, Wal, Recovered), StorageError> {
    let mut recovered = Recovered::default();
    let mut state = wal::State::default();
    if let Some((snapshot, bytes)) = snapshot {
        recovered.snapshot_bytes = bytes;
        recovered.hard_state.term = snapshot.term;
        recovered.hard_state.commit = snapshot.index;
        state.last = snapshot.index;
        state.hard_state = recovered.hard_state.clone();
        state.marks.push(Mark {
            index: snapshot.index,
            term: snapshot.term,
            hard_state: recovered.hard_state.clone(),
            installed: false,
        });
        recovered.snapshot = Some(snapshot);
    }
    let start = recovered.snapshot.as_ref();
    let (index, term) = start.map_or((0, 0), |meta| (meta.index, meta.term));
    recovered.outline = Some(Outline::new(index, term));
    let wal = Wal::create(
        disk.clone(),
        dir.join("wal"),
        meta.clone(),
        snapshots.clone(),
        options,
        state,
    )?;
    meta.complete_first_start()?;
    Ok((meta, wal, recovered))
}

/// Where a new cluster begins: with its first member, whose `meta` this is, alone, as if an entry of term 1 at this index
/// had added it.
fn first_snapshot(meta: &Meta, list: &BTreeMap<u64, PeerUrl>, index: u64) -> SnapshotMeta {
    let lowest = list.keys().next().copied();
    assert_eq!(lowest, Some(meta.member()), "the first of {list:?}");
    let members = Members::first(list, meta.incarnation());
    let mut state = ReplicatedState::new();
    members.write_to(&mut state);
    SnapshotMeta {
        index,
        term: 1,
        conf_state: members.conf_state(),
        state,
    }
}

fn other_version(found: u32, known: u32) -> &'static str {
    match found > known {
        true => "start the version of raftkvd that ran here before, or a later one",
        false => "use the version of raftkvd that wrote it",
    }
}

fn check_version(path: &Path, found: u32) -> Result<(), StorageError> {
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(StorageError::UnknownVersion {
        path: path.to_owned(),
        found,
        known: FORMAT_VERSION,
    })
}

/// Reads `%016x-%016x`, exactly as it is written.
fn parse_numbers(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let numbers = (number(first)?, number(second)?);
    (format!("{:016x}-{:016x}", numbers.0, numbers.1) == text).then_some(numbers)
}

/// Describes a snapshot: where in the log it stands, and the replicated state beside the map.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SnapshotMeta {
    /// The last index it contains.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// The configuration at that index.
    pub conf_state: ConfState,
    /// Members, removed ids and sessions at that index.
    pub state: ReplicatedState,
}

impl SnapshotMeta {
    /// The header of the snapshot's file.
    pub fn to_header(&self, cluster: u64) -> SnapshotHeader {
        let mut header = SnapshotHeader::new();
        header.cluster = cluster;
        header.index = self.index;
        header.term = self.term;
        header.voters = self.conf_state.voters.clone();
        header.learners = self.conf_state.learners.clone();
        header.state = Some(self.state.clone()).into();
        header
    }

    /// The same for a file that any client may have. It tells no incarnation: who knows one can pass for that member.
    pub fn to_public_header(&self, cluster: u64) -> SnapshotHeader {
        let mut header = self.to_header(cluster);
        let state = header.mut_state();
        for member in state.members.iter_mut() {
            (member.incarnation, member.bound_index) = (0, 0);
        }
        for removed in state.removed.iter_mut() {
            removed.incarnation = 0;
        }
        state.sessions.clear();
        header
    }

    /// Reads a file's header.
    pub fn from_header(header: &SnapshotHeader) -> SnapshotMeta {
        let mut conf_state = ConfState::default();
        conf_state.set_voters(header.voters.clone());
        conf_state.set_learners(header.learners.clone());
        SnapshotMeta {
            index: header.index,
            term: header.term,
            conf_state,
            state: header.get_state().clone(),
        }
    }
}

/// What one ready of raft asks to be made durable, in this order within the log.
#[derive(Debug, Clone, Default)]
pub struct Save {
    /// A snapshot that is already durable in `snap/` and from which a restart may begin.
    pub mark: Option<Mark>,
    /// Entries; the first replaces whatever the log held from its index on.
    pub entries: Vec<Entry>,
    /// The newest hard state.
    pub hard_state: Option<HardState>,
    /// It has to be durable before anything that depends on it is said or done. Without it the save may wait for
    /// the next one that has to (only the commit index moved).
    pub sync: bool,
}

/// A snapshot from which a restart may begin, with the hard state of the same moment: one record, because a mark
/// whose index is above the commit index of the hard state could not be started from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mark {
    /// The snapshot's index.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// Hard state whose commit is at least `index`.
    pub hard_state: HardState,
    /// The snapshot came from the leader and replaces the whole log. Otherwise it was taken here, and entries behind
    /// it stay.
    pub installed: bool,
}

/// What a restart finds.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The newest hard state; its commit is at least the snapshot's index.
    pub hard_state: HardState,
    /// The snapshot to begin from; `None` on an empty member, which has not received one.
    pub snapshot: Option<SnapshotMeta>,
    /// Size of that snapshot's file.
    pub snapshot_bytes: u64,
    /// Of the whole log that can be read back, which begins at or before the snapshot, up to the last of `entries`.
    /// `None` is for who makes one without a disk: it is `entries`, behind the snapshot.
    pub outline: Option<Outline>,
    /// The newest entries behind the snapshot, without gaps: all that are not known to be committed, and of the others
    /// as many as memory shall hold.
    pub entries: Vec<Entry>,
}
