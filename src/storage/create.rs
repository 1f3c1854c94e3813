//! The first start: creates the parts of a data directory, in the order of rule 6 of [`storage`](super). A restore ends
//! with the same steps.

use super::beginning::{Beginning, Start};
use super::data_dir::{DataDir, LOST_AND_FOUND};
use super::disk::DiskError;
use super::error::StorageError;
use super::log_index::LogIndex;
use super::meta::Meta;
use super::snapshot::Snapshots;
use super::state::{Mark, Recovered, SnapshotMeta};
use super::wal::{self, Wal, WalOptions};
use crate::command::ReplicatedState;
use crate::members::{Members, cluster_id};
use crate::peer_url::PeerUrl;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Creates a data directory. A crash leaves either a directory in which the next start repeats the first start, or a
/// complete directory.
pub(super) fn first_start(
    dir: &DataDir,
    beginning: Beginning,
    snapshots: &Arc<Snapshots>,
    options: WalOptions,
) -> Result<(Arc<Meta>, Wal, Recovered), StorageError> {
    let Beginning {
        member,
        start,
        given,
    } = beginning;
    let list = match &start {
        Start::First(list) => Some(list),
        // `check_start` has refused `Existing`.
        Start::Empty | Start::Existing(_) => None,
    };
    let cluster = if list.is_some() { cluster_id } else { |_| 0 };
    let meta = Meta::create(dir, member, cluster, given)?;
    let meta = Arc::new(meta);
    clear_parts(dir)?;
    let snapshot = match list {
        Some(list) => {
            let snapshot = first_snapshot(&meta, list, 1);
            let bytes = snapshots.write(&snapshot, meta.cluster(), std::iter::empty())?;
            Some((snapshot, bytes))
        }
        None => None,
    };
    complete(dir, meta, snapshots, options, snapshot)
}

/// Creates `wal/` and `snap/`, or empties them: their files are leftovers of a first start or of a restore that did not
/// complete. Durable on return.
pub(super) fn clear_parts(dir: &DataDir) -> Result<(), DiskError> {
    let disk = dir.disk();
    for part in [dir.wal_path(), dir.snap_path()] {
        disk.create_dir_all(&part)?;
        for name in disk.list(&part)? {
            if name != LOST_AND_FOUND {
                disk.remove(&part.join(name))?;
            }
        }
        disk.sync_dir(&part)?;
    }
    disk.sync_dir(dir.path())
}

/// The last steps of a first start: creates the WAL, which marks the first snapshot, and then sets the state in `meta`
/// to "in use". `snapshot` has the first snapshot and the size of its file in bytes.
pub(super) fn complete(
    dir: &DataDir,
    meta: Arc<Meta>,
    snapshots: &Arc<Snapshots>,
    options: WalOptions,
    snapshot: Option<(SnapshotMeta, u64)>,
) -> Result<(Arc<Meta>, Wal, Recovered), StorageError> {
    let mut recovered = Recovered::default();
    let mut state = wal::WalState::default();
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
    recovered.log_index = Some(LogIndex::new(index, term));
    let wal = Wal::create(dir, meta.clone(), snapshots.clone(), options, state)?;
    meta.complete_first_start()?;
    Ok((meta, wal, recovered))
}

/// The first state of a new cluster, as a snapshot at `index` in term 1. The only member in it is the member that
/// `meta` belongs to.
pub(super) fn first_snapshot(
    meta: &Meta,
    list: &BTreeMap<u64, PeerUrl>,
    index: u64,
) -> SnapshotMeta {
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
