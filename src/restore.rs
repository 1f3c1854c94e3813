//! `raftkvd restore`: makes the data directory of a *new* cluster's member from a snapshot. See `storage/restore.rs`.

use crate::members::{Members, PeerUrl};
use crate::progress::{Progress, Unit};
use crate::storage::examine::keys;
use crate::storage::restore::{Plan, restore};
use crate::storage::{self, Disk, ReadOnlyDisk, RealDisk, StorageError};
use std::path::PathBuf;
use std::sync::Arc;

/// What to restore, and for whom.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The snapshot.
    pub file: PathBuf,
    /// The data directory to make.
    pub data_dir: PathBuf,
    /// The member whose directory it will be, at least 1.
    pub id: u64,
    /// Peer URLs of the new cluster: the i-th (from 1) is that of member i.
    pub cluster: Vec<PeerUrl>,
}

/// Restores one member. Gives what to print.
pub fn run(settings: &Settings) -> Result<String, StorageError> {
    let Settings { data_dir, id, .. } = settings;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let plan = Plan {
        file: &settings.file,
        dir: data_dir,
        member: *id,
        members: &Members::initial(&settings.cluster),
        options: storage::Options::default(),
    };
    let mut progress = Progress::of_command("restoring", Unit::Bytes);
    let told = |done, total| progress.at(done, total);
    let restored = restore(&ReadOnlyDisk, &disk, plan, told);
    drop(progress);
    let restored = restored?;
    let others = match settings.cluster.len() {
        1 => "start it now".to_owned(),
        2 => "restore the other from the same file with the same --cluster, then start both"
            .to_owned(),
        n => format!(
            "restore the other {} from the same file with the same --cluster, then start all",
            n - 1
        ),
    };
    Ok(format!(
        "restored {}: member {id} of the new cluster {:016x}, {} as of index {} of cluster {:016x}; {others}\n",
        data_dir.display(),
        restored.cluster,
        keys(restored.entries),
        restored.index,
        restored.from_cluster,
    ))
}
