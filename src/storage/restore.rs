//! Making the data directory of a new cluster's first member from a snapshot file.
//!
//! It is a first start with another first snapshot: the map of the file, with its ETags, at an index that is far behind
//! that of the file ([`limits::RESTORE_SKIP`]); term 1; the first member alone; no sessions and no removed ids, for they
//! are of members that are not these. So no index is given twice: not one that the old cluster gave after the backup, and
//! not one that another restore of the same file gives. The other first members start empty, and get the map from the first, as in every new cluster. The
//! cluster's id follows from the incarnation of the new directory: members of the old cluster, and of any other that was
//! restored, are strangers.
//!
//! In this order: the file is checked, `meta` says "restoring", leftovers go, the snapshot is durable, the WAL with its
//! mark is, and then `meta` says "in use". A restore that was killed after its first step leaves a directory which a
//! start refuses: it would begin with an empty map. The next restore begins again.

use super::create::{clear_parts, complete, first_snapshot};
use super::data_dir::DataDir;
use super::disk::Disk;
use super::error::StorageError;
use super::meta::{Given, Meta};
use super::snapshot::{SnapshotContents, Snapshots, read_file};
use super::wal::WalOptions;
use crate::limits;
use crate::limits::{RESTORE_SKIP, RESTORE_SPREAD};
use crate::members;
use crate::mutants::{Mutant, is_planted};
use crate::peer_url::PeerUrl;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Id of the new cluster.
    pub cluster: u64,
    /// Id of the cluster that the file came from.
    pub from_cluster: u64,
    /// The index of the file.
    pub from_index: u64,
    /// The index at which the new cluster begins.
    pub index: u64,
    /// Entries of the map.
    pub entries: u64,
}

/// What to restore, and where.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The snapshot.
    pub file: &'a Path,
    /// The data directory to make.
    pub dir: &'a DataDir,
    /// All first members of the new cluster, at least one. The directory will be that of the lowest id.
    pub list: &'a BTreeMap<u64, PeerUrl>,
    /// Sizes of the WAL's parts.
    pub options: WalOptions,
}

/// Makes a data directory from a snapshot, which is read from `source`. `progress` is told how many bytes are done and of
/// how many; the file is read twice, and nothing is touched before it was checked to its end. Durable on return.
pub fn restore(
    source: &dyn Disk,
    plan: Plan<'_>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Restored, StorageError> {
    let Plan {
        file,
        dir,
        list,
        options,
    } = plan;
    let member = *list.keys().next().expect("a cluster has a member");
    check_vacant(dir)?;
    let mut checked = SnapshotContents::default();
    let told = |done, total| progress(done, 2 * total);
    read_file(source, file, &mut checked, |_, _, _| Ok(()), told)?;
    let from_index = checked.header.index;
    let index = first_index(file, from_index, dir.disk().random()?)?;
    let _lock = dir.lock()?;
    // Whoever was quicker may have made something meanwhile.
    check_vacant(dir)?;
    let given = Given {
        url: list.get(&member).cloned(),
        list: list.clone(),
        ..Given::default()
    };
    let meta = Meta::create_restoring(dir, member, members::cluster_id, given)?;
    let cluster = meta.cluster();
    let meta = Arc::new(meta);
    clear_parts(dir)?;
    let first = first_snapshot(&meta, list, index);
    let snapshots = Arc::new(Snapshots::new(dir));
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
    complete(dir, meta, &snapshots, options, Some((first, bytes)))?;
    Ok(Restored {
        cluster,
        from_cluster: checked.header.cluster,
        from_index,
        index,
        entries: copied.entries,
    })
}

/// Where a cluster begins that is restored from a file of this index.
fn first_index(file: &Path, from: u64, random: u64) -> Result<u64, StorageError> {
    let most = limits::RESTORED_INDEX_MAX - RESTORE_SKIP - RESTORE_SPREAD;
    if from > most {
        let why = format!(
            "its index is {from}, and a restore goes on from {most} at most, for the indexes that follow have to stay \
             exact in JSON"
        );
        return Err(StorageError::corrupt(file, 16, &why));
    }
    match is_planted(Mutant::RestoredIndexTooLow) {
        true => Ok(from),
        false => Ok(from + RESTORE_SKIP + random % RESTORE_SPREAD),
    }
}

/// Refuses a directory in which anything is but the lock and what a restore that was killed left.
fn check_vacant(dir: &DataDir) -> Result<(), StorageError> {
    let not_empty = |what: &str| StorageError::NotEmpty {
        path: dir.path().join(what),
    };
    let restoring = match Meta::load(dir) {
        Ok(None) => false,
        Ok(Some(meta)) if meta.is_restoring() => true,
        Err(StorageError::Io(error)) => return Err(error.into()),
        // Whatever it is, somebody may still want it.
        _ => return Err(not_empty("meta")),
    };
    for name in dir.disk().list(dir.path())? {
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
