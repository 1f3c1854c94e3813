//! `raftkvd restore`: makes the data directory of a *new* cluster's first member from a snapshot. See
//! `storage::restore`.

use super::Quit;
use super::values::{parse_cluster, parse_peer_url};
use crate::logging::progress::{ProgressReport, Unit};
use crate::peer_url::PeerUrl;
use crate::storage::inspect::{self, FileKind, keys};
use crate::storage::restore::{Plan, restore};
use crate::storage::{self, DataDir, ReadOnlyDisk, RealDisk, StorageError};
use slog::Logger;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The options of a restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The snapshot.
    pub file: PathBuf,
    /// The data directory to make.
    pub data_dir: PathBuf,
    /// Peer URLs of the new cluster's first members, by id from 1.
    pub cluster: BTreeMap<u64, PeerUrl>,
}

/// Checks the options of a restore.
pub(super) fn check(
    file: PathBuf,
    id: u64,
    cluster: Option<String>,
    peer_url: Option<String>,
    data_dir: Option<PathBuf>,
) -> Result<RestoreOptions, Quit> {
    if file == Path::new("-") {
        let line = "restore reads no pipe: write the backup to a file first, and name the file";
        return Err(Quit::Usage(line.to_owned()));
    }
    match file.metadata() {
        Ok(found) if found.is_file() => {}
        Ok(found) if !found.is_dir() => {
            let line = format!(
                "{} is not a regular file, and restore reads no pipe: write the backup to a file first, and name the file",
                file.display()
            );
            return Err(Quit::Usage(line));
        }
        Ok(_) => {
            let line = format!(
                "{} is not a regular file; name a backup, or a file of snap/ in a data directory",
                file.display()
            );
            return Err(Quit::Usage(line));
        }
        Err(error) => {
            return Err(Quit::Usage(format!(
                "can't read {}: {error}; name a backup, or a file of snap/ in a data directory",
                file.display()
            )));
        }
    }
    // `--cluster` and `--peer-url` mean the same as for the daemon.
    let cluster = match (cluster, peer_url) {
        (Some(_), Some(_)) => {
            let line = "--cluster and --peer-url (or RAFTKVD_CLUSTER and RAFTKVD_PEER_URL) are both given; leave out one";
            return Err(Quit::Usage(line.to_owned()));
        }
        (None, Some(url)) => {
            let url = parse_peer_url(&url);
            let url = url.map_err(|why| Quit::Usage(format!("--peer-url: {why}")))?;
            BTreeMap::from([(1, url)])
        }
        (cluster, None) => {
            let cluster = cluster.as_deref().unwrap_or("http://127.0.0.1:9021");
            parse_cluster(cluster).map_err(Quit::Usage)?
        }
    };
    if id != 1 {
        return Err(Quit::Usage(format!(
            "--id {id}: a restore makes the data directory of member 1 only; start the other members with empty data \
             directories and the same --cluster, and member 1 sends them all keys"
        )));
    }
    let kind = inspect::kind(&ReadOnlyDisk, &file);
    // An empty file can be a backup that was cut: `restore` calls such a file corrupt.
    let has_bytes = file.metadata().is_ok_and(|found| found.len() > 0);
    if has_bytes && !matches!(kind, Err(_) | Ok(Some(FileKind::Snapshot))) {
        return Err(Quit::Usage(format!(
            "{} does not start like a snapshot, so it is no backup of raftkvd; name a backup, or a file of snap/ in a data \
             directory",
            file.display()
        )));
    }
    Ok(RestoreOptions {
        file,
        data_dir: data_dir.unwrap_or_else(|| PathBuf::from("raftkvd-1")),
        cluster,
    })
}

/// Restores member 1. Returns the text to print.
pub fn run(settings: &RestoreOptions, logger: &Logger) -> Result<String, StorageError> {
    let RestoreOptions {
        file,
        data_dir,
        cluster,
    } = settings;
    let disk = Arc::new(RealDisk);
    let plan = Plan {
        file,
        dir: &DataDir::new(disk, data_dir),
        list: cluster,
        options: storage::WalOptions::default(),
    };
    let mut progress = ProgressReport::of_command("restoring", Unit::Bytes, logger);
    let told = |done, total| progress.at(done, total);
    let restored = restore(&ReadOnlyDisk, plan, told);
    drop(progress);
    let restored = restored?;
    restored.exposed.tell(data_dir, logger);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(id: u64, cluster: Option<&str>) -> Result<RestoreOptions, Quit> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"rkvdsnap").unwrap();
        let cluster = cluster.map(str::to_owned);
        check(file.path().to_owned(), id, cluster, None, None)
    }

    #[test]
    fn only_member_1_is_restored() {
        let settings_of_1 = settings(1, Some("http://a:1,http://a:2")).unwrap();
        assert_eq!(settings_of_1.cluster.len(), 2);
        assert_eq!(settings_of_1.data_dir, PathBuf::from("raftkvd-1"));
        assert_eq!(settings(1, None).unwrap().cluster.len(), 1);
        match settings(2, Some("http://a:1,http://a:2")) {
            Err(Quit::Usage(line)) => {
                assert!(line.contains("directory of member 1 only"), "{line}");
                assert!(line.contains("with empty data directories"), "{line}");
                assert!(!line.contains('\n'));
            }
            other => panic!("{other:?}"),
        }
    }
}
