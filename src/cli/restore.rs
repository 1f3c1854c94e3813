//! `raftkvd restore`: makes the data directory of a *new* cluster's first member from a snapshot. See
//! `storage/restore.rs`.

use crate::logging::progress::{Progress, Unit};
use crate::peer_url::PeerUrl;
use crate::storage::inspect::keys;
use crate::storage::restore::{Plan, restore};
use crate::storage::{self, Disk, ReadOnlyDisk, RealDisk, StorageError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The snapshot.
    pub file: PathBuf,
    /// The data directory to make.
    pub data_dir: PathBuf,
    /// Peer URLs of the new cluster's first members, by id from 1.
    pub cluster: BTreeMap<u64, PeerUrl>,
}

/// Restores member 1. Gives what to print.
pub fn run(settings: &Settings) -> Result<String, StorageError> {
    let Settings {
        file,
        data_dir,
        cluster,
    } = settings;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let plan = Plan {
        file,
        dir: data_dir,
        list: cluster,
        options: storage::Options::default(),
    };
    let mut progress = Progress::of_command("restoring", Unit::Bytes);
    let told = |done, total| progress.at(done, total);
    let restored = restore(&ReadOnlyDisk, &disk, plan, told);
    drop(progress);
    let restored = restored?;
    let next = match cluster.len() {
        1 => "start it now",
        2 => {
            "start it with the same --cluster, and the other one empty with the same --cluster: member 1 sends it \
             everything"
        }
        _ => {
            "start it with the same --cluster, and the others empty with the same --cluster: member 1 sends them \
             everything"
        }
    };
    Ok(format!(
        "restored {}: member 1 of the new cluster {:016x}, {} as of index {} of cluster {:016x}; it goes on at index {}; \
         {next}\n",
        data_dir.display(),
        restored.cluster,
        keys(restored.entries),
        restored.from_index,
        restored.from_cluster,
        restored.index,
    ))
}
