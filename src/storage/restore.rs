//! Making the data directory of a new cluster's member from a snapshot file.
//!
//! It is a first start with another first snapshot: the map of the file at the file's index, so that no ETag of the old
//! cluster is ever given again; term 1; the members of the new cluster; no sessions and no removed ids, for they are of
//! members that are not these. Whatever the members need to agree on follows from the file and the list of members, so
//! each of them makes its own directory without a word to the others. So does the cluster's id: members of the old
//! cluster, and of one restored from another file, are strangers.
//!
//! In this order: the file is checked, `meta` says "restoring", leftovers go, the snapshot is durable, the WAL with its
//! mark is, and then `meta` says "in use". A restore that was killed after its first step leaves a directory which a
//! start refuses: it would begin with an empty map. The next restore begins again.

use super::meta::Meta;
use super::snapshot::{SnapshotContents, Snapshots, read_file};
use super::{Disk, Options, StorageError, clear_parts, complete, lock};
use crate::command::ReplicatedState;
use crate::members::Members;
use crate::mutants::{Mutant, is_planted};
use crate::storage::SnapshotMeta;
use std::path::Path;
use std::sync::Arc;

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Id of the new cluster.
    pub cluster: u64,
    /// Id of the cluster that the file came from.
    pub from_cluster: u64,
    /// The index at which it begins.
    pub index: u64,
    /// Entries of the map.
    pub entries: u64,
}

/// What to restore, and for whom.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The snapshot.
    pub file: &'a Path,
    /// The data directory to make.
    pub dir: &'a Path,
    /// The member whose it will be.
    pub member: u64,
    /// All members of the new cluster.
    pub members: &'a Members,
    /// Sizes of the WAL's parts.
    pub options: Options,
}

/// Makes a data directory from a snapshot, which is read from `source`. `progress` is told how many bytes are done and of
/// how many; the file is read twice, and nothing is touched before it was checked to its end. Durable on return.
pub fn restore(
    source: &dyn Disk,
    disk: &Arc<dyn Disk>,
    plan: Plan<'_>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Restored, StorageError> {
    let Plan {
        file,
        dir,
        member,
        members,
        options,
    } = plan;
    check_vacant(disk, dir)?;
    let mut checked = SnapshotContents::default();
    let told = |done, total| progress(done, 2 * total);
    read_file(source, file, &mut checked, |_, _, _| Ok(()), told)?;
    let header = &checked.header;
    let mut state = ReplicatedState::new();
    members.write_to(&mut state);
    let first = SnapshotMeta {
        index: match is_planted(Mutant::RestoredIndexTooLow) {
            true => 1,
            false => header.index,
        },
        term: 1,
        conf_state: members.conf_state(),
        state,
    };
    let cluster = cluster_id(members, &checked);

    let _lock = lock(&**disk, dir)?;
    // Whoever was quicker may have made something meanwhile.
    check_vacant(disk, dir)?;
    let meta = Arc::new(Meta::create_restoring(disk.clone(), dir, member, cluster)?);
    clear_parts(&**disk, dir)?;
    let snapshots = Arc::new(Snapshots::new(disk.clone(), dir.join("snap")));
    let mut writer = snapshots.begin(&first, cluster)?;
    let mut copied = SnapshotContents::default();
    let copy = |key: &[u8], index, value: &[u8]| writer.entry(key, index, value);
    let told = |done, total| progress(total + done, 2 * total);
    read_file(source, file, &mut copied, copy, told)?;
    if (copied.crc, copied.bytes) != (checked.crc, checked.bytes) {
        let why = "it changed while it was read";
        return Err(StorageError::corrupt(file, 0, why));
    }
    let bytes = writer.finish()?;
    let index = first.index;
    complete(disk, dir, meta, &snapshots, options, Some((first, bytes)))?;
    Ok(Restored {
        cluster,
        from_cluster: header.cluster,
        index,
        entries: copied.entries,
    })
}

/// Refuses a directory in which anything is but the lock and what a restore that was killed left.
fn check_vacant(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), StorageError> {
    let not_empty = |what: &str| StorageError::NotEmpty {
        path: dir.join(what),
    };
    let restoring = match Meta::load(disk.clone(), dir) {
        Ok(None) => false,
        Ok(Some(meta)) if meta.is_restoring() => true,
        Err(StorageError::Io(error)) => return Err(error.into()),
        // Whatever it is, somebody may still want it.
        _ => return Err(not_empty("meta")),
    };
    for name in disk.list(dir)? {
        let ours = match name.as_str() {
            // What a process left that was killed before it had written a `meta`, and what a new file system has.
            "LOCK" | "meta.tmp" | "lost+found" => true,
            "meta" | "wal" | "snap" => restoring,
            _ => false,
        };
        if !ours {
            return Err(not_empty(&name));
        }
    }
    Ok(())
}

/// The same on each member, and another one than that of any cluster which this file or these members had before:
/// FNV-1a, as of [`Members::cluster_id`], over what the file holds and who restores it.
fn cluster_id(members: &Members, file: &SnapshotContents) -> u64 {
    let header = &file.header;
    let seed = [
        members.cluster_id(),
        header.cluster,
        header.index,
        header.term,
        file.entries,
        u64::from(file.crc),
    ];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in seed.iter().flat_map(|number| number.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash.max(1)
}
