//! Creates the data directory of a new cluster's first member from a snapshot file.
//!
//! A restore is a first start with a different first snapshot:
//! - The map, with its ETags, is that of the file.
//! - The index is far above the index of the file, by [`limits::RESTORE_SKIP`] and a random part. The term is 1. No
//!   index is therefore used twice: neither an index that the old cluster used after the backup, nor an index of
//!   another restore of the same file.
//! - The first member is the only member. The other first members start empty and get the map from it, as in every new
//!   cluster.
//! - There are no sessions and no removed ids, since those belong to members of the old cluster.
//! - The cluster id follows from the incarnation of the new directory. Members of the old cluster, and of any other
//!   restored cluster, are therefore refused.
//!
//! The order is: check the file, set the state in `meta` to "restoring", remove leftovers. Then make the snapshot
//! durable, make the WAL with its mark durable, and set the state to "in use". A restore that is killed after it has
//! set the first state leaves a directory that a start refuses, since that start would have an empty map. Another
//! restore starts from the first step.

use super::create::{clear_parts, complete, first_snapshot};
use super::data_dir::{DataDir, LEFT_BY_NOBODY};
use super::disk::Disk;
use super::error::StorageError;
use super::meta::{Given, Meta};
use super::private::Exposed;
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

/// The result of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Id of the new cluster.
    pub cluster: u64,
    /// Id of the cluster that wrote the file.
    pub from_cluster: u64,
    /// The index of the file.
    pub from_index: u64,
    /// The first index of the new cluster.
    pub index: u64,
    /// Number of entries of the map.
    pub entries: u64,
    /// What other users can read.
    pub exposed: Exposed,
}

/// The source and the target of a restore.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The snapshot file.
    pub file: &'a Path,
    /// The data directory to create.
    pub dir: &'a DataDir,
    /// All first members of the new cluster, at least one. The directory belongs to the member with the lowest id.
    pub list: &'a BTreeMap<u64, PeerUrl>,
    /// WAL sizes.
    pub options: WalOptions,
}

/// Creates a data directory from a snapshot file, which is read from `source`. Reads the file twice, and writes nothing
/// until the first pass has checked it completely. Reports the bytes done and the total bytes of both passes to
/// `progress`. Durable on return.
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
    dir.check_private()?;
    check_vacant(dir)?;
    let mut checked = SnapshotContents::default();
    let told = |done, total| progress(done, 2 * total);
    read_file(source, file, &mut checked, |_, _, _| Ok(()), told)?;
    let from_index = checked.header.index;
    let index = first_index(file, from_index, dir.disk().random()?)?;
    let _lock = dir.lock()?;
    let exposed = dir.make_private()?;
    // Before the lock was taken, another process may have created files.
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
        exposed,
    })
}

/// The first index of a cluster that is restored from a file with index `from`.
fn first_index(file: &Path, from: u64, random: u64) -> Result<u64, StorageError> {
    let most = limits::RESTORED_INDEX_MAX - RESTORE_SKIP - RESTORE_SPREAD;
    if from > most {
        let why = format!(
            "its index is {from}, and a restore accepts at most {most}: the indexes that follow have to stay \
             exact in JSON"
        );
        return Err(StorageError::corrupt(file, 16, &why));
    }
    match is_planted(Mutant::RestoredIndexTooLow) {
        true => Ok(from),
        false => Ok(from + RESTORE_SKIP + random % RESTORE_SPREAD),
    }
}

/// Refuses a directory that contains anything except the lock and the leftovers of a killed restore.
fn check_vacant(dir: &DataDir) -> Result<(), StorageError> {
    // The names come before `meta`. Another restore that starts meanwhile writes `meta` first, so a name of its files is
    // found here only if its `meta` is found below, and the lock decides between the two.
    let names = dir.disk().list(dir.path())?;
    let not_empty = |what: &str| StorageError::NotEmpty {
        path: dir.path().join(what),
    };
    let restoring = match Meta::load(dir) {
        Ok(None) => false,
        Ok(Some(meta)) if meta.is_restoring() => true,
        Err(StorageError::Io(error)) => return Err(error.into()),
        // `meta` may still be needed, whatever its contents are.
        _ => return Err(not_empty("meta")),
    };
    for name in names {
        let ours = match name.as_str() {
            name if LEFT_BY_NOBODY.contains(&name) => true,
            "meta" | "wal" | "snap" => restoring,
            _ => false,
        };
        if !ours {
            return Err(not_empty(&name));
        }
    }
    Ok(())
}
